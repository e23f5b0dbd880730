//! Payloads that prove themselves: whose they are, which one, when they were sent, and that no byte is wrong.

/// Shortest payload: user, sequence, time, and a sum of them.
pub const MIN_PAYLOAD: usize = 24;

use std::sync::Arc;

/// Makes payloads of one length, and checks what arrives.
pub struct Ledger {
    issuer: Issuer,
    checker: Checker,
}

/// The half that makes payloads.
pub struct Issuer {
    filling: Filling,
    /// By target: a user, or a group of them.
    sent: Vec<u64>,
}

/// The half that checks what arrives.
pub struct Checker {
    filling: Filling,
    /// Users that get the same messages, one group after the other.
    members: usize,
    /// By user: the sequence that must come next.
    next: Vec<u64>,
    delivered: u64,
    faults: Faults,
}

/// Every payload's filling is a slice of a pattern, at an offset of its own.
#[derive(Clone)]
struct Filling {
    length: usize,
    pattern: Arc<[u8]>,
}

/// What went wrong; all zero is what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Faults {
    /// Messages that had not come when a later one of their user did, or by the end.
    pub missing: u64,
    /// Messages that came after a later one, or again.
    pub late: u64,
    /// Messages with a wrong byte, of a wrong length or kind.
    pub damaged: u64,
    /// Messages for somebody else.
    pub astray: u64,
}

/// Messages are not as they should be, so that a measurement ends: with exit status 1.
#[derive(Clone, Debug)]
pub struct Wrong(pub String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl Faults {
    /// Nothing went wrong.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::iter::Sum for Faults {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, faults| Self {
            missing: sum.missing + faults.missing,
            late: sum.late + faults.late,
            damaged: sum.damaged + faults.damaged,
            astray: sum.astray + faults.astray,
        })
    }
}

impl Ledger {
    /// For `users` users and payloads of `length` bytes, at least [`MIN_PAYLOAD`].
    #[must_use]
    pub fn new(users: usize, length: usize) -> Self {
        Self::grouped(users, 1, length)
    }

    /// As [`Ledger::new`], for messages of which each is for a group: the first `members` users, the next `members`, and
    /// so on.
    #[must_use]
    pub fn grouped(users: usize, members: usize, length: usize) -> Self {
        let filling = Filling::new(length);
        let members = members.max(1);
        let issuer = Issuer {
            filling: filling.clone(),
            sent: vec![0; users.div_ceil(members)],
        };
        let checker = Checker {
            filling,
            members,
            next: vec![0; users],
            delivered: 0,
            faults: Faults::default(),
        };
        Self { issuer, checker }
    }

    /// One half for whoever sends, the other for whoever receives.
    #[must_use]
    pub fn split(self) -> (Issuer, Checker) {
        (self.issuer, self.checker)
    }

    /// See [`Issuer::issue`].
    pub fn issue(&mut self, target: usize, now: u64) -> Vec<u8> {
        self.issuer.issue(target, now)
    }

    /// See [`Checker::check`].
    pub fn check(&mut self, user: usize, text: bool, payload: &[u8]) -> Option<u64> {
        self.checker.check(user, text, payload)
    }

    /// How many good messages have come.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.checker.delivered
    }

    /// What went wrong, when nothing more will come.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.checker.faults(&self.issuer)
    }
}

impl Issuer {
    /// The next payload for `target`, a user or a group, sent at `now` (any clock, nanoseconds).
    pub fn issue(&mut self, target: usize, now: u64) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.filling.length);
        self.issue_into(target, now, &mut payload);
        payload
    }

    /// As [`Issuer::issue`], appended to `payload`.
    pub fn issue_into(&mut self, target: usize, now: u64, payload: &mut Vec<u8>) {
        self.issue_for(target, target, now, payload);
    }

    /// As [`Issuer::issue_into`], counted for `member` of `target` alone: whoever sends to each member by itself.
    pub fn issue_for(&mut self, member: usize, target: usize, now: u64, payload: &mut Vec<u8>) {
        let sequence = self.sent[member];
        self.sent[member] += 1;
        let sum = sum(target as u32, sequence, now);
        payload.extend_from_slice(&(target as u32).to_le_bytes());
        payload.extend_from_slice(&sequence.to_le_bytes());
        payload.extend_from_slice(&now.to_le_bytes());
        payload.extend_from_slice(&sum.to_le_bytes());
        payload.extend_from_slice(self.filling.of(sum));
    }
}

