//! How a process ends: its exit code, and its last words.

use std::io::{self, Write};

/// A check failed, a target cannot be met, or there was nothing to do.
pub const FAILED: u8 = 1;
/// Bad usage or bad input.
pub const BAD_INPUT: u8 = 2;

/// Writes to stderr, at once. Where that cannot be written (a full disk, a reader that is gone) the exit code has to do.
pub fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
