//! What a shard does with what its links hand out.

use std::time::Duration;

use gateway_proto::v1::RejectReason;
use h2_stream::StreamId;

use super::{
    Shard,
    greeting::stream_ref,
    jobs::{JobId, Owner},
    route::{Done, FEW, Origin, VERY_FEW},
};
use crate::{
    command::{Command, Receipt},
    identity::LinkId,
    link::{Input, Rejection, Ticket},
    timesheet::Phase,
};

impl Shard {
    pub(super) fn run_link(&mut self, now: Duration, id: LinkId) {
        let handed = self.take_from_link(now, id);
        if handed > 0
            && let Some(state) = self.links.get_mut(id)
        {
            // Whoever has flooded has to calm down before its pushes are urgent again.
            let most = if state.floods { VERY_FEW } else { FEW };
            state.floods = handed > most;
        }
        self.note_link(id, handed as u64);
    }

    /// Does what a link hands out, as far as there is room. Says how many commands that was.
    fn take_from_link(&mut self, now: Duration, id: LinkId) -> usize {
        self.sheet.enter(Phase::Route);
        // What comes alone, or with few, does not wait for the sends of a flood, be it of this link or of another.
        let floods = self.links.get(id).is_some_and(|state| state.floods);
        let origin = |ticket: Ticket, handed, job| Origin {
            whole_gateway: ticket.whole_gateway,
            urgent: handed <= FEW && !floods,
            job,
        };
        let mut handed = 0;
        if let Some(state) = self.links.get_mut(id)
            && let Some((ticket, command, job)) = state.held.take()
        {
            let origin = origin(ticket, handed, job);
            if !self.attempt(now, id, ticket, command, origin) {
                return handed;
            }
        }
        while let Some(input) = self.next_of_link(now, id) {
            let (ticket, command) = match input {
                Input::Plain(ticket, push) => {
                    handed += 1;
                    let origin = origin(ticket, handed, self.running_job(id, ticket));
                    if self.push_plain(now, origin, &push) {
                        self.done(id, ticket, origin.job, None);
                        continue;
                    }
                    (ticket, Command::Push(push.into()))
                }
                Input::Command(ticket, command) => {
                    handed += 1;
                    (ticket, command)
                }
                other => {
                    self.on_input(now, id, other);
                    continue;
                }
            };
            match self.job_for(id, ticket, &command) {
                Ok(job) => {
                    if !self.attempt(now, id, ticket, command, origin(ticket, handed, job)) {
                        return handed;
                    }
                }
                Err(rejection) => {
                    if let Some(state) = self.links.get_mut(id) {
                        state.link.handled(ticket, Some(rejection));
                    }
                }
            }
        }
        handed
    }

    fn next_of_link(&mut self, now: Duration, id: LinkId) -> Option<Input> {
        self.sheet.enter(Phase::Decode);
        let input = self.links.get_mut(id)?.link.next(now);
        self.sheet.enter(Phase::Route);
        input
    }

    /// Does a command; `false` when there is no room for it, and it stays on the link.
    fn attempt(
        &mut self,
        now: Duration,
        id: LinkId,
        ticket: Ticket,
        command: Command,
        origin: Origin,
    ) -> bool {
        let job = origin.job;
        let done = match command {
            Command::Query { question, .. } => self.query(id, ticket, question),
            command => self.execute(now, origin, command),
        };
        let refused = match done {
            Done::Taken => None,
            Done::Refused(rejection) => Some(rejection),
            Done::Blocked(command) => {
                if let Some(state) = self.links.get_mut(id) {
                    state.held = Some((ticket, command, job));
                }
                self.blocked.push(id);
                return false;
            }
        };
        self.done(id, ticket, job, refused);
        true
    }

    /// A command has been dealt with.
    fn done(&mut self, id: LinkId, ticket: Ticket, job: Option<JobId>, refused: Option<Rejection>) {
        if let Some(job) = job {
            self.end_command(id, ticket, job, refused.is_some());
        }
        if let Some(state) = self.links.get_mut(id) {
            state.link.handled(ticket, refused);
        }
    }

