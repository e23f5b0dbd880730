//! Queues between shards.
//!
//! Every shard has two lanes into it. *Work* carries commands and client events; it is bounded in batches, and what
//! does not fit stays with its sender, whose reading stops. *Replies* carries answers and notices; nobody waits for
//! room in it while holding up work, so two shards with full work lanes cannot block each other. Sending never waits.

use std::{sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use gateway_proto::v1::gateway_frame::Body as Event;

use crate::{
    command::{Command, Outcome},
    config,
    identity::{ConnId, LinkId, ShardIndex},
};

/// A gRPC stream of a link, on its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamRef {
    /// The link.
    pub link: LinkId,
    /// The HTTP/2 stream id.
    pub stream: u32,
}

/// A stream that receives client events, wherever it is. A newer stream that takes its place keeps its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReceiverRef {
    /// The shard that has the stream.
    pub shard: ShardIndex,
    /// The stream there.
    pub stream: StreamRef,
}

/// Work for another shard; a batch each.
#[derive(Debug)]
pub enum Work {
    /// Commands from streams of GATEWAY scope on this shard.
    Commands(ShardIndex, Vec<Forward>),
    /// Client events for a stream of GATEWAY scope.
    Events(Vec<RemoteEvent>),
    /// A stream of GATEWAY scope has ended: what it had of this shard's clients and was not acknowledged, in order.
    Returned(ReceiverRef, Vec<Upward>),
    /// A part of a shard's directory for a stream of GATEWAY scope. The next one comes after
    /// [`Notice::DirectoryRoom`].
    Directory {
        /// The shard whose directory it is.
        from: ShardIndex,
        /// The stream.
        to: StreamRef,
        /// In order.
        frames: Vec<Event>,
    },
}

/// One command for another shard, or a convoy.
#[derive(Debug)]
pub struct Forward {
    /// The job at the sender that wants to know what became of it. `None`: nobody does.
    pub job: Option<u64>,
    /// What to do.
    pub command: Command,
}

impl Forward {
    /// How many messages it brings, or 1.
    #[must_use]
    pub fn messages(&self) -> usize {
        match &self.command {
            Command::Convoy(convoy) => convoy.len(),
            _ => 1,
        }
    }
}

/// One client event for a stream of another shard.
#[derive(Debug)]
pub struct RemoteEvent {
    /// The stream.
    pub to: StreamRef,
    /// What; or the shard that sends it nothing more, because it has ended.
    pub item: Result<Upward, ShardIndex>,
}

/// Something on its way to a service.
#[derive(Debug)]
pub enum Upward {
    /// What a connection did.
    Event(ConnId, Event),
    /// The place where a connection waits for an acknowledgement of all before.
    Settle(ConnId),
}

impl Upward {
    /// The connection it comes from.
    #[must_use]
    pub fn conn(&self) -> ConnId {
        match self {
            Self::Event(conn, _) | Self::Settle(conn) => *conn,
        }
    }
}

/// Answers and notices for another shard.
#[derive(Debug)]
pub enum Notice {
    /// What became of forwarded commands.
    Reply(Box<Reply>),
    /// The last event of these connections is acknowledged.
    Left(Vec<ConnId>),
    /// A stream of GATEWAY scope wants the client events of `service`.
    ReceiverUp {
        /// The consumer group.
        service: Arc<str>,
        /// The stream.
        receiver: ReceiverRef,
        /// It acknowledges what it has handled.
        acks: bool,
    },
    /// It is gone. What it was sent last by the receiving shard, that shard gets back ([`Work::Returned`]) once it has
    /// said that it sends no more ([`RemoteEvent`]).
    ReceiverDown(ReceiverRef),
    /// The stream has no room, or has room again.
    ReceiverFull {
        /// The stream.
        receiver: ReceiverRef,
        /// Whether it has no room.
        full: bool,
    },
    /// A stream of GATEWAY scope wants to know who is online.
    DirectoryUp(ReceiverRef),
    /// It is gone.
    DirectoryDown(ReceiverRef),
    /// It has taken what it was sent, and has room for more.
    DirectoryRoom(ReceiverRef),
    /// A shard's part of the answer to a query.
    Answer(Box<Answer>),
    /// The shard goes away and has come so far.
    Drain(Milestone),
}

/// What shards tell each other when they go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// The last connection of the shard is gone.
    Deserted,
    /// Its last link is gone.
    Ended,
}

/// What became of forwarded commands of one job.
#[derive(Debug, Default)]
pub struct Reply {
    /// The job at the shard that forwarded.
    pub job: u64,
    /// How many forwarded commands this answers.
    pub answered: u32,
    /// Outboxes reached.
    pub delivered: u64,
    /// Deliveries by outcome, indexed by `Outcome as usize`.
    pub outcomes: [u64; Outcome::COUNT],
    /// The connections by outcome, where asked for.
    pub targets: Vec<(u8, ConnId)>,
}

/// What is known in answer to a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The query, as the shard that sums up calls it.
    pub query: u64,
    /// At most [`MOST_CONNECTIONS`].
    pub connections: Vec<ConnId>,
    /// How many users it speaks of.
    pub users: u64,
    /// How many connections it speaks of.
    pub connection_count: u64,
    /// There are more connections than are named.
    pub truncated: bool,
}

/// Most connections named in one answer (`QueryResult.connections`).
pub const MOST_CONNECTIONS: usize = 10_000;

