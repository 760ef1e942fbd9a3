//! What clients do: they read, write and watch over real gRPC, and record all of it.
//!
//! Rules: a client has one operation open at a time; it never sends a mutation again whose outcome it
//! does not know (a retry may happen twice, and that would be the client's fault, not the store's);
//! what it records is what the checker of `jepsen/checker` judges.

pub mod draw;
pub mod endpoint;
pub mod history;
pub mod insider;
pub mod inspector;
pub mod prober;
pub mod watcher;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use checker::history::What;
use checker::op::{Operation, Reply};

use self::draw::Draw;
use self::endpoint::{Answer, Endpoint};
use self::history::History;
use crate::time::sleep;
use crate::trace::lock;

/// The names of the members that clients may call, kept by the world.
pub type Members = Arc<Mutex<Vec<String>>>;

/// What clients did, for the score of the workload.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Operations sent.
    pub sent: u64,
    /// Operations answered.
    pub answered: u64,
    /// Operations refused.
    pub refused: u64,
    /// Operations of unknown outcome.
    pub unknown: u64,
    /// Operations sent and answered, by kind.
    pub mix: BTreeMap<&'static str, (u64, u64)>,
}

/// What all clients share.
#[derive(Clone)]
pub struct Shared {
    /// Where they record.
    pub history: History,
    /// Whom they may call.
    pub members: Members,
    /// When they are to stop.
    pub stop: Arc<std::sync::atomic::AtomicBool>,
    /// What they did.
    pub score: Arc<Mutex<Score>>,
    /// The newest revision that somebody compacted at; 0 before.
    pub compacted: Arc<std::sync::atomic::AtomicI64>,
    /// The leases that somebody asked for.
    pub leases: Arc<Mutex<BTreeSet<i64>>>,
}

impl Shared {
    /// Says whether it is time to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Returns the number in a member's name, for the record.
pub fn number(member: &str) -> u64 {
    member.trim_start_matches('m').parse().unwrap_or(0)
}

/// Returns the name of an operation's kind, for the score.
fn kind(op: &Operation) -> &'static str {
    match op {
        Operation::Put(_) => "put",
        Operation::Range(range) if range.serializable => "range, serializable",
        Operation::Range(_) => "range",
        Operation::DeleteRange(_) => "delete",
        Operation::Txn(_) => "txn",
        Operation::Compact(_) => "compact",
        Operation::LeaseGrant(_) => "lease grant",
        Operation::LeaseRevoke(_) => "lease revoke",
        Operation::LeaseKeepAlive(_) => "lease keep-alive",
        Operation::LeaseTimeToLive(_) => "lease time-to-live",
    }
}

/// One client, until told to stop.
pub async fn client(
    process: u64,
    mut endpoint: Endpoint,
    mut draw: Draw,
    think: (u64, u64),
    patience: Duration,
    wander: u32,
    shared: Shared,
) {
    let mut member: Option<String> = None;
    let time = madsim::time::TimeHandle::current();
    while !shared.stopped() {
        let pause = draw.rng().between(think.0, think.1);
        sleep(Duration::from_millis(pause)).await;
        if let Some(rest) = draw.lull(time.elapsed()) {
            if let Some(to) = &member {
                last_words(process, &mut endpoint, to, patience, &shared, &mut draw).await;
            }
            sleep(rest).await;
            continue;
        }
        let names = lock(&shared.members).clone();
        if names.is_empty() {
            continue;
        }
        if member.as_ref().is_none_or(|m| !names.contains(m)) || draw.rng().chance(wander) {
            member = Some(draw.rng().pick(&names).clone());
        }
        let to = member.clone().expect("it was just chosen");
        let op = draw.operation();
        if let Operation::LeaseKeepAlive(renewal) = &op
            && let Some(wait) = draw.wait_for_end(renewal.id, time.elapsed())
        {
            sleep(wait).await;
            // Again and again across that moment: while the end is under way, each renewal must fail.
            for _ in 0..draw.rng().below(6) {
                perform(process, &mut endpoint, &to, &op, patience, &shared, &mut draw).await;
                let pause = draw.rng().between(1, 40);
                sleep(Duration::from_millis(pause)).await;
            }
        }
        let ok = perform(process, &mut endpoint, &to, &op, patience, &shared, &mut draw).await;
        // A fresh lease gets a key at once, often enough.
        if let (Operation::LeaseGrant(grant), true) = (&op, ok)
            && draw.rng().below(4) > 0
        {
            let mut put = draw.operation();
            if let Operation::Put(put) = &mut put {
                put.lease = grant.id;
                (put.ignore_lease, put.ignore_value) = (false, false);
            }
            perform(process, &mut endpoint, &to, &put, patience, &shared, &mut draw).await;
        }
        if !ok && draw.rng().below(2) == 0 {
            // As clients do: try another member after trouble.
            member = None;
        }
    }
}

