//! The planted defects: what each one is, where it is hunted, and which check must fire. Ids that
//! begin with E are mistakes that etcd had, with R those of Raft implementations, with S of disks,
//! with M those that a part of our own could have. The plants stand in the server's code as `mutant!("…")`.

use self::Level::{Server, Storm, Unit};

/// Where a defect is hunted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The bare core in a storm of random faults (L0).
    Storm,
    /// Whole servers under random faults (L1).
    Server,
    /// Tests beside the code.
    Unit,
}

impl Level {
    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Storm => "L0",
            Level::Server => "L1",
            Level::Unit => "unit",
        }
    }
}

/// One planted defect.
#[derive(Debug)]
pub struct Mutant {
    /// Its name in the code.
    pub id: &'static str,
    /// What is wrong.
    pub defect: &'static str,
    /// Where it is hunted; nowhere if it is not planted.
    pub levels: &'static [Level],
    /// The checks that speak of this very defect.
    pub checkers: &'static [&'static str],
    /// What a reader of the table should know: why it is not planted, or cannot be seen.
    pub note: &'static str,
}

const fn planted(
    id: &'static str,
    defect: &'static str,
    levels: &'static [Level],
    checkers: &'static [&'static str],
) -> Mutant {
    Mutant { id, defect, levels, checkers, note: "" }
}

