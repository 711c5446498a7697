//! Seeded variation: durations, ids, styles and drawings all come from here, so that the same seed and
//! the same requests in the same order give the same run. Not a source of secrets.

/// A small stream of numbers (splitmix64), started from a seed, a counter and a purpose.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream for the `n`-th thing of this purpose.
    pub fn new(seed: u64, n: u64, purpose: &str) -> Self {
        let name = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut chance = Self(seed.rotate_left(32) ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ name);
        chance.number();
        chance
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high.saturating_sub(low) + 1)
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        let bits = u32::try_from(self.number() >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// A number of seconds in `low..high`.
    pub fn seconds(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.fraction()
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let last = u64::try_from(choices.len()).ok()?.checked_sub(1)?;
        choices.get(usize::try_from(self.between(0, last)).ok()?)
    }

    /// An id in the form of a version 4 UUID.
    pub fn uuid(&mut self) -> String {
        let (high, low) = (self.number(), self.number());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 50),
            low & 0xffff_ffff_ffff
        )
    }

    /// `len` characters out of this ASCII alphabet.
    pub fn text(&mut self, alphabet: &str, len: usize) -> String {
        (0..len).filter_map(|_| self.one_of(alphabet.as_bytes()).map(|byte| char::from(*byte))).collect()
    }
}

/// The letters of ids such as `gen_01jrw0e7j2fc2rp7evwe19y0q7`.
pub const LOWER: &str = "0123456789abcdefghjkmnpqrstvwxyz";
/// The letters of ids such as `chatcmpl-89DUFLZV9Ag7HbeoFtKmVyof6666`.
pub const MIXED: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_seed_another() {
        let ids = |seed| (0..50).map(|n| Chance::new(seed, n, "task").uuid()).collect::<Vec<_>>();
        assert_eq!(ids(7), ids(7));
        assert!(ids(7).iter().all(|id| !ids(8).contains(id)));
        let mut unique = ids(7);
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 50);
    }

    #[test]
    fn numbers_stay_in_their_bounds() {
        let mut chance = Chance::new(1, 2, "bounds");
        for _ in 0..1_000 {
            assert!((3..=5).contains(&chance.between(3, 5)));
            assert!((0.0..1.0).contains(&chance.fraction()));
        }
        assert_eq!(chance.uuid().len(), 36);
        assert_eq!(chance.text(LOWER, 26).len(), 26);
        assert_eq!(chance.one_of::<u8>(&[]), None);
    }
}
