//! A service that speaks gRPC without `logic-client`: one stream to each gateway, for the whole of it, no session.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use gateway_proto::{
    names,
    v1::{self, gateway_frame::Body as Up, logic_frame::Body as Down},
};
use h2_stream::{ClientEvent, Config, Metadata, StreamId};
use prost::Message as _;

use super::{
    Service, Wanted,
    request::{request, subscribe},
    wire::Wire,
};
use crate::simulate::{
    context::Context,
    net::{Address, Owner, Port, Read},
    oracle::{Answer, Fate},
};

/// One plain service.
pub struct Plain {
    index: usize,
    /// Order holds within it: a new stream has an order of its own.
    source: u64,
    name: String,
    group: usize,
    acks: bool,
    window: u32,
    lines: BTreeMap<usize, Line>,
    /// Pushes whose receipts are awaited.
    pending: BTreeMap<usize, Pending>,
    topics: Vec<(u32, u32)>,
}

/// What is between the service and one gateway.
struct Line {
    call: Option<Call>,
    next_attempt: Duration,
    failures: u32,
}

struct Call {
    wire: Wire,
    http: h2_stream::Client,
    stream: StreamId,
    welcomed: bool,
    since: Duration,
    sequence: u64,
    unacked: VecDeque<(u64, usize)>,
    receipts: BTreeMap<u64, usize>,
}

#[derive(Default)]
struct Pending {
    parts: usize,
    written: u64,
    lost: u64,
    unknown: bool,
    refused: bool,
}

/// For a connection, and for Welcome.
const PATIENCE: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);

impl Plain {
    /// A service of a consumer group.
    pub fn new(context: &mut Context, index: usize, name: &str, acks: bool, window: u32) -> Self {
        Self {
            index,
            source: context.oracle.down.new_source(),
            name: name.to_owned(),
            group: context.oracle.up.group(name, acks),
            acks,
            window,
            lines: BTreeMap::new(),
            pending: BTreeMap::new(),
            topics: Vec::new(),
        }
    }

    fn owner(&self) -> Owner {
        Owner::Service(self.index)
    }

    fn dial(&mut self, context: &mut Context, place: usize) {
        let owner = self.owner();
        let Some(line) = self.lines.get_mut(&place) else {
            return;
        };
        let address = Address {
            gateway: place,
            port: Port::Common,
        };
        let (now, agenda) = (context.now, &mut context.agenda);
        let socket = context.net.dial(now, agenda, owner, address);
        let config = Config {
            stream_window: self.window,
            connection_window: self.window * 2,
            keepalive_interval: Some(KEEPALIVE),
            keepalive_timeout: KEEPALIVE,
            ..Config::default()
        };
        let mut http = h2_stream::Client::new(config, "g:9000", now);
        let Ok(stream) = http.open(names::EXCHANGE, Metadata::default(), None, now) else {
            return context.oracle.fail("a call cannot begin".into());
        };
        let mut hello = v1::Hello {
            service: self.name.clone(),
            scope: v1::Scope::Gateway.into(),
            ..Default::default()
        };
        hello.push_receive(v1::Receive::Messages);
        hello.push_capabilities(v1::Capability::Receipts);
        if self.acks {
            hello.push_capabilities(v1::Capability::ClientAck);
        }
        let body = Some(Down::Hello(hello));
        http.send(stream, &v1::LogicFrame { sequence: 0, body });
        line.call = Some(Call {
            wire: Wire::new(socket),
            http,
            stream,
            welcomed: false,
            since: now,
            sequence: 0,
            unacked: VecDeque::new(),
            receipts: BTreeMap::new(),
        });
    }

    /// Reads, handles and writes on one line.
    fn serve(&mut self, context: &mut Context, place: usize) {
        let mut buffer = Vec::new();
        loop {
            let Some(call) = self.call(place) else { return };
            buffer.clear();
            match call.wire.read(context, &mut buffer) {
                Read::Bytes(_) => call.http.receive(context.now, &buffer),
                Read::Nothing => break,
                Read::Eof => call.http.receive_eof(context.now),
                Read::Reset => return self.lost(context, place, "reset"),
            }
            if !self.poll(context, place) {
                return;
            }
        }
        if let Some(call) = self.call(place) {
            call.http.handle_timeout(context.now);
            if !call.welcomed && context.now >= call.since + PATIENCE {
                return self.lost(context, place, "no Welcome");
            }
        }
        if !self.poll(context, place) {
            return;
        }
        if let Some(call) = self.call(place) {
            let Call { wire, http, .. } = call;
            if !wire.write(context, |out, most| http.write_output(out, most)) {
                self.lost(context, place, "broken");
            }
        }
    }

