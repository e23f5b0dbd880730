//! What a gateway remembers of the streams of sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use gateway_proto::v1::{self, Welcome};

/// The sessions of all shards.
#[derive(Default)]
pub struct Sessions {
    known: HashMap<(Vec<u8>, u32), Arc<Session>>,
    tokens: u64,
}

/// Looked at for every command: no lock.
#[derive(Default)]
struct Session {
    token: AtomicU64,
    /// What the newest stream came with. It may come again, if Welcome was lost.
    previous: AtomicU64,
    used: AtomicBool,
    last_sequence: AtomicU64,
}

/// A stream's hold of its session.
pub struct Attached {
    session: Arc<Session>,
    token: u64,
}

impl Sessions {
    /// Forgets everything.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    pub fn attach(
        &mut self,
        hello: &v1::Hello,
        epoch: u64,
        welcome: &mut Welcome,
    ) -> Option<Attached> {
        welcome.set_resume(v1::Resume::New);
        if hello.session_id.is_empty() {
            return None;
        }
        let key = (hello.session_id.to_vec(), hello.stream_index);
        if let Some(session) = self.known.get(&key) {
            let lost =
                session.previous.load(Relaxed) == hello.resume_token && !session.used.load(Relaxed);
            if session.token.load(Relaxed) != hello.resume_token && !lost {
                return None;
            }
            welcome.set_resume(v1::Resume::Resumed);
        } else if hello.resume_token != 0 && hello.gateway_epoch == epoch {
            welcome.set_resume(v1::Resume::Unknown);
        }
        let session = Arc::clone(self.known.entry(key).or_default());
        self.tokens += 1;
        let token = self.tokens;
        session.token.store(token, Relaxed);
        session.previous.store(hello.resume_token, Relaxed);
        session.used.store(false, Relaxed);
        welcome.last_sequence = session.last_sequence.load(Relaxed);
        welcome.resume_token = token;
        Some(Attached { session, token })
    }
}

impl Attached {
    /// Whether another stream has taken the place.
    pub fn is_replaced(&self) -> bool {
        self.session.token.load(Relaxed) != self.token
    }

    pub fn take(&self, sequence: u64) {
        self.session.last_sequence.store(sequence, Relaxed);
        self.session.used.store(true, Relaxed);
    }
}
