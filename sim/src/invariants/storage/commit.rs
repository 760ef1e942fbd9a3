//! The commit index on disk is within the log on disk (Raft, §5.3: what is committed here was stored
//! here; `LogError::TooShort`, which speaks of the log's end only, is the start's own word for it).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let (commit, last) = (picture.log.hard_state.commit, picture.log.last());
    (commit > last.index).then(|| {
        let text = format!("{}: commit {commit} is beyond the log's end, {last}", picture.name);
        Violation::new("commit-in-log", text)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use mainstay::types::Index;

    #[test]
    fn a_commit_index_beyond_the_log_is_seen() {
        let end = |beyond: u64| {
            fires(move |picture| {
                let last = picture.log.last().index;
                picture.log.hard_state.commit = Index(last.0 + beyond);
            })
        };
        assert!(end(0).is_empty());
        assert_eq!(end(1), ["commit-in-log"]);
    }
}
