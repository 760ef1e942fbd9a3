//! The server's and the client's half against each other, over real sockets.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::rt::{Read, Write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tonic::{Code, Status};
use tower_service::Service;

use super::frames::{DATA, END_HEADERS, END_STREAM, HEAD_LEN, HEADERS, Head, PREFACE};
use super::grpc::{Grpc, Split};
use super::shortcut::Shortcut;
use super::tls::tests::{Ask, Authority, platform, version_1};
use super::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions};
use super::*;
use crate::metrics::{CODES, Calls, Streams};
use crate::proto::Codec;
use crate::runtime::tokio::{Settings, Socketed, Tokio};
use crate::runtime::{Address, Lane, Runtime, timeout};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

fn run<F: Future>(main: impl FnOnce(Tokio) -> F) -> F::Output {
    let limited = Tokio::start(Settings::default(), |rt| async move {
        timeout(&rt, Duration::from_secs(30), main(rt.clone())).await.expect("in time")
    });
    limited.expect("a runtime")
}

/// A gRPC service of bytes: `Unary` echoes, `Hang` never answers, `Slow` answers when told to, `Who`
/// names the caller, `Where` the request's authority, `Endless` streams one message and then nothing.
#[derive(Clone)]
struct Echo {
    go: Arc<Notify>,
    /// Told of each call that reaches its handler.
    entered: mpsc::UnboundedSender<()>,
}

impl<B> Service<Request<B>> for Echo
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError> + Send,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let codec = Codec::<Bytes, Bytes>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(1000);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let authority = request.uri().authority().map(ToString::to_string);
            match method.as_str() {
                "Unary" | "Hang" | "Slow" | "Who" | "Where" => {
                    Ok(grpc.unary(Method { this, method, authority }, request).await)
                }
                "Endless" => Ok(grpc.server_streaming(Endless, request).await),
                _ => Ok(Status::unimplemented("").into_http()),
            }
        })
    }
}

struct Method {
    this: Echo,
    method: String,
    authority: Option<String>,
}

impl tonic::server::UnaryService<Bytes> for Method {
    type Response = Bytes;
    type Future = BoxFuture<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (go, method) = (self.this.go.clone(), self.method.clone());
        let entered = self.this.entered.clone();
        let authority = self.authority.clone().unwrap_or_default();
        Box::pin(async move {
            let told = go.notified();
            // Most tests do not care.
            let _ = entered.send(());
            match method.as_str() {
                "Hang" => std::future::pending().await,
                "Slow" => told.await,
                "Where" => return Ok(tonic::Response::new(authority.into())),
                "Who" => {
                    let caller = request.extensions().get::<Arc<Caller>>().expect("a caller");
                    let identity = request.extensions().get::<PeerIdentity>();
                    let cn = identity.map_or("nobody", PeerIdentity::common_name);
                    let text = format!("{cn} secure={}", caller.secure);
                    return Ok(tonic::Response::new(text.into()));
                }
                _ => {}
            }
            Ok(tonic::Response::new(request.into_inner()))
        })
    }
}

struct Endless;

impl tonic::server::ServerStreamingService<Bytes> for Endless {
    type Response = Bytes;
    type ResponseStream =
        Pin<Box<dyn tonic::codegen::tokio_stream::Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = BoxFuture<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        use tonic::codegen::tokio_stream::{StreamExt, iter, pending};
        let stream: Self::ResponseStream =
            Box::pin(iter([Ok(request.into_inner())]).chain(pending()));
        Box::pin(async move { Ok(tonic::Response::new(stream)) })
    }
}

/// A server with the echo service and two HTTP pages.
struct Server {
    serving: Serving<Tokio>,
    /// Lets slow calls and pages answer.
    go: Arc<Notify>,
    /// Hears of each gRPC call and slow page that has begun.
    entered: mpsc::UnboundedReceiver<()>,
    /// Counts the calls of some methods.
    calls: Arc<Calls>,
}

