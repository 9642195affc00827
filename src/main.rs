//! The `dirnet` binary; see [`cli`].
#![forbid(unsafe_code)]

mod cli;
mod process;

fn main() -> std::process::ExitCode {
    cli::main()
}
