//! The server binary: flags in, a member out. Everything that can be wrong is said in etcd's words and
//! with its exit codes: 2 for a flag that cannot be read, 1 for a configuration or a start that fails.
//!
//! A service manager that asked for it is told when clients are served, and when the end begins.
//!
//! SIGTERM and SIGINT hand leadership over, finish what was begun, and then end the process by the very
//! signal that was received, so that whoever waits for it sees how it ended.

mod logging;
mod notify;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use mainstay::config::{self, LogLevel, LogLine};
use mainstay::runtime::tokio::{Settings, Tokio};
use mainstay::server::StopReason;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How the process is to end.
enum End {
    Exit(u8),
    Signal(&'static str),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let parsed = match config::parse(&args, &env) {
        Ok(parsed) => parsed,
        Err(exit) => {
            let (stdout, stderr) = exit.render(&logging::timestamp());
            print!("{stdout}");
            eprint!("{stderr}");
            return ExitCode::from(exit.code);
        }
    };
    let config = parsed.config;
    let sink =
        Arc::new(logging::Sink::new(config.log_format, config.log_level, &config.log_outputs));
    for line in &parsed.log {
        sink.print(line);
    }
    logging::install(sink.clone());
    let settings = Settings { reuse_port: config.socket_reuse_port };
    let end = Tokio::start(settings, |runtime| run(runtime, config, sink.clone()));
    match end {
        Ok(End::Exit(code)) => ExitCode::from(code),
        Ok(End::Signal(name)) => die_of(name),
        Err(error) => {
            fatal(&sink, "the runtime could not be started", &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn fatal(sink: &logging::Sink, message: &str, error: &str) {
    sink.print(&LogLine::new(LogLevel::Fatal, message, vec![("error", error.into())]));
}

async fn run(runtime: Tokio, config: config::Config, sink: Arc<logging::Sink>) -> End {
    let signal = match runtime.stop_signal() {
        Ok(signal) => signal,
        Err(error) => {
            fatal(&sink, "signals cannot be received", &error.to_string());
            return End::Exit(1);
        }
    };
    let mut signal = std::pin::pin!(signal);
    let starting = mainstay::start::start(config, runtime);
    let mut server = tokio::select! {
        biased;
        name = &mut signal => return End::Signal(name),
        started = starting => match started {
            Ok(server) => server,
            Err(error) => {
                fatal(&sink, error.log_message(), &error.to_string());
                return End::Exit(1);
            }
        },
    };
    notify::ready();
    tokio::select! {
        biased;
        name = &mut signal => {
            notify::stopping();
            tracing::info!(signal = name, "received signal; shutting down");
            server.stop().await;
            End::Signal(name)
        }
        reason = server.stopped() => match reason {
            StopReason::Removed => {
                tracing::warn!(
                    error = "the member has been permanently removed from the cluster",
                    "server error"
                );
                tracing::warn!("data-dir used by this member must be removed");
                server.stop().await;
                End::Exit(0)
            }
            StopReason::Failed(error) => {
                fatal(&sink, "the member has stopped", &error);
                End::Exit(1)
            }
            StopReason::Stopped => End::Exit(0),
        },
    }
}

/// Ends the process by a signal, as whoever waits for it expects. As the first process of a container
/// the signal would do nothing, so there it exits with 0.
fn die_of(name: &str) -> ExitCode {
    if std::process::id() == 1 {
        return ExitCode::SUCCESS;
    }
    let number = if name == "interrupt" {
        signal_hook::consts::SIGINT
    } else {
        signal_hook::consts::SIGTERM
    };
    // It returns only if the kernel refuses, and then there is nothing left to try.
    let _ = signal_hook::low_level::emulate_default_handler(number);
    ExitCode::SUCCESS
}