/// What a client does before a lull, now and then: it deletes a key and compacts right there. What becomes of
/// a newest revision that holds nothing but a tombstone shows only while nobody writes a newer one.
async fn last_words(
    process: u64,
    endpoint: &mut Endpoint,
    to: &str,
    patience: Duration,
    shared: &Shared,
    draw: &mut Draw,
) {
    let Some(delete) = draw.last_delete() else { return };
    if perform(process, endpoint, to, &delete, patience, shared, draw).await {
        let compact = draw.compact_here();
        perform(process, endpoint, to, &compact, patience, shared, draw).await;
    }
}

/// Sends one operation, records it, and says whether it is known to have happened.
async fn perform(
    process: u64,
    endpoint: &mut Endpoint,
    to: &str,
    op: &Operation,
    patience: Duration,
    shared: &Shared,
    draw: &mut Draw,
) -> bool {
    let node = number(to);
    shared.history.record(process, node, What::Invoke(op.clone()));
    {
        let mut score = lock(&shared.score);
        score.sent += 1;
        score.mix.entry(kind(op)).or_default().0 += 1;
    }
    if let Operation::LeaseGrant(grant) = op {
        lock(&shared.leases).insert(grant.id);
    }
    let answer = endpoint.call(to, op, patience).await;
    let down = matches!(&answer, Answer::Refused(text) if endpoint::is_unreachable(text));
    let ok = take_in(process, node, answer, op, shared, draw);
    if down {
        // Nobody is there: like a client library, it does not ask again at once.
        let pause = draw.rng().between(20, 300);
        sleep(Duration::from_millis(pause)).await;
    }
    ok
}

/// Records how an operation went.
fn take_in(
    process: u64,
    node: u64,
    answer: Answer,
    op: &Operation,
    shared: &Shared,
    draw: &mut Draw,
) -> bool {
    let now = madsim::time::TimeHandle::current().elapsed();
    let mut score = lock(&shared.score);
    let (what, ok) = match answer {
        Answer::Ok(reply) => {
            score.answered += 1;
            score.mix.entry(kind(op)).or_default().1 += 1;
            if let Reply::LeaseGrant(grant) = &reply {
                draw.granted(grant.id);
                draw.lives(grant.id, now, grant.ttl);
            }
            draw.saw(&reply);
            if let (Operation::LeaseKeepAlive(asked), Reply::LeaseKeepAlive(told)) = (op, &reply) {
                match told.ttl {
                    0 => draw.gone(asked.id),
                    ttl => draw.lives(asked.id, now, ttl),
                }
            }
            if let Operation::Compact(compact) = op {
                shared.compacted.fetch_max(compact.revision, std::sync::atomic::Ordering::SeqCst);
            }
            (What::Ok(reply), true)
        }
        Answer::Refused(text) => {
            score.refused += 1;
            (What::Fail(text), false)
        }
        Answer::Unknown(text) => {
            score.unknown += 1;
            (What::Info(text), false)
        }
    };
    shared.history.record(process, node, what);
    ok
}
