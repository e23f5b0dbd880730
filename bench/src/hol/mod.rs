//! Head-of-line blocking: how long messages take to those who have nothing to do with it, before and while somebody is in
//! trouble or makes it.

use std::{fmt, rc::Rc, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use logic_client::Push;
use serde::Serialize;

use crate::{
    cpu::{self, Places, Rank},
    gateway::{Gateway, Launch},
    machine::Machine,
    report::Latency,
    setup::Subject,
    verify::{Faults, MIN_PAYLOAD},
    witness::{self, Sender, Witnesses},
};

mod cases;

/// Unmeasured time after trouble has begun or ended: sockets fill, and what waited is caught up on.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Pushes that take so much longer than they should are stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is aimed at: p99 during, by p99 before.
const AIM: f64 = 1.5;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which gateways
    #[command(flatten)]
    pub subject: Subject,
    /// Which trouble
    #[arg(long, value_enum, default_value_t = Which::All)]
    pub case: Which,
    /// Duration of each window
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Windows before and during, in turns: so many of each
    #[arg(long, default_value_t = 2)]
    pub rounds: u32,
    /// Messages a second to the witnesses [default: what suits the case]
    #[arg(long)]
    pub rate: Option<f64>,
    /// Bytes of a message, at least 24
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Whose trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// One client stops reading; 999 others on its shard get messages
    A,
    /// One gateway is frozen; nine others get messages from the same logic client
    B,
    /// One logic service floods a shard; another sends a few messages
    C,
    /// A topic with 10,000 members is pushed to; so are single users
    D,
    /// All of them, one after the other
    All,
}

/// What all cases have shown.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it ran; gateways have all CPUs but the last one.
    pub machine: Machine,
    /// One for each case.
    pub cases: Vec<Case>,
}

/// What one case has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Which one.
    pub case: Which,
    /// What it is, for people.
    pub about: String,
    /// What the gateways are.
    pub gateways: String,
    /// Messages a second to the witnesses that were asked for.
    pub rate: f64,
    /// In the order in which they were measured.
    pub windows: Vec<Window>,
    /// All windows without trouble together.
    pub before: Latency,
    /// All windows with trouble together.
    pub during: Latency,
    /// During by before.
    pub ratio: Latency,
    /// Whether the ratio of p99 is at most 1.5.
    pub within_aim: bool,
    /// What went wrong with messages to witnesses.
    pub faults: Faults,
}

/// One window.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    /// Whether there was trouble.
    pub trouble: bool,
    /// What shows that there was, or was none.
    pub evidence: String,
    /// Messages pushed, and arrived.
    pub messages: u64,
    /// By time.
    pub messages_per_second: f64,
    /// From when a push was due to the client that has received.
    pub latency_micros: Latency,
    /// Of the machine, when the window ended.
    pub load_average: f64,
}

/// A case that is set up: whom to push to, and how to make trouble.
struct Stage {
    about: &'static str,
    rate: f64,
    witnesses: Witnesses,
    sender: Sender,
    /// Pushes that are not timed; see [`Sender::paced`].
    extra: Box<dyn FnMut() -> Option<Push>>,
    /// Makes trouble and ends it.
    trouble: Box<dyn FnMut(bool) -> anyhow::Result<()>>,
    /// What shows that there is trouble: a count that grows, and of what.
    evidence: Box<dyn Fn() -> anyhow::Result<(u64, &'static str)>>,
    /// Killed when all is over.
    gateways: Rc<Vec<Gateway>>,
}

/// Runs the cases, on gateways that are started by `launch`.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Report> {
    if options.payload < MIN_PAYLOAD || options.rounds == 0 || options.seconds <= 0.0 {
        bail!(
            "needed: --payload of at least {MIN_PAYLOAD}, --rounds of at least 1, --seconds above 0"
        );
    }
    ensure!(
        options.subject.shards == 1,
        "--shards {} is refused; allowed: 1, which is what the cases are about",
        options.subject.shards
    );
    let (cpus, places) = (cpu::all()?, Places::here()?);
    let launch = options.subject.launch(launch).on(&places.server);
    let wanted: &[Which] = match options.case {
        Which::All => &[Which::A, Which::B, Which::C, Which::D],
        ref one => std::slice::from_ref(one),
    };
    let mut measured = Vec::new();
    for which in wanted {
        // Gateways are started from all CPUs, and this process runs on its own after that.
        cpu::pin(&cpus)?;
        cpu::rank(Rank::Measured);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        measured.push(runtime.block_on(async {
            let stage = cases::set_up(*which, options, &launch, &places.load).await?;
            measure(*which, options, stage).await
        })?);
    }
    Ok(Report {
        machine: Machine::here(),
        cases: measured,
    })
}

