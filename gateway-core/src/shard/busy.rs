//! Who keeps a shard busy, by name: for the timesheet.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use super::Shard;
use crate::{identity::LinkId, metrics::LinkLoad};

/// Whose a link is, and what it brought.
#[derive(Debug)]
pub(super) struct Bearer {
    peer: SocketAddr,
    /// What its newest stream says it is. Empty: none has said.
    service: Box<str>,
    /// Bytes since the last window began.
    pub(super) bytes: u64,
    /// Of these, those that a tick has been charged with.
    charged: u64,
    /// Commands since the last window began.
    commands: u64,
}

impl Bearer {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            service: Box::default(),
            bytes: 0,
            charged: 0,
            commands: 0,
        }
    }

    /// One of its streams has said whose it is.
    pub(super) fn is_of(&mut self, service: &str) {
        if *self.service != *service && !service.is_empty() {
            self.service = service.into();
        }
    }

    /// What it brought in the window that ends now.
    pub(super) fn take_load(&mut self) -> LinkLoad {
        self.charged = 0;
        LinkLoad {
            peer: self.peer,
            service: self.service.to_string(),
            commands: std::mem::take(&mut self.commands),
            bytes: std::mem::take(&mut self.bytes),
        }
    }

    fn in_words(&self) -> String {
        match &*self.service {
            "" => format!("link {}", self.peer),
            service => format!("link {} of service {service:?}", self.peer),
        }
    }
}

impl Shard {
    /// A link has run, and handed out so many commands.
    pub(super) fn note_link(&mut self, id: LinkId, commands: u64) {
        if let Some(state) = self.links.get_mut(id) {
            let bearer = &mut state.bearer;
            bearer.commands += commands;
            let bytes = bearer.bytes.saturating_sub(bearer.charged);
            bearer.charged = bearer.bytes;
            self.sheet.link(id, commands, bytes);
        }
    }

    /// Tells who brings most to do, once a window has passed, and what made a tick slow.
    pub(super) fn tell_who_is_busy(&mut self, now: Duration) {
        if !self.sheet.is_due(now) {
            return;
        }
        let sheet = Rc::clone(&self.sheet);
        let links = &mut self.links;
        sheet.name_slow(|id| links.get(id).map(|state| state.bearer.in_words()));
        sheet.publish(now, || links.loads());
    }
}
