//! Which connection is sent to next: single pushes before floods and wide fan-outs.

use std::{collections::VecDeque, time::Duration};

use super::{conn::Conn, registry::Conns};
use crate::identity::ConnId;

/// Connections with something to send and nothing in flight. Each stands at most once in each queue, so both are bounded
/// by the connections.
#[derive(Debug, Default)]
pub struct Dirty {
    /// With a message that came alone, or with few.
    soon: VecDeque<ConnId>,
    /// All others; and some of `soon` that stood here already.
    later: VecDeque<ConnId>,
    /// How long those gather before a pass over them begins, and when the last one began. While it runs all get their turn, those
    /// who come meanwhile too.
    gather: Duration,
    began_pass: Option<Duration>,
    passes: bool,
    /// When this tick began.
    now: Duration,
    /// Sends of this slice.
    flushed: usize,
    /// Urgent ones since the last of the others.
    in_a_row: usize,
    /// When the first send of this slice began, and when its last one so far was over.
    began: Duration,
    landed: Duration,
    /// When they have lasted long enough.
    until: Duration,
    /// They have.
    over: bool,
    /// What a send takes, as slices have shown that were no small ones, and how many fit into a slice by that.
    each: Duration,
    fit: usize,
}

/// How long the sends of a slice may take: whoever comes meanwhile waits for its end. Large messages cost the kernel more
/// than small ones, and machines differ. A driver that sends one by one is stopped in the middle; one that hands all sends of a
/// slice to the kernel together can't be, so it gets as many as should fit, by those before.
const LONGEST: Duration = Duration::from_micros(500);

/// A thread that was kept from running makes sends look dear: so many are made all the same, and fewer teach nothing.
const FEWEST: usize = 16;

/// Every fourth send is for those that are not urgent, so that they are not held up for ever.
const URGENT_IN_A_ROW: usize = 3;

impl Dirty {
    /// A connection has something to send, or has landed with more pending.
    #[inline]
    pub fn add(&mut self, id: ConnId, conn: &mut Conn, urgent: bool) {
        conn.urgent |= urgent;
        if conn.outbox.is_flying() {
            // Its turn comes when it lands.
            return;
        }
        if conn.urgent {
            if !std::mem::replace(&mut conn.queued.soon, true) {
                self.soon.push_back(id);
            }
        } else if !conn.queued.soon && !std::mem::replace(&mut conn.queued.later, true) {
            self.later.push_back(id);
        }
    }

    /// Nobody has anything to send. Who is not urgent waits up to `gather` for company.
    pub fn new(gather: Duration) -> Self {
        Self {
            gather,
            ..Self::default()
        }
    }

    /// A new slice begins.
    pub fn begin(&mut self, now: Duration) {
        self.now = now;
        if self.flushed >= FEWEST {
            self.learn();
        }
        self.flushed = 0;
        self.over = false;
    }

    /// A connection has sent a part of what is on its way: it goes on with the pass that has begun.
    pub fn goes_on(&mut self, id: ConnId, conn: &mut Conn) {
        self.add(id, conn, false);
        self.passes |= !self.later.is_empty();
    }

    /// A send begins, whether it was its turn or its socket has room again. Once the sends of this slice have lasted long
    /// enough, none follows.
    pub fn sends(&mut self, now: Duration, conn: &mut Conn) {
        if !conn.outbox.has_flight() {
            // All that is pending leaves: what comes next is not urgent for its sake.
            conn.urgent = false;
        }
        if self.flushed <= 1 {
            self.began = now;
            self.until = now + LONGEST;
        } else if now >= self.until {
            self.over = true;
        }
    }

    /// A send is over.
    #[inline]
    pub fn landed(&mut self, now: Duration) {
        self.landed = now;
    }

    /// The next one of a slice of `slice` sends, of fewer if they take long. Urgent ones go first, as a rule.
    pub fn next(&mut self, conns: &mut Conns, slice: usize) -> Option<ConnId> {
        let most = self.most(slice);
        while self.flushed < most && !self.over {
            let urgent_first = self.in_a_row < URGENT_IN_A_ROW || !self.has_later();
            let soon = urgent_first.then(|| self.soon.pop_front()).flatten();
            let id = soon.or_else(|| self.next_later());
            let conn = conns.get_mut(id?);
            if let Some((id, conn)) = id.zip(conn) {
                let queued = &mut conn.queued;
                *(if soon.is_some() {
                    &mut queued.soon
                } else {
                    &mut queued.later
                }) = false;
                if conn.outbox.is_ready() {
                    self.flushed += 1;
                    self.in_a_row = soon.map_or(0, |_| self.in_a_row + 1);
                    return Some(id);
                }
            }
        }
        None
    }

    /// Whether nobody waits for a turn that could be now.
    pub fn is_empty(&self) -> bool {
        self.soon.is_empty() && !self.has_later()
    }

