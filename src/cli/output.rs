//! What a command shows: one value, in one form on stdout and in others in the files of `--report`.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};
use dirnet::error::Escaped;
use dirnet::onnx::atomic;
use dirnet::report::table::Style;
use dirnet::report::{FileFormat, Show};
use dirnet::verify::{Verdict, VerifyScope};

use super::args::{Format, Output};

impl Output {
    /// Shows the result on stdout and writes the reports.
    pub fn show(&self, result: &dyn Show) -> Result<()> {
        for path in &self.report {
            let text = FileFormat::of(path)?.render(result)?;
            atomic::write_text(path, &text)?;
        }
        if self.quiet {
            return Ok(());
        }
        print(&match self.format {
            Format::Table => result.table(&style()),
            Format::Json => result.json()?,
            Format::Junit => result.junit()?,
        })
    }
}

/// Colour only where a person looks and has not said no to it; as wide as the terminal, within reason.
fn style() -> Style {
    let terminal = io::stdout().is_terminal();
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    Style { colour: terminal && !declined }
}

/// Warns on stderr, even with `-q`, that checks were applied to layers instead of outputs.
pub fn warn(verdict: &Verdict) {
    for warning in verdict.warnings.iter().filter(|_| verdict.scope == VerifyScope::Layers) {
        // Where nobody can be warned, there is nothing better to do.
        let _ = writeln!(io::stderr().lock(), "warning: {}", Escaped(warning));
    }
}

/// Writes to stdout. A reader that has gone away has read enough.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to stdout"),
    }
}
