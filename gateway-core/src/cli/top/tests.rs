//! The view on a terminal of 80 by 24, without a gateway.

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent},
};

use super::*;
use crate::{
    control::{BusiestReport, Finding, Life, PhaseReport, Scheduled, ShardReport, Shards, Spread},
    metrics::{Audience, Cause, FanoutLoad, LinkLoad, SlowTick},
};

/// Two shards, as a gateway tells of them.
fn told() -> Shards {
    let told = Shards {
        gateway: "gw-1".to_owned(),
        epoch: "1".to_owned(),
        version: "0.1.0".to_owned(),
        driver: "monoio (io_uring)".to_owned(),
        life: Life::Ready,
        up_ms: 65_000,
        shards: vec![shard(0, 0.30, 0.0), shard(1, 0.80, 0.21)],
    };
    // It comes as text.
    serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap()
}

fn shard(shard: u16, kernel: f64, waiting: f64) -> ShardReport {
    let phase = |phase: &str, share: f64| PhaseReport {
        phase: phase.to_owned(),
        share,
        ns_per_message: Some(share * 1e4),
    };
    ShardReport {
        shard,
        thread: 7,
        core: Some(usize::from(shard)),
        age_ms: 1,
        window_ms: 1_000,
        connections: 500,
        links: 1,
        outbox_bytes: 0,
        ticks: 1_234.0,
        commands: 90_000.0,
        messages_in: 10.0,
        messages_out: 90_000.0,
        fanout_share: 0.0,
        scheduler: Some(Scheduled {
            running: kernel,
            waiting,
            preempted: 9.0,
        }),
        phases: vec![phase("parked", 0.95 - kernel), phase("kernel", kernel)],
        tick_us: Spread {
            mean: 200.5,
            p50: 262.144,
            p99: 1_048.576,
            max: 2_097.152,
        },
        tick_bytes: Spread::default(),
        completions: Spread::default(),
        messages_per_send: Spread::default(),
        lane_depth: Spread::default(),
        lane_wait_us: Spread::default(),
        queue_age_us: Spread::default(),
        busiest: BusiestReport {
            window_ms: 1_000,
            links: vec![LinkLoad {
                peer: ([127, 0, 0, 1], 5_555).into(),
                service: "chat".to_owned(),
                commands: 90_000,
                bytes: 13_000_000,
            }],
            fanouts: vec![FanoutLoad {
                audience: Audience::Topic("prices".to_owned()),
                members: 400,
                deliveries: 800,
            }],
            lanes: Vec::new(),
        },
        slow_ticks: 1,
        slow: vec![SlowTick {
            number: 1,
            at_ms: 61_500,
            took_us: 34_100,
            not_running_us: 200,
            parts_us: [1, 2, 3],
            cause: Cause::Fanout,
            culprit: "topic \"prices\" (400 members): 256 deliveries".to_owned(),
        }],
        findings: vec![Finding {
            cause: Cause::Link,
            culprit: "link 127.0.0.1:5555 of service \"chat\"".to_owned(),
            because: "99 % of the work".to_owned(),
        }],
    }
}

fn view(sort: Column) -> View {
    let mut view = View::new("127.0.0.1:9900", sort, false);
    view.told(Ok(told()));
    view
}

/// What stands on a terminal of 80 by 24.
fn screen(view: &mut View) -> String {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    terminal.backend().to_string()
}

fn press(view: &mut View, keys: impl IntoIterator<Item = KeyCode>) {
    for key in keys {
        assert!(screen::take(view, KeyEvent::from(key)), "{key:?} quits");
    }
}

/// The shards from top to bottom.
fn order(view: &mut View) -> Vec<char> {
    let shown = screen(view);
    let rows = shown.lines().skip(2).take(2);
    rows.map(|row| row.chars().nth(3).unwrap()).collect()
}

#[test]
fn a_small_terminal_shows_table_verdict_culprits_and_keys() {
    let shown = screen(&mut view(Column::Shard));
    for expected in [
        "gw-1 at 127.0.0.1:9900, monoio (io_uring), up 65 s: 1000 conns, 180k msg/s",
        "shd  cpu wait park kern",
        "  0 30.0  0.0 65.0 30.0    -    -",
        "  1 80.0 21.0 15.0 80.0",
        "90k  1049",
        "link: link 127.0.0.1:5555 of service \"chat\": 99 % of the work",
        "127.0.0.1:5555 \"chat\": 90000 commands, 13M bytes",
        "topic \"prices\": 800 deliveries, 400 members",
        "34.1 ms at 61.5 s: fanout: topic \"prices\"",
        "q quit",
    ] {
        assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
    }
}

#[test]
fn keys_choose_column_order_shard_and_unit() {
    let mut view = view(Column::Shard);
    assert_eq!(order(&mut view), ['0', '1']);
    press(&mut view, [KeyCode::Right]);
    assert_eq!(
        order(&mut view),
        ['1', '0'],
        "the one that runs most comes first"
    );
    press(&mut view, [KeyCode::Char('r')]);
    assert_eq!(order(&mut view), ['0', '1']);
    press(&mut view, [KeyCode::Down, KeyCode::Down, KeyCode::Down]);
    assert!(
        screen(&mut view).contains("shard 1"),
        "the lower one in full"
    );
    press(&mut view, [KeyCode::Char('n')]);
    let shown = screen(&mut view);
    assert!(shown.contains("3000") && shown.contains("8000"), "{shown}");
    press(&mut view, [KeyCode::Left, KeyCode::Left]);
    press(&mut view, [KeyCode::Right; 16]);
    assert!(!screen::take(&mut view, KeyEvent::from(KeyCode::Char('q'))));
}

#[test]
fn a_gateway_that_goes_away_leaves_its_last_figures_and_may_come_back() {
    let mut view = view(Column::Shard);
    let gone = || FeedError::Unreachable(std::io::ErrorKind::ConnectionRefused.into());
    view.told(Err(gone()));
    let shown = screen(&mut view);
    assert!(
        shown.contains("connection refused; lost for 0 s"),
        "{shown}"
    );
    assert!(shown.contains("  0 30.0"), "{shown}");
    view.told(Ok(told()));
    assert!(!screen(&mut view).contains("lost"));
    let mut never = View::new("127.0.0.1:9900", Column::Shard, false);
    never.told(Err(gone()));
    assert!(screen(&mut never).contains("trying again"));
    assert!(never.into_text().is_err());
}

#[test]
fn as_text_every_shard_is_told_in_full() {
    let text = view(Column::Wait).into_text().unwrap();
    let rows: Vec<_> = text.lines().skip(2).take(2).map(str::trim_start).collect();
    assert!(rows[0].starts_with("1 80.0 21.0"), "{text}");
    assert_eq!(text.matches("queue age us").count(), 2, "{text}");
    assert!(text.lines().take(4).all(|line| line.len() <= 80), "{text}");
}