async fn server(rt: &Tokio, at: &Address, options: Options) -> Server {
    let go = Arc::new(Notify::new());
    let (entered_tell, entered) = mpsc::unbounded_channel();
    let echo = Echo { go: go.clone(), entered: entered_tell.clone() };
    let others = tonic::service::Routes::default().into_axum_router();
    let routes = Shortcut::new("test.Echo", echo, others);
    let slow = go.clone();
    let pages = axum::Router::new()
        .route("/hello", any(|body: Bytes| async move { format!("hello {}", body.len()) }))
        .route(
            "/slow",
            any(move || async move {
                let told = slow.notified();
                let _ = entered_tell.send(());
                told.await;
                "slow"
            }),
        );
    let runtime = rt.clone();
    let pages = pages.route("/switch", any(move |request| switch(runtime.clone(), request)));
    let methods = [
        ("test.Echo", "Unary", Streams::Unary),
        ("test.Echo", "Hang", Streams::Unary),
        ("test.Echo", "Endless", Streams::Server),
    ];
    let calls = Arc::new(Calls::new(&methods, true));
    let grpc = Grpc::new(rt, &["test.Echo"], routes).counted_by(calls.clone());
    let service = Split::new(grpc, pages);
    let listener = rt.listen(at).await.expect("listen");
    Server { serving: serve(rt, listener, options, service), go, entered, calls }
}

/// Upgrades the connection and echoes what comes, until it ends.
async fn switch(rt: Tokio, request: axum::extract::Request) -> Response<axum::body::Body> {
    let upgrading = hyper::upgrade::on(request);
    rt.spawn(Lane::Serve, "switched", async move {
        let mut stream = upgrading.await.expect("upgraded");
        loop {
            let mut room = [0; 100];
            let mut buf = hyper::rt::ReadBuf::new(&mut room);
            let read = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, buf.unfilled()));
            read.await.expect("read");
            let bytes = buf.filled();
            if bytes.is_empty() {
                return;
            }
            let written = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, bytes)).await;
            assert_eq!(written.expect("written"), bytes.len());
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.expect("flushed");
        }
    });
    let switched = Response::builder().status(101).header("upgrade", "echo");
    switched.header("connection", "upgrade").body(axum::body::Body::empty()).expect("response")
}

async fn plain(rt: &Tokio) -> Server {
    let options = Options::new(Endpoint::Client, Security::Plain);
    server(rt, &Address::tcp("127.0.0.1", 0), options).await
}

async fn secure(rt: &Tokio, tls: ServerTlsOptions) -> Server {
    let tls = Arc::new(ServerTls::load(tls, platform()).expect("tls"));
    let options = Options::new(Endpoint::Peer, Security::Tls(tls));
    server(rt, &Address::tcp("127.0.0.1", 0), options).await
}

fn channel(rt: &Tokio, to: &Address) -> Channel<Tokio> {
    Channel::new(rt, ChannelOptions::new(to.clone()))
}

fn secure_channel(rt: &Tokio, to: &Address, tls: ClientTlsOptions) -> Channel<Tokio> {
    let tls = ClientTls::load(tls, platform()).expect("tls");
    let options = ChannelOptions { tls: Some(Arc::new(tls)), ..ChannelOptions::new(to.clone()) };
    Channel::new(rt, options)
}

async fn call(channel: &Channel<Tokio>, path: &'static str, body: Bytes) -> Result<Bytes, Status> {
    call_within(channel, path, body, None).await
}

async fn call_within(
    channel: &Channel<Tokio>,
    path: &'static str,
    body: Bytes,
    limit: Option<Duration>,
) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await?;
    let mut request = tonic::Request::new(body);
    if let Some(limit) = limit {
        request.set_timeout(limit);
    }
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = Codec::<Bytes, Bytes>::default();
    Ok(grpc.unary(request, path, codec).await?.into_inner())
}

async fn echo(channel: &Channel<Tokio>, text: &'static str) -> Result<Bytes, Status> {
    call(channel, "/test.Echo/Unary", Bytes::from_static(text.as_bytes())).await
}

async fn who(channel: &Channel<Tokio>) -> Result<String, Status> {
    let name = call(channel, "/test.Echo/Who", Bytes::new()).await?;
    Ok(String::from_utf8(name.to_vec()).expect("text"))
}

