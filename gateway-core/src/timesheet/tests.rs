//! A timesheet on a clock that the test moves.

use std::{cell::Cell, rc::Rc};

use super::*;

/// Shows the time that the test sets.
#[derive(Clone, Default)]
struct Hands {
    now: Rc<Cell<Duration>>,
    delay: Rc<Cell<Duration>>,
}

impl Watch for Hands {
    fn now(&self) -> Duration {
        self.now.get()
    }

    fn run_delay(&self) -> Option<Duration> {
        Some(self.delay.get())
    }
}

impl Hands {
    fn pass(&self, micros: u64) {
        self.now.set(self.now.get() + Duration::from_micros(micros));
    }
}

fn started(config: &config::Timesheet) -> (Timesheet, Hands) {
    let sheet = Timesheet::new(config, Arc::new(Metrics::new(0)));
    let hands = Hands::default();
    sheet.start(hands.clone());
    (sheet, hands)
}

impl Timesheet {
    fn micros(&self, phase: Phase) -> u64 {
        self.metrics.time.phases[phase as usize].get() / 1_000
    }

    fn slow(&self) -> Vec<crate::metrics::SlowTick> {
        self.name_slow(|_| Some("link 1.2.3.4:5".to_owned()));
        self.metrics.time.board().slow
    }
}

/// Reads 10 µs (3 of them in the kernel), works 20 (decodes 5), sends 30 (kernel 25), sleeps 40.
fn tick(sheet: &Timesheet, hands: &Hands) {
    sheet.begin(hands.now.get());
    sheet.kernel(|| hands.pass(3));
    hands.pass(7);
    sheet.cross(Seam::Work);
    hands.pass(15);
    sheet.enter(Phase::Decode);
    hands.pass(5);
    sheet.cross(Seam::Flush);
    hands.pass(5);
    sheet.kernel(|| hands.pass(25));
    sheet.end(hands.now.get(), Rest::Sleeps, 1);
    hands.pass(40);
}

#[test]
fn every_nanosecond_is_in_one_phase_though_few_ticks_are_timed_in_detail() {
    let (sheet, hands) = started(&config::Timesheet::default());
    for _ in 0..1_000 {
        tick(&sheet, &hands);
    }
    sheet.begin(hands.now.get());
    let books = sheet.books.borrow();
    let undivided: u64 = books.undivided.iter().sum();
    let phases = sheet.metrics.time.phases.iter().map(|phase| phase.get());
    let sum = Duration::from_nanos(phases.sum::<u64>() + undivided);
    assert_eq!(sum, hands.now.get());
    assert_eq!(sheet.micros(Phase::Parked), 40_000);
    let divided = (100_000 - undivided / 1_000) as f64;
    for (phase, share) in [
        (Phase::Kernel, 0.28),
        (Phase::Ingress, 0.07),
        (Phase::Decode, 0.05),
        (Phase::Other, 0.15),
        (Phase::Egress, 0.05),
    ] {
        let found = sheet.micros(phase) as f64 / divided;
        assert!((found - share).abs() < 0.01, "{phase:?}: {found}");
    }
}

#[test]
fn looking_for_completions_is_not_sleep() {
    let (sheet, hands) = started(&config::Timesheet::default());
    sheet.begin(hands.now.get());
    sheet.end(hands.now.get(), Rest::GoesOn, 0);
    hands.pass(50);
    sheet.begin(hands.now.get());
    assert_eq!(
        (sheet.micros(Phase::Parked), sheet.micros(Phase::Kernel)),
        (0, 50)
    );
}

#[test]
fn without_a_watch_nothing_is_counted() {
    let off = config::Timesheet {
        enabled: false,
        ..config::Timesheet::default()
    };
    let (sheet, hands) = started(&off);
    tick(&sheet, &hands);
    sheet.link(
        LinkId {
            slot: 0,
            generation: 0,
        },
        9,
        9,
    );
    sheet.fanout(&Audience::Everyone, 9, 9);
    assert!(!sheet.is_due(hands.now.get() + Duration::from_secs(9)));
    assert!(
        sheet
            .metrics
            .time
            .phases
            .iter()
            .all(|phase| phase.get() == 0)
    );
    assert_eq!(sheet.metrics.time.commands.get(), 0);
}

