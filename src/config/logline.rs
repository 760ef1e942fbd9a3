//! What the configuration has to say before a logger exists: lines kept as values, printed later by
//! whoever owns the clock and the outputs.

use std::panic::Location;

use serde_json::{Map, Value};

/// How grave a line is, and from which gravity on the server logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For a developer.
    Debug,
    /// Worth knowing.
    Info,
    /// Degraded, still right.
    Warn,
    /// A person must act.
    Error,
    /// etcd's level for what must not happen in development; nothing is logged at it.
    Dpanic,
    /// Followed by a crash.
    Panic,
    /// Followed by exit 1.
    Fatal,
}

impl LogLevel {
    /// Returns the name printed in a line.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Dpanic => "dpanic",
            LogLevel::Panic => "panic",
            LogLevel::Fatal => "fatal",
        }
    }

    /// Reads a name in small, large or mixed letters; no name is `info`.
    pub(super) fn parse(text: &str) -> Option<LogLevel> {
        match text.to_lowercase().as_str() {
            "debug" => Some(LogLevel::Debug),
            "info" | "" => Some(LogLevel::Info),
            "warn" | "warning" => Some(LogLevel::Warn),
            "error" => Some(LogLevel::Error),
            "dpanic" => Some(LogLevel::Dpanic),
            "panic" => Some(LogLevel::Panic),
            "fatal" => Some(LogLevel::Fatal),
            _ => None,
        }
    }
}

/// The shape of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Columns between tabs, for people.
    Console,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// The standard error stream.
    Stderr,
    /// The standard output stream.
    Stdout,
    /// The systemd journal.
    Journal,
    /// A file, by its path.
    File(String),
}

/// One line of log, to be printed later.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// How grave it is.
    pub level: LogLevel,
    /// The constant part.
    pub message: String,
    /// The facts, in the order of printing.
    pub fields: Vec<(&'static str, Value)>,
    /// `file.rs:line` of the statement.
    pub caller: String,
    /// Printed whatever `--log-level` says: it comes before that flag is looked at.
    pub early: bool,
}

impl LogLine {
    /// Makes a line that the configured level may hide.
    #[track_caller]
    pub fn new(level: LogLevel, message: &str, fields: Vec<(&'static str, Value)>) -> LogLine {
        let caller = caller_text(Location::caller());
        LogLine { level, message: message.to_owned(), fields, caller, early: false }
    }

    /// Makes a warning.
    #[track_caller]
    pub(super) fn warn(message: &str, fields: Vec<(&'static str, Value)>) -> LogLine {
        LogLine::new(LogLevel::Warn, message, fields)
    }

    /// Makes the line show at every configured level.
    #[must_use]
    pub(super) fn early(self) -> LogLine {
        LogLine { early: true, ..self }
    }

    /// Prints the line without its newline. `timestamp` is printed as it comes.
    pub fn render(&self, format: LogFormat, timestamp: &str) -> String {
        let mut object = Map::new();
        if format == LogFormat::Json {
            object.insert("level".to_owned(), self.level.as_str().into());
            object.insert("ts".to_owned(), timestamp.into());
            object.insert("caller".to_owned(), self.caller.as_str().into());
            object.insert("msg".to_owned(), self.message.as_str().into());
        }
        object.extend(self.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let empty = object.is_empty();
        let json = Value::Object(object).to_string();
        match format {
            LogFormat::Json => json,
            LogFormat::Console => {
                let level = self.level.as_str();
                let head = format!("{timestamp}\t{level}\t{}\t{}", self.caller, self.message);
                if empty { head } else { format!("{head}\t{json}") }
            }
        }
    }
}

/// Shortens a source location to its last directory, file and line.
fn caller_text(location: &Location<'_>) -> String {
    let file = location.file();
    let mut slashes = file.rmatch_indices(['/', '\\']).map(|(at, _)| at);
    let start = slashes.nth(1).map_or(0, |at| at + 1);
    format!("{}:{}", &file[start..], location.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_prints_as_json_and_as_columns() {
        let mut line = LogLine::new(LogLevel::Warn, "careful", vec![("name", "default".into())]);
        assert!(line.caller.starts_with("config/logline.rs:"), "{}", line.caller);
        line.caller = "a/b.rs:1".to_owned();
        assert_eq!(
            line.render(LogFormat::Json, "T"),
            r#"{"level":"warn","ts":"T","caller":"a/b.rs:1","msg":"careful","name":"default"}"#
        );
        assert_eq!(
            line.render(LogFormat::Console, "T"),
            "T\twarn\ta/b.rs:1\tcareful\t{\"name\":\"default\"}"
        );
        line.fields.clear();
        assert_eq!(line.render(LogFormat::Console, "T"), "T\twarn\ta/b.rs:1\tcareful");
    }

    #[test]
    fn levels_have_etcds_names() {
        for name in ["debug", "info", "warn", "error", "dpanic", "panic", "fatal"] {
            let level = LogLevel::parse(name).expect("the name is a level");
            assert_eq!(level.as_str(), name);
            assert_eq!(LogLevel::parse(&name.to_uppercase()), Some(level));
        }
        assert_eq!(LogLevel::parse(""), Some(LogLevel::Info));
        assert_eq!(LogLevel::parse("trace"), None);
    }
}
