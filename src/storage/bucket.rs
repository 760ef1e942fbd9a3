//! The row that holds all long keys with one beginning (see `lmdb.rs`): a sorted list of entries.
//!
//! ```text
//! count: u32 | end of entry 0, 1, …: u32 each | entry 0 | entry 1 | …        (little-endian)
//! entry: key length: u32 | the whole key | value
//! ```
//! Ends count from the first entry's beginning. Whole keys are kept, although they share 511 bytes, so
//! that a scan can lend them out as they lie in the map. Every bucket is sealed as a whole (`seal.rs`), so
//! a read of one long key costs a checksum over all with its beginning, as a write of one writes them all.
//! Every read checks its bounds all the same: a damaged bucket is [`StorageError::Rot`], never a panic or
//! a wrong slice of memory.

use super::error::StorageError;

/// A parsed list.
#[derive(Clone, Copy)]
pub(super) struct Bucket<'t> {
    ends: &'t [u8],
    entries: &'t [u8],
}

impl<'t> Bucket<'t> {
    /// The list without entries, which is never stored.
    pub(super) const EMPTY: Self = Self { ends: &[], entries: &[] };

    /// Reads the outer structure of a stored list.
    pub(super) fn parse(stored: &'t [u8]) -> Result<Self, StorageError> {
        let (count, rest) = stored.split_first_chunk::<4>().ok_or_else(rot)?;
        let table = to_usize(*count).checked_mul(4).ok_or_else(rot)?;
        let (ends, entries) = rest.split_at_checked(table).ok_or_else(rot)?;
        Ok(Self { ends, entries })
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.ends.len() / 4
    }

    fn end(&self, at: usize) -> Result<usize, StorageError> {
        let bytes = self.ends.get(at * 4..).and_then(|ends| ends.first_chunk::<4>());
        bytes.copied().map(to_usize).ok_or_else(rot)
    }

    /// Returns the key and value at a place below [`Bucket::len`].
    pub(super) fn entry(&self, at: usize) -> Result<(&'t [u8], &'t [u8]), StorageError> {
        let start = if at == 0 { 0 } else { self.end(at - 1)? };
        let entry = self.entries.get(start..self.end(at)?).ok_or_else(rot)?;
        let (key_len, rest) = entry.split_first_chunk::<4>().ok_or_else(rot)?;
        rest.split_at_checked(to_usize(*key_len)).ok_or_else(rot)
    }

    /// Looks a key up.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<&'t [u8]>, StorageError> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let (found, value) = self.entry(middle)?;
            match found.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(value)),
            }
        }
        Ok(None)
    }
}

/// Writes changes, in ascending order, over a list; returns what is to be stored, `None` if no entry
/// is left.
pub(super) fn merge<'a>(
    old: Bucket<'_>,
    changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<Option<Vec<u8>>, StorageError> {
    let mut out = Builder::default();
    let mut at = 0;
    for (key, value) in changes {
        while at < old.len() {
            let (kept, kept_value) = old.entry(at)?;
            if kept > key {
                break;
            }
            if kept < key {
                out.push(kept, kept_value)?;
            }
            at += 1;
        }
        if let Some(value) = value {
            out.push(key, value)?;
        }
    }
    for at in at..old.len() {
        let (key, value) = old.entry(at)?;
        out.push(key, value)?;
    }
    Ok(out.finish())
}

#[derive(Default)]
struct Builder {
    ends: Vec<u8>,
    entries: Vec<u8>,
}

impl Builder {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.entries.extend_from_slice(&to_u32(key.len())?);
        self.entries.extend_from_slice(key);
        self.entries.extend_from_slice(value);
        self.ends.extend_from_slice(&to_u32(self.entries.len())?);
        Ok(())
    }

    fn finish(self) -> Option<Vec<u8>> {
        if self.ends.is_empty() {
            return None;
        }
        let count = to_u32(self.ends.len() / 4).expect("fewer entries than bytes");
        Some([&count[..], &self.ends, &self.entries].concat())
    }
}

fn to_usize(bytes: [u8; 4]) -> usize {
    usize::try_from(u32::from_le_bytes(bytes)).expect("a pointer has 32 bits at least")
}

fn to_u32(n: usize) -> Result<[u8; 4], StorageError> {
    let n = u32::try_from(n)
        .map_err(|_| StorageError::Engine("long keys with one beginning exceed 4 GiB".into()))?;
    Ok(n.to_le_bytes())
}

fn rot() -> StorageError {
    StorageError::Rot("a row of long keys does not parse".into())
}
