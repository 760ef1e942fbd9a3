//! The log begins no later than behind the entry where the store stands: none in between is missing
//! (R32 in the hunt's table: the log is trimmed beyond what the store has made durable).

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let begin = picture.log.mark.as_ref().map(|mark| mark.position).unwrap_or_default();
    let applied = picture.applied;
    (begin.index > applied.index).then(|| {
        let text = format!(
            "{}: the store stands at {applied}, the log begins behind {begin}",
            picture.name
        );
        Violation::new("log-reaches-store", text)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use bytes::Bytes;
    use mainstay::storage::log::Mark;
    use mainstay::types::LogPosition;

    #[test]
    fn a_log_that_was_trimmed_too_far_is_seen() {
        let trimmed = |beyond: usize| {
            fires(move |picture| {
                let log = &mut picture.log;
                let at = log.entries.iter().position(|e| e.index == picture.applied.index);
                let at = at.expect("the log has the store's entry") + beyond;
                let last = log.entries[at].clone();
                log.entries.drain(..=at);
                let position = LogPosition::new(last.index, last.term);
                log.mark = Some(Mark { position, conf: Bytes::new(), installed: false });
            })
        };
        assert!(trimmed(0).is_empty());
        assert_eq!(trimmed(1), ["log-reaches-store"]);
    }
}
