//! What gRPC expects of a server around its services, with grpc-go's codes and words.
//!
//! [`Grpc`] wraps tonic's routes and sees to
//! - the deadline a client sends along (`grpc-timeout`): at its end the handler is dropped and the
//!   answer is `DeadlineExceeded`, also in the middle of a stream;
//! - messages over the size limit: `ResourceExhausted`, where tonic says `OutOfRange` ([`sized`]);
//! - services and methods that do not exist, by name;
//! - counting calls, where that is asked for ([`calls`](super::calls));
//! - requests that are no gRPC: HTTP status 415.
//!
//! [`Split`] sends each request of a port to gRPC or to the HTTP handlers, as etcd does.
//!
//! Left out: compression (no etcd client asks for it by default), `grpc-timeout` on the client's side
//! (tonic's `Request::set_timeout` writes the header; a caller waits with its own clock).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status};
use tower_service::Service;

use super::calls::{Answer, Asking, Call, Clock};
use super::connection::Caller;
use crate::metrics::Calls;
use crate::runtime::{Instant, Runtime};

/// The moment at which the client gives up, an extension of each request that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Instant);

/// gRPC's manners around tonic's routes.
#[derive(Clone)]
pub struct Grpc<R, S> {
    runtime: R,
    services: Arc<[String]>,
    calls: Option<Arc<Calls>>,
    inner: S,
}

impl<R: Runtime, S> Grpc<R, S> {
    /// Wraps routes that serve `services`, by their full names (`etcdserverpb.KV`).
    pub fn new(runtime: &R, services: &[&str], inner: S) -> Self {
        let services = services.iter().map(|&name| name.to_owned()).collect();
        Self { runtime: runtime.clone(), services, calls: None, inner }
    }

    /// Counts calls.
    #[must_use]
    pub fn counted_by(self, calls: Arc<Calls>) -> Self {
        Self { calls: Some(calls), ..self }
    }

    fn clock(&self) -> Clock {
        let runtime = self.runtime.clone();
        Box::new(move || runtime.now())
    }
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<R, S, B> Service<Request<B>> for Grpc<R, S>
where
    R: Runtime,
    S: Service<Request<Asking<B>>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(refusal) = refusal(&request) {
            return Answering(State::Refused(Some(refusal)));
        }
        let timeout = match request.headers().get("grpc-timeout").map(parse_timeout) {
            Some(None) => {
                let text = request.headers()["grpc-timeout"].to_str().unwrap_or_default();
                let status = Status::internal(format!("malformed grpc-timeout: {text:?}"));
                return Answering(State::Refused(Some(only(status))));
            }
            Some(Some(timeout)) => {
                let deadline = self.runtime.now() + timeout;
                request.extensions_mut().insert(Deadline(deadline));
                Some(Box::pin(self.runtime.sleep(timeout)) as Sleep)
            }
            None => None,
        };
        let calls = self.calls.as_ref();
        let call =
            calls.and_then(|calls| Call::begin(calls, request.uri().path(), || self.clock()));
        let path = request.uri().path_and_query().cloned();
        let services = self.services.clone();
        let requests = call.as_ref().map(Call::requests);
        let request = request.map(|body| Asking::new(body, requests));
        Answering(State::Running {
            answer: Box::pin(self.inner.call(request)),
            deadline: timeout,
            unknown: Unknown { path, services },
            call,
        })
    }
}

/// Refuses what is no gRPC request.
fn refusal<B>(request: &Request<B>) -> Option<Response<Body>> {
    let header = request.headers().get(CONTENT_TYPE);
    if !header.is_some_and(is_grpc) {
        let text = header.map(HeaderValue::as_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let words = format!("invalid gRPC request content-type \"{text}\"");
        let mut response = only(Status::invalid_argument(words));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(response);
    }
    if request.method() != Method::POST {
        let method = request.method();
        let words =
            format!("Received a HEADERS frame with :method \"{method}\" which should be POST");
        let mut response = only(Status::internal(words));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Some(response);
    }
    None
}

/// `application/grpc`, alone or with a subtype or parameters.
fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Makes an answer of headers only.
fn only(status: Status) -> Response<Body> {
    status.into_http()
}

/// Reads a `grpc-timeout`: at most 8 digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// Gives tonic's status for a message over the size limit grpc-go's code and words; any other status
/// is returned as it is. For handlers of request streams, which see such a status themselves; on a
/// call with a single request [`Grpc`] does it.
#[must_use]
pub fn sized(status: Status) -> Status {
    match (status.code() == Code::OutOfRange).then(|| oversize(status.message())).flatten() {
        Some(words) => Status::resource_exhausted(words),
        None => status,
    }
}

/// Translates tonic's words for a message that is too large.
fn oversize(message: &str) -> Option<String> {
    let rest = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

/// Says what does not exist about a request's path.
struct Unknown {
    path: Option<http::uri::PathAndQuery>,
    services: Arc<[String]>,
}

impl Unknown {
    fn status(&self) -> Status {
        let path = self.path.as_ref().map_or("", http::uri::PathAndQuery::path);
        Status::unimplemented(match path.strip_prefix('/').and_then(|p| p.rsplit_once('/')) {
            None => format!("malformed method name: {path:?}"),
            Some((service, method)) if self.services.iter().any(|known| known == service) => {
                format!("unknown method {method} for service {service}")
            }
            Some((service, _)) => format!("unknown service {service}"),
        })
    }
}

/// An answer on its way.
pub struct Answering<F>(State<F>);

enum State<F> {
    Refused(Option<Response<Body>>),
    Running { answer: Pin<Box<F>>, deadline: Option<Sleep>, unknown: Unknown, call: Option<Call> },
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Refused(response) => {
                let response = response.take().expect("a future is not polled after its end");
                Poll::Ready(Ok(response.map(Answer::plain)))
            }
            State::Running { answer, deadline, unknown, call } => {
                let response = if let Poll::Ready(Ok(response)) = answer.as_mut().poll(cx) {
                    finished(response, deadline.take(), unknown)
                } else {
                    let Some(sleep) = deadline else { return Poll::Pending };
                    ready!(sleep.as_mut().poll(cx));
                    only(too_late())
                };
                Poll::Ready(Ok(counted(response, call.take())))
            }
        }
    }
}

