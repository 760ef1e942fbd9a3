//! Key ranges: which keys a request is about.
//!
//! etcd's requests name a range by a pair of byte strings whose second part has three meanings (empty:
//! one key; a single zero byte: everything from the key on; anything else: the end, exclusive). The
//! pair is taken apart once, here, so that nobody downstream has to remember it.
//!
//! Invariants
//! - Keys are ordered as byte strings. A range is half-open: its end is not in it.
//! - A range may be empty (its end at or before its start). That is no error, it just has no keys.

use std::ops::Bound;

use bytes::Bytes;

/// A key, or the keys from `start` up to an end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    One(Bytes),
    /// All keys from `start` on that come before the end.
    Span {
        /// The first key that may be in the range.
        start: Bytes,
        /// Where the range ends.
        end: RangeEnd,
    },
}

/// The end of a range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RangeEnd {
    /// This key and everything after it is out.
    Before(Bytes),
    /// There is no end.
    Open,
}

impl KeyRange {
    /// Makes a range of etcd's pair.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::One(key),
            [0] => Self::Span { start: key, end: RangeEnd::Open },
            _ => Self::Span { start: key, end: RangeEnd::Before(range_end) },
        }
    }

    /// Makes etcd's pair of the range.
    pub fn to_wire(&self) -> (Bytes, Bytes) {
        match self {
            Self::One(key) => (key.clone(), Bytes::new()),
            Self::Span { start, end: RangeEnd::Before(end) } => (start.clone(), end.clone()),
            Self::Span { start, end: RangeEnd::Open } => (start.clone(), Bytes::from_static(&[0])),
        }
    }

    /// The range of every key.
    pub fn all() -> Self {
        Self::Span { start: Bytes::new(), end: RangeEnd::Open }
    }

    /// The first key that may be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::One(key) => key,
            Self::Span { start, .. } => start,
        }
    }

    /// The range as a pair of bounds for ordered maps and scans.
    ///
    /// NB: an empty span's bounds may be out of order, which `BTreeMap::range` answers with a panic:
    /// ask [`is_empty`](Self::is_empty) first.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::One(key) => (Bound::Included(key), Bound::Included(key)),
            Self::Span { start, end: RangeEnd::Before(end) } => {
                (Bound::Included(start), Bound::Excluded(end))
            }
            Self::Span { start, end: RangeEnd::Open } => (Bound::Included(start), Bound::Unbounded),
        }
    }

    /// Tells whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span { start, end: RangeEnd::Before(end) } if end <= start)
    }

    /// Tells whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one.as_ref() == key,
            Self::Span { start, end } => start.as_ref() <= key && end.is_after(key),
        }
    }

    /// Tells whether every key of `other` is in this range. An empty range is covered by any.
    pub fn covers(&self, other: &Self) -> bool {
        if other.is_empty() {
            return true;
        }
        match (self, other) {
            (_, Self::One(key)) => self.contains(key),
            // A span of exactly one key, `[k, k+"\0")`, is the other way to name that key.
            (Self::One(key), Self::Span { start, end: RangeEnd::Before(end) }) => {
                key == start && end.strip_prefix(key.as_ref()) == Some(&[0][..])
            }
            (Self::One(_), Self::Span { end: RangeEnd::Open, .. }) => false,
            (Self::Span { start, end }, Self::Span { start: other_start, end: other_end }) => {
                start <= other_start
                    && match (end, other_end) {
                        (RangeEnd::Open, _) => true,
                        (RangeEnd::Before(_), RangeEnd::Open) => false,
                        (RangeEnd::Before(end), RangeEnd::Before(other)) => other <= end,
                    }
            }
        }
    }
}

impl RangeEnd {
    /// Tells whether `key` comes before this end.
    pub fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end.as_ref(),
            Self::Open => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(
            Bytes::from_static(start.as_bytes()),
            Bytes::from_static(end.as_bytes()),
        )
    }

    #[test]
    fn the_pair_of_a_range_survives_both_ways() {
        for (key, end) in [("a", ""), ("a", "\0"), ("\0", "\0"), ("a", "b"), ("b", "a"), ("", "")] {
            let range = span(key, end);
            let (key_back, end_back) = range.to_wire();
            assert_eq!((key_back.as_ref(), end_back.as_ref()), (key.as_bytes(), end.as_bytes()));
        }
    }

    #[test]
    fn a_range_has_its_start_and_not_its_end() {
        let range = span("b", "d");
        assert!(!range.contains(b"a"));
        assert!(range.contains(b"b"));
        assert!(range.contains(b"czzz"));
        assert!(!range.contains(b"d"));
        assert!(span("b", "\0").contains(b"\xff\xff"));
        assert!(!span("b", "\0").contains(b"a"));
        assert!(span("b", "").contains(b"b"));
        assert!(!span("b", "").contains(b"b\0"));
        assert!(KeyRange::all().contains(b""));
    }

    #[test]
    fn a_range_that_ends_before_its_start_has_no_keys() {
        for range in [span("b", "a"), span("b", "b")] {
            assert!(range.is_empty());
            for key in [&b"a"[..], b"b", b"ba"] {
                assert!(!range.contains(key));
            }
        }
        assert!(!span("b", "").is_empty());
        assert!(!span("b", "b\0").is_empty());
    }

    #[test]
    fn covering_is_containing_every_key() {
        assert!(span("a", "z").covers(&span("b", "c")));
        assert!(span("a", "z").covers(&span("a", "z")));
        assert!(!span("a", "z").covers(&span("a", "\0")));
        assert!(span("a", "\0").covers(&span("a", "z")));
        assert!(!span("b", "z").covers(&span("a", "z")));
        assert!(span("b", "z").covers(&span("z", "a")), "an empty range is covered by any");
        assert!(span("b", "").covers(&span("b", "b\0")), "a span of one key is that key");
        assert!(!span("b", "").covers(&span("b", "c")));
        assert!(!span("b", "").covers(&span("b", "\0")));
    }
}
