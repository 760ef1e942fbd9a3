//! What a walk over the keys must find: the counts, held against it as it goes.
//!
//! A key that is lost in LMDB, with its page or with its place in a page, leaves no trace in the table it
//! is lost from. But `counts.rs` knows how many keys live between two fences. A walk that passes a whole
//! stretch between fences has to have met as many keys that live now, at whatever revision it reads;
//! else it is [`Damage`], and what it found is no answer.
//!
//! Invariants
//! - A [`Ledger`] and the view of the walk are of one moment (see `store.rs`), and of the same bounds.
//! - A stretch is judged when the walk has passed it whole: not the first and last keys of a range, which
//!   cut into stretches, nor where a limit ends the walk.
//!
//! Left out: ranges within one stretch (about fifty keys) and single keys are not judged, nor what a
//! transaction that writes reads before it has its place in the log.

use bytes::Bytes;

use super::frame::{Damage, Way};

/// Some stretches, one after the other, in the order of a walk.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Where each stretch begins for this walk; and, unless it goes on without end, where the last one ends.
    pub bounds: Vec<Bytes>,
    /// How many keys live in each.
    pub lives: Vec<u32>,
    /// The first stretch has no beginning: a walk downwards from the last key.
    pub begun: bool,
}

/// The holding of a walk against a ledger.
pub(super) struct Audit<'l> {
    ledger: Option<&'l Ledger>,
    way: Way,
    /// The next bound to pass; the stretch before it is the present one.
    at: usize,
    found: u32,
}

impl<'l> Audit<'l> {
    pub(super) fn new(ledger: Option<&'l Ledger>, way: Way) -> Self {
        let ledger = ledger.filter(|ledger| !ledger.lives.is_empty());
        Self { ledger, way, at: usize::from(ledger.is_some_and(|l| l.begun)), found: 0 }
    }

    /// Takes the next key of the walk.
    #[inline]
    pub(super) fn see(&mut self, key: &[u8], lives: bool) -> Result<(), Damage> {
        let Some(ledger) = self.ledger else { return Ok(()) };
        while let Some(bound) = ledger.bounds.get(self.at)
            && (key < &bound[..]) == (self.way == Way::Down)
        {
            self.pass(ledger)?;
        }
        self.found += u32::from(lives);
        Ok(())
    }

    /// Says that the walk is through.
    pub(super) fn end(&mut self) -> Result<(), Damage> {
        let Some(ledger) = self.ledger else { return Ok(()) };
        while self.at <= ledger.lives.len() {
            self.pass(ledger)?;
        }
        Ok(())
    }

    fn pass(&mut self, ledger: &Ledger) -> Result<(), Damage> {
        if let Some(stretch) = self.at.checked_sub(1)
            && let Some(counted) = ledger.lives.get(stretch)
            && *counted != self.found
        {
            let (found, counted) = (i64::from(self.found), u64::from(*counted));
            return Err(Damage::Live { found, counted });
        }
        self.at += 1;
        self.found = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::Counts;
    use super::*;
    use std::ops::Bound;

    /// Walks keys 00 to 99, of which those in `lost` are not met.
    fn walk(
        way: Way,
        from: u32,
        to: u32,
        lost: &[u32],
        stop_at: Option<u32>,
    ) -> Result<(), Damage> {
        let name = |n: u32| format!("{n:02}").into_bytes();
        let fences = (0..10).map(|n| (if n == 0 { vec![] } else { name(n * 10) }, 10));
        let counts = Counts::load(fences.map(|(fence, live)| (fence.into(), live)));
        let (first, last) = (name(from), name(to));
        let lower = if from == 0 { Bound::Unbounded } else { Bound::Included(&first[..]) };
        let upper = if to > 99 { Bound::Unbounded } else { Bound::Excluded(&last[..]) };
        let ledger = counts.ledger(lower, upper, way, usize::MAX);
        let mut audit = Audit::new(Some(&ledger), way);
        let mut keys: Vec<u32> = (from..to.min(100)).filter(|n| !lost.contains(n)).collect();
        if way == Way::Down {
            keys.reverse();
        }
        for key in keys {
            audit.see(&name(key), true)?;
            if stop_at == Some(key) {
                return Ok(());
            }
        }
        audit.end()
    }

    #[test]
    fn a_walk_that_misses_a_key_between_two_fences_is_damage() {
        let missed = Err(Damage::Live { found: 9, counted: 10 });
        for way in [Way::Up, Way::Down] {
            for (from, to) in [(0, 100), (10, 90), (15, 85), (0, 95), (35, 100), (9, 21)] {
                assert_eq!(walk(way, from, to, &[], None), Ok(()), "{way:?} {from} {to}");
            }
            for lost in 0..100 {
                assert_eq!(walk(way, 0, 100, &[lost], None), missed, "{way:?} {lost}");
            }
            assert_eq!(walk(way, 15, 85, &[20], None), missed);
            assert_eq!(walk(way, 15, 85, &[79], None), missed);
            // Where a stretch is cut nothing can be said.
            assert_eq!(walk(way, 15, 85, &[19, 80], None), Ok(()));
            assert_eq!(walk(way, 12, 18, &[13], None), Ok(()));
            let whole: Vec<u32> = (30..40).collect();
            let none = Err(Damage::Live { found: 0, counted: 10 });
            assert_eq!(walk(way, 0, 100, &whole, None), none);
            assert_eq!(walk(way, 30, 40, &whole, None), none);
        }
        assert_eq!(walk(Way::Up, 0, 100, &[55], Some(59)), Ok(()), "it stopped before the fence");
        assert_eq!(walk(Way::Up, 0, 100, &[55], Some(60)), missed);
        assert_eq!(walk(Way::Down, 0, 100, &[55], Some(50)), Ok(()), "as above");
        assert_eq!(walk(Way::Down, 0, 100, &[55], Some(49)), missed);
    }
}
