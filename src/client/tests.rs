//! The client against a server that misbehaves on purpose, over real sockets.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tonic::codegen::tokio_stream::Empty;
use tonic::{Code, Request, Response, Status};

use super::{Client, Error, Options};
use crate::net::grpc::Grpc;
use crate::net::{Endpoint, Security, Serving, serve};
use crate::proto::etcdserverpb::kv_server::{Kv, KvServer};
use crate::proto::etcdserverpb::*;
use crate::runtime::tokio::{Settings, Tokio};
use crate::runtime::{Address, Runtime, timeout};

fn run<F: Future>(main: impl FnOnce(Tokio) -> F) -> F::Output {
    let limited = Tokio::start(Settings::default(), |rt| async move {
        timeout(&rt, Duration::from_secs(30), main(rt.clone())).await.expect("in time")
    });
    limited.expect("a runtime")
}

/// Refuses the first `refusals` calls as unavailable, and counts all.
#[derive(Clone, Default)]
struct Moody {
    refusals: u32,
    calls: Arc<AtomicU32>,
}

impl Moody {
    fn answer<T: Default>(&self) -> Result<Response<T>, Status> {
        if self.calls.fetch_add(1, Ordering::Relaxed) < self.refusals {
            return Err(Status::unavailable("etcdserver: leader changed"));
        }
        Ok(Response::new(T::default()))
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[tonic::async_trait]
impl Kv for Moody {
    type RangeStreamStream = Empty<Result<RangeStreamResponse, Status>>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.answer()
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.answer()
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.answer()
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.answer()
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.answer()
    }
}

async fn server(rt: &Tokio, kv: &Moody) -> Serving<Tokio> {
    server_at(rt, kv, &Address::tcp("127.0.0.1", 0)).await
}

async fn server_at(rt: &Tokio, kv: &Moody, at: &Address) -> Serving<Tokio> {
    let routes = tonic::service::Routes::new(KvServer::new(kv.clone())).prepare();
    let service = Grpc::new(rt, &["etcdserverpb.KV"], routes.into_axum_router());
    let listener = rt.listen(at).await.expect("listen");
    let options = crate::net::Options::new(Endpoint::Client, Security::Plain);
    serve(rt, listener, options, service)
}

fn client(rt: &Tokio, endpoints: &[String]) -> Client<Tokio> {
    let options = Options { endpoints: endpoints.to_vec(), ..Options::default() };
    Client::new(rt, &options).expect("a client")
}

const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

/// An address at which nobody listens. A path of our own: a port could be somebody's a moment later.
fn deserted(dir: &tempfile::TempDir) -> String {
    format!("unix:{}", dir.path().join("nobody").display())
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn a_read_is_sent_again_and_a_write_is_not() {
    run(|rt| async move {
        let kv = Moody { refusals: 2, ..Moody::default() };
        let serving = server(&rt, &kv).await;
        let client = client(&rt, &[serving.address().to_string()]);
        client.range(RangeRequest::default(), LIMIT).await.expect("the third attempt");
        assert_eq!(kv.calls(), 3);

        let kv = Moody { refusals: 1, ..Moody::default() };
        let serving = server(&rt, &kv).await;
        let client = self::client(&rt, &[serving.address().to_string()]);
        let error = client.put(PutRequest::default(), LIMIT).await.expect_err("refused once");
        assert_eq!(error.to_string(), "etcdserver: leader changed");
        assert_eq!((error.code(), kv.calls()), (Code::Unavailable, 1));
        let error = client.txn(TxnRequest::default(), LIMIT).await;
        assert!(error.is_ok() && kv.calls() == 2);
    });
}

#[test]
fn a_dead_endpoint_is_passed_over_by_reads_and_writes() {
    run(|rt| async move {
        let kv = Moody::default();
        let serving = server(&rt, &kv).await;
        let dir = directory();
        let endpoints = [deserted(&dir), serving.address().to_string()];
        let client = client(&rt, &endpoints);
        client.put(PutRequest::default(), LIMIT).await.expect("by the second endpoint");
        client.range(RangeRequest::default(), LIMIT).await.expect("as well");
        assert_eq!(kv.calls(), 2);
    });
}

#[test]
fn without_a_server_a_call_waits_until_its_deadline_and_knows_why() {
    run(|rt| async move {
        let dir = directory();
        let client = client(&rt, &[deserted(&dir)]);
        let limit = Some(Duration::from_millis(300));
        let error = client.put(PutRequest::default(), limit).await.expect_err("nobody is there");
        assert!(matches!(error, Error::Deadline(Some(_))), "{error:?}");
        assert_eq!(error.to_string(), "context deadline exceeded");
        assert!(error.detail().contains("No such file"), "{}", error.detail());
    });
}

#[test]
fn a_server_that_comes_late_is_found() {
    run(|rt| async move {
        let dir = directory();
        let address = deserted(&dir);
        let client = client(&rt, std::slice::from_ref(&address));
        let early = Some(Duration::from_millis(100));
        client.put(PutRequest::default(), early).await.expect_err("nobody is there yet");
        let kv = Moody::default();
        let _serving = server_at(&rt, &kv, &address.parse().expect("an address")).await;
        client.put(PutRequest::default(), LIMIT).await.expect("there now");
        assert_eq!(kv.calls(), 1);
    });
}
