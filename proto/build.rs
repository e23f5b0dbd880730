//! Compiles the schema with protox, so that no protoc is needed.

use std::{env, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=ringway");
    println!("cargo:rerun-if-changed=grpc");
    let files = [
        "ringway/v1/gateway.proto",
        "grpc/health/v1/health.proto",
        "grpc/reflection/v1/reflection.proto",
        "grpc/reflection/v1alpha/reflection.proto",
    ];
    let descriptors = protox::compile(files, ["."]).map_err(io::Error::other)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::Error::other("no OUT_DIR"))?);
    prost_build::Config::new()
        .bytes(["."])
        .extern_path(".ringway.v1.Users", "crate::users::Users")
        .compile_fds(descriptors.clone())?;
    fs::write(
        out.join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )
}
