//! What clients send: a request, messages, a Close; and how connections end.

use std::time::Duration;

use super::{
    Action, Shard,
    conn::{Awaits, ClientClose, Conn, Handshake, Phase},
    outbox::{Frame, Kind, Meta},
};
use crate::{
    config::Refuse,
    identity::{ConnId, ShardIndex, SocketId, shard_of},
    ws::{
        self, CloseCode, Event, Identity, Opcode, Progress, Refusal, RefusalReason, RefuseMode,
        UpgradeRequest, frames, frames::Head,
    },
};

impl Shard {
    /// A connection, new or moved here, that has still to say what it wants.
    pub(super) fn new_conn(&mut self, now: Duration, handshake: Handshake) -> Option<ConnId> {
        let until = handshake.until_ms;
        let Some(id) = self.conns.insert(Conn::new(handshake)) else {
            self.metrics.refused_handshakes.count("overload");
            return None;
        };
        self.metrics.handshaking.add(1);
        self.arm(id, until);
        self.try_handshake(now, id);
        Some(id)
    }

    pub(super) fn conn_bytes(&mut self, now: Duration, id: ConnId, bytes: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.heard_ms = now.as_millis() as u64;
        match &mut conn.phase {
            Phase::Handshaking(handshake) => {
                handshake.bytes.extend_from_slice(bytes);
                self.try_handshake(now, id);
            }
            Phase::Open { pinged_ms } => {
                *pinged_ms = 0;
                self.session_bytes(now, id, bytes);
            }
            Phase::Closing { .. } => self.session_bytes(now, id, bytes),
            Phase::Lingering(_) | Phase::Finished { .. } => {}
        }
    }

    fn try_handshake(&mut self, now: Duration, id: ConnId) {
        let Some(Conn {
            phase: Phase::Handshaking(handshake),
            ..
        }) = self.conns.get_mut(id)
        else {
            return;
        };
        if handshake.bytes.is_empty() {
            return;
        }
        match ws::upgrade::parse(&self.gateway.upgrade, &handshake.bytes) {
            Progress::Incomplete => {}
            Progress::Page { response } => self.answer_and_close(now, id, &response),
            Progress::Refused { refusal } => self.refuse_plain(now, id, &refusal),
            Progress::Upgrade { request, consumed } => self.admit(now, id, &request, consumed),
        }
    }

    /// A valid request: policy decides, then the connection opens here or moves to the shard of its user.
    fn admit(&mut self, now: Duration, id: ConnId, request: &UpgradeRequest, consumed: usize) {
        let identity = match self.judge(now, request) {
            Ok(identity) => identity,
            Err(refusal) => return self.refuse_upgrade(now, id, request, &refusal),
        };
        if let Identity::User(user) = &identity {
            let shards = u32::from(self.lanes.shards());
            let owner = shard_of(user.as_bytes(), shards) as ShardIndex;
            if owner != self.index {
                return self.move_conn(id, owner);
            }
            let most = self.gateway.config.limits.max_connections_per_user;
            let user = self.users.find(user);
            if user.is_some_and(|user| self.users.get(user).conns.len() >= most) {
                let refusal = RefusalReason::Overload.into();
                return self.refuse_upgrade(now, id, request, &refusal);
            }
        }
        self.open(now, id, request, consumed, identity);
    }

    fn judge(&mut self, now: Duration, request: &UpgradeRequest) -> Result<Identity, Refusal> {
        if self.drain.is_some() {
            return Err(self.refuse_while_draining(now));
        }
        if !request.origin_allowed {
            return Err(RefusalReason::Origin.into());
        }
        let identity = self.gateway.identify.identify(request)?;
        let limits = &self.gateway.config.limits;
        let full = self.metrics.connections.get() >= limits.max_connections as u64;
        if full || self.memory() >= limits.max_memory_bytes {
            let retry_after = Duration::from_millis(self.gateway.config.drain.retry_after_ms);
            return Err(Refusal::retry_after(RefusalReason::Overload, retry_after));
        }
        Ok(identity)
    }

