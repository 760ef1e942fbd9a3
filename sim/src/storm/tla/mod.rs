//! Storms written down for a public TLA+ spec of Raft, line by line, so that TLC can say whether what
//! the core did is a behaviour of that spec: a judge who knows nothing of this code.
//!
//! The spec is etcd-io/raft's `tla/etcdraft.tla`, with `Traceetcdraft.tla` on top, which reads such
//! lines. `sim/TLA.md` says how to run it, and what it said.
//!
//! # What the spec calls what the core does
//!
//! | the core | the spec |
//! |---|---|
//! | starts, from nothing or from its disk | `InitState` |
//! | begins a campaign | `BecomeCandidate`; it votes for itself by a message to itself, heard when the vote is durable |
//! | wins | `BecomeLeader`, then `Replicate` for its empty entry |
//! | gives up in its term | `BecomeFollower` |
//! | appends a command | `Replicate`; its disk has it when it hears its own `MsgAppResp` |
//! | commits, as leader | `Commit` |
//! | one [`Ready`](mainstay::raft::Ready) | `Send…` for each message, then `Ready`, with which all of it is durable and on its way |
//! | steps a message | `Receive…`, with the state *before* it; term, truncation, append, commit and answer are its doing |
//! | says that its term is newer | a refusal of what it answers: `MsgAppResp` or `MsgVoteResp` |
//! | takes an append that begins below what is committed here | `Receive…` of the part above, which the leader is said to have sent as well: the spec, like etcd, would take nothing of the whole |
//!
//! The founding position `i1@t1` is the spec's first entry, the one with the founders' configuration.
//!
//! # What the spec cannot say
//!
//! It has no pre-votes, no queue of hand-overs on their way to a disk, no torn writes, and no commit
//! index that is forgotten: its `Ready` is atomic. Its answer to a snapshot is of a kind that its own
//! trace reader does not match, and its changes of members differ (one that comes too early is
//! appended as an empty entry there, and refused here). So a storm that is recorded
//! ([`Plan::for_spec`](super::Plan::for_spec)) has none of these, nor messages that arrive twice; a
//! power loss takes what the core had not handed over, and nothing else. Disks are as slow as ever:
//! what is promised leaves late, and counts late.
//!
//! These deliveries have no counterpart, and are lost on their way:
//!
//! - what the spec does not know and what would tell of a newer term, or of a commit (the answer to a
//!   pre-vote that goes with a refused vote);
//! - a request for a vote from a term whose leader the receiver knows and in which it gave none: the
//!   spec gives it;
//! - an append that ends below the receiver's commit index, which the spec answers with that index, and
//!   an acceptance that no message in the spec's bag says.
//!
//! Reads, transfers, the quorum check, the shield and forwarded proposals need no word: the spec lets
//! anybody campaign or give up at any time, and a message that a node ignores is one that never came.

mod line;
mod recorder;

use std::fmt;

use mainstay::raft::Random;

use self::line::Line;
pub(super) use self::recorder::Recorder;
use super::world::{Outcome, World};
use super::{Options, Plan, Violation, guarded};

/// A storm, written down.
#[derive(Debug)]
pub struct Trace {
    lines: Vec<Line>,
}

impl Trace {
    /// Returns how many lines it has.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Tells whether there are none. There always are: each founder starts.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Trace {
    /// Writes JSON lines, each ended by a newline. The first fields are those of etcd's log: the script
    /// beside the spec sorts lines by the second, which is here the place in the trace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, line) in (FIRST_PLACE..).zip(&self.lines) {
            writeln!(f, r#"{{"level":"debug","ts":{place},{line}"#)?;
        }
        Ok(())
    }
}

/// Places have one length, so that they sort as text too.
const FIRST_PLACE: u64 = 1_000_000_001;

/// How long the calm at the end lasts, in election timeouts: enough for an election and its commit.
const CALM_TIMEOUTS: u64 = 6;

/// Runs the storm that a seed has for the spec, and writes it down: the rough weather and some calm
/// after it, or as much of it as fits `lines_max` lines and the step that passes them.
///
/// The storm's own properties are checked too. The same seed gives the same bytes.
pub fn record(seed: u64, lines_max: usize) -> Result<Trace, Box<Violation>> {
    let mut rng = Random::new(seed);
    let plan = Plan::for_spec(&mut rng);
    let options = Options::default();
    guarded(seed, |at| {
        let mut world = World::new(plan, rng, &options);
        let held = weather(&mut world, lines_max);
        *at = world.now;
        held?;
        let recorder = world.recorder.take().expect("the plan asks for it");
        Ok(Trace { lines: recorder.into_lines().collect() })
    })
}