#[test]
fn a_slow_tick_names_whoever_brought_most() {
    let (sheet, hands) = started(&config::Timesheet::default());
    let link = LinkId {
        slot: 3,
        generation: 4,
    };
    let topic = Audience::Topic("prices".to_owned());
    let slow = |what: &dyn Fn()| {
        sheet.begin(hands.now.get());
        what();
        hands.pass(25_000);
        sheet.end(hands.now.get(), Rest::Sleeps, 1);
        let slow = sheet.slow().pop();
        let slow = slow.expect("the tick was slow");
        assert_eq!(slow.took_us, 25_000);
        (slow.cause, slow.culprit)
    };
    let (cause, culprit) = slow(&|| {
        sheet.link(link, 100, 0);
        sheet.fanout(&topic, 10_000, 200);
        sheet.fanout(&topic, 10_000, 56);
        sheet.fanout(&Audience::Everyone, 0, 250);
    });
    assert_eq!(cause, Cause::Fanout);
    assert_eq!(culprit, "topic \"prices\" (10000 members): 256 deliveries");
    let (cause, culprit) = slow(&|| {
        sheet.link(link, 10, 1 << 20);
        sheet.lane(2, 300);
        sheet.timers(400);
    });
    assert_eq!(cause, Cause::Link);
    assert_eq!(culprit, "link 1.2.3.4:5: 10 commands, 1048576 bytes");
    let lane = slow(&|| {
        sheet.lane(2, 300);
        sheet.client();
    });
    assert_eq!(lane, (Cause::Lane, "shard 2: 300 commands".to_owned()));
    assert_eq!(slow(&|| sheet.client()).0, Cause::Clients);
    assert_eq!(slow(&|| sheet.timers(1)).0, Cause::Timers);
    let waited = slow(&|| {
        sheet.lane(2, 300);
        sheet.metrics.sends.add(601);
        sheet.metrics.deliveries.add(300);
    });
    let said = "301 sends of what had waited".to_owned();
    assert_eq!(waited, (Cause::Sends, said));
    // A list of users is one command: its sends are the link's doing.
    let (cause, _) = slow(&|| {
        sheet.link(link, 10, 0);
        sheet.metrics.sends.add(601);
        sheet.metrics.deliveries.add(601);
    });
    assert_eq!(cause, Cause::Link);
    assert_eq!(slow(&|| ()).0, Cause::Unknown);
    // The same work, but the thread did not run for most of the time.
    let (cause, _) = slow(&|| {
        sheet.link(link, 1_000, 0);
        let delay = sheet.slow.mul_f64(0.9);
        hands.delay.set(hands.delay.get() + delay);
    });
    assert_eq!(cause, Cause::CpuTaken);
    assert_eq!(sheet.metrics.time.slow_ticks.total(), 9);
}

#[test]
fn slow_ticks_that_are_remembered_have_a_bound_and_the_count_goes_on() {
    let config = config::Timesheet {
        slow_tick_ms: 1,
        ..config::Timesheet::default()
    };
    let (sheet, hands) = started(&config);
    for _ in 0..100 {
        sheet.begin(hands.now.get());
        hands.pass(1_000);
        sheet.end(hands.now.get(), Rest::Sleeps, 1);
        sheet.slow();
    }
    let slow = sheet.slow();
    assert_eq!(slow.len(), Board::SLOW);
    assert_eq!(slow.last().map(|of| of.number), Some(100));
}

#[test]
fn whoever_makes_most_deliveries_is_found_among_more_names_than_are_counted() {
    let (sheet, hands) = started(&config::Timesheet::default());
    for round in 0..1_000 {
        let other = Audience::Topic(format!("rare-{round}"));
        sheet.fanout(&other, 2, 2);
        sheet.fanout(&Audience::Topic("hog".to_owned()), 50, 50);
    }
    hands.pass(1_000_000);
    sheet.publish(hands.now.get(), Vec::new);
    let board = sheet.metrics.time.board();
    assert_eq!(board.window, Duration::from_secs(1));
    assert_eq!(board.fanouts.len(), Board::MOST);
    let first = &board.fanouts[0];
    assert_eq!(first.audience, Audience::Topic("hog".to_owned()));
    assert_eq!((first.members, first.deliveries), (50, 50_000));
}