/// Sends raw bytes and reads to the end.
async fn raw(rt: &Tokio, to: &Address, request: &str) -> String {
    let mut stream = rt.connect(to).await.expect("connect");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = Vec::new();
    // A reset says «closed» as well.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const GET_HELLO: &str = "GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn calls_are_counted_by_how_they_end() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let channel = channel(&rt, server.serving.address());
        for text in ["", "four"] {
            echo(&channel, text).await.expect("echo");
        }
        let large = Bytes::from(vec![0; 1001]);
        let error = call(&channel, "/test.Echo/Unary", large).await.expect_err("too large");
        assert_eq!(error.code(), Code::ResourceExhausted);
        call(&channel, "/test.Echo/Nothing", Bytes::new()).await.expect_err("no such method");
        let limit = Some(Duration::from_millis(20));
        let late = call_within(&channel, "/test.Echo/Hang", Bytes::new(), limit).await;
        assert_eq!(late.expect_err("late").code(), Code::DeadlineExceeded);
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("ready");
        let path = http::uri::PathAndQuery::from_static("/test.Echo/Endless");
        let request = tonic::Request::new(Bytes::from_static(b"one"));
        let codec = Codec::<Bytes, Bytes>::default();
        let answer = grpc.server_streaming(request, path, codec).await.expect("a stream");
        let mut stream = answer.into_inner();
        assert_eq!(stream.message().await.expect("a message"), Some(Bytes::from_static(b"one")));
        let calls = server.calls.clone();
        let method = |name: &str| calls.methods().iter().find(|m| m.name == name).expect("listed");
        assert!(method("Endless").handled.iter().all(|n| n.get() == 0), "it goes on");
        drop(stream);
        while method("Endless").handled[Code::Cancelled as usize].get() == 0 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        let ended = |name: &str| -> Vec<(&str, u64)> {
            let handled = CODES.iter().zip(&method(name).handled);
            handled.filter(|(_, n)| n.get() > 0).map(|(code, n)| (*code, n.get())).collect()
        };
        assert_eq!(ended("Unary"), [("OK", 2), ("ResourceExhausted", 1)]);
        assert_eq!(ended("Hang"), [("DeadlineExceeded", 1)]);
        assert_eq!(ended("Endless"), [("Canceled", 1)]);
        let messages = |name: &str| {
            (method(name).started.get(), method(name).received.get(), method(name).sent.get())
        };
        assert_eq!((messages("Unary").0, messages("Unary").2), (3, 2));
        assert_eq!((messages("Hang"), messages("Endless")), ((1, 1, 0), (1, 1, 1)));
        // A message of four bytes has a head of its own in protobuf.
        assert_eq!(calls.sent_bytes.get(), 6 + 5);
        assert_eq!(method("Unary").seconds.as_ref().expect("timed").read().1, 3);
    });
}

#[test]
fn one_port_answers_http1_and_http2() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let to = server.serving.address();
        let answer = raw(&rt, to, GET_HELLO).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello 0"), "{answer}");
        let channel = channel(&rt, to);
        assert_eq!(echo(&channel, "hi").await.expect("echo"), "hi");
        assert_eq!(who(&channel).await.expect("who"), "nobody secure=false");
        assert_eq!(server.serving.stats().accepted(), 2);
    });
}

#[test]
fn a_unix_socket_serves_as_a_port_does() {
    let dir = tempfile::tempdir().expect("dir");
    run(|rt| async move {
        let at = Address::Unix(dir.path().join("s"));
        let server = server(&rt, &at, Options::new(Endpoint::Client, Security::Plain)).await;
        assert!(raw(&rt, &at, GET_HELLO).await.ends_with("hello 0"));
        assert_eq!(echo(&channel(&rt, &at), "hi").await.expect("echo"), "hi");
        assert!(server.serving.shutdown(Duration::from_secs(5)).await);
    });
}

#[test]
fn messages_larger_than_every_buffer_pass_both_ways() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let mut channel = channel(&rt, server.serving.address());
        let big = Bytes::from(vec![7; 9 << 20]);
        let body = tonic::body::Body::new(http_body_util::Full::new(big.clone()));
        let request = Request::post("/hello").body(body).expect("request");
        // Plain HTTP/2 without gRPC's content type is not taken up, and its body not waited for.
        let response = channel.call(request).await.expect("answer");
        assert_eq!(response.status(), 415);
        assert_eq!(response.headers()["grpc-status"], "3");
        assert_eq!(
            response.headers()["grpc-message"],
            "invalid%20gRPC%20request%20content-type%20%22%22"
        );
        let request = format!(
            "POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            1 << 20,
            "x".repeat(1 << 20)
        );
        assert!(raw(&rt, server.serving.address(), &request).await.ends_with("hello 1048576"));
    });
}

