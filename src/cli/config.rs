//! `--config FILE.toml`: flags in a file, and settings for single nodes.
//!
//! A key is the long name of a flag with dashes or underscores, its value what would stand behind the flag: a list
//! for a flag that may be repeated, `true` for one that takes none. Paths are relative to the file. The command line wins
//! over the file, which is named by `--config`, or else the nearest `dirnet.toml` beside the model or above it. A file may
//! serve several commands: keys of another command's flags are passed over, keys of no command's are errors.
//!
//! ```toml
//! ratio = 8
//! calibration = ["samples/calibration.npz"]
//! min_snr = ["logits:20"]
//!
//! [nodes."^/decoder/"]
//! skip = true
//!
//! [nodes."^/encoder/"]
//! bits = 4
//! gates."R.c" = { codec = "dense" }
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use dirnet::compress::Level;
use dirnet::dictionary::BlockSpec;
use dirnet::error::meant;
use dirnet::linear::LinearNode;
use dirnet::plan::{Choice, Pins, Sharing};
use dirnet::recurrent::{GateBlock, Survey, listed};
use dirnet::report::SuggestedCheck;
use dirnet::sites::{Site, Sites};
use regex::Regex;
use serde::Deserialize;
use toml::{Spanned, Value};

/// The largest configuration that is read: it is written by hand.
const MAX_BYTES: u64 = 1 << 20;

/// Settings for the nodes whose name matches a pattern.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Leaves the node as it is.
    #[serde(default)]
    pub skip: bool,
    codec: Option<String>,
    width: Option<usize>,
    bits: Option<f64>,
    sharing: Option<String>,
    /// For single gates, as `c` or `R.c`; they go before the settings of the node.
    #[serde(default)]
    gates: BTreeMap<String, Gate>,
}

/// How the weight blocks of a gate are stored.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Gate {
    codec: Option<String>,
    width: Option<usize>,
    bits: Option<f64>,
    sharing: Option<String>,
}

impl Node {
    /// What a gate of W or R, or the weight of another node, is to be stored as, if these settings say so.
    fn choice(&self, gate: Option<&GateBlock>) -> Result<Option<Choice>> {
        let Node { codec, width, bits, sharing, .. } = self.clone();
        let of_gate = |gate: &GateBlock| {
            self.gates.get(&format!("{}.{}", gate.matrix, gate.gate)).or_else(|| self.gates.get(gate.gate))
        };
        let own = gate.and_then(of_gate);
        own.cloned().unwrap_or(Gate { codec, width, bits, sharing }).choice()
    }
}

impl Gate {
    fn choice(&self) -> Result<Option<Choice>> {
        let width = match (self.width, self.bits) {
            (Some(_), Some(_)) => bail!("width and bits set the same thing: remove one of them"),
            (Some(width), None) => Some(width),
            // A code is a byte, so that 8 bits are one weight to an atom.
            (None, Some(bits)) if bits > 0.0 => Some((8.0 / bits).round() as usize),
            (None, Some(bits)) => bail!("{bits} bits per weight, expected 0.5 to 8"),
            (None, None) => None,
        };
        match (self.codec.as_deref(), width) {
            (None, None) if self.sharing.is_none() => Ok(None),
            (Some("dense"), None) if self.sharing.is_none() => Ok(Some(Choice::Dense)),
            (Some("dense"), _) => bail!("codec = \"dense\" takes no width, bits or sharing: remove them"),
            (None | Some("block"), Some(width)) => {
                let spec = BlockSpec::new(width)?;
                let name = self.sharing.as_deref().unwrap_or(Sharing::Unit.name());
                let sharing = Sharing::ALL.into_iter().find(|sharing| sharing.name() == name);
                let sharing = sharing
                    .with_context(|| format!("sharing '{name}' is unknown, expected unit, matrix, node or model"))?;
                Ok(Some(Choice::Block { spec, sharing }))
            }
            (None | Some("block"), None) => bail!("codec = \"block\" needs width or bits"),
            (Some("projection"), _) => {
                bail!(
                    "codec = \"projection\" cannot be set for a node, because layers share its dictionary: set it for the model"
                )
            }
            (Some(codec), _) => bail!("codec '{codec}' is unknown, expected block or dense"),
        }
    }
}

