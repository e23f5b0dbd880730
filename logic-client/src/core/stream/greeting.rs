//! Hello, Welcome, and what a stream takes up again after it.

use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::{Capability, Hello, LogicFrame, Receive, Resume, Scope, Welcome};

use crate::core::returned::ReturnReason;
use crate::core::stream::{Attempt, Expected, Greeting, Open, Replaced, Stream, describe, frame};
use crate::error::GatewayError;
use crate::event::What;
use crate::mutation::{self, Rule};

/// In how many attempts one after the other another run of the gateway may answer than was
/// described, before that is no restart but a load balancer.
pub(super) const MAX_OTHER_EPOCHS: u32 = 3;

impl Stream {
    /// There is a connection: its run, and the first frame on it. If another one is open, this one
    /// is to take its place.
    pub(crate) fn connected(&mut self, now: Duration, expected: Expected) -> (u64, LogicFrame) {
        self.run += 1;
        if let Some(open) = &mut self.open {
            open.challenged = true;
        }
        // After a Hello that got no answer the gateway may have sent receipts, and begun to number
        // events anew, on a stream this one knows nothing of.
        let cut = std::mem::replace(&mut self.unanswered, true);
        self.events.tell(cut);
        let hello = self.hello();
        self.attempt = Attempt::Greeting(Greeting {
            run: self.run,
            expected,
            until: now + self.rules.welcome,
            replaces: self.open_run(),
            cut,
        });
        (self.run, frame(0, Body::Hello(hello)))
    }

    fn hello(&mut self) -> Hello {
        // Receiving needs a session, also where nothing is to be resumed.
        let session_id = match (self.rules.resume, self.identity.receive) {
            (true, _) => self.session.to_vec(),
            (false, true) => (self.entropy)().to_vec(),
            (false, false) => Vec::new(),
        };
        let mut hello = Hello {
            service: self.identity.service.clone(),
            session_id: session_id.into(),
            stream_index: self.identity.index,
            gateway_epoch: self.epoch,
            expected_shard_plus_one: match self.identity.any_shard {
                true => 0,
                false => self.identity.shard + 1,
            },
            resume_token: self.token,
            last_event: self.events.told(),
            ..Hello::default()
        };
        hello.set_scope(match self.identity.whole {
            true => Scope::Gateway,
            false => Scope::Shard,
        });
        hello.push_capabilities(Capability::Receipts);
        hello.push_capabilities(Capability::ClientAck);
        if self.rules.resume {
            hello.push_capabilities(Capability::Resume);
        }
        if self.identity.receive {
            hello.push_receive(Receive::Messages);
        }
        hello.push_capabilities(Capability::Query);
        if self.identity.directory {
            hello.push_capabilities(Capability::Directory);
            hello.push_receive(Receive::Directory);
        }
        hello
    }

    pub(super) fn welcome(
        &mut self,
        now: Duration,
        run: u64,
        welcome: &Welcome,
    ) -> Result<(), GatewayError> {
        let greeting = match &self.attempt {
            Attempt::Greeting(greeting) if greeting.run == run => greeting,
            _ => return Err(self.violation(run, "a second Welcome")),
        };
        let (expected, replaces, cut) =
            (greeting.expected.clone(), greeting.replaces, greeting.cut);
        self.check_welcome(&expected, welcome)?;
        let taken = welcome.last_sequence;
        // A gateway that knows less than it has acknowledged, or runs anew, resumes something else.
        let resumed = welcome.resume() == Resume::Resumed
            && self.token != 0
            && welcome.epoch == self.epoch
            && taken >= self.acked;
        if resumed && taken > self.sequence {
            self.share();
            let status = "somebody shares the session: it has taken more than was sent".to_owned();
            let address = expected.address;
            return Err(GatewayError::Ended { address, status });
        }
        self.attempt = Attempt::None;
        self.unanswered = false;
        self.broken = None;
        if self.epoch != 0 && replaces.is_none() {
            self.counters.reconnects += 1;
        }
        self.epoch = welcome.epoch;
        self.token = welcome.resume_token;
        if !self.rules.resume {
            self.token = 0;
        }
        let old = self.open.replace(Open {
            run,
            expected,
            since: now,
            draining: false,
            challenged: false,
        });
        let takes_over = resumed && replaces.is_some();
        self.events.begin(run, resumed, takes_over, cut);
        if let Some(older) = self.replaced.take() {
            // Nobody reads it to its end any more.
            self.receipts_are_lost(older.taken);
        }
        self.replaced = old.filter(|_| takes_over).map(|old| Replaced {
            run: old.run,
            taken,
        });
        if !resumed {
            self.acked = 0;
            self.give_up();
        } else {
            // Receipts that were decided meanwhile, or not read, were told to nobody.
            self.take_up(now, taken, !takes_over || cut);
        }
        let epoch = welcome.epoch;
        self.notify(if takes_over {
            What::Replaced
        } else {
            What::Connected { epoch }
        });
        Ok(())
    }

    /// Whether it is who was dialled that answered.
    fn check_welcome(
        &mut self,
        expected: &Expected,
        welcome: &Welcome,
    ) -> Result<(), GatewayError> {
        let shard = self.identity.shard;
        let other_epoch = welcome.epoch != expected.epoch || welcome.shards != expected.shards;
        self.other_epochs = if other_epoch {
            self.other_epochs + 1
        } else {
            0
        };
        let other_shard = welcome.shard != shard && !self.identity.any_shard;
        let misled = welcome.gateway_id != expected.gateway_id || other_shard;
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
        Ok(())
    }

    /// The gateway has taken everything up to `taken`, and nothing beyond.
    fn take_up(&mut self, now: Duration, taken: u64, receipts_are_lost: bool) {
        self.counters.resumed += 1;
        let done = match mutation::is_off(Rule::Resume) {
            true => self.sequence,
            false => taken,
        };
        self.acked_to(done);
        if receipts_are_lost {
            self.receipts_are_lost(taken);
        }
        for item in self.retained.rewind(now) {
            self.hand_back(item, ReturnReason::Expired);
        }
    }
}