#[test]
fn grpc_errors_have_grpc_gos_words() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let channel = channel(&rt, server.serving.address());
        let fails = async |path, len: usize| {
            let status = call(&channel, path, Bytes::from(vec![1; len])).await.expect_err("error");
            (status.code(), status.message().to_owned())
        };
        let exhausted = |words: &str| (Code::ResourceExhausted, words.to_owned());
        let unimplemented = |words: &str| (Code::Unimplemented, words.to_owned());
        assert_eq!(
            fails("/test.Echo/Unary", 1001).await,
            exhausted("grpc: received message larger than max (1004 vs. 1000)")
        );
        assert_eq!(
            fails("/test.Echo/Nothing", 1).await,
            unimplemented("unknown method Nothing for service test.Echo")
        );
        assert_eq!(
            fails("/test.Other/Unary", 1).await,
            unimplemented("unknown service test.Other")
        );
        assert_eq!(fails("/lone", 1).await, unimplemented("malformed method name: \"/lone\""));
    });
}

#[test]
fn a_deadline_ends_a_call_and_a_stream() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let channel = channel(&rt, server.serving.address());
        let limit = Some(Duration::from_millis(50));
        let late = call_within(&channel, "/test.Echo/Hang", Bytes::new(), limit).await;
        let late = late.expect_err("late");
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert_eq!(late.message(), "context deadline exceeded");
        let soon = call_within(&channel, "/test.Echo/Unary", Bytes::from("x"), limit).await;
        assert_eq!(soon.expect("in time"), "x");

        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.expect("ready");
        let mut request = tonic::Request::new(Bytes::from("once"));
        request.set_timeout(Duration::from_millis(50));
        let path = http::uri::PathAndQuery::from_static("/test.Echo/Endless");
        let codec = Codec::<Bytes, Bytes>::default();
        let answer = grpc.server_streaming(request, path, codec).await.expect("answer");
        let mut stream = answer.into_inner();
        assert_eq!(stream.message().await.expect("first").expect("some"), "once");
        let late = stream.message().await.expect_err("late");
        assert_eq!(
            (late.code(), late.message()),
            (Code::DeadlineExceeded, "context deadline exceeded")
        );
    });
}

#[test]
fn tls_clients_are_known_by_their_certificate() {
    run(|rt| async move {
        let ca = Authority::new("ca");
        let trusted_ca_file = Some(ca.ca_file());
        let server = secure(
            &rt,
            ServerTlsOptions { trusted_ca_file: trusted_ca_file.clone(), ..ca.server() },
        )
        .await;
        let to = server.serving.address();
        let own = ca.sign("client", &Ask { cn: "alice", ..Ask::default() });
        let with = |own: Option<(PathBuf, PathBuf)>| ClientTlsOptions {
            trusted_ca_file: trusted_ca_file.clone(),
            cert_and_key_files: own,
            ..ClientTlsOptions::default()
        };
        let known = secure_channel(&rt, to, with(Some(own)));
        assert_eq!(who(&known).await.expect("let in"), "alice secure=true");

        let foreigners = Authority::new("ca");
        let foreign = foreigners.sign("client", &Ask { cn: "mallory", ..Ask::default() });
        // Under TLS 1.3 the client is done before the server has seen its certificate.
        for stranger in [None, Some(foreign)] {
            let refused = who(&secure_channel(&rt, to, with(stranger))).await.expect_err("refused");
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        }
        assert_eq!(server.serving.stats().refused(), 2);

        let old = (version_1("v1-client.pem"), version_1("v1-client.key"));
        who(&secure_channel(&rt, to, with(Some(old.clone())))).await.expect_err("another CA");
        let trusting_old =
            ServerTlsOptions { trusted_ca_file: Some(version_1("v1-ca.pem")), ..ca.server() };
        for version_max in [None, Some(tls::Version::Tls12)] {
            let mut trusting_old = trusting_old.clone();
            trusting_old.protocol.version_max = version_max;
            let server = secure(&rt, trusting_old).await;
            let client = secure_channel(&rt, server.serving.address(), with(Some(old.clone())));
            assert_eq!(who(&client).await.expect("version 1"), "old client secure=true");
        }
    });
}

#[test]
fn a_certificate_may_be_its_own_ca_on_both_sides() {
    run(|rt| async move {
        let dir = tempfile::tempdir().expect("dir");
        let wall = Duration::from_secs(1_893_456_000);
        let tls::Generated { cert_file, key_file } =
            tls::generate(dir.path(), &["127.0.0.1".into()], 1, wall).expect("generated");
        let options =
            ServerTlsOptions { cert_file: cert_file.clone(), key_file, ..Default::default() };
        let server = secure(&rt, options).await;
        let client = ClientTlsOptions { trusted_ca_file: Some(cert_file), ..Default::default() };
        let client = secure_channel(&rt, server.serving.address(), client);
        assert_eq!(who(&client).await.expect("trusted"), "nobody secure=true");
    });
}