    /// Handles what has come; false: the line is lost.
    fn poll(&mut self, context: &mut Context, place: usize) -> bool {
        while let Some(call) = self.call(place) {
            let Some(event) = call.http.poll_event(context.now) else {
                return true;
            };
            match event {
                ClientEvent::Message {
                    id,
                    message,
                    credit,
                } => {
                    call.http.release(id, credit);
                    match v1::GatewayFrame::decode(message) {
                        Ok(frame) => self.take(context, place, frame.body),
                        Err(error) => context.oracle.fail(format!("no frame: {error}")),
                    }
                }
                ClientEvent::Finished { status, .. } => {
                    self.lost(context, place, &format!("{status:?}"));
                }
                ClientEvent::ConnectionLost { reason } => self.lost(context, place, &reason),
                _ => {}
            }
        }
        false
    }

    fn take(&mut self, context: &mut Context, place: usize, body: Option<Up>) {
        let (now, group, acks) = (context.now, self.group, self.acks);
        match body {
            Some(Up::Welcome(welcome)) => self.welcome(context, place, &welcome),
            Some(Up::Ack(ack)) => {
                if let Some(call) = self.call(place) {
                    call.unacked
                        .retain(|(sequence, _)| *sequence > ack.sequence);
                }
            }
            Some(Up::Receipt(receipt)) => self.receipt(context, place, &receipt),
            Some(Up::Rejected(rejected)) => self.rejected(context, place, &rejected),
            Some(Up::Message(message)) => {
                let named = message.connection.unwrap_or_default();
                let connection = context.oracle.down.named(named.epoch, named.id);
                let up = &mut context.oracle.up;
                up.received(group, connection, &message.payload);
                context.trace.note(now, [5, message.id, place as u64], || {
                    format!(
                        "service {} got event {} of g{place}",
                        self.index, message.id
                    )
                });
                self.acknowledge(place, message.id, acks);
            }
            Some(Up::Opened(event)) => self.acknowledge(place, event.id, acks),
            Some(Up::Closed(event)) => self.acknowledge(place, event.id, acks),
            _ => {}
        }
    }

    fn welcome(&mut self, context: &mut Context, place: usize, welcome: &v1::Welcome) {
        let topics = self.topics.clone();
        for shard in 0..welcome.shards {
            // The other shards are told through lanes.
            let at = context.now + Duration::from_millis(20);
            let up = &mut context.oracle.up;
            up.known(at, self.group, welcome.epoch, shard);
        }
        if let Some(line) = self.lines.get_mut(&place)
            && let Some(call) = &mut line.call
        {
            call.welcomed = true;
            line.failures = 0;
        }
        context.coverage.hit("plain service", "welcomed");
        for (user, topic) in topics {
            self.command(place, subscribe(user, topic));
        }
    }

    fn receipt(&mut self, context: &mut Context, place: usize, receipt: &v1::Receipt) {
        let Some(id) = self.awaited(place, receipt.sequence) else {
            return context
                .oracle
                .fail(format!("a receipt that nobody awaits: {receipt:?}"));
        };
        if let Some(pending) = self.pending.get_mut(&id) {
            for entry in &receipt.outcomes {
                let count = u64::from(entry.count);
                match entry.outcome() {
                    v1::Outcome::Written => pending.written += count,
                    v1::Outcome::NoTarget => {}
                    _ => pending.lost += count,
                }
            }
        }
        self.part_is_over(context, id);
    }

    fn rejected(&mut self, context: &mut Context, place: usize, rejected: &v1::Rejected) {
        context.coverage.hit("plain service", "rejected");
        if let Some(id) = self.awaited(place, rejected.sequence)
            && let Some(pending) = self.pending.get_mut(&id)
        {
            pending.refused = true;
            self.part_is_over(context, id);
        }
    }

    fn awaited(&mut self, place: usize, sequence: u64) -> Option<usize> {
        self.call(place)?.receipts.remove(&sequence)
    }

    fn part_is_over(&mut self, context: &mut Context, id: usize) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        pending.parts -= 1;
        if pending.parts > 0 {
            return;
        }
        let answer = match pending {
            Pending { unknown: true, .. } => Answer::Unknown,
            Pending { refused: true, .. } => Answer::Failed,
            Pending { written, lost, .. } => Answer::Receipt {
                written: *written,
                lost: *lost,
            },
        };
        self.pending.remove(&id);
        context.oracle.down.answered(id, answer);
    }

    fn acknowledge(&mut self, place: usize, id: u64, acks: bool) {
        if let Some(call) = self.call(place).filter(|_| acks) {
            let body = Some(Down::ClientAck(v1::ClientAck { id }));
            let frame = v1::LogicFrame { sequence: 0, body };
            call.http.send(call.stream, &frame);
        }
    }

    fn command(&mut self, place: usize, body: Down) -> Option<u64> {
        let call = self.call(place).filter(|call| call.welcomed)?;
        call.sequence += 1;
        let sequence = call.sequence;
        let body = Some(body);
        call.http
            .send(call.stream, &v1::LogicFrame { sequence, body });
        Some(sequence)
    }

    fn call(&mut self, place: usize) -> Option<&mut Call> {
        self.lines.get_mut(&place)?.call.as_mut()
    }

    fn lost(&mut self, context: &mut Context, place: usize, why: &str) {
        let Some(line) = self.lines.get_mut(&place) else {
            return;
        };
        let Some(call) = line.call.take() else { return };
        context.close(call.wire.socket);
        self.source = context.oracle.down.new_source();
        line.failures = (line.failures + 1).min(5);
        let most = Duration::from_millis(50 << line.failures);
        line.next_attempt = context.now + context.rng.time(most);
        context
            .trace
            .note(context.now, [6, place as u64, self.index as u64], || {
                format!("service {} lost g{place}: {why}", self.index)
            });
        context.coverage.hit("plain service", "lost a stream");
        for (_, id) in call.unacked {
            context
                .oracle
                .down
                .fate(id, place, None, None, Fate::Unknown);
        }
        for id in call.receipts.into_values() {
            if let Some(pending) = self.pending.get_mut(&id) {
                pending.unknown = true;
            }
            self.part_is_over(context, id);
        }
    }
}

