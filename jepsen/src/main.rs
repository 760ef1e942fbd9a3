//! Mainstay from outside: real processes, real sockets, real clients.
//!
//! - `differential` sends one random stream of requests to Mainstay and to an etcd and compares the answers.
//! - `bench` measures both on one machine, in turns.
//! - `cluster` kills and pauses members of a real cluster under load and has the history checked.
//!
//! Nothing here shares code with the server but the generated messages: connections are made by
//! [`channel`], so that a mistake in the product's own HTTP/2 or TLS can't hide itself.

mod bench;
mod channel;
mod cluster;
mod differential;
mod process;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "jepsen", about = "Tests Mainstay from outside")]
struct Arguments {
    /// The loopback ports that servers may be given.
    #[arg(long, global = true, value_name = "FIRST-LAST", default_value = "11000-30999")]
    ports: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One random stream of requests to Mainstay and to an etcd; the answers must be equal.
    Differential(differential::Options),
    /// Both on one machine, measured in turns.
    Bench(bench::Options),
    /// Members of a real cluster are killed and stopped under load; the history is judged.
    Cluster(cluster::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = process::use_ports(&arguments.ports) {
        eprintln!("jepsen: {error:#}");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads and sockets can be had");
    let outcome = match arguments.command {
        Command::Differential(options) => runtime.block_on(differential::run(options)),
        Command::Bench(options) => runtime.block_on(bench::run(options)),
        Command::Cluster(options) => runtime.block_on(cluster::run(options)),
    };
    // Watch streams and servers may still be open; nobody waits for them.
    runtime.shutdown_background();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}
