//! Nothing lies about: a member's directory holds files of known names, few of those that are on their way,
//! and after a start none of them (`storage::generations`, `storage::log`: what a crash left behind is
//! removed at the next opening).

use super::picture::Picture;
use crate::invariants::Violation;

/// Generations of the store at once: the one in force, the one before that is being removed, and one that
/// arrives.
const GENERATIONS_MAX: usize = 3;

/// Spare segments of the log: two that are ready, as the log keeps them.
const SPARES_MAX: usize = 2;

/// What a member's directory holds.
#[derive(Debug, Default)]
struct Inventory {
    segments: Vec<u64>,
    spares: usize,
    being_filled: usize,
    generations: std::collections::BTreeSet<String>,
    switches: usize,
    unknown: Vec<String>,
}

impl Inventory {
    fn of(files: &[String]) -> Self {
        let mut found = Self::default();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
        for file in files {
            let parts: Vec<&str> = file.split('/').collect();
            match parts.as_slice() {
                ["lock" | "store-id"] | ["log", "lock"] | ["store", "CURRENT"] => {}
                ["store", "CURRENT.new"] => found.switches += 1,
                ["store", generation, "data.mdb" | "lock.mdb"] if hex(generation).is_some() => {
                    found.generations.insert((*generation).to_owned());
                }
                ["log", name] if name.starts_with("spare.") => found.spares += 1,
                ["log", name] if name.starts_with("new.") => found.being_filled += 1,
                ["log", name] => match name.strip_suffix(".log").and_then(hex) {
                    Some(number) => found.segments.push(number),
                    None => found.unknown.push(file.clone()),
                },
                _ => found.unknown.push(file.clone()),
            }
        }
        found.segments.sort_unstable();
        found
    }

    /// Says whether there is no more than a member makes, running or, once it was opened, at rest.
    fn is_tidy(&self, opened: bool) -> bool {
        let (generations, under_way) = if opened { (1, 0) } else { (GENERATIONS_MAX, 1) };
        let gapless = self.segments.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        gapless
            && self.unknown.is_empty()
            && self.generations.len() <= generations
            && self.spares <= SPARES_MAX + under_way
            && self.being_filled <= under_way
            && self.switches <= under_way
    }
}

/// Judges a disk.
pub fn check(picture: &Picture) -> Option<Violation> {
    let looks = [(false, &picture.files), (true, &picture.files_opened)];
    for (opened, files) in looks {
        let found = Inventory::of(files);
        if !found.is_tidy(opened) {
            let when = if opened { "after an opening" } else { "as it was left" };
            let text = format!("{}, {when}: {found:?}", picture.name);
            return Some(Violation::new("leftovers", text));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::fires;

    #[test]
    fn what_nobody_clears_away_is_seen() {
        let with = |opened: bool, more: &'static [&'static str]| {
            fires(move |picture| {
                let files = if opened { &mut picture.files_opened } else { &mut picture.files };
                files.extend(more.iter().map(|file| (*file).to_owned()));
            })
        };
        let generation = &["store/00000000000000aa/data.mdb"];
        assert!(with(false, generation).is_empty());
        assert_eq!(with(true, generation), ["leftovers"]);
        assert!(with(false, &["log/new.7", "store/CURRENT.new"]).is_empty());
        assert_eq!(with(true, &["log/new.7"]), ["leftovers"]);
        assert_eq!(with(true, &["store/CURRENT.new"]), ["leftovers"]);
        assert_eq!(
            with(false, &["log/spare.1", "log/spare.2", "log/spare.3", "log/spare.4"]),
            ["leftovers"]
        );
        assert_eq!(with(false, &["store/snapshot.tmp"]), ["leftovers"]);
        assert_eq!(with(false, &["log/00000000000000f0.log"]), ["leftovers"]);
    }
}
