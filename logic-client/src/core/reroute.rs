//! Moves what was not sent when a gateway came back with another number of shards, or is no more.

use std::collections::HashSet;

use gateway_proto::UserId;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;

use crate::core::buffer::{Item, Stamp};
use crate::core::receipts::Ticket;
use crate::core::returned::ReturnReason;
use crate::core::router::{GatewayId, Paths};

/// A stream, as far as it concerns where commands go.
pub(crate) trait Destination {
    /// Where it leads.
    fn gateway(&self) -> GatewayId;

    /// The newest command it ever got.
    fn newest(&self) -> Option<u64>;
}

/// What became of the gateway that commands waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has another number of shards. Its commands go to the new ones.
    Shards,
    /// It is no more. Commands that were for it alone go to the others.
    Removed,
}

/// How the parts of a command with a receipt have changed: `come` streams will answer instead
/// of `gone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replan {
    pub(crate) ticket: Ticket,
    pub(crate) come: usize,
    pub(crate) gone: usize,
}

/// Where everything goes. `O` is where it was.
#[derive(Debug)]
pub(crate) struct Rerouted<'a, S, O> {
    /// In the order of the calls.
    pub(crate) items: Vec<(&'a S, Item)>,
    pub(crate) replans: Vec<Replan>,
    /// What goes nowhere. One answer stands for all parts of a command.
    pub(crate) returned: Vec<(Item, O, ReturnReason)>,
}

/// Routes what all streams of a gateway had not sent anew, in the order of the calls. The parts of
/// one command become one again first, so that nobody gets it twice. What cannot be moved without
/// that risk, or without coming behind a newer command, is handed back:
///
/// - a command to all shards of which only some had not sent it: which of the new shards were
///   reached cannot be known;
/// - when the gateway is removed, a part of a command of which other gateways have their own.
pub(crate) fn reroute<'a, S: Destination, O>(
    mut items: Vec<(Item, O)>,
    change: impl Fn(&Item) -> Change,
    paths: impl Fn(Change, &Body) -> Paths<'a, S>,
) -> Rerouted<'a, S, O> {
    // Stable: what one stream held stays in its order.
    items.sort_by_key(|(item, _)| item.stamp.order);
    let mut rerouted = Rerouted {
        items: Vec::new(),
        replans: Vec::new(),
        returned: Vec::new(),
    };
    let mut items = items.into_iter().peekable();
    while let Some((mut whole, origin)) = items.next() {
        let order = whole.stamp.order;
        let mut gone = 1;
        while let Some((part, _)) = items.next_if(|(item, _)| item.stamp.order == order) {
            join(&mut whole, part);
            gone += 1;
        }
        let ticket = whole.ticket;
        let mut come = 1;
        match destinations(&whole, gone, change(&whole), &paths) {
            Ok(parts) => {
                come = parts.len();
                rerouted.items.extend(parts);
            }
            Err(reason) => {
                whole.stamp = joined(&whole, gone);
                rerouted.returned.push((whole, origin, reason));
            }
        }
        if let Some(ticket) = ticket.filter(|_| come != gone) {
            rerouted.replans.push(Replan { ticket, come, gone });
        }
    }
    rerouted
}

/// Where a command goes, of which `unsent` parts were joined to `whole`.
fn destinations<'a, S: Destination>(
    whole: &Item,
    unsent: usize,
    change: Change,
    paths: impl Fn(Change, &Body) -> Paths<'a, S>,
) -> Result<Vec<(&'a S, Item)>, ReturnReason> {
    let stamp = whole.stamp;
    // Parts of a list are for different users: each can be moved alone.
    let movable = is_list(&whole.body) || unsent == stamp.here as usize;
    let (movable, refused) = match change {
        Change::Shards => (movable, ReturnReason::ShardsChanged),
        Change::Removed => (
            movable && stamp.parts == stamp.here,
            ReturnReason::GatewayRemoved,
        ),
    };
    if !movable {
        return Err(refused);
    }
    let mut parts = match (paths(change, &whole.body), change) {
        (Paths::None, Change::Shards) => return Err(ReturnReason::NoTarget),
        (Paths::None, Change::Removed) => return Err(refused),
        (Paths::One(stream), _) => split(whole, vec![(stream, whole.body.clone())]),
        (Paths::Many(parts), _) => split(whole, parts),
    };
    let passes = |(stream, _): &(&S, Item)| stream.newest() > Some(stamp.order);
    if parts.iter().any(passes) {
        return Err(refused);
    }
    if change == Change::Shards {
        // Other gateways keep their parts.
        let elsewhere = stamp.parts - stamp.here;
        let here = parts.len() as u32;
        for (_, part) in &mut parts {
            part.stamp.here = here;
            part.stamp.parts = elsewhere + here;
        }
    }
    Ok(parts)
}

/// The parts of a command for several streams, in the order of their gateways.
pub(crate) fn split<'a, S: Destination>(
    whole: &Item,
    parts: Vec<(&'a S, Body)>,
) -> Vec<(&'a S, Item)> {
    let count = parts.len() as u32 + whole.elsewhere();
    let mut items: Vec<_> = parts
        .into_iter()
        .map(|(stream, body)| (stream, whole.part(body)))
        .collect();
    for of_gateway in items.chunk_by_mut(|(one, _), (other, _)| one.gateway() == other.gateway()) {
        let stamp = Stamp {
            order: whole.stamp.order,
            parts: count,
            here: of_gateway.len() as u32,
        };
        for (_, part) in of_gateway {
            part.stamp = stamp;
        }
    }
    items
}

/// What stands on a command that comes back, of which `unsent` parts of one gateway were joined: if
/// these are all there were, that gateway has one part.
pub(crate) fn joined(whole: &Item, unsent: usize) -> Stamp {
    let stamp = whole.stamp;
    if is_list(&whole.body) || unsent != stamp.here as usize {
        return stamp;
    }
    Stamp {
        parts: stamp.parts - stamp.here + 1,
        here: 1,
        ..stamp
    }
}

/// Adds another part of the same command. Only lists of users differ between parts.
pub(crate) fn join(whole: &mut Item, part: Item) {
    whole.doubtful |= part.doubtful;
    let (Body::Push(push), Body::Push(more)) = (&mut whole.body, part.body) else {
        return;
    };
    if let (Some(Target::Users(users)), Some(Target::Users(more))) = (&mut push.target, more.target)
    {
        let known: HashSet<&UserId> = users.user_ids.iter().collect();
        let new: Vec<_> = more
            .user_ids
            .into_iter()
            .filter(|user| !known.contains(user))
            .collect();
        users.user_ids.extend(new);
    }
}

pub(crate) fn is_list(body: &Body) -> bool {
    matches!(body, Body::Push(push) if matches!(push.target, Some(Target::Users(_))))
}
