//! Entries of `registries.conf`, which one is for a reference, and what it makes of it.

use super::*;

fn read(text: &str) -> Result<Vec<Registry>, String> {
    parse(text, Path::new("/etc/containers/registries.conf"))
}

fn reference(name: &str) -> Reference {
    Reference::parse(name).expect(name)
}

#[test]
fn what_is_not_used_is_tolerated() {
    let text = r#"
        unqualified-search-registries = ["docker.io"]
        short-name-mode = "enforcing"
        credential-helpers = ["x"]
        [aliases]
        "a" = "docker.io/library/a"
        [[registry]]
        location = "example.com/"
    "#;
    let registries = read(text).expect("reads");
    assert_eq!(registries.len(), 1);
    assert_eq!(registries[0].prefix, "example.com");
    assert_eq!(read("").expect("reads"), []);
}

#[test]
fn the_longest_prefix_wins() {
    let prefixes = [
        "example.com",
        "example.com/a",
        "example.com/a/b",
        "example.com/tagged:1",
        "*.example.com",
        "*.sub.example.com",
        "one.example.com",
        "Upper.example.org",
    ];
    let text: String = prefixes.map(|prefix| format!("[[registry]]\nprefix = '{prefix}'\n")).concat();
    let registries = read(&text).expect("reads");
    let digest = wharf_content::Digest::sha256(b"x");
    for (name, expected) in [
        ("example.com/x", Some("example.com")),
        ("example.com/ab", Some("example.com")),
        ("example.com/a", Some("example.com/a")),
        ("example.com/a:1", Some("example.com/a")),
        (&format!("example.com/a@{digest}"), Some("example.com/a")),
        ("example.com/a/b/c", Some("example.com/a/b")),
        ("example.com/tagged", Some("example.com")),
        ("example.com/tagged:1", Some("example.com/tagged:1")),
        ("example.com/tagged:12", Some("example.com")),
        ("EXAMPLE.com/a", Some("example.com/a")),
        ("example.com:5000/a", Some("example.com")),
        ("two.example.com/x", Some("*.example.com")),
        ("two.example.com:5000/x", Some("*.example.com")),
        ("one.example.com/x", Some("one.example.com")),
        ("x.sub.example.com/x", Some("*.sub.example.com")),
        ("upper.example.org/x", Some("Upper.example.org")),
        ("badexample.com/x", None),
        ("other.com/x.example.com", None),
        ("example.community/x", None),
        ("busybox", None),
    ] {
        let found = find(&registries, &reference(name));
        assert_eq!(found.map(|registry| registry.prefix.as_str()), expected, "{name}");
    }
}

#[test]
fn locations_take_the_place_of_the_prefix() {
    for (entry, name, expected) in [
        ("location = 'example.com'", "example.com/a", "example.com a"),
        ("prefix = 'example.com'", "example.com/a", "example.com a"),
        ("prefix = 'example.com'\nlocation = 'm.example:5000'", "example.com/a/b:1", "m.example:5000 a/b"),
        ("prefix = 'example.com'\nlocation = 'm.example/x/y'", "example.com/a", "m.example x/y/a"),
        ("prefix = 'example.com/a'\nlocation = 'm.example/x'", "example.com/a/b", "m.example x/b"),
        ("prefix = 'example.com/a'\nlocation = 'm.example/x'", "example.com/a", "m.example x"),
        ("prefix = 'example.com/a:1'\nlocation = 'm.example/x'", "example.com/a:1", "m.example x"),
        ("prefix = '*.example.com'\nlocation = 'm.example/x'", "a.example.com/b", "m.example x/b"),
        ("prefix = '*.example.com'", "a.example.com/b", "a.example.com b"),
        ("prefix = 'docker.io/library'\nlocation = 'm.example/hub'", "busybox", "m.example hub/busybox"),
        ("prefix = 'EXAMPLE.com'\nlocation = 'm.example'", "Example.COM/a", "m.example a"),
        ("prefix = 'example.com'\nlocation = 'localhost'", "example.com/a", "localhost a"),
    ] {
        let registries = read(&format!("[[registry]]\n{entry}")).expect(entry);
        let reference = reference(name);
        let found = find(&registries, &reference).expect(entry).located(&reference).expect(entry);
        let found: Vec<_> = found.iter().map(|at| format!("{} {}", at.domain, at.path)).collect();
        assert_eq!(found, [expected], "{entry}");
    }
    for (entry, name) in [
        ("prefix = 'example.com'\nlocation = 'no-host'", "example.com/a"),
        ("prefix = 'example.com'\nlocation = 'UPPER.example/PATH'", "example.com/a"),
        ("prefix = 'example.com'\nlocation = 'm.example/../x'", "example.com/a"),
        ("prefix = 'example.com/a'\nlocation = 'm.example'", "example.com/a"),
    ] {
        let registries = read(&format!("[[registry]]\n{entry}")).expect(entry);
        let reference = reference(name);
        let error = find(&registries, &reference).expect(entry).located(&reference).expect_err(entry);
        assert!(error.contains("which is no name"), "{error}");
    }
}

