//! `dirnet completions SHELL`: tab completion.

use anyhow::Result;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  dirnet completions bash > ~/.local/share/bash-completion/completions/dirnet")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the script to stdout.
pub fn run(args: &Args, mut cli: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "dirnet", &mut script);
    super::output::print(&String::from_utf8_lossy(&script))
}
