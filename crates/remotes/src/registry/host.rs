//! Where a registry is and how it is spoken to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use wharf_content::{Error, Result};

use super::settings::{RegistrySettings, Scheme};

/// The host that serves the images of docker.io.
pub(super) const DOCKER_HUB: &str = "registry-1.docker.io";

/// The base of a registry's API for a reference's domain, ending in `/v2/`.
pub(super) fn base(domain: &str, settings: &RegistrySettings) -> Result<Url> {
    let host = if domain == "docker.io" { DOCKER_HUB } else { domain };
    let scheme = match settings.scheme {
        Scheme::Http => "http",
        Scheme::Auto if speaks_plain_http(host) => "http",
        Scheme::Auto | Scheme::Https => "https",
    };
    Url::parse(&format!("{scheme}://{host}/v2/"))
        .ok()
        .filter(|url| url.username().is_empty() && url.password().is_none() && url.path() == "/v2/")
        .ok_or_else(|| Error::invalid_argument(format!("{domain:?} is not a registry's host")))
}

/// Loopback hosts speak plain HTTP unless they are on the port of HTTPS or on none.
fn speaks_plain_http(host: &str) -> bool {
    let (name, port) = split_port(host);
    is_loopback(name) && !matches!(port, None | Some("443"))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    }
}

/// `localhost`, 127.0.0.0/8 and ::1, which may be in brackets.
pub(super) fn is_loopback(name: &str) -> bool {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Scheme, host and port: what credentials are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin(String, String, u16);

impl Origin {
    pub(super) fn of(url: &Url) -> Self {
        Self(
            url.scheme().to_owned(),
            url.host_str().unwrap_or_default().to_owned(),
            url.port_or_known_default().unwrap_or_default(),
        )
    }
}

/// Whether the host is an address that is not public.
pub(super) fn is_private(url: &Url) -> bool {
    // A dot at the end names the same host, and all below localhost is this machine (RFC 6761, 6.3).
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    if is_loopback(&host) || host.ends_with(".localhost") {
        return true;
    }
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(v4)) => is_private_v4(v4),
        Ok(IpAddr::V6(v6)) => {
            let carried = v6.to_ipv4_mapped().or_else(|| translated(v6));
            carried.is_some_and(is_private_v4)
                || v6.is_unspecified()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
        }
        Err(_) => false,
    }
}

fn is_private_v4(v4: Ipv4Addr) -> bool {
    // 0.0.0.0/8 is this host, 100.64.0.0/10 that of carriers and of private overlays (RFC 6890).
    let [first, second, ..] = v4.octets();
    v4.is_loopback()
        || v4.is_private()
        || v4.is_link_local()
        || v4.is_broadcast()
        || first == 0
        || (first == 100 && (64..128).contains(&second))
}

