//! Rules of the tree that no compiler checks: they are read off the sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The modules of `gateway-core`, in the order in which data flows: each imports only from those behind it.
const ORDER: [&str; 15] = [
    "cli",
    "bootstrap",
    "control",
    "driver",
    "shard",
    "link",
    "gateway",
    "ws",
    "lanes",
    "command",
    "timesheet",
    "metrics",
    "identity",
    "config",
    "mutation",
];

/// The first module that may know neither clock nor socket nor runtime.
const FIRST_PURE: &str = "shard";

/// What gives a clock, a socket or a runtime away.
const IMPURE: [&str; 11] = [
    "Instant::now",
    "SystemTime",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "tokio::",
    "monoio::",
    "glommio::",
    "socket2::",
    "rustix::",
];

const LONGEST_FILE: usize = 500;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("a crate lies in the workspace")
        .to_owned()
}

fn sources(under: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).unwrap_or_else(|error| panic!("{}: {error}", under.display()))
    {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("sources are text");
            found.push((path, text));
        }
    }
    found
}

/// Lines that are code: neither comments nor, from `mod tests` on, tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines());
    let code = lines.take_while(|(_, line)| !line.starts_with("mod tests"));
    code.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn module_of(path: &Path, src: &Path) -> String {
    let inner = path.strip_prefix(src).expect("below src");
    let first = inner.components().next().expect("a file");
    first
        .as_os_str()
        .to_string_lossy()
        .trim_end_matches(".rs")
        .to_owned()
}

#[test]
fn modules_import_only_from_those_below_them() {
    let src = root().join("gateway-core/src");
    let mut seen = 0;
    for (path, text) in sources(&src) {
        let module = module_of(&path, &src);
        let Some(rank) = ORDER.iter().position(|known| *known == module) else {
            assert!(
                ["lib", "main"].contains(&module.as_str()),
                "{module} has no place in ORDER"
            );
            continue;
        };
        for (number, line) in code(&text) {
            for above in &ORDER[..rank] {
                let upward = [format!("crate::{above}::"), format!("crate::{above};")];
                let nested = format!("    {above}::");
                let inside = text.contains("use crate::{") && line.starts_with(&nested);
                let found = inside || upward.iter().any(|name| line.contains(name));
                assert!(
                    !found,
                    "{}:{number}: {module} imports from {above}",
                    path.display()
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 1000, "the sources were not found");
}

// The gateway and its client meet on the wire and in the registry, not in code; and of the gateway only the control
// thread waits for a registry.
#[test]
fn leaves_do_not_know_each_other_and_only_control_knows_the_registry() {
    for (leaf, strangers) in [
        (
            "discovery",
            ["gateway-core", "logic-client", "gateway-proto"],
        ),
        (
            "gateway-core",
            ["logic-client", "gateway-bench", "hickory-resolver"],
        ),
        ("logic-client", ["gateway-core", "gateway-bench", "monoio"]),
    ] {
        let manifest = root().join(leaf).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).expect("it is there");
        let (used, _) = manifest
            .split_once("[dev-dependencies]")
            .unwrap_or((&manifest, ""));
        for stranger in strangers {
            let found = used.lines().any(|line| line.starts_with(stranger));
            assert!(!found, "{leaf} uses {stranger}");
        }
    }
    let src = root().join("gateway-core/src");
    let mut seen = 0;
    for (path, text) in sources(&src) {
        let uses = code(&text).any(|(_, line)| line.contains("gateway_discovery"));
        let control = module_of(&path, &src) == "control";
        assert!(
            control || !uses,
            "{} uses gateway_discovery",
            path.display()
        );
        seen += usize::from(uses);
    }
    assert!(seen > 0, "nobody registers");
}

#[test]
fn no_clock_socket_or_runtime_below_the_drivers() {
    let src = root().join("gateway-core/src");
    let pure = ORDER
        .iter()
        .position(|module| *module == FIRST_PURE)
        .expect("it is in the list");
    let mut files: Vec<_> = sources(&src)
        .into_iter()
        .filter(|(path, _)| ORDER[pure..].contains(&module_of(path, &src).as_str()))
        .collect();
    files.extend(sources(&root().join("h2-stream/src")));
    let client = root().join("logic-client/src/core");
    files.extend(sources(&client));
    assert!(files.len() > 40, "the sources were not found");
    for (path, text) in files {
        for (number, line) in code(&text) {
            for word in IMPURE {
                // What h2 itself is written in terms of; no runtime behind it.
                let traits = line.contains("tokio::io::");
                // What wakes the client's callers and hands them answers needs no runtime either.
                let sync = path.starts_with(&client) && line.contains("tokio::sync::");
                let allowed = traits || sync;
                assert!(
                    allowed || !line.contains(word),
                    "{}:{number}: {word}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn files_stay_readable_in_one_sitting() {
    for folder in [
        "proto/src",
        "h2-stream",
        "discovery",
        "gateway-core",
        "logic-client",
        "bench",
    ] {
        for (path, text) in sources(&root().join(folder)) {
            let lines = text.lines().count();
            assert!(
                lines <= LONGEST_FILE,
                "{} has {lines} lines",
                path.display()
            );
        }
    }
}

#[test]
fn unsafe_code_stays_in_the_drivers() {
    for folder in [
        "proto",
        "h2-stream",
        "discovery",
        "gateway-core",
        "logic-client",
        "bench",
    ] {
        for (path, text) in sources(&root().join(folder)) {
            let driver = path.starts_with(root().join("gateway-core/src/driver"));
            for (number, line) in code(&text) {
                let uses = line.contains("unsafe {") || line.contains("allow(unsafe_code)");
                let quoted = path.ends_with("tidy.rs");
                assert!(
                    driver || quoted || !uses,
                    "{}:{number}: unsafe",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn h2_stream_takes_nothing_of_tokio_but_its_traits() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "h2-stream",
            "-e",
            "normal",
            "--depth",
            "1",
        ])
        .args(["--prefix", "none", "--format", "{p} [{f}]"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let manifest = fs::read_to_string(root().join("h2-stream/Cargo.toml")).expect("it is there");
    let tokio = manifest
        .lines()
        .find(|line| line.starts_with("tokio ="))
        .expect("h2 needs it");
    assert!(tokio.ends_with(r#"features = ["io-util"] }"#), "{tokio}");
    let tree = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for runtime in ["monoio", "glommio", "mio ", "async-std", "smol"] {
        assert!(!tree.contains(runtime), "{runtime} in\n{tree}");
    }
}
