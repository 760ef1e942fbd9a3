//! A watch that outlives its connection.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use super::{Client, Error};
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::runtime::Runtime;

/// What is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchSpec {
    /// The key, or the first of a range.
    pub key: Bytes,
    /// The end of the range, as in a range request.
    pub range_end: Bytes,
    /// The first revision, 0 for what comes next.
    pub revision: i64,
    /// Whether an event carries the state before it.
    pub prev_kv: bool,
    /// Whether the server tells its position while nothing happens.
    pub progress_notify: bool,
}

/// Whether the server means it. A member without a leader ends its watches and says so; whoever watches
/// is to learn of it, as with etcd's client.
fn is_final(status: &tonic::Status) -> bool {
    !matches!(status.code(), Code::Unavailable | Code::Internal)
        || status.message() == "etcdserver: no leader"
}

/// The pause before a broken watch is made again.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// One watch. Invariant: between two connections it goes on at `spec.revision`, the first revision that
/// was not handed out, so nothing is lost and nothing comes twice.
pub struct Watcher<R: Runtime> {
    client: Client<R>,
    spec: WatchSpec,
    stream: Option<Stream>,
    /// Whether the server's first answer came; the answers of a resumed watch hide theirs.
    created: bool,
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl<R: Runtime> Client<R> {
    /// Begins a watch. Nothing is sent before the first `next`.
    #[must_use]
    pub fn watch(&self, spec: WatchSpec) -> Watcher<R> {
        Watcher { client: self.clone(), spec, stream: None, created: false }
    }
}

impl<R: Runtime> Watcher<R> {
    /// Returns the next answer: the creation, events, progress or the end (`canceled`). A watch whose
    /// connection breaks is made again where it was. Safe to abandon while it waits.
    ///
    /// # Errors
    /// When the server refuses for good.
    pub async fn next(&mut self) -> Result<WatchResponse, Error> {
        loop {
            let result = match &mut self.stream {
                Some(stream) => stream.answers.message().await,
                None => match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(Some(answer)) => {
                    self.advance(&answer);
                    if answer.created
                        && !answer.canceled
                        && std::mem::replace(&mut self.created, true)
                    {
                        continue;
                    }
                    return Ok(answer);
                }
                // Ended without an error: the server is going.
                Ok(None) => {}
                Err(status) if is_final(&status) => return Err(Error::of(status)),
                Err(_) => {}
            }
            self.stream = None;
            self.client.move_on();
            self.client.runtime().sleep(RESUME_PAUSE).await;
        }
    }

    /// Asks the server to tell its position.
    pub async fn request_progress(&mut self) {
        if let Some(stream) = &self.stream {
            let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
            // A stream that is gone is noticed by `next`.
            let _ = stream.requests.send(WatchRequest { request_union: Some(request) }).await;
        }
    }

    fn advance(&mut self, answer: &WatchResponse) {
        let after = |revision: i64| revision.saturating_add(1);
        if let Some(last) = answer.events.last() {
            let revision = last.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            // NB: of a revision in pieces the rest is still to come; a break there resumes after it,
            // as etcd's client does. This client never asks for pieces.
            self.spec.revision = self.spec.revision.max(after(revision));
        } else if let Some(header) = &answer.header
            && !answer.canceled
            && (!answer.created || self.spec.revision == 0)
        {
            // Creation without a start, and progress: all up to the header's revision is known.
            self.spec.revision = self.spec.revision.max(after(header.revision));
        }
    }

    async fn open(&self) -> Result<Stream, tonic::Status> {
        let channel = self.client.connected().await;
        let (requests, receiver) = mpsc::channel(8);
        let create = WatchCreateRequest {
            key: self.spec.key.clone(),
            range_end: self.spec.range_end.clone(),
            start_revision: self.spec.revision,
            progress_notify: self.spec.progress_notify,
            prev_kv: self.spec.prev_kv,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The channel is empty and its receiver at hand.
        let _ = requests.send(create).await;
        let mut request = Request::new(ReceiverStream::new(receiver));
        // A member cut off from its leader ends the stream, instead of being silent.
        request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
        let answers = WatchClient::new(channel)
            .max_decoding_message_size(self.client.shared.receive_bytes_max)
            .watch(request)
            .await?;
        Ok(Stream { requests, answers: answers.into_inner() })
    }
}
