//! The numbers that travel between modules, one newtype each, so that an index is never taken for a
//! revision. Everything prints them the same short way: `n1` node, `t3` term, `i42` index, `r17`
//! revision. This module knows nothing else of the system.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// Returns the number itself.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

macro_rules! counter {
    ($name:ident) => {
        impl $name {
            /// Returns the number after this one.
            ///
            /// # Panics
            /// At the end of the number's range, which no cluster reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("the counter does not overflow"))
            }

            /// Returns the number before this one, or `None` before zero.
            #[must_use]
            pub fn prev(self) -> Option<Self> {
                if self.0 == 0 { None } else { Some(Self(self.0 - 1)) }
            }

            /// Returns this number plus `n`, or `None` past the end of the range.
            #[must_use]
            pub fn checked_add(self, n: u64) -> Option<Self> {
                self.0.checked_add(n.try_into().ok()?).map(Self)
            }
        }
    };
}

number!(
    /// A member's id within its cluster; never 0 (the absence of a node is `Option<NodeId>`).
    NodeId(u64), "n");
number!(
    /// A Raft term (Ongaro & Ousterhout 2014, §5.1). 0 is before the first election.
    Term(u64), "t");
number!(
    /// A place in the Raft log. The first entry is `i1`; `i0` is the empty log's end.
    Index(u64), "i");
number!(
    /// A main revision: a moment of MVCC time. A fresh store stands at `r1`.
    Revision(i64), "r");
number!(
    /// A lease's id. Any non-zero number is taken, negative ones included, as in etcd.
    LeaseId(i64), "lease");
number!(
    /// A cluster's id, fixed at bootstrap.
    ClusterId(u64), "c");

counter!(Term);
counter!(Index);
counter!(Revision);

/// A place in the log and the term of the entry there: what identifies a log prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct LogPosition {
    /// The term of the entry at `index`. Ordered first: the up-to-date check compares it first.
    pub term: Term,
    /// The place.
    pub index: Index,
}

impl LogPosition {
    /// Names the entry at `index`, written in `term`.
    pub const fn new(index: Index, term: Term) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Debug for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
