//! Log lines as etcd prints them: one JSON object a line, on standard error unless told otherwise.
//!
//! A tracing layer turns each event into a [`LogLine`]: the message is the constant, fields follow in
//! the order of the statement. Errors that are printed by `%error` stay texts.

use std::io::Write as _;
use std::sync::Mutex;
use std::time::SystemTime;

use mainstay::config::{LogFormat, LogLevel, LogLine, LogOutput};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Where lines go and what they look like.
pub struct Sink {
    format: LogFormat,
    level: LogLevel,
    stdout: bool,
    stderr: bool,
    /// Keeps lines of two threads apart.
    turn: Mutex<()>,
}

impl Sink {
    /// Makes the sink that the flags ask for.
    pub fn new(format: LogFormat, level: LogLevel, outputs: &[LogOutput]) -> Self {
        let stdout = outputs.contains(&LogOutput::Stdout);
        let stderr = !stdout || outputs.contains(&LogOutput::Stderr);
        Self { format, level, stdout, stderr, turn: Mutex::new(()) }
    }

    /// Prints a line, whatever its level.
    pub fn print(&self, line: &LogLine) {
        let text = line.render(self.format, &timestamp());
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A log that nobody can read any more is no reason to stop serving.
        if self.stderr {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        if self.stdout {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }
}

/// Sends the program's events to a sink.
pub fn install(sink: std::sync::Arc<Sink>) {
    let subscriber = tracing_subscriber::registry().with(Lines { sink });
    tracing::subscriber::set_global_default(subscriber).expect("the log is installed once");
}

/// Formats now as etcd does, in UTC: `2006-01-02T15:04:05.000000Z`.
pub fn timestamp() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or(0));
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Turns days since 1970-01-01 into a date of the Gregorian calendar, by counting 400-year eras that
/// begin in March, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

struct Lines {
    sink: std::sync::Arc<Sink>,
}

impl Lines {
    /// Whether a statement of this kind is printed. Libraries below us speak of their own affairs; only what
    /// we say is etcd's log.
    fn prints(&self, meta: &Metadata<'_>) -> bool {
        level(*meta.level()) >= self.sink.level && meta.target().starts_with("mainstay")
    }
}

fn level(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG | Level::TRACE => LogLevel::Debug,
    }
}

// NB: the first three decide what logging costs when nothing is printed. Without them every statement of the
// HTTP/2 library is on: dozens a request, spans among them, which was a quarter of the time a put took.
impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn register_callsite(&self, meta: &'static Metadata<'static>) -> Interest {
        if self.prints(meta) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, meta: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.prints(meta)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let all = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        let finest = all.into_iter().find(|finest| level(*finest) >= self.sink.level);
        Some(finest.map_or(LevelFilter::OFF, LevelFilter::from_level))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let file = meta.file().unwrap_or_default();
        let short = file.rsplitn(3, '/').take(2).collect::<Vec<_>>();
        let short = short.into_iter().rev().collect::<Vec<_>>().join("/");
        let mut line = LogLine::new(level(*meta.level()), &fields.message, fields.rest);
        line.caller = format!("{short}:{}", meta.line().unwrap_or(0));
        self.sink.print(&line);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => self.rest.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mainstay::config::{LogFormat, LogLevel};
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt;

    use super::{Lines, Sink, civil};

    #[test]
    fn what_is_not_printed_is_switched_off() {
        let sink = Arc::new(Sink::new(LogFormat::Json, LogLevel::Warn, &[]));
        let subscriber = tracing_subscriber::registry().with(Lines { sink });
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::enabled!(target: "mainstay::server", Level::WARN));
            assert!(!tracing::enabled!(target: "mainstay::server", Level::INFO));
            // The HTTP/2 library has dozens of these for each request.
            assert!(!tracing::enabled!(target: "h2::proto", Level::TRACE));
            assert!(!tracing::enabled!(target: "h2::proto", Level::ERROR));
            let span = tracing::trace_span!(target: "h2::proto", "poll");
            assert!(span.is_disabled());
        });
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_777), (2026, 11, 20));
        assert_eq!(civil(-1), (1969, 12, 31));
    }
}
