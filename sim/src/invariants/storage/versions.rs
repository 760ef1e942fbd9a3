//! A key's rows count its life: the first write has version 1 and its own revision as the beginning, each
//! further one a version more and the same beginning; a tombstone has neither (etcd's data model).

use std::collections::BTreeMap;

use super::picture::Picture;
use crate::invariants::Violation;

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let mut newest = BTreeMap::new();
    for row in &picture.tables.rows {
        let before = newest.insert(&row.key, row);
        let held = match before {
            _ if row.tombstone => row.version == 0 && row.create.0 == 0 && row.lease.0 == 0,
            Some(before) if !before.tombstone => {
                row.version == before.version + 1 && row.create == before.create
            }
            Some(_) => row.version == 1 && row.create == row.id.main,
            // What came before may be compacted away.
            None => (row.version == 1) == (row.create == row.id.main) && row.version > 0,
        };
        if !held {
            let (name, id, create, version) = (&picture.name, row.id, row.create, row.version);
            let text = format!("{name}: row {id} is version {version} of a life since {create}");
            return Some(Violation::new("row-versions", text));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;

    #[test]
    fn a_version_that_was_skipped_is_seen() {
        let skipped = fires(|picture| {
            let row = picture.tables.rows.last_mut().expect("there are rows");
            row.version += 1;
            let key = picture.tables.keys.iter_mut().find(|key| key.key == row.key);
            key.expect("it has an entry").version += 1;
        });
        assert_eq!(skipped, ["row-versions"]);
    }
}
