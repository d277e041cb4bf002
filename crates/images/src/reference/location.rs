//! Transport prefixes: which part of an argument names the place where images are, and which part the image there.
//!
//! ```text
//! busybox:latest              docker       busybox:latest
//! docker://busybox            docker       busybox
//! oci:/srv/layout:v1          oci          /srv/layout:v1
//! oci-archive:image.tar       oci-archive  image.tar
//! docker-archive:image.tar    docker-archive  image.tar
//! store:busybox               store        busybox
//! localhost:5000/app          docker       localhost:5000/app
//! ```
//!
//! What a transport makes of its part is its own affair: nothing here looks at a path or parses a reference, and the
//! transports are known to the caller only.

use wharf_content::{Error, Result};

use super::excerpt;

/// The transport of a text without a prefix: a registry.
pub const DEFAULT_TRANSPORT: &str = "docker";

/// An argument, split into the transport and what the transport is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location<'a> {
    /// The transport's scheme, without a colon, such as `oci-archive`.
    pub scheme: &'a str,
    /// What follows the scheme and its `:` or `://`, as it is written; perhaps nothing.
    pub rest: &'a str,
    /// Whether the scheme was followed by `://`. A transport that takes paths may want to point out that what follows
    /// looks like a host.
    pub slashes: bool,
}

/// Takes the transport off an argument: `scheme://REST`, or `scheme:REST` where `known` has the scheme.
///
/// [`DEFAULT_TRANSPORT`] is always known and needs both slashes, as `docker:dind` is an image. A text without a prefix
/// is of the default transport. Where a host or an image has the name of a transport, the prefix wins; `docker://` in
/// front of it always means the registry.
///
/// # Errors
/// `InvalidArgument` for a scheme that is not known, naming those that are, and for a web address.
pub fn split_transport<'a>(text: &'a str, known: &[&str]) -> Result<Location<'a>> {
    if let Some((scheme, rest)) = text.split_once("://")
        && is_scheme(scheme)
    {
        if scheme == DEFAULT_TRANSPORT || known.contains(&scheme) {
            return Ok(Location { scheme, rest, slashes: true });
        }
        return Err(unknown(text, scheme, known));
    }
    if let Some((scheme, rest)) = text.split_once(':')
        && is_scheme(scheme)
    {
        if scheme != DEFAULT_TRANSPORT && known.contains(&scheme) {
            return Ok(Location { scheme, rest, slashes: false });
        }
        if !continues_reference(rest) {
            return Err(unknown(text, scheme, known));
        }
    }
    Ok(Location { scheme: DEFAULT_TRANSPORT, rest: text, slashes: false })
}

/// `[a-z][a-z0-9+.-]*`, in either case so that a mistake in the case is told as what it is.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-'))
}

/// Whether what follows the first colon can be a tag, or a port and a path. `dir:/tmp/x` is neither, and it is more
/// helpful to say that there is no such transport than that the name of an image is wrong.
fn continues_reference(rest: &str) -> bool {
    let rest = rest.split('@').next().unwrap_or(rest);
    match rest.split_once('/') {
        Some((port, _)) => !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()),
        None => !rest.contains(':'),
    }
}

