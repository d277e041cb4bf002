//! `WWW-Authenticate`: which scheme a registry wants, and from where a token comes (RFC 9110, 11; distribution's token specification).
//!
//! Total on any input. What the strict parser refuses is read by a lenient one, since registries send unquoted realms and stray
//! separators.

use http_auth::ChallengeParser;

/// The longest header that is read, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    Basic,
}

/// The challenge to answer: bearer before basic, the first of its kind.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let challenges: Vec<Challenge> =
        headers.filter(|header| header.len() <= MAX_LEN).flat_map(parse).collect();
    let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(challenges.first()).cloned()
}

type Parsed = (String, Vec<(String, String)>);

fn parse(header: &str) -> Vec<Challenge> {
    let parsed = strict(header).unwrap_or_else(|| lenient(header));
    parsed.into_iter().filter_map(|(scheme, parameters)| interpret(&scheme, &parameters)).collect()
}

fn interpret(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let value = |wanted: &str| {
        let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Challenge::Bearer {
            realm: value("realm")?,
            service: value("service"),
            scope: value("scope"),
        });
    }
    scheme.eq_ignore_ascii_case("basic").then_some(Challenge::Basic)
}

fn strict(header: &str) -> Option<Vec<Parsed>> {
    let mut parsed = Vec::new();
    for challenge in ChallengeParser::new(header) {
        let challenge = challenge.ok()?;
        let parameters =
            challenge.params.iter().map(|(name, value)| ((*name).to_owned(), value.to_unescaped())).collect();
        parsed.push((challenge.scheme.to_owned(), parameters));
    }
    Some(parsed)
}

/// Reads a scheme, then `name=value` with or without quotes, separated by commas, semicolons or spaces; a scheme that is known before a
/// name begins the next challenge.
fn lenient(header: &str) -> Vec<Parsed> {
    let is_separator = |c: char| c.is_whitespace() || matches!(c, ',' | ';');
    let header = header.trim();
    let (scheme, mut rest) = header.split_once(char::is_whitespace).unwrap_or((header, ""));
    let scheme = scheme.trim_matches(|c| c == '"' || is_separator(c)).to_owned();
    let (mut challenges, mut current) = (Vec::new(), (scheme, Vec::new()));
    while let Some((name, after)) = rest.split_once('=') {
        let mut words: Vec<&str> = name.split(is_separator).filter(|word| !word.is_empty()).collect();
        let name = words.pop().unwrap_or_default();
        for scheme in words.into_iter().filter(|word| is_known(word)) {
            challenges.push(std::mem::replace(&mut current, (scheme.to_owned(), Vec::new())));
        }
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_at(after.find(is_separator).unwrap_or(after.len())),
        };
        current.1.push((name.to_owned(), value.to_owned()));
        rest = after;
    }
    challenges.push(current);
    for scheme in rest.split(is_separator).filter(|word| is_known(word)) {
        challenges.push((scheme.to_owned(), Vec::new()));
    }
    challenges
}

fn is_known(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("basic")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn what_registries_send() {
        let realm = "https://auth.docker.io/token";
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        for (header, expected) in [
            (hub, Some(bearer(realm, Some("registry.docker.io"), Some("repository:a/b:pull")))),
            (r#"bearer REALM="https://auth.docker.io/token""#, Some(bearer(realm, None, None))),
            ("Bearer realm=https://auth.docker.io/token,service=x", Some(bearer(realm, Some("x"), None))),
            (
                r#"Bearer realm="https://auth.docker.io/token"; service="x","#,
                Some(bearer(realm, Some("x"), None)),
            ),
            (
                r#"Bearer realm="https://auth.docker.io/token" service="x""#,
                Some(bearer(realm, Some("x"), None)),
            ),
            (
                r#"Basic realm="r", Bearer realm="https://auth.docker.io/token""#,
                Some(bearer(realm, None, None)),
            ),
            (
                r#"Basic realm="r", Bearer realm=https://auth.docker.io/token;service=x,"#,
                Some(bearer(realm, Some("x"), None)),
            ),
            (
                "Bearer realm=https://auth.docker.io/token; service=x; Basic realm=r;",
                Some(bearer(realm, Some("x"), None)),
            ),
            ("Digest realm=a/b; x, Basic", Some(Challenge::Basic)),
            (r#"Basic realm="registry""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer service=\"x\"", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(choose([header].into_iter()), expected, "{header}");
        }
        let both = choose(["Basic realm=x", hub].into_iter());
        assert_eq!(both, Some(bearer(realm, Some("registry.docker.io"), Some("repository:a/b:pull"))));
    }

    #[test]
    fn hostile_headers() {
        assert_eq!(choose([format!("Bearer realm=\"{}\"", "x".repeat(1 << 20)).as_str()].into_iter()), None);
        assert_eq!(choose(["Bearer realm=\"open"].into_iter()), Some(bearer("open", None, None)));
        assert_eq!(choose(["\"Bearer\" realm=\"x\""].into_iter()), Some(bearer("x", None, None)));
    }

    proptest! {
        #[test]
        fn never_panics(header in any::<String>(), tail in "[Bb]earer [ -~]*") {
            choose([header.as_str(), tail.as_str()].into_iter());
        }
    }
}
