//! How connections end, and what becomes of what was sent on them.

use std::time::Duration;

use crate::core::buffer::Item;
use crate::core::returned::ReturnReason;
use crate::core::stream::{Attempt, Ending, Loss, Output, Stream};
use crate::error::{GatewayError, PushError};
use crate::event::What;

impl Stream {
    /// There is no connection: the gateway could not be described, or the shard not dialled.
    pub(crate) fn failed(&mut self, now: Duration, error: GatewayError) {
        self.counters.failed_attempts += 1;
        self.retry(now);
        self.told_lost(error);
    }

    /// A connection is gone. Those the stream is done with are passed over.
    pub(crate) fn lost(&mut self, now: Duration, run: u64, loss: Loss) {
        if let Some(replaced) = self.replaced.take_if(|replaced| replaced.run == run) {
            if loss.ending != Ending::Replaced {
                // The gateway may have answered on it what was not read, or had ended it before, and
                // with it what was to be answered.
                self.receipts_are_lost(replaced.taken);
            }
            return;
        }
        if matches!(&self.attempt, Attempt::Greeting(greeting) if greeting.run == run) {
            self.attempt = Attempt::None;
            if loss.ending == Ending::Refused {
                self.share();
            }
            self.failed(now, loss.error);
        } else if self.open_run() == Some(run) {
            self.lost_open(now, loss);
        }
    }

    fn lost_open(&mut self, now: Duration, loss: Loss) {
        let Some(open) = self.open.take() else {
            return;
        };
        self.backoff.was_open(now.saturating_sub(open.since));
        self.broken = Some(now);
        self.ack = None;
        let greeting = match &mut self.attempt {
            Attempt::Greeting(greeting) => {
                greeting.cut |= loss.ending != Ending::Replaced;
                true
            }
            _ => false,
        };
        match loss.ending {
            // Of what is not retained nothing can be put back.
            Ending::Clean if self.rules.resume => self.put_back(),
            Ending::Replaced if !open.challenged => self.share(),
            _ if self.token == 0 || !self.rules.resume => self.give_up(),
            _ => {}
        }
        if !greeting {
            // Nobody will answer these: the gateway does so only to a stream that was replaced.
            let answered = self
                .retained
                .first()
                .map_or(self.sequence, |first| first - 1);
            self.receipts_are_lost(answered);
            self.retry(now);
        }
        if !(greeting && loss.ending == Ending::Replaced) {
            self.told_lost(loss.error);
        }
    }

    /// The stream will not be opened again. What is on its way is unknown; `succeeded`: there are others
    /// that can send it again, if that is wanted.
    pub(crate) fn end(&mut self, succeeded: bool) {
        self.open = None;
        self.replaced = None;
        self.attempt = Attempt::Ended;
        self.rules.resend_unknown &= succeeded;
        self.give_up();
    }

    fn retry(&mut self, now: Duration) {
        if self.open.is_none() {
            let until = now + self.backoff.next();
            self.attempt = Attempt::Waiting { until };
        }
    }

    fn told_lost(&mut self, error: GatewayError) {
        let unacked = self.retained.load().items as u64;
        self.notify(What::Lost { error, unacked });
    }

    /// When to wait no longer for the gateway to say what it has taken.
    pub(super) fn gives_up_at(&self) -> Option<Duration> {
        let broken = self.broken.filter(|_| !self.is_quiet())?;
        Some(broken.saturating_add(self.rules.patience))
    }

    /// Somebody else uses this session: takes another one.
    pub(super) fn share(&mut self) {
        self.session = (self.entropy)();
        self.token = 0;
        self.counters.shared_sessions += 1;
        self.notify(What::SharedSession);
        if self.open.is_none() {
            self.give_up();
        }
    }

    /// The gateway has taken nothing but what it acknowledged.
    fn put_back(&mut self) {
        let (count, items) = self.retained.drain();
        self.counters.not_taken += count;
        self.go_back(items);
    }

    /// What is on its way may have been taken or not.
    pub(super) fn give_up(&mut self) {
        let (count, mut items) = self.retained.drain();
        self.counters.unknown += count;
        self.ack = None;
        if count > 0 {
            self.notify(What::Unknown { count });
        }
        if self.rules.resend_unknown {
            items.iter_mut().for_each(|item| item.doubtful = true);
            self.go_back(items);
        } else {
            for item in items {
                self.hand_back(item, ReturnReason::Unknown);
            }
        }
        self.receipts_are_lost(self.sequence);
    }

    /// Items are back in the buffer; they say themselves who waits for their receipts.
    fn go_back(&mut self, items: Vec<Item>) {
        for item in items.iter().filter(|item| item.ticket.is_some()) {
            self.receipts.remove(&item.sequence);
        }
        if !items.is_empty() {
            self.outputs.push_back(Output::Unsent(items));
        }
    }

    /// Hands a command that was sent back.
    pub(super) fn hand_back(&mut self, item: Item, reason: ReturnReason) {
        self.receipts.remove(&item.sequence);
        self.outputs.push_back(Output::Returned(item, reason));
    }

    /// The receipts awaited for numbers up to `sequence` will not come.
    pub(super) fn receipts_are_lost(&mut self, sequence: u64) {
        let later = self.receipts.split_off(&(sequence + 1));
        let lost = std::mem::replace(&mut self.receipts, later);
        for ticket in lost.into_values() {
            self.settle(Some(ticket), Err(PushError::Unknown.into()));
        }
    }
}
