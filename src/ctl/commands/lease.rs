//! `lease …`. Ids are hex, both ways.

use clap::{ArgMatches, Command};

use super::{decimal, hex_lease};
use crate::client;
use crate::ctl::cli::{Given, arguments, command, group as group_of, switch};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::show::lease::{Revoked, TimeToLive};
use crate::ctl::{Shell, print};
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use crate::runtime::Runtime;

pub(super) fn group() -> Command {
    group_of("lease", "Lease related commands")
        .subcommand(command("grant", "Creates leases").arg(arguments("ttl")))
        .subcommand(command("revoke", "Revokes leases").arg(arguments("leaseID")))
        .subcommand(
            command("timetolive", "Get lease information")
                .arg(arguments("leaseID"))
                .arg(switch("keys", "Get keys attached to this lease")),
        )
        .subcommand(command("list", "List all active leases").arg(arguments("")))
        .subcommand(
            command("keep-alive", "Keeps leases alive (renew)")
                .arg(arguments("leaseID"))
                .arg(switch("once", "Renew once and exit immediately")),
        )
}

/// Reads the only argument as an id.
fn id(given: &ArgMatches, missing: &str) -> Outcome<i64> {
    let args = given.arguments();
    let [id] = args.as_slice() else { return Err(Failure::bad_args(missing)) };
    hex_lease(id).map_err(|error| {
        Failure::bad_args(format!("bad lease ID arg ({error}), expecting ID in Hex"))
    })
}

/// The three commands that only look at leases fail as if there were no connection.
fn not_connected(error: client::Error) -> Failure {
    Failure { code: exit::BAD_CONNECTION, ..error.into() }
}

pub(super) async fn run_grant<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let args = given.arguments();
    let [ttl] = args.as_slice() else {
        return Err(Failure::bad_args("lease grant command needs TTL argument"));
    };
    let ttl = decimal(ttl).map_err(|error| Failure::bad_args(format!("bad TTL ({error})")))?;
    let answer = shell.client()?.lease_grant(LeaseGrantRequest { ttl, id: 0 }, shell.limit()).await;
    let answer = answer
        .map_err(|error| Failure::from(error).with_context("failed to grant lease (", ")"))?;
    shell.show(&answer)
}

pub(super) async fn run_revoke<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let id = id(given, "lease revoke command needs 1 argument")?;
    let answer = shell.client()?.lease_revoke(LeaseRevokeRequest { id }, shell.limit()).await;
    let answer = answer
        .map_err(|error| Failure::from(error).with_context("failed to revoke lease (", ")"))?;
    shell.show(&Revoked(id, answer))
}

pub(super) async fn run_timetolive<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let id = id(given, "lease timetolive command needs lease ID as argument")?;
    let keys = given.flag("keys");
    let request = LeaseTimeToLiveRequest { id, keys };
    let answer = shell.client()?.lease_time_to_live(request, None).await.map_err(not_connected)?;
    shell.show(&TimeToLive(answer, keys))
}

pub(super) async fn run_list<R: Runtime>(shell: &Shell<R>) -> Outcome {
    let answer = shell.client()?.lease_leases(LeaseLeasesRequest {}, None).await;
    shell.show(&answer.map_err(not_connected)?)
}

pub(super) async fn run_keep_alive<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let id = id(given, "lease keep-alive command needs lease ID as argument")?;
    let mut beats = shell.client()?.keep_alive(id);
    if given.flag("once") {
        let answer = beats.next().await.map_err(not_connected)?;
        if answer.ttl <= 0 {
            let text = "etcdserver: requested lease not found";
            return Err(Failure::new(exit::BAD_CONNECTION, text));
        }
        return shell.show(&answer);
    }
    loop {
        let answer = beats.next().await.map_err(not_connected)?;
        if answer.ttl <= 0 {
            break;
        }
        shell.show(&answer)?;
    }
    if shell.is_simple() {
        print(format!("lease {id:016x} expired or revoked.\n").as_bytes())?;
    }
    Ok(())
}
