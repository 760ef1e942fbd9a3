//! Golden scripts: small clusters of bare cores, moved by hand. A file in `testscripts/` is a story;
//! its blocks are commands, a line `---`, and the effects they had, up to the next blank line.
//! `UPDATE_GOLDENFILES=1` writes the effects anew; the diff is what gets reviewed. A command in
//! parentheses shows nothing.
//!
//! | command | does |
//! |---|---|
//! | `cluster 3 election=10 inflight=4 …` | starts founders n1…n3 |
//! | `joiner 4` | starts a node that knows nothing |
//! | `campaign 1`, `tick 1 5` | lets time pass at n1: until it stands up, or so many ticks |
//! | `deliver 1>2 Append` | delivers what is on its way, in order; both filters may be left out |
//! | `drop …`, `again …` | loses it; delivers it and keeps a copy |
//! | `settle 1 2` | delivers until nothing moves, among those named or all |
//! | `lead 1` | makes n1 leader, silently |
//! | `propose 1 x`, `change 1 +4 ~5 -2`, `update 1 x` | proposes a command, a membership change |
//! | `read 1 7`, `transfer 1 2`, `trim 1 5` | … |
//! | `hold 1`, `release 1`, `write 1`, `persist 1 2` | n1's disk waits; catches up; writes what it holds longest; reports ticket 2 only |
//! | `refuse 1`, `lag 1`, `apply 1` | n1's machine refuses changes; applies later; applies now |
//! | `crash 1`, `restart 1` | loses what is not durable; starts from what is |
//! | `forget 1 5` | n1's disk, while n1 is down, loses what it called durable from entry 5 on |
//! | `lost 1 2`, `unreachable 1 2` | n1's connection to n2 broke; a message did not arrive |
//! | `snapshot 1 2`, `sent 1 2 ok`, `install 2` | n2's driver has staged n1's state; n1 hears of it; it is installed |
//! | `status 1`, `log 1` | shows the node |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::types::{Index, LogPosition, NodeId, Term};

/// One core with a disk and a machine in memory.
struct Host {
    node: Option<Node>,
    hard: HardState,
    base: LogPosition,
    entries: Vec<Entry>,
    conf: ConfState,
    applied: LogPosition,
    /// Hand-overs that the held disk has not written.
    queue: VecDeque<Ready>,
    holds: bool,
    lags: bool,
    refuses: bool,
    delivered: VecDeque<Entry>,
    installing: Option<SnapshotMeta>,
}

#[derive(Default)]
struct Stage {
    hosts: BTreeMap<NodeId, Host>,
    wire: VecDeque<Envelope>,
    config: BTreeMap<String, u64>,
    lives: u64,
    next: u64,
    out: String,
    silent: bool,
}

fn id(word: &str) -> NodeId {
    NodeId(word.parse().unwrap_or_else(|_| panic!("{word:?} is not a node")))
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is not a number"))
}

impl Stage {
    fn say(&mut self, line: impl AsRef<str>) {
        if !self.silent {
            self.out.push_str(line.as_ref());
            self.out.push('\n');
        }
    }

    fn host(&mut self, id: NodeId) -> &mut Host {
        self.hosts.get_mut(&id).unwrap_or_else(|| panic!("there is no {id}"))
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.host(id).node.as_mut().unwrap_or_else(|| panic!("{id} is dead"))
    }

    fn config(&self, id: NodeId) -> Config {
        let mut config = Config::new(id);
        let get = |name: &str| self.config.get(name).copied();
        config.election_ticks = get("election").map_or(10, |n| u32::try_from(n).unwrap());
        config.pre_vote = get("prevote") != Some(0);
        config.hasty_start = get("hasty") == Some(1);
        config.append_bytes_max = get("append").unwrap_or(config.append_bytes_max);
        config.inflight_max = get("inflight").map_or(256, |n| usize::try_from(n).unwrap());
        config.uncommitted_bytes_max = get("uncommitted").unwrap_or(config.uncommitted_bytes_max);
        config.committed_entries_max = get("page").map_or(4096, |n| usize::try_from(n).unwrap());
        config
    }

