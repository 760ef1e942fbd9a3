//! The core's own randomness: a small generator seeded once, so that the core depends on nothing
//! ambient and two nodes fed alike behave alike. It draws election timeouts and the start of the
//! read-forward numbers; it is not for secrets.

/// A SplitMix64 generator (Steele, Lea & Flood 2014): one word of state, good enough to keep
/// candidates apart.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed; every seed is a good one.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`, nearly uniform.
    ///
    /// # Panics
    /// If `n` is zero.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a draw from nothing");
        // The high half of a 128-bit product: unbiased enough, and no division.
        let wide = u128::from(self.next_u64()) * u128::from(n);
        u64::try_from(wide >> 64).expect("the high half of a product of two 64-bit numbers")
    }
}
