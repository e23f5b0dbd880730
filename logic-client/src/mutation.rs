//! Rules that can be switched off, one at a time, to see whether the simulator notices.
//!
//! In release builds nothing can be switched off, and asking costs nothing.

/// A rule that somebody's promise rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// After a break, what the gateway has not taken is sent again.
    Resume,
    /// Whoever is not in a snapshot of the directory is gone when it ends.
    DirectoryReconciliation,
}

/// Whether a rule does not hold on this thread.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn is_off(_rule: Rule) -> bool {
    false
}

#[cfg(debug_assertions)]
pub use switch::{is_off, switch_off};

#[cfg(debug_assertions)]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Whether a rule does not hold on this thread.
    #[must_use]
    pub fn is_off(rule: Rule) -> bool {
        OFF.get() == Some(rule)
    }

    /// From now on this rule, and only this one, does not hold on this thread. `None`: all hold.
    pub fn switch_off(rule: Option<Rule>) {
        OFF.set(rule);
    }
}