    fn add(&mut self, id: NodeId, restored: Restored) {
        let host = Host {
            node: None,
            hard: restored.hard_state,
            base: restored.base,
            entries: Vec::new(),
            conf: restored.conf_state,
            applied: restored.base,
            queue: VecDeque::new(),
            holds: false,
            lags: false,
            refuses: false,
            delivered: VecDeque::new(),
            installing: None,
        };
        self.hosts.insert(id, host);
        self.start(id);
    }

    fn start(&mut self, id: NodeId) {
        self.lives += 1;
        let (config, seed) = (self.config(id), id.get() * 1_000 + self.lives);
        let host = self.host(id);
        let restored = Restored {
            hard_state: host.hard,
            conf_state: host.conf.clone(),
            base: host.base,
            entries: host.entries.clone(),
            applied: host.applied.index,
            seed,
        };
        match Node::new(config, restored) {
            Ok(node) => host.node = Some(node),
            Err(error) => self.say(format!("{id} refuses to start: {error}")),
        }
    }

    fn step(&mut self, id: NodeId, input: Input) {
        self.node(id).step(input);
        self.drive(id);
    }

    fn drive(&mut self, id: NodeId) {
        self.node(id).check();
        while let Some(ready) = self.node(id).take_ready() {
            self.honour(id, ready);
        }
    }

    fn honour(&mut self, id: NodeId, mut ready: Ready) {
        if let Some(soft) = ready.soft_state {
            let leader = soft.leader.map_or("nobody".to_owned(), |leader| leader.to_string());
            self.say(format!("{id} {:?} in {}, {leader} leads", soft.role, soft.term));
        }
        for violation in &ready.violations {
            self.say(format!("{id} VIOLATION {violation}"));
        }
        self.send(std::mem::take(&mut ready.messages_now));
        if let Some(meta) = ready.install.take() {
            self.say(format!("{id} is to install {}", meta.position));
            self.host(id).installing = Some(meta);
        }
        let committed = std::mem::take(&mut ready.committed);
        for read in &ready.reads {
            self.say(format!("{id} may read #{} at {}", read.id.0, read.index));
        }
        for read in &ready.failed_reads {
            self.say(format!("{id} gives up read #{}: {}", read.id.0, read.reason));
        }
        for refused in &ready.refused {
            self.say(format!("{id} refused: {}", refused.reason));
        }
        for request in &ready.snapshots_to_send {
            let SnapshotRequest { to, at_least, .. } = request;
            self.say(format!("{id} must send {to} a snapshot of at least {at_least}"));
        }
        if let Some(ticket) = ready.ticket {
            let mut line = format!("{id} writes {ticket}");
            if let Some(HardState { term, vote, commit }) = ready.hard_state {
                let vote = vote.map_or("nobody".to_owned(), |vote| vote.to_string());
                let _ = write!(line, " ({term}, vote {vote}, commit {commit})");
            }
            if let Some(from) = ready.truncate_from {
                let _ = write!(line, " cut from {from}");
            }
            if !ready.entries.is_empty() {
                let _ = write!(line, " {}", show_entries(&ready.entries));
            }
            self.say(line);
            self.host(id).queue.push_back(ready);
            if !self.host(id).holds {
                self.write_all(id);
            }
        }
        if !committed.is_empty() {
            self.say(format!("{id} delivers {}", show_entries(&committed)));
            self.host(id).delivered.extend(committed);
            if !self.host(id).lags {
                self.apply(id);
            }
        }
    }

    fn write_all(&mut self, id: NodeId) {
        while self.write_oldest(id) {}
    }

    fn write_oldest(&mut self, id: NodeId) -> bool {
        let Some(ready) = self.host(id).queue.pop_front() else { return false };
        self.write(id, &ready);
        self.step(id, Input::Persisted(ready.ticket.expect("it was queued for its ticket")));
        self.send(ready.messages_after_persist);
        true
    }

    fn write(&mut self, id: NodeId, ready: &Ready) {
        let host = self.host(id);
        host.hard = ready.hard_state.unwrap_or(host.hard);
        if let Some(from) = ready.truncate_from {
            host.entries.retain(|entry| entry.index < from);
        }
        host.entries.extend(ready.entries.iter().cloned());
    }

