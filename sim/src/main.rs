//! The simulator's command line.

#[cfg(madsim)]
mod cli;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    cli::main()
}

#[cfg(not(madsim))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "built without `--cfg madsim`: a RUSTFLAGS variable replaces the flags of .cargo/config.toml; \
         unset it or add `--cfg madsim` to it"
    );
    std::process::ExitCode::FAILURE
}
