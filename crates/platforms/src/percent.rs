//! Percent-encoding of the version and the features inside the parentheses of a specifier.
//!
//! This is deliberately not URL encoding: `+` is the separator and never a space. Whatever the grammar does not allow in
//! an option is encoded, not only its five delimiters `%+()/`, so that every version and every feature survives the way
//! through a string.

use std::fmt::Write as _;

/// Whether a byte may stand in an option as it is.
pub(crate) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// Appends `option`, encoded.
pub(crate) fn encode_into(out: &mut String, option: &str) {
    for byte in option.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Decodes an option; `None` if an escape is not two hexadecimal digits or the result is not UTF-8.
pub(crate) fn decode(option: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(option.len());
    let mut bytes = option.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let high = hexadecimal(bytes.next()?)?;
            let low = hexadecimal(bytes.next()?)?;
            high << 4 | low
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

fn hexadecimal(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(option: &str) -> String {
        let mut out = String::new();
        encode_into(&mut out, option);
        out
    }

    #[test]
    fn encodes_and_decodes() {
        for (plain, encoded) in [
            ("", ""),
            ("10.0.17763", "10.0.17763"),
            ("a_b-c.d", "a_b-c.d"),
            ("50%done", "50%25done"),
            ("1+2", "1%2B2"),
            ("1.0(beta)", "1.0%28beta%29"),
            ("a/b", "a%2Fb"),
            ("a b*", "a%20b%2A"),
            ("ü\u{1b}", "%C3%BC%1B"),
        ] {
            assert_eq!(encode(plain), encoded);
            assert_eq!(decode(encoded).as_deref(), Some(plain));
        }
        assert_eq!(decode("a%2fb").as_deref(), Some("a/b"), "lower-case digits");
    }

    #[test]
    fn refuses_broken_escapes() {
        for broken in ["%", "%2", "a%", "%zz", "%2g", "%+1", "%FF", "%C3", "%ü"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}
