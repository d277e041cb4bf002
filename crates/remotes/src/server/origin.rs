//! Requests that a page makes a browser send ("Cross-site request forgery").
//!
//! A browser says in `Origin` which page has it change something (RFC 6454, 7; Fetch, "Append a request Origin header"), and no client of
//! registries does. Who looks at a page has not thereby told it to change the registry on his machine. A page can have a host name of its own lead
//! to that machine, so that without passwords no page is known by its name.

use http::{header, request::Parts, uri::Authority};

/// Whether a page asks: any page, or, where there are passwords, one that was not loaded from here.
pub(super) fn is_of_a_page(head: &Parts, has_passwords: bool) -> bool {
    let Some(origin) = head.headers.get(header::ORIGIN) else { return false };
    let page = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
    let header = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let here = head.uri.authority().map(Authority::as_str).or(header);
    let is_ours = page.zip(here).is_some_and(|(page, here)| page.eq_ignore_ascii_case(here));
    !(has_passwords && is_ours)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn of_a_page(origin: Option<&str>, has_passwords: bool) -> bool {
        let mut request = Request::put("/v2/a/manifests/x").header("Host", "registry.example:5000");
        if let Some(origin) = origin {
            request = request.header("Origin", origin);
        }
        is_of_a_page(&request.body(()).expect("a request").into_parts().0, has_passwords)
    }

    #[test]
    fn pages_are_known_by_their_origin() {
        assert!(!of_a_page(None, false));
        assert!(!of_a_page(Some("https://Registry.example:5000"), true));
        for (origin, has_passwords) in [
            ("https://registry.example:5000", false),
            ("https://registry.example", true),
            ("https://evil.example", true),
            ("null", true),
            ("\u{fc}", true),
            ("", false),
        ] {
            assert!(of_a_page(Some(origin), has_passwords), "{origin}");
        }
    }
}
