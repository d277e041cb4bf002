//! Printing: data on standard output, and text from strangers made harmless.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use bytesize::ByteSize;
use serde::Serialize;
use wharf_content::{Error, ErrorKind, Result};

use crate::{args::Format, exit, log};

/// Whether a character could steer a terminal: control characters, C1 included, and those that turn the direction of text.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces what could steer a terminal.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// Escapes in a JSON document, as JSON does it, what could steer a terminal. The document's own line breaks stay: those in strings are
/// escaped already.
pub(crate) fn escape_json(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for c in document.chars() {
        if c != '\n' && is_harmful(c) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// A size as people read it.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().si().to_string()
}

/// Writes to standard output. A reader that has gone away, as `head` does, is no error.
///
/// # Errors
/// Those of standard output.
pub(crate) fn write(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(exit::outside("cannot write to standard output", error)),
        Ok(()) => Ok(()),
    }
}

/// Keeps an archive from a terminal.
///
/// # Errors
/// `InvalidArgument` that says what to do `instead`, where standard output is one.
pub(crate) fn refuse_terminal(instead: &str) -> Result<()> {
    if io::stdout().is_terminal() {
        return Err(Error::invalid_argument(format!(
            "an archive is not for a terminal: {instead}, or pipe it somewhere"
        )));
    }
    Ok(())
}

/// Says something beside the data, on standard error and in one piece. Nobody listening is no reason to stop.
pub(crate) fn note(text: &str) {
    if !log::take(text) {
        drop(io::stderr().lock().write_all(format!("{text}\n").as_bytes()));
    }
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a JSON document to standard output.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "the result cannot be written").with_source(error)
    })?;
    line(&escape_json(&text))
}

/// Writes names, one on each line or as one list. No names, no list: who did nothing to anything has no result.
pub(crate) fn names(format: Format, names: &[String]) -> Result<()> {
    match format {
        Format::Json if names.is_empty() => Ok(()),
        Format::Json => json(&names),
        Format::Text => names.iter().try_for_each(|name| line(&escape(name))),
    }
}

/// Rows in columns as wide as their widest cell; the last column is not filled up. The header stands over no rows too.
/// Scripts that count lines use `--quiet`.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| row.iter().map(|cell| escape(cell).into_owned()).collect::<Vec<_>>();
    let mut lines = vec![header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| cells(row)));
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            row.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert!(matches!(escape("plain ünïcödé"), Cow::Borrowed(_)));
        assert_eq!(escape("a\x1b]52;c\x07\rb\u{9b}1m\u{202e}"), "a\\u{1b}]52;c\\u{7}\\rb\\u{9b}1m\\u{202e}");
    }

    #[test]
    fn json_is_harmless_and_says_the_same() {
        let text = "a\n\x1b\u{9b}\u{7f}\u{202e}\u{2066}\"é\\";
        let document = serde_json::to_string_pretty(&serde_json::json!({ "key": [text] })).expect("JSON");
        let escaped = escape_json(&document);
        assert!(!escaped.replace('\n', "").contains(is_harmful), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON")["key"][0], text);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "long value".into()], vec!["longer".into(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X       Y\na       long value\nlonger\n");
    }
}
