//! `mainstay.internal.Peer`: what members ask of one another.
//!
//! Raft's messages go on to the transport's inbox; snapshots to [`crate::server::Incoming`]; what only a
//! leader can answer is answered by the same handle that serves this member's own clients.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::config::ETCD_VERSION;
use crate::proto::internal as wire;
use crate::proto::internal::peer_server::Peer;
use crate::runtime::Runtime;
use crate::server::{Event, Handle, Incoming, ServeError};
use crate::transport::Inbox;
use crate::transport::chunks::decode_chunk;
use crate::transport::grpc::{Back, GrpcTransport, serve_exchange};
use crate::types::{LeaseId, NodeId};

/// The service.
pub struct PeerApi<R: Runtime> {
    handle: Handle,
    transport: GrpcTransport<R>,
    inbox: Arc<dyn Inbox>,
    events: mpsc::UnboundedSender<Event>,
    stores: PathBuf,
}

impl<R: Runtime> PeerApi<R> {
    /// Makes the service.
    pub(crate) fn new(
        handle: Handle,
        transport: GrpcTransport<R>,
        inbox: Arc<dyn Inbox>,
        events: mpsc::UnboundedSender<Event>,
        stores: PathBuf,
    ) -> Self {
        Self { handle, transport, inbox, events, stores }
    }

    fn same_cluster(&self, cluster_id: u64) -> Result<(), Status> {
        if cluster_id != 0 && cluster_id != self.handle.cluster_id().0 {
            return Err(Status::failed_precondition("etcdserver: cluster ID mismatch"));
        }
        Ok(())
    }
}

fn fail(error: &ServeError) -> Status {
    status::status(error)
}

#[tonic::async_trait]
impl<R: Runtime> Peer for PeerApi<R> {
    type ExchangeStream = Back;

    async fn exchange(
        &self,
        request: Request<Streaming<wire::PeerBatch>>,
    ) -> Result<Response<Back>, Status> {
        serve_exchange(&self.transport, &self.inbox, request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotResult>, Status> {
        let mut chunks = request.into_inner();
        let mut incoming = Incoming::begin(
            self.transport.runtime(),
            self.stores.clone(),
            self.handle.cluster_id(),
            self.events.clone(),
        )
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
        let mut message = None;
        while let Some(chunk) = chunks.message().await? {
            let (chunk, envelope) =
                decode_chunk(chunk).map_err(|error| Status::invalid_argument(error.to_string()))?;
            message = message.or(envelope);
            incoming
                .take(chunk)
                .await
                .map_err(|error| Status::failed_precondition(error.to_string()))?;
        }
        let message =
            message.ok_or_else(|| Status::invalid_argument("a snapshot without a header"))?;
        incoming
            .finish(message)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(wire::SnapshotResult {
            outcome: wire::snapshot_result::Outcome::Installed as i32,
            applied_index: self.handle.status().applied.index.0,
            reason: String::new(),
        }))
    }

    async fn describe(
        &self,
        request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        self.same_cluster(request.into_inner().cluster_id)?;
        let (reader, state) = (self.handle.reader(), self.handle.status());
        let membership = reader.members();
        let members = membership.members().map(|member| wire::PeerMember {
            id: member.id.0,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.learner,
            store_id: membership.store_of(member.id).unwrap_or(0),
        });
        Ok(Response::new(wire::DescribeResponse {
            cluster_id: self.handle.cluster_id().0,
            member_id: self.handle.id().0,
            leader_id: state.leader.map_or(0, |leader| leader.0),
            applied_index: state.applied.index.0,
            version: ETCD_VERSION.to_owned(),
            cluster_version: membership.version().map(|v| v.to_string()).unwrap_or_default(),
            members: members.collect(),
        }))
    }

    async fn forward_lease_keep_alive(
        &self,
        request: Request<wire::ForwardLeaseKeepAliveRequest>,
    ) -> Result<Response<wire::ForwardLeaseKeepAliveResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(request.cluster_id)?;
        let ttl = self.handle.lease_renew_here(LeaseId(request.id)).await;
        let ttl = ttl.map_err(|error| fail(&error))?;
        Ok(Response::new(wire::ForwardLeaseKeepAliveResponse { ttl }))
    }

    async fn forward_lease_time_to_live(
        &self,
        request: Request<wire::ForwardLeaseTimeToLiveRequest>,
    ) -> Result<Response<wire::ForwardLeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(request.cluster_id)?;
        let id = LeaseId(request.id);
        let millis = self.handle.lease_remaining_here(id).await.map_err(|error| fail(&error))?;
        let found = millis.and_then(|ms| self.handle.reader().lease(id).map(|l| (ms, l)));
        let (ttl, granted_ttl) = found.map_or((-1, 0), |(millis, lease)| {
            (i64::try_from(millis / 1000).unwrap_or(i64::MAX), lease.granted_seconds)
        });
        let keys =
            if request.keys && ttl >= 0 { self.handle.reader().lease_keys(id) } else { Vec::new() };
        Ok(Response::new(wire::ForwardLeaseTimeToLiveResponse { ttl, granted_ttl, keys }))
    }

    async fn forward_member_promote(
        &self,
        request: Request<wire::ForwardMemberPromoteRequest>,
    ) -> Result<Response<wire::ForwardMemberPromoteResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(request.cluster_id)?;
        self.handle.promote_here(NodeId(request.id)).await.map_err(|error| fail(&error))?;
        Ok(Response::new(wire::ForwardMemberPromoteResponse {
            applied_index: self.handle.status().applied.index.0,
        }))
    }
}
