//! What became of deliveries: counted for the operator, and told to whoever asked.

use std::sync::Arc;

use super::jobs::{JobId, Jobs};
use crate::{
    command::Outcome,
    identity::ConnId,
    metrics::Metrics,
    mutation::{self, Rule},
};

/// Counts what became of deliveries.
pub struct Ledger {
    /// Who wants to know.
    pub jobs: Jobs,
    /// What the operator sees.
    pub metrics: Arc<Metrics>,
}

impl Ledger {
    /// A delivery that was in an outbox is decided.
    #[inline]
    pub fn decide(&mut self, job: Option<JobId>, outcome: Outcome, conn: ConnId) {
        self.count(outcome);
        if let Some(job) = job {
            self.jobs.decide(job, outcome, conn);
        }
    }

    /// A delivery did not come to be.
    pub fn refuse(&mut self, job: Option<JobId>, outcome: Outcome, conn: Option<ConnId>) {
        self.count(outcome);
        if let Some(job) = job {
            self.jobs.refuse(job, outcome, conn);
        }
    }

    #[inline]
    fn count(&self, outcome: Outcome) {
        if let Some(label) = outcome.drop_label()
            && !mutation::is_off(Rule::DropCount)
        {
            self.metrics.drops.count(label);
        }
    }
}