    /// The job that a command belongs to, if its call or its batch has one already.
    fn running_job(&self, id: LinkId, ticket: Ticket) -> Option<JobId> {
        let state = self.links.get(id)?;
        if ticket.counting {
            return state.calls.get(&ticket.stream).copied();
        }
        let same = (ticket.stream, ticket.sequence);
        let batch = state.batch.filter(|of| (of.0, of.1) == same);
        batch.map(|of| of.2)
    }

    /// The job that a command belongs to, if anybody wants to know what becomes of it.
    fn job_for(
        &mut self,
        id: LinkId,
        ticket: Ticket,
        command: &Command,
    ) -> Result<Option<JobId>, Rejection> {
        let running = self.running_job(id, ticket);
        if ticket.counting || running.is_some() {
            return Ok(running);
        }
        let Some(state) = self.links.get_mut(id) else {
            return Ok(None);
        };
        let receipt = match command {
            Command::Push(push) => push.delivery.receipt,
            _ => Receipt::None,
        };
        if receipt == Receipt::None {
            return Ok(None);
        }
        if self.ledger.jobs.len() >= self.gateway.config.limits.max_jobs {
            let detail = "this shard waits for as many receipts as it can (limits.max_jobs)";
            return Err(Rejection::new(RejectReason::Overloaded, detail));
        }
        let at = stream_ref(id, ticket.stream);
        let asker = state.askers.entry(ticket.stream);
        let owner = Owner::Receipt {
            asker: *asker.or_insert_with(|| self.askers.enter(at)),
            sequence: ticket.sequence,
        };
        let job = self.ledger.jobs.start(owner, receipt, false);
        if !ticket.last {
            state.batch = Some((ticket.stream, ticket.sequence, job));
        }
        Ok(Some(job))
    }

    fn end_command(&mut self, id: LinkId, ticket: Ticket, job: JobId, refused: bool) {
        if ticket.counting {
            if let Some(job) = self.ledger.jobs.get(job) {
                job.accepted += u64::from(!refused);
                job.rejected += u64::from(refused);
            }
        } else if ticket.last {
            if let Some(state) = self.links.get_mut(id) {
                state.batch = None;
            }
            self.ledger.jobs.end(job);
        }
    }

    fn on_input(&mut self, now: Duration, id: LinkId, input: Input) {
        match input {
            Input::Command(..) | Input::Plain(..) => {
                debug_assert!(false, "commands go another way");
            }
            Input::CallStarted(stream) => {
                let owner = Owner::Call { link: id, stream };
                let job = self.ledger.jobs.start(owner, Receipt::None, false);
                if let Some(state) = self.links.get_mut(id) {
                    state.calls.insert(stream, job);
                }
            }
            Input::Refused(ticket) => self.refused(id, ticket),
            Input::Hello(stream, hello) => self.greet(now, id, stream, &hello),
            Input::CallEnded(stream) => {
                let call = self
                    .links
                    .get(id)
                    .and_then(|state| state.calls.get(&stream));
                if let Some(job) = call.copied() {
                    self.ledger.jobs.end(job);
                }
            }
            Input::Directory {
                stream,
                whole_gateway,
            } => self.directory_wanted(id, stream, whole_gateway),
            Input::Settled(conns) => {
                for conn in conns {
                    self.settle_elsewhere(now, conn);
                }
            }
            Input::Left(conns) => self.left(conns),
            Input::Gone(stream, ended) => {
                self.stream_gone(now, id, stream, ended);
                let call = self.forget_call(id, stream);
                let state = self.links.get_mut(id);
                let batch = state.and_then(|state| state.batch.take_if(|of| of.0 == stream));
                for job in call.into_iter().chain(batch.map(|of| of.2)) {
                    self.ledger.jobs.cancel(job);
                }
            }
        }
    }

    /// A message that never became a command.
    fn refused(&mut self, id: LinkId, ticket: Ticket) {
        if let Some(job) = self.running_job(id, ticket) {
            self.end_command(id, ticket, job, true);
        }
    }

    pub(super) fn refuse_receiver(&mut self, id: LinkId, stream: StreamId) {
        self.metrics.stream_errors.count("too_many_services");
        if let Some(state) = self.links.get_mut(id) {
            state.link.refuse_receiver(stream);
        }
    }
}
