//! What is read as which reference, what is refused and why, and what holds for every reference.

use std::{collections::BTreeSet, time::Instant};

use proptest::prelude::*;
use wharf_content::{Algorithm, DigestError};

use super::*;

const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn parse(text: &str) -> Reference {
    Reference::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn normalises() {
    for (text, canonical, familiar) in [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("library", "docker.io/library/library:latest", "library:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("test_com/foo", "docker.io/test_com/foo:latest", "test_com/foo:latest"),
        ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080", "foo/foo_bar.com:8080"),
        // Without a slash there is no domain.
        ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("test.com:tag", "docker.io/library/test.com:tag", "test.com:tag"),
        ("192.168.1.1:5000", "docker.io/library/192.168.1.1:5000", "192.168.1.1:5000"),
        ("lowercase:Uppercase", "docker.io/library/lowercase:Uppercase", "lowercase:Uppercase"),
        // Domains.
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest"),
        ("host:5000/repo:tag", "host:5000/repo:tag", "host:5000/repo:tag"),
        ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000/repo:5050", "192.168.1.1:5000/repo:5050"),
        ("Uppercase/lower:tag", "Uppercase/lower:tag", "Uppercase/lower:tag"),
        ("[::1]:5000/repo", "[::1]:5000/repo:latest", "[::1]:5000/repo:latest"),
        ("[2001:db8::1]/repo:tag", "[2001:db8::1]/repo:tag", "[2001:db8::1]/repo:tag"),
        ("xn--n3h.com/my:xn--n3h.com", "xn--n3h.com/my:xn--n3h.com", "xn--n3h.com/my:xn--n3h.com"),
        ("docker.io:443/a", "docker.io:443/a:latest", "docker.io:443/a:latest"),
        (
            "b.gcr.io/test.example.com/my-app",
            "b.gcr.io/test.example.com/my-app:latest",
            "b.gcr.io/test.example.com/my-app:latest",
        ),
        // The familiar form must not turn a path into a domain.
        ("docker.io/example.com/a", "docker.io/example.com/a:latest", "docker.io/example.com/a:latest"),
        ("docker.io/localhost/a", "docker.io/localhost/a:latest", "docker.io/localhost/a:latest"),
        ("docker.io/docker.io/a", "docker.io/docker.io/a:latest", "docker.io/docker.io/a:latest"),
        (
            "docker.io/index.docker.io/a",
            "docker.io/index.docker.io/a:latest",
            "docker.io/index.docker.io/a:latest",
        ),
    ] {
        let reference = parse(text);
        assert_eq!(
            (reference.to_string().as_str(), reference.familiar().as_str()),
            (canonical, familiar),
            "{text:?}"
        );
        assert_eq!(reference.full(), canonical, "{text:?}");
        assert_eq!(Reference::parse_canonical(canonical).as_ref(), Ok(&reference), "{text:?}");
    }
}

#[test]
fn parts() {
    let digest: Digest = format!("sha256:{HEX}").parse().expect("digest");
    for (text, domain, path, tag, pinned, object) in [
        ("busybox".to_owned(), "docker.io", "library/busybox", Some("latest"), false, "latest"),
        (format!("a/b@{digest}"), "docker.io", "a/b", None, true, digest.as_str()),
        (format!("[::1]:5/a/b:1@{digest}"), "[::1]:5", "a/b", Some("1"), true, digest.as_str()),
        ("localhost:5000/a:5000".to_owned(), "localhost:5000", "a", Some("5000"), false, "5000"),
    ] {
        let reference = parse(&text);
        assert_eq!((reference.domain(), reference.path()), (domain, path), "{text:?}");
        assert_eq!(reference.repository(), format!("{domain}/{path}"), "{text:?}");
        assert_eq!(reference.tag(), tag, "{text:?}");
        assert_eq!(reference.digest(), pinned.then_some(&digest), "{text:?}");
        assert_eq!(reference.object(), object, "{text:?}");
    }
    let sha512 = Algorithm::Sha512.digest(b"");
    assert_eq!(parse(&format!("a@{sha512}")).digest(), Some(&sha512));
}

#[test]
fn the_digest_decides() {
    let digest = Digest::sha256(b"");
    let both = parse(&format!("busybox:1@{digest}"));
    let pinned = parse(&format!("busybox@{digest}"));
    assert_eq!(both.to_string(), format!("docker.io/library/busybox@{digest}"));
    assert_eq!(both.to_string(), pinned.to_string());
    assert_ne!(both, pinned);
    assert_eq!(both.full(), format!("docker.io/library/busybox:1@{digest}"));
    assert_eq!(both.familiar(), format!("busybox:1@{digest}"));
    assert_eq!(pinned.familiar(), format!("busybox@{digest}"));
    for text in [both.full(), both.to_string()] {
        assert!(Reference::parse_canonical(&text).is_ok(), "{text:?}");
    }

    assert_eq!(parse("busybox:1").with_digest(digest), both);
    let tagged = both.with_tag("2").expect("tag");
    assert_eq!((tagged.object(), tagged.to_string().as_str()), ("2", "docker.io/library/busybox:2"));
    assert_eq!(both.with_tag("a/b"), Err(ReferenceError::InvalidTag { input: "\"a/b\"".into() }));
}

/// The name of an error's variant.
fn kind(error: &ReferenceError) -> &'static str {
    match error {
        ReferenceError::InvalidFormat { .. } => "format",
        ReferenceError::InvalidTag { .. } => "tag",
        ReferenceError::InvalidDigest { .. } => "digest",
        ReferenceError::ContainsUppercase { .. } => "uppercase",
        ReferenceError::EmptyName { .. } => "empty",
        ReferenceError::NameTooLong { .. } => "long",
        ReferenceError::NotCanonical { .. } => "canonical",
        ReferenceError::Digest { source: DigestError::InvalidFormat, .. } => "digest format",
        ReferenceError::Digest { source: DigestError::InvalidLength { .. }, .. } => "digest length",
        ReferenceError::Digest { .. } => "digest unsupported",
    }
}

#[test]
fn errors_are_told_apart() {
    let f = |count| "f".repeat(count);
    for (text, expected) in [
        (String::new(), "empty"),
        (":justtag".into(), "empty"),
        (format!("@sha256:{HEX}"), "empty"),
        ("docker.io/".into(), "empty"),
        ("localhost:5000/".into(), "empty"),
        ("Uppercase:tag".into(), "uppercase"),
        ("test:5000/Uppercase/lowercase:tag".into(), "uppercase"),
        ("a/B".into(), "uppercase"),
        ("a/B$".into(), "format"),
        ("aa/asdf$$^/aa".into(), "format"),
        ("[2001:db8::1]".into(), "format"),
        ("[2001:db8::1]:5000".into(), "format"),
        ("[fe80::1%eth0]:5000/repo".into(), "format"),
        ("foo_bar.com/x".into(), "format"),
        ("host:/x".into(), "format"),
        ("host:port/x".into(), "format"),
        ("-foo/bar".into(), "format"),
        ("foo//bar".into(), "format"),
        ("/foo".into(), "format"),
        ("foo/".into(), "format"),
        (" busybox".into(), "format"),
        ("busybox\n".into(), "format"),
        ("büsybox".into(), "format"),
        ("../x".into(), "format"),
        ("localhost/../x".into(), "format"),
        (HEX.into(), "format"),
        ("https://host/repo".into(), "format"),
        ("docker://busybox".into(), "format"),
        ("busybox:".into(), "tag"),
        ("busybox:-x".into(), "tag"),
        ("busybox:a:b".into(), "tag"),
        ("localhost/a:b/c".into(), "tag"),
        ("busybox:é".into(), "tag"),
        (format!("busybox:{}", "a".repeat(129)), "tag"),
        ("busybox@".into(), "digest"),
        ("busybox@latest".into(), "digest"),
        ("busybox:1@".into(), "digest"),
        ("busybox@sha256:".into(), "digest"),
        ("busybox@sha256:../../x".into(), "digest"),
        (format!("busybox@sha256:{}", f(31)), "digest"),
        (format!("busybox@sha256:{HEX}@sha256:{HEX}"), "digest"),
        (format!("busybox@sha256:{HEX}:tag"), "digest"),
        (format!("busybox@sha256:{}\0", f(63)), "digest"),
        (format!("busybox@sha256:{}", f(34)), "digest length"),
        (format!("busybox@sha256:{}", f(63)), "digest length"),
        (format!("busybox@sha256:{}", f(65)), "digest length"),
        (format!("busybox@sha512:{HEX}"), "digest length"),
        (format!("busybox@sha256:{}", "F".repeat(64)), "digest format"),
        (format!("busybox@SHA256:{HEX}"), "digest format"),
        (format!("busybox@md5:{}", f(32)), "digest unsupported"),
        (format!("busybox@invaliddigest:{}", f(64)), "digest unsupported"),
        (format!("{}a:tag", "a/".repeat(128)), "long"),
        ("a".repeat(248), "long"),
        (format!("{}/a", "a.".repeat(130) + "a"), "long"),
    ] {
        let error = Reference::parse(&text).expect_err(&text);
        assert_eq!(kind(&error), expected, "{text:?}: {error}");
        // The input is named; nothing in a message reaches a terminal unescaped.
        let beginning: String = text.chars().take(8).flat_map(char::escape_debug).collect();
        assert!(error.to_string().contains(&beginning), "{text:?}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{text:?}");
    }
}

#[test]
fn limits_are_inclusive() {
    let host = "a.".repeat(126) + "a";
    for text in [
        format!("{}a:tag", "a/".repeat(127)),
        "a".repeat(247),
        format!("localhost/{}", "a".repeat(255)),
        format!("{host}:65535/a"),
        format!("busybox:{}", "a".repeat(128)),
        format!("{HEX}:tag"),
        format!("library/{HEX}"),
    ] {
        assert!(Reference::parse(&text).is_ok(), "{text:?}");
    }
}

#[test]
fn canonical_only() {
    let digest = Digest::sha256(b"");
    for text in
        ["busybox", "busybox:latest", "docker.io/busybox:latest", "docker.io/library/busybox", "localhost/a"]
    {
        let error = Reference::parse_canonical(text).expect_err(text);
        let canonical = parse(text).to_string();
        assert_eq!(error, ReferenceError::NotCanonical { input: format!("{text:?}"), canonical });
    }
    let error =
        Reference::parse_canonical(&format!("index.docker.io/a/b@{digest}")).expect_err("legacy domain");
    assert_eq!(kind(&error), "canonical");
    assert_eq!(kind(&Reference::parse_canonical("A").expect_err("invalid")), "uppercase");
}

#[test]
fn web_addresses_get_advice() {
    for (text, advice) in [
        ("https://ghcr.io/a/b", "drop \"https://\""),
        ("http://localhost:5000/a", "--plain-http"),
        ("HTTP://localhost:5000/a", "--plain-http"),
        ("oci://x", "drop what stands up to \"://\""),
    ] {
        let error = Reference::parse(text).expect_err(text).to_string();
        assert!(error.contains(advice), "{error}");
    }
    let error = Reference::parse("https://me:secret@host/a").expect_err("URL").to_string();
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn serde_keeps_everything() {
    let text = format!("docker.io/library/busybox:1@{}", Digest::sha256(b""));
    let json = serde_json::to_string(&parse(&text)).expect("JSON");
    assert_eq!(json, format!("{text:?}"));
    assert_eq!(serde_json::from_str::<Reference>(&json).expect("reference"), parse(&text));
    assert_eq!(serde_json::from_str::<Reference>("\"busybox\"").expect("reference"), parse("busybox"));
    let error = serde_json::from_str::<Reference>("\"busybox@md5:00000000000000000000000000000000\"");
    assert!(error.expect_err("unsupported").to_string().contains("unsupported digest algorithm"));
    assert!(serde_json::from_str::<Reference>("1").is_err());
}

#[test]
fn sorts_by_repository() {
    let sorted: BTreeSet<_> = ["b:1", "a:2", "a:1", "localhost/a"].into_iter().map(parse).collect();
    let names: Vec<_> = sorted.iter().map(Reference::familiar).collect();
    assert_eq!(names, ["a:1", "a:2", "b:1", "localhost/a:latest"]);
}

#[test]
fn display_pads() {
    assert_eq!(format!("{:>14}|", parse("localhost/a:1")), " localhost/a:1|");
}

#[test]
fn huge_texts_are_refused_quickly() {
    let start = Instant::now();
    for unit in [
        "a", "A", "a/", "a.", "a-", "-", "_", ".", ":", "@", "/", "[", "é", "\0", "a:", "a@", "0", "f",
        "a://", "\u{1b}",
    ] {
        for before in ["", "localhost/", "a:", "a@sha256:", "[", "a.b/", "https://"] {
            let text = format!("{before}{}", unit.repeat(65_536 / unit.len()));
            let error = Reference::parse(&text).expect_err("too long");
            assert!(error.to_string().len() < 4096);
        }
    }
    // A thousandth of this would do; even one quadratic case would not fit.
    assert!(start.elapsed().as_secs() < 20);
}

fn domain() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("docker.io".to_owned()),
        Just("index.docker.io".to_owned()),
        Just("localhost".to_owned()),
        "[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?(\\.[a-z0-9]{1,5}){1,3}(:[0-9]{1,5})?",
        "[a-z]{0,3}[A-Z][a-z]{0,3}",
        "\\[[a-f0-9]{0,4}:[a-f0-9:]{0,16}\\](:[0-9]{1,5})?",
    ]
}

