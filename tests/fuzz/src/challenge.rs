//! Challenges: a registry may send anything, and what is understood of it can be said again so that it is understood in the same way.

use wharf_remotes::registry::fuzzing::{Challenge, choose_challenge as challenge};

use crate::{Outcome, Seed};

/// The longest header that is read, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// Reads each line of the input as one header.
///
/// # Panics
/// Where what was understood does not hold.
pub fn check(data: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(data) else { return Outcome::Refused };
    let headers: Vec<&str> = text.lines().collect();
    let chosen = challenge(&headers);
    assert_eq!(chosen, challenge(&headers), "the same headers are understood in two ways");
    let Some(chosen) = chosen else { return Outcome::Refused };
    let Challenge::Bearer { realm, service, scope } = &chosen else {
        let alone: Vec<_> = headers.iter().filter_map(|header| challenge(&[header])).collect();
        assert!(
            alone.iter().all(|one| *one == Challenge::Basic),
            "a bearer challenge goes before a basic one"
        );
        return Outcome::Accepted;
    };
    let parts = [Some(realm), service.as_ref(), scope.as_ref()];
    for part in parts.into_iter().flatten() {
        assert!(!part.is_empty(), "{chosen:?} has what says nothing");
        assert!(headers.iter().any(|header| header.len() >= part.len()), "{chosen:?} was made up");
    }
    let more = [&headers[..], &["Basic realm=\"x\""]].concat();
    assert_eq!(challenge(&more).as_ref(), Some(&chosen), "a basic challenge changes nothing");
    // As RFC 9110 writes it; what no header may have is left out.
    let quotable = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if parts.into_iter().flatten().all(|part| quotable(part)) {
        let names = ["realm", "service", "scope"];
        let quoted = names.iter().zip(parts).filter_map(|(name, part)| {
            Some(format!("{name}=\"{}\"", part?.replace('\\', r"\\").replace('"', "\\\"")))
        });
        let header = format!("Bearer {}", quoted.collect::<Vec<_>>().join(","));
        if header.len() <= MAX_LEN {
            assert_eq!(challenge(&[&header]).as_ref(), Some(&chosen), "said again as {header}");
        }
    }
    Outcome::Accepted
}

/// What registries send, and what they should not.
pub fn seeds() -> Vec<Seed> {
    let accepted = [
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#,
        "Bearer realm=https://auth.example/token; service=x; scope=\"a b\"",
        r#"bearer REALM="https://auth.example/a\"b\\c""#,
        "Basic realm=\"registry\"",
        "Digest realm=a/b; x, Basic",
        "Basic realm=\"r\", Bearer realm=\"https://auth.example/token\"",
        "Basic\nBearer realm=\"https://auth.example/token\",error=\"insufficient_scope\"",
        "Bearer realm=\"open",
    ];
    let refused =
        ["", "Negotiate", "Bearer service=\"x\"", "Bearer realm=\"\"", "Digest nonce=\"1\", qop=auth"];
    let accepted =
        accepted.iter().enumerate().map(|(at, text)| Seed::accepted(format!("challenge-{at}"), *text));
    let refused = refused.iter().enumerate().map(|(at, text)| Seed::refused(format!("nothing-{at}"), *text));
    accepted.chain(refused).collect()
}
