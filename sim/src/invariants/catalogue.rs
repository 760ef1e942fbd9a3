//! Every check there is: its name, where it looks, where it comes from, and what it says.
//!
//! *L0* is the bare core in a storm, *L1* whole servers; *history* is what clients and watchers recorded,
//! judged by `jepsen/checker`, after simulated runs and after real ones. *disk* is what a stopped member has
//! on its disk: in the crash matrix, and at the end of each run (`storage/`).

/// One check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Where it looks.
    pub level: &'static str,
    /// The name that a verdict gives.
    pub name: &'static str,
    /// Who says that it must hold.
    pub source: &'static str,
    /// What must hold.
    pub must: &'static str,
}

const fn check(
    level: &'static str,
    name: &'static str,
    source: &'static str,
    must: &'static str,
) -> Check {
    Check { level, name, source, must }
}

const RAFT: &str = "Raft, figure 3";
const ETCD: &str = "etcd's API guarantees";

/// All of them.
pub const CHECKS: &[Check] = &[
    check("L0", "one_leader_per_term", RAFT, "a term has one leader"),
    check("L0", "log_matching", RAFT, "index and term name an entry and all before it"),
    check("L0", "leader_completeness", RAFT, "a leader holds what was committed in earlier terms"),
    check(
        "L0",
        "state_machine_safety",
        RAFT,
        "machines apply one entry at an index, a committed one",
    ),
    check("L0", "leader_append_only", RAFT, "a leader only appends to its log"),
    check("L0", "one_vote_per_term", "Raft, §5.2", "a node gives one vote a term"),
    check("L0", "term_only_grows", "Raft, §5.1", "a running node's term never falls"),
    check(
        "L0",
        "no_message_from_a_later_term",
        "Raft, §5.1",
        "a message's term is not beyond its sender's",
    ),
    check(
        "L0",
        "commit_is_of_this_term",
        "Raft, figure 8",
        "a leader commits by counting only entries of its term",
    ),
    check("L0", "commit_only_grows", "Raft, §5.3", "a commit index never falls"),
    check("L0", "commits_agree", "Raft, §5.3", "all commit indexes speak of one sequence"),
    check("L0", "commit_is_durable", "Raft, §5.3", "a quorum's disks hold what a leader commits"),
    check(
        "L0",
        "applied_contiguous",
        "Raft, §5.3",
        "entries are delivered without gap or repetition",
    ),
    check(
        "L0",
        "machine_is_not_ahead",
        "Raft, figure 2",
        "a machine applies only what its node knows to be committed",
    ),
    check("L0", "hard_state_only_grows", "Raft, §5.1", "on disk no term falls and no vote changes"),
    check(
        "L0",
        "promises_are_durable",
        "Raft, §5.1",
        "a vote or acceptance leaves when the disk has it",
    ),
    check("L0", "promises_survive", "Raft, §5.1", "votes and acceptances outlive a power loss"),
    check(
        "L0",
        "votes_are_asked_by_the_durable",
        "Raft, §5.2",
        "a candidate's term, vote and log are durable when it asks",
    ),
    check(
        "L0",
        "reads_are_linearizable",
        "Thesis, §6.4",
        "a read sees all that was committed before",
    ),
    check("L0", "only_voters_campaign", "Thesis, §4.2.1", "who has no vote does not campaign"),
    check(
        "L0",
        "configuration_is_the_applied_one",
        "Thesis, §4.1",
        "the core lives by the configuration its machine has applied",
    ),
    check("L0", "config_chain", "Thesis, §4.3", "neighbouring configurations' quorums meet"),
    check(
        "L0",
        "one_change_at_a_time",
        "Thesis, §4.1",
        "no change before the one before is applied",
    ),
    check(
        "L0",
        "transfer_takes_no_commands",
        "Thesis, §3.10",
        "a leader that hands over takes no commands",
    ),
    check(
        "L0",
        "appends_are_earned",
        "RFC 5681, §3.1",
        "a leader sends what new answers account for, and floods nobody",
    ),
    check("L0", "protocol_is_kept", "Raft, §5", "no core sees another break the protocol"),
    check("L0", "must_boot", "Raft, §5.1", "what a power loss leaves is enough to start"),
    check("L0", "progress", "Thesis, §3.9", "a connected majority soon commits and converges"),
    check("L0", "calm", "Thesis, §4.2.3", "without a fault nobody unseats the leader"),
    check("L0", "converged", RAFT, "in calm all machines are equal"),
    check("L0", "does_not_end", "the storm's own", "a storm comes to its end"),
    check("L0, L1", "panic", "the code's assertions", "nothing panics"),
    check("L1", "one-leader-a-term", RAFT, "members name one leader for a term"),
    check("L1", "protocol", "Raft, §5", "no member logs that a peer broke the protocol"),
    check("L1", "member-monotonic", ETCD, "a member's revisions never go back, restarts included"),
    check(
        "L1",
        "unexplained-end",
        "the simulator's own",
        "no process ends or refuses to start by itself",
    ),
    check("L1", "graceful-stop", "etcd's server", "SIGTERM ends a process in time"),
    check("L1", "liveness", "Thesis, §3.9", "a healed cluster takes a put through every member"),
    check("L1", "ready", "Kubernetes' probes", "a healed member says that it is ready"),
    check("L1", "probe", "etcd's HTTP side", "probes over HTTP/1.1 get one of etcd's answers"),
    check("L1", "convergence", "Thesis, §3.9", "all members come to one applied index and leader"),
    check(
        "L1",
        "membership-liveness",
        "Thesis, §4.2",
        "a change of members that was begun is done",
    ),
    check(
        "L1",
        "promotion",
        "Thesis, §4.2.1",
        "a learner that never ran is made a voter by nobody",
    ),
    check("L1", "watch-liveness", ETCD, "an open watch is told everything in the end"),
    check(
        "L1",
        "wiped-voter-refused",
        "Raft, §5.1",
        "a wiped voter does not come back under its old id",
    ),
    check("L1", "equal-hash", "etcd's corruption check", "HashKV is equal on all members"),
    check("L1", "alarm", "etcd's alarms", "an alarm that is on is listed, and keeps puts out"),
    check("L1", "range-stream", "etcd 3.7's RangeStream", "a stream gives what a plain read does"),
    check("L1", "range-txn", "etcd's Txn", "a read in a transaction gives what a plain one does"),
    check(
        "L1",
        "compare",
        "etcd 3.7.1, observed",
        "compares that make no sense have known outcomes",
    ),
    check("L1", "lease-exists", "etcd's Lease", "what was granted is not granted again"),
    check("L1", "lease-list", ETCD, "no lease is listed that nobody asked for, and none twice"),
    check("L1", "member-list", "Thesis, §4.1", "members have an id and a peer URL of their own"),
    check("L1", "refusal", "etcd's server", "what cannot be is refused in etcd's words"),
    check("history", "history", "the recorder's rules", "the history itself is one"),
    check("history", "revision-unique", ETCD, "no two writes have one revision"),
    check(
        "history",
        "real-time",
        ETCD,
        "a write's revision is above all that was shown before it began",
    ),
    check(
        "history",
        "stale-read",
        ETCD,
        "a linearizable answer is no older than what was shown before",
    ),
    check(
        "history",
        "compaction",
        ETCD,
        "nobody reads below a compaction, or is refused without one",
    ),
    check("history", "lost-write", ETCD, "a read shows every write at or below its revision"),
    check("history", "txn-atomic", ETCD, "a transaction's writes are seen together"),
    check("history", "dirty-read", ETCD, "no value is read that nobody wrote"),
    check("history", "future-read", ETCD, "no key is newer than its reply's revision"),
    check("history", "key-metadata", ETCD, "version, create and mod revision and lease are right"),
    check("history", "order", ETCD, "keys come in the order asked for"),
    check("history", "serializable-state", ETCD, "a serializable read is the state at some moment"),
    check("history", "count", ETCD, "count and more are right"),
    check("history", "prev-kv", ETCD, "prev_kv is the key before, if asked for"),
    check("history", "delete-count", ETCD, "a delete tells how many it deleted"),
    check("history", "txn-branch", ETCD, "a transaction takes the branch its compares say"),
    check("history", "txn-results", ETCD, "a transaction's inner replies fit its operations"),
    check("history", "refused", "etcd's server", "what etcd refuses is refused"),
    check("history", "effect", ETCD, "a reply tells whether keys changed"),
    check("history", "gap", ETCD, "every revision was made by somebody"),
    check("history", "duplicate-apply", ETCD, "no write happens twice"),
    check("history", "lease-atomic", ETCD, "an ended lease's keys go in one revision"),
    check("history", "lease-revoke", ETCD, "a revoked lease takes its keys"),
    check("history", "final-state", ETCD, "the members' last states are the model's"),
    check("history", "ground-truth", "the apply log", "replies agree with what was applied"),
    check(
        "history",
        "register",
        "Wing & Gong 1993; Lowe 2017",
        "single keys are linearizable, revisions aside",
    ),
    check("history", "serial", "Adya 2000; Elle", "transactions have an order without cycles"),
    check("history", "serial-order", "Adya 2000; Elle", "versions of a key are in one order"),
    check("history", "serial-phantom", "Adya 2000; Elle", "no transaction sees what nobody wrote"),
    check("history", "lease-early", ETCD, "a lease lives at least its TTL after grant and renewal"),
    check("history", "lease-renew-after-end", ETCD, "an ended lease is not renewed"),
    check("history", "lease-ttl", ETCD, "TTLs that are told are true"),
    check("history", "watch", ETCD, "what a watch shows has happened"),
    check("history", "watch-ordered", ETCD, "events come in the order of revisions"),
    check("history", "watch-unique", ETCD, "no event comes twice"),
    check("history", "watch-atomic", ETCD, "a revision comes whole"),
    check("history", "watch-reliable", ETCD, "nothing is missing between two events"),
    check("history", "watch-resumable", ETCD, "nothing is missing between start and first event"),
    check("history", "watch-bookmarkable", ETCD, "progress at r comes after everything up to r"),
    check("history", "watch-filtered", ETCD, "no event outside range, filters or start"),
    check("history", "watch-phantom", ETCD, "no event that never happened"),
    check("history", "watch-value", ETCD, "an event's value, lease and revision are those written"),
    check("history", "watch-create-flag", ETCD, "version and create revision tell a creation"),
    check("history", "watch-prev-kv", ETCD, "prev_kv is the key before the event, if asked for"),
    check(
        "history",
        "watch-compaction",
        ETCD,
        "compaction is told when and only when it hides events",
    ),
    check("history", "watch-header", ETCD, "a response's header is not older than its events"),
    check("history", "watch-canceled", ETCD, "nothing comes after a watch's end"),
    check(
        "disk",
        "crash-matrix",
        "the disk's contract",
        "after any power loss what was synced is there",
    ),
    check("disk", "rot", "the formats' checksums", "a flipped bit is noticed or harmless"),
    check("disk", "disk-read", "the start's own rules", "what a killed member leaves is read back"),
    check("disk", "log-contiguous", "Raft, §5.3", "the log's entries follow on, terms never fall"),
    check("disk", "commit-in-log", "Raft, §5.3", "the commit index on disk is within the log"),
    check("disk", "term-of-log", "Raft, §5.1", "the term on disk is not below the last entry's"),
    check("disk", "store-in-log", "Raft, §5.3", "the log has the entry that the store stands at"),
    check("disk", "log-reaches-store", "Raft, §7", "nothing between store and log is missing"),
    check("disk", "log-and-store-of-one", "Raft, §5.1", "a vote stays with its directory"),
    check("disk", "logs-match", RAFT, "index and term name one entry on all disks"),
    check("disk", "leftovers", "storage's generations", "what a crash left goes at the next start"),
    check("disk", "stored-forms", "the formats' checksums", "everything in the store reads"),
    check("disk", "compact-in-history", ETCD, "no compaction is of the future, or of nobody"),
    check("disk", "revisions-unbroken", ETCD, "each revision above the compact one has its rows"),
    check("disk", "row-chains", "mvcc's chain of rows", "each row names its key's row before it"),
    check("disk", "row-versions", ETCD, "versions count the writes in a key's life"),
    check("disk", "index-names-newest", "mvcc's index", "each key's entry is its newest row"),
    check("disk", "counts-are-true", "mvcc's counts", "as many keys live as are counted"),
    check("disk", "compacted-is-gone", ETCD, "what was compacted and scrubbed is gone"),
    check("disk", "lease-keys", "lease's rows", "a row stands for each live key with a lease"),
    check("disk", "leases-exist", ETCD, "the lease of a live key exists"),
    check("disk", "members-are-configured", "Thesis, §4.1", "the members are Raft's configuration"),
    check("disk", "equal-tables", RAFT, "members at one entry hold the same, byte for byte"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What no table lists, nobody counts on.
    #[test]
    fn every_check_in_the_sources_is_listed() {
        let listed: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(listed.len(), CHECKS.len(), "a name is listed twice");
        let mut used: BTreeSet<String> = BTreeSet::new();
        let sources = ["src", "../jepsen/checker/src"].into_iter().flat_map(crate::sources);
        for (_, text) in sources {
            for before in
                ["Violation::new(\"", "Broken { name: \"", "report(\"", "must!(\n        \""]
            {
                let names = text.split(before).skip(1).filter_map(|rest| rest.split('"').next());
                used.extend(names.map(str::to_owned));
            }
        }
        // Scenarios judge their own story.
        let known = |name: &String| listed.contains(name.as_str()) || name == "scenario";
        let unlisted: Vec<String> = used.into_iter().filter(|name| !known(name)).collect();
        assert_eq!(unlisted, Vec::<String>::new());
    }
}
