//! One of the two servers: the process, its connection, its watch streams; a request in, an answer out.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use mainstay::proto::etcdserverpb::{
    self as pb, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};

use super::request::{Answer, Error, Level, Request};
use crate::channel::Channel;
use crate::process::{Plan, Process};

/// The longest wait for any one answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The id of the watcher that every stream begins with; it sees the puts that part the run.
const SENTINEL: i64 = 1 << 50;

/// One server and everything that is connected to it.
pub struct Side {
    /// How messages call it.
    pub name: String,
    /// Its version, as `Status` tells.
    pub version: (u32, u32, u32),
    plan: Plan,
    process: Option<Process>,
    connected: Option<Connected>,
    streams: usize,
}

struct Connected {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    streams: Vec<Stream>,
    /// Progress is told before the events it promises: a mistake of etcd before 3.4.25 and 3.5.8.
    patient: bool,
    beats: mpsc::UnboundedSender<pb::LeaseKeepAliveRequest>,
    beaten: Streaming<pb::LeaseKeepAliveResponse>,
}

impl Side {
    /// Starts the server with its data in `directory` and opens `streams` watch streams.
    pub async fn start(
        role: &str,
        binary: &Path,
        directory: &Path,
        extra: &[String],
        streams: usize,
    ) -> Result<Self> {
        let plan = Plan::single(binary, directory, extra)?;
        let mut side = Self {
            name: role.to_owned(),
            version: (0, 0, 0),
            plan,
            process: None,
            connected: None,
            streams,
        };
        side.connect().await.with_context(|| format!("the {role}"))?;
        let maintenance = &mut side.connected()?.maintenance;
        let text = maintenance.status(pb::StatusRequest {}).await?.into_inner().version;
        let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        side.version = (next(), next(), next());
        side.name = format!("{role} ({} {text})", binary.display());
        Ok(side)
    }

    async fn connect(&mut self) -> Result<()> {
        let (process, _) = self.plan.start_and_wait(Duration::from_secs(30)).await?;
        self.process = Some(process);
        let channel = self.plan.endpoint.connect(Duration::from_secs(5)).await?;
        let limit = usize::MAX;
        let (beats, receiver) = mpsc::unbounded_channel();
        let mut lease = LeaseClient::new(channel.clone());
        // The reply's headers come with its first message, so the first beat goes ahead.
        beats.send(pb::LeaseKeepAliveRequest { id: i64::MAX })?;
        let mut beaten =
            lease.lease_keep_alive(UnboundedReceiverStream::new(receiver)).await?.into_inner();
        beaten.message().await?;
        let mut streams = Vec::new();
        for _ in 0..self.streams {
            streams.push(Stream::open(channel.clone()).await?);
        }
        self.connected = Some(Connected {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(limit),
            lease,
            maintenance: MaintenanceClient::new(channel),
            streams,
            patient: self.version < (3, 5, 8),
            beats,
            beaten,
        });
        Ok(())
    }

    fn connected(&mut self) -> Result<&mut Connected> {
        self.connected.as_mut().ok_or_else(|| anyhow!("not connected"))
    }

    /// Kills the server without warning and starts it on the same data. Its streams are new ones.
    pub async fn crash(&mut self) -> Result<()> {
        self.connected = None;
        self.process = None;
        self.connect().await.with_context(|| format!("{} after kill -9", self.name))
    }

