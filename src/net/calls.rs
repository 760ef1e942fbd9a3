//! Counts gRPC calls: how many began and ended, with which code, after which messages.
//!
//! Messages are counted where their bytes pass, by their five-byte heads, in both directions;
//! a call ends with its trailers, or as `Canceled` when its answer is dropped before: the client went away
//! or took it back.
//!
//! What is counted is what grpc-go's usual interceptors count; calls of methods that do not exist are
//! none of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::Code;

use crate::metrics::{Calls, Method};
use crate::runtime::Instant;

/// Reads the runtime's clock, without its type.
pub(super) type Clock = Box<dyn Fn() -> Instant + Send>;

/// A call that is being counted. Dropped before its end, it was cancelled.
pub(super) struct Call {
    calls: Arc<Calls>,
    index: usize,
    /// When it began and how to tell how long ago that is, where calls are timed.
    timer: Option<(Instant, Clock)>,
    ended: bool,
}

impl Call {
    /// Begins to count a call, if there is such a method.
    pub(super) fn begin(
        calls: &Arc<Calls>,
        path: &str,
        clock: impl FnOnce() -> Clock,
    ) -> Option<Self> {
        let index = calls.find(path)?;
        let method = &calls.methods()[index];
        method.started.inc();
        let timer = method.seconds.as_ref().map(|_| {
            let clock = clock();
            (clock(), clock)
        });
        Some(Self { calls: calls.clone(), index, timer, ended: false })
    }

    fn method(&self) -> &Method {
        &self.calls.methods()[self.index]
    }

    /// Returns what counts the call's requests.
    pub(super) fn requests(&self) -> Requests {
        Requests { calls: self.calls.clone(), index: self.index, heads: Heads::default() }
    }

    fn gave_out(&self, passed: Passed) {
        self.method().sent.add(passed.messages);
        self.calls.sent_bytes.add(passed.bytes);
    }

    /// Ends the call by the code among these headers or trailers.
    pub(super) fn end_by(&mut self, headers: &HeaderMap) {
        let code = headers
            .get("grpc-status")
            .map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()));
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let method = self.method();
        let handled = usize::try_from(code as i32).ok().and_then(|code| method.handled.get(code));
        handled.unwrap_or(&method.handled[Code::Unknown as usize]).inc();
        if let (Some((began, clock)), Some(seconds)) = (&self.timer, &method.seconds) {
            seconds.observe(clock() - *began);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Messages whose heads have passed, and bytes of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Passed {
    messages: u64,
    bytes: u64,
}

/// The length of a message's head: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Finds messages' heads in the pieces of a body.
#[derive(Debug, Default)]
struct Heads {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the current message that are still to come.
    left: usize,
}

impl Heads {
    fn pass(&mut self, mut piece: &[u8]) -> Passed {
        let mut passed = Passed::default();
        while !piece.is_empty() {
            if self.left > 0 {
                let n = self.left.min(piece.len());
                self.left -= n;
                passed.bytes += n as u64;
                piece.advance(n);
                continue;
            }
            let n = (HEAD - self.have).min(piece.len());
            self.head[self.have..self.have + n].copy_from_slice(&piece[..n]);
            self.have += n;
            piece.advance(n);
            if self.have == HEAD {
                let [_, len @ ..] = self.head;
                self.left = u32::from_be_bytes(len) as usize;
                self.have = 0;
                passed.messages += 1;
            }
        }
        passed
    }
}

/// Counts the requests of a call.
pub(super) struct Requests {
    calls: Arc<Calls>,
    index: usize,
    heads: Heads,
}

/// A body of requests, counted where it is to be.
pub struct Asking<B> {
    body: B,
    requests: Option<Requests>,
}

impl<B> Asking<B> {
    pub(super) fn new(body: B, requests: Option<Requests>) -> Self {
        Self { body, requests }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Asking<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Requests { calls, index, heads }) = &mut this.requests
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let passed = heads.pass(data);
            calls.methods()[*index].received.add(passed.messages);
            calls.received_bytes.add(passed.bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of answers, counted where it is to be.
pub struct Answer {
    body: Body,
    call: Option<Counted>,
}

struct Counted {
    call: Call,
    heads: Heads,
}

impl Answer {
    /// Makes a body that nobody counts.
    pub fn plain(body: Body) -> Self {
        Self { body, call: None }
    }

    /// Makes a body that a call ends with.
    pub(super) fn counted(body: Body, call: Call) -> Self {
        Self { body, call: Some(Counted { call, heads: Heads::default() }) }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(counted) = &mut this.call {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        counted.call.gave_out(counted.heads.pass(data));
                    } else if let Some(trailers) = frame.trailers_ref() {
                        counted.call.end_by(trailers);
                    }
                }
                Some(Err(_)) | None => counted.call.end(Code::Unknown),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{CODES, Streams};

    fn framed(lens: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &len in lens {
            bytes.push(0);
            bytes.extend(u32::try_from(len).expect("short").to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, len));
        }
        bytes
    }

    #[test]
    fn messages_are_counted_however_their_bytes_are_cut() {
        let bytes = framed(&[3, 0, 300, 0]);
        for piece in [1, 2, 4, 5, 6, 7, 100, 1000] {
            let mut heads = Heads::default();
            let sum = bytes.chunks(piece).map(|piece| heads.pass(piece)).fold(
                Passed::default(),
                |sum, passed| Passed {
                    messages: sum.messages + passed.messages,
                    bytes: sum.bytes + passed.bytes,
                },
            );
            assert_eq!(sum, Passed { messages: 4, bytes: 303 }, "pieces of {piece}");
        }
    }

    #[test]
    fn a_call_ends_once_by_its_trailers_or_cancelled() {
        let calls =
            Arc::new(Calls::new(&[("s", "A", Streams::Unary), ("s", "B", Streams::Both)], true));
        assert!(
            Call::begin(&calls, "/s/C", || Box::new(Instant::default)).is_none(),
            "there is no such method"
        );
        let mut first =
            Call::begin(&calls, "/s/A", || Box::new(Instant::default)).expect("there is one");
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("5"),
        )]);
        first.end_by(&trailers);
        drop(first);
        drop(Call::begin(&calls, "/s/B", || Box::new(Instant::default)));
        let of = |name: &str| calls.methods().iter().find(|m| m.name == name).expect("listed");
        let ended = |name: &str| {
            let handled = of(name).handled.iter().zip(CODES);
            handled
                .filter(|(n, _)| n.get() > 0)
                .map(|(n, code)| (code, n.get()))
                .collect::<Vec<_>>()
        };
        assert_eq!(ended("A"), [("NotFound", 1)]);
        assert_eq!(ended("B"), [("Canceled", 1)]);
        assert_eq!((of("A").started.get(), of("B").started.get()), (1, 1));
        assert_eq!(of("A").seconds.as_ref().expect("timed").read().1, 1);
    }
}
