//! A generic gRPC client, as any language has one: one connection that knows nothing of shards. What is sent together
//! leaves in large DATA frames.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::ErrorKind,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::future::LocalBoxFuture;
use gateway_proto::{
    names,
    v1::{self, logic_frame, message_request::Target},
};
use h2_stream::{Client, ClientEvent, Config, Metadata, Status, StreamId};
use prost::{Message, bytes::Bytes};
use tokio::{net::TcpStream, sync::Notify, time::timeout};

use super::{Audience, Pusher};

/// Bytes that wait for the socket.
const OUTPUT: usize = 256 << 10;
const READ: usize = 64 << 10;
/// Whoever waits longer than this for the peer waits for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// One call on a connection of its own, driven by a task of the `LocalSet` in which it was opened.
pub struct Call {
    shared: Rc<Shared>,
}

struct Shared {
    state: RefCell<State>,
    /// There is something to send.
    wake: Notify,
    /// Something has come, or has left.
    moved: Notify,
    over: Cell<bool>,
}

struct State {
    client: Client,
    stream: StreamId,
    started: Instant,
    answers: VecDeque<Bytes>,
    finished: Option<Status>,
}

impl Call {
    /// Connects to `address`, and opens a call of `method` there.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn open(address: SocketAddr, method: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let started = Instant::now();
        let mut client = Client::new(Config::default(), &address.to_string(), Duration::ZERO);
        let stream = client.open(method, Metadata::new(), None, Duration::ZERO)?;
        let shared = Rc::new(Shared {
            state: RefCell::new(State {
                client,
                stream,
                started,
                answers: VecDeque::new(),
                finished: None,
            }),
            wake: Notify::new(),
            moved: Notify::new(),
            over: Cell::new(false),
        });
        tokio::task::spawn_local(drive(Rc::clone(&shared), socket));
        Ok(Self { shared })
    }

    /// Queues a message; it leaves with the next [`flush`](Call::flush). Says whether there is room for another one.
    pub fn send(&self, message: &impl Message) -> bool {
        let mut state = self.shared.state.borrow_mut();
        let stream = state.stream;
        state.client.send(stream, message) && state.client.can_send(stream)
    }

    /// Gets what is queued on its way, and waits until there is room.
    ///
    /// # Errors
    /// The call is over, or the peer takes nothing for 10 s.
    pub async fn flush(&self) -> anyhow::Result<()> {
        self.shared.wake.notify_one();
        self.until(|state| state.client.can_send(state.stream).then_some(()))
            .await
    }

    /// Says that nothing more comes, and waits for the answer to all of it.
    ///
    /// # Errors
    /// The peer refuses it, or does not answer within 10 s.
    pub async fn close<M: Message + Default>(&self) -> anyhow::Result<M> {
        {
            let mut state = self.shared.state.borrow_mut();
            let stream = state.stream;
            state.client.half_close(stream);
        }
        self.shared.wake.notify_one();
        loop {
            // Not borrowed any longer than this.
            let finished = self.shared.state.borrow().finished.clone();
            if let Some(status) = finished {
                if !status.is_ok() {
                    bail!("the call ended with {status:?}");
                }
                let answer = self.shared.state.borrow_mut().answers.pop_front();
                return Ok(M::decode(answer.context("no answer")?)?);
            }
            timeout(PATIENCE, self.shared.moved.notified())
                .await
                .context("no answer")?;
        }
    }

    /// The next message from the peer.
    ///
    /// # Errors
    /// The call is over, or nothing comes within 10 s.
    pub async fn answer<M: Message + Default>(&self) -> anyhow::Result<M> {
        let answer = self.until(|state| state.answers.pop_front()).await?;
        Ok(M::decode(answer)?)
    }

    /// The last message that has come; those before it are forgotten.
    pub fn last_answer(&self) -> Option<Bytes> {
        let answers = std::mem::take(&mut self.shared.state.borrow_mut().answers);
        answers.into_iter().next_back()
    }

    async fn until<T>(&self, look: impl Fn(&mut State) -> Option<T>) -> anyhow::Result<T> {
        loop {
            {
                let mut state = self.shared.state.borrow_mut();
                if let Some(found) = look(&mut state) {
                    return Ok(found);
                }
                if let Some(status) = &state.finished {
                    bail!("the call is over: {status:?}");
                }
            }
            timeout(PATIENCE, self.shared.moved.notified())
                .await
                .context("the peer does nothing for 10 s")?;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.shared.over.set(true);
        self.shared.wake.notify_one();
    }
}

