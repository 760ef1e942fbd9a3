//! `etcdserverpb.Lease`: grant, revoke, keep alive, ask, list.

use std::pin::Pin;

use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, Kind, fail};
use crate::command::{Op, Outcome};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::server::ServeError;
use crate::types::LeaseId;

/// What a grant costs of the quota; etcd's estimate.
const GRANT_COST_BYTES: u64 = 64;

#[tonic::async_trait]
impl Lease for Api {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let request = request.into_inner();
        self.within_quota(GRANT_COST_BYTES).await?;
        let ttl = if request.ttl > crate::lease::TTL_SECONDS_MAX {
            request.ttl
        } else {
            request.ttl.max(self.handle.limits().lease_ttl_min)
        };
        loop {
            let id = match request.id {
                0 => self.random_lease_id(),
                id => LeaseId(id),
            };
            match self.handle.propose(Op::LeaseGrant { id, ttl }).await {
                Ok(Outcome::LeaseGrant { id, ttl, revision }) => {
                    return Ok(Response::new(pb::LeaseGrantResponse {
                        header: self.header(revision),
                        id: id.0,
                        ttl,
                        error: String::new(),
                    }));
                }
                Ok(other) => return Err(Status::internal(format!("mainstay: {other:?}"))),
                // An id that we drew is taken already: draw another one.
                Err(ServeError::Refused(crate::command::Refusal::LeaseExists, _))
                    if request.id == 0 => {}
                Err(error) => return Err(fail(error)),
            }
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let id = LeaseId(request.into_inner().id);
        match self.handle.propose(Op::LeaseRevoke { id }).await.map_err(fail)? {
            Outcome::LeaseRevoke { revision } => {
                Ok(Response::new(pb::LeaseRevokeResponse { header: self.header(revision) }))
            }
            other => Err(Status::internal(format!("mainstay: {other:?}"))),
        }
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.admit(&request, Kind::Voter)?;
        let mut requests = request.into_inner();
        let (responses, stream) = mpsc::channel(16);
        let api = self.clone();
        self.handle.clock().spawn(
            "lease keep-alive",
            Box::pin(async move {
                loop {
                    let id = match requests.message().await {
                        Ok(Some(request)) => LeaseId(request.id),
                        // The client is done, or gone.
                        Ok(None) | Err(_) => return,
                    };
                    // The header is taken before the renewal, as in etcd.
                    let header = api.header_now();
                    let response = match api.handle.lease_renew(id).await {
                        Ok(ttl) => Ok(pb::LeaseKeepAliveResponse { header, id: id.0, ttl }),
                        Err(error) => Err(fail(error)),
                    };
                    let failed = response.is_err() || crate::buggify!("keep_alive_ends");
                    if responses.send(response).await.is_err() || failed {
                        return;
                    }
                }
            }),
        );
        Ok(Response::new(Box::pin(super::watch::Receiver(stream))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let request = request.into_inner();
        let id = LeaseId(request.id);
        let remaining = self.handle.lease_remaining(id).await.map_err(fail)?;
        // The leader's clock was asked; keys and grant are read here, no older than its answer.
        self.handle.read_barrier().await.map_err(fail)?;
        let reader = self.handle.reader();
        let found = remaining.and_then(|millis| reader.lease(id).map(|lease| (millis, lease)));
        let mut response = pb::LeaseTimeToLiveResponse {
            header: self.header_now(),
            id: id.0,
            ttl: -1,
            granted_ttl: 0,
            keys: Vec::new(),
        };
        if let Some((millis, lease)) = found {
            response.ttl = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
            response.granted_ttl = lease.granted_seconds;
            if request.keys {
                response.keys = reader.lease_keys(id);
            }
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let leases = self.handle.reader().leases();
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: self.header_now(),
            leases: leases.into_iter().map(|lease| pb::LeaseStatus { id: lease.id.0 }).collect(),
        }))
    }
}

impl Api {
    /// Draws a positive id of 63 bits.
    fn random_lease_id(&self) -> LeaseId {
        loop {
            let id = i64::try_from(self.handle.clock().random_u64() >> 1).expect("63 bits fit");
            if id != 0 {
                return LeaseId(id);
            }
        }
    }
}
