//! The way past the router for one service.
//!
//! A router of axum's finds the service by a tree of patterns and boxes the request's body, the route's
//! future and the answer's body on the way. For the service that nearly all requests go to, one comparison
//! of strings does; the others keep the router.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::routing::future::RouteFuture;
use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

/// Sends the requests for one gRPC service to it, and all others to a router.
#[derive(Clone)]
pub struct Shortcut<S> {
    name: &'static str,
    service: S,
    others: axum::Router,
}

impl<S> Shortcut<S> {
    /// Serves the methods of the service `name` (`etcdserverpb.KV`) beside the router's.
    pub fn new(name: &'static str, service: S, others: axum::Router) -> Self {
        Self { name, service, others }
    }
}

/// What tonic's generated services return.
type Boxed = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send>>;

impl<S, B> Service<Request<B>> for Shortcut<S>
where
    S: Service<
            Request<B>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
            Future = Boxed,
        >,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Taken;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Taken {
        let mut path = request.uri().path().split('/').skip(1);
        if path.next() == Some(self.name) && path.next().is_some_and(|method| !method.is_empty()) {
            Taken::Service(self.service.call(request))
        } else {
            Taken::Others(Box::pin(self.others.call(request)))
        }
    }
}

/// An answer on one of the two ways.
pub enum Taken {
    /// The service's.
    Service(Boxed),
    /// The router's.
    Others(Pin<Box<RouteFuture<Infallible>>>),
}

impl Future for Taken {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Service(answer) => {
                answer.as_mut().poll(cx).map_ok(|response| response.map(Body::new))
            }
            Self::Others(answer) => answer.as_mut().poll(cx),
        }
    }
}
