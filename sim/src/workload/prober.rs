//! What kubelets, load balancers and Prometheus ask: the plain HTTP side of a member, over HTTP/1.1, each time on
//! a connection of its own. It asks the port of `--listen-metrics-urls`, which stays plain where clients have to
//! speak TLS; where they have not, it asks their port as well, so that both protocols meet there.
//!
//! | checker | rule |
//! |---|---|
//! | `probe` | an answer that comes whole has one of the forms that etcd gives to that path |

use std::io;
use std::time::Duration;

use super::Shared;
use super::endpoint::{CLIENT_PORT, Endpoint, PROBE_PORT};
use crate::invariants::{Found, Violation};
use crate::rng::Rng;
use crate::time::{sleep, within};
use crate::trace::lock;

/// Who probes.
pub struct Prober {
    /// Where it asks from.
    pub endpoint: Endpoint,
    /// Its own stream of chance.
    pub rng: Rng,
    /// What it shares with others.
    pub shared: Shared,
    /// Where violations go.
    pub found: Found,
    /// How long it waits for an answer.
    pub patience: Duration,
    /// Whether the clients' port speaks TLS only.
    pub tls: bool,
}

/// What a path answers with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One JSON text with a reason.
    Health,
    /// A line for each of these checks, or «ok» alone.
    Checks(&'static [&'static str]),
    Version,
    Metrics,
    NotFound,
}

const LIVEZ: &[&str] = &["serializable_read"];
const READYZ: &[&str] =
    &["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

const TARGETS: &[(&str, Form)] = &[
    ("/health", Form::Health),
    ("/health?serializable=true", Form::Health),
    ("/health?exclude=NOSPACE&exclude=CORRUPT", Form::Health),
    ("/livez", Form::Checks(LIVEZ)),
    ("/livez?verbose", Form::Checks(LIVEZ)),
    ("/livez/serializable_read", Form::Checks(LIVEZ)),
    ("/readyz", Form::Checks(READYZ)),
    ("/readyz?verbose", Form::Checks(READYZ)),
    ("/readyz?exclude=linearizable_read", Form::Checks(READYZ)),
    ("/readyz/data_corruption?verbose", Form::Checks(READYZ)),
    ("/readyz/linearizable_read", Form::Checks(READYZ)),
    ("/readyz/non_learner", Form::Checks(READYZ)),
    ("/readyz/nothing", Form::NotFound),
    ("/version", Form::Version),
    ("/metrics", Form::Metrics),
];

impl Prober {
    /// Probes until told to stop.
    pub async fn run(mut self) {
        while !self.shared.stopped() {
            let pause = self.rng.between(200, 3_000);
            sleep(Duration::from_millis(pause)).await;
            let names = lock(&self.shared.members).clone();
            if names.is_empty() {
                continue;
            }
            let member = self.rng.pick(&names).clone();
            let (target, form) = *self.rng.pick(TARGETS);
            let port = if self.tls || self.rng.below(2) == 0 { PROBE_PORT } else { CLIENT_PORT };
            let Some(answer) =
                within(self.patience, self.endpoint.get(&member, port, target)).await
            else {
                continue;
            };
            let wrong = match answer {
                Ok((status, body)) => judge(target, form, status, &body),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
                // Refused, reset or cut short: no answer.
                Err(_) => Ok(()),
            };
            if let Err(wrong) = wrong {
                let text = format!("{member}:{port} answers {target} with {wrong}");
                self.found.add(Violation::new("probe", text));
            }
        }
    }
}

/// Says what is wrong with an answer.
fn judge(target: &str, form: Form, status: u16, body: &str) -> Result<(), String> {
    let right = match (form, status) {
        (Form::Health, 200) => body == r#"{"health":"true","reason":""}"#,
        (Form::Health, 503) => is_reason(target, body),
        (Form::Checks(_), 200) if !target.contains("verbose") => body == "ok\n",
        (Form::Checks(names), 200) => {
            body.strip_suffix("ok\n").is_some_and(|lines| are_checks(names, lines) == Some(false))
        }
        (Form::Checks(names), 503) => {
            body.strip_suffix('\n').is_some_and(|lines| are_checks(names, lines) == Some(true))
        }
        (Form::Version, 200) => {
            body.starts_with(r#"{"etcdserver":"3."#) && body.contains(r#""etcdcluster":""#)
        }
        (Form::Metrics, 200) => body.contains("\netcd_server_has_leader ") && body.ends_with('\n'),
        (Form::NotFound, 404) => body == "404 page not found\n",
        _ => false,
    };
    if right { Ok(()) } else { Err(format!("{status} {body:?}")) }
}

/// Tells whether a body gives one of the reasons to be unhealthy, and none that was not asked about.
fn is_reason(target: &str, body: &str) -> bool {
    let reason = body
        .strip_prefix(r#"{"health":"false","reason":""#)
        .and_then(|rest| rest.strip_suffix("\"}\n"))
        .unwrap_or_default();
    match reason {
        "ALARM NOSPACE" | "ALARM CORRUPT" => !target.contains("exclude"),
        "RAFT NO LEADER" => !target.contains("serializable"),
        _ => reason.starts_with("RANGE ERROR:"),
    }
}

/// Tells whether any check failed, if all lines are checks that were asked for.
fn are_checks(names: &[&str], lines: &str) -> Option<bool> {
    let mut failed = false;
    for line in lines.lines() {
        let (sign, rest) = line.split_at_checked(3)?;
        let (name, outcome) = rest.split_once(' ')?;
        let known = names.contains(&name);
        match sign {
            "[+]" if known && outcome == "ok" => {}
            "[-]" if known && outcome.starts_with("failed: ") => failed = true,
            _ => return None,
        }
    }
    Some(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_etcd_does_not_give_are_seen() {
        let ready = Form::Checks(READYZ);
        let ill = |reason: &str| format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
        let known = |target, form, status, body: &str| judge(target, form, status, body).is_ok();
        assert!(known("/health", Form::Health, 503, &ill("ALARM NOSPACE")));
        assert!(!known("/health?exclude=NOSPACE", Form::Health, 503, &ill("ALARM NOSPACE")));
        assert!(known("/health", Form::Health, 503, &ill("RANGE ERROR:etcdserver: no leader")));
        assert!(!known("/health", Form::Health, 200, &ill("RAFT NO LEADER")));
        assert!(!known("/health?serializable=true", Form::Health, 503, &ill("RAFT NO LEADER")));
        assert!(known("/readyz", ready, 200, "ok\n"));
        assert!(!known("/readyz", ready, 200, "[+]non_learner ok\nok\n"));
        assert!(known("/readyz?verbose", ready, 200, "[+]non_learner ok\nok\n"));
        assert!(!known("/readyz", ready, 503, "[+]non_learner ok\n\n"));
        assert!(known(
            "/readyz",
            ready,
            503,
            "[+]non_learner ok\n[-]linearizable_read failed: x\n\n"
        ));
        assert!(!known("/livez", Form::Checks(LIVEZ), 503, "[-]non_learner failed: x\n\n"));
        assert!(!known("/metrics", Form::Metrics, 200, ""));
        assert!(!known("/readyz/nothing", Form::NotFound, 200, "ok\n"));
    }
}
