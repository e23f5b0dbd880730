//! A real etcd, of one member, that the test starts, stops and asks.

// Not every test needs all of it.
#![allow(dead_code)]

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for what a test expects.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Said when there is none.
const MISSING: &str = "this test needs etcd and etcdctl: install Debian's packages etcd-server and \
                       etcd-client, or run .ci/etcd";

pub struct Etcd {
    /// "http://host:port", for clients.
    pub endpoint: String,
    peers: String,
    data: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one with an empty folder of its own, and waits until it works. It ends with the test.
    pub fn start(name: &str) -> Self {
        let data = format!("etcd-{name}-{}", std::process::id());
        let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(data);
        let mut etcd = Self {
            endpoint: format!("http://{}", own_address()),
            peers: format!("http://{}", own_address()),
            data,
            child: None,
        };
        etcd.wipe();
        etcd.restart();
        etcd
    }

    /// "host:port", for clients.
    pub fn address(&self) -> &str {
        self.endpoint.trim_start_matches("http://")
    }

    /// Ends it at once, as a crash would. What it has stored stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Forgets what was stored. Only while it does not run.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none());
        match fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    /// Starts it on the same ports with what is stored, and waits until it works.
    pub fn restart(&mut self) {
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "test", "--log-level", "error", "--logger", "zap"])
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen-client-urls", &self.endpoint])
            .args(["--advertise-client-urls", &self.endpoint])
            .args(["--listen-peer-urls", &self.peers])
            .args(["--initial-advertise-peer-urls", &self.peers])
            .args(["--initial-cluster", &format!("test={}", self.peers)])
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        self.child = Some(etcd.spawn().expect(MISSING));
        let deadline = Instant::now() + PATIENCE;
        while !self.try_ctl(&["endpoint", "health"]).status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "etcd ended");
            assert!(Instant::now() < deadline, "etcd does not get ready");
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Runs etcdctl; returns what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.try_ctl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The current revision of its history.
    pub fn revision(&self) -> i64 {
        let status = self.ctl(&["endpoint", "status", "--write-out", "json"]);
        let (_, rest) = status.split_once("\"revision\":").unwrap();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        rest[..digits].parse().unwrap()
    }

    fn try_ctl(&self, arguments: &[&str]) -> Output {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint])
            .args(arguments)
            .stdin(Stdio::null());
        etcdctl.output().expect(MISSING)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// "host:port" that nobody else has, not even while etcd is stopped: the address is this process's, the port this etcd's.
fn own_address() -> String {
    static FREE: AtomicU16 = AtomicU16::new(2379);
    // Process ids have 22 bits at most (pid_max, proc_sys_kernel(5)), what loopback leaves has 24.
    let own = Ipv4Addr::from_bits(0x7f00_0000 | std::process::id());
    format!("{own}:{}", FREE.fetch_add(1, Ordering::Relaxed))
}
