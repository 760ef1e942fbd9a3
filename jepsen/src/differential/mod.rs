//! The differential test: one random stream of requests goes to Mainstay and to an etcd, and each answer
//! must be equal, field by field, refusals and watch events included.
//!
//! Requests are sent one at a time, each to both servers at once; the next is drawn when both have
//! answered, so that the order of events is the same for both and equality is a fair demand. Both are
//! killed and started again on their data on the way. Before whatever would make history disappear (a compaction, a
//! crash) and once in a while, the watch streams are asked for progress, and what the watchers have said by
//! then is compared.
//!
//! Beforehand bad requests are sent one by one, each with the code and text that it has to get ([`refusals`]).
//!
//! A compaction takes effect at once; the rows behind it go later, and while they do, older etcds give hashes of no
//! state at all. So each compaction is waited for (a second, physical one queues up behind it) before the next
//! request. Ours is asked for its hashes before that, too: they must be those of afterwards already.
//!
//! Vocabulary: *ours* is the server under test, *the reference* is the etcd. What may differ is in [`compare`].
//!
//! Left out: concurrency (the checkers of histories are for that), lease expiry (clocks), auth.

mod compare;
mod generate;
mod refusals;
mod request;
mod side;
mod tally;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use mainstay::proto::etcdserverpb as pb;

use compare::{KNOWN, Verdict, compare, shorten, terse};
use generate::{Abilities, Generator, STREAMS};
use request::{Answer, Request};
use side::Side;
use tally::Tally;

/// The flags of `jepsen differential`.
#[derive(clap::Args)]
pub struct Options {
    /// The server under test.
    #[arg(long, default_value = "target/release/mainstay")]
    server: PathBuf,
    /// The etcd to compare with.
    #[arg(long, default_value = "/usr/bin/etcd")]
    reference: PathBuf,
    /// How many requests to send.
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// The seed that the stream is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often both servers are killed and started again.
    #[arg(long, default_value_t = 2)]
    restarts: u64,
    /// How deep txns are nested at most.
    #[arg(long, default_value_t = 3)]
    nesting: usize,
    /// Stop after so many differences.
    #[arg(long, default_value_t = 10)]
    differences_max: u64,
    /// Print each request and answer from this operation on.
    #[arg(long)]
    show_from: Option<u64>,
    /// Keep the data directories and logs here instead of in a temporary directory.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// A further argument for the server under test; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    server_argument: Vec<String>,
}

/// Runs the test. True if there was no difference.
pub async fn run(options: Options) -> Result<bool> {
    let temporary = tempfile::tempdir()?;
    let directory = options.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    let wrong = {
        let (ours, theirs) = (directory.join("server-bad"), directory.join("reference-bad"));
        let (ours, theirs) = tokio::join!(
            Side::start("server", &options.server, &ours, &options.server_argument, STREAMS),
            Side::start("reference", &options.reference, &theirs, &[], STREAMS),
        );
        refusals::run(&mut ours?, &mut theirs?).await?
    };
    let (ours, theirs) = (directory.join("server"), directory.join("reference"));
    let (ours, theirs) = tokio::join!(
        Side::start("server", &options.server, &ours, &options.server_argument, STREAMS),
        Side::start("reference", &options.reference, &theirs, &[], STREAMS),
    );
    let (ours, theirs) = (ours?, theirs?);
    println!("{} beside {}, seed {}", ours.name, theirs.name, options.seed);
    // What neither has in common is not asked for: RangeStream came with 3.7.
    let stream_ranges = theirs.version >= (3, 7, 0);
    let abilities = Abilities {
        stream_ranges,
        nesting: options.nesting,
        sort_checked: theirs.version >= (3, 6, 0),
        start_checked: theirs.version >= (3, 6, 0),
    };
    let mut run = Run {
        generator: Generator::new(options.seed, abilities),
        ours,
        theirs,
        started: Instant::now(),
        sent: 0,
        tally: Tally::default(),
        remembered: BTreeMap::new(),
        forgotten: BTreeMap::new(),
        recalled: 0,
        used: vec![0; KNOWN.len()],
        differences: 0,
        options,
    };
    let outcome = run.all().await;
    run.summary(stream_ranges);
    outcome?;
    Ok(run.differences == 0 && wrong == 0)
}