/// A `[nodes."PATTERN"]` table.
#[derive(Clone, Debug)]
pub struct Override {
    /// `file:line`.
    place: String,
    /// What node names are matched with.
    pub pattern: Regex,
    /// What is said of those nodes.
    pub node: Node,
}

/// All such tables, in the order of their patterns.
pub type Overrides = Vec<Override>;

impl Override {
    fn place(&self) -> String {
        format!("{}: [nodes.\"{}\"]", self.place, self.pattern)
    }

    /// Refuses what would do nothing: settings that are none, a pattern that no node has, a gate that none of its nodes
    /// has.
    fn check(&self, survey: &Survey, linear: &[LinearNode]) -> Result<()> {
        let Node { codec, width, bits, sharing, gates, .. } = self.node.clone();
        let all = Gate { codec, width, bits, sharing };
        all.choice()?;
        for (gate, settings) in &gates {
            settings.choice().with_context(|| format!("gates.\"{gate}\""))?;
        }
        let skipped = survey.skipped.iter().map(|skipped| skipped.node.as_str());
        let nodes = survey.nodes.iter().map(|node| node.name.as_str());
        let names: Vec<&str> = nodes.chain(skipped).chain(linear.iter().map(|node| node.name.as_str())).collect();
        if !names.iter().any(|name| self.pattern.is_match(name)) {
            let meant = meant(self.pattern.as_str().trim_matches(['^', '$']), names.iter().copied());
            bail!("no node with weights has such a name{meant}; there are {}", listed(&names));
        }
        let cells = survey.nodes.iter().filter(|node| self.pattern.is_match(&node.name)).map(|node| node.cell);
        let mut known: Vec<&str> = cells.flat_map(|cell| cell.gates().iter().copied()).collect();
        known.sort_unstable();
        known.dedup();
        let of_matrix =
            |gate: &'_ str| gate.strip_prefix("W.").or_else(|| gate.strip_prefix("R.")).unwrap_or(gate).to_owned();
        match gates.keys().find(|gate| !known.is_empty() && !known.contains(&of_matrix(gate).as_str())) {
            Some(gate) => bail!(
                "there is no gate '{gate}'; gates are {}, for one matrix W.{1} or R.{1}",
                known.join(", "),
                known[0]
            ),
            None => Ok(()),
        }
    }
}

/// Refuses settings for single nodes that would do nothing, naming file, line and pattern.
pub fn check(overrides: &Overrides, survey: &Survey, linear: &[LinearNode]) -> Result<()> {
    overrides.iter().try_for_each(|settings| settings.check(survey, linear).with_context(|| settings.place()))
}

/// What the settings pin of the sites. A tensor that several nodes share has the names of all.
pub fn pins(overrides: &Overrides, sites: &Sites) -> Result<Pins> {
    let pin = |site: &Site| {
        let nodes: Vec<&str> = sites.readers(site.tensor).map(|reader| reader.name).collect();
        let mut found: Option<(Choice, &Override)> = None;
        for settings in overrides.iter().filter(|it| nodes.iter().any(|name| it.pattern.is_match(name))) {
            let choice = settings.node.choice(site.gate()).with_context(|| settings.place())?;
            match (choice, found) {
                (Some(choice), None) => found = Some((choice, settings)),
                (Some(choice), Some((other, before))) if choice != other => {
                    bail!("{}: {} is set differently by '{}'", settings.place(), sites.place(site), before.pattern)
                }
                _ => {}
            }
        }
        Ok(found.map(|(choice, _)| choice))
    };
    Ok(Pins(sites.all.iter().map(pin).collect::<Result<Vec<_>>>()?.into()))
}

