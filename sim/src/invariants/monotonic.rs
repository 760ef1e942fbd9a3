//! Revisions of one member never go back, restarts included (mutants.md, E08; DESIGN §3.7).
//!
//! A member that has answered at revision r answers every later request, serializable ones too, at r
//! or above. Later means: sent after the answer at r had arrived.

use std::collections::BTreeMap;

use checker::history::{Record, What};

use super::Violation;

/// Judges a history.
pub fn check(records: &[Record]) -> Option<Violation> {
    // By member id, so that a replaced member begins anew.
    let mut shown: BTreeMap<u64, i64> = BTreeMap::new();
    let mut floors: BTreeMap<u64, BTreeMap<u64, i64>> = BTreeMap::new();
    for record in records {
        match &record.what {
            What::Invoke(_) => {
                floors.insert(record.process, shown.clone());
            }
            What::Ok(reply) => {
                let header = reply.header();
                let floor = floors.get(&record.process).and_then(|f| f.get(&header.member));
                if let Some(floor) = floor.filter(|floor| header.revision < **floor) {
                    let text = format!(
                        "member {:x} answered at r{} a request sent after its answer at r{floor} \
                         (process {}, {} ns)",
                        header.member, header.revision, record.process, record.time
                    );
                    return Some(Violation::new("member-monotonic", text));
                }
                let newest = shown.entry(header.member).or_default();
                *newest = (*newest).max(header.revision);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use checker::op::{Header, Operation, Put, PutReply, Reply};

    fn history(replies: &[(u64, i64)]) -> Vec<Record> {
        let mut records = Vec::new();
        for (i, (member, revision)) in (0..).zip(replies) {
            let header = Header { revision: *revision, member: *member, term: 1 };
            let reply = Reply::Put(PutReply { header, prev_kv: None });
            let record = |what| Record { time: i, process: 1, node: 1, what };
            records.push(record(What::Invoke(Operation::Put(Put::default()))));
            records.push(record(What::Ok(reply)));
        }
        records
    }

    #[test]
    fn a_member_that_goes_back_is_seen() {
        assert_eq!(check(&history(&[(1, 5), (2, 4), (1, 5), (2, 9), (1, 6)])), None);
        assert!(check(&history(&[(1, 5), (2, 6), (1, 4)])).is_some());
    }
}
