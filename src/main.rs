//! The `dirnet` binary; see [`cli`].
#![forbid(unsafe_code)]

mod cli;
mod process;

/// Counts what is allocated, and refuses what is beyond a limit once there is one: see `process::guard`.
#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

fn main() -> std::process::ExitCode {
    cli::main()
}
