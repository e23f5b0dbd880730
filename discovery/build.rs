//! Compiles etcd's schema with protox, so that no protoc is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "etcd")]
    {
        println!("cargo:rerun-if-changed=etcd");
        let descriptors = protox::compile(["etcd/rpc.proto"], ["."])?;
        tonic_prost_build::configure()
            .build_server(false)
            .compile_fds(descriptors)?;
    }
    Ok(())
}
