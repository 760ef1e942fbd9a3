//! What goes into the hub and what comes out, as plain data.

use std::sync::Arc;

use super::event::Encoded;
use crate::command::KeyRange;
use crate::types::Revision;

/// What a client wants to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSpec {
    /// Which keys.
    pub range: KeyRange,
    /// From which revision on; 0 for whatever comes next. It may lie in the future.
    pub start: i64,
    /// The id the client wants, any number; 0 lets the hub choose.
    pub id: i64,
    /// Leaves out puts.
    pub no_put: bool,
    /// Leaves out deletes.
    pub no_delete: bool,
    /// Wants to know now and then how far the store is when nothing happens.
    pub progress_notify: bool,
    /// Wants the state before each change. Only carried along for the API.
    pub prev_kv: bool,
    /// Can put together large deliveries from pieces. Only carried along for the API.
    pub fragment: bool,
}

impl WatchSpec {
    /// Watches a range from now on, without any option.
    #[cfg(test)]
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            start: 0,
            id: 0,
            no_put: false,
            no_delete: false,
            progress_notify: false,
            prev_kv: false,
            fragment: false,
        }
    }
}

/// A watcher exists now. The client is told so before anything that [`Delivery`] brings for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id on its stream.
    pub watch_id: i64,
    /// The revision at which it was registered.
    pub revision: Revision,
}

/// Why there is no watcher. In each case etcd answers «created and canceled» with watch id −1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// No key can be in the range.
    #[error("the watched range is empty")]
    EmptyRange,
    /// The start revision is negative: answered as compacted, with compact revision 0.
    #[error("the start revision is negative")]
    NegativeStart,
    /// The stream has a watcher of that id.
    #[error("the watch id is in use on this stream")]
    DuplicateId,
}

/// One message for the client of a stream, in the order of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Events of one or more whole revisions for one watcher.
    Events {
        /// Whose.
        watch_id: i64,
        /// The revision for the header: not before the last event.
        revision: Revision,
        /// The events, ascending.
        events: Vec<Arc<Encoded>>,
        /// Whether the client wants previous values with them.
        prev_kv: bool,
        /// Whether the client takes large deliveries in pieces.
        fragment: bool,
    },
    /// One watcher has been given everything up to a revision.
    Progress {
        /// Whose.
        watch_id: i64,
        /// The revision.
        revision: Revision,
    },
    /// Every watcher of the stream has been given everything up to a revision (watch id −1 on the wire).
    StreamProgress {
        /// The revision.
        revision: Revision,
    },
    /// History that the watcher needed is gone; nothing more comes. The watcher stays until its client
    /// cancels it. (On the wire: canceled, header revision 0.)
    Compacted {
        /// Whose.
        watch_id: i64,
        /// From where on there is history.
        compact_revision: Revision,
    },
}

/// What [`Hub::take`](super::Hub::take) returns.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Taken {
    /// The messages, in order.
    pub deliveries: Vec<Delivery>,
    /// There is more already: take again before waiting to be woken.
    pub more: bool,
}

/// How the hub tells someone that there is work. Called with the hub locked: it must only leave a note.
pub trait Wake: Send + Sync {
    /// Leaves the note. Several may melt into one.
    fn wake(&self);
}

impl Wake for tokio::sync::Notify {
    fn wake(&self) {
        self.notify_one();
    }
}
