//! `grpc.health.v1.Health`: the one name `""` serves from the start; others are unknown, as in etcd.

use std::pin::Pin;

use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Api, Kind};
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};

#[tonic::async_trait]
impl Health for Api {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        if request.into_inner().service.is_empty() {
            Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving as i32 }))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    async fn list(
        &self,
        request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let serving = HealthCheckResponse { status: ServingStatus::Serving as i32 };
        Ok(Response::new(HealthListResponse { statuses: [(String::new(), serving)].into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.admit(&request, Kind::Voter)?;
        let known = request.into_inner().service.is_empty();
        let status = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let (updates, stream) = mpsc::channel(1);
        let mut member = self.handle.watch_status();
        self.handle.clock().spawn(
            "health watch",
            Box::pin(async move {
                if updates.send(Ok(HealthCheckResponse { status: status as i32 })).await.is_err() {
                    return;
                }
                // The stream lives, silent, until the client goes or the member stops.
                loop {
                    tokio::select! {
                        biased;
                        () = updates.closed() => return,
                        changed = member.changed() => {
                            if changed.is_err() || member.borrow().stopped.is_some() {
                                return;
                            }
                        }
                    }
                }
            }),
        );
        Ok(Response::new(Box::pin(super::watch::Receiver(stream))))
    }
}
