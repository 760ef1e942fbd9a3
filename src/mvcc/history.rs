//! What happened, in order: the past for watchers that are behind, and the state before an event.
//!
//! The rows are the history. A batch starts at a revision and holds whole revisions only, so a watcher
//! that takes batch after batch sees each revision once and unbroken.
//!
//! Invariants
//! - What a batch holds is everything that happened from its start up to before `next`, at least one
//!   revision unless it is level with the store.
//! - Above the compact revision every revision has rows and every row its place; a hole is damage. At
//!   the compact revision itself all rows are still there (each is the newest of its key, or a
//!   tombstone, which stays until the next compaction for just this reason).
//! - The compact revision is that of the batch's own view: whoever starts below it is told so, and what
//!   a batch holds cannot have been thinned out by a compaction that came while it was read.

use std::ops::Bound;

use super::codec::{self, Body};
use super::frame::{Copier, Damage, Frame, decode_row};
use super::store::Store;
use crate::command::{Event, KeyValue, Refusal, RowId};
use crate::mutant;
use crate::storage::{Data, Table};
use crate::types::Revision;

/// How much one batch of history may hold. A revision that begins within the budget is in it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Revisions, at most.
    pub revisions: usize,
    /// Bytes of keys and values after which no further revision is begun.
    pub bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { revisions: 1000, bytes: 1 << 20 }
    }
}

/// A piece of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryBatch {
    /// The events by revision, ascending, whole revisions.
    pub revisions: Vec<(Revision, Vec<Event>)>,
    /// Where to go on; everything below it is in this batch or before it.
    pub next: Revision,
    /// The store's revision when the batch was read; the batch is level with it if `next` is beyond.
    pub upto: Revision,
}

impl Store {
    /// Reads history from a revision on.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] with the compact revision if `from` is below it; [`Refusal::Damaged`].
    pub fn history(&self, from: Revision, budget: Budget) -> Result<HistoryBatch, Refusal> {
        let entered = self.enter();
        let upto = entered.revision;
        if let Some(compact) = entered.compact
            && from < compact
            && !mutant!("E17")
        {
            return Err(Refusal::Compacted(compact));
        }
        let mut batch = HistoryBatch { revisions: Vec::new(), next: from, upto };
        let start = from.max(Revision(1));
        if start > upto {
            return Ok(batch);
        }
        let mut copier = Copier::default();
        let from = codec::row_key(RowId::new(start, 0));
        let rows = entered.view.scan(Table::Rows, Bound::Included(&from), Bound::Unbounded);
        let solid = entered.compact.unwrap_or_default().max(Revision(1));
        for (key, stored) in rows {
            let read = next_event(&key, stored, &mut copier);
            let (id, event) = read.map_err(|damage| self.damaged(damage))?;
            match batch.revisions.last_mut() {
                Some((main, events)) if *main == id.main => events.push(event),
                _ => {
                    let most = crate::buggify!("history_gives_one_revision", 1, budget.revisions);
                    if batch.revisions.len() >= most.max(1)
                        || (copier.bytes > budget.bytes && !batch.revisions.is_empty())
                    {
                        batch.next = id.main;
                        return Ok(batch);
                    }
                    batch.revisions.push((id.main, vec![event]));
                    copier.bytes = copier.bytes.max(1);
                }
            }
            if let Err(damage) = check_place(&batch, start, solid) {
                return Err(self.damaged(damage));
            }
        }
        let last = batch.revisions.last().map(|(main, _)| *main);
        if upto > solid && last != Some(upto) {
            return Err(self.damaged(Damage::MissingRevision(upto)));
        }
        batch.next = upto.next();
        Ok(batch)
    }

    /// Reads what a key was before an event: its state at the revision before the event's. `None` if the
    /// event creates the key, if the key did not live then, and when that revision is compacted.
    ///
    /// # Errors
    /// [`Refusal::Damaged`].
    pub fn previous(&self, event: &Event) -> Result<Option<KeyValue>, Refusal> {
        if event.is_create() {
            return Ok(None);
        }
        let before = event.revision().prev().unwrap_or_default();
        let entered = self.enter();
        if entered.compact.is_some_and(|compact| before < compact) {
            return Ok(None);
        }
        let frame = entered.frame(before);
        previous_in(&frame, event).map_err(|damage| self.damaged(damage))
    }
}

fn previous_in(frame: &Frame<'_, '_>, event: &Event) -> Result<Option<KeyValue>, Damage> {
    let mut prev = event.prev();
    // It creates nothing, so there was something.
    let mut lived = true;
    while let Some(id) = prev {
        let Some(data) = frame.row_data(id) else {
            frame.compacted_away(id, lived)?;
            return Ok(None);
        };
        let row = decode_row(id, data.as_slice())?;
        if id.main == event.revision() {
            // The same transaction wrote the key before; watchers are shown the state before it all.
            prev = row.prev;
            lived = row.follows_living().ok_or(Damage::Row(id))?;
        } else if row.tombstone {
            return Ok(None);
        } else {
            return Copier::default().key_value(id, data).map(Some);
        }
    }
    Ok(None)
}

/// Reads a row as an event.
fn next_event(key: &[u8], stored: Data<'_>, copier: &mut Copier) -> Result<(RowId, Event), Damage> {
    let id = codec::parse_row_key(key).ok_or(Damage::Meta("row key"))?;
    let row = decode_row(id, stored.as_slice())?;
    let (prev, sub) = (row.prev, id.sub);
    let event = if row.tombstone {
        let body = Body::parse(row.body).ok_or(Damage::Row(id))?;
        Event::Delete { key: copier.keep(body.key), revision: id.main, sub, prev }
    } else {
        Event::Put { kv: copier.key_value(id, stored)?, sub, prev }
    };
    Ok((id, event))
}

/// Checks that the batch's last event is where it must be: above the compact revision, revisions follow
/// one another and their rows count from 0.
fn check_place(batch: &HistoryBatch, start: Revision, solid: Revision) -> Result<(), Damage> {
    let (main, events) = batch.revisions.last().expect("an event was just added");
    if *main <= solid {
        return Ok(());
    }
    let before = match batch.revisions.len().checked_sub(2) {
        Some(at) => batch.revisions[at].0.max(solid),
        None => solid.max(start.prev().unwrap_or_default()),
    };
    if before.next() != *main && events.len() == 1 {
        return Err(Damage::MissingRevision(before.next()));
    }
    let sub = events.last().expect("an event was just added").sub();
    let place = u32::try_from(events.len() - 1).expect("an entry has fewer changes");
    if sub != place {
        return Err(Damage::MissingRow(RowId::new(*main, place)));
    }
    Ok(())
}
