//! The binary as a process: started on ports of the kernel's choice, asked, signalled, and killed when dropped.

#![allow(dead_code, reason = "each test has a use for a part of it")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio_tungstenite::tungstenite::{self, WebSocket};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn ringway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(arguments).env("RINGWAY_CONFIG", "/dev/null");
    command
}

pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = ringway(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Status and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// A gateway on ports of the kernel's choice.
pub struct Gateway {
    process: Child,
    pub ws: SocketAddr,
    pub grpc: String,
    pub admin: SocketAddr,
}

impl Gateway {
    pub fn start(settings: &[&str]) -> Self {
        Self::start_as("serve", settings)
    }

    pub fn start_as(command: &str, settings: &[&str]) -> Self {
        let any = "127.0.0.1:0";
        let mut process = ringway(&[
            command, "--ws", any, "--grpc", any, "--admin", any, "--shards", "2", "--log", "warn",
        ])
        .args(settings)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let mut lines = stdout.lines().map(Result::unwrap);
        let line = lines
            .find(|line| line.starts_with("ringway ready "))
            .unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let address = |at: usize, name: &str| words[at].strip_prefix(name).unwrap().to_owned();
        assert_eq!(words[5..], ["shards=2"], "{line}");
        Self {
            process,
            ws: address(2, "ws=").parse().unwrap(),
            grpc: address(3, "grpc="),
            admin: address(4, "admin=").parse().unwrap(),
        }
    }

    pub fn connect(&self, user: &str) -> WebSocket<TcpStream> {
        self.open(&format!("/ws?user={user}"))
    }

    pub fn open(&self, path: &str) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(self.ws).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}{path}", self.ws);
        tungstenite::client(url, stream).unwrap().0
    }

    pub fn push(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&[&["push", "--gateway", &self.grpc], arguments].concat())
    }

    pub fn admin(&self, path: &str) -> (u16, String) {
        get(self.admin, path)
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.process);
        kill_process(id, signal).unwrap();
    }

    /// The exit code, once it has ended.
    pub fn end(mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code().expect("not killed");
            }
            std::thread::yield_now();
        }
        panic!("the gateway does not end");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