    /// Asks; what is wrong with the connection is an answer, too.
    pub async fn ask(&mut self, request: &Request) -> Answer {
        let connected = self.connected.as_mut().expect("connected between crashes");
        match timeout(PATIENCE, connected.ask(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Error(error),
            Err(_) => Answer::Error(Error {
                code: Code::DeadlineExceeded,
                message: format!("no answer within {PATIENCE:?}"),
            }),
        }
    }

    /// The last lines of the server's log.
    pub fn last_words(&self) -> String {
        self.process.as_ref().map(Process::last_words).unwrap_or_default()
    }
}

impl Connected {
    async fn ask(&mut self, request: &Request) -> Result<Answer, Error> {
        Ok(match request.clone() {
            Request::Put(put) => Answer::Put(self.kv.put(put).await?.into_inner()),
            Request::Range(range) => Answer::Range(self.kv.range(range).await?.into_inner()),
            Request::RangeStream(range) => self.range_stream(range).await?,
            Request::DeleteRange(delete) => {
                Answer::DeleteRange(self.kv.delete_range(delete).await?.into_inner())
            }
            Request::Txn(txn) => Answer::Txn(self.kv.txn(txn).await?.into_inner()),
            Request::Compact(compact) => {
                Answer::Compact(self.kv.compact(compact).await?.into_inner())
            }
            Request::LeaseGrant(grant) => {
                Answer::LeaseGrant(self.lease.lease_grant(grant).await?.into_inner())
            }
            Request::LeaseRevoke(revoke) => {
                Answer::LeaseRevoke(self.lease.lease_revoke(revoke).await?.into_inner())
            }
            Request::LeaseKeepAlive(beat) => {
                let closed = || Error { code: Code::Unknown, message: "the stream ended".into() };
                self.beats.send(beat).map_err(|_| closed())?;
                Answer::LeaseKeepAlive(self.beaten.message().await?.ok_or_else(closed)?)
            }
            Request::LeaseTimeToLive(ask) => {
                Answer::LeaseTimeToLive(self.lease.lease_time_to_live(ask).await?.into_inner())
            }
            Request::LeaseLeases => {
                let answer = self.lease.lease_leases(pb::LeaseLeasesRequest {}).await?;
                Answer::LeaseLeases(answer.into_inner())
            }
            Request::HashKv(hash) => {
                Answer::HashKv(self.maintenance.hash_kv(hash).await?.into_inner())
            }
            Request::Alarms => {
                let get = pb::AlarmRequest::default();
                Answer::Alarms(self.maintenance.alarm(get).await?.into_inner())
            }
            Request::WatchCreate { stream, compacted, request } => {
                self.streams[stream].create(request, compacted).await
            }
            Request::WatchCancel { stream, watch } => self.streams[stream].cancel(watch).await,
            Request::WatchLevel { streams, revision, .. } => {
                // Watchers of the last stream may begin in the future, and then no progress is told there.
                let last = self.streams.len() - 1;
                let all = streams.iter().map(|&stream| {
                    self.streams[stream].level(revision, stream != last, self.patient)
                });
                Answer::Level(together(all.collect()).await)
            }
        })
    }

    /// Puts the chunks together and checks what each may carry.
    async fn range_stream(&mut self, range: pb::RangeRequest) -> Result<Answer, Error> {
        let mut chunks = self.kv.range_stream(range).await?.into_inner();
        let mut whole = pb::RangeResponse::default();
        while let Some(chunk) = chunks.message().await? {
            let chunk = chunk.range_response.unwrap_or_default();
            if whole.header.is_some() {
                let message = "a chunk after the one with the header".into();
                return Err(Error { code: Code::Internal, message });
            }
            whole.kvs.extend(chunk.kvs);
            (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
        }
        Ok(Answer::Range(whole))
    }
}

/// One watch stream. A task reads it; what it reads is sorted into `Heard`.
struct Stream {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    heard: Arc<(Mutex<Heard>, Notify)>,
}

#[derive(Default)]
struct Heard {
    /// Answers to creations and cancellations.
    controls: VecDeque<pb::WatchResponse>,
    /// The newest progress notice of the whole stream.
    progress: i64,
    level: Level,
    /// The revision each watcher has reached.
    reached: BTreeMap<i64, i64>,
    /// What a progress notice promised each watcher that was there: nothing at or below comes any more.
    promised: BTreeMap<i64, i64>,
    /// Set by every message.
    spoke: bool,
    /// Which watchers' last response was a fragment.
    partial: BTreeMap<i64, bool>,
}

impl Stream {
    async fn open(channel: Channel) -> Result<Self> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        // Some servers send nothing, not even headers, before they have something to say.
        requests.send(ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})))?;
        let first = pb::WatchCreateRequest {
            key: "\0sentinel".into(),
            watch_id: SENTINEL,
            ..Default::default()
        };
        requests.send(ask(RequestUnion::CreateRequest(first)))?;
        let mut answers = client.watch(UnboundedReceiverStream::new(receiver)).await?.into_inner();
        let heard = Arc::new((Mutex::new(Heard::default()), Notify::new()));
        let ear = heard.clone();
        tokio::spawn(async move {
            loop {
                let message = answers.message().await;
                let mut heard = lock(&ear.0);
                match message {
                    Ok(Some(response)) => heard.note(response),
                    Ok(None) => heard.level.broken.push("the stream ended".into()),
                    Err(status) => heard.level.broken.push(format!("the stream broke: {status}")),
                }
                let over =
                    heard.level.broken.last().is_some_and(|why| why.starts_with("the stream"));
                drop(heard);
                ear.1.notify_one();
                if over {
                    return;
                }
            }
        });
        let mut stream = Self { requests, heard };
        stream.control(Duration::from_secs(5)).await.context("no answer to a first watch")?;
        Ok(stream)
    }

    fn send(&self, union: RequestUnion) {
        // A broken stream is told of by what it no longer says.
        let _ = self.requests.send(ask(union));
    }

    /// Waits until `look` finds something among what was heard.
    async fn wait<T>(
        &self,
        until: Instant,
        mut look: impl FnMut(&mut Heard) -> Option<T>,
    ) -> Option<T> {
        loop {
            if let Some(found) = look(&mut lock(&self.heard.0)) {
                return Some(found);
            }
            timeout_at(until, self.heard.1.notified()).await.ok()?;
        }
    }

    async fn control(&mut self, limit: Duration) -> Option<pb::WatchResponse> {
        self.wait(Instant::now() + limit, |heard| heard.controls.pop_front()).await
    }

    async fn create(&mut self, request: pb::WatchCreateRequest, compacted: bool) -> Answer {
        self.send(RequestUnion::CreateRequest(request));
        let mut said = Vec::new();
        said.extend(self.control(PATIENCE / 3).await);
        let created = said.first().filter(|first| first.created && !first.canceled).cloned();
        if let (true, Some(created)) = (compacted, created) {
            said.extend(self.control(PATIENCE / 3).await);
            // What a client does then; until it does, the stream has no progress to tell of.
            self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                watch_id: created.watch_id,
            }));
            said.extend(self.control(PATIENCE / 6).await);
        }
        Answer::Watch(said)
    }

    async fn cancel(&mut self, watch: i64) -> Answer {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: watch }));
        Answer::Watch(self.control(PATIENCE / 3).await.into_iter().collect())
    }

    /// Waits until everything up to `revision`, a put that the stream's own watcher sees, has arrived: by
    /// asking for `progress` where it is told, else by that watcher and a short silence.
    async fn level(&self, revision: i64, progress: bool, patient: bool) -> Level {
        let until = Instant::now() + PATIENCE / 2;
        let level = |heard: &mut Heard| {
            let at = if progress {
                heard.progress
            } else {
                heard.reached.get(&SENTINEL).copied().unwrap_or(0)
            };
            (at >= revision).then_some(())
        };
        while Instant::now() < until {
            if progress {
                self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            }
            let soon = Instant::now() + Duration::from_millis(30);
            if self.wait(soon, level).await.is_some() {
                break;
            }
        }
        if !progress || patient {
            let quiet = Duration::from_millis(if patient { 300 } else { 40 });
            while self
                .wait(Instant::now() + quiet, |heard| {
                    std::mem::take(&mut heard.spoke).then_some(())
                })
                .await
                .is_some()
            {}
        }
        let mut heard = lock(&self.heard.0);
        let mut level = std::mem::take(&mut heard.level);
        level.progress = if progress { heard.progress } else { 0 };
        level
    }
}

