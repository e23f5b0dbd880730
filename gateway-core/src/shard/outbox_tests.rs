use super::*;
use proptest::prelude::*;

const NOW: Duration = Duration::from_secs(1);

struct Fixture {
    outbox: Outbox,
    pool: Pool,
    limits: config::Outbox,
    drops: Vec<Outcome>,
}

impl Fixture {
    fn new(max_messages: usize, when_full: WhenFull) -> Self {
        Self {
            outbox: Outbox::default(),
            pool: Pool::default(),
            limits: config::Outbox {
                max_bytes: 1000,
                max_messages,
                when_full,
            },
            drops: Vec::new(),
        }
    }

    fn push(&mut self, frame: &[u8], meta: Meta) -> Result<(), Full> {
        let drops = &mut self.drops;
        self.outbox.push(
            &mut self.pool,
            &self.limits,
            NOW,
            frame,
            meta,
            &mut |_, outcome| {
                drops.push(outcome);
            },
        )
    }

    fn freeze(&mut self) -> Vec<u8> {
        let drops = &mut self.drops;
        let mut drop = |_, outcome| drops.push(outcome);
        self.outbox.freeze(&mut self.pool, NOW, &mut drop).to_vec()
    }

    fn sent(&mut self, n: usize) -> Sent {
        self.outbox.sent(&mut self.pool, n, &mut |_, _| {})
    }
}

fn plain() -> Meta {
    Meta {
        expires_ms: u64::MAX,
        ..Meta::default()
    }
}

fn prio(priority: Priority) -> Meta {
    Meta {
        priority,
        ..plain()
    }
}

fn key(key: &str) -> Meta {
    Meta {
        conflation: Some(key.into()),
        ..plain()
    }
}

#[test]
fn all_pending_frames_leave_in_one_send_in_order() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    for frame in [b"a", b"b", b"c"] {
        fix.push(frame, plain()).unwrap();
    }
    assert_eq!(fix.freeze(), b"abc");
    let sent = fix.sent(3);
    assert_eq!((sent.landed, sent.messages), (true, 3));
    assert!(fix.outbox.is_empty());
    assert_eq!(fix.pool.bytes(), 0);
}

#[test]
fn bytes_in_flight_stay_put_while_newer_frames_come() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    fix.push(b"first", key("k")).unwrap();
    let address = {
        let mut drop = |_, _| {};
        fix.outbox.freeze(&mut fix.pool, NOW, &mut drop).as_ptr()
    };
    for _ in 0..5 {
        fix.push(b"newer", key("k")).unwrap();
    }
    assert_eq!(
        fix.freeze().len(),
        5,
        "conflation must not touch the flight"
    );
    let again = {
        let mut drop = |_, _| {};
        fix.outbox.freeze(&mut fix.pool, NOW, &mut drop).as_ptr()
    };
    assert_eq!(address, again);
    assert!(!fix.sent(2).landed);
    assert_eq!(fix.freeze(), b"rst");
    assert!(fix.sent(3).landed);
    assert_eq!(fix.freeze(), b"newer");
}

#[test]
fn newest_wins_per_conflation_key() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    fix.push(b"a1", key("a")).unwrap();
    fix.push(b"b1", key("b")).unwrap();
    fix.push(b"a2", key("a")).unwrap();
    assert_eq!(fix.freeze(), b"b1a2");
    assert_eq!(fix.drops, [Outcome::Conflated]);
}

#[test]
fn expired_frames_are_not_sent() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    let old = Meta {
        expires_ms: 1000,
        ..plain()
    };
    fix.push(b"old", old).unwrap();
    fix.push(b"new", plain()).unwrap();
    assert_eq!(fix.freeze(), b"new");
    assert_eq!(fix.drops, [Outcome::Expired]);
}

#[test]
fn low_priority_gives_way_before_the_outbox_is_full() {
    let mut fix = Fixture::new(2, WhenFull::Close);
    fix.push(b"l", prio(Priority::Low)).unwrap();
    fix.push(b"h", prio(Priority::High)).unwrap();
    fix.push(b"n", prio(Priority::Normal)).unwrap();
    assert_eq!(fix.drops, [Outcome::DroppedPriority]);
    assert_eq!(fix.push(b"x", prio(Priority::Normal)), Err(Full));
    fix.push(b"H", prio(Priority::High)).unwrap();
    assert_eq!(fix.freeze(), b"hH");
}

#[test]
fn oldest_go_where_that_is_the_setting() {
    let mut fix = Fixture::new(2, WhenFull::DropOldest);
    for frame in [b"1", b"2", b"3"] {
        fix.push(frame, plain()).unwrap();
    }
    assert_eq!(fix.freeze(), b"23");
    assert_eq!(fix.drops, [Outcome::DroppedSlow]);
}

#[test]
fn bytes_in_flight_count_towards_the_bound() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    fix.push(&[0; 900], plain()).unwrap();
    fix.freeze();
    assert_eq!(fix.push(&[0; 200], plain()), Err(Full));
    fix.sent(500);
    assert_eq!(fix.push(&[0; 200], plain()), Err(Full));
    fix.sent(400);
    fix.push(&[0; 200], plain()).unwrap();
}

proptest! {
    /// Whatever is pushed and however the kernel takes it: every message is written once, in order, or reported once;
    /// the bounds hold; the pool's account ends at zero.
    #[test]
    fn every_message_is_written_once_or_reported_once(
        steps in prop::collection::vec((0_u8..6, 0_u8..3, 1_usize..40), 1..200),
        drop_oldest in any::<bool>(),
    ) {
        let when_full = if drop_oldest { WhenFull::DropOldest } else { WhenFull::Close };
        let mut fix = Fixture::new(8, when_full);
        fix.limits.max_bytes = 120;
        let (mut taken, mut written, mut received) = (0, 0, Vec::new());
        for (number, (step, priority, len)) in steps.into_iter().enumerate() {
            if step < 4 {
                let frame = vec![number as u8; len];
                let priority = [Priority::Low, Priority::Normal, Priority::High][priority as usize];
                let meta = Meta {
                    conflation: (step == 3).then(|| "key".into()),
                    ..prio(priority)
                };
                taken += usize::from(fix.push(&frame, meta).is_ok());
            } else {
                let bytes = fix.freeze();
                let n = bytes.len().min(len);
                received.extend_from_slice(&bytes[..n]);
                written += fix.sent(n).messages as usize;
            }
            prop_assert!(fix.pool.bytes() <= 120);
        }
        loop {
            let bytes = fix.freeze();
            if bytes.is_empty() {
                break;
            }
            received.extend_from_slice(&bytes);
            written += fix.sent(bytes.len()).messages as usize;
        }
        prop_assert_eq!(taken, written + fix.drops.len());
        prop_assert!(received.is_sorted(), "reordered: {:?}", received);
        prop_assert_eq!(fix.pool.bytes(), 0);
    }
}
