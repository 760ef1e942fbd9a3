//! A client that watches: streams come and go, watches resume where they were cut off.
//!
//! Like a careful client it remembers the revision up to which it has seen everything, by events and
//! by bookmarks, and asks from the next one after a disconnect. Sometimes it reads slowly, so that the
//! server has to catch it up from history; sometimes it starts far back or in the future.
//!
//! At the end, when the cluster is healed, it owes an answer: every watch that was not canceled has to
//! stay open on a stream until nothing more comes, so that the judge may demand all events of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use checker::blob::Blob;
use checker::history::{WatchRecord, WatchRequest, What};
use madsim::time::TimeHandle;
use mainstay::proto::etcdserverpb as pb;
use pb::watch_request::RequestUnion;

use super::endpoint::{Endpoint, Requests};
use super::history::History;
use super::{Shared, number, wire};
use crate::invariants::{Found, Violation};
use crate::rng::Rng;
use crate::time::{sleep, within};
use crate::trace::lock;

/// Numbers of streams and watches, unique in a run.
#[derive(Clone, Default)]
pub struct Numbers(Arc<AtomicU64>);

impl Numbers {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// A watch as its client knows it.
struct Watch {
    /// The recorder's number in the present stream.
    number: u64,
    request: WatchRequest,
    /// Everything below is seen.
    next: i64,
    /// The server's id, once created.
    id: Option<i64>,
    over: bool,
}

/// A watching client.
pub struct Watcher {
    /// Its process number in the history.
    pub process: u64,
    /// Its machine.
    pub endpoint: Endpoint,
    /// Its whims.
    pub rng: Rng,
    /// How many keys there are.
    pub keys: u64,
    /// What it shares with others.
    pub shared: Shared,
    /// The run's numbers.
    pub numbers: Numbers,
    /// Where it says that the cluster does not serve it.
    pub found: Found,
    /// The newest revision that it heard of; 0 at first.
    pub seen: i64,
}

/// Streams that may break after the cluster was healed: connections of before come to their end.
const LAST_STREAMS: u32 = 10;

/// The pause between two of them.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How long nothing comes before all has come: longer than the keepalive needs to find out that the
/// other end of a connection lost its power and has forgotten it.
const LAST_QUIET: Duration = Duration::from_secs(18);

/// How long a stream is read at the end after its last event: progress notices never cease, and events do.
const LAST_READ: Duration = Duration::from_secs(30);

/// How a stream was left.
#[derive(PartialEq, Eq)]
enum Left {
    /// It broke, or the whim to try another member came.
    Closed,
    /// It stands, and all has come that was to come.
    Read,
}

impl Watcher {
    /// Watches until told to stop.
    pub async fn run(mut self) {
        let mut watches: Vec<Watch> = Vec::new();
        let mut last_streams = 0;
        loop {
            let stopped = self.shared.stopped();
            if watches.is_empty() {
                watches = (0..self.rng.between(1, 3)).map(|_| self.draw()).collect();
            }
            let names = lock(&self.shared.members).clone();
            if !names.is_empty() {
                let member = self.rng.pick(&names).clone();
                if self.stream(&member, &mut watches).await == Left::Read {
                    return;
                }
            }
            if stopped {
                last_streams += 1;
                if last_streams == LAST_STREAMS || watches.iter().all(|watch| watch.over) {
                    break;
                }
            }
            self.seen = watches.iter().map(|watch| watch.next).fold(self.seen, i64::max);
            watches.retain(|watch| !watch.over);
            // Who only ever resumes begins nowhere anew.
            if !stopped && self.rng.below(4) == 0 {
                watches.clear();
            }
            let pause = self.rng.between(1, 300);
            // At the end a stream that cannot be opened yet counts, too: the client backs off for a while.
            sleep(if stopped { LAST_PAUSE } else { Duration::from_millis(pause) }).await;
        }
        if watches.iter().any(|watch| !watch.over) {
            let text = format!("{LAST_STREAMS} streams broke after the cluster was healed");
            self.found.add(Violation::new("watch-liveness", text));
        }
    }

    fn draw(&mut self) -> Watch {
        let n = self.rng.below(self.keys);
        let (key, range_end) = match self.rng.below(8) {
            2 => ("k".to_owned(), "\0".to_owned()),
            3 => (format!("k{n:02}"), "\0".to_owned()),
            4 => (format!("k{n:02}"), String::new()),
            1 => (format!("k{n:02}"), "l".to_owned()),
            _ => ("k".to_owned(), "l".to_owned()),
        };
        let compacted = self.shared.compacted.load(Ordering::SeqCst);
        let start_revision = match self.rng.below(7) {
            // Exactly there history begins.
            5 => compacted,
            0 => 1,
            1 => i64::try_from(self.rng.between(1, 1_000)).unwrap_or(1),
            // Most often in the future.
            2 | 3 => self.seen + i64::try_from(self.rng.between(1, 400)).unwrap_or(1),
            _ => 0,
        };
        let request = WatchRequest {
            key: Blob::from(key),
            range_end: Blob::from(range_end),
            start_revision,
            prev_kv: self.rng.below(2) == 0,
            no_put: self.rng.below(12) == 0,
            no_delete: self.rng.below(12) == 0,
            progress_notify: self.rng.below(2) == 0,
            fragment: self.rng.below(3) == 0,
        };
        Watch { number: 0, next: start_revision, request, id: None, over: false }
    }

