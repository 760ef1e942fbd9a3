//! The utility for data directories: see `mainstay::utl`.

use std::process::ExitCode;

use mainstay::runtime::files::Files;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    ExitCode::from(mainstay::utl::run(&Files, &args))
}