/// A `[models.NAME]` table: one of several models that are compressed under one budget, and its samples.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    #[serde(skip)]
    pub name: String,
    /// The ONNX file.
    pub file: PathBuf,
    #[serde(default)]
    pub calibration: Values<PathBuf>,
    #[serde(default)]
    pub holdout: Values<PathBuf>,
    #[serde(default)]
    pub stream: Values<String>,
    #[serde(default)]
    pub loss: Values<String>,
    /// How much its loss counts.
    #[serde(default)]
    pub weight: Option<f64>,
}

/// One value or a list of them, as for the flag of the same name.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Values<T> {
    One(T),
    Several(Vec<T>),
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Values::Several(Vec::new())
    }
}

impl<T: Clone> Values<T> {
    pub fn to_vec(&self) -> Vec<T> {
        match self {
            Values::One(value) => vec![value.clone()],
            Values::Several(values) => values.clone(),
        }
    }
}

impl ModelTable {
    /// With its name, and paths as seen from the working directory.
    fn located(self, name: &str, folder: &Path) -> ModelTable {
        let at =
            |paths: Values<PathBuf>| Values::Several(paths.to_vec().iter().map(|path| folder.join(path)).collect());
        ModelTable {
            name: name.to_owned(),
            file: folder.join(&self.file),
            calibration: at(self.calibration),
            holdout: at(self.holdout),
            ..self
        }
    }
}

/// A configuration file that has been read and whose syntax is sound.
pub struct File {
    path: PathBuf,
    text: String,
    flags: BTreeMap<Spanned<String>, Value>,
    /// The settings for single nodes.
    pub overrides: Overrides,
    /// The models that are compressed under one budget.
    pub models: Vec<ModelTable>,
}

impl File {
    /// Reads and parses a file.
    pub fn read(path: &Path) -> Result<File> {
        let text = read_text(path, MAX_BYTES)?;
        Self::parse(path, text)
    }