    fn apply(&mut self, id: NodeId) {
        while let Some(entry) = self.host(id).delivered.pop_front() {
            let host = self.host(id);
            host.applied = entry.position();
            if let Payload::ConfChange(change) = &entry.payload {
                let next = if host.refuses { None } else { host.conf.changed(change).ok() };
                let accepted = next.is_some();
                host.conf = next.unwrap_or_else(|| host.conf.clone());
                let conf = show_conf(&host.conf);
                self.say(format!("{id} applies {}: {conf}", entry.index));
                self.node(id).step(Input::ConfApplied { index: entry.index, accepted });
            }
        }
        let applied = self.host(id).applied.index;
        self.step(id, Input::Applied(applied));
    }

    fn send(&mut self, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            let Envelope { from, to, term, message } = &envelope;
            self.say(format!("  {from} → {to} {term} {}", show_message(message)));
            self.wire.push_back(envelope);
        }
    }

    /// Takes matching messages off the wire: `1>2`, `1>`, `>2` and a kind may be given.
    fn take(&mut self, words: &[&str]) -> Vec<Envelope> {
        let matches = |envelope: &Envelope| {
            words.iter().all(|word| match word.split_once('>') {
                Some((from, to)) => {
                    (from.is_empty() || id(from) == envelope.from)
                        && (to.is_empty() || id(to) == envelope.to)
                }
                None => *word == envelope.message.name(),
            })
        };
        let wire = std::mem::take(&mut self.wire);
        let (taken, left): (Vec<_>, Vec<_>) = wire.into_iter().partition(matches);
        self.wire = left.into();
        taken
    }

    fn deliver(&mut self, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            let to = envelope.to;
            if self.hosts.get(&to).is_some_and(|host| host.node.is_some()) {
                self.step(to, Input::Message(envelope));
            }
        }
    }

    fn settle(&mut self, among: &BTreeSet<NodeId>) {
        for _ in 0..200 {
            let inside = |e: &Envelope| among.contains(&e.from) && among.contains(&e.to);
            let (now, later): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.wire).into_iter().partition(inside);
            self.wire = later;
            if now.is_empty() {
                return;
            }
            self.deliver(now.into());
        }
        panic!("it does not settle");
    }

    fn campaign(&mut self, id: NodeId) {
        for _ in 0..100 {
            let before = self.node(id).role();
            let asked = self.wire.len();
            self.step(id, Input::Tick);
            let asks = |e: &Envelope| ["PreVote", "Vote"].contains(&e.message.name());
            let asks = self.wire.iter().skip(asked).any(asks);
            if asks || self.node(id).role() != before {
                return;
            }
        }
        self.say(format!("{id} does not campaign"));
    }

    fn propose(&mut self, id: NodeId, payload: Payload) {
        self.next += 1;
        let proposal = Proposal { id: ProposalId(self.next), payload };
        self.step(id, Input::Propose(proposal));
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().expect("a command has a verb");
        match (*verb, rest) {
            ("cluster", [count, options @ ..]) => {
                for option in options {
                    let (name, value) = option.split_once('=').expect("an option is name=number");
                    self.config.insert(name.to_owned(), number(value));
                }
                for node in 1..=number(count) {
                    self.add(NodeId(node), Restored::founder((1..=number(count)).map(NodeId), 0));
                }
            }
            ("joiner", [node]) => self.add(id(node), Restored::joiner(0)),
            ("campaign", [node]) => self.campaign(id(node)),
            ("lead", [node]) => {
                self.campaign(id(node));
                let all = self.hosts.keys().copied().collect();
                self.settle(&all);
                assert_eq!(self.node(id(node)).role(), Role::Leader, "{node} does not lead");
            }
            ("tick", [node]) => self.step(id(node), Input::Tick),
            ("tick", [node, times]) => {
                (0..number(times)).for_each(|_| self.step(id(node), Input::Tick));
            }
            ("deliver", filter) => {
                let taken = self.take(filter);
                self.deliver(taken);
            }
            ("again", filter) => {
                let taken = self.take(filter);
                self.deliver(taken.clone());
                self.wire.extend(taken);
            }
            ("drop", filter) => drop(self.take(filter)),
            ("settle", []) => {
                let all = self.hosts.keys().copied().collect();
                self.settle(&all);
            }
            ("settle", some) => self.settle(&some.iter().map(|word| id(word)).collect()),
            ("propose", [node, text]) => {
                self.propose(id(node), Payload::Command(Bytes::from((*text).to_owned())));
            }
            ("change", [node, items @ ..]) => {
                let items = items.iter().map(|item| {
                    let (sign, node) = item.split_at(1);
                    match sign {
                        "+" => ConfChangeItem::AddVoter(id(node)),
                        "~" => ConfChangeItem::AddLearner(id(node)),
                        "-" => ConfChangeItem::Remove(id(node)),
                        _ => panic!("{item:?} is no change"),
                    }
                });
                let change = ConfChange::members(items.collect(), Bytes::new());
                self.propose(id(node), Payload::ConfChange(change));
            }
            ("update", [node, text]) => {
                let change = ConfChange::update(Bytes::from((*text).to_owned()));
                self.propose(id(node), Payload::ConfChange(change));
            }
            ("read", [node, read]) => self.step(id(node), Input::ReadIndex(ReadId(number(read)))),
            ("transfer", [node, to]) => self.step(id(node), Input::TransferLeader(id(to))),
            ("trim", [node, index]) => {
                let index = Index(number(index));
                self.step(id(node), Input::Trim(index));
            }
            ("hold", [node]) => self.host(id(node)).holds = true,
            ("release", [node]) => {
                self.host(id(node)).holds = false;
                self.write_all(id(node));
            }
            ("write", [node]) => {
                assert!(self.write_oldest(id(node)), "{node}'s disk holds nothing")
            }
            ("persist", [node, ticket]) => {
                let wanted = number(ticket);
                let is = |ready: &Ready| ready.ticket.is_some_and(|t| t.number == wanted);
                let queue = &self.host(id(node)).queue;
                let ready = queue.iter().find(|ready| is(ready)).expect("a held ticket").clone();
                self.step(id(node), Input::Persisted(ready.ticket.expect("it has one")));
            }
            ("refuse", [node]) => self.host(id(node)).refuses = true,
            ("lag", [node]) => self.host(id(node)).lags = true,
            ("apply", [node]) => {
                self.host(id(node)).lags = false;
                self.apply(id(node));
            }
            ("crash", [node]) => {
                let host = self.host(id(node));
                host.node = None;
                host.queue.clear();
                host.delivered.clear();
                host.installing = None;
            }
            ("forget", [node, index]) => {
                let index = Index(number(index));
                let host = self.host(id(node));
                host.entries.retain(|entry| entry.index < index);
                host.hard.commit = host.hard.commit.min(index.prev().expect("an entry's index"));
            }
            ("restart", [node]) => self.start(id(node)),
            ("lost", [node, peer]) => self.step(id(node), Input::PeerConnectionLost(id(peer))),
            ("unreachable", [node, peer]) => self.step(id(node), Input::PeerUnreachable(id(peer))),
            ("snapshot", [from, to]) => {
                let (from, to) = (id(from), id(to));
                let term = self.node(from).term();
                let host = self.host(from);
                let meta = SnapshotMeta { position: host.applied, conf_state: host.conf.clone() };
                let request = SnapshotRequest { to, term, at_least: Index(0) };
                self.step(to, Input::Message(request.envelope(from, meta)));
            }
            ("sent", [node, peer, outcome]) => {
                let at = self.host(id(node)).applied.index;
                let (to, ok) = (id(peer), *outcome == "ok");
                self.step(id(node), Input::SnapshotSent { to, ok, at });
            }
            ("install", [node]) => {
                let host = self.host(id(node));
                let meta = host.installing.take().expect("something is to be installed");
                host.base = meta.position;
                host.entries.clear();
                host.applied = meta.position;
                host.conf = meta.conf_state.clone();
                host.delivered.clear();
                self.step(id(node), Input::SnapshotInstalled(meta));
            }
            ("status", [node]) => {
                let node = id(node);
                let status = self.node(node).status();
                let leader = status.leader.map_or("nobody".to_owned(), |id| id.to_string());
                let mut line = format!(
                    "{node} {:?} {} follows {leader}; commit {} applied {} durable {} last {}; {}",
                    status.role,
                    status.term,
                    status.commit,
                    status.applied,
                    status.durable,
                    status.last,
                    show_conf(&status.conf_state)
                );
                for (peer, p) in &status.peers {
                    let _ = write!(
                        line,
                        "\n  {peer} {:?} matched {} next {}",
                        p.state, p.matched, p.next
                    );
                    if p.inflight > 0 {
                        let _ = write!(line, " inflight {}", p.inflight);
                    }
                }
                self.say(line);
            }
            ("log", [node]) => {
                let node = id(node);
                let host = &self.hosts[&node];
                let core = host.node.as_ref().expect("it lives");
                let first = core.base().index.get() + 1;
                let entries: Vec<Entry> = (first..=core.last().index.get())
                    .filter_map(|index| core.entry_at(Index(index)).cloned())
                    .collect();
                self.say(format!("{node} {}", show_entries(&entries)));
            }
            _ => panic!("{line:?} is no command"),
        }
    }
}