    /// One stream to one member, until it breaks or the whim to try another one comes.
    async fn stream(&mut self, member: &str, watches: &mut Vec<Watch>) -> Left {
        let node = number(member);
        let stream = self.numbers.next();
        let (send, requests) = Requests::new();
        let history = self.shared.history.clone();
        let process = self.process;
        let record = |what| history.record(process, node, What::Watch(what));
        for watch in watches.iter_mut() {
            watch.number = self.numbers.next();
            watch.id = None;
            watch.request.start_revision = watch.next;
            let request = watch.request.clone();
            record(WatchRecord::Create { stream, watch: watch.number, request });
            let _ = send.send(create(&watch.request));
        }
        // At once, while those that begin in the past are still behind.
        if self.rng.below(4) == 0 {
            let union = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            let _ = send.send(pb::WatchRequest { request_union: Some(union) });
        }
        let limit = Duration::from_secs(3);
        let opened = within(limit, self.endpoint.watch(member).watch(requests)).await;
        let Some(Ok(opened)) = opened else {
            record(WatchRecord::Closed { stream });
            return Left::Closed;
        };
        let mut replies = opened.into_inner();
        let mut created = 0;
        let slow = self.rng.below(6) == 0;
        let mut turns = self.rng.between(3, 400);
        let time = TimeHandle::current();
        let mut stop_seen = None;
        let mut last_news = Duration::ZERO;
        loop {
            turns -= 1;
            let stopping = self.shared.stopped();
            let since = stopping.then(|| last_news.max(*stop_seen.get_or_insert(time.elapsed())));
            if since.is_some_and(|since| time.elapsed() - since > LAST_READ) {
                return Left::Read;
            }
            if turns == 0 && !stopping {
                break;
            }
            if slow && !stopping {
                let pause = self.rng.between(10, 400);
                sleep(Duration::from_millis(pause)).await;
            }
            if self.rng.below(15) == 0 {
                let union = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                let _ = send.send(pb::WatchRequest { request_union: Some(union) });
            }
            if self.rng.below(60) == 0
                && !stopping
                && let Some(watch) = watches.iter().find(|w| w.id.is_some() && !w.over)
            {
                let watch_id = watch.id.expect("it was just looked at");
                record(WatchRecord::CancelRequested { watch: watch.number });
                let union = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
                let _ = send.send(pb::WatchRequest { request_union: Some(union) });
            }
            let wait = if stopping { LAST_QUIET } else { Duration::from_secs(1) };
            match within(wait, replies.message()).await {
                Some(Ok(Some(reply))) => {
                    if !reply.events.is_empty() {
                        last_news = time.elapsed();
                    }
                    take_in(&reply, stream, watches, &mut created, &history, process, node);
                }
                Some(_) => break,
                None if stopping => return Left::Read,
                None => {}
            }
            turns = turns.max(1);
            if watches.iter().all(|watch| watch.over) {
                break;
            }
        }
        record(WatchRecord::Closed { stream });
        Left::Closed
    }
}

fn create(request: &WatchRequest) -> pb::WatchRequest {
    use pb::watch_create_request::FilterType;
    let mut filters = Vec::new();
    if request.no_put {
        filters.push(FilterType::Noput.into());
    }
    if request.no_delete {
        filters.push(FilterType::Nodelete.into());
    }
    let union = RequestUnion::CreateRequest(pb::WatchCreateRequest {
        key: bytes::Bytes::copy_from_slice(&request.key),
        range_end: bytes::Bytes::copy_from_slice(&request.range_end),
        start_revision: request.start_revision,
        progress_notify: request.progress_notify,
        filters,
        prev_kv: request.prev_kv,
        watch_id: 0,
        fragment: request.fragment,
    });
    pb::WatchRequest { request_union: Some(union) }
}

/// Records a response and moves the watches it is about.
fn take_in(
    reply: &pb::WatchResponse,
    stream: u64,
    watches: &mut [Watch],
    created: &mut usize,
    history: &History,
    process: u64,
    node: u64,
) {
    let record = |what| history.record(process, node, What::Watch(what));
    let header = wire::header(reply.header.as_ref());
    if reply.created {
        // Answers to creations come in the order of the requests.
        let Some(watch) = watches.get_mut(*created) else { return };
        *created += 1;
        watch.id = Some(reply.watch_id);
        if reply.canceled {
            watch.over = true;
            record(WatchRecord::Canceled {
                watch: watch.number,
                header,
                compact_revision: reply.compact_revision,
                reason: reply.cancel_reason.clone(),
            });
            return;
        }
        if watch.next == 0 {
            watch.next = header.revision + 1;
        }
        record(WatchRecord::Created { watch: watch.number, header });
        return;
    }
    let found = watches.iter_mut().find(|watch| watch.id == Some(reply.watch_id) && !watch.over);
    if reply.canceled {
        let Some(watch) = found else { return };
        watch.over = true;
        record(WatchRecord::Canceled {
            watch: watch.number,
            header,
            compact_revision: reply.compact_revision,
            reason: reply.cancel_reason.clone(),
        });
        return;
    }
    if reply.events.is_empty() {
        let all = reply.watch_id == -1;
        let watch = found.as_ref().map(|watch| watch.number);
        let revision = header.revision;
        record(WatchRecord::Progress { stream, watch: if all { None } else { watch }, header });
        for watch in watches.iter_mut().filter(|w| w.id.is_some() && !w.over) {
            if all || watch.id == Some(reply.watch_id) {
                watch.next = watch.next.max(revision + 1);
            }
        }
        return;
    }
    let Some(watch) = found else { return };
    if !reply.fragment
        && let Some(last) = reply.events.last().and_then(|event| event.kv.as_ref())
    {
        watch.next = watch.next.max(last.mod_revision + 1);
    }
    record(WatchRecord::Events {
        watch: watch.number,
        header,
        fragment: reply.fragment,
        events: reply.events.iter().map(wire::event).collect(),
    });
}