#[test]
fn a_server_of_a_foreign_ca_or_with_another_name_is_not_trusted() {
    run(|rt| async move {
        let ca = Authority::new("ca");
        let server = secure(&rt, ca.server()).await;
        let to = server.serving.address();
        let options = |ca: &Authority, name: Option<&str>| ClientTlsOptions {
            trusted_ca_file: Some(ca.ca_file()),
            server_name: name.map(str::to_owned),
            ..ClientTlsOptions::default()
        };
        who(&secure_channel(&rt, to, options(&ca, None))).await.expect("by address");
        who(&secure_channel(&rt, to, options(&ca, Some("localhost")))).await.expect("by name");
        who(&secure_channel(&rt, to, options(&ca, Some("elsewhere")))).await.expect_err("name");
        let foreign = Authority::new("ca");
        who(&secure_channel(&rt, to, options(&foreign, None))).await.expect_err("foreign");
        let careless = ClientTlsOptions { insecure_skip_verify: true, ..options(&foreign, None) };
        who(&secure_channel(&rt, to, careless)).await.expect("anybody");
    });
}

#[test]
fn refusals_after_the_handshake_go_by_revocation_names_and_address() {
    run(|rt| async move {
        let ca = Authority::new("ca");
        let ask = |cn, hosts: &[&str], serial| Ask {
            cn,
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            serial: Some(serial),
            ..Ask::default()
        };
        let good = ca.sign("good", &ask("good", &["localhost"], 1));
        let revoked = ca.sign("revoked", &ask("good", &["localhost"], 2));
        let elsewhere = ca.sign("elsewhere", &ask("good", &["10.0.0.1"], 3));
        let other = ca.sign("other", &ask("other", &[], 4));
        let base = || ServerTlsOptions { trusted_ca_file: Some(ca.ca_file()), ..ca.server() };
        let lets_in = async |options: &ServerTlsOptions, own: &(PathBuf, PathBuf)| {
            let server = secure(&rt, options.clone()).await;
            let client = ClientTlsOptions {
                trusted_ca_file: Some(ca.ca_file()),
                cert_and_key_files: Some(own.clone()),
                ..ClientTlsOptions::default()
            };
            let answer = who(&secure_channel(&rt, server.serving.address(), client)).await;
            answer.is_ok()
        };
        let listed = ServerTlsOptions { crl_file: Some(ca.revoke(2)), ..base() };
        assert!(lets_in(&listed, &good).await && !lets_in(&listed, &revoked).await);
        let named = ServerTlsOptions { allowed_cns: vec!["good".into()], ..base() };
        assert!(lets_in(&named, &good).await && !lets_in(&named, &other).await);
        let hosts = ServerTlsOptions { allowed_hostnames: vec!["localhost".into()], ..base() };
        assert!(lets_in(&hosts, &good).await && !lets_in(&hosts, &elsewhere).await);
        let placed = ServerTlsOptions { check_address: true, ..base() };
        assert!(lets_in(&placed, &good).await && lets_in(&placed, &other).await);
        assert!(!lets_in(&placed, &elsewhere).await);
    });
}