fn show_entries(entries: &[Entry]) -> String {
    let one = |entry: &Entry| {
        let what = match &entry.payload {
            Payload::Empty => "∅".to_owned(),
            Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Payload::ConfChange(change) => match &change.kind {
                ConfChangeKind::LeaveJoint => "leave".to_owned(),
                ConfChangeKind::Update => "update".to_owned(),
                ConfChangeKind::Members(items) => {
                    let items = items.iter().map(|item| match item {
                        ConfChangeItem::AddVoter(id) => format!("+{id}"),
                        ConfChangeItem::AddLearner(id) => format!("~{id}"),
                        ConfChangeItem::Remove(id) => format!("-{id}"),
                    });
                    items.collect::<Vec<_>>().join(",")
                }
            },
        };
        format!("{}={what}", entry.position())
    };
    let all: Vec<String> = entries.iter().map(one).collect();
    format!("[{}]", all.join(" "))
}

fn show_conf(conf: &ConfState) -> String {
    let ids =
        |ids: &BTreeSet<NodeId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut text = format!("voters {}", ids(&conf.voters));
    if conf.is_joint() {
        let _ = write!(text, ", outgoing {}", ids(&conf.voters_outgoing));
    }
    if !conf.learners.is_empty() {
        let _ = write!(text, ", learners {}", ids(&conf.learners));
    }
    if !conf.learners_next.is_empty() {
        let _ = write!(text, ", then learners {}", ids(&conf.learners_next));
    }
    text
}