/// Moves the bytes of a call until it is dropped or lost.
async fn drive(shared: Rc<Shared>, socket: TcpStream) {
    let mut buffer = vec![0; READ];
    let mut output = Vec::new();
    while !shared.over.get() {
        let open = shared
            .state
            .borrow_mut()
            .turn(&socket, &mut buffer, &mut output);
        shared.moved.notify_one();
        if !open {
            return;
        }
        tokio::select! {
            _ = socket.readable() => {}
            _ = socket.writable(), if !output.is_empty() => {}
            () = shared.wake.notified() => {}
        }
    }
}

impl State {
    /// Moves what can be moved, and does not wait. Says whether the connection is still open.
    fn turn(&mut self, socket: &TcpStream, buffer: &mut [u8], output: &mut Vec<u8>) -> bool {
        let now = self.started.elapsed();
        match socket.try_read(buffer) {
            Ok(0) => self.client.receive_eof(now),
            Ok(n) => self.client.receive(now, &buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.client.receive_eof(now),
        }
        self.client.handle_timeout(now);
        while let Some(event) = self.client.poll_event(now) {
            match event {
                ClientEvent::Message {
                    id,
                    message,
                    credit,
                } => {
                    self.client.release(id, credit);
                    self.answers.push_back(message);
                }
                ClientEvent::Finished { status, .. } => self.finished = Some(status),
                _ => {}
            }
        }
        loop {
            while output.len() < OUTPUT && self.client.write_output(output, READ) > 0 {}
            match socket.try_write(output) {
                Ok(0) | Err(_) => break,
                Ok(n) => drop(output.drain(..n)),
            }
        }
        !self.client.is_closed()
    }
}

/// Pushes by `PushStream`, one message a push; or by `Exchange`, many in a batch.
pub struct Generic {
    call: Call,
    audience: Audience,
    /// `Exchange`, with so many messages in a batch.
    batch: Option<usize>,
    waiting: Vec<v1::MessageRequest>,
    sequence: u64,
}

impl Generic {
    /// By `PushStream`.
    ///
    /// # Errors
    /// Nobody listens at `address`.
    pub async fn push_stream(address: SocketAddr, audience: Audience) -> anyhow::Result<Self> {
        Ok(Self {
            call: Call::open(address, names::PUSH_STREAM).await?,
            audience,
            batch: None,
            waiting: Vec::new(),
            sequence: 0,
        })
    }

    /// By `Exchange` of GATEWAY scope, `batch` messages at a time.
    ///
    /// # Errors
    /// No gateway welcomes it at `address`.
    pub async fn exchange(
        address: SocketAddr,
        audience: Audience,
        batch: usize,
    ) -> anyhow::Result<Self> {
        let call = Call::open(address, names::EXCHANGE).await?;
        let _ = call.send(&frame(
            0,
            logic_frame::Body::Hello(v1::Hello {
                scope: v1::Scope::Gateway.into(),
                ..v1::Hello::default()
            }),
        ));
        call.flush().await?;
        let welcome: v1::GatewayFrame = call.answer().await?;
        if !matches!(welcome.body, Some(v1::gateway_frame::Body::Welcome(_))) {
            bail!("the gateway answers Hello with {welcome:?}");
        }
        Ok(Self {
            call,
            audience,
            batch: Some(batch),
            waiting: Vec::new(),
            sequence: 0,
        })
    }

    fn send_batch(&mut self) -> bool {
        self.sequence += 1;
        let messages = std::mem::take(&mut self.waiting);
        let batch = v1::PushBatch { messages };
        self.call
            .send(&frame(self.sequence, logic_frame::Body::Batch(batch)))
    }
}

impl Pusher for Generic {
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool {
        let to = match self.audience.names(target) {
            _ if self.audience.is_everyone() => Target::Everyone(v1::Everyone {}),
            [user] => Target::UserId(user.clone()),
            users => Target::Users(v1::Users {
                user_ids: users.iter().map(Into::into).collect(),
            }),
        };
        let request = v1::MessageRequest {
            payload: payload.into(),
            kind: v1::PayloadKind::Binary.into(),
            delivery: None,
            target: Some(to),
        };
        let Some(batch) = self.batch else {
            return self.call.send(&request);
        };
        self.waiting.push(request);
        self.waiting.len() < batch || self.send_batch()
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            if !self.waiting.is_empty() {
                let _ = self.send_batch();
            }
            // Acks tell nothing that the clients do not; what is refused never arrives.
            let _ = self.call.last_answer();
            self.call.flush().await
        })
    }

    fn finish(self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move {
            if self.batch.is_some() {
                return Ok(());
            }
            let answer: v1::MessageResponse = self.call.close().await?;
            match (answer.rejected, answer.no_target, answer.dropped) {
                (0, 0, 0) => Ok(()),
                _ => bail!("the peer answers {answer:?}"),
            }
        })
    }
}

fn frame(sequence: u64, body: logic_frame::Body) -> v1::LogicFrame {
    v1::LogicFrame {
        sequence,
        body: Some(body),
    }
}
