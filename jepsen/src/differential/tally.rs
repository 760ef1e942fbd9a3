//! What was asked and answered, in numbers: a run that asks for nothing would find no difference either.

use std::collections::BTreeMap;

use mainstay::proto::etcdserverpb::{self as pb, request_op};
use mainstay::proto::mvccpb;

use super::request::{Answer, Request};

/// Counts by kind, by feature, by refusal.
#[derive(Default)]
pub struct Tally {
    /// All requests.
    pub requests: u64,
    /// Refusals.
    pub refused: u64,
    /// Events of watchers that were compared.
    pub events: u64,
    /// Hashes of the whole keyspace that were compared.
    pub hashes: u64,
    kinds: BTreeMap<&'static str, u64>,
    features: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts a request and the reference's answer to it.
    pub fn note(&mut self, request: &Request, answer: &Answer) {
        self.requests += 1;
        *self.kinds.entry(request.kind()).or_default() += 1;
        self.note_request(request);
        match answer {
            Answer::Error(error) => {
                self.refused += 1;
                let text = format!("{}: {:?} {}", request.kind(), error.code, error.message);
                *self.refusals.entry(text).or_default() += 1;
            }
            Answer::HashKv(_) => self.hashes += 1,
            Answer::Watch(said) => {
                for response in said.iter().filter(|response| response.canceled) {
                    let why = match (&response.cancel_reason[..], response.compact_revision) {
                        ("", 0) => continue,
                        ("", _) => "(no text, but the compacted revision)",
                        (reason, _) => reason,
                    };
                    *self.refusals.entry(format!("{}: {why}", request.kind())).or_default() += 1;
                }
            }
            Answer::Level(streams) => {
                streams.iter().flat_map(|level| level.events.values()).flatten().for_each(
                    |event| {
                        self.note_event(event);
                    },
                );
            }
            Answer::Range(range) => self.feature("range answers with more to come", range.more),
            Answer::Txn(txn) => self.feature("txns that succeeded", txn.succeeded),
            _ => {}
        }
    }

    fn feature(&mut self, name: &'static str, there: bool) {
        *self.features.entry(name).or_default() += u64::from(there);
    }

    fn note_event(&mut self, event: &mvccpb::Event) {
        self.events += 1;
        let put = event.r#type == mvccpb::event::EventType::Put as i32;
        self.feature("events of puts", put);
        self.feature("events of deletes", !put);
        self.feature("events with prev_kv", event.prev_kv.is_some());
    }

    fn note_request(&mut self, request: &Request) {
        match request {
            Request::Put(put) => self.note_put(put),
            Request::Range(range) | Request::RangeStream(range) => self.note_range(range),
            Request::DeleteRange(delete) => self.note_delete(delete),
            Request::Txn(txn) => self.note_txn(txn, 1),
            Request::Compact(compact) => self.feature("compactions awaited", compact.physical),
            Request::WatchCreate { compacted, request, .. } => {
                self.feature("watches from below the compaction", *compacted);
                self.feature("watches from the past", request.start_revision > 0);
                self.feature("watches with prev_kv", request.prev_kv);
                self.feature("watches in fragments", request.fragment);
                self.feature("watches with a filter", !request.filters.is_empty());
            }
            _ => {}
        }
    }

    fn note_put(&mut self, put: &pb::PutRequest) {
        self.feature("puts with a lease", put.lease != 0);
        self.feature("puts with prev_kv", put.prev_kv);
        self.feature("puts with ignore_value", put.ignore_value);
        self.feature("puts with ignore_lease", put.ignore_lease);
    }

    fn note_delete(&mut self, delete: &pb::DeleteRangeRequest) {
        self.feature("deletes of ranges", !delete.range_end.is_empty());
        self.feature("deletes with prev_kv", delete.prev_kv);
    }

    fn note_range(&mut self, range: &pb::RangeRequest) {
        self.feature("ranges with a limit", range.limit > 0);
        self.feature("ranges at a revision", range.revision != 0);
        self.feature("ranges with a sort order", range.sort_order != 0);
        self.feature("ranges with a sort target", range.sort_target != 0);
        self.feature("ranges with keys_only", range.keys_only);
        self.feature("ranges with count_only", range.count_only);
        self.feature("ranges serializable", range.serializable);
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        self.feature("ranges with a filter", filters != [0; 4]);
    }

    fn note_txn(&mut self, txn: &pb::TxnRequest, depth: usize) {
        self.feature("txns inside txns", depth > 1);
        self.feature("txns two deep inside txns", depth > 2);
        for compare in &txn.compare {
            self.feature("compares", true);
            self.feature("compares of ranges", !compare.range_end.is_empty());
        }
        for operation in txn.success.iter().chain(&txn.failure) {
            self.feature("operations in txns", true);
            match &operation.request {
                Some(request_op::Request::RequestPut(put)) => self.note_put(put),
                Some(request_op::Request::RequestRange(range)) => self.note_range(range),
                Some(request_op::Request::RequestDeleteRange(delete)) => self.note_delete(delete),
                Some(request_op::Request::RequestTxn(txn)) => self.note_txn(txn, depth + 1),
                None => self.feature("empty operations in txns", true),
            }
        }
    }

    /// Prints all of it.
    pub fn print(&self) {
        println!("\nrequests by kind:");
        self.kinds.iter().for_each(|(kind, count)| println!("  {count:>8} {kind}"));
        println!("of what they asked for and were told, those inside txns included:");
        self.features.iter().for_each(|(feature, count)| println!("  {count:>8} {feature}"));
        println!("refusals:");
        self.refusals.iter().for_each(|(text, count)| println!("  {count:>8} {text}"));
    }
}
