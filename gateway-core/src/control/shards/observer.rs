//! Looks at all shards once a second, from the control thread.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::MissedTickBehavior};

use super::{
    BusiestReport, PhaseReport, Scheduled, ShardReport, Shards, Spread,
    findings::findings,
    scheduler::{self, Neighbours, Times},
};
use crate::{
    control::{Life, State, Subject},
    metrics::{Histogram, Metrics, Phase},
};

/// How often.
const PERIOD: Duration = Duration::from_secs(1);
/// A shard's slow ticks are logged at most this often: one line stands for all since.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Slow ticks that are told of, the newest.
const SLOW: usize = 4;

/// What was seen last.
#[derive(Debug, Default)]
pub(in crate::control) struct Observer(Mutex<Vec<ShardReport>>);

/// What one shard had counted at one moment.
struct Sample {
    at: Duration,
    ticks: u64,
    commands: u64,
    messages_in: u64,
    messages_out: u64,
    fanout_deliveries: u64,
    phases: [u64; Phase::COUNT],
    histograms: [Counts; 7],
    times: Option<Times>,
}

/// The counts of a histogram, and the sum of its values.
struct Counts(Vec<(u64, u64)>, u64);

/// What is kept of one shard from one look to the next.
struct Seat {
    before: Sample,
    neighbours: Option<Neighbours>,
    /// The newest slow tick that was logged, and when.
    logged: u64,
    logged_at: Option<Duration>,
}

impl Observer {
    /// What was seen last, with what else `GET /debug/shards` tells.
    pub(in crate::control) fn report(&self, subject: &Subject, life: Life) -> Shards {
        let mut shards = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (report, metrics) in shards.iter_mut().zip(&subject.metrics) {
            report.age_ms = subject.age(metrics).as_millis() as u64;
        }
        Shards {
            gateway: subject.id.clone(),
            epoch: subject.epoch.to_string(),
            version: subject.version.clone(),
            driver: subject.driver.clone(),
            life,
            up_ms: (subject.clock)().as_millis() as u64,
            shards,
        }
    }
}

/// Looks at all shards, until the gateway's life has ended.
pub(in crate::control) async fn observe(
    state: std::sync::Arc<State>,
    mut life: watch::Receiver<Life>,
) {
    let mut seats: Vec<Seat> = Vec::new();
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = end(&mut life) => return,
        }
        let Some(subject) = state.subject.get() else {
            continue;
        };
        if seats.is_empty() {
            seats = (0..subject.metrics.len())
                .map(|at| Seat::new(subject, at))
                .collect();
        }
        let reports: Vec<_> = (seats.iter_mut().enumerate())
            .map(|(at, seat)| seat.look(subject, at))
            .collect();
        let mut seen = state
            .observer
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *seen = reports;
    }
}

async fn end(life: &mut watch::Receiver<Life>) {
    // It fails only when nobody can move the life on any more.
    let _ = life.wait_for(|life| *life == Life::Ended).await;
}

impl Seat {
    fn new(subject: &Subject, at: usize) -> Self {
        Self {
            before: Sample::take(subject, at),
            neighbours: None,
            logged: 0,
            logged_at: None,
        }
    }

    fn look(&mut self, subject: &Subject, at: usize) -> ShardReport {
        let now = Sample::take(subject, at);
        let mut report = report(subject, at, &self.before, &now);
        self.before = now;
        let neighbour = self.neighbour(&report, subject);
        report.findings = findings(&report, neighbour);
        self.log(&report);
        report
    }

    /// Whoever ran most on the shard's CPU beside it; only looked for where that matters.
    fn neighbour(&mut self, report: &ShardReport, subject: &Subject) -> Option<String> {
        let matters = report.scheduler.is_some_and(|of| of.waiting >= 0.02);
        let Some(core) = report.core.filter(|_| matters) else {
            self.neighbours = None;
            return None;
        };
        let own: Vec<_> = subject.threads.iter().map(|thread| thread.0).collect();
        let now = Neighbours::of(core, &own);
        let before = self.neighbours.replace(now);
        let now = self.neighbours.as_ref()?;
        now.busiest_since(&before?)
    }

    /// One line for the newest slow tick, unless there was one just now.
    fn log(&mut self, report: &ShardReport) {
        let Some(newest) = report.slow.last().filter(|of| of.number > self.logged) else {
            return;
        };
        let now = self.before.at;
        if self.logged_at.is_some_and(|at| now < at + LOG_PERIOD) {
            return;
        }
        let since = report.slow_ticks.saturating_sub(self.logged);
        tracing::warn!(
            shard = report.shard,
            took_ms = newest.took_us as f64 / 1e3,
            not_running_ms = newest.not_running_us as f64 / 1e3,
            cause = newest.cause.label(),
            culprit = newest.culprit,
            slow_ticks_since_last_line = since,
            "slow tick (timesheet.slow_tick_ms)"
        );
        (self.logged, self.logged_at) = (report.slow_ticks, Some(now));
    }
}

