//! JSON text. serde_json writes every number that is not finite as null, which is what the schema asks for.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

/// The value as indented JSON that ends in a line feed.
pub(super) fn text<T: Serialize>(value: &T) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(ErrorKind::Usage, format!("cannot be written as JSON: {error}")))?;
    text.push('\n');
    Ok(text)
}
