//! Which token servers are asked at all: what a registry names may lead elsewhere, but not into the user's own network, and not away from
//! HTTPS.

use reqwest::Url;
use wharf_content::{Error, ErrorKind, Result};

use crate::registry::host::{is_private, may_lead_to};

/// The URL that is asked for a token. A realm on another public host is normal; one that a registry could use to reach into the
/// user's network is refused.
pub(super) fn realm(registry: &Url, realm: &str) -> Result<Url> {
    let refuse = |why: &str| {
        Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "the registry {} names a token server that is not used: {why}",
                registry.host_str().unwrap_or_default()
            ),
        )
    };
    let url = Url::parse(realm).map_err(|_| refuse("its realm is not a URL"))?;
    if is_private(&url) && !is_private(registry) {
        return Err(refuse("its realm is a private address"));
    }
    if !may_lead_to(registry, &url) {
        return Err(refuse("its realm is not HTTPS"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("its realm carries credentials"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(registry: &str, realm_text: &str) -> Result<String> {
        realm(&Url::parse(registry).expect("valid"), realm_text).map(Into::into)
    }

    #[test]
    fn realms() {
        assert_eq!(
            asks("https://registry-1.docker.io/v2/", "https://auth.docker.io/token?x=1").expect("public"),
            "https://auth.docker.io/token?x=1"
        );
        assert!(asks("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token").is_ok());
        assert!(asks("https://10.0.0.1/v2/", "https://10.0.0.2/token").is_ok());
        for (registry, hostile) in [
            ("https://r.example/v2/", "http://r.example/token"),
            ("https://r.example/v2/", "https://169.254.169.254/token"),
            ("https://r.example/v2/", "https://0.0.0.0/token"),
            ("https://r.example/v2/", "https://[::1]/token"),
            ("https://r.example/v2/", "https://[fd00::1]/token"),
            ("https://r.example/v2/", "https://[::ffff:10.0.0.1]/token"),
            ("https://r.example/v2/", "https://localhost/token"),
            ("https://r.example/v2/", "https://user:pass@r.example/token"),
            ("https://r.example/v2/", "file:///etc/passwd"),
            ("https://r.example/v2/", "/token"),
        ] {
            let error = asks(registry, hostile).expect_err(hostile);
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{hostile}");
        }
    }
}
