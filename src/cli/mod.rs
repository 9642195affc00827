//! The command line: arguments, and one file per command.
//!
//! The binary is thin. A command parses its arguments first (clap), validates them second (against each other and the
//! files they name), calls the library, and hands the result to `dirnet::report`. What scripts may rely on: the flags,
//! the JSON of `--format json`, and the exit code, which is 0 for done, 1 when a check failed or a target cannot be met
//! or there was nothing to do, 2 for bad usage or bad input, and 128 plus its number where a signal ended it.

mod args;
mod bench;
mod completions;
mod compress;
mod config;
mod expand;
mod inspect;
mod job;
mod man;
mod output;
mod plan;
mod progress;
mod samples;
mod several;
mod sweep;
mod value;
mod verify;

use std::ffi::OsString;
use std::panic;
use std::process::ExitCode;

use crate::process::exit::{BAD_INPUT, FAILED, say};
use crate::process::{guard, interrupt};
use anyhow::Error;
use clap::error::{ContextKind, ErrorKind as ClapErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use dirnet::error::{ErrorKind, Escaped, shortened};

const EXAMPLES: &str = "\
Examples:
  dirnet inspect model.onnx
  dirnet compress model.onnx -o small.onnx --ratio 8 --calibration samples.npz
  dirnet verify model.onnx small.onnx --samples holdout.npz --min-snr 20

Exit codes: 0 done; 1 a check failed, a target cannot be met, or there was nothing
to do; 2 bad usage or bad input; 128 and the number of a signal that ended it.";

/// Makes the weights of ONNX models several times smaller without retraining, and measures the error.
#[derive(Parser)]
#[command(name = "dirnet", version, about, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Compress(Box<compress::Args>),
    Verify(verify::Args),
    Plan(plan::Args),
    Sweep(sweep::Args),
    Expand(expand::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// What is run, of a command that runs models.
    fn guarded(&self, given: &config::Given) -> Option<guard::Guarded<'_>> {
        match self {
            Command::Compress(args) => Some(args.guarded(given)),
            Command::Verify(args) => Some(args.guarded()),
            Command::Plan(args) => Some(args.guarded()),
            Command::Sweep(args) => Some(args.guarded()),
            // A bench starts a worker for each model itself.
            Command::Inspect(_)
            | Command::Expand(_)
            | Command::Bench(_)
            | Command::Completions(_)
            | Command::Man(_) => None,
        }
    }
}

