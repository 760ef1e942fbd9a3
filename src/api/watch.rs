//! `etcdserverpb.Watch`: many watchers on one bidirectional stream.
//!
//! One task a stream reads requests and writes responses, so the order on the wire is the order of its
//! decisions: a watcher's `created` precedes its events, and nothing follows its `canceled`. What is due is
//! taken from the [`Hub`] in portions; a client that does not read keeps this task at its
//! full channel, and the hub keeps a bounded amount for it.
//!
//! NB: the client's half-close does not end a stream; it goes on delivering (curl and the JSON gateway
//! rely on it). It ends when the client is gone, the member stops, or the leader is lost for three
//! election timeouts under `hasleader`.

use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, Kind, convert, fail, status, wants_leader};
use crate::command::KeyRange;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::runtime::Instant;
use crate::server::ServeError;
use crate::types::Revision;
use crate::watch::{Delivery, Hub, RegisterError, StreamId, WatchSpec};

/// How many responses wait for a client that reads slowly.
const RESPONSES_MAX: usize = 16;

/// How much is taken from the hub at a time.
const TAKE_BYTES: usize = 1 << 20;

/// How many leaderless election timeouts end a stream that demands a leader.
const LEADERLESS_TIMEOUTS: u32 = 3;

type Responses = mpsc::Sender<Result<pb::WatchResponse, Status>>;

/// A channel's receiver as the stream that tonic asks for.
pub(super) struct Receiver<T>(pub(super) mpsc::Receiver<T>);

impl<T> Stream for Receiver<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

#[tonic::async_trait]
impl Watch for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.admit(&request, Kind::Voter)?;
        let wants_leader = wants_leader(&request);
        let (responses, stream) = mpsc::channel(RESPONSES_MAX);
        let due = Arc::new(Notify::new());
        let id = self.hub().open_stream(due.clone());
        let session = Session { api: self.clone(), id, responses, due };
        let requests = request.into_inner();
        self.handle.clock().spawn("watch", Box::pin(session.run(requests, wants_leader)));
        Ok(Response::new(Box::pin(Receiver(stream))))
    }
}

impl Api {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.handle.hub().lock().expect("nobody panicked while holding the hub")
    }
}

/// One stream. Closing it in the hub is tied to its life, however that ends.
struct Session {
    api: Api,
    id: StreamId,
    responses: Responses,
    due: Arc<Notify>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.api.hub().close_stream(self.id);
    }
}

/// The client is gone.
struct Gone;

impl Session {
    async fn run(self, mut requests: Streaming<pb::WatchRequest>, wants_leader: bool) {
        let clock = self.api.handle.clock().clone();
        let interval = self.api.handle.limits().watch_progress_interval;
        // Spread by up to a tenth, so that streams opened together do not report together.
        let spread = clock.random_u64() % 1000;
        let interval = interval + interval.mul_f64(spread_fraction(spread));
        let mut next_progress = clock.now() + interval;
        let mut reading = true;
        let mut member = self.api.handle.watch_status();
        let mut leaderless_since: Option<Instant> = None;
        let patience = self.api.handle.limits().election_timeout * LEADERLESS_TIMEOUTS;
        loop {
            let now = clock.now();
            let mut wake = next_progress;
            if wants_leader {
                let leaderless = member.borrow_and_update().leader.is_none();
                leaderless_since = leaderless.then(|| leaderless_since.unwrap_or(now));
                if let Some(since) = leaderless_since {
                    if now - since >= patience {
                        let lost = Err(fail(ServeError::NoLeader));
                        let _ = self.responses.send(lost).await;
                        return;
                    }
                    wake = wake.min(since + patience);
                }
            }
            let done = tokio::select! {
                biased;
                () = self.responses.closed() => Err(Gone),
                request = requests.message(), if reading => match request {
                    Ok(Some(request)) => self.on_request(request).await,
                    Ok(None) => {
                        reading = false;
                        Ok(())
                    }
                    Err(_) => Err(Gone),
                },
                () = self.due.notified() => self.deliver().await,
                changed = member.changed() => {
                    if changed.is_err() || member.borrow().stopped.is_some() {
                        let stopped = Err(fail(ServeError::Stopped));
                        let _ = self.responses.send(stopped).await;
                        Err(Gone)
                    } else {
                        Ok(())
                    }
                }
                () = clock.sleep(wake - now) => {
                    if clock.now() >= next_progress {
                        next_progress = clock.now() + interval;
                        self.api.hub().progress_tick(self.id);
                        self.deliver().await
                    } else {
                        Ok(())
                    }
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        self.responses.send(Ok(response)).await.map_err(|_| Gone)
    }

    fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        self.api.header(revision)
    }

    async fn on_request(&self, request: pb::WatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => {
                self.api.hub().request_progress(self.id);
                self.deliver().await
            }
            None => {
                tracing::info!("ignored a watch request of no known kind");
                Ok(())
            }
        }
    }

    async fn create(&self, create: pb::WatchCreateRequest) -> Result<(), Gone> {
        let has = |filter: FilterType| create.filters.contains(&(filter as i32));
        let (no_put, no_delete) = (has(FilterType::Noput), has(FilterType::Nodelete));
        // No key means the least one, here alone.
        let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key };
        let spec = WatchSpec {
            range: KeyRange::from_wire(key, create.range_end),
            start: create.start_revision,
            id: create.watch_id,
            no_put,
            no_delete,
            progress_notify: create.progress_notify,
            prev_kv: create.prev_kv,
            fragment: create.fragment,
        };
        let (registered, revision) = {
            let mut hub = self.api.hub();
            (hub.register(self.id, spec), hub.revision())
        };
        let response = match registered {
            Ok(registered) => pb::WatchResponse {
                header: self.header(registered.revision),
                watch_id: registered.watch_id,
                created: true,
                ..pb::WatchResponse::default()
            },
            Err(error) => pb::WatchResponse {
                header: self.header(revision),
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: match error {
                    RegisterError::EmptyRange => "mvcc: watcher range is empty".to_owned(),
                    RegisterError::NegativeStart => status::COMPACTED.to_owned(),
                    RegisterError::DuplicateId => {
                        "mvcc: duplicate watch ID provided on the WatchStream".to_owned()
                    }
                },
                ..pb::WatchResponse::default()
            },
        };
        self.send(response).await
    }

