//! Takes pushes to one shard: over one HTTP/2 connection to the shard's own port, made when there is something to push.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    task::Poll,
    time::{Duration, Instant},
};

use gateway_proto::{
    names,
    v1::{MessageRequest, MessageResponse},
};
use h2_stream::{ClientEvent, Code, Metadata, Status, StreamId};
use prost::{Message, bytes::Bytes};
use tokio::sync::{mpsc, oneshot};

use crate::control::loopback::Link;

/// Calls under way at a time; others wait.
const CALLS: usize = 256;
/// Longest answer: five counts.
const MAX_ANSWER: usize = 4 << 10;

/// One push, and who waits for what becomes of it.
pub(super) struct Job {
    pub(super) request: MessageRequest,
    /// When nobody waits any more.
    pub(super) until: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// The counts, or why there are none.
pub(super) type Answer = Result<MessageResponse, NoAnswer>;

/// Why a push has no counts.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The shard says no.
    Refused(Status),
    /// Nothing was sent.
    Unreachable(String),
    /// It was sent, and nobody says what became of it.
    Lost(String),
}

/// Takes jobs to the shard at `address` until nobody gives any more.
pub(super) async fn run(address: SocketAddr, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.recv().await {
        match Link::connect(address, MAX_ANSWER).await {
            Ok(link) => {
                let mut round = Round {
                    link,
                    calls: HashMap::new(),
                    leaving: false,
                    over: false,
                };
                round.begin(first);
                round.serve(&mut jobs).await;
            }
            Err(error) => {
                // Whoever asked may have left.
                let _ = first
                    .answer
                    .send(Err(NoAnswer::Unreachable(error.to_string())));
            }
        }
    }
}

/// The life of one connection.
struct Round {
    link: Link,
    calls: HashMap<StreamId, Call>,
    /// The shard takes no new calls.
    leaving: bool,
    over: bool,
}

struct Call {
    answer: oneshot::Sender<Answer>,
    message: Option<Bytes>,
}

impl Round {
    /// Serves until the connection is over.
    async fn serve(&mut self, jobs: &mut mpsc::Receiver<Job>) {
        loop {
            if let Err(error) = self.turn() {
                return self.lost(&error.to_string());
            }
            if self.over || self.leaving && self.calls.is_empty() {
                return;
            }
            let room = !self.leaving && self.calls.len() < CALLS;
            tokio::select! {
                job = jobs.recv(), if room => match job {
                    Some(job) => self.begin(job),
                    None => return,
                },
                () = self.ready() => {}
            }
            while !self.leaving && self.calls.len() < CALLS {
                match jobs.try_recv() {
                    Ok(job) => self.begin(job),
                    Err(_) => break,
                }
            }
        }
    }

    fn begin(&mut self, job: Job) {
        let left = job.until.saturating_duration_since(Instant::now());
        if left.is_zero() || job.answer.is_closed() {
            return;
        }
        let now = self.link.now();
        let client = &mut self.link.client;
        match client.open(names::PUSH, Metadata::new(), Some(left), now) {
            Ok(call) => {
                client.send(call, &job.request);
                client.half_close(call);
                let (answer, message) = (job.answer, None);
                self.calls.insert(call, Call { answer, message });
            }
            Err(error) => {
                let error = NoAnswer::Unreachable(error.to_string());
                let _ = job.answer.send(Err(error));
            }
        }
    }

    /// Moves what can be moved.
    fn turn(&mut self) -> std::io::Result<()> {
        self.link.receive()?;
        while let Some(event) = self.link.poll_event() {
            self.handle(event);
        }
        self.link.transmit()
    }

    fn handle(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Message {
                id,
                message,
                credit,
            } => {
                self.link.client.release(id, credit);
                if let Some(call) = self.calls.get_mut(&id) {
                    call.message = Some(message);
                }
            }
            ClientEvent::Finished { id, status, told } => {
                if let Some(call) = self.calls.remove(&id) {
                    let _ = call.answer.send(answer(status, told, call.message));
                }
            }
            ClientEvent::GoAway { .. } => self.leaving = true,
            ClientEvent::ConnectionLost { .. } => self.over = true,
            _ => {}
        }
    }

    fn lost(&mut self, reason: &str) {
        for (_, call) in self.calls.drain() {
            let _ = call.answer.send(Err(NoAnswer::Lost(reason.to_owned())));
        }
    }

    /// Waits until there is something to read, room for what is to be written, or a deadline.
    async fn ready(&self) {
        let now = self.link.now();
        let deadline = self.link.next_deadline();
        let wait = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(now));
        let moved = poll_fn(|cx| match self.link.poll_ready(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        // Both mean: take the next turn.
        let _ = tokio::time::timeout(wait, moved).await;
    }
}

fn answer(status: Status, told: bool, message: Option<Bytes>) -> Answer {
    match (status.code, message) {
        (Code::Ok, Some(message)) => MessageResponse::decode(message)
            .map_err(|error| NoAnswer::Lost(format!("the shard's answer is no protobuf: {error}"))),
        (Code::Ok, None) => Err(NoAnswer::Lost(
            "the shard's answer has no message".to_owned(),
        )),
        _ if told => Err(NoAnswer::Refused(status)),
        _ => Err(NoAnswer::Lost(status.message)),
    }
}
