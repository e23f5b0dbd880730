//! What processes hold.

use std::fs;

use anyhow::Context;

/// Memory of a process, or of several, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident pages.
    pub rss: u64,
    /// The same, where pages shared with other processes count in proportion.
    pub pss: u64,
    /// Resident pages that are no file's: heap, stacks, buffers.
    pub anonymous: u64,
}

impl Memory {
    /// What all of `pids` hold now (`/proc/PID/smaps_rollup`).
    ///
    /// # Errors
    /// One of them is gone.
    pub fn of(pids: &[u32]) -> anyhow::Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, pid| {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            let one = Self::parse(&text).with_context(|| format!("{path}: {text}"))?;
            Ok(Self {
                rss: sum.rss + one.rss,
                pss: sum.pss + one.pss,
                anonymous: sum.anonymous + one.anonymous,
            })
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib << 10)
        };
        Some(Self {
            rss: field("Rss:")?,
            pss: field("Pss:")?,
            anonymous: field("Anonymous:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_is_held() {
        let pid = [std::process::id()];
        let before = Memory::of(&pid).unwrap();
        let held = vec![1_u8; 64 << 20];
        let after = Memory::of(&pid).unwrap();
        // Other tests allocate meanwhile.
        assert!(
            after.anonymous > before.anonymous + (32 << 20),
            "{before:?} {after:?}"
        );
        drop(held);
    }
}
