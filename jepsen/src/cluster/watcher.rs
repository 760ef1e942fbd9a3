//! A watcher of everything, at one member after the other, that goes on where it was cut off.

use std::time::{Duration, Instant};

use checker::history::{WatchRecord, WatchRequest, What};
use checker::op::{Event, EventKind};
use mainstay::proto::etcdserverpb::{
    self as pb, watch_client::WatchClient, watch_request::RequestUnion,
};
use tonic::codegen::tokio_stream::wrappers::UnboundedReceiverStream;

use super::client::{Recorder, header, key_value};
use super::members::MEMBERS;
use crate::channel::Endpoint;

/// Watches until `until`; then, if it is connected, until it has seen what the final put made known in
/// `last` (0 while nobody knows).
pub async fn watch(
    process: u64,
    endpoints: Vec<Endpoint>,
    recorder: Recorder,
    mut last: tokio::sync::watch::Receiver<i64>,
) {
    let mut member = usize::try_from(process).expect("few processes") % MEMBERS;
    // 0: from now on. Later: the revision after the last one seen.
    let mut from = 0;
    for attempt in 0.. {
        let done = Instant::now();
        let number = process * 10_000 + attempt;
        if once(process, member, number, &endpoints[member], &recorder, &mut from, &mut last).await
        {
            return;
        }
        member = (member + 1) % MEMBERS;
        if done.elapsed() < Duration::from_millis(100) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// One stream with one watch. True if everything was seen that there is.
async fn once(
    process: u64,
    member: usize,
    number: u64,
    endpoint: &Endpoint,
    recorder: &Recorder,
    from: &mut i64,
    last: &mut tokio::sync::watch::Receiver<i64>,
) -> bool {
    let Ok(channel) = endpoint.connect(Duration::from_secs(1)).await else { return false };
    let node = member as u64 + 1;
    let note = |record| recorder.note(process, node, What::Watch(record));
    let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
    let create = pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: *from,
        prev_kv: true,
        ..Default::default()
    };
    note(WatchRecord::Create {
        stream: number,
        watch: number,
        request: WatchRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision: *from,
            prev_kv: true,
            ..Default::default()
        },
    });
    let asked = requests
        .send(pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let opened = tokio::time::timeout(
        Duration::from_secs(3),
        client.watch(UnboundedReceiverStream::new(receiver)),
    );
    let mut complete = false;
    if let (Ok(()), Ok(Ok(answers))) = (asked, opened.await) {
        let mut answers = answers.into_inner();
        loop {
            let goal = *last.borrow_and_update();
            if goal > 0 && *from > goal {
                complete = true;
                break;
            }
            let message = tokio::select! {
                biased;
                message = tokio::time::timeout(Duration::from_secs(3), answers.message()) => message,
                _ = last.changed() => continue,
            };
            // Three silent seconds in so busy a store: the member is stopped, or cut off.
            let Ok(Ok(Some(response))) = message else { break };
            if response.canceled {
                note(WatchRecord::Canceled {
                    watch: number,
                    header: header(response.header),
                    compact_revision: response.compact_revision,
                    reason: response.cancel_reason,
                });
                // What was compacted is lost to this watcher; it begins anew.
                *from = response.compact_revision;
                break;
            }
            let told = header(response.header);
            if response.created {
                // A stream that breaks before its first event goes on from here.
                *from =
                    (*from).max(told.revision + 1).min(if *from > 0 { *from } else { i64::MAX });
                note(WatchRecord::Created { watch: number, header: told });
                continue;
            }
            let events: Vec<_> = response.events.into_iter().filter_map(event).collect();
            if let Some(newest) = events.last() {
                *from = newest.kv.mod_revision + 1;
            }
            note(WatchRecord::Events {
                watch: number,
                header: told,
                fragment: response.fragment,
                events,
            });
        }
    }
    note(WatchRecord::Closed { stream: number });
    complete
}

fn event(event: mainstay::proto::mvccpb::Event) -> Option<Event> {
    let kind = if event.r#type == 0 { EventKind::Put } else { EventKind::Delete };
    Some(Event { kind, kv: key_value(event.kv?), prev_kv: event.prev_kv.map(key_value) })
}
