use super::*;
use crate::config::WhenFull;
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
                ..config::Outbox::default()
            },
            drops: Vec::new(),
        }
    }

    fn push(&mut self, bytes: &[u8], meta: Meta<'_>) -> Result<(), Full> {
        self.push_frame(bytes, None, meta)
    }

    fn push_shared(&mut self, bytes: &Bytes, meta: Meta<'_>) -> Result<(), Full> {
        self.push_frame(bytes, Some(bytes), meta)
    }

    fn push_frame(
        &mut self,
        payload: &[u8],
        whole: Option<&Bytes>,
        meta: Meta<'_>,
    ) -> Result<(), Full> {
        let drops = &mut self.drops;
        let frame = Frame {
            head: Head::default(),
            payload,
            whole,
        };
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

fn plain() -> Meta<'static> {
    Meta::default()
}

fn prio(priority: Priority) -> Meta<'static> {
    Meta {
        priority,
        ..plain()
    }
}

fn key(key: &Arc<str>) -> Meta<'_> {
    Meta {
        conflation: Some(key),
        ..plain()
    }
}

fn control() -> Meta<'static> {
    Meta {
        kind: Kind::Control,
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
    let k: Arc<str> = "k".into();
    fix.push(b"first", key(&k)).unwrap();
    let address = {
        let mut drop = |_, _| {};
        fix.outbox.freeze(&mut fix.pool, NOW, &mut drop).as_ptr()
    };
    for _ in 0..5 {
        fix.push(b"newer", key(&k)).unwrap();
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
fn a_shared_frame_is_sent_from_where_it_is_between_its_neighbours() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    let whole = Bytes::from_static(b"shared");
    fix.push(b"before", plain()).unwrap();
    fix.push_shared(&whole, plain()).unwrap();
    fix.push_shared(&whole, plain()).unwrap();
    fix.push(b"behind", plain()).unwrap();
    assert_eq!(fix.pool.bytes(), 24);

    assert_eq!(fix.freeze(), b"before");
    assert!(fix.sent(6).goes_on);
    let address = {
        let mut drop = |_, _| {};
        fix.outbox.freeze(&mut fix.pool, NOW, &mut drop).as_ptr()
    };
    assert_eq!(address, whole.as_ptr());
    let part = fix.sent(2);
    assert!(!part.goes_on && !part.landed, "the kernel is full");
    assert_eq!(fix.freeze(), b"ared");
    assert!(fix.sent(4).goes_on);
    assert_eq!(fix.freeze(), b"shared");
    assert!(fix.sent(6).goes_on);
    assert_eq!(fix.freeze(), b"behind");
    let sent = fix.sent(6);
    assert_eq!(
        (sent.landed, sent.messages),
        (true, 1),
        "the others were told"
    );
    assert_eq!(fix.pool.bytes(), 0);
}

#[test]
fn what_has_left_between_shared_frames_is_written_though_the_rest_is_not() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    let whole = Bytes::from_static(b"shared");
    fix.push(b"one", plain()).unwrap();
    fix.push(b"two", plain()).unwrap();
    fix.push_shared(&whole, plain()).unwrap();
    fix.push(b"last", plain()).unwrap();
    fix.freeze();
    assert_eq!(fix.sent(6).messages, 2);
    fix.freeze();
    assert_eq!(fix.sent(6).messages, 1);
    assert_eq!(fix.outbox.load().0, 1);
    let mut lost = 0;
    fix.outbox.clear(&mut fix.pool, &mut |_, _| lost += 1);
    assert_eq!(lost, 1);
}

#[test]
fn newest_wins_per_conflation_key() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    fix.push(b"a1", key(&a)).unwrap();
    fix.push(b"b1", key(&b)).unwrap();
    fix.push(b"a2", key(&a)).unwrap();
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

/// A ping would otherwise cost a slow client a message, or be the one too many.
#[test]
fn a_control_frame_neither_displaces_a_message_nor_is_lost() {
    for when_full in [WhenFull::Close, WhenFull::DropOldest] {
        let mut fix = Fixture::new(2, when_full);
        fix.push(b"l", prio(Priority::Low)).unwrap();
        fix.push(b"n", prio(Priority::Normal)).unwrap();
        fix.push(b"p", control()).unwrap();
        assert_eq!(fix.outbox.load().0, 2);
        assert_eq!(fix.freeze(), b"lnp");
        assert_eq!(fix.drops, []);
        assert_eq!(fix.sent(3).messages, 2);
    }
}

#[test]
fn a_control_frame_takes_no_room_from_messages() {
    let mut fix = Fixture::new(2, WhenFull::Close);
    fix.push(b"p", control()).unwrap();
    fix.push(b"1", plain()).unwrap();
    fix.push(b"2", plain()).unwrap();
    assert_eq!(fix.push(b"3", plain()), Err(Full));
    assert_eq!(fix.freeze(), b"p12");
}

#[test]
fn control_frames_that_nobody_reads_are_bounded() {
    let mut fix = Fixture::new(2, WhenFull::DropOldest);
    for _ in 0..MOST_CONTROL {
        fix.push(b"p", control()).unwrap();
    }
    assert_eq!(fix.push(b"p", control()), Err(Full));
    let last = Meta {
        kind: Kind::Last,
        ..plain()
    };
    fix.push(b"close", last).unwrap();
}

/// Nothing is sent, and the key comes again and again: the outbox must not keep what it has dropped.
#[test]
fn a_key_that_comes_again_and_again_takes_the_memory_of_a_few() {
    let mut fix = Fixture::new(10, WhenFull::Close);
    let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
    fix.push(b"stuck", plain()).unwrap();
    fix.freeze();
    fix.push(b"keyless", plain()).unwrap();
    for round in 0..10_000 {
        fix.push(format!("{round:05}").as_bytes(), key(&a)).unwrap();
        fix.push(format!("{round:05}").as_bytes(), key(&b)).unwrap();
    }
    assert!(fix.outbox.memory() < 4096, "{}", fix.outbox.memory());
    fix.sent(5);
    assert_eq!(fix.freeze(), b"keyless0999909999");
    assert_eq!(fix.drops.len(), 2 * 9_999);
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
        let key: Arc<str> = "key".into();
        let (mut taken, mut written, mut received) = (0, 0, Vec::new());
        for (number, (step, priority, len)) in steps.into_iter().enumerate() {
            if step < 4 {
                let frame = vec![number as u8; len];
                let priority = [Priority::Low, Priority::Normal, Priority::High][priority as usize];
                let meta = Meta {
                    conflation: (step == 3).then_some(&key),
                    ..prio(priority)
                };
                let pushed = if number % 3 == 0 {
                    fix.push_shared(&frame.into(), meta)
                } else {
                    fix.push(&frame, meta)
                };
                taken += usize::from(pushed.is_ok());
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
