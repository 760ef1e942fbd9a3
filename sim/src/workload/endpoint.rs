//! A client machine's way to the members: one channel each, and the generated clients on it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mainstay::net::tls::{ClientTls, ClientTlsOptions, Platform};
use mainstay::net::{Channel, ChannelOptions};
use mainstay::proto::etcdserverpb as pb;
use mainstay::runtime::{Address, Runtime as _};
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Code, Status};

use checker::op::{Operation, Reply};

use super::wire;
use crate::runtime::SimRuntime;
use crate::time::within;

/// The port that members serve clients on.
pub const CLIENT_PORT: u16 = 2379;
/// The port on which they answer probes without TLS.
pub const PROBE_PORT: u16 = 2381;

/// Requests for a stream, from a queue.
pub struct Requests<T>(mpsc::UnboundedReceiver<T>);

impl<T> Requests<T> {
    /// Makes the queue and the stream of what is put in.
    pub fn new() -> (mpsc::UnboundedSender<T>, Self) {
        let (send, receive) = mpsc::unbounded_channel();
        (send, Self(receive))
    }
}

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// How an operation went.
pub enum Answer {
    /// It happened.
    Ok(Reply),
    /// It surely did not.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

/// A client machine.
#[derive(Clone)]
pub struct Endpoint {
    runtime: SimRuntime,
    tls: Option<Arc<ClientTls>>,
    channels: BTreeMap<String, Channel<SimRuntime>>,
}

const MESSAGE_MAX: usize = 64 << 20;

impl Endpoint {
    /// Makes a client that knows no member yet.
    pub fn new(runtime: SimRuntime, tls: Option<ClientTlsOptions>) -> Self {
        let load = |options| {
            ClientTls::load(options, Platform::of(&runtime))
                .expect("the run's certificates are good")
        };
        let tls = tls.map(load).map(Arc::new);
        Self { runtime, tls, channels: BTreeMap::new() }
    }

    fn channel(&mut self, member: &str) -> Channel<SimRuntime> {
        if let Some(channel) = self.channels.get(member) {
            return channel.clone();
        }
        let mut options = ChannelOptions::new(Address::tcp(member, CLIENT_PORT));
        options.http2.keepalive_interval = Duration::from_secs(10);
        options.http2.keepalive_timeout = Duration::from_secs(5);
        options.tls.clone_from(&self.tls);
        let channel = Channel::new(&self.runtime, options);
        self.channels.insert(member.to_owned(), channel.clone());
        channel
    }

    /// Returns the key-value client for a member.
    pub fn kv(&mut self, member: &str) -> KvClient<Channel<SimRuntime>> {
        KvClient::new(self.channel(member)).max_decoding_message_size(MESSAGE_MAX)
    }

    /// Returns the watch client for a member.
    pub fn watch(&mut self, member: &str) -> WatchClient<Channel<SimRuntime>> {
        WatchClient::new(self.channel(member)).max_decoding_message_size(MESSAGE_MAX)
    }

    /// Returns the lease client for a member.
    pub fn lease(&mut self, member: &str) -> LeaseClient<Channel<SimRuntime>> {
        LeaseClient::new(self.channel(member))
    }

    /// Returns the membership client for a member.
    pub fn cluster(&mut self, member: &str) -> ClusterClient<Channel<SimRuntime>> {
        ClusterClient::new(self.channel(member))
    }

    /// Returns the maintenance client for a member.
    pub fn maintenance(&mut self, member: &str) -> MaintenanceClient<Channel<SimRuntime>> {
        MaintenanceClient::new(self.channel(member))
    }

