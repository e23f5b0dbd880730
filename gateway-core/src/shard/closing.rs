//! How connections end: by the client's Close, by ours, by a rule that was broken, or without a word.

use std::time::Duration;

use super::{
    Action, Shard,
    conn::{Awaits, ClientClose, Conn, Linger, Phase},
};
use crate::{
    command::Outcome,
    identity::{ConnId, SocketId},
    ws::{self, CloseCode, Violation},
};

impl Shard {
    /// The client's Close: answered once what it sent before it is acknowledged, or the linger is over.
    pub(super) fn on_close(&mut self, now: Duration, id: ConnId, close: ClientClose) {
        let now_ms = now.as_millis() as u64;
        let linger_ms = self.gateway.config.ws.close_linger_ms;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        match &mut conn.phase {
            Phase::Closing { awaits, .. } => {
                *awaits = Awaits::Nothing;
                self.finish_if_flushed(now, id);
            }
            Phase::Open { .. } if conn.chatty => {
                let until_ms = now_ms + linger_ms;
                conn.phase = Phase::Lingering(Box::new(Linger { until_ms, close }));
                self.arm(id, until_ms);
                self.await_acknowledgement(now, id);
            }
            Phase::Open { .. } => self.answer_close(now, id, &close),
            _ => {}
        }
    }

    /// What a lingering connection waited for has come.
    pub(super) fn settled(&mut self, now: Duration, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && let Phase::Lingering(linger) = &mut conn.phase
        {
            let close = std::mem::take(&mut linger.close);
            self.answer_close(now, id, &close);
        }
    }

    fn answer_close(&mut self, now: Duration, id: ConnId, close: &ClientClose) {
        self.retire(now, id, close.code.unwrap_or(NO_CODE), &close.reason);
        let mut frame = Vec::new();
        ws::close::encode_close_reply(close.code, &mut frame);
        self.last_words(now, id, &frame, Awaits::Nothing);
    }

    pub(super) fn violated(&mut self, now: Duration, id: ConnId, violation: Violation) {
        self.metrics.client_errors.count(violation.label());
        let code = violation.code();
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if let Phase::Closing { awaits, .. } = &mut conn.phase {
            *awaits = Awaits::End;
            return self.finish_if_flushed(now, id);
        }
        let reason = violation.to_string();
        self.retire(now, id, code.into(), &reason);
        let mut frame = Vec::new();
        ws::encode_close(code, &reason, &mut frame);
        self.last_words(now, id, &frame, Awaits::End);
    }

    /// Closes a connection from our side, after what is pending for it.
    pub(super) fn close_conn(&mut self, now: Duration, id: ConnId, code: u16, reason: &str) {
        if self.conns.get(id).is_some_and(Conn::is_open) {
            self.retire(now, id, code, reason);
            let mut frame = Vec::new();
            ws::encode_close(code, reason, &mut frame);
            self.last_words(now, id, &frame, Awaits::Close);
        }
    }

    /// Closes a connection that reads too slowly: what is pending for it is thrown away.
    pub(super) fn close_slow(&mut self, now: Duration, id: ConnId) {
        self.metrics.client_errors.count("slow");
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let ledger = &mut self.ledger;
        let mut drop = |job, outcome| ledger.decide(job, outcome, id);
        conn.outbox
            .drop_pending(&mut self.pool, Outcome::DroppedSlow, &mut drop);
        let code = CloseCode::SlowClient;
        self.close_conn(now, id, code.into(), code.reason());
    }

    /// Appends the last bytes; the connection ends when they are sent and, unless all was heard, answered.
    pub(super) fn last_words(&mut self, now: Duration, id: ConnId, bytes: &[u8], awaits: Awaits) {
        let until_ms = now.as_millis() as u64 + self.gateway.config.ws.close_timeout_ms;
        if let Some(conn) = self.conns.get_mut(id) {
            let closing = Phase::Closing { until_ms, awaits };
            if let Phase::Handshaking(_) = std::mem::replace(&mut conn.phase, closing) {
                // Counted as a connection from here on, so that removal is the same for all.
                self.metrics.handshaking.sub(1);
                self.metrics.connections.add(1);
            }
            self.arm(id, until_ms);
            self.append_control(now, id, bytes);
            self.finish_if_flushed(now, id);
        }
    }

    /// A connection is no longer reached: its user, its topics and its services are told.
    fn retire(&mut self, now: Duration, id: ConnId, code: u16, reason: &str) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.is_open()) else {
            return;
        };
        let user = conn.user;
        // From here on it is not open, so nothing below comes back here.
        conn.phase = Phase::Closing {
            until_ms: u64::MAX,
            awaits: Awaits::Close,
        };
        self.metrics.closed.count(close_label(code));
        self.emit_closed(now, id, code, reason);
        self.topics.conn_goes(&mut self.conns, id);
        self.directory.open_connections -= 1;
        if let Some(user) = user {
            self.directory.changed(&self.users.get(user).id);
            self.users.remove_conn(user, id);
            self.bound_offline_users(user);
            self.metrics.users.set(self.users.online() as u64);
        }
        if let Some(conn) = self.conns.get_mut(id) {
            conn.user = None;
        }
        self.metrics.topics.set(self.topics.len() as u64);
    }

    /// Ends a connection whose last bytes were sent.
    pub(super) fn finish_if_flushed(&mut self, now: Duration, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.outbox.is_empty()) else {
            return;
        };
        let socket = SocketId::Conn(id);
        match conn.phase {
            Phase::Closing {
                until_ms,
                awaits: Awaits::End,
            } => {
                conn.phase = Phase::Finished { until_ms };
                self.actions.push_back(Action::Finish { socket });
            }
            Phase::Closing {
                awaits: Awaits::Nothing,
                ..
            } => {
                self.remove_conn(now, id, "");
                self.actions.push_back(Action::Close { socket });
            }
            Phase::Closing {
                ref mut until_ms,
                awaits: Awaits::Close,
            } => {
                *until_ms = now.as_millis() as u64 + self.gateway.config.ws.close_timeout_ms;
                let until_ms = *until_ms;
                self.arm(id, until_ms);
            }
            _ => {}
        }
    }

    /// The socket is gone, or is to go now.
    pub(super) fn remove_conn(&mut self, now: Duration, id: ConnId, why: &str) {
        match self.conns.get(id).map(|conn| &conn.phase) {
            None => return,
            Some(Phase::Handshaking(_)) => {
                self.metrics.handshaking.sub(1);
                self.metrics.refused_handshakes.count("closed");
            }
            Some(_) => {
                self.retire(now, id, ABNORMAL, why);
                self.metrics.connections.sub(1);
            }
        }
        if let Some(mut conn) = self.conns.remove(id) {
            let ledger = &mut self.ledger;
            let mut drop = |job, outcome| ledger.decide(job, outcome, id);
            conn.outbox.clear(&mut self.pool, &mut drop);
            self.held_bytes -= conn.session.holds();
        }
    }
}

/// RFC 6455, section 7.1.5: the Close carried no code.
const NO_CODE: u16 = 1005;
/// RFC 6455, section 7.1.5: there was no Close.
const ABNORMAL: u16 = 1006;

fn close_label(code: u16) -> &'static str {
    let labels = crate::metrics::CLOSE_CODES.iter();
    let number = |label: &&&str| label.parse() == Ok(code);
    labels
        .copied()
        .find(|label| number(&label))
        .unwrap_or("other")
}
