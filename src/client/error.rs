//! What went wrong with a call, in the words of etcd's Go client.

use std::fmt;

use tonic::{Code, Status};

/// Why a call has no answer.
#[derive(Clone, Debug)]
pub enum Error {
    /// The server answered with an error, or the connection broke.
    Status(Status),
    /// Time ran out, with the reason the last attempt to connect failed, if one did.
    Deadline(Option<String>),
}

impl Error {
    /// Sorts a status; one about time is a deadline wherever it was noticed.
    pub(super) fn of(status: Status) -> Self {
        match status.code() {
            Code::DeadlineExceeded => Self::Deadline(None),
            Code::OutOfRange => Self::Status(crate::net::grpc::sized(status)),
            _ => Self::Status(status),
        }
    }

    /// Returns gRPC's code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Status(status) => status.code(),
            Self::Deadline(_) => Code::DeadlineExceeded,
        }
    }

    /// Returns everything that is known, which is more than what is printed: why there was no
    /// connection, above all.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Status(status) => rpc_error(status.code(), status.message()),
            Self::Deadline(None) => rpc_error(Code::DeadlineExceeded, "context deadline exceeded"),
            Self::Deadline(Some(reason)) => rpc_error(
                Code::DeadlineExceeded,
                &format!(
                    "latest balancer error: last connection error: connection error: \
                     desc = \"transport: Error while dialing: {reason}\""
                ),
            ),
        }
    }
}

impl fmt::Display for Error {
    /// What the server says in words of its own is printed without the code; the rest with it.
    ///
    /// NB: etcd's client knows its server's errors by a list. Here the prefix tells, except for
    /// code `Unknown`, which is what an error has that is on no list.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline(_) => f.write_str("context deadline exceeded"),
            Self::Status(status)
                if status.message().starts_with("etcdserver: ")
                    && (status.code() != Code::Unknown || is_listed(status.message())) =>
            {
                f.write_str(status.message())
            }
            Self::Status(status) => f.write_str(&rpc_error(status.code(), status.message())),
        }
    }
}

impl std::error::Error for Error {}

/// The errors of code `Unknown` that are on the list all the same.
fn is_listed(message: &str) -> bool {
    message == "etcdserver: invalid auth management"
}

fn rpc_error(code: Code, message: &str) -> String {
    let name = match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {name} desc = {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_print_as_gos_client_prints_them() {
        let text = |code, message: &str| Error::of(Status::new(code, message)).to_string();
        assert_eq!(
            text(Code::InvalidArgument, "etcdserver: key is not provided"),
            "etcdserver: key is not provided"
        );
        assert_eq!(
            text(Code::Unknown, "etcdserver: too many requests"),
            "rpc error: code = Unknown desc = etcdserver: too many requests"
        );
        assert_eq!(text(Code::DeadlineExceeded, "anything"), "context deadline exceeded");
        assert_eq!(text(Code::Cancelled, "gone"), "rpc error: code = Canceled desc = gone");
        assert_eq!(
            text(
                Code::OutOfRange,
                "Error, decoded message length too large: found 3 bytes, the limit is: 2 bytes"
            ),
            "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (3 vs. 2)"
        );
    }
}
