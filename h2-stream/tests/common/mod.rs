//! Two sides of a connection, joined by vectors instead of a socket.
#![allow(dead_code, unreachable_pub)] // each test file uses its part
#![allow(clippy::unwrap_used)]

pub mod raw;

use std::collections::BTreeMap;
use std::time::Duration;

use h2_stream::{Client, ClientEvent, Config, Server, ServerEvent, Status, StreamId};

pub const START: Duration = Duration::from_secs(1000);

/// A client and a server, and all they said.
pub struct Pair {
    pub client: Client,
    pub server: Server,
    pub now: Duration,
    pub client_events: Vec<ClientEvent>,
    pub server_events: Vec<ServerEvent>,
    /// Messages are released as soon as they come.
    pub release: bool,
    /// Bytes go over in pieces of these sizes, again and again.
    pub cuts: Vec<usize>,
    next_cut: usize,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(Config::default(), Config::default())
    }

    pub fn with(server: Config, client: Config) -> Self {
        Self {
            client: Client::new(client, "localhost:9000", START),
            server: Server::new(server, START),
            now: START,
            client_events: Vec::new(),
            server_events: Vec::new(),
            release: true,
            cuts: vec![64 << 10],
            next_cut: 0,
        }
    }

    /// Carries bytes both ways until both are silent.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// One piece each way; false when there was nothing.
    pub fn step(&mut self) -> bool {
        let to_server = self.cut();
        let to_client = self.cut();
        let mut bytes = Vec::new();
        let mut moved = false;
        self.poll();
        if self.server.wants_bytes() && self.client.has_output() {
            self.client.write_output(&mut bytes, to_server);
            assert!(bytes.len() <= to_server);
            moved |= !bytes.is_empty();
            self.server.receive(self.now, &bytes);
        }
        bytes.clear();
        self.poll();
        if self.client.wants_bytes() && self.server.has_output() {
            self.server.write_output(&mut bytes, to_client);
            assert!(bytes.len() <= to_client);
            moved |= !bytes.is_empty();
            self.client.receive(self.now, &bytes);
        }
        self.poll();
        moved
    }

    /// Takes all events.
    pub fn poll(&mut self) {
        while let Some(event) = self.server.poll_event(self.now) {
            if let ServerEvent::Message { stream, credit, .. } = &event
                && self.release
            {
                self.server.release(*stream, *credit);
            }
            self.server_events.push(event);
        }
        while let Some(event) = self.client.poll_event(self.now) {
            if let ClientEvent::Message { id, credit, .. } = &event
                && self.release
            {
                self.client.release(*id, *credit);
            }
            self.client_events.push(event);
        }
    }

    /// A call of `/t/M` both sides know of.
    pub fn call(&mut self) -> StreamId {
        let id = self
            .client
            .open("/t/M", h2_stream::Metadata::new(), None, self.now)
            .unwrap();
        self.run();
        id
    }

    /// Messages the server got, by stream.
    pub fn server_messages(&self) -> BTreeMap<StreamId, Vec<Vec<u8>>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in &self.server_events {
            if let ServerEvent::Message {
                stream, message, ..
            } = event
            {
                all.entry(*stream).or_default().push(message.to_vec());
            }
        }
        all
    }

    /// Messages the client got, by call.
    pub fn client_messages(&self) -> BTreeMap<StreamId, Vec<Vec<u8>>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in &self.client_events {
            if let ClientEvent::Message { id, message, .. } = event {
                all.entry(*id).or_default().push(message.to_vec());
            }
        }
        all
    }

    /// How the call ended at the client.
    pub fn status(&self, call: StreamId) -> Option<&Status> {
        self.client_events.iter().find_map(|event| match event {
            ClientEvent::Finished { id, status, .. } if *id == call => Some(status),
            _ => None,
        })
    }

    /// Lets the time pass, step by step, as a driver would.
    pub fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let deadlines = [self.server.next_deadline(), self.client.next_deadline()];
            let next = deadlines.into_iter().flatten().min();
            self.now = next.unwrap_or(end).clamp(self.now, end);
            self.server.handle_timeout(self.now);
            self.client.handle_timeout(self.now);
            self.run();
            if self.now == end {
                break;
            }
        }
    }

    fn cut(&mut self) -> usize {
        self.next_cut += 1;
        self.cuts[self.next_cut % self.cuts.len()]
    }
}

/// The frames in `bytes` (which must begin at one), as (kind, flags, stream, length).
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, usize)> {
    let mut all = Vec::new();
    while bytes.len() >= 9 {
        let length =
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        all.push((bytes[3], bytes[4], stream, length));
        bytes = &bytes[(9 + length).min(bytes.len())..];
    }
    all
}