    fn move_conn(&mut self, id: ConnId, to: ShardIndex) {
        let Some(Conn {
            phase: Phase::Handshaking(mut handshake),
            ..
        }) = self.conns.remove(id)
        else {
            return;
        };
        self.metrics.handshaking.sub(1);
        debug_assert!(!handshake.moved, "both shards compute the same owner");
        handshake.moved = true;
        self.actions.push_back(Action::Move {
            socket: SocketId::Conn(id),
            to,
            handshake: *handshake,
        });
    }

    fn open(
        &mut self,
        now: Duration,
        id: ConnId,
        request: &UpgradeRequest,
        consumed: usize,
        identity: Identity,
    ) {
        let born = self.fanouts.begun();
        let now_ms = now.as_millis() as u64;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let opened = Phase::Open { pinged_ms: 0 };
        let Phase::Handshaking(mut handshake) = std::mem::replace(&mut conn.phase, opened) else {
            return;
        };
        (conn.born, conn.heard_ms) = (born, now_ms);
        self.directory.open_connections += 1;
        self.metrics.handshaking.sub(1);
        self.metrics.connections.add(1);
        if let Identity::User(name) = &identity {
            let user = self.users.enter(name);
            conn.user = Some(user);
            if let Some(assignments) = self.leavers.come_back(name) {
                self.users.get_mut(user).assignments = assignments;
            }
            self.users.add_conn(user, id);
            self.directory.changed(&self.users.get(user).id);
            self.topics
                .conn_came(&self.users, &mut self.conns, user, id);
            self.metrics.users.set(self.users.online() as u64);
        }
        let mut answer = Vec::new();
        ws::write_accept(request, &mut answer);
        self.append_control(now, id, &answer);
        self.arm(id, now_ms + self.gateway.config.ws.ping_after_ms);
        self.emit_opened(now, id, handshake.peer, request);
        let rest = &mut handshake.bytes[consumed..];
        if !rest.is_empty() {
            self.conn_bytes(now, id, rest);
        }
    }

