//! The command line client: see `mainstay::ctl`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use mainstay::runtime::tokio::{Settings, Tokio};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let environment: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
    let ended = Tokio::start(Settings::default(), |runtime| async {
        let code = mainstay::ctl::run(runtime, args, environment).await;
        // A thread that reads the terminal would hold an orderly end up for ever.
        let _ = std::io::stdout().flush();
        std::process::exit(code.into())
    });
    match ended {
        Ok(never) => never,
        Err(error) => {
            eprintln!("Error: the runtime could not be started: {error}");
            ExitCode::FAILURE
        }
    }
}
