//! Pushpin: a channel for each target, published to by HTTP, many messages in a request. It asks an origin what to do with each
//! WebSocket; the origin is ours.

use std::{
    collections::HashSet, fs, net::SocketAddr, path::PathBuf, process::Command, rc::Rc,
    time::Duration,
};

use anyhow::{Context, bail};
use data_encoding::BASE64;
use futures_util::future::LocalBoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    Audience, Door, Opener, Peer, Pusher, Stage,
    foreign::{DESCRIPTORS, Folder, lets_in, version},
};
use crate::{debian, process::Process};

mod origin;

use origin::Origin;

const PACKAGE: &str = "pushpin";
const CONFIGURATION: &str = include_str!("../../peers/pushpin.conf");
/// The channel of all.
const EVERYONE: &str = "everyone";
/// Bytes of a request.
const BODY: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it has to let a client in.
const ATTEMPT: Duration = Duration::from_secs(1);
/// How long it has to end its processes.
const FAREWELL: Duration = Duration::from_secs(5);
/// What is published until everybody hears it; it is no message.
const PROBE: &[u8] = b"probe";
/// Time between two probes.
const PROBING: Duration = Duration::from_millis(200);

/// The processes, and where they listen.
pub struct Pushpin {
    runner: Process,
    program: PathBuf,
    clients: SocketAddr,
    publishers: SocketAddr,
    audience: Audience,
    heard: Rc<Heard>,
    _origin: Origin,
    folder: Folder,
}

/// Who has heard a probe.
#[derive(Default)]
struct Heard {
    clients: std::cell::RefCell<HashSet<usize>>,
    news: Notify,
}

impl Pushpin {
    /// Starts it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        let audience = stage.audience.clone();
        if audience.members > 1 && !audience.is_everyone() {
            bail!("Pushpin knows users and everyone, not groups of users");
        }
        let program = debian::program("pushpin", PACKAGE)?;
        let (folder, origin) = (Folder::new("pushpin")?, Origin::start()?);
        let clients = debian::free_address()?;
        let publishers = debian::free_address()?;
        folder.fill(
            "routes",
            "* {{origin}},over_http\n",
            &[("origin", &origin.address.to_string())],
        )?;
        let values = [
            ("folder", &*folder.path().to_string_lossy()),
            ("clients", &*clients.to_string()),
            ("host", &*publishers.ip().to_string()),
            ("port", &*publishers.port().to_string()),
            ("descriptors", DESCRIPTORS),
        ];
        let configuration = folder.fill("pushpin.conf", CONFIGURATION, &values)?;
        let mut command = Command::new(&program);
        command.arg(format!("--config={}", configuration.display()));
        let mut pushpin = Self {
            runner: Process::start(&mut command, &stage.places.server)?,
            program,
            clients,
            publishers,
            audience,
            heard: Rc::default(),
            _origin: origin,
            folder,
        };
        // From here on it ends with all its processes, whatever happens.
        let serves = pushpin.serves();
        serves.map_err(|error| pushpin.folder.with_logs(&error))?;
        Ok(pushpin)
    }

    /// Waits until a client gets in. While its helpers find each other, Pushpin listens and answers 502; or it answers nothing for
    /// half a minute, when zurl has published what the origin said before the proxy had subscribed to it.
    fn serves(&mut self) -> anyhow::Result<()> {
        for address in [self.clients, self.publishers] {
            self.runner.listens(address, PATIENCE)?;
        }
        lets_in(self.clients, &format!("/{EVERYONE}"), ATTEMPT, PATIENCE)
    }

    /// Publishes probes until all clients have heard one: what is published before that may be for nobody.
    async fn all_listen(&self, publisher: &mut Publisher) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let deaf: Vec<_> = {
                let heard = self.heard.clients.borrow();
                (0..self.audience.users())
                    .filter(|user| !heard.contains(user))
                    .collect()
            };
            if deaf.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} clients hear nothing", deaf.len());
            }
            for user in &deaf {
                let _ = publisher.push(user / self.audience.members, PROBE.to_vec());
            }
            publisher.flush().await?;
            let until = Instant::now() + PROBING;
            while self.heard.clients.borrow().len() < self.audience.users() {
                if tokio::time::timeout_at(until, self.heard.news.notified())
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
    }
}

impl Peer for Pushpin {
    fn about(&self) -> String {
        version(&self.program, "--version")
    }

    /// The runner and what it has started.
    fn pids(&self) -> Vec<u32> {
        let runner = self.runner.pid();
        let children = fs::read_to_string(format!("/proc/{runner}/task/{runner}/children"));
        let children = children.unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        std::iter::once(runner).chain(children).collect()
    }

    fn door(&self, user: &str) -> Door {
        let channel = match self.audience.is_everyone() {
            true => EVERYONE,
            false => user,
        };
        Door {
            address: self.clients,
            target: format!("/{channel}"),
            greeting: Vec::new(),
        }
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async {
            let mut publisher = Publisher {
                address: self.publishers,
                items: String::new(),
                audience: self.audience.clone(),
            };
            let listen = self.all_listen(&mut publisher).await;
            listen.map_err(|error| self.folder.with_logs(&error))?;
            let pusher: Box<dyn Pusher> = Box::new(publisher);
            Ok(pusher)
        })
    }

    fn opener(&self) -> Box<Opener> {
        let heard = Rc::clone(&self.heard);
        Box::new(move |client, text, payload, take| match payload == PROBE {
            true => {
                heard.clients.borrow_mut().insert(client);
                heard.news.notify_one();
            }
            false => take(text, payload),
        })
    }
}

impl Drop for Pushpin {
    fn drop(&mut self) {
        // Killed, it would leave its children behind.
        let runner = i32::try_from(self.runner.pid())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(runner) = runner
            && kill_process(runner, Signal::TERM).is_ok()
            && let Err(error) = self.runner.wait(FAREWELL)
        {
            eprintln!("ringway-bench: {error:#}");
        }
    }
}

struct Publisher {
    address: SocketAddr,
    items: String,
    audience: Audience,
}

impl Pusher for Publisher {
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool {
        let channel = match self.audience.names(target) {
            [user] => user,
            _ => EVERYONE,
        };
        if !self.items.is_empty() {
            self.items.push(',');
        }
        // Neither needs escapes.
        let content = BASE64.encode(&payload);
        let item = format!(
            "{{\"channel\":\"{channel}\",\"formats\":{{\"ws-message\":{{\"content-bin\":\"{content}\"}}}}}}"
        );
        self.items.push_str(&item);
        self.items.len() < BODY
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            if self.items.is_empty() {
                return Ok(());
            }
            let body = format!("{{\"items\":[{}]}}", std::mem::take(&mut self.items));
            let published = timeout(PATIENCE, publish(self.address, &body)).await;
            published.context("Pushpin does not answer")?
        })
    }

    fn finish(mut self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move { self.flush().await })
    }
}

/// It takes one request on a connection.
async fn publish(address: SocketAddr, body: &str) -> anyhow::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let head = format!(
        "POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => bail!("Pushpin answers {}", String::from_utf8_lossy(&answer)),
    }
}
