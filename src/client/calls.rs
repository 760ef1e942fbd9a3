//! The unary calls, one method each: what they are called, and whether they may be sent again.

use std::time::Duration;

use prost::Message;
use tonic::codegen::tokio_stream::StreamExt;
use tonic::{Request, Status};

use super::{Client, Effect, Error};
use crate::net::Channel;
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::*;
use crate::runtime::Runtime;

/// Wraps a message with its deadline, so that the server can give up when nobody waits any more.
fn bounded<T>(message: T, limit: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    request
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $service:ident($request:ty) -> $response:ty, $effect:ident;)*) => {
        impl<R: Runtime> Client<R> {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// When the server refuses, no answer comes, or `limit` has passed.
            pub async fn $name(
                &self,
                request: $request,
                limit: Option<Duration>,
            ) -> Result<$response, Error> {
                self.check_size(&request)?;
                self.run(Effect::$effect, limit, |channel: Channel<R>| {
                    let mut client = $service::new(channel)
                        .max_encoding_message_size(usize::MAX)
                        .max_decoding_message_size(self.shared.receive_bytes_max);
                    let request = bounded(request.clone(), limit);
                    async move { client.$name(request).await }
                })
                .await
            }
        )*}
    };
}

calls! {
    /// Reads keys.
    range = KvClient(RangeRequest) -> RangeResponse, Reads;
    /// Writes a key.
    put = KvClient(PutRequest) -> PutResponse, Writes;
    /// Deletes keys.
    delete_range = KvClient(DeleteRangeRequest) -> DeleteRangeResponse, Writes;
    /// Runs a transaction.
    txn = KvClient(TxnRequest) -> TxnResponse, Writes;
    /// Drops old revisions.
    compact = KvClient(CompactionRequest) -> CompactionResponse, Writes;
    /// Makes a lease.
    lease_grant = LeaseClient(LeaseGrantRequest) -> LeaseGrantResponse, Writes;
    /// Ends a lease and deletes its keys.
    lease_revoke = LeaseClient(LeaseRevokeRequest) -> LeaseRevokeResponse, Writes;
    /// Asks how long a lease has left.
    lease_time_to_live = LeaseClient(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse, Reads;
    /// Lists the leases.
    lease_leases = LeaseClient(LeaseLeasesRequest) -> LeaseLeasesResponse, Reads;
    /// Lists the members.
    member_list = ClusterClient(MemberListRequest) -> MemberListResponse, Reads;
    /// Adds a member.
    member_add = ClusterClient(MemberAddRequest) -> MemberAddResponse, Writes;
    /// Removes a member.
    member_remove = ClusterClient(MemberRemoveRequest) -> MemberRemoveResponse, Writes;
    /// Changes a member's peer URLs.
    member_update = ClusterClient(MemberUpdateRequest) -> MemberUpdateResponse, Writes;
    /// Makes a learner a voter.
    member_promote = ClusterClient(MemberPromoteRequest) -> MemberPromoteResponse, Writes;
    /// Asks the member that answers how it is.
    status = MaintenanceClient(StatusRequest) -> StatusResponse, Reads;
    /// Asks the member that answers for the hash of its keys.
    hash_kv = MaintenanceClient(HashKvRequest) -> HashKvResponse, Reads;
    /// Reads, raises or clears alarms.
    alarm = MaintenanceClient(AlarmRequest) -> AlarmResponse, Writes;
    /// Hands leadership over.
    move_leader = MaintenanceClient(MoveLeaderRequest) -> MoveLeaderResponse, Writes;
}

impl<R: Runtime> Client<R> {
    /// Refuses a message that is too large to be sent, in grpc-go's words. NB: tonic would notice only
    /// while it sends, and break the stream without a word of why.
    fn check_size(&self, message: &impl Message) -> Result<(), Error> {
        let (size, limit) = (message.encoded_len(), self.shared.send_bytes_max);
        if size <= limit {
            return Ok(());
        }
        let text = format!("trying to send message larger than max ({size} vs. {limit})");
        Err(Error::Status(Status::resource_exhausted(text)))
    }

    /// Reads keys by the streaming call, and puts the pieces together.
    ///
    /// # Errors
    /// When the server refuses, no answer comes, or `limit` has passed. Nothing is sent twice.
    pub async fn range_stream(
        &self,
        request: RangeRequest,
        limit: Option<Duration>,
    ) -> Result<RangeResponse, Error> {
        self.run(Effect::Writes, limit, |channel: Channel<R>| {
            let mut client =
                KvClient::new(channel).max_decoding_message_size(self.shared.receive_bytes_max);
            let request = bounded(request.clone(), limit);
            async move {
                let mut pieces = client.range_stream(request).await?.into_inner();
                let mut whole = RangeResponse::default();
                while let Some(piece) = pieces.next().await {
                    let Some(piece) = piece?.range_response else { continue };
                    // The last word on header, count and more is the last piece's.
                    whole.header = piece.header.or(whole.header);
                    whole.more = piece.more;
                    whole.count = piece.count.max(whole.count);
                    whole.kvs.extend(piece.kvs);
                }
                Ok(tonic::Response::new(whole))
            }
        })
        .await
    }
}
