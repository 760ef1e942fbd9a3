//! A read sees everything that anybody knew to be committed when it was asked (linearizability;
//! Thesis, §6.4).

use mainstay::types::{Index, NodeId};

use super::{Broken, Verdict};

/// Judges a read answered at `index` that was asked when `floor` was known to be committed.
pub(in crate::storm) fn reads_are_linearizable(id: NodeId, floor: Index, index: Index) -> Verdict {
    must!(
        "reads_are_linearizable",
        index >= floor,
        "{id} may read at {index}, asked after {floor}"
    );
    Ok(())
}
