//! Figures about gRPC calls, one set a method. All methods are known beforehand, so that counting is a search
//! in a short sorted list and a few additions; what counts is `net/calls.rs`.

use super::{Buckets, Counter, Histogram};

/// What a method takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// A message for a message.
    Unary,
    /// Many messages for one.
    Server,
    /// Messages both ways.
    Both,
}

impl Streams {
    /// Returns the value of the label `grpc_type`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Server => "server_stream",
            Self::Both => "bidi_stream",
        }
    }
}

/// The codes by the names that metrics have for them, in the order of their numbers.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Prometheus' default buckets, from 5 ms to 10 s.
const SECONDS: Buckets =
    Buckets::millis([5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000]);

/// One method's figures.
#[derive(Debug)]
pub struct Method {
    path: String,
    /// The service's full name.
    pub service: &'static str,
    /// The method's name.
    pub name: &'static str,
    /// What it takes and gives.
    pub streams: Streams,
    /// Calls begun.
    pub started: Counter,
    /// Messages received.
    pub received: Counter,
    /// Messages sent.
    pub sent: Counter,
    /// Calls ended, by code.
    pub handled: [Counter; CODES.len()],
    /// How long calls took, where that is asked for.
    pub seconds: Option<Histogram>,
}

/// All methods' figures.
#[derive(Debug)]
pub struct Calls {
    /// By path.
    methods: Box<[Method]>,
    /// Bytes of messages received.
    pub received_bytes: Counter,
    /// Bytes of messages sent.
    pub sent_bytes: Counter,
}

impl Calls {
    /// Makes the figures of these methods; with `timed`, how long calls take is among them.
    pub fn new(methods: &[(&'static str, &'static str, Streams)], timed: bool) -> Self {
        let mut methods: Vec<Method> = methods
            .iter()
            .map(|&(service, name, streams)| Method {
                path: format!("/{service}/{name}"),
                service,
                name,
                streams,
                started: Counter::default(),
                received: Counter::default(),
                sent: Counter::default(),
                handled: Default::default(),
                seconds: timed.then(|| Histogram::new(SECONDS)),
            })
            .collect();
        methods.sort_by(|a, b| a.path.cmp(&b.path));
        Self {
            methods: methods.into(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
        }
    }

    /// Returns the methods, by path.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Finds a method by its path.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.methods.binary_search_by(|method| method.path.as_str().cmp(path)).ok()
    }
}
