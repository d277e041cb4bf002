//! What of a request nobody else may read, so that it is taken out of what its answer says: registries quote in their errors what they
//! were sent.
//!
//! Which parts of a URL are shown at all is decided in [`host`](super::host), which headers are in [`trace`](super::trace).

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Request, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, PROXY_AUTHORIZATION},
};

/// What stands in the place of a secret.
pub(super) const REDACTED: &str = "REDACTED";
/// Shorter ones are not looked for: they are part of any text.
const MIN_LEN: usize = 4;
/// Parameters of queries and forms that are no secrets, and that an error is not understood without.
const HARMLESS: [&str; 14] = [
    "ns",
    "n",
    "last",
    "digest",
    "mount",
    "from",
    "artifactType",
    "scope",
    "service",
    "client_id",
    "grant_type",
    "account",
    "access_type",
    "offline_token",
];

/// The secrets of one request.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Secrets {
    /// Gathers the credentials of a request, the values of its query and of the form that it sends.
    pub(super) fn of(request: &Request) -> Self {
        let mut secrets = Self::default();
        secrets.add_url(request.url());
        for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
            for value in request.headers().get_all(name) {
                if let Ok(value) = value.to_str() {
                    secrets.add_credentials(value);
                }
            }
        }
        let is_form = |value: &str| value.starts_with("application/x-www-form-urlencoded");
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let body =
            request.body().and_then(|body| body.as_bytes()).filter(|_| content_type.is_some_and(is_form));
        if let Some(form) = body.and_then(|body| std::str::from_utf8(body).ok())
            && let Ok(mut url) = Url::parse("form:/")
        {
            url.set_query(Some(form));
            secrets.add_url(&url);
        }
        // The longer ones first, which may have the shorter ones in them.
        secrets.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.0.dedup();
        secrets
    }

    fn add(&mut self, secret: &str) {
        if secret.len() >= MIN_LEN {
            self.0.push(secret.to_owned());
        }
    }

    fn add_url(&mut self, url: &Url) {
        self.add(url.password().unwrap_or_default());
        for (key, value) in url.query_pairs().filter(|(key, _)| !HARMLESS.contains(&&**key)) {
            // What has no `=` may be a secret as a whole.
            self.add(if value.is_empty() { &key } else { &value });
        }
        // As they were written, too.
        for (key, value) in url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='))
        {
            if !HARMLESS.contains(&key) {
                self.add(value);
            }
        }
    }

    fn add_credentials(&mut self, value: &str) {
        let (scheme, credentials) = value.split_once(' ').unwrap_or(("", value));
        self.add(credentials.trim());
        if scheme.eq_ignore_ascii_case("basic")
            && let Ok(decoded) = STANDARD.decode(credentials.trim())
            && let Ok(pair) = String::from_utf8(decoded)
        {
            self.add(&pair);
            self.add(pair.split_once(':').map_or("", |(_, password)| password));
        }
    }

    /// The text without them.
    pub(super) fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            if text.contains(&**secret) {
                text = Cow::Owned(text.replace(&**secret, REDACTED));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use reqwest::{Method, header::HeaderValue};

    use super::*;

    fn of(url: &str, authorization: Option<&str>, form: Option<&str>) -> Secrets {
        let mut request = Request::new(Method::POST, Url::parse(url).expect("a URL"));
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        if let Some(form) = form {
            let media_type = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
            request.headers_mut().insert(CONTENT_TYPE, media_type);
            *request.body_mut() = Some(form.to_owned().into());
        }
        Secrets::of(&request)
    }

    #[test]
    fn what_was_sent_is_not_quoted() {
        let basic = format!("Basic {}", STANDARD.encode("user:canary word"));
        for (secrets, text) in [
            (of("https://r/v2/", Some("Bearer canary.token"), None), "the token canary.token has expired"),
            (of("https://r/v2/", Some(&basic), None), "canary word is wrong for user"),
            (of("https://r/v2/", Some(&basic), None), &*format!("no such thing: {basic}")),
            (of("https://r/x?X-Amz-Signature=can%2Fary", None, None), "bad signature can/ary"),
            (of("https://r/x?X-Amz-Signature=can%2Fary", None, None), "bad URL /x?X-Amz-Signature=can%2Fary"),
            (of("https://r/x?canary", None, None), "what is canary?"),
            (of("https://u:canary@r/x", None, None), "password canary"),
            (of("https://t/token", None, Some("grant_type=password&password=can+ary")), "wrong: can ary"),
            (of("https://t/token", None, Some("refresh_token=canary")), "canary is used up"),
        ] {
            let scrubbed = secrets.scrub(text);
            assert!(scrubbed.contains(REDACTED) && !scrubbed.contains("ary"), "{scrubbed}");
            if let Some(encoded) = basic.strip_prefix("Basic ") {
                assert!(!scrubbed.contains(encoded), "{scrubbed}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let digest = "sha256:0123456789abcdef";
        let secrets = of(&format!("https://r/v2/x?digest={digest}&ns=docker.io&n=1000&x=ab"), None, None);
        let text = format!("{digest} of docker.io, 1000, ab");
        assert!(matches!(secrets.scrub(&text), Cow::Borrowed(_)));
        let form =
            of("https://t/", None, Some("grant_type=password&service=r.example&scope=repository:a:pull"));
        assert_eq!(
            form.scrub("password repository:a:pull r.example"),
            "password repository:a:pull r.example"
        );
        assert_eq!(format!("{secrets:?}"), REDACTED);
    }
}
