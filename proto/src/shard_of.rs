//! Which shard owns a user.

use xxhash_rust::xxh3::xxh3_64;

/// The shard that owns `user` on a gateway of `shards` shards: `(xxh3_64(user) × shards) >> 64`.
///
/// Multiplying takes the top bits of the hash, so it needs no division and spreads evenly for any count. Test vectors
/// for other languages stand in `proto/vectors/shard_of.tsv`.
///
/// Returns 0 when `shards` is 0 or 1.
#[inline]
#[must_use]
pub fn shard_of(user: &[u8], shards: u32) -> u32 {
    ((u128::from(xxh3_64(user)) * u128::from(shards)) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that other languages check as well: user in hexadecimal, shards, shard.
    const VECTORS: &str = include_str!("../vectors/shard_of.tsv");

    #[test]
    fn vectors_hold() {
        let mut seen = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [user, shards, expected] = fields[..] else {
                panic!("three fields expected: {line:?}");
            };
            let user: Vec<u8> = (0..user.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&user[at..at + 2], 16).unwrap())
                .collect();
            let shards: u32 = shards.parse().unwrap();
            assert_eq!(shard_of(&user, shards).to_string(), expected, "{line}");
            seen += 1;
        }
        assert!(seen >= 100, "only {seen} vectors");
    }

    #[test]
    fn users_spread_evenly() {
        let mut counts = [0_u32; 7];
        for user in 0..70_000 {
            counts[shard_of(format!("user-{user}").as_bytes(), 7) as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (9_500..10_500).contains(count)),
            "{counts:?}"
        );
    }
}
