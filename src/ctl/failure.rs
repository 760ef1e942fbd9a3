//! How a command fails: a sentence and an exit code, both etcdctl's.

use crate::client::{self, ConnectError};

/// What ends a command before its good end.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The process's exit code.
    pub code: u8,
    /// What follows `Error: `; nothing if all has been said.
    pub text: String,
    /// More, for a line of its own before it: a log line in JSON.
    pub detail: Option<String>,
}

/// The exit codes, by their meaning.
pub(crate) mod exit {
    /// Anything without a code of its own.
    pub const ERROR: u8 = 1;
    /// The client could not be made.
    pub const BAD_CONNECTION: u8 = 2;
    /// What was read from the terminal makes no sense.
    pub const INVALID_INPUT: u8 = 3;
    /// A format or an option's value that does not exist.
    pub const BAD_FEATURE: u8 = 4;
    /// The server ended it.
    pub const INTERRUPTED: u8 = 5;
    /// Too few, too many or malformed arguments.
    pub const BAD_ARGS: u8 = 128;
}

impl Failure {
    /// Makes one with any code.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), detail: None }
    }

    /// An argument is wrong.
    pub fn bad_args(text: impl Into<String>) -> Self {
        Self::new(exit::BAD_ARGS, text)
    }

    /// Puts words around the sentence.
    pub fn with_context(mut self, before: &str, after: &str) -> Self {
        self.text = format!("{before}{}{after}", self.text);
        self
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let line = serde_json::json!({
            "level": "warn",
            "logger": "etcd-client",
            "msg": "retrying of unary invoker failed",
            "error": error.detail(),
        });
        Self { code: exit::ERROR, text: error.to_string(), detail: Some(line.to_string()) }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match &error {
            ConnectError::Tls(_) => exit::BAD_ARGS,
            ConnectError::Endpoint(_) | ConnectError::NoEndpoints => exit::BAD_CONNECTION,
        };
        // The kernel's words as Go has them.
        let text = error.to_string();
        let text = text
            .replace("No such file or directory (os error 2)", "no such file or directory")
            .replace("Permission denied (os error 13)", "permission denied");
        Self::new(code, text)
    }
}

/// What a command gives back.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;