/// Does a TLS handshake that offers `protocols`.
async fn handshake(
    rt: &Tokio,
    to: &Address,
    ca: &Authority,
    protocols: &[&str],
) -> std::io::Result<tokio_rustls::client::TlsStream<<Tokio as Runtime>::Stream>> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(ca.ca_file())?;
    for der in rustls_pki_types::pem::PemObject::pem_slice_iter(&pem) {
        roots.add(der.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_details(provider, Arc::new(platform()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("name");
    let stream = rt.connect(to).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Does a TLS handshake that offers `protocols`, and returns what was agreed.
async fn agree(
    rt: &Tokio,
    to: &Address,
    ca: &Authority,
    protocols: &[&str],
) -> std::io::Result<(Option<Vec<u8>>, String)> {
    let mut stream = handshake(rt, to, ca, protocols).await?;
    let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let mut answer = String::new();
    if agreed.is_none() {
        stream.write_all(GET_HELLO.as_bytes()).await?;
        stream.read_to_string(&mut answer).await?;
    }
    Ok((agreed, answer))
}

#[test]
fn alpn_offers_http2_and_forgives_clients_that_know_only_http1() {
    run(|rt| async move {
        let ca = Authority::new("ca");
        let server = secure(&rt, ca.server()).await;
        let to = server.serving.address();
        for offer in [&["h2"][..], &["http/1.1", "h2"], &["x", "h2"]] {
            let (agreed, _) = agree(&rt, to, &ca, offer).await.expect("agreed");
            assert_eq!(agreed.as_deref(), Some(&b"h2"[..]), "{offer:?}");
        }
        for offer in [&[][..], &["http/1.1"], &["x", "http/1.1"]] {
            let (agreed, answer) = agree(&rt, to, &ca, offer).await.expect("agreed");
            assert_eq!(agreed, None, "{offer:?}");
            assert!(answer.ends_with("hello 0"), "{answer}");
        }
        agree(&rt, to, &ca, &["x"]).await.expect_err("no protocol in common");
    });
}

#[test]
fn a_tls_port_closes_on_plain_text_unless_it_takes_either() {
    run(|rt| async move {
        let ca = Authority::new("ca");
        let server = secure(&rt, ca.server()).await;
        assert_eq!(raw(&rt, server.serving.address(), GET_HELLO).await, "");
        let tls = Arc::new(ServerTls::load(ca.server(), platform()).expect("tls"));
        let options = Options::new(Endpoint::Client, Security::Either(tls));
        let either = super::tests::server(&rt, &Address::tcp("127.0.0.1", 0), options).await;
        let to = either.serving.address();
        assert!(raw(&rt, to, GET_HELLO).await.ends_with("hello 0"));
        assert_eq!(who(&channel(&rt, to)).await.expect("plain"), "nobody secure=false");
        let client = ClientTlsOptions { trusted_ca_file: Some(ca.ca_file()), ..Default::default() };
        let client = secure_channel(&rt, to, client);
        assert_eq!(who(&client).await.expect("tls"), "nobody secure=true");
    });
}

#[test]
fn a_renewed_certificate_is_used_and_a_broken_one_refuses() {
    run(|rt| async move {
        let (old, new) = (Authority::new("old"), Authority::new("new"));
        let options = old.server();
        let (cert_file, key_file) = (options.cert_file.clone(), options.key_file.clone());
        let server = secure(&rt, options).await;
        let to = server.serving.address();
        let trusts = async |ca: &Authority| {
            let options =
                ClientTlsOptions { trusted_ca_file: Some(ca.ca_file()), ..Default::default() };
            who(&secure_channel(&rt, to, options)).await
        };
        trusts(&old).await.expect("as loaded");
        let renewed = new.server();
        std::fs::copy(&renewed.cert_file, &cert_file).expect("copy");
        let between = trusts(&new).await.expect_err("certificate and key do not match");
        assert!(between.message().contains("alert"), "{between}");
        std::fs::copy(&renewed.key_file, &key_file).expect("copy");
        trusts(&new).await.expect("renewed");
        trusts(&old).await.expect_err("the old one is gone");
    });
}

#[test]
fn shutdown_lets_running_requests_end_and_takes_no_new_ones() {
    run(|rt| async move {
        let mut server = plain(&rt).await;
        let to = server.serving.address().clone();
        let client = channel(&rt, &to);
        let idle = rt.connect(&to).await.expect("connect");
        let slow_page = rt.connect(&to).await.expect("connect");
        let (tell, mut told) = mpsc::channel(2);
        let told_http2 = tell.clone();
        rt.spawn(Lane::Serve, "http2", async move {
            let answer = call(&client, "/test.Echo/Slow", Bytes::from("late")).await;
            told_http2.send(answer.expect("answered").to_vec()).await.expect("told");
        });
        rt.spawn(Lane::Serve, "http1", async move {
            let mut stream: Socketed = slow_page;
            stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("write");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("read");
            tell.send(answer).await.expect("told");
        });
        for _ in 0..2 {
            server.entered.recv().await.expect("a request has begun");
        }
        let (runtime, go) = (rt.clone(), server.go.clone());
        let address = to.clone();
        rt.spawn(Lane::Serve, "later", async move {
            while runtime.connect(&address).await.is_ok() {
                runtime.sleep(Duration::from_millis(1)).await;
            }
            go.notify_waiters();
        });
        assert!(server.serving.shutdown(Duration::from_secs(10)).await, "all ended by themselves");
        let mut answers = [told.recv().await.expect("first"), told.recv().await.expect("second")];
        answers.sort();
        assert!(answers[0].starts_with(b"HTTP/1.1 200") && answers[0].ends_with(b"slow"));
        assert_eq!(answers[1], b"late");
        drop(idle);
    });
}

#[test]
fn shutdown_drops_what_does_not_end_in_time() {
    run(|rt| async move {
        let mut server = plain(&rt).await;
        let client = channel(&rt, server.serving.address());
        let (tell, mut told) = mpsc::channel(1);
        rt.spawn(Lane::Serve, "hangs", async move {
            let answer = call(&client, "/test.Echo/Hang", Bytes::new()).await;
            tell.send(answer.expect_err("dropped").code()).await.expect("told");
        });
        server.entered.recv().await.expect("the call has begun");
        assert!(!server.serving.shutdown(Duration::from_millis(50)).await);
        assert_eq!(told.recv().await, Some(Code::Unavailable));
    });
}

#[test]
fn beyond_the_limit_connections_wait_until_one_has_ended() {
    run(|rt| async move {
        let options =
            Options { connections_max: 1, ..Options::new(Endpoint::Client, Security::Plain) };
        let server = server(&rt, &Address::tcp("127.0.0.1", 0), options).await;
        let to = server.serving.address();
        let first = rt.connect(to).await.expect("connect");
        while server.serving.stats().open() == 0 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        let second = raw(&rt, to, GET_HELLO);
        let mut second = std::pin::pin!(second);
        assert!(timeout(&rt, Duration::from_millis(100), &mut second).await.is_err());
        drop(first);
        assert!(second.await.ends_with("hello 0"));
    });
}

#[test]
fn a_channel_reports_a_lost_server_fails_fast_and_comes_back() {
    run(|rt| async move {
        let first = plain(&rt).await;
        let to = first.serving.address().clone();
        let (tell, mut told) = mpsc::unbounded_channel();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let options = ChannelOptions {
            backoff_min: Duration::from_millis(200),
            on_change: Some(Arc::new(move |change: &Change| {
                changes.lock().expect("lock").push(change.clone());
                tell.send(change.clone()).expect("told");
            })),
            ..ChannelOptions::new(to.clone())
        };
        let channel = Channel::new(&rt, options);
        assert!(!channel.is_connected());
        echo(&channel, "a").await.expect("echo");
        assert!(channel.is_connected());
        assert_eq!(told.recv().await, Some(Change::Connected));
        first.serving.shutdown(Duration::ZERO).await;
        assert!(matches!(told.recv().await, Some(Change::Lost(_))));
        assert!(!channel.is_connected());
        let refused = echo(&channel, "b").await.expect_err("nobody listens");
        assert!(refused.message().contains(&format!("dial {to}")), "{refused}");
        assert!(matches!(told.recv().await, Some(Change::Failed(_))));

        let second = server(&rt, &to, Options::new(Endpoint::Client, Security::Plain)).await;
        let fast = echo(&channel, "c").await.expect_err("within the backoff");
        assert_eq!(fast.code(), Code::Unavailable);
        rt.sleep(Duration::from_millis(210)).await;
        assert_eq!(echo(&channel, "d").await.expect("again"), "d");
        drop(channel);
        while second.serving.stats().open() > 0 {
            rt.sleep(Duration::from_millis(1)).await; // The last channel closes the connection.
        }
    });
}

#[test]
fn many_calls_at_once_share_one_connection() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let channel = channel(&rt, server.serving.address());
        let (tell, mut told) = mpsc::channel(1);
        for i in 0..500_u32 {
            let (channel, tell) = (channel.clone(), tell.clone());
            rt.spawn(Lane::Serve, "call", async move {
                let body = Bytes::from(i.to_be_bytes().repeat(100));
                let answer = call(&channel, "/test.Echo/Unary", body.clone()).await;
                assert_eq!(answer.expect("echo"), body);
                tell.send(()).await.expect("told");
            });
        }
        drop(tell);
        let mut done = 0;
        while told.recv().await.is_some() {
            done += 1;
        }
        assert_eq!(done, 500);
        assert_eq!(server.serving.stats().accepted(), 1);
    });
}

#[test]
fn http1_keeps_a_connection_for_several_requests() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let two = format!("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n{GET_HELLO}");
        let answer = raw(&rt, server.serving.address(), &two).await;
        assert_eq!(answer.matches("hello 0").count(), 2, "{answer}");
        assert_eq!(server.serving.stats().accepted(), 1);
    });
}