/// Runs futures side by side on this task; the results come in their order.
async fn together<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut open: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, result) in open.iter_mut().filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                *result = Some(output);
            }
        }
        if open.iter().any(|(_, result)| result.is_none()) {
            return Poll::Pending;
        }
        Poll::Ready(
            std::mem::take(&mut open).into_iter().filter_map(|(_, result)| result).collect(),
        )
    })
    .await
}

impl Heard {
    fn note(&mut self, response: pb::WatchResponse) {
        self.spoke = true;
        let (watch, revision) =
            (response.watch_id, response.header.map_or(0, |header| header.revision));
        if response.created || response.canceled {
            self.reached.remove(&watch);
            self.promised.remove(&watch);
            if response.created && !response.canceled {
                self.promised.insert(watch, 0);
            }
            self.controls.push_back(response);
            return;
        }
        if response.events.is_empty() {
            if watch == -1 {
                if revision < self.progress {
                    self.level
                        .broken
                        .push(format!("progress fell from {} to {revision}", self.progress));
                }
                self.progress = revision;
                self.promised.values_mut().for_each(|promised| *promised = revision);
            } else {
                self.level.broken.push(format!("watcher {watch}: a response about nothing"));
            }
            return;
        }
        let reached = self.reached.entry(watch).or_default();
        for event in &response.events {
            let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if at > revision {
                let text =
                    format!("watcher {watch}: an event of revision {at} under header {revision}");
                self.level.broken.push(text);
            }
            if at < *reached {
                self.level.broken.push(format!("watcher {watch}: revision {at} after {reached}"));
            }
            let promised = self.promised.get(&watch).copied().unwrap_or(0);
            if at <= promised {
                let text = format!("watcher {watch}: revision {at} after progress {promised}");
                self.level.broken.push(text);
            }
        }
        let first = response.events[0].kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let last = response
            .events
            .last()
            .and_then(|event| event.kv.as_ref())
            .map_or(0, |kv| kv.mod_revision);
        if first == *reached && !self.partial.get(&watch).copied().unwrap_or(false) {
            self.level
                .broken
                .push(format!("watcher {watch}: revision {first} is split over responses"));
        }
        *reached = last;
        self.partial.insert(watch, response.fragment);
        // The watchers that only keep the stream awake are nobody's business.
        if watch != SENTINEL {
            self.level.events.entry(watch).or_default().extend(response.events);
        }
    }
}

fn ask(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