    /// Asks for a path over HTTP/1.1, and returns the answer's status and body.
    ///
    /// # Errors
    /// `InvalidData` for what is no answer; anything else if it did not come whole.
    pub async fn get(&self, member: &str, port: u16, target: &str) -> io::Result<(u16, String)> {
        let mut stream = self.runtime.connect(&Address::tcp(member, port)).await?;
        let ask = format!("GET {target} HTTP/1.1\r\nHost: {member}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        read_answer(&answer)
    }

    /// Sends an operation to a member and waits for its answer, but not for ever.
    pub async fn call(&mut self, member: &str, op: &Operation, patience: Duration) -> Answer {
        match within(patience, self.send(member, op)).await {
            Some(Ok(reply)) => Answer::Ok(reply),
            Some(Err(status)) => judge(op, &status),
            None => Answer::Unknown("no answer in time".to_owned()),
        }
    }

    async fn send(&mut self, member: &str, op: &Operation) -> Result<Reply, Status> {
        let mut kv = self.kv(member);
        match op {
            Operation::Put(put) => Ok(wire::put_reply(kv.put(wire::put(put)).await?.get_ref())),
            Operation::Range(range) => {
                Ok(wire::range_reply(kv.range(wire::range(range)).await?.get_ref()))
            }
            Operation::DeleteRange(delete) => {
                let reply = kv.delete_range(wire::delete_range(delete)).await?;
                Ok(wire::delete_range_reply(reply.get_ref()))
            }
            Operation::Txn(txn) => Ok(wire::txn_reply(kv.txn(wire::txn(txn)).await?.get_ref())),
            Operation::Compact(compact) => {
                let (revision, physical) = (compact.revision, compact.physical);
                let reply = kv.compact(pb::CompactionRequest { revision, physical }).await?;
                Ok(wire::compact_reply(reply.get_ref()))
            }
            Operation::LeaseGrant(grant) => {
                let request = pb::LeaseGrantRequest { id: grant.id, ttl: grant.ttl };
                let reply = self.lease(member).lease_grant(request).await?;
                Ok(wire::grant_reply(reply.get_ref()))
            }
            Operation::LeaseRevoke(revoke) => {
                let request = pb::LeaseRevokeRequest { id: revoke.id };
                let reply = self.lease(member).lease_revoke(request).await?;
                Ok(wire::revoke_reply(reply.get_ref()))
            }
            Operation::LeaseKeepAlive(keep) => {
                let (send, requests) = Requests::new();
                let _ = send.send(pb::LeaseKeepAliveRequest { id: keep.id });
                let mut replies = self.lease(member).lease_keep_alive(requests).await?.into_inner();
                let reply = replies.message().await?;
                reply
                    .map(|reply| wire::keep_alive_reply(&reply))
                    .ok_or_else(|| Status::unavailable("the stream ended"))
            }
            Operation::LeaseTimeToLive(question) => {
                let request = pb::LeaseTimeToLiveRequest { id: question.id, keys: question.keys };
                let reply = self.lease(member).lease_time_to_live(request).await?;
                Ok(wire::time_to_live_reply(reply.get_ref()))
            }
        }
    }
}

fn read_answer(bytes: &[u8]) -> io::Result<(u16, String)> {
    let strange = || {
        let text = String::from_utf8_lossy(bytes);
        io::Error::new(io::ErrorKind::InvalidData, format!("what is no answer: {text:?}"))
    };
    let text = std::str::from_utf8(bytes).map_err(|_| strange())?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let (status, length): (u16, usize) = status.zip(length).ok_or_else(strange)?;
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Err(io::ErrorKind::UnexpectedEof.into()),
        std::cmp::Ordering::Equal => Ok((status, body.to_owned())),
        std::cmp::Ordering::Greater => Err(strange()),
    }
}

/// Says whether an error is that no connection could be made.
pub fn is_unreachable(text: &str) -> bool {
    text.contains("transport: dial ") && text.contains("connection refused")
}

/// What a failure says of whether the operation happened.
fn judge(op: &Operation, status: &Status) -> Answer {
    let text = format!("{:?}: {}", status.code(), status.message());
    // A refusal by the state machine, or before anything was proposed. Everything else may have been
    // proposed before it failed.
    let refused = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unimplemented => true,
        Code::Unknown => status.message().contains("too many requests"),
        // There was no connection to send it on.
        Code::Unavailable => is_unreachable(status.message()),
        _ => false,
    };
    let has_no_effect = matches!(op, Operation::Range(_) | Operation::LeaseTimeToLive(_));
    if refused || has_no_effect { Answer::Refused(text) } else { Answer::Unknown(text) }
}
