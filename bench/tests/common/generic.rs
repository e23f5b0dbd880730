//! A generic gRPC client, as any language has one: one connection, to the common port, that knows nothing of shards.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use gateway_proto::v1;
use h2_stream::{Client, ClientEvent, Config, Metadata, StreamId};
use prost::Message;

/// One call on a connection of its own, driven by [`Call::turn`].
pub struct Call {
    client: Client,
    stream: StreamId,
    socket: TcpStream,
    started: Instant,
    output: Vec<u8>,
    /// The answers that have come, not yet decoded.
    pub answers: Vec<prost::bytes::Bytes>,
    /// The status that ended the call.
    pub finished: Option<h2_stream::Status>,
}

impl Call {
    pub fn open(address: SocketAddr, method: &str) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let started = Instant::now();
        let now = started.elapsed();
        let mut client = Client::new(Config::default(), &address.to_string(), now);
        let stream = client.open(method, Metadata::new(), None, now).unwrap();
        Self {
            client,
            stream,
            socket,
            started,
            output: Vec::new(),
            answers: Vec::new(),
            finished: None,
        }
    }

    pub fn has_room(&self) -> bool {
        self.client.can_send(self.stream)
    }

    pub fn send(&mut self, message: &impl Message) {
        assert!(
            self.client.send(self.stream, message),
            "the call is over: {:?}",
            self.finished
        );
    }

    pub fn half_close(&mut self) {
        self.client.half_close(self.stream);
    }

    /// Moves what can be moved, and does not wait.
    pub fn turn(&mut self) {
        let now = self.started.elapsed();
        let mut buffer = [0; 16 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.client.receive_eof(now),
            Ok(n) => self.client.receive(now, &buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        self.client.handle_timeout(now);
        while let Some(event) = self.client.poll_event(now) {
            match event {
                ClientEvent::Message {
                    id,
                    message,
                    credit,
                } => {
                    self.client.release(id, credit);
                    self.answers.push(message);
                }
                ClientEvent::Finished { status, .. } => self.finished = Some(status),
                _ => {}
            }
        }
        while self.output.len() < 256 << 10
            && self.client.write_output(&mut self.output, 64 << 10) > 0
        {}
        match self.socket.write(&self.output) {
            Ok(n) => drop(self.output.drain(..n)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The answer to a call with a single one, once it is over.
    pub fn answer(&self) -> Option<v1::MessageResponse> {
        let status = self.finished.as_ref()?;
        assert!(status.is_ok(), "{status:?}");
        Some(v1::MessageResponse::decode(self.answers[0].clone()).unwrap())
    }

    /// The newest sequence that an `Exchange` has acknowledged.
    pub fn acknowledged(&mut self) -> u64 {
        let mut acknowledged = 0;
        let answers = std::mem::take(&mut self.answers);
        for answer in answers {
            let frame = v1::GatewayFrame::decode(answer).unwrap();
            match frame.body.unwrap() {
                v1::gateway_frame::Body::Welcome(_) => {}
                v1::gateway_frame::Body::Ack(ack) => acknowledged = ack.sequence,
                other => panic!("{other:?}"),
            }
        }
        acknowledged
    }
}