#[test]
fn over_tls_http2_without_grpc_is_for_the_pages() {
    run(|rt| async move {
        let ca = Authority::new("ca");
        let server = secure(&rt, ca.server()).await;
        let client = ClientTlsOptions { trusted_ca_file: Some(ca.ca_file()), ..Default::default() };
        let mut channel = secure_channel(&rt, server.serving.address(), client);
        let request = Request::get("/hello").body(tonic::body::Body::empty()).expect("request");
        let response = channel.call(request).await.expect("answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.expect("body").to_bytes(), "hello 0");
    });
}

#[test]
fn a_client_that_pings_too_often_is_sent_away() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let mut stream = rt.connect(server.serving.address()).await.expect("connect");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("write");
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings");
        for _ in 0..4 {
            let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            stream.write_all(&ping).await.expect("ping");
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("closed");
        assert!(answer.ends_with(b"\0\0\0\x0btoo_many_pings"), "{answer:?}");
    });
}

#[test]
fn an_upgraded_connection_is_flushed_by_its_handler() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let mut stream = rt.connect(server.serving.address()).await.expect("connect");
        let request =
            "GET /switch HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut answer).await.expect("read") > 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        for word in [b"one", b"two"] {
            stream.write_all(word).await.expect("write");
            let mut echoed = [0; 3];
            stream.read_exact(&mut echoed).await.expect("read");
            assert_eq!(&echoed, word);
        }
    });
}

