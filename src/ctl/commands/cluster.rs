//! `member …`, `move-leader`, `alarm …`.

use clap::{ArgMatches, Command};

use super::{hex_id, lossy};
use crate::client::Client;
use crate::ctl::cli::{Given, arguments, command, group, switch, text};
use crate::ctl::failure::{Failure, Outcome, exit};
use crate::ctl::show::cluster::{Changed, LeaderMoved};
use crate::ctl::text::quote;
use crate::ctl::{Shell, print};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, MemberAddRequest, MemberAddResponse, MemberListRequest,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest,
    StatusRequest,
};
use crate::runtime::Runtime;

pub(super) fn member() -> Command {
    let peer_urls = || text("peer-urls", "comma separated peer URLs for the member.");
    group("member", "Membership related commands")
        .subcommand(
            command("add", "Adds a member into the cluster")
                .arg(arguments("memberName"))
                .arg(peer_urls())
                .arg(switch("learner", "add it as a learner, without a vote")),
        )
        .subcommand(
            command("list", "Lists all members in the cluster")
                .arg(arguments(""))
                .arg(text("consistency", "Linearizable(l) or Serializable(s)").default_value("l")),
        )
        .subcommand(
            command("promote", "Promotes a non-voting member in the cluster")
                .arg(arguments("memberID")),
        )
        .subcommand(
            command("remove", "Removes a member from the cluster").arg(arguments("memberID")),
        )
        .subcommand(
            command("update", "Updates a member in the cluster")
                .arg(arguments("memberID"))
                .arg(peer_urls()),
        )
}

pub(super) fn move_leader() -> Command {
    command("move-leader", "Transfers leadership to another cluster member.")
        .arg(arguments("transferee-member-id"))
}

pub(super) fn alarm() -> Command {
    group("alarm", "Alarm related commands")
        .subcommand(command("disarm", "Disarms all alarms").arg(arguments("")))
        .subcommand(command("list", "Lists all alarms").arg(arguments("")))
}

pub(super) async fn run_list<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let linearizable = match given.string("consistency") {
        "l" => true,
        "s" => false,
        other => {
            let text = format!("unknown consistency flag {}", quote(other.as_bytes()));
            return Err(Failure::new(exit::BAD_FEATURE, text));
        }
    };
    let request = MemberListRequest { linearizable };
    shell.show(&shell.client()?.member_list(request, shell.limit()).await?)
}

pub(super) async fn run_add<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let args = given.arguments();
    let name = match args.as_slice() {
        [] => return Err(Failure::bad_args("member name not provided")),
        [name] => lossy(name),
        many => {
            let mut text = "too many arguments".to_owned();
            for arg in many.iter().map(|arg| lossy(arg)) {
                if arg.to_ascii_lowercase().starts_with("http") {
                    text.push_str(&format!(", did you mean --peer-urls={arg}"));
                }
            }
            return Err(Failure::bad_args(text));
        }
    };
    let urls = peer_urls(given)?;
    let request = MemberAddRequest { peer_urls: urls, is_learner: given.flag("learner") };
    let answer = shell.client()?.member_add(request, shell.limit()).await?;
    shell.show(&answer)?;
    if shell.is_simple() {
        print(settings(&name, &answer, given.string("peer-urls")).as_bytes())?;
    }
    Ok(())
}

/// The environment that the new member is to be started with.
fn settings(name: &str, answer: &MemberAddResponse, urls: &str) -> String {
    let added = answer.member.as_ref().map_or(0, |member| member.id);
    let mut cluster = Vec::new();
    for member in &answer.members {
        let name = if member.id == added { name } else { &member.name };
        cluster.extend(member.peer_urls.iter().map(|url| format!("{name}={url}")));
    }
    let quoted = |text: &str| quote(text.as_bytes());
    format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
         ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quoted(name),
        quoted(&cluster.join(",")),
        quoted(urls)
    )
}

fn peer_urls(given: &ArgMatches) -> Outcome<Vec<String>> {
    let urls = given.string("peer-urls");
    if urls.is_empty() {
        return Err(Failure::bad_args("member peer urls not provided"));
    }
    Ok(urls.split(',').map(str::to_owned).collect())
}

fn member_id(given: &ArgMatches) -> Outcome<u64> {
    let args = given.arguments();
    let [id] = args.as_slice() else {
        return Err(Failure::bad_args("member ID is not provided"));
    };
    hex_id(id).map_err(|error| {
        Failure::bad_args(format!("bad member ID arg ({error}), expecting ID in Hex"))
    })
}

pub(super) async fn run_remove<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let id = member_id(given)?;
    let answer = shell.client()?.member_remove(MemberRemoveRequest { id }, shell.limit()).await?;
    shell.show(&Changed(id, answer))
}

pub(super) async fn run_update<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let id = member_id(given)?;
    let request = MemberUpdateRequest { id, peer_urls: peer_urls(given)? };
    let answer = shell.client()?.member_update(request, shell.limit()).await?;
    shell.show(&Changed(id, answer))
}

pub(super) async fn run_promote<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let id = member_id(given)?;
    let answer = shell.client()?.member_promote(MemberPromoteRequest { id }, shell.limit()).await?;
    shell.show(&Changed(id, answer))
}

/// Only the leader can hand over, so each endpoint is asked whether it is the one.
pub(super) async fn run_move_leader<R: Runtime>(shell: &Shell<R>, given: &ArgMatches) -> Outcome {
    let args = given.arguments();
    let [target] = args.as_slice() else {
        return Err(Failure::bad_args("move-leader command needs 1 argument"));
    };
    let to = hex_id(target).map_err(Failure::bad_args)?;
    for endpoint in &shell.globals.endpoints {
        let client = shell.client_of(vec![endpoint.clone()])?;
        let status = client.status(StatusRequest {}, shell.limit()).await?;
        let from = status.header.as_ref().map_or(0, |header| header.member_id);
        if from == status.leader {
            let request = MoveLeaderRequest { target_id: to };
            let answer = client.move_leader(request, shell.limit()).await?;
            return shell.show(&LeaderMoved { from, to, answer });
        }
    }
    let endpoints = shell.globals.endpoints.join(" ");
    Err(Failure::bad_args(format!("no leader endpoint given at [{endpoints}]")))
}

/// Lists all alarms of all members.
pub(super) async fn alarms<R: Runtime>(
    client: &Client<R>,
    shell_limit: Option<std::time::Duration>,
) -> Result<AlarmResponse, crate::client::Error> {
    let request = AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() };
    client.alarm(request, shell_limit).await
}

pub(super) async fn run_alarm_list<R: Runtime>(shell: &Shell<R>) -> Outcome {
    shell.show(&alarms(&shell.client()?, shell.limit()).await?)
}

pub(super) async fn run_alarm_disarm<R: Runtime>(shell: &Shell<R>) -> Outcome {
    let client = shell.client()?;
    let mut cleared = AlarmResponse::default();
    for alarm in alarms(&client, shell.limit()).await?.alarms {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        cleared.alarms.extend(client.alarm(request, shell.limit()).await?.alarms);
    }
    shell.show(&cleared)
}
