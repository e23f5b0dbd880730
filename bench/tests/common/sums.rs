//! Whether all sides of a load agree on what became of it.

use std::{
    collections::BTreeSet,
    iter::Sum,
    sync::{Arc, Mutex},
};

use logic_client::{Returned, Stats};

use super::{Pushed, Users};

/// What came back.
pub type Back = Arc<Mutex<Vec<Returned>>>;

/// For `on_returned`.
pub fn keep(back: &Back) -> impl Fn(Returned) + Send + Sync + 'static {
    let back = Arc::clone(back);
    move |returned| back.lock().unwrap().push(returned)
}

/// What a gateway has counted in its life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub pushes: u64,
    pub written: u64,
    pub dropped: u64,
}

impl Sum for Counted {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            pushes: sum.pushes + one.pushes,
            written: sum.written + one.written,
            dropped: sum.dropped + one.dropped,
        })
    }
}

/// What became of pushes that nobody waited for.
#[derive(Debug)]
pub struct Sums {
    pushed: u64,
    delivered: u64,
    /// Came back, and did not come.
    returned: u64,
    /// Neither: somebody must have counted them.
    rest: u64,
    doubled: Vec<String>,
    /// Came back as what nobody got, and came.
    denied: Vec<String>,
    no_target: u64,
    acked: u64,
}

impl Sums {
    /// `pushed` are users and texts.
    pub fn of(pushed: &[(String, String)], back: &Back, users: &Users, stats: &Stats) -> Self {
        let back = back.lock().unwrap();
        let told = stats.total().returned();
        assert_eq!(back.len() as u64, told, "each return is told and counted");
        let text =
            |back: &Returned| String::from_utf8(back.push.request().payload.to_vec()).unwrap();
        let returned: BTreeSet<String> = back.iter().map(text).collect();
        let retriable: BTreeSet<String> = back
            .iter()
            .filter(|back| back.is_retriable() && !back.is_partial())
            .map(text)
            .collect();
        let mut sums = Self {
            pushed: pushed.len() as u64,
            delivered: 0,
            returned: 0,
            rest: 0,
            doubled: Vec::new(),
            denied: Vec::new(),
            no_target: stats.no_target,
            acked: stats.total().acked,
        };
        for (user, text) in pushed {
            match users.count(user, text) {
                0 if returned.contains(text) => sums.returned += 1,
                0 => sums.rest += 1,
                1 => sums.delivered += 1,
                _ => sums.doubled.push(text.clone()),
            }
            if users.count(user, text) > 0 && retriable.contains(text) {
                sums.denied.push(text.clone());
            }
        }
        sums
    }

    /// `others` is what the client with the confirmed pushes counted, `gateways` what all gateways did.
    pub fn must_agree(&self, others: &Stats, confirmed: &[Pushed], gateways: Counted) {
        println!("{self:?}; {gateways:?}");
        assert!(
            self.doubled.is_empty() && self.denied.is_empty(),
            "{self:?}"
        );
        assert_eq!(self.pushed, self.delivered + self.returned + self.rest);
        // What was taken was written or dropped for a reason.
        let acked = self.acked + others.total().acked;
        assert_eq!(acked, gateways.pushes, "{self:?}");
        let decided = gateways.written + gateways.dropped;
        assert!(decided >= gateways.pushes, "{gateways:?}");
        // Drops that receipts tell of are no part of the rest.
        let receipts = confirmed
            .iter()
            .filter_map(|push| push.answer.as_ref().ok());
        let told: u64 = receipts.map(|one| one.no_target + one.lost()).sum();
        let told = told.saturating_sub(others.no_target);
        let counted = self.no_target + gateways.dropped.saturating_sub(told);
        assert!(self.rest <= counted, "in silence: {self:?} of {counted}");
        assert!(self.delivered * 2 > self.pushed, "too few: {self:?}");
    }
}
