//! What a stream and its session tell each other.

use gateway_proto::v1::{self, Capability, Resume};

use crate::lanes::Upward;

/// One stream of one client instance, across the connections it has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// `Hello.session_id`.
    pub id: [u8; SESSION_ID_BYTES],
    /// `Hello.stream_index`.
    pub index: u32,
}

/// What `Hello` says about its session.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The session.
    pub key: SessionKey,
    /// What the client was given by the stream before; 0: there was none.
    pub token: u64,
    /// The client knows this epoch from before.
    pub knows_epoch: bool,
}

/// How far the commands of a stream have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest command that was dealt with.
    pub last_sequence: u64,
    /// A batch behind it that was dealt with in part: its sequence, and how many of its messages.
    pub partial: Option<(u64, usize)>,
    /// The client has said something on the stream: it knows the token.
    pub used: bool,
}

/// How a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// The session that goes on. `None`: the stream can't be resumed.
    pub key: Option<SessionKey>,
    /// What the client is told.
    pub resume: Resume,
    /// `Welcome.resume_token`.
    pub token: u64,
    /// Where its commands go on.
    pub progress: Progress,
}

/// What is left of a stream that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The session it belonged to.
    pub key: Option<SessionKey>,
    /// How far its commands have come.
    pub progress: Progress,
    /// Client events that the service has not acknowledged, if it acknowledges them at all.
    pub unacknowledged: Vec<Upward>,
}

/// Length of `Hello.session_id`.
pub const SESSION_ID_BYTES: usize = 16;

impl Claim {
    /// `None`: the stream does not ask for its session to be kept.
    #[must_use]
    pub fn of(hello: &v1::Hello, epoch: u64) -> Option<Self> {
        let wants = hello.capabilities.contains(&Capability::Resume.into());
        let id = hello.session_id.as_ref().try_into().ok()?;
        wants.then_some(Self {
            key: SessionKey {
                id,
                index: hello.stream_index,
            },
            token: hello.resume_token,
            knows_epoch: hello.gateway_epoch == epoch,
        })
    }
}

impl Resumption {
    /// A stream whose session is not kept.
    #[must_use]
    pub fn impossible(knows_epoch: bool) -> Self {
        Self {
            key: None,
            resume: if knows_epoch {
                Resume::Unknown
            } else {
                Resume::New
            },
            token: 0,
            progress: Progress::default(),
        }
    }
}
