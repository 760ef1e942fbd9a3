//! The members' log lines, caught on the run's own thread.
//!
//! A line at ERROR that says that a peer broke the protocol is a violation by itself; any other line is
//! kept, the newest of each member, for the verdict of a failed run.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

use madsim::time::TimeHandle;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::trace::lock;

/// Lines kept a machine.
const KEPT: usize = 12;

/// What was logged. Clones share it.
#[derive(Clone, Default)]
pub struct Logs {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    echo: bool,
    level: Option<Level>,
    names: BTreeMap<u64, String>,
    recent: BTreeMap<u64, VecDeque<String>>,
    violation: Option<String>,
    lines: u64,
}

impl Logs {
    /// Starts catching; with `echo` lines are also printed as they come.
    pub fn new(echo: bool) -> Self {
        let logs = Self::default();
        let mut state = lock(&logs.state);
        state.echo = echo;
        state.level = Some(if echo { Level::DEBUG } else { Level::INFO });
        drop(state);
        logs
    }

    /// Catches the lines of this thread for as long as the guard lives.
    pub fn install(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(Catcher {
            logs: self.clone(),
            level: lock(&self.state).level.unwrap_or(Level::INFO),
        })
    }

    /// Gives a node of the simulation a name.
    pub fn name(&self, node: u64, name: &str) {
        lock(&self.state).names.insert(node, name.to_owned());
    }

    /// Returns the first line that is a violation.
    pub fn violation(&self) -> Option<String> {
        lock(&self.state).violation.clone()
    }

    /// Returns the newest lines of a machine.
    pub fn recent(&self, name: &str) -> Vec<String> {
        let state = lock(&self.state);
        let node = state.names.iter().find(|(_, n)| *n == name).map(|(node, _)| *node);
        node.and_then(|node| state.recent.get(&node)).into_iter().flatten().cloned().collect()
    }
}

struct Catcher {
    logs: Logs,
    level: Level,
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

impl Subscriber for Catcher {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && metadata.target().starts_with("mainstay")
            && *metadata.level() <= self.level
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        let at = TimeHandle::try_current().map_or(0.0, |time| time.elapsed().as_secs_f64());
        let inside = TimeHandle::try_current().is_some();
        let node: u64 =
            if inside { madsim::plugin::node().to_string().parse().unwrap_or(0) } else { 0 };
        let mut state = lock(&self.logs.state);
        let name = state.names.get(&node).cloned().unwrap_or_else(|| "clients".to_owned());
        crate::timeline::logged(&name, metadata.level().as_str(), &line.message, &line.fields);
        let text = format!("{at:10.4} {name} {} {}{}", metadata.level(), line.message, line.fields);
        state.lines += 1;
        if state.echo {
            eprintln!("{text}");
        }
        if *metadata.level() == Level::ERROR
            && line.message.contains("broke the protocol")
            && state.violation.is_none()
        {
            state.violation = Some(text.clone());
        }
        let recent = state.recent.entry(node).or_default();
        recent.push_back(text);
        if recent.len() > KEPT {
            recent.pop_front();
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
