//! What went wrong and where: one error type for the whole library.
//!
//! An error names a *place* (file, node, tensor) besides its message, so that the one line which a user sees says
//! what, where and what to do. Text that came from a file is shown with control characters escaped: a name in a
//! hostile model cannot move the cursor of a terminal or start a second line. It is also cut ([`Cut`]): a name may have
//! megabytes.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of failure; the command line derives its exit code from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to read or write.
    Io,
    /// A file that breaks the rules of its format, or of the ONNX operators in it.
    Malformed,
    /// A sound input that needs something which is not supported.
    Unsupported,
    /// A size or depth over one of the crate's [limits](crate::limits).
    Limit,
    /// Samples that do not fit the model.
    Samples,
    /// Arguments or settings that contradict one another or the model.
    Usage,
    /// The model holds nothing that can be compressed.
    NothingToDo,
    /// The engine could not run the model.
    Engine,
    /// No result reaches the target.
    Target,
    /// Verification failed a check.
    Check,
    /// The caller cancelled the work.
    Cancelled,
}

/// An error with its place.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    file: Option<PathBuf>,
    node: Option<String>,
    tensor: Option<String>,
}

impl Error {
    /// An error of `kind`; `message` says what was found, what was expected and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), file: None, node: None, tensor: None }))
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether it is the engine that fails, not the samples or the model.
    pub fn is_of_engine(&self) -> bool {
        matches!(self.kind(), ErrorKind::Engine | ErrorKind::Limit)
    }

    /// The message without its place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Names the file, unless one is named already: the innermost place is the truest.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.file.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// Names the node, unless one is named already.
    #[must_use]
    pub fn at_node(mut self, name: impl Into<String>) -> Self {
        self.0.node.get_or_insert_with(|| name.into());
        self
    }

    /// Names the tensor, unless one is named already.
    #[must_use]
    pub fn at_tensor(mut self, name: impl Into<String>) -> Self {
        self.0.tensor.get_or_insert_with(|| name.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { message, file, node, tensor, .. } = &*self.0;
        if let Some(file) = file {
            write!(f, "{}: ", Escaped(&cut(&file.to_string_lossy(), LONGEST_PATH)))?;
        }
        if let Some(node) = node {
            write!(f, "node '{}': ", Cut(node))?;
        }
        if let Some(tensor) = tensor {
            write!(f, "tensor '{}': ", Cut(tensor))?;
        }
        write!(f, "{}", Escaped(&shortened(message)))
    }
}

impl std::error::Error for Error {}

/// The words of an error of the operating system, without its number.
pub fn words(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::FileTooLarge {
        return "File too large: the file system, or a limit on the size of files (ulimit -f), does not allow it"
            .into();
    }
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(number) => text[..number].to_owned(),
        None => text,
    }
}

/// " (did you mean 'x'?)" if a name is so like one of those that are known, else nothing.
pub fn meant<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    /// As much alike as the command line asks of flags.
    const ALIKE: f64 = 0.7;
    // A comparison takes time with the product of the lengths.
    let short = |name: &&str| name.len() <= 4 * LONGEST_NAME;
    let wrong = if short(&wrong) { wrong } else { return String::new() };
    let alike = known
        .into_iter()
        .filter(short)
        .map(|name| (strsim::jaro(wrong, name), name))
        .filter(|(alike, _)| *alike > ALIKE);
    let nearest = alike.max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map_or_else(String::new, |(_, name)| format!(" (did you mean '{}'?)", Cut(name)))
}

/// Characters of a foreign text, such as a name in a model, that a message shows.
const LONGEST_NAME: usize = 120;

/// Characters of a whole message: the last resort where a text in it was not cut. Our own words are below half of it.
const LONGEST_MESSAGE: usize = 2000;

/// Characters of a path: what systems allow.
const LONGEST_PATH: usize = 4096;

/// The text, or its beginning and end around "...", so that no more than about `most` characters remain.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    let count = |text: &str| text.chars().take(most + 1).count();
    // A character has at most four bytes: a text that is long enough in bytes need not be counted.
    if text.len() <= most || text.len() <= 4 * most && count(text) <= most {
        return Cow::Borrowed(text);
    }
    let tail = most / 4;
    let (end, _) = text.char_indices().nth(most - tail).expect("it has more characters than that");
    let (start, _) = text.char_indices().nth_back(tail - 1).expect("it has more characters than that");
    Cow::Owned(format!("{}...{}", &text[..end], &text[start..]))
}

/// A whole message, without its middle if it is so long that foreign text must be in it.
pub fn shortened(message: &str) -> Cow<'_, str> {
    cut(message, LONGEST_MESSAGE)
}

/// Shows foreign text on one line and cut to 120 characters: its beginning and its end.
pub struct Cut<'a>(pub &'a str);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&cut(self.0, LONGEST_NAME)).fmt(f)
    }
}

/// Some of these names, cut, with commas between them, and how many more there are.
pub fn listed<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const FEW: usize = 12;
    let mut names = names.into_iter();
    let mut shown: Vec<String> = names.by_ref().take(FEW).map(|name| Cut(name).to_string()).collect();
    let more = names.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

/// Shows foreign text on one line: control characters and the bidirectional overrides appear as escapes.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control()
                || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                write!(f, "{}", c.escape_default())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_place_wins() {
        let e = Error::new(ErrorKind::Malformed, "negative dimension").at_tensor("W").at_tensor("R").in_file("a.onnx");
        assert_eq!(e.to_string(), "a.onnx: tensor 'W': negative dimension");
    }

    #[test]
    fn the_system_speaks_without_numbers() {
        let missing = std::fs::File::open("/no/such/file").expect_err("it is not there");
        assert_eq!(words(&missing), "No such file or directory");
        assert_eq!(words(&std::io::Error::other("it (os error) broke")), "it (os error) broke");
    }

    #[test]
    fn a_name_that_is_close_was_meant() {
        assert_eq!(meant("stateM", ["output", "stateN"]), " (did you mean 'stateN'?)");
        assert_eq!(meant("ratoi", ["seed", "ratio", "rat"]), " (did you mean 'ratio'?)");
        assert_eq!(meant("x", ["output", "stateN"]), "");
    }

    #[test]
    fn long_names_are_cut_and_so_are_long_messages() {
        let long = "é".repeat(3_000_000);
        let line = Error::new(ErrorKind::Malformed, format!("no '{long}': change --that")).at_node(&long).to_string();
        assert!(line.chars().count() < 2300 && line.ends_with("': change --that"), "{}", line.len());
        assert!(line.starts_with(&format!("node '{}...{}': no 'é", "é".repeat(90), "é".repeat(30))), "{line}");
        let fits = "é".repeat(LONGEST_NAME);
        assert_eq!(Cut(&fits).to_string(), fits);
        assert_eq!(listed(["a", "b"]), "a, b");
        assert!(listed(["a"; 20]).ends_with("a, and 8 more"));
        assert_eq!(meant(&long, [&long[..]]), "");
    }

    #[test]
    fn a_limit_on_the_size_of_files_is_named() {
        let error = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
        assert!(words(&error).contains("ulimit -f"), "{}", words(&error));
    }

    #[test]
    fn control_characters_are_escaped() {
        let e = Error::new(ErrorKind::Malformed, "bad").at_node("a\x1b[2J\nb");
        assert_eq!(e.to_string(), "node 'a\\u{1b}[2J\\nb': bad");
    }
}
