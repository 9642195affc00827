//! `dirnet man [COMMAND]`: the manual page, of the tool or of one command.

use anyhow::{Context, Result, bail};

/// Print a manual page, in the format of man
#[derive(clap::Args)]
#[command(after_help = "Example:\n  dirnet man compress | man -l -")]
pub struct Args {
    /// The command that the page is about; none for the tool as a whole
    command: Option<String>,
}

/// Writes the page to stdout.
pub fn run(args: &Args, mut cli: clap::Command) -> Result<()> {
    cli.build();
    let page = match &args.command {
        None => cli,
        Some(name) => match cli.find_subcommand(name) {
            Some(command) => command.clone(),
            None => bail!("there is no command '{name}'; see 'dirnet --help'"),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).context("cannot write the page")?;
    super::output::print(&String::from_utf8_lossy(&text))
}