fn show_message(message: &Message) -> String {
    let name = message.name();
    let yes = |granted: &bool| if *granted { "yes" } else { "no" };
    match message {
        Message::PreVote { next_term, last, commit } => {
            format!("{name} for {next_term}, log to {last}, commit {commit}")
        }
        Message::PreVoteResponse { next_term, granted, commit } => {
            format!("{name} for {next_term}: {}, commit {commit}", yes(granted))
        }
        Message::Vote { last, commit, transfer } => {
            let by = if *transfer { ", by transfer" } else { "" };
            format!("{name}, log to {last}, commit {commit}{by}")
        }
        Message::VoteResponse { granted } => format!("{name}: {}", yes(granted)),
        Message::Append { prev, entries, commit } => {
            format!("{name} after {prev} {} commit {commit}", show_entries(entries))
        }
        Message::AppendResponse(AppendResponse::Accept { matched }) => format!("Accept {matched}"),
        Message::AppendResponse(AppendResponse::Reject { prev, hint }) => {
            format!("Reject {prev}, try {hint}")
        }
        Message::Heartbeat { commit, round } => format!("{name} commit {commit} round {round}"),
        Message::HeartbeatResponse { round } => format!("{name} round {round}"),
        Message::InstallSnapshot { meta } => format!("{name} {}", meta.position),
        Message::Propose { proposals } => format!("{name} {} command(s)", proposals.len()),
        Message::ProposeRefused { reason, .. } => format!("{name}: {reason}"),
        // The numbers are random on purpose; what matters is that they pair up.
        Message::ReadIndex { .. } => name.to_owned(),
        Message::ReadIndexResponse { index, .. } => match index {
            Some(index) => format!("{name} {index}"),
            None => format!("{name}: none"),
        },
        Message::TimeoutNow | Message::NewerTerm => name.to_owned(),
    }
}

