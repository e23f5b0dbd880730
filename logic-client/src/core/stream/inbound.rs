//! What a gateway says on a stream.

use std::time::Duration;

use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::{GatewayFrame, RejectReason as WireReason, Rejected};

use crate::core::receipts::Receipt;
use crate::core::returned::ReturnReason;
use crate::core::stream::{Attempt, Output, Stream};
use crate::error::{GatewayError, PushError, RejectReason, Rejection};
use crate::event::{Event, What};

/// Which events of clients the stream has.
///
/// They are numbered from 1 on each stream. Where one takes the place of another that its gateway
/// still had, the numbers go on behind what Hello told, and both may bring the same events; where
/// the gateway had ended the old one, they begin anew. The first number tells which.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    /// The newest event received.
    last: u64,
    /// What Hello said that was.
    told: u64,
    /// Hello said nothing, because it could have been wrong.
    silent: bool,
    /// The first connection of this numbering.
    first: u64,
    /// The connection whose first event is to show whether it is a new numbering.
    undecided: Option<u64>,
}

impl Numbering {
    /// Hello is said; `nothing`: of what the stream has.
    pub(super) fn tell(&mut self, nothing: bool) {
        // Of a numbering that nothing was received of, nothing is known.
        self.silent = nothing || self.undecided.is_some();
        self.told = if self.silent { 0 } else { self.last };
    }

    /// What Hello says of the newest event.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// Welcome has come; `cut`: the connection before broke after Hello.
    pub(super) fn begin(&mut self, run: u64, resumed: bool, takes_over: bool, cut: bool) {
        // With nothing told, numbers show nothing: rather an event twice than not at all.
        if !resumed || self.silent || self.told == 0 && (cut || !takes_over) {
            self.anew(run);
            return;
        }
        if !takes_over {
            // What was not acknowledged on the old connection may be numbered anew.
            self.first = run;
        }
        self.undecided = Some(run);
    }

    /// Hello told of nothing, and something has come since: a number shows nothing, as the gateway may have ended the
    /// old stream meanwhile and begun anew. Rather an event twice than not at all.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.told == 0 && self.last > 0
    }

    #[cfg(test)]
    pub(super) fn is_undecided(&self) -> bool {
        self.undecided.is_some()
    }

    /// Whether an acknowledgement of what came on this connection still means the same events.
    pub(super) fn covers(&self, run: u64) -> bool {
        run >= self.first
    }

    /// Whether an event is a new one.
    fn is_new(&mut self, run: u64, id: u64) -> bool {
        if self
            .undecided
            .take_if(|undecided| *undecided == run)
            .is_some()
            && (id <= self.told || self.is_ambiguous())
        {
            self.anew(run);
        }
        // An event without a number is none of this protocol's.
        let new = self.covers(run) && id > self.last;
        if new {
            self.last = id;
        }
        new
    }

    fn anew(&mut self, run: u64) {
        *self = Self {
            first: run,
            ..Self::default()
        };
    }
}

impl Stream {
    /// A frame has come. Says how much of its `credit` goes back at once; that of an event goes
    /// back when the application has taken it.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        run: u64,
        frame: GatewayFrame,
        credit: usize,
    ) -> Result<usize, GatewayError> {
        let Some(body) = frame.body else {
            // A frame of a later version; it was not asked for.
            return Ok(credit);
        };
        if let Up::Welcome(welcome) = body {
            return self.welcome(now, run, &welcome).map(|()| credit);
        }
        if !self.listens_to(run) {
            return match &self.attempt {
                Attempt::Greeting(greeting) if greeting.run == run => {
                    Err(self.violation(run, "a frame before Welcome"))
                }
                // The stream is done with that connection.
                _ => Ok(credit),
            };
        }
        let (id, event) = match body {
            Up::Opened(opened) => (opened.id, Event::Opened(opened.into())),
            Up::Message(message) => (message.id, Event::Message(message.into())),
            Up::Closed(closed) => (closed.id, Event::Closed(closed.into())),
            other => return self.answer(run, other).map(|()| credit),
        };
        if !self.events.is_new(run, id) {
            self.counters.duplicate_events += 1;
            return Ok(credit);
        }
        self.counters.events += 1;
        self.outputs.push_back(Output::Event {
            event,
            run,
            id,
            credit,
        });
        Ok(0)
    }

    fn listens_to(&self, run: u64) -> bool {
        let replaced = self.replaced.as_ref();
        self.open_run() == Some(run) || replaced.is_some_and(|replaced| replaced.run == run)
    }

    fn answer(&mut self, run: u64, body: Up) -> Result<(), GatewayError> {
        match body {
            Up::Ack(ack) if ack.sequence > self.sequence => {
                return Err(self.violation(run, "an Ack of what was not sent"));
            }
            Up::Ack(ack) => self.acked_to(ack.sequence),
            Up::Receipt(receipt) => {
                // An Ack may come later, or never.
                self.retained.answered(receipt.sequence);
                let ticket = self.receipts.remove(&receipt.sequence);
                self.settle(ticket, Ok(Receipt::from_wire(&receipt)));
            }
            Up::Result(result) => {
                self.retained.answered(result.sequence);
                let ticket = self.receipts.remove(&result.sequence);
                let answered = ticket.map(|ticket| Output::Answered(ticket, result));
                self.outputs.extend(answered);
            }
            frame @ (Up::Snapshot(_) | Up::Online(_) | Up::Offline(_)) => {
                let epoch = self.epoch;
                self.outputs
                    .push_back(Output::Directory { epoch, run, frame });
            }
            Up::Rejected(rejected) => self.reject(rejected),
            Up::Draining(told) => {
                if let Some(open) = self.open.as_mut().filter(|open| open.run == run) {
                    open.draining = true;
                    let remaining_ms = told.remaining_ms;
                    self.notify(What::Draining { remaining_ms });
                }
            }
            // Not asked for.
            _ => {}
        }
        Ok(())
    }

    /// The gateway has taken everything up to `sequence`.
    pub(super) fn acked_to(&mut self, sequence: u64) {
        self.acked = self.acked.max(sequence);
        self.counters.acked += self.retained.drop_acked(sequence);
    }

    fn reject(&mut self, rejected: Rejected) {
        let reason = WireReason::try_from(rejected.reason);
        let reason = reason.map_or(RejectReason::Other, RejectReason::from_wire);
        self.counters.count_rejected(reason);
        let rejection = Rejection {
            reason,
            detail: rejected.detail,
        };
        self.notify(What::Rejected(rejection.clone()));
        let sequence = rejected.sequence;
        if let Some(item) = self.retained.take_out(sequence) {
            self.hand_back(item, ReturnReason::Rejected(rejection));
        } else {
            let ticket = self.receipts.remove(&sequence);
            let error = PushError::Rejected(rejection).into();
            self.settle(ticket, Err(error));
        }
    }

    pub(super) fn violation(&self, run: u64, detail: &str) -> GatewayError {
        let expected = match (&self.attempt, &self.open) {
            (Attempt::Greeting(greeting), _) if greeting.run == run => Some(&greeting.expected),
            (_, open) => open.as_ref().map(|open| &open.expected),
        };
        GatewayError::Protocol {
            address: expected.map_or(String::new(), |expected| expected.address.clone()),
            detail: detail.to_owned(),
        }
    }
}
