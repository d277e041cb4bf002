//! Labels as they are typed: KEY=VALUE.

use wharf_content::{Error, Labels, Result};

/// Reads labels. A value may be empty.
///
/// # Errors
/// `InvalidArgument` for a text without `=` or with nothing before it.
pub(crate) fn parse(texts: &[String]) -> Result<Labels> {
    let parse = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::invalid_argument(format!("{text:?} is not a label: expected KEY=VALUE"))),
    };
    texts.iter().map(parse).collect()
}