/// Runs a script and returns it with the effects that the commands really had.
fn play(script: &str) -> String {
    let mut stage = Stage::default();
    let mut played = String::new();
    for block in script.trim().split("\n\n") {
        let (commands, shows) = match block.split_once("\n---") {
            Some((commands, _)) => (commands, true),
            None => (block, block.lines().any(|line| !line.starts_with(['#', '(']))),
        };
        for line in commands.lines().filter(|line| !line.starts_with('#')) {
            let silenced = line.strip_prefix('(').and_then(|line| line.strip_suffix(')'));
            stage.silent = silenced.is_some();
            stage.run(silenced.unwrap_or(line));
        }
        if !played.is_empty() {
            played.push('\n');
        }
        let effects = std::mem::take(&mut stage.out);
        played.push_str(commands.trim_end());
        played.push('\n');
        if shows {
            let effects = if effects.is_empty() { "ok\n".to_owned() } else { effects };
            let _ = write!(played, "---\n{effects}");
        }
    }
    played
}

#[test]
fn scripts_show_the_effects_they_record() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/testscripts");
    let files = std::fs::read_dir(&folder).expect("the folder of scripts can be read");
    let mut files: Vec<_> = files.map(|file| file.expect("a readable entry").path()).collect();
    files.sort();
    assert!(files.len() >= 25, "only {} scripts were found", files.len());
    let mut differ = Vec::new();
    for file in files {
        let recorded = std::fs::read_to_string(&file).expect("a script is text");
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        println!("playing {name}");
        let played = play(&recorded);
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::write(&file, played).expect("a script can be written");
        } else if played != recorded {
            differ.push(format!("{name} now plays as\n{played}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
}

#[test]
fn two_nodes_fed_alike_answer_alike() {
    let script =
        "(cluster 3)\n(lead 1)\npropose 1 a\nread 2 1\nsettle\nlost 2 1\nlost 3 1\nsettle 2 3\n";
    assert_eq!(play(script), play(script));
}

#[test]
fn a_log_that_lost_committed_entries_is_refused() {
    let mut restored = Restored::founder([NodeId(1)], 0);
    restored.hard_state = HardState { term: Term(2), vote: None, commit: Index(5) };
    let refused = Node::new(Config::new(NodeId(1)), restored).map(|node| node.commit());
    let last = LogPosition::new(Index(1), Term(1));
    assert_eq!(refused, Err(RestoreError::CommitBeyondLog { commit: Index(5), last }));
}

#[test]
fn a_torn_hand_over_lifts_the_term_to_that_of_the_log() {
    let mut restored = Restored::founder([NodeId(1)], 0);
    restored.hard_state.vote = Some(NodeId(7));
    let (term, index) = (Term(4), Index(2));
    restored.entries.push(Entry { term, index, payload: Payload::Empty });
    let node = Node::new(Config::new(NodeId(1)), restored).expect("nothing was promised in t4");
    assert_eq!(node.term(), term);
}

#[cfg(feature = "mutants")]
#[test]
fn planted_ignorance_of_what_the_log_proves_is_seen() {
    let script = include_str!("testscripts/changes_in_the_log.txt");
    assert_eq!(play(script), script);
    let clean = crate::mutants::activate(&["E30"]);
    let played = play(script);
    crate::mutants::activate(&clean.iter().map(String::as_str).collect::<Vec<_>>());
    assert_ne!(played, script);
    println!("planted E30: seen by scripts_show_the_effects_they_record");
}