fn unknown(text: &str, scheme: &str, known: &[&str]) -> Error {
    let shown = excerpt(text);
    Error::invalid_argument(if scheme.eq_ignore_ascii_case("https") {
        format!("{shown} is a web address and not an image: drop \"https://\"")
    } else if scheme.eq_ignore_ascii_case("http") {
        format!(
            "{shown} is a web address and not an image: drop \"http://\", \
             and use --plain-http if the registry has no TLS"
        )
    } else {
        let mut prefixes = vec![format!("{DEFAULT_TRANSPORT}://")];
        prefixes.extend(
            known.iter().filter(|&&scheme| scheme != DEFAULT_TRANSPORT).map(|scheme| format!("{scheme}:")),
        );
        format!("unknown transport {} in {shown}: known are {}", excerpt(scheme), prefixes.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_content::ErrorKind;

    use super::*;

    const KNOWN: &[&str] = &["docker", "oci", "oci-archive", "docker-archive", "store", "s3"];

    #[test]
    fn prefixes() {
        for (text, scheme, rest) in [
            ("docker://busybox", "docker", "busybox"),
            ("docker://localhost:5000/x", "docker", "localhost:5000/x"),
            ("docker://", "docker", ""),
            ("oci:/srv/layout:v1", "oci", "/srv/layout:v1"),
            ("oci:rel", "oci", "rel"),
            ("oci:///srv/layout", "oci", "/srv/layout"),
            ("oci:C:\\layout", "oci", "C:\\layout"),
            ("oci:a://b", "oci", "a://b"),
            ("oci-archive:a.tar:ref", "oci-archive", "a.tar:ref"),
            ("docker-archive:a.tar", "docker-archive", "a.tar"),
            ("store:busybox", "store", "busybox"),
            ("s3://bucket/key", "s3", "bucket/key"),
            // A prefix wins over a host of that name, and the default transport's over both.
            ("store:5000/repo", "store", "5000/repo"),
            ("docker://store:5000/repo", "docker", "store:5000/repo"),
        ] {
            let location = split_transport(text, KNOWN).expect(text);
            assert_eq!((location.scheme, location.rest), (scheme, rest), "{text:?}");
            assert_eq!(location.slashes, text.starts_with(&format!("{scheme}://")), "{text:?}");
        }
    }

    #[test]
    fn references_are_not_prefixes() {
        for text in [
            "busybox",
            "busybox:latest",
            "docker:dind",
            "docker:5000/repo",
            "localhost:5000/x",
            "host:5000/repo:tag",
            "registry.example.com:443/a/b@sha256:00",
            "name:tag@sha256:00",
            "[::1]:5000/x",
            "",
            ":",
            "busybox:",
            "/tmp/x",
            "./x:y",
            "a b://x",
            "é:x",
        ] {
            let expected = Location { scheme: DEFAULT_TRANSPORT, rest: text, slashes: false };
            assert_eq!(split_transport(text, KNOWN).expect(text), expected);
        }
    }

    #[test]
    fn unknown_transports_are_refused() {
        let known = "known are docker://, oci:, oci-archive:, docker-archive:, store:, s3:";
        for (text, expected) in [
            ("ftp://host/x", known),
            ("Docker://busybox", known),
            ("dir:/tmp/x", known),
            ("oci-archve:./x.tar", known),
            ("docker-daemon:busybox:latest", known),
            ("dir:rel/path", "unknown transport \"dir\" in \"dir:rel/path\""),
            ("https://host/repo", "drop \"https://\""),
            ("HTTPS://host/repo", "drop \"https://\""),
            ("http://host/repo", "--plain-http"),
            ("https://me:secret@host/repo", "\"https://host/repo\" is a web address"),
        ] {
            let error = split_transport(text, KNOWN).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text:?}");
            assert!(error.to_string().contains(expected), "{text:?}: {error}");
        }
        // A transport that is not there is not known.
        assert!(split_transport("oci:/x", &[]).is_err());
        assert!(split_transport("docker://x", &[]).is_ok());
        // The error of a huge text is small.
        let error =
            split_transport(&format!("ftp://{}", "\u{1b}".repeat(65_536)), KNOWN).expect_err("unknown");
        assert!(error.to_string().len() < 4096);
    }

    proptest! {
        #[test]
        fn loses_nothing(text in "\\PC*|[a-z0-9:/@.+-]{0,30}|(oci|docker|http)(:|://)\\PC{0,20}") {
            if let Ok(location) = split_transport(&text, KNOWN) {
                let colon = if location.slashes { "://" } else { ":" };
                let joined = [location.scheme, colon, location.rest].concat();
                prop_assert!(text == location.rest || text == joined, "{:?}", location);
            }
        }
    }
}