    /// Parses the text of a file.
    pub fn parse(path: &Path, text: String) -> Result<File> {
        #[derive(Deserialize)]
        struct Tables {
            #[serde(default)]
            nodes: BTreeMap<Spanned<String>, Node>,
            #[serde(default)]
            models: BTreeMap<Spanned<String>, ModelTable>,
        }
        let syntax = |error: toml::de::Error| {
            let place = place(path, &text, error.span());
            anyhow::anyhow!("{place}: {}", error.message().trim())
        };
        let mut flags: BTreeMap<Spanned<String>, Value> = toml::from_str(&text).map_err(syntax)?;
        flags.retain(|key, _| !matches!(key.get_ref().as_str(), "nodes" | "models"));
        let tables: Tables = toml::from_str(&text).map_err(syntax)?;
        let nodes = tables.nodes;
        if nodes.len() > MAX_TABLES {
            let (shown, found) = (path.display(), nodes.len());
            bail!(
                "{shown}: {found} tables [nodes.\"...\"], expected at most {MAX_TABLES}: one pattern can name many nodes"
            );
        }
        let mut overrides = Vec::with_capacity(nodes.len());
        for (pattern, node) in nodes {
            let place = place(path, &text, Some(pattern.span()));
            let pattern = super::value::pattern(pattern.get_ref()).map_err(|error| {
                anyhow::anyhow!("{place}: the pattern '{}' does not compile: {error}", pattern.get_ref())
            })?;
            let settings = Override { place, pattern, node };
            if settings.node.skip && settings.node != (Node { skip: true, ..Node::default() }) {
                bail!("{}: skip = true excludes all other settings: remove it or them", settings.place());
            }
            overrides.push(settings);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut models = Vec::with_capacity(tables.models.len());
        for (name, table) in tables.models {
            if table.weight.is_some_and(|weight| !(weight.is_finite() && weight > 0.0)) {
                let place = place(path, &text, Some(name.span()));
                bail!("{place}: [models.{}]: weight is a number above 0", name.get_ref());
            }
            models.push(table.located(name.get_ref(), folder));
        }
        Ok(File { path: path.to_owned(), text, flags, overrides, models })
    }

    /// The file's flags for the subcommand `name` as arguments, without those that `given` (the command line) sets,
    /// itself or through a flag that excludes them.
    pub fn flags(&self, cli: &Command, name: &str, given: &ArgMatches) -> Result<Vec<OsString>> {
        let command = cli.find_subcommand(name).expect("the command line was parsed by this very command");
        let mut arguments = Vec::new();
        for (key, value) in &self.flags {
            let long = key.get_ref().replace('_', "-");
            if matches!(long.as_str(), "config" | "no-config" | "write-config") {
                bail!("{}: '{}' cannot be set in a configuration", self.place(key), key.get_ref());
            }
            match flag(command, &long) {
                Some(arg) if is_given(command, arg, given) => {}
                Some(arg) => self.push(arg, &long, key, value, &mut arguments)?,
                None if cli.get_subcommands().any(|other| flag(other, &long).is_some()) => {}
                None => {
                    let longs: Vec<String> =
                        command.get_arguments().filter_map(Arg::get_long).map(|long| long.replace('-', "_")).collect();
                    let meant = meant(key.get_ref(), longs.iter().map(String::as_str));
                    bail!("{}: unknown key '{}'{meant}; see 'dirnet {name} --help'", self.place(key), key.get_ref())
                }
            }
        }
        Ok(arguments)
    }

    fn push(
        &self,
        arg: &Arg,
        long: &str,
        key: &Spanned<String>,
        value: &Value,
        arguments: &mut Vec<OsString>,
    ) -> Result<()> {
        let several = matches!(arg.get_action(), ArgAction::Append);
        match value {
            Value::Boolean(set) if !arg.get_action().takes_values() => {
                if *set {
                    arguments.push(format!("--{long}").into());
                }
            }
            _ if !arg.get_action().takes_values() => {
                bail!("{}: '{}' is true or false", self.place(key), key.get_ref());
            }
            Value::Array(values) if several => {
                for value in values {
                    arguments.push(format!("--{long}={}", self.located(arg, self.scalar(key, value)?)).into());
                }
            }
            Value::Array(_) => bail!("{}: '{}' takes one value, not a list", self.place(key), key.get_ref()),
            _ => arguments.push(format!("--{long}={}", self.located(arg, self.scalar(key, value)?)).into()),
        }
        Ok(())
    }

    /// A value of the file with its path, if it is one, as seen from the working directory.
    fn located(&self, arg: &Arg, value: String) -> String {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        with_path(arg, &value, |path| folder.join(path))
    }

    /// The text of the tables for single nodes, which come behind all flags.
    pub fn tables(&self) -> String {
        let lines = self.text.lines().skip_while(|line| !line.trim_start().starts_with("[nodes"));
        lines.map(|line| format!("{line}\n")).collect()
    }

    fn scalar(&self, key: &Spanned<String>, value: &Value) -> Result<String> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Integer(number) => Ok(number.to_string()),
            Value::Float(number) => Ok(number.to_string()),
            _ => bail!("{}: '{}' takes a text or a number", self.place(key), key.get_ref()),
        }
    }

    fn place(&self, key: &Spanned<String>) -> String {
        place(&self.path, &self.text, Some(key.span()))
    }
}

/// A value with the path in it replaced: the whole value, or what stands behind `NAME=` for labels.
fn with_path(arg: &Arg, value: &str, replace: impl Fn(&str) -> PathBuf) -> String {
    let text = |path: &str| replace(path).to_string_lossy().into_owned();
    match arg.get_value_hint() {
        _ if matches!(arg.get_id().as_str(), "labels" | "holdout_labels") => match value.split_once('=') {
            Some((name, path)) => format!("{name}={}", text(path)),
            None => value.to_owned(),
        },
        ValueHint::FilePath | ValueHint::AnyPath | ValueHint::DirPath => text(value),
        _ => value.to_owned(),
    }
}

