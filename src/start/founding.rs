//! Who a member without a disk is: a founder of its cluster, or one that joins a cluster that stands.
//!
//! Both are asked of the members of the command line that answer. A founder whom one of them knows as
//! started has lost its disk, and with it its votes: it is refused. One that joins must find itself listed,
//! as somebody who has never started.

use std::collections::BTreeMap;

use super::{Certificates, StartError};
use crate::cluster::Member;
use crate::config::{ClusterState, Config, texts};
use crate::machine::bootstrap_entries;
use crate::runtime::Runtime;
use crate::server::bootstrap::{self, Founding};
use crate::transport::grpc::describe;
use crate::types::{ClusterId, NodeId};

/// Decides who a member without a disk is: a founder, or one that joins.
pub(super) async fn founding<R: Runtime>(
    config: &Config,
    runtime: &R,
    tls: &Certificates,
) -> Result<Founding, StartError> {
    config.check_bootstrap(&BTreeMap::new()).map_err(StartError::Bootstrap)?;
    let (ids, _) = config.initial_ids();
    let founders: Vec<Member> = config
        .initial_cluster
        .iter()
        .zip(&ids)
        .map(|((name, urls), id)| Member { name: name.clone(), ..Member::new(*id, texts(urls)) })
        .collect();
    let own = founders.iter().find(|member| member.name == config.name).map(|member| member.id);
    let own = own.expect("the check found this member among the founders");
    let others = || founders.iter().filter(|member| member.id != own);
    match config.initial_cluster_state {
        ClusterState::New => {
            if let Some((_, members)) = &ask_others(runtime, tls, others(), |_| Ok(())).await?
                && members.iter().any(|member| member.id == own && !member.client_urls.is_empty())
            {
                return Err(StartError::Bootstrap(format!(
                    "member {:x} has already been bootstrapped",
                    own.0
                )));
            }
            let named: Vec<(String, Vec<String>)> =
                founders.into_iter().map(|member| (member.name, member.peer_urls)).collect();
            let token = &config.initial_cluster_token;
            let (cluster_id, _, entries) =
                bootstrap_entries(&named, token).map_err(StartError::Bootstrap)?;
            Ok(Founding { id: own, cluster_id, entries })
        }
        ClusterState::Existing => {
            let suits = |members: &[Member]| suits(config, members);
            let Some((cluster_id, members)) = ask_others(runtime, tls, others(), suits).await?
            else {
                return Err(StartError::Bootstrap(
                    "cannot fetch cluster info from peer urls: could not retrieve cluster \
                     information from the given URLs"
                        .to_owned(),
                ));
            };
            let urls = texts(config.initial_self().unwrap_or_default());
            let id = bootstrap::find_self(&members, &urls).expect("it was found a moment ago");
            let me = members.iter().find(|member| member.id == id);
            if me.is_some_and(|member| !member.client_urls.is_empty()) {
                return Err(StartError::Bootstrap(format!(
                    "member {:x} has already been bootstrapped",
                    id.0
                )));
            }
            Ok(Founding { id, cluster_id, entries: Vec::new() })
        }
    }
}

/// Says whether the members that a cluster has are those of the command line.
fn suits(config: &Config, members: &[Member]) -> Result<(), String> {
    if members.len() != config.initial_cluster.len() {
        return Err("error validating peerURLs: member count is unequal".to_owned());
    }
    for (_, urls) in &config.initial_cluster {
        if bootstrap::find_self(members, &texts(urls)).is_none() {
            return Err(format!(
                "error validating peerURLs: PeerURLs: no match found for existing member ({})",
                texts(urls).join(",")
            ));
        }
    }
    Ok(())
}

/// Asks the other members who is in the cluster; the first answer that suits counts.
///
/// A member that lags does not know yet that this one was added, so an answer that does not suit is the
/// outcome only when no other member gives a better one (etcd takes the first answer, whosever it is).
async fn ask_others<'m, R: Runtime>(
    runtime: &R,
    tls: &Certificates,
    others: impl Iterator<Item = &'m Member>,
    suits: impl Fn(&[Member]) -> Result<(), String>,
) -> Result<Option<(ClusterId, Vec<Member>)>, StartError> {
    let mut unsuited = None;
    for url in others.flat_map(|member| &member.peer_urls) {
        match describe(runtime, url, tls.dial.as_ref(), None).await {
            Ok(found) => {
                let members = found.members.into_iter().map(|member| Member {
                    id: NodeId(member.id),
                    peer_urls: member.peer_urls,
                    learner: member.is_learner,
                    name: member.name,
                    client_urls: member.client_urls,
                });
                let members: Vec<Member> = members.collect();
                match suits(&members) {
                    Ok(()) => return Ok(Some((ClusterId(found.cluster_id), members))),
                    Err(why) => unsuited = Some(why),
                }
            }
            Err(status) => {
                tracing::debug!(
                    url,
                    error = status.message(),
                    "no cluster information from a peer"
                );
            }
        }
    }
    unsuited.map_or(Ok(None), |why| Err(StartError::Bootstrap(why)))
}