fn weather(world: &mut World, lines_max: usize) -> Outcome {
    let is_full = |world: &mut World| {
        world.recorder.as_ref().is_some_and(|recorder| recorder.len() >= lines_max)
    };
    let rough = world.plan.rough_timeouts * world.plan.timeout();
    if world.run(rough, is_full)? {
        return Ok(());
    }
    super::clear_up(world)?;
    let end = world.now + CALM_TIMEOUTS * world.plan.timeout();
    world.run(end, is_full).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The fields of a JSON object, as text; nested values whole. Enough of a parser for lines without
    /// escapes.
    fn fields(object: &str) -> BTreeMap<&str, &str> {
        let inner = object.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let inner = inner.unwrap_or_else(|| panic!("no object: {object}"));
        let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
        for (place, byte) in inner.bytes().enumerate() {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b',' if depth == 0 => {
                    parts.push(&inner[start..place]);
                    start = place + 1;
                }
                _ => {}
            }
        }
        parts.push(&inner[start..]);
        parts
            .into_iter()
            .map(|part| {
                let (name, value) = part.split_once(':').expect("a name and a value");
                (name.trim_matches('"'), value)
            })
            .collect()
    }

    fn is_number(text: &str) -> bool {
        text.parse::<u64>().is_ok()
    }

    fn is_id(text: &str) -> bool {
        text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).is_some_and(is_number)
    }

    /// What the spec reads of every line, and of a line about a message.
    fn assert_readable(line: &str) {
        let outer = fields(line);
        assert_eq!(outer["tag"], "\"trace\"", "{line}");
        let event = fields(outer["event"]);
        let state = fields(event["state"]);
        assert!(is_id(event["nid"]) && is_id(state["vote"]), "{line}");
        assert!(is_number(state["term"]) && is_number(state["commit"]), "{line}");
        assert!(is_number(event["log"]), "{line}");
        let roles = ["\"StateFollower\"", "\"StateCandidate\"", "\"StateLeader\""];
        assert!(roles.contains(&event["role"]), "{line}");
        assert!(event["conf"].starts_with("[[\"") && event["conf"].ends_with("],[]]"), "{line}");
        let name = event["name"].trim_matches('"');
        let bare = [
            "InitState",
            "BecomeCandidate",
            "BecomeLeader",
            "BecomeFollower",
            "Replicate",
            "Commit",
            "Ready",
        ];
        let Some(about) = name.strip_prefix("Send").or_else(|| name.strip_prefix("Receive")) else {
            assert!(bare.contains(&name) && !event.contains_key("msg"), "{line}");
            return;
        };
        let message = fields(event["msg"]);
        let kinds: &[&str] = match about {
            "RequestVoteRequest" => &["\"MsgVote\""],
            "RequestVoteResponse" => &["\"MsgVoteResp\""],
            "AppendEntriesRequest" => &["\"MsgApp\"", "\"MsgHeartbeat\""],
            "AppendEntriesResponse" => &["\"MsgAppResp\"", "\"MsgHeartbeatResp\""],
            _ => panic!("an event that the spec does not know: {line}"),
        };
        assert!(kinds.contains(&message["type"]), "{line}");
        assert!(is_id(message["from"]) && is_id(message["to"]), "{line}");
        for number in ["term", "entries", "logTerm", "index", "commit"] {
            assert!(is_number(message[number]), "{number}: {line}");
        }
        assert!(["true", "false"].contains(&message["reject"]), "{line}");
        let node = if name.starts_with("Send") { "from" } else { "to" };
        assert_eq!(event["nid"], message[node], "{line}");
    }

    #[test]
    fn a_seed_gives_the_same_bytes_twice_and_every_line_is_of_the_specs_form() {
        for seed in 0..20 {
            let once = record(seed, 3_000).expect("it holds").to_string();
            let again = record(seed, 3_000).expect("it holds").to_string();
            assert!(once == again, "seed {seed} gives two traces");
            once.lines().for_each(assert_readable);
        }
    }

    #[test]
    fn recorded_storms_have_elections_commits_restarts_and_refusals() {
        let (mut restarts, mut counts) = (0, [0; 5]);
        let names =
            ["BecomeLeader", "\"Commit\"", "ReceiveAppendEntriesRequest", "BecomeFollower", "true"];
        for seed in 0..20 {
            let trace = record(seed, 3_000).expect("it holds").to_string();
            let starts = |line: &&str| line.contains("InitState");
            restarts +=
                trace.lines().filter(starts).count() - trace.lines().take_while(starts).count();
            for (count, name) in counts.iter_mut().zip(names) {
                *count += trace.matches(name).count();
            }
        }
        let calm = "too calm to mean anything";
        assert!(restarts > 10, "{calm}: {restarts} restarts");
        assert!(counts.iter().all(|count| *count > 10), "{calm}: {names:?} {counts:?}");
    }

    #[test]
    fn a_trace_ends_soon_after_its_bound() {
        let trace = record(1, 100).expect("it holds");
        assert!((100..200).contains(&trace.len()), "{}", trace.len());
    }
}