/// The name of a configuration that is found without being named.
const NAME: &str = "dirnet.toml";

/// The nearest configuration beside the model of a command line or in a directory above it, unless it says not to look.
pub fn discovered(matches: &ArgMatches) -> Option<(String, PathBuf)> {
    let (name, sub) = matches.subcommand()?;
    if *sub.try_get_one::<bool>("no_config").ok()?? {
        return None;
    }
    let of = |id: &str| sub.try_get_one::<PathBuf>(id).ok().flatten();
    let model = of("model").or_else(|| of("original"))?;
    // As it was written as long as that goes, then from the root.
    let written = model.parent().map(|folder| folder.join(NAME));
    let absolute = std::path::absolute(model).ok()?;
    let above = absolute.ancestors().skip(2).map(|folder| folder.join(NAME));
    let file = written.into_iter().chain(above).find(|file| file.is_file())?;
    Some((name.to_owned(), file))
}

/// What a call was given, to be written as a configuration.
pub struct Given {
    /// The command line that they are of.
    pub cli: Command,
    /// The arguments, with those of a configuration that was read.
    pub arguments: Vec<OsString>,
    /// The tables for single nodes of that configuration.
    pub tables: String,
    /// Its tables for single models.
    pub models: Vec<ModelTable>,
}

impl Given {
    /// The text of a configuration with the flags of the call and these checks, to be stored in `file`. Flags that say where
    /// results go, and how they are shown, are left out, and of a limit of time its level is what is written.
    pub fn text(&self, file: &Path, checks: &[SuggestedCheck], level: Option<Level>) -> Result<String> {
        const LEFT_OUT: [&str; 10] = [
            "out",
            "time_budget",
            "report",
            "format",
            "quiet",
            "config",
            "no_config",
            "write_config",
            "keep_failed",
            "no_verify",
        ];
        let cli = &self.cli;
        let matches = cli.clone().try_get_matches_from(&self.arguments)?;
        let (name, given) = matches.subcommand().context("there is a command")?;
        let command = cli.find_subcommand(name).context("it was parsed by this very command line")?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let is_set = |arg: &&Arg| {
            let id = arg.get_id().as_str();
            arg.get_long().is_some()
                && !LEFT_OUT.contains(&id)
                && given.value_source(id) == Some(ValueSource::CommandLine)
        };
        let mut keys: BTreeMap<String, Value> = BTreeMap::new();
        for arg in command.get_arguments().filter(is_set) {
            let key = arg.get_long().unwrap_or_default().replace('-', "_");
            let raw = given.get_raw(arg.get_id().as_str()).into_iter().flatten();
            let values = raw.map(|raw| {
                let raw = raw.to_string_lossy();
                let seen_from = |path: &str| match folder {
                    Some(_) => std::path::absolute(path).unwrap_or_else(|_| path.into()),
                    None => path.into(),
                };
                Value::String(with_path(arg, &raw, seen_from))
            });
            let values: Vec<Value> = values.collect();
            let value = match arg.get_action() {
                action if !action.takes_values() => Value::Boolean(true),
                ArgAction::Append => Value::Array(values),
                _ => values.into_iter().next_back().context("it takes a value")?,
            };
            keys.insert(key, value);
        }
        keys.extend(level.map(|level| ("effort".to_owned(), Value::String(level.to_string()))));
        for check in checks {
            let key = check.check.replace('-', "_");
            let known = keys.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            let is_of_output = |value: &Value| {
                value.as_str().is_some_and(|text| text.rsplit_once(':').is_some_and(|(name, _)| name == check.output))
            };
            if let Value::Array(values) = known
                && !values.iter().any(is_of_output)
            {
                values.push(Value::String(check.value()));
            }
        }
        let mut text = format!("# Written by dirnet {name} --write-config: its flags, and checks with a margin.\n");
        if checks.is_empty() {
            text += "# No check is suggested, because the result was not good: see its verdict.\n";
        }
        text += &toml::to_string(&keys)?;
        if !self.tables.is_empty() {
            text += &format!("\n{}", self.tables);
        }
        Ok(text)
    }
}

