//! The first members: `--initial-cluster` read, and compared with what this member says of itself.
//!
//! The comparison may need DNS, since a member may be listed by name and advertised by address. The
//! lookup is I/O and not done here: [`Config::addresses_to_resolve`] says what to look up, and the
//! answers come back as a map. An empty map compares by text alone.

use std::collections::{BTreeMap, BTreeSet};

use super::goflag::{quote, quote_list};
use super::identity::{cluster_id, member_id};
use super::settings::{ClusterState, Config};
use super::url::{self, Url};
use crate::types::{ClusterId, NodeId};

/// Reads `name=url,name=url`; a name may come several times, its URLs are collected and sorted.
pub(super) fn parse_initial_cluster(text: &str) -> Result<Vec<(String, Vec<Url>)>, String> {
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').unwrap_or((part, ""));
        members.entry(name).or_default().push(url);
    }
    members.into_iter().map(|(name, urls)| Ok((name.to_owned(), Url::parse_list(urls)?))).collect()
}

impl Config {
    /// Returns this member's entry in the initial cluster.
    pub fn initial_self(&self) -> Option<&[Url]> {
        let own = self.initial_cluster.iter().find(|(name, _)| *name == self.name);
        own.map(|(_, urls)| urls.as_slice())
    }

    /// Computes the ids of the first members, in the order of [`Config::initial_cluster`], and of the
    /// cluster that they found.
    pub fn initial_ids(&self) -> (Vec<NodeId>, ClusterId) {
        let token = &self.initial_cluster_token;
        let ids: Vec<NodeId> =
            self.initial_cluster.iter().map(|(_, urls)| member_id(urls, token)).collect();
        let cluster = cluster_id(&ids);
        (ids, cluster)
    }

    /// Lists the addresses (`host:port`) to look up before [`Config::check_bootstrap`]; none when the
    /// two lists of this member's peer URLs agree as they are.
    pub fn addresses_to_resolve(&self) -> Vec<String> {
        let listed = self.initial_self().unwrap_or_default();
        let own = &self.initial_advertise_peer_urls;
        if self.initial_cluster_state == ClusterState::Existing
            || listed.len() != own.len()
            || same_places(listed, own)
        {
            return Vec::new();
        }
        let needs = |url: &&Url| !url.is_unix() && url.host() != "localhost";
        let addresses: BTreeSet<String> =
            listed.iter().chain(own).filter(needs).map(|url| url.address().to_owned()).collect();
        addresses.into_iter().collect()
    }

    /// Checks the flags that bootstrap relies on; the error is etcd's sentence. `resolved` has the
    /// answer for each of [`Config::addresses_to_resolve`]: an address with a numeric host, or why
    /// the lookup failed.
    pub fn check_bootstrap(
        &self,
        resolved: &BTreeMap<String, Result<String, String>>,
    ) -> Result<(), String> {
        if let Some(why) = &self.initial_cluster_error {
            return Err(why.clone());
        }
        let name = &self.name;
        let Some(listed) = self.initial_self() else {
            let place = "in the initial cluster configuration";
            return Err(format!("couldn't find local name {} {place}", quote(name)));
        };
        if self.initial_cluster_state == ClusterState::New {
            self.check_advertised(listed, resolved)?;
        }
        let mut seen = BTreeSet::new();
        if !self.initial_cluster.iter().flat_map(|(_, urls)| urls).all(|url| seen.insert(url)) {
            return Err(format!("initial cluster {} has duplicate url", self.cluster_text()));
        }
        Ok(())
    }

    /// Checks that the member is listed with the URLs it advertises.
    fn check_advertised(
        &self,
        listed: &[Url],
        resolved: &BTreeMap<String, Result<String, String>>,
    ) -> Result<(), String> {
        let own = self.initial_advertise_peer_urls.as_slice();
        let Err(why) = same_after_lookup(own, listed, resolved) else { return Ok(()) };
        let name = &self.name;
        let missing = |from: &[Url], of: &[Url]| -> Vec<String> {
            let missing: BTreeSet<&Url> = of.iter().filter(|url| !from.contains(url)).collect();
            missing.into_iter().map(Url::to_string).collect()
        };
        let advertised = url::texts(own).join(",");
        let not_advertised = missing(own, listed);
        if !not_advertised.is_empty() {
            let named: Vec<String> =
                not_advertised.iter().map(|url| format!("{name}={url}")).collect();
            return Err(format!(
                "--initial-cluster has {} but missing from \
                 --initial-advertise-peer-urls={advertised} ({why})",
                named.join(",")
            ));
        }
        let cluster: Vec<String> = own.iter().map(|url| format!("{name}={url}")).collect();
        let cluster = cluster.join(",");
        let not_listed = missing(listed, own);
        if !not_listed.is_empty() {
            return Err(format!(
                "--initial-advertise-peer-urls has {} but missing from \
                 --initial-cluster={cluster}",
                not_listed.join(",")
            ));
        }
        Err(format!("failed to resolve {advertised} to match --initial-cluster={cluster} ({why})"))
    }

    /// Prints the initial cluster as its flag is written, sorted.
    fn cluster_text(&self) -> String {
        let mut pairs: Vec<String> = self
            .initial_cluster
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
            .collect();
        pairs.sort_unstable();
        pairs.join(",")
    }
}

/// Tells whether two sorted lists name the same places without a lookup.
fn same_places(a: &[Url], b: &[Url]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.names_same_place(b))
}

/// Compares two sorted lists, with a lookup where their texts differ.
fn same_after_lookup(
    a: &[Url],
    b: &[Url],
    resolved: &BTreeMap<String, Result<String, String>>,
) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", quote_list(a), quote_list(b)));
    }
    if same_places(a, b) {
        return Ok(());
    }
    let look_up = |urls: &[Url]| -> Result<Vec<Url>, String> {
        let mut found = Vec::new();
        for url in urls {
            found.push(match resolved.get(url.address()) {
                Some(Ok(address)) => url.with_address(address),
                Some(Err(why)) => {
                    return Err(format!("failed to resolve {} ({why})", quote(url.as_str())));
                }
                None => url.clone(),
            });
        }
        found.sort();
        Ok(found)
    };
    let (a, b) = (look_up(a)?, look_up(b)?);
    match a.iter().zip(&b).find(|(a, b)| !a.names_same_place(b)) {
        Some((a, b)) => {
            let (a, b) = (quote(a.as_str()), quote(b.as_str()));
            Err(format!("resolved urls: {a} != {b}"))
        }
        None => Ok(()),
    }
}
