//! A file of gateways, as an operator or a ConfigMap changes it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use logic_client::resolver::{Endpoint, File, Known, Resolver, Updated, channel};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of its own for each test.
fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn watch(path: PathBuf) -> Updated {
    let (updates, updated) = channel();
    let file = File::new(path).unwrap().every(Duration::from_millis(10));
    tokio::spawn(Box::new(file).run(updates));
    updated
}

async fn next(updated: &mut Updated) -> Known {
    timeout(PATIENCE, updated.next()).await.unwrap().unwrap()
}

fn set(addresses: &[&str]) -> Option<Vec<Endpoint>> {
    Some(addresses.iter().copied().map(Endpoint::new).collect())
}

#[tokio::test]
async fn a_file_that_is_replaced_by_renaming_is_followed() {
    let folder = folder("file_renamed");
    let path = folder.join("gateways.toml");
    fs::write(&path, "gateways = [\"a:1\"]").unwrap();
    let mut updated = watch(path.clone());
    assert_eq!(next(&mut updated).await.endpoints, set(&["a:1"]));
    // Same length: neither the size nor, within a tick of the kernel's clock, the time differs.
    fs::write(folder.join("new"), "gateways = [\"b:1\"]").unwrap();
    fs::rename(folder.join("new"), &path).unwrap();
    assert_eq!(next(&mut updated).await.endpoints, set(&["b:1"]));
    fs::write(folder.join("new"), "gateways = []").unwrap();
    fs::rename(folder.join("new"), &path).unwrap();
    assert_eq!(next(&mut updated).await.endpoints, set(&[]));
}

#[tokio::test]
async fn links_are_followed_as_kubernetes_turns_them() {
    let folder = folder("file_linked");
    for (version, text) in [
        ("1", r#"{"gateways": ["a:1"]}"#),
        ("2", r#"{"gateways": ["b:1"]}"#),
    ] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("gateways.json"), text).unwrap();
    }
    symlink("1", folder.join("data")).unwrap();
    symlink("data/gateways.json", folder.join("gateways.json")).unwrap();
    let mut updated = watch(folder.join("gateways.json"));
    assert_eq!(next(&mut updated).await.endpoints, set(&["a:1"]));
    symlink("2", folder.join("turned")).unwrap();
    fs::rename(folder.join("turned"), folder.join("data")).unwrap();
    assert_eq!(next(&mut updated).await.endpoints, set(&["b:1"]));
}

#[tokio::test]
async fn a_broken_or_missing_file_keeps_the_last_set_and_says_what_is_wrong_where() {
    let folder = folder("file_broken");
    let path = folder.join("gateways.toml");
    let mut updated = watch(path.clone());
    let known = next(&mut updated).await;
    assert_eq!(known.endpoints, None);
    assert!(known.trouble.unwrap().contains("No such file"));

    fs::write(&path, "gateways = [\"a:1\"]").unwrap();
    // A reader may come while the file is still empty.
    let known = loop {
        let known = next(&mut updated).await;
        if known.endpoints.is_some() {
            break known;
        }
    };
    assert_eq!((known.endpoints, known.trouble), (set(&["a:1"]), None));

    fs::write(folder.join("new"), "gateways = [\n\"a:1\",\n\"b\"]").unwrap();
    fs::rename(folder.join("new"), &path).unwrap();
    let known = next(&mut updated).await;
    assert_eq!(known.endpoints, set(&["a:1"]));
    let place = format!("{}:3:1: \"b\" is not \"host:port\"", path.display());
    assert_eq!(known.trouble.unwrap(), place);

    fs::remove_file(&path).unwrap();
    let known = next(&mut updated).await;
    assert_eq!(known.endpoints, set(&["a:1"]));
    assert!(known.trouble.unwrap().contains("No such file"));

    fs::write(folder.join("new"), "gateways = [\"a:1\"]").unwrap();
    fs::rename(folder.join("new"), &path).unwrap();
    let known = next(&mut updated).await;
    assert_eq!((known.endpoints, known.trouble), (set(&["a:1"]), None));
}

// What a reader of docs/discovery.md copies must work.
#[tokio::test]
async fn the_files_shown_in_the_docs_are_understood() {
    let page = include_str!("../../docs/discovery.md");
    let folder = folder("file_docs");
    let mut seen = Vec::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (ending, text) = block.split_once('\n').unwrap();
        let is_listing = ["gateways = [", "[[gateways]]", "\"gateways\": ["];
        if !is_listing.iter().any(|start| text.contains(start)) {
            continue;
        }
        let path = folder.join(format!("{}.{ending}", seen.len()));
        fs::write(&path, text).unwrap();
        let known = next(&mut watch(path)).await;
        assert_eq!(known.trouble, None, "{text}");
        seen.push(known.endpoints.unwrap());
    }
    let second = Endpoint {
        id: Some("gw-2".into()),
        zone: Some("b".into()),
        draining: true,
        ..Endpoint::new("gw-2.example:9000")
    };
    assert_eq!(seen, vec![[Endpoint::new("10.0.0.7:9000"), second]; 3]);
}

#[test]
fn a_name_without_a_known_ending_is_refused() {
    let error = File::new("/etc/gateways").unwrap_err().to_string();
    assert_eq!(error, "/etc/gateways: the name must end in .toml or .json");
}
