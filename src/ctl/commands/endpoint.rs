//! `endpoint …`: each endpoint by itself.

use clap::{ArgMatches, Command};
use tokio::sync::mpsc;
use tonic::Code;

use super::cluster::alarms;
use crate::client::Client;
use crate::config::goflag::format_duration;
use crate::ctl::Shell;
use crate::ctl::cli::{Given, arguments, command, group as group_of, integer, switch};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::show::cluster::alarm_name;
use crate::ctl::show::endpoint::{EndpointHash, EndpointStatus, Health};
use crate::proto::etcdserverpb::{HashKvRequest, MemberListRequest, RangeRequest, StatusRequest};
use crate::runtime::{Lane, Runtime};

pub(super) fn group() -> Command {
    group_of("endpoint", "Endpoint related commands")
        .arg(switch("cluster", "use all endpoints from the cluster member list").global(true))
        .subcommand(
            command("hashkv", "Prints the KV history hash for each endpoint in --endpoints")
                .arg(arguments(""))
                .arg(
                    integer("rev", "maximum revision to hash (default: latest)").default_value("0"),
                ),
        )
        .subcommand(
            command("health", "Checks the healthiness of endpoints specified in `--endpoints`")
                .arg(arguments("")),
        )
        .subcommand(
            command("status", "Prints out the status of endpoints specified in `--endpoints`")
                .arg(arguments("")),
        )
}

/// Returns the endpoints meant: those given, or all that the members advertise.
async fn endpoints<R: Runtime>(shell: &Shell<R>, all: bool) -> Outcome<Vec<String>> {
    if !all {
        return Ok(shell.globals.endpoints.clone());
    }
    let request = MemberListRequest { linearizable: true };
    let members = shell.client()?.member_list(request, shell.limit()).await.map_err(|error| {
        let before = "failed to fetch endpoints from etcd cluster member list: ";
        Failure::from(error).with_context(before, "")
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_urls).collect())
}

pub(super) async fn run_health<R: Runtime>(shell: &Shell<R>, all: bool) -> Outcome {
    let (tell, mut results) = mpsc::unbounded_channel();
    for endpoint in endpoints(shell, all).await? {
        let client = shell.client_of(vec![endpoint.clone()])?;
        let (tell, limit) = (tell.clone(), shell.limit());
        shell.runtime.spawn(Lane::Serve, "health", async move {
            // The receiver waits for all.
            let _ = tell.send(health(&client, endpoint, limit).await);
        });
    }
    drop(tell);
    // In the order in which they answer.
    let mut healths = Vec::new();
    while let Some(health) = results.recv().await {
        healths.push(health);
    }
    shell.show(&healths)?;
    let mut ill = healths.iter().filter(|health| !health.healthy).peekable();
    if ill.peek().is_none() {
        return Ok(());
    }
    if shell.is_simple() {
        for health in ill {
            let Health { endpoint, error, .. } = health;
            eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
        }
    }
    Err(Failure::new(exit::ERROR, "unhealthy cluster"))
}

/// Asks for a proposal by way of a linearizable read, then for alarms.
async fn health<R: Runtime>(
    client: &Client<R>,
    endpoint: String,
    limit: Option<std::time::Duration>,
) -> Health {
    let began = client.runtime().now();
    let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
    let answer = client.range(request, limit).await;
    let took = client.runtime().now().saturating_since(began);
    let took = format_duration(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
    // Whoever may not read the key has been heard all the same.
    let error = match answer {
        Err(error) if error.code() != Code::PermissionDenied => Some(error.to_string()),
        _ => match alarms(client, limit).await {
            Err(_) => Some("Unable to fetch the alarm list".to_owned()),
            Ok(answer) if answer.alarms.is_empty() => None,
            Ok(answer) => {
                let name = |alarm| format!("{} ", alarm_name(alarm));
                let names: String = answer.alarms.iter().map(name).collect();
                Some(format!("Active Alarm(s): {names}"))
            }
        },
    };
    Health { endpoint, healthy: error.is_none(), took, error: error.unwrap_or_default() }
}

pub(super) async fn run_status<R: Runtime>(shell: &Shell<R>, all: bool) -> Outcome {
    let (mut answers, mut last) = (Vec::new(), None);
    for endpoint in endpoints(shell, all).await? {
        let client = shell.client_of(vec![endpoint.clone()])?;
        match client.status(StatusRequest {}, shell.limit()).await {
            Ok(status) => answers.push(EndpointStatus { endpoint, status }),
            Err(error) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
                last = Some(error);
            }
        }
    }
    shell.show(&answers)?;
    // Each failure was told, so nothing is left to say.
    ended(last.map(|_| Failure::new(exit::ERROR, "")))
}

pub(super) async fn run_hashkv<R: Runtime>(
    shell: &Shell<R>,
    all: bool,
    given: &ArgMatches,
) -> Outcome {
    let (mut answers, mut last) = (Vec::new(), None);
    let revision = given.number("rev");
    for endpoint in endpoints(shell, all).await? {
        let client = shell.client_of(vec![endpoint.clone()])?;
        match client.hash_kv(HashKvRequest { revision }, shell.limit()).await {
            Ok(hash) => answers.push(EndpointHash { endpoint, hash }),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                last = Some(error);
            }
        }
    }
    shell.show(&answers)?;
    ended(last.map(Failure::from))
}

/// What did not answer was told; that something did not is an error all the same.
fn ended(last: Option<Failure>) -> Outcome {
    last.map_or(Ok(()), Err)
}
