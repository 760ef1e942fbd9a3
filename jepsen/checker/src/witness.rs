//! What was ever shown of a revision, and what watches would have shown had it happened.

use crate::history::{Record, WatchRecord, WatchRequest, What};
use crate::op::*;
use std::collections::BTreeMap;

/// What was shown of a revision.
#[derive(Default)]
pub(crate) struct Witness<'h> {
    /// Keys written at it, shown by reads. Collected for gaps only.
    pub reads: Vec<&'h KeyValue>,
    /// The same, shown as prev_kv of a watch event.
    pub before: Vec<&'h KeyValue>,
    /// Watch events of it.
    pub events: Vec<&'h Event>,
}

impl<'h> Witness<'h> {
    /// Everything shown of the revision, whoever showed it.
    pub fn shown(&self) -> impl Iterator<Item = (EventKind, &'h KeyValue)> {
        let puts = self.reads.iter().chain(&self.before).map(|kv| (EventKind::Put, *kv));
        puts.chain(self.events.iter().map(|event| (event.kind, &event.kv)))
    }

    /// Whether a watch said something of it.
    pub fn soft(&self) -> bool {
        !self.events.is_empty() || !self.before.is_empty()
    }
}

/// The part of the store's past that one watch has seen.
pub(crate) struct View<'h> {
    request: &'h WatchRequest,
    from: i64,
    to: i64,
}

impl View<'_> {
    /// Whether the watch must have shown this change.
    pub fn shows(&self, change: &Change) -> bool {
        let filtered = match change.kind {
            EventKind::Put => self.request.no_put,
            EventKind::Delete => self.request.no_delete,
        };
        let start: &[u8] = if self.request.key.is_empty() { OPEN_END } else { &self.request.key };
        (self.from..=self.to).contains(&change.kv.mod_revision)
            && !filtered
            && in_range(&change.kv.key, start, &self.request.range_end)
    }
}

/// Collects what each watch has seen: from its start to its last event or notice.
pub(crate) fn views(records: &[Record]) -> Vec<View<'_>> {
    let mut views: BTreeMap<u64, View<'_>> = BTreeMap::new();
    let seen = |watch: u64, to: i64, views: &mut BTreeMap<u64, View<'_>>| {
        if let Some(view) = views.get_mut(&watch).filter(|view| view.from > 0) {
            view.to = view.to.max(to);
        }
    };
    for record in records {
        let What::Watch(watch) = &record.what else { continue };
        match watch {
            WatchRecord::Create { watch, request, .. } => {
                views.insert(*watch, View { request, from: request.start_revision, to: 0 });
            }
            WatchRecord::Created { watch, header } => {
                if let Some(view) = views.get_mut(watch).filter(|view| view.from == 0) {
                    view.from = header.revision + 1;
                }
            }
            WatchRecord::Events { watch, fragment, events, .. } => {
                let to = events.last().map_or(0, |event| event.kv.mod_revision);
                // The rest of a revision that was cut is still to come.
                seen(*watch, to - i64::from(*fragment), &mut views);
            }
            WatchRecord::Progress { watch: Some(watch), header, .. } => {
                seen(*watch, header.revision, &mut views);
            }
            _ => {}
        }
    }
    views.into_values().filter(|view| view.to > 0).collect()
}
