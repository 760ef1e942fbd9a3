//! `etcdserverpb.Cluster`: the members.

use tonic::{Request, Response, Status};

use super::status::bad_member_urls;
use super::{Api, Kind, fail};
use crate::cluster::Member;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::types::{NodeId, Revision};

fn convert(member: Member) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.learner,
    }
}

fn convert_all(mut members: Vec<Member>) -> Vec<pb::Member> {
    members.sort_by_key(|member| member.id);
    members.into_iter().map(convert).collect()
}

/// Checks peer URLs as etcd does: some, each `scheme://host:port` without a path.
fn check_urls(urls: &[String]) -> Result<(), Status> {
    let good = |url: &String| crate::config::Url::parse(url).is_ok();
    if urls.is_empty() || !urls.iter().all(good) { Err(bad_member_urls()) } else { Ok(()) }
}

impl Api {
    /// Cluster replies carry no revision, as in etcd.
    fn cluster_header(&self) -> Option<pb::ResponseHeader> {
        self.header(Revision(0))
    }
}

#[tonic::async_trait]
impl Cluster for Api {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let request = request.into_inner();
        check_urls(&request.peer_urls)?;
        let mut urls = request.peer_urls;
        urls.sort();
        let (member, members) =
            self.handle.member_add(urls, request.is_learner).await.map_err(fail)?;
        Ok(Response::new(pb::MemberAddResponse {
            header: self.cluster_header(),
            member: Some(convert(member)),
            members: convert_all(members),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let id = NodeId(request.into_inner().id);
        let members = self.handle.member_remove(id).await.map_err(fail)?;
        Ok(Response::new(pb::MemberRemoveResponse {
            header: self.cluster_header(),
            members: convert_all(members),
        }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let request = request.into_inner();
        // NB: etcd commits an unparsable URL here, and its members panic on it at every start.
        if !request.peer_urls.is_empty() {
            check_urls(&request.peer_urls)?;
        }
        let id = NodeId(request.id);
        let members = self.handle.member_update(id, request.peer_urls).await.map_err(fail)?;
        Ok(Response::new(pb::MemberUpdateResponse {
            header: self.cluster_header(),
            members: convert_all(members),
        }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        if request.into_inner().linearizable {
            self.handle.read_barrier().await.map_err(fail)?;
        }
        let members = self.handle.reader().members().members().cloned().collect();
        Ok(Response::new(pb::MemberListResponse {
            header: self.cluster_header(),
            members: convert_all(members),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.admit(&request, Kind::Voter)?;
        let id = NodeId(request.into_inner().id);
        let members = self.handle.member_promote(id).await.map_err(fail)?;
        Ok(Response::new(pb::MemberPromoteResponse {
            header: self.cluster_header(),
            members: convert_all(members),
        }))
    }
}