    async fn cancel(&self, watch_id: i64) -> Result<(), Gone> {
        let (there, revision) = {
            let mut hub = self.api.hub();
            (hub.cancel(self.id, watch_id), hub.revision())
        };
        if !there {
            return Ok(());
        }
        let header = self.header(revision);
        let canceled =
            pb::WatchResponse { header, watch_id, canceled: true, ..pb::WatchResponse::default() };
        self.send(canceled).await
    }

    /// Sends everything that is due. Waits for the client's reading between portions, never with the
    /// hub locked.
    async fn deliver(&self) -> Result<(), Gone> {
        loop {
            let most = crate::buggify!("watch_takes_little", 1, TAKE_BYTES);
            let taken = self.api.hub().take(self.id, most);
            for delivery in taken.deliveries {
                self.deliver_one(delivery).await?;
            }
            if !taken.more {
                return Ok(());
            }
        }
    }

    async fn deliver_one(&self, delivery: Delivery) -> Result<(), Gone> {
        match delivery {
            Delivery::Events { watch_id, revision, events, prev_kv, fragment } => {
                let store = self.api.handle.reader().store();
                self.api.handle.metrics().events.add_len(events.len());
                let mut converted = Vec::with_capacity(events.len());
                for encoded in &events {
                    let event = encoded.event();
                    let prev = match prev_kv.then(|| store.previous(event)) {
                        // Compacted meanwhile: etcd leaves it out as well.
                        Some(Ok(prev)) => prev,
                        Some(Err(_)) | None => None,
                    };
                    converted.push(convert::event(event, prev));
                }
                let response = pb::WatchResponse {
                    header: self.header(revision),
                    watch_id,
                    events: converted,
                    ..pb::WatchResponse::default()
                };
                if fragment {
                    self.send_fragments(response).await
                } else {
                    self.send(response).await
                }
            }
            Delivery::Progress { watch_id, revision } => {
                let header = self.header(revision);
                self.send(pb::WatchResponse { header, watch_id, ..pb::WatchResponse::default() })
                    .await
            }
            Delivery::StreamProgress { revision } => {
                let header = self.header(revision);
                let report =
                    pb::WatchResponse { header, watch_id: -1, ..pb::WatchResponse::default() };
                self.send(report).await
            }
            Delivery::Compacted { watch_id, compact_revision } => {
                let header = self.header(Revision(0));
                self.send(pb::WatchResponse {
                    header,
                    watch_id,
                    canceled: true,
                    compact_revision: compact_revision.0,
                    ..pb::WatchResponse::default()
                })
                .await
            }
        }
    }

    /// Splits a response that is larger than a client's message may be; an event is never split.
    async fn send_fragments(&self, response: pb::WatchResponse) -> Result<(), Gone> {
        let most = self.api.handle.limits().request_bytes_max + (512 << 10);
        let most = crate::buggify!("watch_sends_each_event", 1, most);
        if response.encoded_len() < most || response.events.len() < 2 {
            return self.send(response).await;
        }
        let pb::WatchResponse { header, watch_id, events, .. } = response;
        let empty =
            pb::WatchResponse { header, watch_id, fragment: true, ..pb::WatchResponse::default() };
        let (mut part, mut bytes) = (empty.clone(), empty.encoded_len());
        for event in events {
            let more = event.encoded_len() + 8;
            if bytes + more >= most && !part.events.is_empty() {
                self.send(std::mem::replace(&mut part, empty.clone())).await?;
                bytes = empty.encoded_len();
                if crate::mutant!("M07") {
                    continue;
                }
            }
            bytes += more;
            part.events.push(event);
        }
        part.fragment = false;
        self.send(part).await
    }
}

/// Turns a draw of 0..1000 into a part of a tenth.
fn spread_fraction(draw: u64) -> f64 {
    f64::from(u16::try_from(draw).unwrap_or(0)) / 10_000.0
}
