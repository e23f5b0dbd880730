//! The calls a link answers by itself: Describe, health, reflection.

use std::time::Duration;

use bytes::Bytes;
use gateway_proto::{
    health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    names,
    reflection::ServerReflectionRequest,
    v1,
};
use h2_stream::{CloseReason, Code, Config, Status, StreamId};
use prost::Message;

use super::{Link, calls::Call, reflection};
use crate::config;

/// A call that the link answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Describe,
    HealthCheck,
    /// Waits for its request, then stays open.
    HealthWatch {
        asked: bool,
    },
    Reflection,
}

impl Service {
    pub(super) fn of(method: &str) -> Option<Self> {
        match method {
            names::DESCRIBE => Some(Self::Describe),
            names::HEALTH_CHECK => Some(Self::HealthCheck),
            names::HEALTH_WATCH => Some(Self::HealthWatch { asked: false }),
            names::REFLECTION | names::REFLECTION_ALPHA => Some(Self::Reflection),
            _ => None,
        }
    }

    pub(super) fn is_watch(self) -> bool {
        matches!(self, Self::HealthWatch { .. })
    }
}

impl Link {
    pub(super) fn on_service_message(&mut self, stream: StreamId, message: Bytes) {
        let Some(Call::Service(service)) = self.calls.get(&stream) else {
            return;
        };
        let answered = match *service {
            Service::Describe => self.on_describe(stream, message),
            Service::HealthCheck => self.on_health_check(stream, message),
            Service::HealthWatch { .. } => self.on_health_watch(stream, message),
            Service::Reflection => self.on_reflection(stream, message),
        };
        if let Err(error) = answered {
            self.fail_decode(stream, &error);
        }
    }

    /// Tells every watch what has changed.
    pub(super) fn update_watches(&mut self) {
        let watches = self.streams_where(|call| {
            matches!(call, Call::Service(Service::HealthWatch { asked: true }))
        });
        for stream in watches {
            self.server.send(stream, &self.health());
        }
    }

    fn on_describe(&mut self, stream: StreamId, message: Bytes) -> Result<(), prost::DecodeError> {
        v1::DescribeRequest::decode(message)?;
        self.server.send(stream, &self.gateway.describe());
        Ok(())
    }

    fn on_health_check(
        &mut self,
        stream: StreamId,
        message: Bytes,
    ) -> Result<(), prost::DecodeError> {
        let request = HealthCheckRequest::decode(message)?;
        if is_known(&request.service) {
            self.server.send(stream, &self.health());
        } else {
            let detail = format!("no service {:?} here", request.service);
            self.finish(stream, Status::new(Code::NotFound, detail));
        }
        Ok(())
    }

    fn on_health_watch(
        &mut self,
        stream: StreamId,
        message: Bytes,
    ) -> Result<(), prost::DecodeError> {
        let request = HealthCheckRequest::decode(message)?;
        if is_known(&request.service) {
            self.server.send(stream, &self.health());
            let watch = Service::HealthWatch { asked: true };
            self.calls.insert(stream, Call::Service(watch));
        } else {
            // The health protocol keeps such a watch open: the service might come.
            let status = ServingStatus::ServiceUnknown.into();
            self.server.send(stream, &HealthCheckResponse { status });
        }
        Ok(())
    }

    fn on_reflection(
        &mut self,
        stream: StreamId,
        message: Bytes,
    ) -> Result<(), prost::DecodeError> {
        let request = ServerReflectionRequest::decode(message)?;
        self.server.send(stream, &reflection::answer(request));
        Ok(())
    }

    fn health(&self) -> HealthCheckResponse {
        let status = if self.drain_ends.is_some() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        HealthCheckResponse {
            status: status.into(),
        }
    }
}

/// The settings of a link whose connection window is `window` bytes.
pub(super) fn config(config: &config::Config, window: u32) -> Config {
    let grpc = &config.grpc;
    Config {
        max_message: grpc.max_message_bytes,
        stream_window: grpc.stream_window_bytes.min(window),
        connection_window: window,
        max_streams: grpc.max_streams,
        max_header_list: grpc.max_header_bytes,
        keepalive_interval: Some(Duration::from_millis(grpc.keepalive_interval_ms)),
        keepalive_timeout: Duration::from_millis(grpc.keepalive_timeout_ms),
        send_buffer: grpc.send_buffer_bytes,
        // One link alone may bring all that a tick takes.
        receive_buffer: config.tick.link_bytes,
        ..Config::default()
    }
}

/// The label in `ringway_stream_errors_total`.
pub(super) fn label(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::Reset(_) => "reset",
        CloseReason::DeadlineExceeded => "deadline",
        CloseReason::MessageTooLarge => "message_too_large",
        CloseReason::BadMessage => "bad_message",
        CloseReason::Truncated => "truncated",
        CloseReason::ConnectionLost => "link_lost",
        _ => "other",
    }
}

fn is_known(service: &str) -> bool {
    service.is_empty() || service == names::GATEWAY_SERVICE
}
