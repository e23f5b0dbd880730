//! The receiving side in a process of its own. Both ends of a socket speak in lines of JSON: first a [`Task`], then an [`Order`] for
//! each thing that is asked; [`Word`]s come back, and how much has arrived comes unasked.

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::{Intake, PATIENCE, Place, Progress, Receiving, Side, Taken, as_service, from_clients};
use crate::{
    clients::Clients,
    peers::{Door, plain},
    process,
    verify::{Faults, Ledger},
};

/// All connect within this time.
const CONNECTED: Duration = Duration::from_secs(60);

/// What the process receives; payloads have `payload` bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// As WebSocket clients, one behind each door. Each message is for `members` of them.
    Clients {
        /// Where they connect, in the order of users.
        doors: Vec<Door>,
        /// Users that get the same messages.
        members: usize,
        /// Bytes of a message.
        payload: usize,
    },
    /// As a logic service, what users say.
    Service {
        /// Where the gateway takes services.
        grpc: SocketAddr,
        /// How many users there are.
        users: usize,
        /// Bytes of a message.
        payload: usize,
    },
}

/// What the process is asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Order {
    /// Forget how long messages took so far.
    Begin,
    /// Say what has arrived.
    Tell,
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// All is connected.
    Ready,
    /// So many good messages have come.
    Delivered(u64),
    /// What has arrived.
    Taken {
        delivered: u64,
        faults: Faults,
        /// Nanoseconds, and how many messages took so long.
        nanos: Vec<(u64, u64)>,
    },
    /// Nothing more will come.
    Failed(String),
}

/// The process, as whoever pushes has it. It is killed when this is dropped.
pub struct Apart {
    child: Child,
    orders: OwnedWriteHalf,
    answers: mpsc::UnboundedReceiver<Word>,
}

impl Receiving {
    /// In a process of its own, which is ready. The future ends when that process fails, and must be driven by the thread that waits
    /// for messages.
    ///
    /// # Errors
    /// It does not start, or cannot connect.
    pub async fn apart(
        place: &Place,
        task: &Task,
    ) -> Result<(Self, impl Future<Output = Error> + use<>)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&place.program);
        command.arg("receive").stdin(OwnedFd::from(theirs));
        command.stdout(Stdio::null());
        let child = process::spawn(&mut command, &place.cpus)?;
        ours.set_nonblocking(true)?;
        let (words, orders) = tokio::net::UnixStream::from_std(ours)?.into_split();
        let (answer, answers) = mpsc::unbounded_channel();
        let mut apart = Apart {
            child,
            orders,
            answers,
        };
        // The child alone holds its end: a command keeps what it gave.
        drop(command);
        send(&mut apart.orders, task).await?;
        let mut words = BufReader::new(words).lines();
        let ready = timeout(CONNECTED, hear(&mut words)).await;
        match ready.context("the receiving process does not connect")?? {
            Some(Word::Ready) => {}
            Some(Word::Failed(why)) => bail!("the receiving process: {why}"),
            other => bail!("the receiving process says {other:?}"),
        }
        let progress = Rc::<Progress>::default();
        let following = follow(words, Rc::clone(&progress), answer);
        let side = Side::Apart(apart);
        Ok((Self { progress, side }, following))
    }
}

impl Apart {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        send(&mut self.orders, &Order::Begin).await
    }

    pub(super) async fn taken(&mut self) -> Result<Taken> {
        send(&mut self.orders, &Order::Tell).await?;
        let answer = timeout(PATIENCE, self.answers.recv()).await;
        let answer = answer.context("the receiving process does not answer")?;
        match answer.context("the receiving process is gone")? {
            Word::Taken {
                delivered,
                faults,
                nanos,
            } => Ok(Taken {
                delivered,
                faults,
                nanos: histogram(&nanos)?,
            }),
            other => bail!("the receiving process says {other:?}"),
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process says, until it fails: answers to whoever has asked, the rest is progress.
async fn follow(
    mut words: Lines<BufReader<OwnedReadHalf>>,
    progress: Rc<Progress>,
    answer: mpsc::UnboundedSender<Word>,
) -> Error {
    loop {
        match hear(&mut words).await {
            Ok(Some(Word::Delivered(messages))) => progress.reach(messages),
            Ok(Some(Word::Failed(why))) => return anyhow!(why),
            // Whoever has asked may not wait any more.
            Ok(Some(word)) => drop(answer.send(word)),
            Ok(None) => return anyhow!("the receiving process has ended"),
            Err(error) => return error,
        }
    }
}

/// The process: its standard input is the socket.
///
/// # Errors
/// Standard input is none, or speaks otherwise.
pub fn serve() -> Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let (orders, mut words) = tokio::net::UnixStream::from_std(socket)?.into_split();
        let mut orders = BufReader::new(orders).lines();
        let task: Task = hear(&mut orders).await?.context("no task")?;
        match work(&task, &mut orders, &mut words).await {
            Ok(()) => Ok(()),
            Err(error) => send(&mut words, &Word::Failed(format!("{error:#}"))).await,
        }
    })
}

/// Receives until nobody orders any more.
async fn work(
    task: &Task,
    orders: &mut Lines<BufReader<OwnedReadHalf>>,
    words: &mut OwnedWriteHalf,
) -> Result<()> {
    let intake = Rc::new(task.intake()?);
    let mut receiving = match task {
        Task::Clients { doors, .. } => {
            let clients = Clients::enter(doors.iter().cloned())?;
            spawn_local(from_clients(Rc::clone(&intake), clients, plain()))
        }
        Task::Service { grpc, .. } => spawn_local(as_service(Rc::clone(&intake), *grpc).await?),
    };
    send(words, &Word::Ready).await?;
    loop {
        tokio::select! {
            failed = &mut receiving => return Err(failed?),
            order = hear(orders) => match order? {
                None => return Ok(()),
                Some(Order::Begin) => intake.nanos.borrow_mut().clear(),
                Some(Order::Tell) => send(words, &Word::of(&intake.taken())).await?,
            },
            () = intake.progress.more.notified() => {
                send(words, &Word::Delivered(intake.progress.delivered.get())).await?;
            }
        }
    }
}

impl Task {
    fn intake(&self) -> Result<Intake> {
        let ledger = match self {
            Self::Clients {
                doors,
                members,
                payload,
            } => Ledger::grouped(doors.len(), *members, *payload),
            Self::Service { users, payload, .. } => Ledger::new(*users, *payload),
        };
        Intake::new(ledger.split().1)
    }
}

impl Word {
    fn of(taken: &Taken) -> Self {
        let recorded = taken.nanos.iter_recorded();
        Self::Taken {
            delivered: taken.delivered,
            faults: taken.faults,
            nanos: recorded
                .map(|value| (value.value_iterated_to(), value.count_at_value()))
                .collect(),
        }
    }
}

fn histogram(nanos: &[(u64, u64)]) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, super::LONGEST, 3)?;
    for (value, count) in nanos {
        histogram.saturating_record_n(*value, *count);
    }
    Ok(histogram)
}

async fn send(socket: &mut OwnedWriteHalf, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(socket.write_all(&line).await?)
}

/// The next line; `None`: there is none any more.
async fn hear<T: DeserializeOwned>(
    lines: &mut Lines<BufReader<OwnedReadHalf>>,
) -> Result<Option<T>> {
    match lines.next_line().await? {
        Some(line) => Ok(Some(serde_json::from_str(&line)?)),
        None => Ok(None),
    }
}