/// Runs the command that the process was started with and returns its exit code.
pub fn main() -> ExitCode {
    let location = panics::record();
    match panic::catch_unwind(|| run(std::env::args_os().collect())) {
        Ok(code) => code,
        Err(_) => {
            let place = location.lock().ok().and_then(|mut place| place.take()).unwrap_or_default();
            say(&format!("error: internal error{place}: this is a bug in dirnet, please report it\n"));
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn run(arguments: Vec<OsString>) -> ExitCode {
    interrupt::watch();
    let arguments = guard::enlist(arguments);
    let named = subcommand(&arguments);
    let (command, overrides, given) = match parse(arguments.clone()) {
        Ok(parsed) => parsed,
        Err(Stop::Usage(error)) => return usage(&error, "", &named),
        Err(Stop::Config(error, file)) => return usage(&error, &format!("{}: ", Escaped(&file)), &named),
        Err(Stop::Other(error)) => return failure(&error),
    };
    if let Some(guarded) = command.guarded(&given) {
        if !guard::is_worker() {
            return guard::supervise(&guarded, progress::display, &arguments);
        }
        guard::arm(guarded.limits);
    }
    let done = match command {
        Command::Inspect(args) => inspect::run(&args, &overrides),
        Command::Compress(args) => compress::run(&args, &overrides, &given),
        Command::Verify(args) => verify::run(&args),
        Command::Plan(args) => plan::run(&args, &overrides),
        Command::Sweep(args) => sweep::run(&args, &overrides),
        Command::Expand(args) => expand::run(&args),
        Command::Bench(args) => bench::run(&args, &arguments),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Why there is no command to run.
enum Stop {
    /// The command line does not parse, or asks for help.
    Usage(clap::Error),
    /// The command line parses, but not together with the values of this file.
    Config(clap::Error, String),
    Other(Error),
}

/// Reads the command line, and once more with the flags of a configuration: that of `--config`, or one that is found.
fn parse(mut arguments: Vec<OsString>) -> Result<(Command, config::Overrides, config::Given), Stop> {
    let matches = Cli::command().try_get_matches_from(&arguments).map_err(Stop::Usage)?;
    let named = config_path(&matches);
    let found = if named.is_some() { None } else { config::discovered(&matches) };
    let Some((name, path)) = named.or_else(|| found.clone()) else {
        let command = command(&matches).map_err(Stop::Usage)?;
        return Ok((
            command,
            config::Overrides::default(),
            config::Given { cli: Cli::command(), arguments, tables: String::new(), models: Vec::new() },
        ));
    };
    if let Some((_, path)) = found.filter(|_| !guard::is_worker() && !is_quiet(&matches)) {
        say(&format!("configuration: {} (--no-config ignores it)\n", Escaped(&path.display().to_string())));
    }
    let file = config::File::read(&path).map_err(Stop::Other)?;
    let given = matches.subcommand_matches(&name).expect("config_path found this subcommand");
    let flags = file.flags(&Cli::command(), &name, given).map_err(Stop::Other)?;
    // Directly behind the command's name, where no `--` and no list of values can come before them.
    arguments.splice(2..2, flags);
    if config_path(&matches).is_none() {
        // From here on it is as if it had been named.
        let mut named = OsString::from("--config=");
        named.push(&path);
        arguments.insert(2, named);
    }
    let origin = path.display().to_string();
    let both = Cli::command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| command(&matches))
        .map_err(|error| Stop::Config(error, origin))?;
    let tables = file.tables();
    let given = config::Given { cli: Cli::command(), arguments, tables, models: file.models };
    Ok((both, file.overrides, given))
}

fn command(matches: &ArgMatches) -> Result<Command, clap::Error> {
    Cli::from_arg_matches(matches).map(|cli| cli.command)
}

fn is_quiet(matches: &ArgMatches) -> bool {
    let quiet = |sub: &ArgMatches| sub.try_get_one::<bool>("quiet").ok().flatten().copied();
    matches.subcommand().and_then(|(_, sub)| quiet(sub)).unwrap_or(false)
}

fn config_path(matches: &ArgMatches) -> Option<(String, std::path::PathBuf)> {
    let (name, sub) = matches.subcommand()?;
    let path = sub.try_get_one::<std::path::PathBuf>("config").ok()??;
    Some((name.to_owned(), path.clone()))
}

/// The command that the arguments name, if there is one of that name.
fn subcommand(arguments: &[OsString]) -> String {
    let name = arguments.get(1).and_then(|name| name.to_str()).unwrap_or_default();
    if Cli::command().find_subcommand(name).is_some() { name.to_owned() } else { String::new() }
}

/// Shows help on stdout, or a usage error of `command` as one line on stderr.
fn usage(error: &clap::Error, place: &str, command: &str) -> ExitCode {
    if matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion) {
        // A reader that left early has seen what it wanted of the help.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    say(&format!("error: {place}{}\n", one_line(error, command)));
    ExitCode::from(BAD_INPUT)
}

/// clap's message without its usage block, on one line, with the command whose help says more.
fn one_line(error: &clap::Error, command: &str) -> String {
    if error.kind() == ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command given; see 'dirnet --help'".to_owned();
    }
    let text = error.to_string();
    let message: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message).trim_end_matches('.');
    // A file too many is often the second value of a flag.
    let positional = error.get(ContextKind::InvalidArg).is_some_and(|arg| !arg.to_string().starts_with('-'));
    let tip = match error.kind() {
        ClapErrorKind::UnknownArgument if positional => {
            ": a flag takes one value, repeat it for each (--samples a --samples b)"
        }
        _ => "",
    };
    let space = if command.is_empty() { "" } else { " " };
    format!("{}{tip}; see 'dirnet {command}{space}--help'", Escaped(&shortened(message)))
}

/// Shows what went wrong on one line and says with which code to leave.
fn failure(error: &Error) -> ExitCode {
    let kind = error.downcast_ref::<dirnet::error::Error>().map(dirnet::error::Error::kind);
    if kind == Some(ErrorKind::Cancelled) {
        // Whoever cancelled knows.
        return ExitCode::from(BAD_INPUT);
    }
    // Joined the way that anyhow's `{:#}` does; each is escaped already if it came from the library.
    let words = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(system) => dirnet::error::words(system),
        None => cause.to_string(),
    };
    let causes: Vec<String> = error.chain().map(|cause| shortened(&words(cause)).into_owned()).collect();
    say(&format!("error: {}\n", Escaped(&causes.join(": "))));
    ExitCode::from(match error.downcast_ref::<dirnet::error::Error>().map(dirnet::error::Error::kind) {
        Some(ErrorKind::Target | ErrorKind::Check | ErrorKind::NothingToDo | ErrorKind::Engine) => FAILED,
        _ => BAD_INPUT,
    })
}

/// A panic is a bug and ends as one line, unless `RUST_BACKTRACE` asks for more.
mod panics {
    use std::panic;
    use std::sync::{Arc, Mutex};

    /// Replaces the panic hook by one that only remembers where the last panic was. The library catches those of the
    /// engine itself, and they are errors like any other: nothing of them should reach the terminal.
    pub fn record() -> Arc<Mutex<Option<String>>> {
        let place = Arc::new(Mutex::new(None));
        if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0") {
            let seen = Arc::clone(&place);
            panic::set_hook(Box::new(move |info| {
                if let (Ok(mut seen), Some(at)) = (seen.lock(), info.location()) {
                    *seen = Some(format!(" at {}:{}", at.file(), at.line()));
                }
            }));
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let error = |arguments: &[&str]| match Cli::try_parse_from(arguments) {
            Ok(_) => panic!("{arguments:?} should not parse"),
            Err(error) => {
                let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
                one_line(&error, &subcommand(&arguments))
            }
        };
        let missing = error(&["dirnet", "inspect"]);
        assert_eq!(missing, "the following required arguments were not provided: <MODEL>; see 'dirnet inspect --help'");
        assert!(!error(&["dirnet", "inspect", "--nonsense\nx"]).contains('\n'));
        assert!(error(&["dirnet", "verify", "--min-snr", "x"]).ends_with("; see 'dirnet verify --help'"));
        assert_eq!(error(&["dirnet"]), "no command given; see 'dirnet --help'");
    }
}
