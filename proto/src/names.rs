//! gRPC method paths and service names, as they stand in `:path`.

/// Fire and forget, client streaming.
pub const PUSH_STREAM: &str = "/ringway.v1.GatewayService/PushStream";
/// The bidirectional stream of a logic service.
pub const EXCHANGE: &str = "/ringway.v1.GatewayService/Exchange";
/// One message, unary.
pub const PUSH: &str = "/ringway.v1.GatewayService/Push";
/// Many messages, unary.
pub const PUSH_MANY: &str = "/ringway.v1.GatewayService/PushMany";
/// What the gateway is, unary.
pub const DESCRIBE: &str = "/ringway.v1.GatewayService/Describe";
/// Standard health check, unary.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Standard health watch, server streaming.
pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Standard reflection, bidirectional.
pub const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// Standard reflection under its older name, which many tools still ask for.
pub const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// The gateway's own service, as health checks name it.
pub const GATEWAY_SERVICE: &str = "ringway.v1.GatewayService";

/// Longest user id, topic and conflation key, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// Whether `name` may be a user id, a topic or a conflation key: 1 to [`MAX_NAME_BYTES`] bytes.
#[inline]
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
}
