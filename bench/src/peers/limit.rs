//! What no gateway can beat that makes a system call per message: a process that does nothing but `send` the framed bytes
//! to one socket after the other, as many as it is told to.

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use anyhow::{Context, bail};
use futures_util::future::LocalBoxFuture;
use tokio::io::AsyncWriteExt;

use super::{Audience, Door, Peer, Pusher, Stage};
use crate::{
    clock,
    process::Process,
    verify::{Issuer, Ledger},
    wire::{self, BINARY},
};

const READY: &str = "limit ready ";

/// What the process is told at its start.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// WebSocket clients, of users 0 and on
    #[arg(long)]
    pub users: usize,
    /// How many of them get the same message
    #[arg(long)]
    pub members: usize,
    /// Bytes of a message
    #[arg(long)]
    pub payload: usize,
    /// Messages in one `send`
    #[arg(long)]
    pub joined: usize,
}

/// The process, and where it listens.
pub struct Limit {
    process: Process,
    ws: SocketAddr,
    control: SocketAddr,
    joined: usize,
    members: usize,
    users: usize,
}

impl Limit {
    /// Starts it, with `joined` messages in one `send`. Messages for many are not joined.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(stage: &Stage, joined: usize) -> anyhow::Result<Self> {
        let Audience { members, .. } = stage.audience;
        let users = stage.audience.users();
        let joined = if members == 1 { joined.max(1) } else { 1 };
        let mut command = Command::new(&stage.program);
        command.arg("limit");
        for (name, value) in [
            ("--users", users),
            ("--members", members),
            ("--payload", stage.payload),
            ("--joined", joined),
        ] {
            command.args([name, &value.to_string()]);
        }
        let mut process = Process::start(&mut command, &stage.places.server)?;
        let ready = process.says(READY)?;
        let (ws, control) = ready.split_once(' ').context("two addresses")?;
        Ok(Self {
            ws: ws.parse()?,
            control: control.parse()?,
            process,
            joined,
            members,
            users,
        })
    }
}

impl Peer for Limit {
    fn about(&self) -> String {
        match self.joined {
            1 => "send(2), one message each".into(),
            joined => format!("send(2), {joined} messages each"),
        }
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn door(&self, user: &str) -> Door {
        Door::of(user, self.ws)
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async {
            let socket = tokio::net::TcpStream::connect(self.control).await?;
            socket.set_nodelay(true)?;
            let pusher: Box<dyn Pusher> = Box::new(Teller {
                socket,
                more: 0,
                members: self.members,
                users: self.users,
            });
            Ok(pusher)
        })
    }

    fn in_a_row(&self) -> usize {
        self.joined
    }
}

/// Tells how many more messages to send. Which ones, the process knows: it makes the very payloads that are pushed.
struct Teller {
    socket: tokio::net::TcpStream,
    more: u64,
    members: usize,
    users: usize,
}

impl Pusher for Teller {
    fn push(&mut self, target: usize, _payload: Vec<u8>) -> bool {
        self.more += self.members.min(self.users - target * self.members) as u64;
        true
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            let more = std::mem::take(&mut self.more);
            Ok(self.socket.write_all(&more.to_le_bytes()).await?)
        })
    }

    fn finish(self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// The process. It ends with whoever tells it.
///
/// # Errors
/// Clients that are no WebSocket clients, or go away.
pub fn serve(options: &Options) -> anyhow::Result<Infallible> {
    crate::clients::check_descriptors(options.users)?;
    let ws = TcpListener::bind("127.0.0.1:0")?;
    let control = TcpListener::bind("127.0.0.1:0")?;
    println!("{READY}{} {}", ws.local_addr()?, control.local_addr()?);
    io::stdout().flush()?;
    let mut sockets: Vec<Option<TcpStream>> = (0..options.users).map(|_| None).collect();
    for _ in 0..options.users {
        let (user, socket) = accept(&ws)?;
        *sockets.get_mut(user).context("a stranger")? = Some(socket);
    }
    let sockets: Option<Vec<_>> = sockets.into_iter().collect();
    let mut rounds = Rounds::new(options, sockets.context("a user came twice")?);
    let (mut control, _) = control.accept()?;
    let (mut told, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match control.read(&mut buffer)? {
            // Nobody tells any more: it was good.
            0 => std::process::exit(0),
            n => told.extend_from_slice(&buffer[..n]),
        }
        let whole = told.chunks_exact(8);
        let more = whole.map(|eight| eight.try_into().map_or(0, u64::from_le_bytes));
        let more = more.sum();
        told.drain(..told.len() / 8 * 8);
        rounds.send(more)?;
    }
}

/// One client after the other.
struct Rounds {
    sockets: Vec<TcpStream>,
    issuer: Issuer,
    members: usize,
    joined: usize,
    head: Vec<u8>,
    /// Messages sent.
    sent: u64,
    buffer: Vec<u8>,
}

impl Rounds {
    fn new(options: &Options, sockets: Vec<TcpStream>) -> Self {
        let mut head = Vec::new();
        wire::head(BINARY, options.payload, &mut head);
        Self {
            sockets,
            issuer: Ledger::new(options.users, options.payload).split().0,
            members: options.members,
            joined: options.joined,
            head,
            sent: 0,
            buffer: Vec::new(),
        }
    }

    fn send(&mut self, more: u64) -> io::Result<()> {
        let (now, end) = (clock::now(), self.sent + more);
        while self.sent < end {
            let turn = self.sent / self.joined as u64;
            let user = (turn % self.sockets.len() as u64) as usize;
            // A row that was begun is ended first.
            let row = (turn + 1) * self.joined as u64;
            let count = row.min(end) - self.sent;
            self.buffer.clear();
            for _ in 0..count {
                self.buffer.extend_from_slice(&self.head);
                let target = user / self.members;
                self.issuer.issue_for(user, target, now, &mut self.buffer);
            }
            self.sockets[user].write_all(&self.buffer)?;
            self.sent += count;
        }
        Ok(())
    }
}

/// Accepts a WebSocket client, and says whose it is.
fn accept(listener: &TcpListener) -> anyhow::Result<(usize, TcpStream)> {
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        match socket.read(&mut part)? {
            0 => bail!("a client went away"),
            n => request.extend_from_slice(&part[..n]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let (_, rest) = request.split_once("user=user-").context("no user")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    let user = digits.unwrap_or_default().parse()?;
    socket.write_all(wire::welcome().as_bytes())?;
    Ok((user, socket))
}
