//! Snapshots between members.
use std::marker::PhantomData;

use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::event::Event;
use crate::proto::internal as wire;
use crate::raft::{Envelope, SnapshotMeta, SnapshotRequest};
use crate::runtime::Runtime;

pub(crate) struct Arrived {
    pub(crate) envelope: Envelope,
}
pub(crate) struct Opened {
    pub(crate) meta: SnapshotMeta,
}
pub(crate) struct Snapshots<R> {
    _r: PhantomData<R>,
}
impl<R: Runtime> Snapshots<R> {
    pub(crate) fn new() -> Self {
        Self { _r: PhantomData }
    }
    pub(crate) fn stage(&mut self, arrived: Arrived) -> Envelope {
        arrived.envelope
    }
}
pub(crate) struct Incoming<R> {
    _r: R,
    _e: mpsc::UnboundedSender<Event>,
}
impl<R: Runtime> Incoming<R> {
    pub(crate) fn new(r: R, e: mpsc::UnboundedSender<Event>) -> Self {
        Self { _r: r, _e: e }
    }
    pub(crate) async fn receive(
        self,
        _chunks: Streaming<wire::SnapshotChunk>,
    ) -> Result<wire::SnapshotResult, Status> {
        Err(Status::unimplemented("snapshots"))
    }
}
impl<R: Runtime, T: crate::transport::Transport> super::Driver<R, T> {
    pub(super) fn snapshot_opened(&mut self, _opened: Opened) {}
    pub(super) fn install(&mut self, _meta: SnapshotMeta) {}
    pub(super) fn send_snapshot(&mut self, request: SnapshotRequest) {
        self.node.step(crate::raft::Input::SnapshotSent {
            to: request.to,
            ok: false,
            at: request.at_least,
        });
    }
}