struct Run {
    options: Options,
    generator: Generator,
    ours: Side,
    theirs: Side,
    started: Instant,
    sent: u64,
    tally: Tally,
    /// What the reference answered about the hash of each compaction, while it remembers it.
    remembered: BTreeMap<i64, pb::HashKvResponse>,
    /// The same of those that it has forgotten because it was started again.
    forgotten: BTreeMap<i64, pb::HashKvResponse>,
    /// How often one of those was compared.
    recalled: u64,
    used: Vec<u64>,
    differences: u64,
}

impl Run {
    async fn all(&mut self) -> Result<()> {
        let mut told = Instant::now();
        let all: Vec<_> = (0..STREAMS).collect();
        let restart_every = self.options.operations / (self.options.restarts + 1) + 1;
        while self.sent < self.options.operations && self.differences < self.options.differences_max
        {
            let request = self.generator.request();
            match &request {
                Request::Compact(_) => self.level_watches(all.clone()).await,
                // What a watcher said last before its end would depend on timing.
                Request::WatchCancel { stream, .. } => self.level_watches(vec![*stream]).await,
                _ if self.sent % 500 == 499 => self.level_watches(all.clone()).await,
                _ => {}
            }
            self.sent += 1;
            let compacts = matches!(request, Request::Compact(_));
            let before = self.generator.compacted;
            self.ask(request).await;
            if compacts && self.generator.compacted != before {
                self.compacted().await;
            } else if self.sent % 1_000 == 0 {
                // The whole store, by its hash, where nothing is asked by chance.
                for request in self.whole_hashes() {
                    self.ask(request).await;
                }
            }
            if self.sent % restart_every == 0 {
                self.level_watches(all.clone()).await;
                let (ours, theirs) = tokio::join!(self.ours.crash(), self.theirs.crash());
                ours?;
                theirs?;
                self.generator.crashed();
                self.forgotten.append(&mut self.remembered);
                println!("{:>8} operations: both killed and started again", self.sent);
                self.whole_store().await;
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                println!(
                    "{:>8} operations, {:.0}/s, revision {}, {} differences",
                    self.sent,
                    self.rate(),
                    self.generator.revision,
                    self.differences
                );
            }
        }
        if self.differences < self.options.differences_max {
            self.level_watches(all.clone()).await;
            self.whole_store().await;
        }
        Ok(())
    }

    /// The hashes that are asked for where nothing is asked by chance.
    fn whole_hashes(&self) -> Vec<Request> {
        let compacted = self.generator.compacted;
        let revisions = [0, compacted, compacted + 1];
        revisions.map(|revision| Request::HashKv(pb::HashKvRequest { revision })).to_vec()
    }

    /// Waits for the compaction that was just made, and compares hashes: both servers', and ours with what
    /// it said while it was not through.
    async fn compacted(&mut self) {
        let requests = self.whole_hashes();
        let mut early = Vec::new();
        for request in &requests {
            early.push(self.ours.ask(request).await);
        }
        let (revision, physical) = (self.generator.compacted, true);
        self.ask(Request::Compact(pb::CompactionRequest { revision, physical })).await;
        for (request, early) in requests.into_iter().zip(early) {
            let late = self.ask(request.clone()).await;
            if early != late {
                self.differences += 1;
                println!(
                    "\nDIFFERENCE {} at operation {}: {request:?} before and after the scrub of {}:\n  {early:?}\n  \
                     {late:?}",
                    self.differences, self.sent, self.generator.compacted
                );
            }
        }
    }

    /// A reference that was started again does not know the hashes of earlier compactions any more, and ours does:
    /// what it said while it did is its answer.
    fn remember(&mut self, request: &Request, ours: &Answer, theirs: &mut Answer) {
        let Request::HashKv(asked) = request else { return };
        if asked.revision > self.generator.compacted {
            return;
        }
        // By the compaction before, which it was computed under, one knows a hash that was remembered.
        if let Answer::HashKv(hash) = theirs
            && hash.compact_revision < asked.revision
        {
            self.remembered.insert(asked.revision, *hash);
        } else if let Answer::HashKv(ours) = ours
            && let Some(hash) = self.forgotten.get(&asked.revision)
        {
            self.recalled += 1;
            *theirs = Answer::HashKv(pb::HashKvResponse { header: ours.header, ..*hash });
        }
    }

