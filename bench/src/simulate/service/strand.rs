//! The driver of one runner of `logic-client`: carries out its wishes on simulated sockets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use logic_client::simulation::{ConnectionId, Mesh, Queue, Runner, Wish};

use super::{
    asking::{Asking, unreachable},
    wire::Wire,
};
use crate::simulate::{
    context::Context,
    gateway,
    net::{Owner, Read},
};

/// One runner with its sockets.
pub struct Strand {
    runner: Runner,
    owner: Owner,
    lines: BTreeMap<ConnectionId, Line>,
    asking: Option<Asking>,
    over: bool,
}

struct Line {
    wire: Wire,
    address: String,
    /// The runner knows that it is connected.
    told: bool,
    broken: bool,
}

/// A runner that does not come to rest is a fault.
const MOST_ROUNDS: usize = 10_000;

impl Strand {
    /// Runs the stream of a queue.
    pub fn new(mesh: &Arc<Mesh>, queue: Arc<Queue>, owner: Owner) -> Self {
        Self {
            runner: Runner::new(Arc::clone(mesh), queue),
            owner,
            lines: BTreeMap::new(),
            asking: None,
            over: false,
        }
    }

    /// Whether the stream has ended for good.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// When to run at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.runner.next_deadline()
    }

    /// What is held beyond its bound.
    pub fn over_limit(&self) -> Option<String> {
        self.runner.over_limit()
    }

    /// Credit that its gateway has not got back.
    pub fn unreleased(&self) -> usize {
        self.runner.unreleased()
    }

    /// Does everything that can be done now; streams that are to be run too are added to `started`.
    pub fn run(&mut self, context: &mut Context, clock: Duration, started: &mut Vec<Arc<Queue>>) {
        for _ in 0..MOST_ROUNDS {
            let mut busy = self.ask(context, clock);
            busy |= self.read(context, clock);
            busy |= self.runner.poll(clock);
            while let Some(wish) = self.runner.next_wish() {
                busy = true;
                self.carry_out(context, clock, wish, started);
            }
            busy |= self.write(context);
            if !busy || self.over {
                return;
            }
        }
        let text = format!(
            "the stream to {} does not come to rest",
            self.runner.gateway()
        );
        context.oracle.fail(text);
    }

    /// Its process is gone.
    pub fn die(&mut self, context: &mut Context) {
        for line in std::mem::take(&mut self.lines).into_values() {
            context.close(line.wire.socket);
        }
        if let Some(asking) = self.asking.take() {
            asking.end(context);
        }
    }

    fn ask(&mut self, context: &mut Context, clock: Duration) -> bool {
        let answer = self
            .asking
            .as_mut()
            .and_then(|asking| asking.poll(context, clock));
        let Some(answer) = answer else { return false };
        if let Some(asking) = self.asking.take() {
            asking.end(context);
        }
        self.runner.described(clock, answer);
        true
    }

    fn read(&mut self, context: &mut Context, clock: Duration) -> bool {
        let mut busy = false;
        let mut buffer = Vec::new();
        for (id, line) in &mut self.lines {
            let socket = line.wire.socket;
            if !line.told {
                if !context.net.is_connected(socket) {
                    continue;
                }
                line.told = true;
                let answer = match context.net.is_refused(socket) {
                    true => Err(unreachable(&line.address, "refused")),
                    false => Ok(()),
                };
                self.runner.dialled(clock, *id, answer);
                busy = true;
            }
            if line.broken || !self.runner.wants_bytes(*id) {
                continue;
            }
            buffer.clear();
            let read = line.wire.read(context, &mut buffer);
            busy |= read != Read::Nothing;
            match read {
                Read::Nothing => {}
                Read::Bytes(_) => self.runner.receive(clock, *id, &buffer),
                Read::Eof => {
                    line.broken = true;
                    self.runner.receive_eof(clock, *id);
                }
                Read::Reset => {
                    line.broken = true;
                    self.runner.failed(*id, "reset".into());
                }
            }
        }
        busy
    }

    fn write(&mut self, context: &mut Context) -> bool {
        let mut busy = false;
        let runner = &mut self.runner;
        for (id, line) in self.lines.iter_mut().filter(|(_, line)| line.told) {
            let written = line.wire.write(context, |out, most| {
                let n = runner.write_output(*id, out, most);
                busy |= n > 0;
                n
            });
            if !written && !line.broken {
                line.broken = true;
                busy = true;
                runner.failed(*id, "broken".into());
            }
        }
        busy
    }

    fn carry_out(
        &mut self,
        context: &mut Context,
        clock: Duration,
        wish: Wish,
        started: &mut Vec<Arc<Queue>>,
    ) {
        match wish {
            Wish::Describe { .. } => {
                if let Some(asking) = self.asking.take() {
                    asking.end(context);
                }
                match Asking::begin(context, clock, self.owner, self.runner.gateway()) {
                    Ok(asking) => self.asking = Some(asking),
                    Err(error) => self.runner.described(clock, Err(error)),
                }
            }
            Wish::Start { queue } => started.push(queue),
            Wish::Dial {
                connection,
                address,
            } => match gateway::address(&address) {
                Some(place) => {
                    let (now, agenda) = (context.now, &mut context.agenda);
                    let socket = context.net.dial(now, agenda, self.owner, place);
                    let line = Line {
                        wire: Wire::new(socket),
                        address,
                        told: false,
                        broken: false,
                    };
                    self.lines.insert(connection, line);
                }
                None => {
                    let error = unreachable(&address, "no address");
                    self.runner.dialled(clock, connection, Err(error));
                }
            },
            Wish::Close { connection } => {
                if let Some(line) = self.lines.remove(&connection) {
                    context.close(line.wire.socket);
                }
            }
            Wish::End => {
                self.over = true;
                self.die(context);
            }
        }
    }
}
