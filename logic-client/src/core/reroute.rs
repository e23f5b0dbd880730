//! Moves what was not sent when a gateway came back with another number of shards.

use std::collections::HashSet;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;

use crate::core::buffer::Item;
use crate::core::check::Common;
use crate::core::receipts::Ticket;
use crate::core::router::{Paths, Route};

/// How the parts of a command with a receipt have changed: `come` streams will answer instead
/// of `gone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replan {
    pub(crate) ticket: Ticket,
    pub(crate) come: usize,
    pub(crate) gone: usize,
}

/// Where everything goes.
#[derive(Debug)]
pub(crate) struct Rerouted<'a, S> {
    /// In the order of the calls.
    pub(crate) items: Vec<(&'a S, Item)>,
    pub(crate) replans: Vec<Replan>,
    /// Commands for connections of the gateway's earlier run: they have no target any more.
    pub(crate) gone: Vec<Item>,
}

/// Routes the unsent `items` of all streams of a gateway's earlier run anew, in the order of the
/// calls. The parts of one command become one again first, so that no shard gets it twice. A
/// command to all shards of which only some had it sent goes to all new ones: which of the
/// new shards had been reached cannot be known.
pub(crate) fn reroute<'a, S>(
    mut items: Vec<Item>,
    route: &'a Route<S>,
    limits: &Common,
) -> Rerouted<'a, S> {
    // Stable: what one stream held stays in its order.
    items.sort_by_key(|item| item.stamp);
    let mut rerouted = Rerouted {
        items: Vec::new(),
        replans: Vec::new(),
        gone: Vec::new(),
    };
    let mut items = items.into_iter().peekable();
    while let Some(mut whole) = items.next() {
        let mut parts = 1;
        while let Some(part) = items.next_if(|item| item.stamp == whole.stamp) {
            join(&mut whole, part);
            parts += 1;
        }
        place(whole, parts, route, limits, &mut rerouted);
    }
    rerouted
}

fn place<'a, S>(
    whole: Item,
    parts: usize,
    route: &'a Route<S>,
    limits: &Common,
    rerouted: &mut Rerouted<'a, S>,
) {
    let ticket = whole.ticket;
    let before = rerouted.items.len();
    match route.paths(&whole.body, limits) {
        Paths::None => {
            // One answer stands for all parts.
            rerouted.gone.push(whole);
            rerouted.replans.extend(replan(ticket, 1, parts));
            return;
        }
        Paths::One(stream) => rerouted.items.push((stream, whole)),
        Paths::Many(many) => {
            let many = many
                .into_iter()
                .map(|(stream, body)| (stream, whole.part(body)));
            rerouted.items.extend(many);
        }
    }
    let come = rerouted.items.len() - before;
    rerouted.replans.extend(replan(ticket, come, parts));
}

fn replan(ticket: Option<Ticket>, come: usize, gone: usize) -> Option<Replan> {
    let ticket = ticket.filter(|_| come != gone)?;
    Some(Replan { ticket, come, gone })
}

/// Adds another part of the same command. Only lists of users differ between parts.
pub(crate) fn join(whole: &mut Item, part: Item) {
    let (Body::Push(push), Body::Push(more)) = (&mut whole.body, part.body) else {
        return;
    };
    if let (Some(Target::Users(users)), Some(Target::Users(more))) = (&mut push.target, more.target)
    {
        let known: HashSet<&String> = users.user_ids.iter().collect();
        let new: Vec<_> = more
            .user_ids
            .into_iter()
            .filter(|user| !known.contains(user))
            .collect();
        users.user_ids.extend(new);
    }
}