    /// When those that gather company have their turn.
    pub fn deadline(&self) -> Option<Duration> {
        (!self.later.is_empty()).then(|| self.began_pass.unwrap_or_default() + self.gather)
    }

    /// Whether somebody who is not urgent has a turn now.
    fn has_later(&self) -> bool {
        let due = |began| self.now >= began + self.gather;
        !self.later.is_empty() && (self.passes || self.began_pass.is_none_or(due))
    }

    fn next_later(&mut self) -> Option<ConnId> {
        if !self.has_later() {
            return None;
        }
        if !self.passes {
            self.began_pass = Some(self.now);
        }
        let next = self.later.pop_front();
        self.passes = !self.later.is_empty();
        next
    }

    /// Sends of a slice that do not take too long, as far as is known.
    fn most(&self, slice: usize) -> usize {
        if self.each.is_zero() {
            slice
        } else {
            slice.min(self.fit)
        }
    }

    /// What a send has taken in the slice that is over. Nothing is known for certain by one: it counts a quarter.
    fn learn(&mut self) {
        let took = self.landed.saturating_sub(self.began) / self.flushed.max(1) as u32;
        self.each = if self.each.is_zero() {
            took
        } else {
            (self.each * 3 + took.min(self.each * 2)) / 4
        };
        let fit = LONGEST.as_nanos() / self.each.as_nanos().max(1);
        self.fit = (fit as usize).max(FEWEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        shard::{
            batch::Pool,
            outbox::{Frame, Meta, Outbox},
        },
    };

    fn push(conn: &mut Conn) {
        let frame = Frame {
            payload: b"hello",
            ..Frame::default()
        };
        let (pool, limits) = (&mut Pool::default(), config::Outbox::default());
        let drop = &mut |_, _| {};
        let meta = Meta::default();
        let pushed = conn
            .outbox
            .push(pool, &limits, Duration::ZERO, frame, meta, drop);
        assert_eq!(pushed, Ok(()));
    }

    /// Connections with something to send, all of which stand in the queue.
    fn queued(urgent: usize, others: usize) -> (Dirty, Conns, Vec<ConnId>) {
        let mut dirty = Dirty::default();
        let mut conns = Conns::new(0, urgent + others, 1);
        let ids = (0..urgent + others).map(|at| {
            let mut conn = Conn::for_tests();
            push(&mut conn);
            let id = conns.insert(conn).unwrap();
            dirty.add(id, conns.get_mut(id).unwrap(), at < urgent);
            id
        });
        let ids = ids.collect();
        (dirty, conns, ids)
    }

    /// The sends of one slice, each of which takes so long; the kernel gets them together.
    fn slice(dirty: &mut Dirty, conns: &mut Conns, sends: usize, each: Duration) -> Vec<ConnId> {
        dirty.begin(Duration::ZERO);
        let ids: Vec<_> = std::iter::from_fn(|| {
            let next = dirty.next(conns, sends)?;
            dirty.sends(Duration::ZERO, conns.get_mut(next)?);
            Some(next)
        })
        .collect();
        dirty.landed(each * ids.len() as u32);
        ids
    }

    /// The same, where the kernel gets them one by one.
    fn slice_one_by_one(
        dirty: &mut Dirty,
        conns: &mut Conns,
        sends: usize,
        each: Duration,
    ) -> usize {
        let mut now = Duration::ZERO;
        dirty.begin(Duration::ZERO);
        std::iter::from_fn(|| {
            let next = dirty.next(conns, sends)?;
            dirty.sends(now, conns.get_mut(next)?);
            now += each;
            dirty.landed(now);
            Some(next)
        })
        .count()
    }

    #[test]
    fn a_slice_ends_with_its_last_send_or_when_it_has_lasted_long_enough() {
        let (mut dirty, mut conns, _) = queued(0, 100);
        let micros = Duration::from_micros;
        let mut took = |each| slice_one_by_one(&mut dirty, &mut conns, 16, micros(each));
        assert_eq!([took(2), took(100), took(2_000)], [16, 6, 2]);
    }

    #[test]
    fn a_slice_takes_as_many_sends_as_are_over_in_time_by_what_the_last_ones_took() {
        let (mut dirty, mut conns, _) = queued(0, 400);
        let took = [20, 20, 20, 2_000, 20].map(|each| {
            let each = Duration::from_micros(each);
            slice(&mut dirty, &mut conns, 256, each).len()
        });
        assert_eq!(took, [256, 25, 25, 25, 20], "one of 2 ms counts as 40 µs");
    }

    #[test]
    fn what_is_urgent_stays_so_behind_a_flight_that_goes_on() {
        let (mut dirty, mut conns, ids) = queued(0, 1);
        let conn = conns.get_mut(ids[0]).unwrap();
        let (pool, limits) = (&mut Pool::default(), config::Outbox::default());
        let whole = bytes::Bytes::from_static(b"shared");
        let frame = Frame {
            whole: Some(&whole),
            payload: &whole,
            ..Frame::default()
        };
        let (now, meta, drop) = (Duration::ZERO, Meta::default(), &mut |_, _| {});
        let pushed = conn.outbox.push(pool, &limits, now, frame, meta, drop);
        assert_eq!(pushed, Ok(()));
        dirty.sends(now, conn);
        let first = conn.outbox.freeze(pool, now, drop).len();
        assert!(conn.outbox.sent(pool, first, drop).goes_on);
        push(conn);
        dirty.add(ids[0], conn, true);
        dirty.sends(now, conn);
        assert!(conn.urgent, "it is not in this flight");
    }

    #[test]
    fn small_slices_teach_nothing() {
        let (mut dirty, mut conns, _) = queued(0, FEWEST - 1);
        let long = Duration::from_millis(50);
        assert_eq!(slice(&mut dirty, &mut conns, 256, long).len(), FEWEST - 1);
        dirty.begin(Duration::ZERO);
        assert_eq!(dirty.most(256), 256);
    }

    #[test]
    fn a_slice_in_which_all_had_their_turn_teaches_too() {
        // As wide fan-outs make them: a slice of deliveries, and so a slice of sends.
        let (mut dirty, mut conns, _) = queued(0, 100);
        slice(&mut dirty, &mut conns, 256, Duration::from_micros(20));
        dirty.begin(Duration::ZERO);
        assert_eq!(dirty.most(256), 25);
    }

    #[test]
    fn who_is_not_urgent_gathers_company_unless_it_was_quiet_or_its_like_are_being_sent() {
        let ms = Duration::from_millis;
        let (mut dirty, mut conns, ids) = queued(0, 40);
        dirty.gather = ms(1);
        let tick = |dirty: &mut Dirty, conns: &mut Conns, now, sends| {
            dirty.begin(now);
            std::iter::from_fn(|| dirty.next(conns, sends)).count()
        };
        let add = |dirty: &mut Dirty, conns: &mut Conns, id: ConnId, urgent: bool| {
            let conn = conns.get_mut(id).unwrap();
            conn.urgent = false;
            dirty.add(id, conn, urgent);
        };
        assert_eq!(tick(&mut dirty, &mut conns, ms(5), 30), 30, "it was quiet");
        add(&mut dirty, &mut conns, ids[0], false);
        let went = tick(&mut dirty, &mut conns, ms(5), 30);
        assert_eq!(went, 11, "with the rest of the pass");

        add(&mut dirty, &mut conns, ids[1], false);
        assert_eq!(tick(&mut dirty, &mut conns, ms(5), 30), 0);
        assert!(dirty.is_empty(), "nothing to do until then");
        assert_eq!(dirty.deadline(), Some(ms(6)));
        add(&mut dirty, &mut conns, ids[2], true);
        assert_eq!(tick(&mut dirty, &mut conns, ms(5), 30), 1, "the urgent one");
        add(&mut dirty, &mut conns, ids[3], false);
        assert_eq!(tick(&mut dirty, &mut conns, ms(6), 30), 2);
        assert_eq!(dirty.deadline(), None);

        let part = conns.get_mut(ids[3]).unwrap();
        dirty.goes_on(ids[3], part);
        assert_eq!(tick(&mut dirty, &mut conns, ms(6), 30), 1, "it has begun");
    }

    #[test]
    fn every_fourth_send_is_for_those_that_are_not_urgent_however_short_slices_are() {
        for sends in [1, 2, 16] {
            let (mut dirty, mut conns, ids) = queued(12, 4);
            let slices = std::iter::from_fn(|| {
                let ids = slice(&mut dirty, &mut conns, sends, Duration::ZERO);
                (!ids.is_empty()).then_some(ids)
            });
            let order: Vec<ConnId> = slices.flatten().collect();
            assert_eq!(order.len(), 16);
            assert_eq!([order[3], order[7], order[11], order[15]], ids[12..]);
        }
    }

    #[test]
    fn a_send_that_came_before_its_turn_leaves_nothing_urgent_behind() {
        let (mut dirty, mut conns, ids) = queued(2, 0);
        let first = conns.get_mut(ids[0]).unwrap();
        // Its socket had room again.
        dirty.sends(Duration::ZERO, first);
        first.outbox = Outbox::default();
        assert_eq!(slice(&mut dirty, &mut conns, 16, Duration::ZERO), [ids[1]]);
        for (id, urgent) in [(ids[0], false), (ids[1], true)] {
            let conn = conns.get_mut(id).unwrap();
            conn.outbox = Outbox::default();
            push(conn);
            dirty.add(id, conn, urgent);
        }
        assert_eq!(
            slice(&mut dirty, &mut conns, 16, Duration::ZERO),
            [ids[1], ids[0]]
        );
    }
}