/// A shard's ends of all lanes.
#[derive(Debug)]
pub struct Lanes {
    index: ShardIndex,
    /// With the time at which it was sent.
    work: Receiver<(Duration, Work)>,
    notices: Receiver<Notice>,
    to: Vec<Port>,
    now: Duration,
    /// Shards that have got something since the last [`Lanes::take_wakes`].
    wakes: Vec<ShardIndex>,
}

#[derive(Clone, Debug)]
struct Port {
    work: Sender<(Duration, Work)>,
    notices: Sender<Notice>,
}

/// Room for notices per batch of work: each batch may bring a reply for each of its messages.
const NOTICES_PER_BATCH: usize = 64;

/// The lanes of a gateway of `shards` shards: for each its ends.
#[must_use]
pub fn lanes(shards: ShardIndex, config: &config::Lanes) -> Vec<Lanes> {
    let mut ports = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..shards {
        let (work_in, work) = bounded(config.batches);
        let (notices_in, notices) = bounded(config.batches * NOTICES_PER_BATCH);
        ports.push(Port {
            work: work_in,
            notices: notices_in,
        });
        ends.push((work, notices));
    }
    ends.into_iter()
        .zip(0..)
        .map(|((work, notices), index)| Lanes {
            index,
            work,
            notices,
            to: ports.clone(),
            now: Duration::ZERO,
            wakes: Vec::new(),
        })
        .collect()
}

impl Lanes {
    /// The shard these ends belong to.
    #[must_use]
    pub fn index(&self) -> ShardIndex {
        self.index
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> ShardIndex {
        self.to.len() as ShardIndex
    }

    /// All shards but this one.
    pub fn others(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        let index = self.index;
        (0..self.shards()).filter(move |shard| *shard != index)
    }

    /// Sends a batch of work, or gives it back when the lane is full.
    ///
    /// # Errors
    /// The batch, when the lane is full. It is dropped when the other shard has ended.
    pub fn send_work(&mut self, to: ShardIndex, work: Work) -> Result<(), Work> {
        match self.to[usize::from(to)].work.try_send((self.now, work)) {
            Err(TrySendError::Full((_, work))) => Err(work),
            Ok(()) | Err(TrySendError::Disconnected(_)) => {
                self.wake(to);
                Ok(())
            }
        }
    }

    /// Sends a notice, or gives it back when there is no room.
    ///
    /// # Errors
    /// The notice, when the lane is full. It is dropped when the other shard has ended.
    pub fn send_notice(&mut self, to: ShardIndex, notice: Notice) -> Result<(), Notice> {
        match self.to[usize::from(to)].notices.try_send(notice) {
            Err(TrySendError::Full(notice)) => Err(notice),
            Ok(()) | Err(TrySendError::Disconnected(_)) => {
                self.wake(to);
                Ok(())
            }
        }
    }

    /// A tick begins: the time that goes with what is sent from now on.
    pub fn new_tick(&mut self, now: Duration) {
        self.now = now;
    }

    /// The next batch of work for this shard, and how long it has waited.
    pub fn next_work(&self) -> Option<(Duration, Work)> {
        let (sent, work) = self.work.try_recv().ok()?;
        Some((self.now.saturating_sub(sent), work))
    }

    /// Batches of work that wait for this shard.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.work.len()
    }

    /// The next notice for this shard.
    pub fn next_notice(&self) -> Option<Notice> {
        self.notices.try_recv().ok()
    }

    /// Whether something waits for this shard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.work.is_empty() && self.notices.is_empty()
    }

    /// The shards to be woken: at most once each since the last call.
    pub fn take_wakes(&mut self) -> std::vec::Drain<'_, ShardIndex> {
        self.wakes.drain(..)
    }

    fn wake(&mut self, shard: ShardIndex) {
        if !self.wakes.contains(&shard) {
            self.wakes.push(shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Lanes, Lanes) {
        let config = config::Lanes {
            batches: 1,
            ..Default::default()
        };
        let mut ends = lanes(2, &config).into_iter();
        match (ends.next(), ends.next()) {
            (Some(a), Some(b)) => (a, b),
            _ => unreachable!("two shards were asked for"),
        }
    }

    #[test]
    fn full_lane_gives_the_batch_back() {
        let (mut a, b) = pair();
        assert!(a.send_work(1, Work::Commands(0, Vec::new())).is_ok());
        assert!(a.send_work(1, Work::Commands(0, Vec::new())).is_err());
        assert!(b.next_work().is_some());
        assert!(a.send_work(1, Work::Commands(0, Vec::new())).is_ok());
    }

    #[test]
    fn full_work_lane_leaves_room_for_notices() {
        let (mut a, b) = pair();
        assert!(a.send_work(1, Work::Commands(0, Vec::new())).is_ok());
        assert!(a.send_notice(1, Notice::Reply(Box::default())).is_ok());
        assert!(b.next_notice().is_some());
    }

    #[test]
    fn a_shard_is_woken_once_however_much_it_got() {
        let (mut a, _b) = pair();
        for _ in 0..3 {
            assert!(a.send_notice(1, Notice::Reply(Box::default())).is_ok());
        }
        assert_eq!(a.take_wakes().collect::<Vec<_>>(), [1]);
        assert_eq!(a.take_wakes().count(), 0);
    }
}
