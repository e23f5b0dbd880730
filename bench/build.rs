//! The gRPC service of the peer that is built with tonic: its messages are those of `gateway-proto`.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let push_stream = Method::builder()
        .name("push_stream")
        .route_name("PushStream")
        .input_type("::gateway_proto::v1::MessageRequest")
        .output_type("::gateway_proto::v1::MessageResponse")
        .codec_path("::tonic_prost::ProstCodec")
        .client_streaming()
        .build();
    let service = Service::builder()
        .package("ringway.v1")
        .name("GatewayService")
        .method(push_stream)
        .build();
    Builder::new().build_client(false).compile(&[service]);
}