impl Checker {
    /// Checks what `user` got. Gives the time at which it was sent, unless it is wrong.
    pub fn check(&mut self, user: usize, text: bool, payload: &[u8]) -> Option<u64> {
        let (whose, sequence, sent) = self.read(payload).filter(|_| !text).or_else(|| {
            self.faults.damaged += 1;
            None
        })?;
        if whose as usize != user / self.members {
            self.faults.astray += 1;
            return None;
        }
        let next = &mut self.next[user];
        if sequence < *next {
            self.faults.late += 1;
            return None;
        }
        self.faults.missing += sequence - *next;
        *next = sequence + 1;
        self.delivered += 1;
        Some(sent)
    }

    /// How many good messages have come.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// What went wrong, but for messages after the last one that has come.
    #[must_use]
    pub fn faults_so_far(&self) -> Faults {
        self.faults
    }

    /// What went wrong with what `issuer` has sent, when nothing more will come.
    #[must_use]
    pub fn faults(&self, issuer: &Issuer) -> Faults {
        let groups = issuer.sent.iter().zip(self.next.chunks(self.members));
        let tail =
            groups.flat_map(|(sent, group)| group.iter().map(|next| sent.saturating_sub(*next)));
        let mut faults = self.faults;
        faults.missing += tail.sum::<u64>();
        faults
    }

    fn read(&self, payload: &[u8]) -> Option<(u32, u64, u64)> {
        if payload.len() != self.filling.length {
            return None;
        }
        let (user, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (sent, rest) = rest.split_first_chunk()?;
        let (told, rest) = rest.split_first_chunk()?;
        let (user, sequence) = (u32::from_le_bytes(*user), u64::from_le_bytes(*sequence));
        let sent = u64::from_le_bytes(*sent);
        let sum = sum(user, sequence, sent);
        let right = u32::from_le_bytes(*told) == sum && rest == self.filling.of(sum);
        right.then_some((user, sequence, sent))
    }
}

impl Filling {
    fn new(length: usize) -> Self {
        let length = length.max(MIN_PAYLOAD);
        let mut state = 0x9e37_79b9_u32;
        let pattern = (0..length + 256).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        Self {
            length,
            pattern: pattern.collect(),
        }
    }

    fn of(&self, sum: u32) -> &[u8] {
        let offset = (sum & 0xff) as usize;
        &self.pattern[offset..offset + self.length - MIN_PAYLOAD]
    }
}

/// Changes with every bit of what is told.
fn sum(user: u32, sequence: u64, sent: u64) -> u32 {
    let mix = |sum: u64, part: u64| {
        (sum ^ part)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    };
    let sum = mix(mix(mix(1, user.into()), sequence), sent);
    (sum ^ sum >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_seen() {
        let mut ledger = Ledger::new(2, 64);
        let sent: Vec<_> = (0..6).map(|at| ledger.issue(0, at)).collect();
        assert_eq!(ledger.check(0, false, &sent[0]), Some(0));
        assert_eq!(ledger.check(1, false, &sent[1]), None, "somebody else's");
        assert_eq!(ledger.check(0, true, &sent[1]), None, "as text");
        for at in 0..64 {
            let mut wrong = sent[1].clone();
            wrong[at] ^= 1;
            assert!(ledger.checker.read(&wrong).is_none(), "byte {at}");
        }
        assert_eq!(ledger.check(0, false, &sent[1][..63]), None, "cut");
        assert_eq!(
            ledger.check(0, false, &sent[3]),
            Some(3),
            "1 and 2 are missing"
        );
        assert_eq!(ledger.check(0, false, &sent[2]), None, "late");
        assert_eq!(ledger.check(0, false, &sent[3]), None, "again");
        assert_eq!(ledger.delivered(), 2);
        let faults = Faults {
            missing: 4,
            late: 2,
            damaged: 2,
            astray: 1,
        };
        assert_eq!(ledger.faults(), faults, "4 and 5 never came");
    }

    #[test]
    fn every_member_of_a_group_must_get_what_is_for_it() {
        // Two groups: users 0 to 2, and 3 alone.
        let mut ledger = Ledger::grouped(4, 3, 32);
        let (first, second) = (ledger.issue(0, 5), ledger.issue(1, 6));
        for user in 0..3 {
            assert_eq!(ledger.check(user, false, &first), Some(5));
        }
        assert_eq!(ledger.check(2, false, &second), None, "another group's");
        let open = ledger.faults();
        assert_eq!((open.missing, open.astray), (1, 1), "user 3 waits");
        assert_eq!(ledger.check(3, false, &second), Some(6));
        assert_eq!((ledger.faults().missing, ledger.delivered()), (0, 4));
    }

    #[test]
    fn what_arrives_in_order_is_no_fault() {
        let mut ledger = Ledger::new(3, 0);
        for now in 0..1_000 {
            let user = now % 3;
            let payload = ledger.issue(user, now as u64);
            assert_eq!(ledger.check(user, false, &payload), Some(now as u64));
        }
        assert!(ledger.faults().is_none());
    }
}