fn can(at: &Located) -> String {
    let (resolves, pulls) =
        (at.capabilities.has(Capabilities::RESOLVE), at.capabilities.has(Capabilities::PULL));
    format!("{} {resolves} {pulls}", at.domain)
}

#[test]
fn mirrors_and_what_they_are_asked_for() {
    let text = r"
        [[registry]]
        location = 'example.com'
        [[registry.mirror]]
        location = 'all.example'
        insecure = true
        [[registry.mirror]]
        location = 'digest.example'
        pull-from-mirror = 'digest-only'
        [[registry.mirror]]
        location = 'tag.example'
        pull-from-mirror = 'tag-only'
    ";
    let registries = read(text).expect("reads");
    let digest = wharf_content::Digest::sha256(b"x");
    for (name, expected) in [
        (
            "example.com/a:1".to_owned(),
            [
                "all.example true true",
                "digest.example false true",
                "tag.example true true",
                "example.com true true",
            ],
        ),
        (
            format!("example.com/a:1@{digest}"),
            [
                "all.example true true",
                "digest.example true true",
                "tag.example false false",
                "example.com true true",
            ],
        ),
    ] {
        let located = registries[0].located(&reference(&name)).expect("renames");
        let found: Vec<_> = located.iter().map(can).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(located.iter().map(|at| at.insecure).collect::<Vec<_>>(), [true, false, false, false]);
        assert_eq!(located.iter().map(|at| at.is_own).collect::<Vec<_>>(), [false, false, false, true]);
    }
    let text = "[[registry]]\nlocation='a.example'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.example'";
    let located = read(text).expect("reads")[0].located(&reference("a.example/x")).expect("renames");
    assert_eq!(located.iter().map(can).collect::<Vec<_>>(), ["m.example false true", "a.example true true"]);
}

#[test]
fn later_files_count_alone_for_their_prefixes() {
    let mut registries =
        read("[[registry]]\nlocation='a.example'\n[[registry]]\nlocation='b.example'").expect("reads");
    let later = "[[registry]]\nprefix='a.example'\nblocked=true";
    merge(&mut registries, parse(later, Path::new("/later.conf")).expect("reads"));
    let found: Vec<_> =
        registries.iter().map(|registry| (registry.prefix.as_str(), registry.blocked)).collect();
    assert_eq!(found, [("b.example", false), ("a.example", true)]);
    assert_eq!(registries[1].file, Path::new("/later.conf"));
}

#[test]
fn errors_name_the_entry() {
    for (text, expected) in [
        ("[[registry]]", "prefix or location is empty"),
        ("[[registry]]\nlocation='/'", "prefix or location is empty"),
        ("[[registry]]\nlocation='https://a.example'", "has a scheme"),
        (
            "[[registry]]\nprefix='a.example'\nlocation='http://b.example'",
            "location \"http://b.example\" has a scheme",
        ),
        ("[[registry]]\nprefix='a.*.example'", "may begin with"),
        ("[[registry]]\nlocation='a.example'\n[[registry.mirror]]", "the location of a mirror is empty"),
        ("[[registry]]\nprefix='a.example'\nlocation='*.b.example'", "a location has no \"*\""),
        (
            "[[registry]]\nlocation='a.example'\n[[registry.mirror]]\nlocation='m'\npull-from-mirror='never'",
            "neither all, digest-only nor tag-only",
        ),
        (
            "[[registry]]\nlocation='a'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m'\npull-from-mirror='all'",
            "contradicts mirror-by-digest-only",
        ),
        ("[registries.search]\nregistries=['docker.io']", "version 1"),
        ("[[registry]]\nlocation='a'\ninsecure='yes'", "line 3: "),
        ("registry = 1", "line 1: "),
        ("[[registry]", "line 1: "),
    ] {
        let error = read(text).map(|registries| panic!("{text}: {registries:?}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
