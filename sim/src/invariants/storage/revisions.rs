//! Above the compact revision each revision has rows, numbered from 0 without a gap, up to the current
//! revision and not beyond (`mvcc`: an entry changes all that it changes at one revision, or nothing and
//! then no revision passes).

use mainstay::types::Revision;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let tables = &picture.tables;
    let current = tables.facts.revision.unwrap_or(Revision(1));
    // The first write makes revision 2.
    let solid = tables.facts.compact.unwrap_or(Revision(1)).max(Revision(1));
    // A compaction of the future is another check's.
    if solid > current {
        return None;
    }
    let broken = |text| Some(Violation::new("revisions-unbroken", text));
    let (mut main, mut next_sub) = (solid, 0);
    for row in tables.rows.iter().filter(|row| row.id.main > solid) {
        let follows = if row.id.main == main {
            row.id.sub == next_sub
        } else {
            row.id.main == main.next() && row.id.sub == 0
        };
        if !follows {
            return broken(format!("{}: row {} comes after {main}", picture.name, row.id));
        }
        (main, next_sub) = (row.id.main, row.id.sub + 1);
    }
    if main == current {
        return None;
    }
    broken(format!("{}: the rows end at {main}, the revision is {current}", picture.name))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;
    use mainstay::types::Revision;

    #[test]
    fn a_revision_without_rows_is_seen() {
        let lost = fires(|picture| picture.tables.facts.revision = Some(Revision(1_000)));
        assert_eq!(lost, ["revisions-unbroken"]);
        let beyond = fires(|picture| {
            let revision = picture.tables.facts.revision.expect("there were writes");
            picture.tables.facts.revision = revision.prev();
        });
        assert_eq!(beyond, ["revisions-unbroken"]);
        let sub = fires(|picture| {
            // The last row's place is named nowhere but in its key's entry.
            let row = picture.tables.rows.last_mut().expect("there are rows");
            row.id.sub = 1;
            let key = picture.tables.keys.iter_mut().find(|key| key.key == row.key);
            key.expect("it has an entry").id = row.id;
        });
        assert_eq!(sub, ["revisions-unbroken"]);
    }
}
