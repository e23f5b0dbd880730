//! A crate outside this workspace that depends on this one by path: what a user of it does first.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "client/fake/mod.rs"]
mod fake;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fake::Fake;
use tokio::process::Command;
use tokio::time::timeout;

const PROGRAM: &str = include_str!("standalone/main.rs.txt");

/// A build from nothing on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_crate_outside_the_workspace_pushes_in_under_30_lines() {
    assert!(PROGRAM.lines().count() < 30);
    let fake = Fake::start(2).await;
    let package = write_package();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["run", "--quiet", "--", &fake.address])
        .current_dir(&package)
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TARGET_DIR", package.join("target"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ran = timeout(PATIENCE, cargo.output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "written 2\n");
    let mut came: Vec<_> = (0..2).flat_map(|shard| fake.texts(shard)).collect();
    came.sort();
    assert_eq!(came, ["extra", "extra", "hi"]);
}

/// Writes the package beside the build of these tests; what was built before is used again. The
/// workspace's lock lets it resolve without a network.
fn write_package() -> PathBuf {
    let client = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standalone");
    fs::create_dir_all(package.join("src")).unwrap();
    let manifest = format!(
        r#"[package]
name = "standalone"
version = "0.1.0"
edition = "2024"

[workspace]

# The quickest to build: it runs once.
[profile.dev]
debug = false

[dependencies]
logic-client = {{ path = {client:?} }}
tokio = {{ version = "1", features = ["rt", "net", "time", "macros"] }}
"#
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::write(package.join("src/main.rs"), PROGRAM).unwrap();
    fs::copy(client.join("../Cargo.lock"), package.join("Cargo.lock")).unwrap();
    package
}