    /// Asks both, compares, and lets the generator learn. Returns our answer.
    async fn ask(&mut self, request: Request) -> Answer {
        let (ours, mut theirs) = tokio::join!(self.ours.ask(&request), self.theirs.ask(&request));
        self.tally.note(&request, &theirs);
        if self.options.show_from.is_some_and(|from| self.sent >= from) {
            println!(
                "#{} {}",
                self.sent,
                terse(&format!("{request:?}\n  ours      {ours:?}\n  reference {theirs:?}"))
            );
        }
        self.generator.learn(&request, &theirs);
        self.remember(&request, &ours, &mut theirs);
        let answer = ours.clone();
        let seconds = i64::try_from(self.started.elapsed().as_secs()).expect("a run ends");
        match compare(&request, ours, theirs, self.theirs.version, seconds) {
            Verdict::Equal(used) => used.into_iter().for_each(|known| self.used[known] += 1),
            Verdict::Different(lines) => {
                self.differences += 1;
                println!(
                    "\nDIFFERENCE {} at operation {} (revision {}, compacted {}; - reference, + server):\n  {}\n{lines}",
                    self.differences,
                    self.sent,
                    self.generator.revision,
                    self.generator.compacted,
                    shorten(&terse(&format!("{request:?}")), 4_000)
                );
                if matches!(request, Request::HashKv(_)) {
                    // Which of the two thinks better of it tells who was wrong.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let (ours, theirs) =
                        tokio::join!(self.ours.ask(&request), self.theirs.ask(&request));
                    println!("    half a second later:\n    - {theirs:?}\n    + {ours:?}");
                }
            }
        }
        answer
    }

    /// Compares what the streams' watchers have said up to now.
    async fn level_watches(&mut self, streams: Vec<usize>) {
        // The last stream's watchers may begin in the future, and then no progress is told there. A put that
        // its first watcher sees is behind everything else.
        let put = pb::PutRequest { key: "\0sentinel".into(), ..Default::default() };
        self.ask(Request::Put(put)).await;
        let (revision, compacted) = (self.generator.revision, self.generator.compacted);
        self.ask(Request::WatchLevel { streams, revision, compacted }).await;
    }

    /// Compares everything that can be read at the end of a part: all keys at several revisions, all leases.
    async fn whole_store(&mut self) {
        let all =
            pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let (from, to) = (self.generator.compacted.max(1), self.generator.revision);
        for part in 0..=20 {
            let revision = from + (to - from) * part / 20;
            self.ask(Request::Range(pb::RangeRequest { revision, ..all.clone() })).await;
            self.ask(Request::HashKv(pb::HashKvRequest { revision })).await;
        }
        self.ask(Request::LeaseLeases).await;
        for id in 1..60 {
            self.ask(Request::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys: true })).await;
        }
    }

    fn rate(&self) -> f64 {
        self.tally.requests as f64 / self.started.elapsed().as_secs_f64()
    }

    fn summary(&self, stream_ranges: bool) {
        self.tally.print();
        if !stream_ranges {
            println!("no range_stream: the reference has none");
        }
        for (known, count) in KNOWN.iter().zip(&self.used).filter(|(_, count)| **count > 0) {
            println!("accepted {count} times: {}", known.reason);
        }
        if self.recalled > 0 {
            println!(
                "accepted {} times: a restart takes the memory of compactions' hashes from the reference; ours equals \
                 what it said before",
                self.recalled
            );
        }
        if self.differences > 0 {
            println!("last words of the server:\n{}", self.ours.last_words());
        }
        println!(
            "{} operations (seed {}) at {:.0} requests/s, {} of them refused alike, {} watch events, {} hashes up to \
             revision {}, {} restarts: {}",
            self.sent,
            self.options.seed,
            self.rate(),
            self.tally.refused,
            self.tally.events,
            self.tally.hashes,
            self.generator.revision,
            self.options.restarts,
            match self.differences {
                0 => "no difference".to_owned(),
                count => format!("{count} DIFFERENCES"),
            }
        );
    }
}