/// Lets a call end with its answer: with the status among the headers, which is the whole answer then, or
/// with the body.
fn counted(response: Response<Body>, call: Option<Call>) -> Response<Answer> {
    let Some(mut call) = call else { return response.map(Answer::plain) };
    if response.headers().contains_key("grpc-status") {
        call.end_by(response.headers());
    }
    response.map(|body| Answer::counted(body, call))
}

fn too_late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// Corrects an answer's status, and keeps the deadline for its body.
fn finished(
    response: Response<Body>,
    deadline: Option<Sleep>,
    unknown: &Unknown,
) -> Response<Body> {
    // A status among the headers is the whole answer; it is what tonic sends on errors.
    let Some(code) = response.headers().get("grpc-status") else {
        return match deadline {
            Some(deadline) => {
                response.map(|body| Body::new(Limited { body, deadline: Some(deadline) }))
            }
            None => response,
        };
    };
    let told = || Status::from_header_map(response.headers());
    match code.as_bytes() {
        b"11" => match told().and_then(|status| oversize(status.message())) {
            Some(words) => only(Status::resource_exhausted(words)),
            None => response,
        },
        b"12" if told().is_none_or(|status| status.message().is_empty()) => only(unknown.status()),
        _ => response,
    }
}

/// A stream of answers that ends at the deadline.
struct Limited {
    body: Body,
    deadline: Option<Sleep>,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(deadline) = &mut this.deadline else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(deadline.as_mut().poll(cx));
        this.deadline = None;
        this.body = Body::empty(); // Drops the handler's stream.
        let mut trailers = HeaderMap::new();
        // The words are ASCII without anything to escape, so this adds two entries.
        let _ = too_late().add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.deadline.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Sends the requests of one port to gRPC or to HTTP handlers. Without TLS, everything over HTTP/2 is
/// gRPC's; with TLS, what says so; over HTTP/1 nothing is.
#[derive(Clone)]
pub struct Split<G, H> {
    grpc: G,
    http: H,
}

impl<G, H> Split<G, H> {
    /// Puts the two services on one port.
    pub fn new(grpc: G, http: H) -> Self {
        Self { grpc, http }
    }
}

impl<G, H, B> Service<Request<B>> for Split<G, H>
where
    G: Service<Request<B>, Response = Response<Answer>, Error = Infallible>,
    H: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Either<G::Future, H::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.grpc.poll_ready(cx))?;
        self.http.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let secure = request.extensions().get::<Arc<Caller>>().is_some_and(|caller| caller.secure);
        let named = || {
            let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            content_type.is_some_and(|it| it.windows(16).any(|part| part == b"application/grpc"))
        };
        if request.version() == Version::HTTP_2 && (!secure || named()) {
            Either::Grpc(Box::pin(self.grpc.call(request)))
        } else {
            Either::Http(Box::pin(self.http.call(request)))
        }
    }
}

/// The answer of one of two services.
pub enum Either<A, B> {
    /// gRPC's.
    Grpc(Pin<Box<A>>),
    /// The HTTP handlers'.
    Http(Pin<Box<B>>),
}

impl<A, B> Future for Either<A, B>
where
    A: Future<Output = Result<Response<Answer>, Infallible>>,
    B: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Grpc(future) => future.as_mut().poll(cx),
            Self::Http(future) => {
                let response = ready!(future.as_mut().poll(cx))?;
                Poll::Ready(Ok(response.map(Answer::plain)))
            }
        }
    }
}