const PATHS: &str = "([a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}|library|localhost|docker\\.io)\
                     (/[a-z0-9]{1,4}((\\.|_|__|-)[a-z0-9]{1,4})?){0,3}";

prop_compose! {
    fn reference()(
        domain in proptest::option::of(domain()),
        path in PATHS,
        tag in proptest::option::of("[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}"),
        algorithm in proptest::option::of(0..3_usize),
    ) -> String {
        let digest = algorithm.map(|at| Algorithm::ALL[at].digest(path.as_bytes()));
        // Without a domain, a first component with a dot is one, and a host has no underscores.
        let path = if domain.is_none() && path.contains('.') { path.replace('_', "-") } else { path };
        let domain = domain.map(|domain| format!("{domain}/")).unwrap_or_default();
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        format!("{domain}{path}{tag}{}", digest.map(|digest| format!("@{digest}")).unwrap_or_default())
    }
}

proptest! {
    #[test]
    fn round_trips(text in reference()) {
        let reference = Reference::parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(Reference::parse(&reference.full()), Ok(reference.clone()));
        prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference.clone()));
        prop_assert_eq!(Reference::parse_canonical(&reference.full()), Ok(reference.clone()));

        // Display leaves the tag out where there is a digest, and nothing else.
        let shown = reference.to_string();
        let again = Reference::parse_canonical(&shown).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(again.to_string(), shown);
        prop_assert_eq!(again.object(), reference.object());
        prop_assert_eq!(again.repository(), reference.repository());
        if reference.digest().is_none() {
            prop_assert_eq!(again, reference);
        }
    }

    #[test]
    fn never_panics(
        text in any::<String>(),
        near in "[a-zA-Z0-9.:/@_\\[\\]-]{0,40}",
        valid in reference(),
        at in any::<prop::sample::Index>(),
        with in any::<char>(),
    ) {
        let mut broken: Vec<char> = valid.chars().collect();
        let at = at.index(broken.len());
        broken[at] = with;
        for text in [text, near, broken.into_iter().collect()] {
            match Reference::parse(&text) {
                Ok(reference) => prop_assert_eq!(Reference::parse(&reference.full()), Ok(reference)),
                Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
            }
            let _ = Reference::parse_canonical(&text);
        }
    }
}