/// The IPv4 address behind one that a network translates (`64:ff9b::/96`; RFC 6052, 2.1).
fn translated(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = v6.segments() else { return None };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

/// Whether a URL may be followed from another one: HTTPS never leads to plain HTTP, but on the same machine, and a public host never to an
/// address of a private network, which it could have asked and written to for itself.
pub(super) fn may_lead_to(from: &Url, to: &Url) -> bool {
    if is_private(to) && !is_private(from) {
        return false;
    }
    match to.scheme() {
        "https" => true,
        "http" => {
            from.scheme() == "http"
                || (is_loopback(from.host_str().unwrap_or_default())
                    && is_loopback(to.host_str().unwrap_or_default()))
        }
        _ => false,
    }
}

/// Parameters of the registry's API, of which everybody may see the values.
const SHOWN: [&str; 7] = ["ns", "n", "last", "digest", "mount", "from", "artifactType"];

/// The URL as it may be shown: without user information and without the values of the query, which may be signatures, unless they are of
/// [`SHOWN`].
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that have no host and so no user either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(key, value)| {
                if value.is_empty() {
                    // A parameter without a value may be a secret as a whole.
                    return ("REDACTED".to_owned(), String::new());
                }
                let value = if SHOWN.contains(&&*key) { value.into_owned() } else { "REDACTED".to_owned() };
                (key.into_owned(), value)
            })
            .collect();
        shown.query_pairs_mut().clear().extend_pairs(pairs);
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("valid")
    }

    #[test]
    fn bases() {
        let settings = RegistrySettings::new();
        for (domain, expected) in [
            ("docker.io", "https://registry-1.docker.io/v2/"),
            ("ghcr.io", "https://ghcr.io/v2/"),
            ("ghcr.io:8443", "https://ghcr.io:8443/v2/"),
            ("localhost", "https://localhost/v2/"),
            ("localhost:443", "https://localhost/v2/"),
            ("localhost:5000", "http://localhost:5000/v2/"),
            ("127.8.8.8:5000", "http://127.8.8.8:5000/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
            ("[fd00::1]:5000", "https://[fd00::1]:5000/v2/"),
        ] {
            assert_eq!(base(domain, &settings).expect(domain).as_str(), expected);
        }
        let plain = settings.with_plain_http();
        assert_eq!(base("ghcr.io", &plain).expect("valid").as_str(), "http://ghcr.io/v2/");
        for bad in ["", "a b", "user@host", "host/../x", "host:99999"] {
            assert!(base(bad, &plain).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn origins_and_downgrades() {
        let origin = |text| Origin::of(&url(text));
        assert_eq!(origin("https://a/x"), origin("https://a:443/y"));
        for other in ["http://a/x", "https://a:444/x", "https://b/x"] {
            assert_ne!(origin("https://a/x"), origin(other));
        }
        assert!(may_lead_to(&url("https://a"), &url("https://b")));
        assert!(may_lead_to(&url("http://a"), &url("http://b")));
        for public in ["100.63.0.1", "100.128.0.1", "1.1.1.1", "[64:ff9b::101:101]", "localhost.example"] {
            assert!(may_lead_to(&url("https://a"), &url(&format!("https://{public}/x"))), "{public}");
        }
        assert!(!may_lead_to(&url("https://a"), &url("http://b")));
        assert!(!may_lead_to(&url("https://a"), &url("ftp://b")));
        assert!(!may_lead_to(&url("http://a"), &url("file:///etc/passwd")));
        for private in [
            "10.0.0.5",
            "169.254.169.254",
            "100.100.100.200",
            "0.1.2.3",
            "127.0.0.1",
            "localhost",
            "localhost.",
            "any.localhost",
            "[fd00::1]",
            "[::ffff:10.0.0.5]",
            "[64:ff9b::a9fe:a9fe]",
        ] {
            assert!(!may_lead_to(&url("https://a"), &url(&format!("https://{private}/x"))), "{private}");
            assert!(
                may_lead_to(&url("https://192.168.1.1"), &url(&format!("https://{private}/x"))),
                "{private}"
            );
        }
    }

    #[test]
    fn what_is_shown_has_no_secrets() {
        let shown = redacted(&url("https://u:canary@a/x?X-Amz-Signature=canary&ns=docker.io#canary"));
        assert_eq!(shown, "https://a/x?X-Amz-Signature=REDACTED&ns=docker.io");
        assert_eq!(redacted(&url("https://a/x?canary&b=canary")), "https://a/x?REDACTED=&b=REDACTED");
        for known in
            ["n=100&last=v1", "mount=sha256%3Aab&from=a%2Fb", "artifactType=a%2Fb", "digest=sha256%3Aab"]
        {
            assert_eq!(redacted(&url(&format!("https://a/x?{known}"))), format!("https://a/x?{known}"));
        }
        for (query, expected) in [
            ("_state=canary&digest=sha256:ab", "_state=REDACTED&digest=sha256%3Aab"),
            (
                "N=canary&Last=canary&digest2=canary&token=canary",
                "N=REDACTED&Last=REDACTED&digest2=REDACTED&token=REDACTED",
            ),
            // What a terminal obeys stays escaped, and what ends one value begins no other.
            ("last=%1B]52%0A%C2%9B", "last=%1B%5D52%0A%C2%9B"),
            ("last=a%26token%3Db%23c", "last=a%26token%3Db%23c"),
        ] {
            assert_eq!(redacted(&url(&format!("https://a/x?{query}"))), format!("https://a/x?{expected}"));
        }
    }
}
