//! What a runner does with its connections.

use std::sync::Arc;
use std::time::Duration;

use crate::core::inbox::Delivery;
use crate::core::queue::Ending;
use crate::core::runner::{Runner, Wish, unreachable};
use crate::core::stream::{self, Loss, Output};
use crate::event::{Notice, What};

/// How long a stream to a shard that is no more waits for answers to what it has sent.
const RETIRE: Duration = Duration::from_secs(5);

/// How long a gateway that is to leave stays when none can take its place, before that is tried again.
const STAY: Duration = Duration::from_secs(1);

/// How long a connection that was replaced is read, if the gateway does not end it.
const LINGER: Duration = Duration::from_secs(1);

impl Runner {
    /// Gives up what takes too long; says whether that was anything.
    pub(super) fn time_out(&mut self, now: Duration) -> bool {
        if self.stream.next_deadline().is_none_or(|at| now < at) {
            return false;
        }
        if let Err((run, error)) = self.stream.handle_timeout(now) {
            let at = self
                .connections
                .iter()
                .position(|known| known.link.run() == run);
            if let Some(at) = at {
                self.lose(now, at, Loss::broken(error));
            }
        }
        self.pass_on(now);
        true
    }

    /// Speaks on the connections; says whether anything moved.
    pub(super) fn serve(&mut self, now: Duration) -> bool {
        let open = self.stream.open_run();
        let Some(mut busy) = self.obey(now) else {
            self.end(now);
            return true;
        };
        let mut at = 0;
        while let Some(connection) = self.connections.get_mut(at) {
            let polled = connection.link.poll(&mut self.stream, now);
            let heard = std::mem::take(&mut connection.heard);
            let is_finishing = connection.link.is_finishing();
            let moved = heard || matches!(polled, Ok(true));
            let failure = connection.failure.as_ref().filter(|_| !moved);
            let failure = failure.map(|reason| unreachable(&connection.address, reason));
            let old = connection.until.is_some_and(|until| until <= now);
            let old = old.then(|| unreachable(&connection.address, &"it was replaced"));
            self.pass_on(now);
            busy |= moved;
            let loss = match polled {
                Ok(_) => failure.or(old).map(Loss::broken),
                Err(_) if is_finishing => {
                    self.end(now);
                    return true;
                }
                Err(loss) => Some(loss),
            };
            match loss {
                Some(loss) => {
                    busy = true;
                    self.lose(now, at, loss);
                }
                None => at += 1,
            }
        }
        if self.stream.open_run() != open {
            self.opened(now);
        }
        busy
    }

    /// Another connection is the open one now, or none. Those it has replaced are read a little
    /// longer.
    fn opened(&mut self, now: Duration) {
        let Some(open) = self.stream.open_run() else {
            return;
        };
        self.replacement.opened(now);
        self.queue.set_reachable(true);
        for connection in &mut self.connections {
            if connection.link.run() < open {
                connection.until.get_or_insert(now + LINGER);
            }
        }
    }

    /// A connection is over.
    fn lose(&mut self, now: Duration, at: usize, loss: Loss) {
        let lost = self.connections.remove(at);
        self.wishes.push_back(Wish::Close {
            connection: lost.id,
        });
        let expected = lost.until.is_some() || loss.ending == stream::Ending::Replaced;
        if !expected {
            self.since = now;
            self.queue.publish_error(loss.error.clone());
        }
        let was_open = self.stream.is_open();
        self.stream.lost(now, lost.link.run(), loss);
        if self.stream.is_open() && lost.until.is_none() {
            self.replacement.failed(now);
        }
        self.pass_on(now);
        if !was_open {
            self.is_out_of_reach(now);
        }
        if !self.stream.is_open() {
            self.is_down();
        }
        self.queue.publish(&mut self.stream);
    }

    /// Does what the application wants; says whether that was anything, and `None` when the
    /// stream is to end at once.
    fn obey(&mut self, now: Duration) -> Option<bool> {
        let Self {
            stream,
            connections,
            ..
        } = self;
        let open = stream.open_run();
        let open = connections
            .iter()
            .position(|known| Some(known.link.run()) == open);
        // What cannot be written any more is better kept.
        let writable = open.filter(|at| connections[*at].failure.is_none());
        let (resent, room) = writable.map_or((false, 0), |at| {
            let link = &mut connections[at].link;
            (link.resend(stream, now), link.room(stream))
        });
        let taken = self
            .queue
            .take(now, room, stream.inbox(), &mut self.gave_way);
        let any = taken.any || !self.gave_way.is_empty();
        for (item, reason) in self.gave_way.drain(..) {
            self.mesh.hand_back(now, &self.queue, item, reason);
        }
        if let Some(at) = open.filter(|_| taken.any) {
            connections[at].link.commands(stream, now);
        }
        if let Some(handled) = taken.handled {
            stream.acknowledge(handled.run, handled.id);
            let from = connections
                .iter_mut()
                .find(|known| known.link.run() == handled.run);
            if let Some(from) = from {
                from.link.release(handled.credit);
            }
            if let Some(at) = open {
                connections[at].link.send_ack(stream);
            }
        }
        if taken.doubt {
            self.replacement.doubt(now);
            self.since = now;
        }
        if taken.leaves && !self.mesh.let_go(now, self.queue.gateway) {
            self.queue.leave_at(Some(now + STAY));
        }
        if taken.ending == Ending::Retire && !taken.empty {
            // The gateway has given back what it had not taken.
            self.mesh.move_rest(now, &self.queue);
        }
        let open = open.map(|at| &mut connections[at].link);
        match (taken.ending, open) {
            (Ending::Abandon, _) => return None,
            (Ending::Close, Some(link)) if taken.empty => link.finish(stream),
            (Ending::Retire, link) => {
                if let Some(link) = link {
                    link.finish(stream);
                }
                if *self.retire.get_or_insert(now + RETIRE) <= now {
                    return None;
                }
            }
            _ => {}
        }
        Some(resent || any || taken.handled.is_some())
    }

    /// Passes on what the stream has to tell.
    pub(super) fn pass_on(&mut self, now: Duration) {
        while let Some(output) = self.stream.poll_output() {
            match output {
                Output::Event {
                    event,
                    run,
                    id,
                    credit,
                } => {
                    let from = Arc::clone(&self.queue);
                    self.deliveries.push_back(Delivery {
                        event,
                        from,
                        run,
                        id,
                        credit,
                    });
                }
                Output::Settled(ticket, answer) => self.mesh.settle(ticket, answer),
                Output::Answered(ticket, result) => self.mesh.answered(ticket, Some(result)),
                Output::Directory { epoch, run, frame } => {
                    // Runs of a stream that retires must not hide those of its successor, which has a higher index.
                    let teller = u64::from(self.queue.index) << 32 | run;
                    let presence = &self.mesh.presence;
                    if presence.told(self.queue.gateway, epoch, teller, frame) {
                        self.notify(What::DirectoryFull);
                    }
                }
                Output::Returned(item, reason) => {
                    self.mesh.hand_back(now, &self.queue, item, reason);
                }
                Output::Unsent(items) => self.queue.put_back(items),
                Output::Notice(what) => self.notify(what),
            }
        }
        if !self.deliveries.is_empty() {
            self.mesh.inbox.put(&mut self.deliveries);
        }
    }

    fn notify(&self, what: What) {
        self.mesh.notify(&Notice {
            gateway: self.gateway().to_owned(),
            shard: self.queue.shard,
            what,
        });
    }
}
