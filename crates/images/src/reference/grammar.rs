//! The grammar of references (distribution/reference, `regexp.go`) as plain predicates, each one pass over the bytes.
//!
//! Lengths of names are not part of the grammar; the parser checks them.

use super::MAX_TAG_LEN;

/// The fewest hexadecimal digits that something shaped like a digest has.
const MIN_DIGEST_DIGITS: usize = 32;

/// `host[:digits]`, where the host is labels joined by dots, or hexadecimal digits and colons in brackets.
pub(super) fn is_domain(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            let is_address = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            is_some_of(address, is_address)
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    match text.split_once(':') {
        Some((host, port)) => is_host(host) && is_port(port),
        None => is_host(text),
    }
}

fn is_host(text: &str) -> bool {
    text.split('.').all(|label| {
        is_some_of(label, |byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

fn is_port(text: &str) -> bool {
    is_some_of(text, |byte| byte.is_ascii_digit())
}

/// Components joined by slashes.
pub(super) fn is_path(text: &str) -> bool {
    is_path_of(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Like a path, with upper-case letters.
pub(super) fn is_path_but_for_case(text: &str) -> bool {
    is_path_of(text, |byte| byte.is_ascii_alphanumeric())
}

/// `W(SW)*` joined by slashes, where W is some of the word bytes and S is `.`, `_`, `__`, or some hyphens.
fn is_path_of(text: &str, is_word: impl Fn(u8) -> bool) -> bool {
    text.split('/').all(|component| {
        let mut rest = component.as_bytes();
        loop {
            let word = rest.iter().take_while(|&&byte| is_word(byte)).count();
            if word == 0 {
                return false;
            }
            rest = &rest[word..];
            if rest.is_empty() {
                return true;
            }
            let separator = rest.iter().take_while(|&&byte| matches!(byte, b'.' | b'_' | b'-')).count();
            let (separator, after) = rest.split_at(separator);
            if !matches!(separator, b"." | b"_" | b"__") && !separator.iter().all(|&byte| byte == b'-') {
                return false;
            }
            // Without a separator the next byte is no word byte either, and the next turn ends the loop.
            rest = after;
        }
    })
}

/// A letter, digit or underscore, then at most 127 of these, dots and hyphens.
pub(super) fn is_tag(text: &str) -> bool {
    text.len() <= MAX_TAG_LEN
        && !text.starts_with(['.', '-'])
        && is_some_of(text, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// `algorithm:hex` with at least 32 digits, in either case; the digest's own parser is stricter.
pub(super) fn is_digest_shaped(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.split(['-', '_', '+', '.']).all(|part| {
            part.starts_with(|first: char| first.is_ascii_alphabetic())
                && is_some_of(part, |byte| byte.is_ascii_alphanumeric())
        }) && hex.len() >= MIN_DIGEST_DIGITS
            && is_some_of(hex, |byte| byte.is_ascii_hexdigit())
    })
}

/// 64 lower-case hexadecimal digits: what Docker takes for an image's or container's identifier.
pub(super) fn is_identifier(text: &str) -> bool {
    text.len() == 64 && is_some_of(text, |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_some_of(text: &str, is_allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(predicate: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(predicate(text), "{text:?} is good");
        }
        for text in bad {
            assert!(!predicate(text), "{text:?} is bad");
        }
    }

    #[test]
    fn domains() {
        check(
            is_domain,
            &[
                "a",
                "A.b",
                "localhost",
                "a-b.c",
                "a--b",
                "127.0.0.1:5000",
                "xn--n3h.com:18080",
                "[::1]",
                "[::]:1",
                "[2001:DB8::1]:5000",
                "docker.io",
                "1",
            ],
            &[
                "",
                ".",
                "a.",
                ".a",
                "a..b",
                "-a",
                "a-",
                "a.-b",
                "a_b",
                "a:",
                "a:b",
                "a:1:2",
                "a:5000x",
                ":5000",
                "[]",
                "[::1",
                "::1",
                "[::1]5000",
                "[::1]:",
                "[::1]:x",
                "[fe80::1%eth0]",
                "[::g]",
                "é.com",
                "a b",
                "[::1]]",
                "a/b",
                "a\0",
            ],
        );
    }

    #[test]
    fn paths() {
        check(
            is_path,
            &["a", "a/b", "0", "a.b", "a_b", "a__b", "a-b", "a---b", "a.b_c-d__e/f", "test.example.com"],
            &[
                "", "/", "a/", "/a", "a//b", "A", "a.", ".a", "_a", "a_", "-a", "a-", "a..b", "a___b",
                "a._b", "a-_b", "a_-b", "a.-b", "é", "aé", "a b", "a:b", "a@b", "..", "a/../b", "a\0",
                "a%2fb",
            ],
        );
        check(is_path_but_for_case, &["A", "a/B-c"], &["A//b", "_A", "A$"]);
    }

    #[test]
    fn tags() {
        let longest = "a".repeat(128);
        let too_long = "a".repeat(129);
        check(
            is_tag,
            &["a", "_", "1", "A.b-c_d", "latest", "v1..2", "a-", &longest],
            &["", ".", "-", ".a", "-a", "a:b", "a/b", "a+b", "é", "aé", "a b", "a\n", &too_long],
        );
    }

    #[test]
    fn digests() {
        let hex = "0123456789abcdefABCDEF0123456789";
        for (algorithm, shaped) in [
            ("sha256", true),
            ("A", true),
            ("sha256+b64u", true),
            ("a.b-c_d+e", true),
            ("", false),
            ("256", false),
            ("a.", false),
            ("a..b", false),
            ("a+6", false),
            ("é", false),
        ] {
            assert_eq!(is_digest_shaped(&format!("{algorithm}:{hex}")), shaped, "{algorithm:?}");
        }
        check(
            is_digest_shaped,
            &[],
            &["", ":", "sha256", "sha256:", "sha256:0123456789abcdef0123456789abcde", "sha256:../../x"],
        );
        assert!(!is_digest_shaped(&format!("sha256:{hex}:{hex}")));
        assert!(!is_digest_shaped(&format!("sha256:{hex}g")));
    }

    #[test]
    fn identifiers() {
        let (hex, short, long, upper) = ("a".repeat(64), "a".repeat(63), "a".repeat(65), "A".repeat(64));
        check(is_identifier, &[&hex], &["", &short, &long, &upper]);
    }
}
