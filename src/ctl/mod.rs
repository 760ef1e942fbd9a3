//! `mainstayctl`: the command line of the API, in etcdctl's words, output and exit codes.
//!
//! ```text
//!   arguments ──cli──→ one clap definition a command ──commands──→ client ──→ answer ──show──→ stdout
//!   ETCDCTL_… ──globals──↗                                            └──failure──→ stderr, exit code
//! ```
//!
//! What scripts see is etcdctl 3.7's to the byte: results on stdout, `Error: …` on stderr, the exit code.
//! Help texts are clap's, made from the same definitions that parse and complete.
//!
//! Left out so far, and answered as unknown commands: auth, user, role, lock, elect, snapshot, defrag,
//! downgrade, make-mirror, check; and service discovery by DNS.

pub(crate) mod cli;
mod commands;
pub(crate) mod failure;
mod globals;
mod lines;
pub(crate) mod show;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use self::failure::{Failure, Outcome, exit};
use self::globals::Globals;
use self::show::{Format, Show, Style};
use crate::client::{Client, Options};
use crate::net::tls::ClientTlsOptions;
use crate::runtime::Runtime;

/// The program's name in its own texts.
pub const NAME: &str = "mainstayctl";

/// Runs one command line, the program's name first, and returns the exit code.
pub async fn run<R: Runtime>(
    runtime: R,
    args: Vec<OsString>,
    environment: BTreeMap<String, String>,
) -> u8 {
    let matches = match cli::parse(&args) {
        Ok(matches) => matches,
        Err(stop) => {
            let mut stream: Box<dyn Write> = if stop.code == 0 {
                Box::new(std::io::stdout().lock())
            } else {
                Box::new(std::io::stderr().lock())
            };
            // Nobody is left to be told.
            let _ = stream.write_all(stop.text.as_bytes());
            return stop.code;
        }
    };
    match commands::dispatch(runtime, &args, &environment, &matches).await {
        Ok(code) => code,
        Err(failure) => {
            if let Some(detail) = &failure.detail {
                eprintln!("{detail}");
            }
            if !failure.text.is_empty() {
                eprintln!("Error: {}", failure.text);
            }
            failure.code
        }
    }
}

/// Returns the whole command's definition, for completion scripts and tests.
#[must_use]
pub fn definition() -> clap::Command {
    cli::root()
}

/// What a command that talks to a server has at hand.
pub(crate) struct Shell<R: Runtime> {
    runtime: R,
    globals: Globals,
    style: Style,
}

impl<R: Runtime> Shell<R> {
    fn new(runtime: R, globals: Globals) -> Outcome<Self> {
        let format = Format::of(&globals.write_out)
            .ok_or_else(|| Failure::new(exit::BAD_FEATURE, "unsupported output format"))?;
        let style = Style { format, hex: globals.hex };
        Ok(Self { runtime, globals, style })
    }

    /// Makes the client of all endpoints.
    fn client(&self) -> Outcome<Client<R>> {
        self.client_of(self.globals.endpoints.clone())
    }

    /// Makes a client of some endpoints.
    fn client_of(&self, endpoints: Vec<String>) -> Outcome<Client<R>> {
        let it = &self.globals;
        let cert_and_key_files = match (&it.cert, &it.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            (cert, key) => {
                let shown = |path: &Option<std::path::PathBuf>| {
                    path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
                };
                return Err(Failure::bad_args(format!(
                    "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                    shown(key),
                    shown(cert)
                )));
            }
        };
        let configured = it.cacert.is_some() || cert_and_key_files.is_some();
        let options = Options {
            endpoints,
            tls: ClientTlsOptions {
                trusted_ca_file: it.cacert.clone(),
                cert_and_key_files,
                insecure_skip_verify: it.insecure_skip_tls_verify,
                ..ClientTlsOptions::default()
            },
            tls_by_default: configured || !it.insecure_transport,
            dial_timeout: it.dial_timeout,
            keepalive_time: it.keepalive_time,
            keepalive_timeout: it.keepalive_timeout,
            ..Options::default()
        };
        let options = Options {
            send_bytes_max: it.max_request_bytes.unwrap_or(options.send_bytes_max),
            receive_bytes_max: it.max_recv_bytes.unwrap_or(options.receive_bytes_max),
            ..options
        };
        Ok(Client::new(&self.runtime, &options)?)
    }

    /// The limit of a short command.
    fn limit(&self) -> Option<Duration> {
        Some(self.globals.command_timeout)
    }

    /// Prints an answer on stdout.
    fn show(&self, answer: &(impl Show + ?Sized)) -> Outcome {
        print(&show::render(answer, &self.style)?)
    }

    fn is_simple(&self) -> bool {
        self.style.format == Format::Simple
    }
}

/// Writes to stdout at once: a reader at the other end of a pipe waits for it.
fn print(bytes: &[u8]) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::new(exit::ERROR, format!("write stdout: {error}")))
}