/// The text of a regular file of at most `most` bytes: a pipe would be waited for, a device may never end.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    let shown = path.display();
    let found = std::fs::metadata(path).with_context(|| format!("{shown}: cannot read"))?;
    if !found.is_file() {
        bail!("{shown}: not a regular file");
    }
    if found.len() > most {
        bail!("{shown}: {} bytes are too many for such a file, expected at most {most}", found.len());
    }
    // No more than it says to have: files of the system (/proc) say 0, and some of them are waited for.
    let mut text = String::new();
    if found.len() > 0 {
        let file = std::fs::File::open(path).with_context(|| format!("{shown}: cannot read"))?;
        file.take(found.len()).read_to_string(&mut text).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => anyhow::anyhow!("{shown}: not a text in UTF-8"),
            _ => anyhow::Error::new(error).context(format!("{shown}: cannot read")),
        })?;
    }
    Ok(text)
}

/// `file:line` of a span.
fn place(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    match span.and_then(|span| text.get(..span.start)) {
        Some(before) => format!("{}:{}", path.display(), before.matches('\n').count() + 1),
        None => path.display().to_string(),
    }
}

/// Tables for single nodes that are read: they are written by hand, and each is held against every node and gate.
const MAX_TABLES: usize = 1000;

fn flag<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    let is_alias = |arg: &Arg| arg.get_all_aliases().is_some_and(|names| names.contains(&long));
    command.get_arguments().find(|arg| arg.get_long() == Some(long) || is_alias(arg))
}