    /// Frames of an open connection, or of one that is asked to close.
    fn session_bytes(&mut self, now: Duration, id: ConnId, bytes: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let mut session = std::mem::take(&mut conn.session);
        let held = session.holds();
        let limits = self.session_limits;
        let result = session.receive(&limits, bytes, |event| self.on_event(now, id, &event));
        self.held_bytes = self.held_bytes + session.holds() - held;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.session = session;
        } else {
            self.held_bytes -= session.holds();
        }
        if let Err(violation) = result {
            self.violated(now, id, violation);
        }
    }

    fn on_event(&mut self, now: Duration, id: ConnId, event: &Event<'_>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let open = matches!(conn.phase, Phase::Open { .. });
        match event {
            Event::Text(text) if open => self.emit_message(now, id, text.as_bytes(), true),
            Event::Binary(bytes) if open => self.emit_message(now, id, bytes, false),
            Event::Ping(payload) if open => {
                let mut pong = Vec::new();
                frames::encode(Opcode::Pong, payload, &mut pong);
                self.append_control(now, id, &pong);
            }
            Event::Close { code, reason } => {
                let reason = (*reason).into();
                self.on_close(
                    now,
                    id,
                    ClientClose {
                        code: *code,
                        reason,
                    },
                );
            }
            _ => {}
        }
    }

    /// Ends a connection that has not finished its request: shutting down, or its time is over.
    pub(super) fn refuse_plain(&mut self, now: Duration, id: ConnId, refusal: &Refusal) {
        self.metrics
            .refused_handshakes
            .count(refusal.reason.label());
        let mut answer = Vec::new();
        ws::write_refusal(refusal, &mut answer);
        self.answer_and_close(now, id, &answer);
    }

    fn refuse_upgrade(
        &mut self,
        now: Duration,
        id: ConnId,
        request: &UpgradeRequest,
        refusal: &Refusal,
    ) {
        self.metrics
            .refused_handshakes
            .count(refusal.reason.label());
        let mode = match self.gateway.config.ws.refuse {
            Refuse::Close => RefuseMode::Close,
            Refuse::Http => RefuseMode::Http,
        };
        let mut answer = Vec::new();
        let awaits_close = ws::refusal::refuse(mode, request, refusal, &mut answer);
        let awaits = if awaits_close {
            Awaits::Close
        } else {
            Awaits::End
        };
        self.last_words(now, id, &answer, awaits);
    }

    fn answer_and_close(&mut self, now: Duration, id: ConnId, answer: &[u8]) {
        self.last_words(now, id, answer, Awaits::End);
    }

    /// Appends a frame of the protocol. One that finds no room ends a slow connection.
    pub(super) fn append_control(&mut self, now: Duration, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let kind = if conn.is_open() {
            Kind::Control
        } else {
            Kind::Last
        };
        let meta = Meta {
            kind,
            ..Meta::default()
        };
        let frame = Frame {
            head: Head::default(),
            payload: bytes,
            whole: None,
        };
        let ledger = &mut self.ledger;
        let limits = &self.gateway.config.outbox;
        let mut drop = |job, outcome| ledger.decide(job, outcome, id);
        let pushed = conn
            .outbox
            .push(&mut self.pool, limits, now, frame, meta, &mut drop);
        match pushed {
            Ok(()) => self.dirty.add(id, conn, true),
            Err(_) if conn.is_open() => self.close_slow(now, id),
            // It is closing already, and needs no more words.
            Err(_) => {}
        }
    }

    /// Looks at a connection whose deadline may be due.
    pub(super) fn on_deadline(&mut self, now: Duration, id: ConnId) {
        let now_ms = now.as_millis() as u64;
        let ws = &self.gateway.config.ws;
        let (ping_after, pong_timeout) = (ws.ping_after_ms, ws.pong_timeout_ms);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        match conn.phase {
            Phase::Handshaking(ref handshake) if handshake.until_ms <= now_ms => {
                self.refuse_plain(now, id, &RefusalReason::Timeout.into());
            }
            Phase::Handshaking(ref handshake) => {
                let until_ms = handshake.until_ms;
                self.arm(id, until_ms);
            }
            Phase::Open { pinged_ms: 0 } if conn.heard_ms + ping_after <= now_ms => {
                conn.phase = Phase::Open { pinged_ms: now_ms };
                let mut ping = Vec::new();
                frames::encode(Opcode::Ping, b"", &mut ping);
                self.append_control(now, id, &ping);
                self.arm(id, now_ms + pong_timeout);
            }
            Phase::Open { pinged_ms: 0 } => {
                let at_ms = conn.heard_ms + ping_after;
                self.arm(id, at_ms);
            }
            Phase::Open { pinged_ms } if pinged_ms + pong_timeout <= now_ms => {
                self.metrics.client_errors.count("pong_timeout");
                let code = CloseCode::SlowClient;
                self.close_conn(now, id, code.into(), "no answer to a ping");
            }
            Phase::Open { pinged_ms } => self.arm(id, pinged_ms + pong_timeout),
            Phase::Lingering(ref linger) if linger.until_ms <= now_ms => self.settled(now, id),
            Phase::Lingering(ref linger) => {
                let until_ms = linger.until_ms;
                self.arm(id, until_ms);
            }
            Phase::Closing { until_ms, .. } | Phase::Finished { until_ms }
                if until_ms <= now_ms =>
            {
                self.metrics.client_errors.count("close_timeout");
                let socket = SocketId::Conn(id);
                self.remove_conn(now, id, "");
                self.actions.push_back(Action::Close { socket });
            }
            Phase::Closing { until_ms, .. } | Phase::Finished { until_ms } => {
                self.arm(id, until_ms);
            }
        }
    }
}