async fn measure(which: Which, options: &Options, mut stage: Stage) -> anyhow::Result<Case> {
    let mut windows = Vec::new();
    let [mut before, mut during] = [(); 2].map(|()| None::<Histogram<u64>>);
    stage.sender.warm_up().await?;
    for trouble in (0..options.rounds).flat_map(|_| [false, true]) {
        (stage.trouble)(trouble)?;
        stage.push_for(SETTLE).await?;
        let (evidence, _) = (stage.evidence)()?;
        let window = stage
            .push_for(Duration::from_secs_f64(options.seconds))
            .await?;
        let (grown, of_what) = (stage.evidence)()?;
        windows.push(Window {
            trouble,
            evidence: format!("{} {of_what}", grown - evidence),
            messages: window.messages,
            messages_per_second: window.messages as f64 / window.pushing.as_secs_f64(),
            latency_micros: Latency::of(&window.latency),
            load_average: cpu::load_average(),
        });
        match if trouble { &mut during } else { &mut before } {
            Some(all) => all.add(window.latency)?,
            none => *none = Some(window.latency),
        }
    }
    (stage.trouble)(false)?;
    let latency = |all: Option<Histogram<u64>>| all.map(|all| Latency::of(&all));
    let (Some(before), Some(during)) = (latency(before), latency(during)) else {
        bail!("no windows");
    };
    let ratio = during.by(&before);
    Ok(Case {
        case: which,
        about: stage.about.to_owned(),
        gateways: stage.gateways[0].about(),
        rate: stage.rate,
        windows,
        before,
        during,
        ratio,
        within_aim: ratio.p99 <= AIM,
        faults: stage.witnesses.faults(&stage.sender),
    })
}

impl Stage {
    async fn push_for(&mut self, length: Duration) -> anyhow::Result<witness::Window> {
        let window = self.sender.paced(self.rate, length, &mut self.extra);
        let window = tokio::time::timeout(length + PATIENCE, window).await;
        window.context("pushes to the witnesses wait for whoever is in trouble")?
    }
}

impl Report {
    /// No message to a witness was lost, late or wrong.
    #[must_use]
    pub fn is_faultless(&self) -> bool {
        self.cases.iter().all(|case| case.faults.is_none())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, case) in self.cases.iter().enumerate() {
            if at > 0 {
                writeln!(f, "\n")?;
            }
            case.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            about,
            gateways,
            rate,
            ..
        } = self;
        writeln!(f, "hol: {about} ({rate:.0} messages/s); {gateways}")?;
        writeln!(
            f,
            "  {:<8} {:>10} {:>10} {:>10} {:>10} {:>9} {:>5}",
            "", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "msg/s", "load"
        )?;
        for window in &self.windows {
            let name = if window.trouble { "during" } else { "before" };
            let rate = format!("{:.0}", window.messages_per_second);
            let load = format!("{:.1}", window.load_average);
            line(f, name, &window.latency_micros, 0, &rate, &load)?;
            writeln!(f, "  {}", window.evidence)?;
        }
        line(f, "ratio", &self.ratio, 2, "", "")?;
        let Faults {
            missing,
            late,
            damaged,
            astray,
        } = self.faults;
        let aim = if self.within_aim { "met" } else { "missed" };
        write!(
            f,
            "  aim (p99 at most {AIM} times): {aim}\n  \
             {missing} missing, {late} late or twice, {damaged} damaged, {astray} astray"
        )
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    latency: &Latency,
    digits: usize,
    rate: &str,
    load: &str,
) -> fmt::Result {
    let Latency {
        p50,
        p99,
        p999,
        max,
        ..
    } = latency;
    write!(
        f,
        "  {name:<8} {p50:>10.digits$} {p99:>10.digits$} {p999:>10.digits$} {max:>10.digits$} {rate:>9} {load:>5}"
    )?;
    if rate.is_empty() { writeln!(f) } else { Ok(()) }
}
