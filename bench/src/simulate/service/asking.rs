//! One call of `Describe`, on a connection of its own.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gateway_proto::{names, v1};
use h2_stream::{Client, ClientEvent, Config, Metadata};
use logic_client::{GatewayError, simulation::Description};
use prost::Message as _;

use super::wire::Wire;
use crate::simulate::{
    context::Context,
    gateway,
    net::{Owner, Read},
};

/// What came of asking.
pub type Answer = Result<Arc<Description>, GatewayError>;

/// A question under way.
pub struct Asking {
    address: String,
    wire: Wire,
    http: Client,
    until: Duration,
}

/// Who asked waits no longer for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Asking {
    /// Asks what runs at an address. `clock` is the time of the service.
    ///
    /// # Errors
    /// There is no such place.
    pub fn begin(
        context: &mut Context,
        clock: Duration,
        owner: Owner,
        address: &str,
    ) -> Result<Self, GatewayError> {
        let place = gateway::address(address).ok_or_else(|| unreachable(address, "no address"))?;
        let (now, agenda) = (context.now, &mut context.agenda);
        let socket = context.net.dial(now, agenda, owner, place);
        let mut http = Client::new(Config::default(), address, clock);
        let call = http.open(names::DESCRIBE, Metadata::new(), None, clock);
        let call = call.map_err(|error| unreachable(address, &error.to_string()))?;
        http.send(call, &v1::DescribeRequest {});
        http.half_close(call);
        Ok(Self {
            address: address.to_owned(),
            wire: Wire::new(socket),
            http,
            until: clock + PATIENCE,
        })
    }

    /// Moves bytes; the answer, once it is there.
    pub fn poll(&mut self, context: &mut Context, clock: Duration) -> Option<Answer> {
        if clock >= self.until {
            return Some(Err(unreachable(&self.address, "silent")));
        }
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            match self.wire.read(context, &mut buffer) {
                Read::Bytes(_) => self.http.receive(clock, &buffer),
                Read::Nothing => break,
                Read::Eof => self.http.receive_eof(clock),
                Read::Reset => return Some(Err(unreachable(&self.address, "reset"))),
            }
            if let Some(answer) = self.answer(clock) {
                return Some(answer);
            }
        }
        let http = &mut self.http;
        let written = self
            .wire
            .write(context, |out, most| http.write_output(out, most));
        (!written).then(|| Err(unreachable(&self.address, "broken")))
    }

    /// Hangs up.
    pub fn end(self, context: &mut Context) {
        context.close(self.wire.socket);
    }

    fn answer(&mut self, clock: Duration) -> Option<Answer> {
        while let Some(event) = self.http.poll_event(clock) {
            let failed = match event {
                ClientEvent::Message { message, .. } => {
                    return Some(match v1::DescribeResponse::decode(message) {
                        Ok(response) => self.described(response),
                        Err(error) => Err(unreachable(&self.address, &error.to_string())),
                    });
                }
                ClientEvent::Finished { status, .. } => format!("{status:?}"),
                ClientEvent::ConnectionLost { reason } => reason,
                _ => continue,
            };
            return Some(Err(unreachable(&self.address, &failed)));
        }
        None
    }

    fn described(&self, response: v1::DescribeResponse) -> Answer {
        // Addresses are given in full: nobody asks for the peer.
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Description::new(&self.address, peer, response).map(Arc::new)
    }
}

/// There is no way to a gateway.
pub fn unreachable(address: &str, reason: &str) -> GatewayError {
    GatewayError::Unreachable {
        address: address.to_owned(),
        reason: reason.to_owned(),
    }
}