/// Whether the command line sets `arg`, or another flag that excludes it.
fn is_given(command: &Command, arg: &Arg, given: &ArgMatches) -> bool {
    let set = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let excludes = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|it| it.get_id() == b.get_id());
    set(arg.get_id().as_str())
        || command
            .get_arguments()
            .any(|other| set(other.get_id().as_str()) && (excludes(arg, other) || excludes(other, arg)))
        || command.get_groups().any(|group| {
            !group.clone().is_multiple()
                && group.get_args().any(|id| id == arg.get_id())
                && group.get_args().any(|id| set(id.as_str()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use dirnet::recurrent::{Direction, Matrix};

    fn flags(text: &str, line: &[&str]) -> Result<Vec<String>> {
        let file = File::parse(Path::new("dirnet.toml"), text.to_owned())?;
        let matches = super::super::Cli::command().get_matches_from(line);
        let (name, given) = matches.subcommand().expect("every test line has a command");
        let flags = file.flags(&super::super::Cli::command(), name, given)?;
        Ok(flags.into_iter().map(|flag| flag.into_string().expect("made from text")).collect())
    }

    const LINE: [&str; 5] = ["dirnet", "compress", "m.onnx", "-o", "s.onnx"];

    fn error(text: &str) -> String {
        format!("{:#}", flags(text, &LINE).expect_err("the file is wrong"))
    }

    #[test]
    fn keys_become_flags() {
        let found = flags("ratio = 8\nno_verify = true\nquiet = false\ncalibration = ['a', 'b']\n", &LINE);
        assert_eq!(found.expect("sound"), ["--calibration=a", "--calibration=b", "--no-verify", "--ratio=8"]);
        // A second name of a flag is a key of the commands that have it.
        let verify = ["dirnet", "verify", "a.onnx", "b.onnx"];
        assert_eq!(flags("samples = ['a']", &verify).expect("sound"), ["--samples=a"]);
        assert!(flags("samples = ['a']", &LINE).expect("a key of verify").is_empty());
    }

    #[test]
    fn the_command_line_wins() {
        let line = [&LINE[..], &["--seed", "3", "--max-size", "2MB", "--calibration", "c"]].concat();
        let found = flags("ratio = 8\nseed = 1\ncalibration = ['a']\nthreads = 2", &line);
        assert_eq!(found.expect("sound"), ["--threads=2"]);
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        assert_eq!(
            error("ratio = 8\n\nratoi = 9\n"),
            "dirnet.toml:3: unknown key 'ratoi' (did you mean 'ratio'?); see 'dirnet compress --help'"
        );
        assert!(error("[nodes.a]\nskip = true\nskpi = 1\n").starts_with("dirnet.toml:3: unknown field `skpi`"));
        assert!(error("a = \n").starts_with("dirnet.toml:1: "));
        assert_eq!(error("[nodes.'a(']\n"), "dirnet.toml:1: the pattern 'a(' does not compile: unclosed group");
    }

    #[test]
    fn wrong_types_are_refused() {
        assert_eq!(error("no-verify = 1"), "dirnet.toml:1: 'no-verify' is true or false");
        assert_eq!(error("ratio = [1]"), "dirnet.toml:1: 'ratio' takes one value, not a list");
        assert_eq!(error("ratio = {}"), "dirnet.toml:1: 'ratio' takes a text or a number");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_flags_or_an_error(at: proptest::sample::Index, text in "[a-z=\\[\\]\"'.\n\\PC]{0,12}") {
            const SOUND: &str = "ratio = 8\ncalibration = ['a', \"b\"]\n[nodes.'^/a|b/']\nskip = true\n";
            let mut damaged: String = SOUND.to_owned();
            damaged.insert_str(at.index(SOUND.len()), &text);
            for text in [text, damaged] {
                let _ = flags(&text, &LINE);
            }
        }
    }

    #[test]
    fn gates_go_before_their_node() {
        let text =
            "[nodes.rnn]\nbits = 4\ngates.c = { width = 1, sharing = 'matrix' }\ngates.'R.f' = { codec = 'dense' }\n";
        let file = File::parse(Path::new("x"), text.to_owned()).expect("sound");
        let unit = |matrix, gate| GateBlock {
            node: "rnn".to_owned(),
            cell: dirnet::recurrent::Cell::Lstm,
            matrix,
            direction: Direction::Forward,
            direction_index: 0,
            gate,
            gate_index: 0,
            hidden: 8,
            columns: 8,
        };
        let block =
            |width, sharing| Some(Choice::Block { spec: BlockSpec::new(width).expect("a width on offer"), sharing });
        let node = &file.overrides[0].node;
        let choice = |matrix, gate| node.choice(Some(&unit(matrix, gate))).expect("sound");
        assert_eq!(choice(Matrix::W, "f"), block(2, Sharing::Unit));
        assert_eq!(choice(Matrix::R, "c"), block(1, Sharing::Matrix));
        assert_eq!(choice(Matrix::R, "f"), Some(Choice::Dense));
        for wrong in ["codec = 'dense'\nbits = 4", "width = 99", "bits = 0", "sharing = 'unit'", "codec = 'magic'"] {
            let file = File::parse(Path::new("x"), format!("[nodes.rnn]\n{wrong}\n")).expect("sound TOML");
            assert!(file.overrides[0].node.choice(Some(&unit(Matrix::W, "f"))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn twenty_thousand_tables_are_refused_at_once() {
        let text: String = (0..20_000).map(|i| format!("[nodes.'^n{i}$']\nskip = true\n")).collect();
        let start = std::time::Instant::now();
        let error = File::parse(Path::new("x.toml"), text).err().expect("too many").to_string();
        assert!(error.starts_with("x.toml: 20000 tables [nodes.\"...\"], expected at most 1000"), "{error}");
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    }

    #[test]
    fn nodes_are_typed() {
        let file = File::parse(Path::new("x"), "[nodes.'^/decoder/']\nskip = true\n".to_owned()).expect("sound");
        assert_eq!(file.overrides.len(), 1);
        assert!(file.overrides[0].pattern.is_match("/decoder/lstm") && file.overrides[0].node.skip);
    }
}