const fn waits(id: &'static str, defect: &'static str, note: &'static str) -> Mutant {
    Mutant { id, defect, levels: &[], checkers: &[], note }
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    planted(
        "E01",
        "a batch's position is stored before its data, in a transaction of its own",
        &[Unit, Server],
        &["equal-hash", "equal-tables", "final-state", "lost-write", "ground-truth", "convergence"],
    ),
    planted(
        "E03",
        "after a snapshot the old applied index is kept",
        &[Server],
        &["equal-hash", "member-monotonic", "panic", "unexplained-end"],
    ),
    planted(
        "E04",
        "a single member answers before its own sync",
        &[Storm, Server],
        &["commit_is_durable", "lost-write", "member-monotonic"],
    ),
    planted("E05", "a torn last record is fatal", &[Unit, Server], &["unexplained-end"]),
    planted("E06", "a record's length is trusted", &[Unit], &[]),
    planted(
        "E08",
        "compaction drops the newest revision; after a restart it is used again",
        &[Unit, Server],
        &["member-monotonic", "revision-unique", "real-time", "convergence", "row-chains"],
    ),
    planted(
        "E09",
        "compaction drops a tombstone at exactly its revision",
        &[Unit, Server],
        &[
            "equal-hash",
            "row-chains",
            "watch",
            "watch-resumable",
            "gap",
            "ground-truth",
            "watch-atomic",
        ],
    ),
    planted(
        "E11",
        "a slow watcher overtaken by compaction goes on without a word",
        &[Server],
        &["watch", "gap", "watch-compaction", "watch-atomic"],
    ),
    planted(
        "E12",
        "progress is told to watchers that are behind",
        &[Server],
        &["watch-bookmarkable"],
    ),
    planted(
        "E14",
        "after a resync a watcher in the future sees events before its start",
        &[Server],
        &["watch", "watch-ordered", "watch-filtered", "gap"],
    ),
    planted(
        "E15",
        "a transaction's event is told twice",
        &[Unit, Server],
        &["watch-unique", "watch-atomic"],
    ),
    planted(
        "E17",
        "a read copies values after its view is gone",
        &[Unit, Server],
        &["watch", "watch-compaction", "gap", "stale-read", "panic", "serial", "ground-truth"],
    ),
    planted(
        "E19",
        "a transaction that fails halfway leaves its first half",
        &[Unit, Server],
        &["equal-hash", "ground-truth", "final-state", "effect", "gap", "panic"],
    ),
    planted(
        "E22",
        "an expiry proposed by an old leader ends a lease that was renewed since",
        &[Server],
        &["lease-early"],
    ),
    planted(
        "E23",
        "a renewal succeeds although the lease is being revoked",
        &[Server],
        &["lease-renew-after-end", "lease-early"],
    ),
    planted(
        "E25",
        "a lease of a negative id is forgotten by a restart",
        &[Server],
        &["equal-hash", "equal-tables", "convergence", "final-state", "lease-early"],
    ),
    planted(
        "E26",
        "reads are confirmed by a round that began before they did",
        &[Storm, Server],
        &["reads_are_linearizable", "stale-read"],
    ),
    planted(
        "E28",
        "a second snapshot meets the first one's installation",
        &[Storm, Server],
        &["panic"],
    ),
    planted(
        "E29",
        "a delete stays unseen by a later read of its transaction",
        &[Unit, Server],
        &["txn-results", "ground-truth", "count", "order"],
    ),
    planted(
        "E30",
        "a restart knows no more of the commit index than its disk remembers, whatever its log proves",
        &[Unit],
        &[],
    ),
    planted(
        "E31",
        "a learner that is far behind is promoted; an update promotes",
        &[Server],
        &["promotion"],
    ),
    planted("M01", "an alarm is listed and keeps nothing out", &[Server], &["alarm"]),
    planted("M02", "a streamed read takes each piece as of now", &[Server], &["range-stream"]),
    planted(
        "M03",
        "of two buckets that become one, only the first one's keys count",
        &[Server],
        &["count", "counts-are-true", "panic"],
    ),
    planted(
        "M04",
        "a key that moves from one lease to another stays on the first one as well",
        &[Server],
        &["lease-keys", "lease-atomic", "gap", "panic"],
    ),
    planted(
        "M05",
        "a read goes on before this member has applied what it asked about",
        &[Server],
        &["stale-read"],
    ),
    planted(
        "M06",
        "a transaction that only reads asks nobody",
        &[Server],
        &["stale-read", "range-txn"],
    ),
    planted(
        "M07",
        "a fragmented response loses an event at each cut",
        &[Server],
        &["watch-reliable", "watch-resumable", "watch-atomic", "watch-bookmarkable"],
    ),
    planted(
        "M08",
        "a command that is passed on to the leader comes twice",
        &[Server],
        &["duplicate-apply", "gap", "order", "ground-truth"],
    ),
    planted(
        "M09",
        "rows of a compaction go before it is certain that nobody asks for its hash",
        &[Unit, Server],
        &["unexplained-end", "panic"],
    ),
    waits("E21", "the auth store forgets its applied index", "waits for authentication"),
    waits("E32", "a lock outlives its session", "waits for locks"),
    waits("E33", "a client repeats a mutation after UNAVAILABLE", "waits for the client library"),
    planted(
        "R01",
        "an entry of an earlier term is committed by counting",
        &[Storm],
        &["leader_completeness", "commit_is_durable", "commits_agree"],
    ),
    planted(
        "R02",
        "a vote is told before it is durable",
        &[Storm, Server],
        &["one_leader_per_term", "promises_survive", "one-leader-a-term"],
    ),
    planted(
        "R04",
        "a follower acknowledges before its sync",
        &[Storm, Server],
        &["promises_survive", "commit_is_durable", "lost-write"],
    ),
    planted(
        "R05",
        "a leader counts itself before its sync",
        &[Storm, Server],
        &["commit_is_durable", "lost-write", "member-monotonic"],
    ),
    planted("R06", "a log that lost its end is taken as whole", &[Unit], &[]),
    planted("R07", "rot in a committed record is cut off as a torn tail", &[Unit], &[]),
    planted("R08", "what is not committed is applied", &[Storm], &["state_machine_safety"]),
    planted("R10", "a page of committed entries is skipped", &[Storm], &["applied_contiguous"]),
    planted(
        "R11",
        "a follower commits what the leader has, not what it was sent",
        &[Storm],
        &["commits_agree", "state_machine_safety"],
    ),
    planted(
        "R13",
        "any append truncates, stale ones too",
        &[Storm],
        &["log_matching", "promises_survive", "protocol_is_kept", "commit_only_grows"],
    ),
    planted("R14", "logs are compared by index before term", &[Storm], &["leader_completeness"]),
    planted(
        "R15",
        "reads are served before the first commit of the term",
        &[Storm, Server],
        &["reads_are_linearizable", "stale-read"],
    ),
    waits("R17", "a lease read ignores the clock's drift", "no read rests on a clock here"),
    waits("R18", "a restarted voter votes inside a lease", "no read rests on a clock here"),
    planted(
        "R19",
        "members change before the term's first commit",
        &[Storm],
        &["one_change_at_a_time", "one_leader_per_term"],
    ),
    planted(
        "R20",
        "a second change while one is pending",
        &[Storm],
        &["one_change_at_a_time", "config_chain"],
    ),
    planted(
        "R22",
        "half of a joint configuration is lost at a restore",
        &[Storm],
        &["configuration_is_the_applied_one", "config_chain"],
    ),
    planted(
        "R23",
        "learners count in quorums and campaign",
        &[Storm],
        &["only_voters_campaign", "commit_is_durable"],
    ),
    planted("R23b", "learners refuse their vote", &[Storm], &["progress"]),
    planted("R25", "nothing shields a leader from a removed node", &[Storm], &["calm"]),
    planted(
        "R26",
        "nobody tells a leader of an older term that it is one",
        &[Storm],
        &["progress"],
    ),
    planted(
        "R27",
        "a pre-vote counts as a vote",
        &[Storm],
        &["one_leader_per_term", "leader_completeness"],
    ),
    planted("R29", "a leader that lost its quorum goes on", &[Storm], &["progress"]),
    planted(
        "R30",
        "a leader takes commands in a transfer, and hands over to anyone",
        &[Storm],
        &["transfer_takes_no_commands", "only_voters_campaign", "progress"],
    ),
    planted(
        "R32",
        "the log is trimmed beyond what the store holds durably",
        &[Server],
        &["unexplained-end"],
    ),
    planted("R33", "places in flight are not given back", &[Storm], &["progress"]),
    planted(
        "R34",
        "a write that was overtaken by a truncation still counts",
        &[Storm],
        &["commit_is_durable", "promises_survive", "leader_completeness"],
    ),
    planted(
        "R35",
        "votes are asked for before the candidate's own log is durable",
        &[Storm],
        &["votes_are_asked_by_the_durable", "leader_completeness"],
    ),
    planted(
        "R41",
        "each late refusal has a whole window sent anew",
        &[Storm],
        &["appends_are_earned"],
    ),
    planted(
        "S02",
        "a snapshot's checksum is not looked at",
        &[Unit, Server],
        &["equal-hash", "equal-tables"],
    ),
    planted("S03", "checksums are not chained across segments", &[Unit], &[]),
    planted(
        "S04",
        "a full disk is answered as success",
        &[Server],
        &["lost-write", "equal-hash", "ground-truth", "final-state", "unexplained-end", "panic"],
    ),
    planted(
        "S06",
        "the store's transactions are not synced",
        &[Server],
        &["lost-write", "equal-hash", "unexplained-end", "final-state"],
    ),
    planted(
        "S08",
        "a batch that cannot be written is stored in part",
        &[Unit, Server],
        &["equal-hash", "convergence", "final-state", "unexplained-end", "panic"],
    ),
];
