//! What the mesh is compared with: a push as an HTTP/1.1 request with JSON, on connections that are kept.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::{pace::pace, witness::Window};

/// What the receiving side prints when it listens, before its address.
const READY: &str = "rest ready address=";
/// Pushes that wait for the connections of one receiver; then whoever pushes waits.
const QUEUE: usize = 256;
/// Whoever waits longer than this for an answer has lost it.
const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST: u64 = 120_000_000_000;

/// The body of a request.
#[derive(Serialize, Deserialize)]
struct Json<'a> {
    user: &'a str,
    payload: &'a str,
}

/// Takes pushes until the process is killed: reads the body, checks that it is a push for somebody, answers 202. It delivers
/// nothing.
///
/// # Errors
/// It cannot listen.
pub fn serve() -> anyhow::Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{READY}{}", listener.local_addr()?)?;
        stdout.flush()?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            // A connection that breaks concerns only who made it.
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(take)),
            );
        }
    })
}

async fn take(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let good = serde_json::from_slice::<Json<'_>>(&body)
        .is_ok_and(|push| !push.user.is_empty() && !push.payload.is_empty());
    let mut response = Response::new(Empty::new());
    *response.status_mut() = match good {
        true => StatusCode::ACCEPTED,
        false => StatusCode::BAD_REQUEST,
    };
    Ok(response)
}

/// A receiving side in a process of its own; it is killed when this is dropped.
pub struct Receiver {
    child: Child,
    address: SocketAddr,
}

impl Receiver {
    /// Starts `program`, which is `ringway-bench`, and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started, or ends.
    pub fn start(program: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg("rest-receiver").stdout(Stdio::piped());
        let mut child = command.stdin(Stdio::null()).spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        match line.trim().strip_prefix(READY) {
            Some(address) => Ok(Self {
                child,
                address: address.parse()?,
            }),
            None => bail!("the receiver ended before it was ready: {}", child.wait()?),
        }
    }

    /// The id of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes to receivers, one after the other.
pub struct Sender {
    queues: Vec<mpsc::Sender<Push>>,
    shared: Arc<Shared>,
    payload: String,
    users: u64,
    sent: u64,
}

struct Push {
    body: String,
    stamp: Instant,
}

struct Shared {
    latency: Mutex<Histogram<u64>>,
    answered: AtomicU64,
    progress: Notify,
}

impl Sender {
    /// Opens `connections` to each receiver. `users` are to be pushed to by turns, with `payload` bytes.
    ///
    /// # Errors
    /// A receiver cannot be reached.
    pub async fn connect(
        receivers: &[Receiver],
        connections: usize,
        users: u64,
        payload: usize,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            latency: Mutex::new(Histogram::new_with_bounds(1, LONGEST, 3)?),
            answered: AtomicU64::new(0),
            progress: Notify::new(),
        });
        let mut queues = Vec::new();
        for receiver in receivers {
            let (queue, waiting) = mpsc::channel(QUEUE);
            let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
            for _ in 0..connections {
                let socket = TcpStream::connect(receiver.address).await?;
                socket.set_nodelay(true)?;
                let (requests, connection) = handshake(TokioIo::new(socket)).await?;
                tokio::spawn(connection);
                tokio::spawn(work(
                    requests,
                    receiver.address.to_string(),
                    Arc::clone(&waiting),
                    Arc::clone(&shared),
                ));
            }
            queues.push(queue);
        }
        Ok(Self {
            queues,
            shared,
            payload: "x".repeat(payload),
            users,
            sent: 0,
        })
    }

    /// As [`Sender::paced`](crate::witness::Sender::paced); latency ends with the answer.
    ///
    /// # Errors
    /// Answers do not come.
    pub async fn paced(&mut self, rate: f64, length: Duration) -> anyhow::Result<Window> {
        self.shared.latency().reset();
        let before = self.sent;
        let pushing = pace(rate, length, async |stamp, due| {
            for _ in 0..due {
                self.push(stamp).await?;
            }
            Ok(())
        });
        let pushing = pushing.await?;
        self.all_answered().await?;
        Ok(Window {
            latency: self.shared.latency().clone(),
            messages: self.sent - before,
            pushing,
        })
    }

    async fn push(&mut self, stamp: Instant) -> anyhow::Result<()> {
        let user = format!("witness-{}", self.sent % self.users);
        let body = serde_json::to_string(&Json {
            user: &user,
            payload: &self.payload,
        })?;
        let queue = &self.queues[(self.sent % self.queues.len() as u64) as usize];
        self.sent += 1;
        let sent = queue.send(Push { body, stamp }).await;
        sent.ok().context("all connections to a receiver are gone")
    }

    async fn all_answered(&self) -> anyhow::Result<()> {
        loop {
            let progress = self.shared.progress.notified();
            let answered = self.shared.answered.load(Relaxed);
            if answered >= self.sent {
                return Ok(());
            }
            let waited = timeout(PATIENCE, progress).await;
            waited.with_context(|| format!("{answered} of {} answers have come", self.sent))?;
        }
    }
}

impl Shared {
    fn latency(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection does: one request after the other.
async fn work(
    mut requests: SendRequest<Full<Bytes>>,
    host: String,
    waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Push>>>,
    shared: Arc<Shared>,
) -> anyhow::Result<()> {
    loop {
        let Some(push) = waiting.lock().await.recv().await else {
            return Ok(());
        };
        let request = Request::post("/push")
            .header(HOST, host.as_str())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(push.body.into()))?;
        requests.ready().await?;
        let answer = requests.send_request(request).await?;
        if answer.status() != StatusCode::ACCEPTED {
            bail!("{host} answers {}", answer.status());
        }
        answer.into_body().collect().await?;
        let nanos = push.stamp.elapsed().as_nanos() as u64;
        shared.latency().saturating_record(nanos);
        shared.answered.fetch_add(1, Relaxed);
        shared.progress.notify_one();
    }
}
