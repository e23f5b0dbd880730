//! What becomes of commands when connections break, end or are replaced.

use gateway_proto::v1::{Hello, Resume};

use super::*;
use crate::core::returned::ReturnReason;

const TOKEN: u64 = 70;

/// A stream to a gateway that can resume, and what it has not sent.
struct World {
    stream: Stream,
    buffer: Buffer,
    run: u64,
    receipts: Receipts<()>,
}

/// What the stream has put out, by kind.
#[derive(Debug, Default)]
struct Told {
    returned: Vec<(u64, ReturnReason)>,
    settled: Vec<Answer>,
    notices: Vec<What>,
    events: Vec<(u64, u64)>,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Rules)) -> Self {
        let mut stream = stream();
        change(&mut stream.rules);
        let mut world = Self {
            stream,
            buffer: Buffer::new(BOUNDS),
            run: 0,
            receipts: Receipts::new(),
        };
        world.greet(SECOND);
        world.welcomed(SECOND, Resume::New, 0, TOKEN);
        world.told();
        world
    }

    fn greet(&mut self, now: Duration) -> Hello {
        if !self.stream.is_open() {
            self.stream.connect();
        }
        let (run, frame) = self.stream.connected(now, expected());
        self.run = run;
        match frame.body {
            Some(Body::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    fn try_welcome(
        &mut self,
        now: Duration,
        resume: Resume,
        last_sequence: u64,
        resume_token: u64,
    ) -> Result<usize, GatewayError> {
        let mut welcome = Welcome {
            last_sequence,
            resume_token,
            ..welcome()
        };
        welcome.set_resume(resume);
        let frame = up(Up::Welcome(welcome));
        self.stream.receive(now, self.run, frame, 1)
    }

    fn welcomed(&mut self, now: Duration, resume: Resume, last_sequence: u64, token: u64) {
        self.try_welcome(now, resume, last_sequence, token).unwrap();
    }

    /// Pushes these, and sends all there is; gives the numbers.
    fn send(&mut self, now: Duration, stamps: std::ops::Range<u64>) -> Vec<u64> {
        for stamp in stamps {
            let _ = self.buffer.append(item(stamp));
        }
        self.send_rest(now)
    }

    fn send_confirmed(&mut self, now: Duration, stamp: u64) {
        let ticket = self.receipts.open((), false);
        let _ = self.buffer.append(item(stamp).with_ticket(ticket));
        self.send_rest(now);
    }

    fn send_rest(&mut self, now: Duration) -> Vec<u64> {
        let mut numbers = self.resend(now, usize::MAX);
        let frames = send(&mut self.stream, now, &mut self.buffer, usize::MAX);
        numbers.extend(frames.iter().map(|frame| frame.sequence));
        numbers
    }

    fn resend(&mut self, now: Duration, room: usize) -> Vec<u64> {
        let mut frames = Vec::new();
        self.stream
            .resend(now, room, |out| frames.extend(out.frames()));
        frames.iter().map(|frame| frame.sequence).collect()
    }

    fn ack(&mut self, run: u64, sequence: u64) {
        let ack = up(Up::Ack(Ack { sequence }));
        assert_eq!(self.stream.receive(SECOND, run, ack, 1), Ok(1));
    }

    fn receipt(&mut self, run: u64, sequence: u64) {
        let receipt = WireReceipt {
            sequence,
            ..WireReceipt::default()
        };
        let frame = up(Up::Receipt(receipt));
        assert_eq!(self.stream.receive(SECOND, run, frame, 1), Ok(1));
    }

    fn event(&mut self, run: u64, id: u64) {
        let message = ClientMessage {
            id,
            ..ClientMessage::default()
        };
        let frame = up(Up::Message(message));
        self.stream.receive(SECOND, run, frame, 1).unwrap();
    }

    fn ends(&mut self, now: Duration, run: u64, ending: Ending) {
        let error = lost();
        self.stream.lost(now, run, Loss { error, ending });
    }

    /// Passes outputs on as a runner does.
    fn told(&mut self) -> Told {
        let mut told = Told::default();
        while let Some(output) = self.stream.poll_output() {
            match output {
                Output::Event { run, id, .. } => told.events.push((run, id)),
                Output::Settled(_, answer) => told.settled.push(answer),
                Output::Returned(item, reason) => told.returned.push((item.stamp.order, reason)),
                Output::Unsent(items) => self.buffer.put_back(items),
                Output::Notice(what) => told.notices.push(what),
                Output::Answered(..) | Output::Directory { .. } => panic!("not asked for"),
            }
        }
        self.buffer.release(self.stream.take_released());
        told
    }

    fn waiting(&mut self) -> Vec<u64> {
        let items = self.buffer.drain();
        items.iter().map(|item| item.stamp.order).collect()
    }
}

fn unknown(stamps: impl IntoIterator<Item = u64>) -> Vec<(u64, ReturnReason)> {
    let with_reason = |stamp| (stamp, ReturnReason::Unknown);
    stamps.into_iter().map(with_reason).collect()
}

#[test]
fn a_resumed_stream_sends_again_what_was_not_taken_under_its_old_numbers() {
    let mut world = World::new();
    assert_eq!(world.send(SECOND, 0..5), [1, 2, 3, 4, 5]);
    world.ack(1, 1);
    world.ends(SECOND, 1, Ending::Broken);
    assert_eq!(world.told().returned, []);
    let hello = world.greet(SECOND * 2);
    assert_eq!(
        (hello.resume_token, hello.gateway_epoch),
        (TOKEN, 5),
        "what the Welcome before gave"
    );
    world.welcomed(SECOND * 2, Resume::Resumed, 3, TOKEN + 1);
    assert_eq!(world.send(SECOND * 2, 5..6), [4, 5, 6]);
    world.ack(2, 6);
    assert_eq!(world.told().returned, []);
    let counters = world.stream.counters();
    assert_eq!((counters.sent, counters.acked, counters.resent), (6, 6, 2));
    assert!(world.stream.is_quiet());
    assert_eq!(world.greet(SECOND * 3).resume_token, TOKEN + 1);
}

#[test]
fn a_gateway_that_remembers_nothing_leaves_what_was_sent_unknown() {
    for resume in [Resume::New, Resume::Unknown] {
        let mut world = World::new();
        world.send(SECOND, 0..3);
        world.ack(1, 1);
        world.ends(SECOND, 1, Ending::Broken);
        world.greet(SECOND * 2);
        world.welcomed(SECOND * 2, resume, 0, TOKEN);
        let told = world.told();
        assert_eq!(told.returned, unknown([1, 2]));
        assert!(told.notices.contains(&What::Unknown { count: 2 }));
        assert_eq!(world.send(SECOND * 2, 3..4), [4], "numbers go on");
        assert_eq!(world.stream.counters().unknown, 2);
    }
}

#[test]
fn after_a_takeover_the_old_connection_still_answers() {
    let mut world = World::new();
    world.send_confirmed(SECOND, 0);
    world.send(SECOND, 1..4);
    world.event(1, 1);
    let hello = world.greet(SECOND);
    assert_eq!((hello.last_event, hello.resume_token), (1, TOKEN));
    assert_eq!(world.stream.open_run(), Some(1), "until Welcome");
    assert_eq!(world.send(SECOND, 4..5), [5]);
    world.welcomed(SECOND, Resume::Resumed, 3, TOKEN + 1);
    assert_eq!(world.stream.open_run(), Some(2));
    assert_eq!(world.send_rest(SECOND), [4, 5]);
    // Both bring what was on its way.
    world.event(1, 2);
    world.event(2, 2);
    world.event(2, 3);
    world.event(1, 3);
    world.receipt(1, 1);
    world.ends(SECOND, 1, Ending::Replaced);
    let told = world.told();
    assert_eq!(told.events, [(1, 1), (1, 2), (2, 3)]);
    assert_eq!((told.settled.len(), told.returned.len()), (1, 0));
    assert_eq!(told.notices, [What::Replaced]);
    world.ack(2, 5);
    assert!(world.stream.is_quiet());
    assert_eq!(world.stream.counters().shared_sessions, 0);
}

#[test]
fn after_a_clean_end_what_is_not_acknowledged_goes_back_in_front() {
    let mut world = World::new();
    world.send(SECOND, 0..4);
    world.ack(1, 2);
    for stamp in 4..6 {
        let _ = world.buffer.append(item(stamp));
    }
    world.ends(SECOND, 1, Ending::Clean);
    let told = world.told();
    assert_eq!(told.returned, []);
    assert_eq!(world.waiting(), [2, 3, 4, 5]);
    assert_eq!(world.stream.counters().not_taken, 2);
}

#[test]
fn without_resume_what_a_clean_end_leaves_is_unknown() {
    let mut world = World::with(|rules| rules.resume = false);
    world.send(SECOND, 0..3);
    world.ack(1, 1);
    world.ends(SECOND, 1, Ending::Clean);
    let counters = world.stream.counters();
    assert_eq!((counters.unknown, counters.not_taken), (2, 0));
    assert!(world.told().notices.contains(&What::Unknown { count: 2 }));
}

#[test]
fn a_shared_session_is_left() {
    // The gateway has taken more than was sent; refuses the session; replaces the stream by one of
    // somebody else.
    for sign in 0..3 {
        let mut world = World::new();
        world.send(SECOND, 0..2);
        match sign {
            0 => {
                world.ends(SECOND, 1, Ending::Broken);
                world.greet(SECOND * 2);
                let refused = world.try_welcome(SECOND * 2, Resume::Resumed, 3, TOKEN);
                assert!(refused.is_err());
                world.ends(SECOND * 2, 2, Ending::Broken);
            }
            1 => {
                world.ends(SECOND, 1, Ending::Broken);
                world.greet(SECOND * 2);
                world.ends(SECOND * 2, 2, Ending::Refused);
            }
            _ => world.ends(SECOND, 1, Ending::Replaced),
        }
        let told = world.told();
        assert_eq!(told.returned, unknown([0, 1]));
        assert!(told.notices.contains(&What::SharedSession));
        let hello = world.greet(SECOND * 3);
        assert_eq!(hello.session_id[..], [9; 16]);
        assert_eq!(hello.resume_token, 0);
    }
}
