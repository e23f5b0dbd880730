//! NATS: a subject for each target, published to by its own protocol, listened to by WebSocket.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Audience, Door, Opener, Peer, Pusher, Stage,
    foreign::{DESCRIPTORS, Folder, version},
};
use crate::{debian, metrics, process::Process};

const PACKAGE: &str = "nats-server";
const CONFIGURATION: &str = include_str!("../../peers/nats.conf");
const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
/// The subject of all.
const EVERYONE: &str = "everyone";
/// Bytes that wait for the socket.
const OUTPUT: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// The process, and where it listens.
pub struct Nats {
    process: Process,
    program: PathBuf,
    publishers: SocketAddr,
    clients: SocketAddr,
    monitor: SocketAddr,
    _folder: Folder,
    audience: Audience,
}

impl Nats {
    /// Starts it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        let audience = stage.audience.clone();
        if audience.members > 1 && !audience.is_everyone() {
            bail!("NATS knows users and everyone, not groups of users");
        }
        let program = debian::program("nats-server", PACKAGE)?;
        let folder = Folder::new("nats")?;
        let publishers = debian::free_address()?;
        let clients = debian::free_address()?;
        let monitor = debian::free_address()?;
        let values = [
            ("publishers", &*publishers.to_string()),
            ("clients", &*clients.to_string()),
            ("monitor", &*monitor.to_string()),
            ("descriptors", DESCRIPTORS),
        ];
        let configuration = folder.fill("nats.conf", CONFIGURATION, &values)?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(configuration);
        command.arg("-l").arg(folder.path().join("log"));
        let mut process = Process::start(&mut command, &stage.places.server)?;
        for address in [publishers, clients, monitor] {
            process.listens(address, PATIENCE)?;
        }
        Ok(Self {
            process,
            program,
            publishers,
            clients,
            monitor,
            _folder: folder,
            audience,
        })
    }

    fn subject<'a>(&self, user: &'a str) -> &'a str {
        match self.audience.is_everyone() {
            true => EVERYONE,
            false => user,
        }
    }

    /// Waits until all clients are subscribed: what is published before that is for nobody.
    async fn all_listen(&self) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Subscriptions {
            num_subscriptions: u64,
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page = metrics::get(self.monitor, "/subsz")?;
            let told: Subscriptions = serde_json::from_str(&page)?;
            if told.num_subscriptions >= self.audience.users() as u64 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("only {} clients are subscribed", told.num_subscriptions);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Peer for Nats {
    fn about(&self) -> String {
        version(&self.program, "--version")
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn door(&self, user: &str) -> Door {
        let subject = self.subject(user);
        Door {
            address: self.clients,
            target: "/".to_owned(),
            greeting: vec![format!("{CONNECT}SUB {subject} 1\r\n")],
        }
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async {
            self.all_listen().await?;
            let mut socket = TcpStream::connect(self.publishers).await?;
            socket.set_nodelay(true)?;
            socket.write_all(CONNECT.as_bytes()).await?;
            let pusher: Box<dyn Pusher> = Box::new(Publisher {
                socket,
                output: Vec::new(),
                audience: self.audience.clone(),
            });
            Ok(pusher)
        })
    }

    fn opener(&self) -> Box<Opener> {
        let mut partial: HashMap<usize, Vec<u8>> = HashMap::new();
        Box::new(move |client, _, bytes, take| {
            let waiting = partial.entry(client).or_default();
            // Mostly a message is not cut, and need not be copied.
            if waiting.is_empty() {
                let taken = messages(bytes, take);
                waiting.extend_from_slice(&bytes[taken..]);
            } else {
                waiting.extend_from_slice(bytes);
                let taken = messages(waiting, take);
                waiting.drain(..taken);
            }
        })
    }
}

/// Hands out the payloads of all `MSG` that are whole, and passes over everything else. Says how many bytes that were.
fn messages(bytes: &[u8], take: &mut dyn FnMut(bool, &[u8])) -> usize {
    let mut at = 0;
    while let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
        let line = &bytes[at..at + end];
        let body = at + end + 2;
        if !line.starts_with(b"MSG ") {
            at = body;
            continue;
        }
        let length = line.rsplit(|byte| *byte == b' ').next();
        let length = length.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        // Something that is no NATS: what is missing then tells.
        let Some(length): Option<usize> = length else {
            return bytes.len();
        };
        let Some(payload) = bytes.get(body..body + length) else {
            break;
        };
        if bytes.len() < body + length + 2 {
            break;
        }
        take(false, payload);
        at = body + length + 2;
    }
    at
}

struct Publisher {
    socket: TcpStream,
    output: Vec<u8>,
    audience: Audience,
}

impl Pusher for Publisher {
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool {
        let subject = match self.audience.names(target) {
            [user] => user,
            _ => EVERYONE,
        };
        let head = format!("PUB {subject} {}\r\n", payload.len());
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(&payload);
        self.output.extend_from_slice(b"\r\n");
        self.output.len() < OUTPUT
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            let written = timeout(PATIENCE, self.socket.write_all(&self.output)).await;
            written.context("the server takes nothing for 10 s")??;
            self.output.clear();
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move {
            self.flush().await?;
            self.socket.write_all(b"PING\r\n").await?;
            let mut told = Vec::new();
            while !told.ends_with(b"PONG\r\n") {
                let read = timeout(PATIENCE, self.socket.read_buf(&mut told)).await;
                if read.context("the server does not answer")?? == 0 {
                    break;
                }
            }
            match told.windows(4).any(|four| four == b"-ERR") {
                true => bail!("the server says {}", String::from_utf8_lossy(&told)),
                false => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_wherever_they_are_cut() {
        let all = b"INFO {}\r\nMSG user-1 1 6\r\na\r\nb\r\n\r\nPING\r\nMSG user-1 1 0\r\n\r\nMSG user-1 1 2\r\nhi\r\n";
        for cut in 0..=all.len() {
            let mut found: Vec<Vec<u8>> = Vec::new();
            let mut take = |_: bool, payload: &[u8]| found.push(payload.to_vec());
            let taken = messages(&all[..cut], &mut take);
            assert_eq!(
                messages(&all[taken..], &mut take),
                all.len() - taken,
                "{cut}"
            );
            let expected: [&[u8]; 3] = [b"a\r\nb\r\n", b"", b"hi"];
            assert_eq!(found, expected, "{cut}");
        }
    }
}