/// A block of headers that asks for `/test.Echo/Where`, its authority spelled as given.
fn asking(authority: &[u8]) -> Vec<u8> {
    let path = b"/test.Echo/Where";
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).expect("short")];
    block.extend(path);
    block.extend(authority);
    block.extend(b"\x0f\x10\x10application/grpc\x00\x02te\x08trailers");
    block
}

/// Sends frames of a request and returns the text of the message it is answered with.
async fn answered<S>(stream: &mut S, id: u32, block: &[u8]) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = [0; 5];
    let mut frames = Vec::new();
    let head = |kind, flags, len| Head { len, kind, flags, stream: id };
    head(HEADERS, END_HEADERS, block.len()).write(&mut frames);
    frames.extend(block);
    head(DATA, END_STREAM, message.len()).write(&mut frames);
    frames.extend(message);
    // In two pieces, cut within the block.
    let (one, two) = frames.split_at(HEAD_LEN + block.len() / 2);
    for piece in [one, two] {
        stream.write_all(piece).await.expect("write");
        stream.flush().await.expect("flush");
    }
    loop {
        let mut head = [0; HEAD_LEN];
        stream.read_exact(&mut head).await.expect("a frame");
        let head = Head::read(&head).expect("a head");
        let mut payload = vec![0; head.len];
        stream.read_exact(&mut payload).await.expect("a payload");
        if head.stream == id && head.kind == DATA {
            // A message is a text in its field 1: behind gRPC's five bytes come the field and the length.
            let text = payload.split_off(message.len() + 2);
            assert_eq!(payload[message.len()..], [0x0a, u8::try_from(text.len()).expect("short")]);
            return String::from_utf8(text).expect("text");
        }
        assert!(head.stream == 0 || head.kind == HEADERS, "frame {}: {payload:?}", head.kind);
    }
}

/// Sends requests of a client that says URL for authority, and one that takes it from the table.
async fn old_client<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    stream.write_all(PREFACE).await.expect("write");
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings");
    // `http://127.0.0.1:24379` in Huffman code, to be indexed; then by its index, behind another.
    let coded = b"A\x90\x9d)\xae\xe3\x0c\x04N\xae\x05\xc0\xb8n\t\xa6]\x7f";
    assert_eq!(answered(stream, 1, &asking(coded)).await, "127.0.0.1:24379");
    assert_eq!(answered(stream, 3, &asking(b"\xbe\x40\x01x\x01y")).await, "127.0.0.1:24379");
    assert_eq!(answered(stream, 5, &asking(b"\xbf")).await, "127.0.0.1:24379");
    assert_eq!(answered(stream, 7, &asking(b"\x01\x0ehttps://host:1")).await, "host:1");
    assert_eq!(answered(stream, 9, &asking(b"\x01\x04host")).await, "host");
}

#[test]
fn a_client_that_says_url_for_authority_is_understood() {
    run(|rt| async move {
        let server = plain(&rt).await;
        let mut stream = rt.connect(server.serving.address()).await.expect("connect");
        old_client(&mut stream).await;
        let ca = Authority::new("ca");
        let server = secure(&rt, ca.server()).await;
        let stream = handshake(&rt, server.serving.address(), &ca, &["h2"]).await;
        old_client(&mut stream.expect("connect")).await;
    });
}
