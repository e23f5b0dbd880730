//! What the gateway tells, asked for again and again on a thread of its own.

use std::{
    io,
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

use crate::{cli::http, control::Shards};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    #[error("cannot ask: {0}")]
    Unreachable(#[from] io::Error),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("the answer is not one of a gateway of this version: {0}")]
    Strange(#[from] serde_json::Error),
}

/// Answers as they come.
#[derive(Debug)]
pub(super) struct Feed(Receiver<Result<Shards, FeedError>>);

impl Feed {
    /// Asks `admin` every `interval`, until this is dropped.
    pub(super) fn start(admin: &str, interval: Duration) -> Self {
        let (told, answers) = sync_channel(1);
        let admin = admin.to_owned();
        thread::spawn(move || {
            while told.send(ask(&admin)).is_ok() {
                thread::park_timeout(interval.max(Duration::from_millis(100)));
            }
        });
        Self(answers)
    }

    /// The newest answer, if there is a new one.
    pub(super) fn newest(&self) -> Option<Result<Shards, FeedError>> {
        self.0.try_iter().last()
    }
}

/// Asks once.
///
/// # Errors
/// Nobody there, or not what is expected.
pub(super) fn ask(admin: &str) -> Result<Shards, FeedError> {
    Ok(serde_json::from_str(&text(admin)?)?)
}

/// Asks once, for the text as it comes.
///
/// # Errors
/// Nobody there, or refused.
pub(super) fn text(admin: &str) -> Result<String, FeedError> {
    let answer = http::request("GET", admin, "/debug/shards", PATIENCE)?;
    match answer.status {
        200 => Ok(answer.body),
        404 => Err(FeedError::Refused(
            "it knows no /debug/shards: is this the admin port of a gateway of this version?"
                .to_owned(),
        )),
        _ => Err(FeedError::Refused(answer.body.trim_end().to_owned())),
    }
}