impl Service for Plain {
    fn run(&mut self, context: &mut Context) {
        let owner = self.owner();
        context.net.take_news(owner);
        let places: Vec<usize> = self.lines.keys().copied().collect();
        let mut next: Option<Duration> = None;
        for place in places {
            let idle = self
                .lines
                .get(&place)
                .is_some_and(|line| line.call.is_none() && context.now >= line.next_attempt);
            if idle {
                self.dial(context, place);
            }
            self.serve(context, place);
            let line = &self.lines[&place];
            next = Wire::sooner(
                next,
                match &line.call {
                    None => Some(line.next_attempt),
                    Some(call) if !call.welcomed => Some(call.since + PATIENCE),
                    Some(call) => call.http.next_deadline(),
                },
            );
        }
        if let Some(next) = next {
            let soonest = context.now + Duration::from_micros(100);
            context.agenda.run_at(next.max(soonest), owner);
        }
    }

    fn push(&mut self, context: &mut Context, wanted: &Wanted) {
        let open = self
            .lines
            .iter()
            .filter(|(_, line)| line.call.as_ref().is_some_and(|call| call.welcomed));
        let places: Vec<usize> = open.map(|(place, _)| *place).collect();
        let id = wanted.issue(context, self.index, self.source, false, places.clone());
        let request = request(context, wanted, id);
        if wanted.confirmed {
            let parts = places.len();
            // With nobody to ask it is over at once.
            self.pending.insert(
                id,
                Pending {
                    parts: parts.max(1),
                    ..Pending::default()
                },
            );
            if parts == 0 {
                self.part_is_over(context, id);
            }
        }
        for place in places {
            let Some(sequence) = self.command(place, Down::Push(request.clone())) else {
                continue;
            };
            if let Some(call) = self.call(place) {
                call.unacked.push_back((sequence, id));
                if wanted.confirmed {
                    call.receipts.insert(sequence, id);
                }
            }
        }
        context.agenda.run_at(context.now, self.owner());
    }

    fn subscribe(&mut self, context: &mut Context, user: u32, topic: u32) {
        context.oracle.down.subscribed(topic, user);
        self.topics.push((user, topic));
        let places: Vec<usize> = self.lines.keys().copied().collect();
        for place in places {
            self.command(place, subscribe(user, topic));
        }
        context.agenda.run_at(context.now, self.owner());
    }

    fn set_gateways(&mut self, context: &mut Context, places: &[usize]) {
        let old: Vec<usize> = self.lines.keys().copied().collect();
        for place in old.iter().filter(|place| !places.contains(place)) {
            self.lost(context, *place, "removed");
            self.lines.remove(place);
        }
        for place in places {
            self.lines.entry(*place).or_insert(Line {
                call: None,
                next_attempt: Duration::ZERO,
                failures: 0,
            });
        }
        context.agenda.run_at(context.now, self.owner());
    }

    /// It has no deadlines of its own.
    fn jump(&mut self, _: &mut Context, _: Duration) {}

    fn die(&mut self, context: &mut Context) {
        let places: Vec<usize> = self.lines.keys().copied().collect();
        for place in places {
            self.lost(context, place, "died");
        }
    }

    fn is_quiet(&self) -> bool {
        self.pending.is_empty()
            && self.lines.values().all(|line| {
                let call = line.call.as_ref();
                call.is_some_and(|call| call.welcomed && call.unacked.is_empty())
            })
    }

    fn whereis(&self, _user: u32) -> Option<BTreeMap<usize, u32>> {
        None
    }

    fn unreleased(&self) -> usize {
        let calls = self.lines.values().filter_map(|line| line.call.as_ref());
        calls.map(|call| call.http.unreleased()).sum()
    }

    fn describe(&self) -> String {
        let lines = self.lines.iter().map(|(place, line)| match &line.call {
            None => format!("g{place}: waits until {:?}", line.next_attempt),
            Some(call) => format!(
                "g{place}: welcomed {}, {} not acknowledged",
                call.welcomed,
                call.unacked.len()
            ),
        });
        let lines: Vec<_> = lines.collect();
        format!(
            "{}; {} receipts awaited",
            lines.join(", "),
            self.pending.len()
        )
    }
}
