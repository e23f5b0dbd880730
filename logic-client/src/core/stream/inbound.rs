//! What a gateway says on a stream.

use std::time::Duration;

use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::{GatewayFrame, RejectReason as WireReason, Rejected, Welcome};

use crate::core::receipts::Receipt;
use crate::core::stream::{Output, Phase, Stream, describe};
use crate::error::{GatewayError, PushError, RejectReason, Rejection};
use crate::event::{Event, What};

/// In how many attempts one after the other another run of the gateway may answer than was
/// described, before that is no restart but a load balancer.
pub(super) const MAX_OTHER_EPOCHS: u32 = 3;

impl Stream {
    /// A frame has come. Says how much of its `credit` goes back at once; that of an event goes
    /// back when the application has taken it.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        frame: GatewayFrame,
        credit: usize,
    ) -> Result<usize, GatewayError> {
        let Some(body) = frame.body else {
            // A frame of a later version; it was not asked for.
            return Ok(credit);
        };
        if let Up::Welcome(welcome) = body {
            return self.welcome(now, &welcome).map(|()| credit);
        }
        if !self.is_open() {
            return Err(self.violation("a frame before Welcome"));
        }
        let (id, event) = match body {
            Up::Opened(opened) => (opened.id, Event::Opened(opened.into())),
            Up::Message(message) => (message.id, Event::Message(message.into())),
            Up::Closed(closed) => (closed.id, Event::Closed(closed.into())),
            other => return self.answer(other).map(|()| credit),
        };
        self.counters.events += 1;
        let run = self.run;
        self.outputs.push_back(Output::Event {
            event,
            run,
            id,
            credit,
        });
        Ok(0)
    }

    fn welcome(&mut self, now: Duration, welcome: &Welcome) -> Result<(), GatewayError> {
        let Phase::Greeting { expected, .. } = &self.phase else {
            return Err(self.violation("a second Welcome"));
        };
        let shard = self.identity.shard;
        let other_epoch = welcome.epoch != expected.epoch || welcome.shards != expected.shards;
        self.other_epochs = if other_epoch {
            self.other_epochs + 1
        } else {
            0
        };
        let misled = welcome.gateway_id != expected.gateway_id || welcome.shard != shard;
        if misled || self.other_epochs >= MAX_OTHER_EPOCHS {
            return Err(GatewayError::LoadBalanced {
                address: expected.address.clone(),
                expected: describe(&expected.gateway_id, shard, expected.epoch),
                found: describe(&welcome.gateway_id, welcome.shard, welcome.epoch),
            });
        }
        if other_epoch {
            return Err(GatewayError::Unreachable {
                address: expected.address.clone(),
                reason: "the gateway was restarted meanwhile".to_owned(),
            });
        }
        if self.epoch != 0 {
            self.counters.reconnects += 1;
        }
        self.epoch = welcome.epoch;
        let expected = expected.clone();
        self.phase = Phase::Open {
            expected,
            since: now,
            draining: false,
        };
        let epoch = welcome.epoch;
        self.outputs
            .push_back(Output::Notice(What::Connected { epoch }));
        Ok(())
    }

    fn answer(&mut self, body: Up) -> Result<(), GatewayError> {
        match body {
            Up::Ack(ack) => return self.ack(ack.sequence),
            Up::Receipt(receipt) => {
                let ticket = self.receipts.remove(&receipt.sequence);
                self.settle(ticket, Ok(Receipt::from_wire(&receipt)));
            }
            Up::Rejected(rejected) => self.reject(rejected),
            Up::Draining(told) => {
                if let Phase::Open { draining, .. } = &mut self.phase {
                    *draining = true;
                }
                let remaining_ms = told.remaining_ms;
                self.outputs
                    .push_back(Output::Notice(What::Draining { remaining_ms }));
            }
            // Not asked for.
            _ => {}
        }
        Ok(())
    }

    fn ack(&mut self, sequence: u64) -> Result<(), GatewayError> {
        if sequence > self.sequence {
            return Err(self.violation("an Ack of what was not sent"));
        }
        self.counters.acked += sequence.saturating_sub(self.acked);
        self.acked = self.acked.max(sequence);
        while let Some(flight) = self
            .flight
            .pop_front_if(|flight| flight.sequence <= sequence)
        {
            self.settled = flight.position;
        }
        Ok(())
    }

    fn reject(&mut self, rejected: Rejected) {
        let reason = WireReason::try_from(rejected.reason);
        let reason = reason.map_or(RejectReason::Other, RejectReason::from_wire);
        self.counters.count_rejected(reason);
        let rejection = Rejection {
            reason,
            detail: rejected.detail,
        };
        let ticket = self.receipts.remove(&rejected.sequence);
        self.settle(ticket, Err(PushError::Rejected(rejection.clone())));
        self.outputs
            .push_back(Output::Notice(What::Rejected(rejection)));
    }

    fn violation(&self, detail: &str) -> GatewayError {
        let address = match &self.phase {
            Phase::Greeting { expected, .. } | Phase::Open { expected, .. } => &expected.address,
            _ => "",
        };
        GatewayError::Protocol {
            address: address.to_owned(),
            detail: detail.to_owned(),
        }
    }
}
