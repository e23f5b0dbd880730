//! Simulated logic services.

mod asking;
mod meshed;
mod plain;
mod request;
mod setup;
mod strand;
mod wire;

pub use {meshed::Meshed, plain::Plain, setup::Setup};

use std::{collections::BTreeMap, time::Duration};

use super::{
    context::Context,
    oracle::{Issued, Target},
};

/// What a service is asked to push.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// For whom.
    pub target: Target,
    /// Bytes of payload.
    pub size: usize,
    /// Time to live in milliseconds; 0: for ever.
    pub ttl_ms: u32,
    /// The number of its conflation key.
    pub key: Option<u32>,
    /// It may go first.
    pub low: bool,
    /// The service waits for what becomes of it.
    pub confirmed: bool,
}

impl Wanted {
    /// A push that nothing may drop.
    #[must_use]
    pub fn plain(target: Target, size: usize) -> Self {
        Self {
            target,
            size,
            ttl_ms: 0,
            key: None,
            low: false,
            confirmed: false,
        }
    }

    /// Nothing may drop it: it has no time to live, no key, and the usual priority.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.ttl_ms == 0 && self.key.is_none() && !self.low
    }

    /// Tells the oracle; the number is what the payload begins with.
    fn issue(
        &self,
        context: &mut Context,
        service: usize,
        source: u64,
        may_repeat: bool,
        places: Vec<usize>,
    ) -> usize {
        context.coverage.hit(
            "pushes for",
            match self.target {
                Target::User(_) => "a user",
                Target::Users(_) => "users",
                Target::Topic(_) => "a topic",
                Target::Everyone => "everyone",
                Target::Connection(_) => "a connection",
            },
        );
        let id = context.oracle.down.issue(Issued {
            source,
            target: self.target.clone(),
            at: context.now,
            plain: self.is_plain(),
            confirmed: self.confirmed,
            may_repeat,
            places,
        });
        let facts = [4, id as u64, service as u64];
        context.trace.note(context.now, facts, || {
            format!("service {service} pushes {id}: {self:?}")
        });
        id
    }
}

/// A logic service: a process of its own.
pub trait Service {
    /// Does what can be done now.
    fn run(&mut self, context: &mut Context);

    /// Pushes.
    fn push(&mut self, context: &mut Context, wanted: &Wanted);

    /// Adds a user to a topic, for the rest of each epoch.
    fn subscribe(&mut self, context: &mut Context, user: u32, topic: u32);

    /// The gateways there are, by place.
    fn set_gateways(&mut self, context: &mut Context, places: &[usize]);

    /// Its clock jumps ahead, as after a suspended machine wakes.
    fn jump(&mut self, context: &mut Context, by: Duration);

    /// The process dies: what it held is lost with it.
    fn die(&mut self, context: &mut Context);

    /// Nothing is on its way, and every stream is open.
    fn is_quiet(&self) -> bool;

    /// How many connections a user has at which places, as far as it knows; `None`: it keeps no directory.
    fn whereis(&self, user: u32) -> Option<BTreeMap<usize, u32>>;

    /// Credit that gateways have not got back, although it has handled all they sent.
    fn unreleased(&self) -> usize;

    /// What it is doing, for a failure's report.
    fn describe(&self) -> String;
}