impl Sample {
    fn take(subject: &Subject, at: usize) -> Self {
        let metrics = &*subject.metrics[at];
        let thread = subject.threads.get(at);
        Self {
            at: (subject.clock)(),
            ticks: metrics.ticks.get(),
            commands: metrics.time.commands.get(),
            messages_in: metrics.messages_in_client.get(),
            messages_out: metrics.messages_out_client.get(),
            fanout_deliveries: metrics.time.fanout_deliveries.get(),
            phases: std::array::from_fn(|phase| metrics.time.phases[phase].get()),
            histograms: histograms(metrics).map(Counts::of),
            times: thread.and_then(|thread| scheduler::times(thread.0)),
        }
    }
}

/// In the order in which [`report`] names them.
fn histograms(metrics: &Metrics) -> [&Histogram; 7] {
    let time = &metrics.time;
    [
        &metrics.tick_nanos,
        &metrics.tick_bytes,
        &time.completions,
        &metrics.messages_per_send,
        &time.lane_depth,
        &time.lane_wait_nanos,
        &metrics.push_to_send_nanos,
    ]
}

fn report(subject: &Subject, at: usize, before: &Sample, now: &Sample) -> ShardReport {
    let metrics = &*subject.metrics[at];
    let (thread, core) = subject.threads.get(at).copied().unwrap_or_default();
    let window = now.at.saturating_sub(before.at);
    let per_second = |now: u64, before: u64| match window.as_secs_f64() {
        0.0 => 0.0,
        seconds => (now - before) as f64 / seconds,
    };
    let spread = |which: usize| now.histograms[which].since(&before.histograms[which]);
    let micros = |which: usize| spread(which).scaled(1e-3);
    let out = now.messages_out - before.messages_out;
    let wide = now.fanout_deliveries - before.fanout_deliveries;
    let mut board = metrics.time.board();
    ShardReport {
        shard: metrics.shard,
        thread,
        core,
        age_ms: subject.age(metrics).as_millis() as u64,
        window_ms: window.as_millis() as u64,
        connections: metrics.connections.get(),
        links: metrics.links.get(),
        outbox_bytes: metrics.outbox_bytes.get(),
        ticks: per_second(now.ticks, before.ticks),
        commands: per_second(now.commands, before.commands),
        messages_in: per_second(now.messages_in, before.messages_in),
        messages_out: per_second(now.messages_out, before.messages_out),
        fanout_share: (wide as f64 / out.max(1) as f64).min(1.0),
        scheduler: scheduled(before, now),
        phases: phases(before, now),
        tick_us: micros(0),
        tick_bytes: spread(1),
        completions: spread(2),
        messages_per_send: spread(3),
        lane_depth: spread(4),
        lane_wait_us: micros(5),
        queue_age_us: micros(6),
        busiest: BusiestReport {
            window_ms: board.window.as_millis() as u64,
            links: board.links,
            fanouts: board.fanouts,
            lanes: board.lanes,
        },
        slow_ticks: metrics.time.slow_ticks.total(),
        slow: board.slow.split_off(board.slow.len().saturating_sub(SLOW)),
        findings: Vec::new(),
    }
}

fn scheduled(before: &Sample, now: &Sample) -> Option<Scheduled> {
    let (then, times) = (before.times?, now.times?);
    let window = now.at.saturating_sub(before.at).as_secs_f64().max(1e-9);
    let share = |now: u64, then: u64| (now.saturating_sub(then) as f64 / 1e9 / window).min(1.0);
    Some(Scheduled {
        running: share(times.running, then.running),
        waiting: share(times.waiting, then.waiting),
        preempted: times.preempted.saturating_sub(then.preempted) as f64 / window,
    })
}

fn phases(before: &Sample, now: &Sample) -> Vec<PhaseReport> {
    let spent: Vec<_> = (now.phases.iter().zip(&before.phases))
        .map(|(now, before)| now.saturating_sub(*before))
        .collect();
    let whole: u64 = spent.iter().sum();
    if whole == 0 {
        return Vec::new();
    }
    let messages = now.messages_out - before.messages_out + now.messages_in - before.messages_in;
    let phases = Phase::ALL.iter().zip(spent);
    phases
        .map(|(phase, nanos)| PhaseReport {
            phase: phase.label().to_owned(),
            share: nanos as f64 / whole as f64,
            ns_per_message: (messages > 0).then(|| nanos as f64 / messages as f64),
        })
        .collect()
}

impl Counts {
    fn of(histogram: &Histogram) -> Self {
        Self(histogram.iter().collect(), histogram.sum())
    }

    fn since(&self, before: &Self) -> Spread {
        let counts: Vec<_> = (self.0.iter().zip(&before.0))
            .map(|((bound, now), (_, before))| (*bound, now.saturating_sub(*before)))
            .collect();
        let all: u64 = counts.iter().map(|(_, count)| count).sum();
        if all == 0 {
            return Spread::default();
        }
        let below = |share: f64| {
            let wanted = (all as f64 * share).ceil() as u64;
            let mut seen = 0;
            let found = counts.iter().find(|(_, count)| {
                seen += count;
                seen >= wanted
            });
            found.map_or(0.0, |(bound, _)| *bound as f64)
        };
        Spread {
            mean: self.1.wrapping_sub(before.1) as f64 / all as f64,
            p50: below(0.5),
            p99: below(0.99),
            max: below(1.0),
        }
    }
}

impl Spread {
    fn scaled(self, by: f64) -> Self {
        Self {
            mean: self.mean * by,
            p50: self.p50 * by,
            p99: self.p99 * by,
            max: self.max * by,
        }
    }
}
