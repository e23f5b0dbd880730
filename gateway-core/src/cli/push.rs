//! `ringway push`: one message from a script; the exit code tells what became of it.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use gateway_proto::{
    names,
    v1::{
        self, Connection as ConnectionId, Delivery, Everyone, MessageRequest, MessageResponse,
        PayloadKind, Users, message_request::Target,
    },
};
use h2_stream::Code;

use super::{
    NOT_STARTED,
    duration::duration,
    rpc::{CallError, Connection},
};
use crate::control::push;

const NO_TARGET: u8 = 3;
const REJECTED: u8 = 4;
const DROPPED: u8 = 5;
const UNREACHABLE: u8 = 6;

const EXIT_CODES: &str = "\
Exit codes:
  0  delivered: at least one connection has it in its outbox
  2  wrong flags, or a payload that cannot be read
  3  no such target: nobody is connected there
  4  rejected by the gateway
  5  dropped: every connection's outbox was full
  6  unreachable: no gateway there, or no answer in time";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// The gateway's gRPC port, common or of a shard.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9000")]
    gateway: String,
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    payload: PayloadArguments,
    /// Drop the message where it still waits after this time: 1500ms, 30s, 5m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// What goes first when an outbox is full: the lower.
    #[arg(long, value_enum, default_value = "normal")]
    priority: Priority,
    /// A newer message with the same key replaces this one where it still waits.
    #[arg(long, value_name = "KEY")]
    conflation_key: Option<String>,
    /// Wait this long for the gateway.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    timeout: Duration,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArguments {
    /// All connections of a user; may be repeated.
    #[arg(long, value_name = "ID")]
    user: Vec<String>,
    /// All connections subscribed to a topic.
    #[arg(long)]
    topic: Option<String>,
    /// One connection, as events name it.
    #[arg(long, value_name = "EPOCH:ID", value_parser = connection)]
    connection: Option<ConnectionId>,
    /// All connections of the gateway.
    #[arg(long)]
    everyone: bool,
}

#[derive(Debug, Args)]
struct PayloadArguments {
    /// The message. Without --text and --file it is read from the standard input.
    #[arg(long, conflicts_with = "file")]
    text: Option<String>,
    /// A file with the message; "-" is the standard input.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Send a binary message instead of text.
    #[arg(long)]
    binary: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Priority {
    Low,
    Normal,
    High,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let request = match arguments.request() {
        Ok(request) => request,
        Err(error) => {
            eprintln!("ringway: cannot read the message: {error}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    let answer = Connection::open(&arguments.gateway, arguments.timeout)
        .and_then(|mut gateway| gateway.unary::<MessageResponse>(names::PUSH, &request));
    match answer {
        Ok(counts) => {
            println!(
                "delivered={} no_target={} dropped={} rejected={}",
                counts.delivered, counts.no_target, counts.dropped, counts.rejected
            );
            ExitCode::from(exit_code(&counts))
        }
        Err(error) => {
            eprintln!("ringway: {}: {error}", arguments.gateway);
            ExitCode::from(error_code(&error))
        }
    }
}

fn exit_code(counts: &MessageResponse) -> u8 {
    match counts {
        counts if counts.delivered > 0 => 0,
        counts if counts.rejected > 0 => REJECTED,
        counts if counts.dropped > 0 => DROPPED,
        _ => NO_TARGET,
    }
}

/// A server that knows no `Push` is no gateway: nobody was reached.
fn error_code(error: &CallError) -> u8 {
    match error {
        CallError::Refused(status) if status.code != Code::Unimplemented => REJECTED,
        _ => UNREACHABLE,
    }
}

impl Arguments {
    fn request(&self) -> io::Result<MessageRequest> {
        let kind = match self.payload.binary {
            true => PayloadKind::Binary,
            false => PayloadKind::Text,
        };
        let priority = match self.priority {
            Priority::Low => v1::Priority::Low,
            Priority::Normal => v1::Priority::Normal,
            Priority::High => v1::Priority::High,
        };
        let ttl = self.ttl.unwrap_or_default().as_millis();
        Ok(MessageRequest {
            target: Some(self.target.target()),
            payload: self.payload.read()?.into(),
            kind: kind.into(),
            delivery: Some(Delivery {
                ttl_ms: u32::try_from(ttl).unwrap_or(u32::MAX),
                priority: priority.into(),
                conflation_key: self.conflation_key.clone().unwrap_or_default(),
                receipt: v1::ReceiptMode::None.into(),
            }),
        })
    }
}

impl TargetArguments {
    /// clap has seen to it that exactly one is given.
    fn target(&self) -> Target {
        if let Some(topic) = &self.topic {
            return Target::Topic(topic.clone());
        }
        if let Some(connection) = self.connection {
            return Target::Connection(connection);
        }
        match self.user.as_slice() {
            [] => Target::Everyone(Everyone {}),
            [user] => Target::UserId(user.clone()),
            users => Target::Users(Users {
                user_ids: users.iter().map(Into::into).collect(),
            }),
        }
    }
}

impl PayloadArguments {
    fn read(&self) -> io::Result<Vec<u8>> {
        match (&self.text, &self.file) {
            (Some(text), _) => Ok(text.clone().into_bytes()),
            (None, Some(path)) if path != Path::new("-") => fs::read(path),
            _ => {
                let mut bytes = Vec::new();
                io::stdin().read_to_end(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

fn connection(text: &str) -> Result<ConnectionId, &'static str> {
    push::connection(text).ok_or("must be EPOCH:ID, two decimal numbers")
}
