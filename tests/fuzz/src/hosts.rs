//! The files that say which hosts are asked: whatever stands in them, hosts come out that can be asked, or an error.

use wharf_images::Reference;
use wharf_remotes::registry::fuzzing::{read_hosts_toml, read_registries_conf};

use crate::{Outcome, Seed};

/// The references whose hosts are looked for.
const REFERENCES: [&str; 4] = [
    "busybox",
    "example.com/team/app:v1",
    "localhost:5000/app",
    "Deep.Example.com/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];

/// Reads the input as `hosts.toml` where its first byte is an `h`, else as `registries.conf`.
///
/// # Panics
/// Where hosts come out that nobody can ask.
pub fn check(data: &[u8]) -> Outcome {
    let Some((kind, rest)) = data.split_first() else { return Outcome::Refused };
    let Ok(text) = std::str::from_utf8(rest) else { return Outcome::Refused };
    let references = REFERENCES.map(|text| Reference::parse(text).expect("it is a reference"));
    if *kind == b'h' { toml(text, &references) } else { conf(text, &references) }
}

fn toml(text: &str, references: &[Reference]) -> Outcome {
    let mut outcome = Outcome::Refused;
    for reference in references {
        let read = read_hosts_toml(text, reference.domain());
        outcome = Outcome::of(&read);
        match read {
            Err(why) => assert!(!why.is_empty()),
            Ok(hosts) => {
                let (last, mirrors) = hosts.split_last().expect("there is a host, the own one at least");
                assert!(
                    last.is_own && mirrors.iter().all(|mirror| !mirror.is_own),
                    "the own host is the last"
                );
                for host in &hosts {
                    let base = &host.base;
                    assert!(matches!(base.scheme(), "https" | "http") && base.has_host(), "{base}");
                    assert!(base.path().ends_with('/'), "{base}");
                    assert!(base.query().is_none() && base.fragment().is_none(), "{base}");
                    assert!(base.username().is_empty() && base.password().is_none(), "{base}");
                }
            }
        }
    }
    outcome
}

fn conf(text: &str, references: &[Reference]) -> Outcome {
    let mut outcome = Outcome::Refused;
    for reference in references {
        let located = read_registries_conf(text, reference);
        outcome = Outcome::of(&located);
        let Ok(places) = located else { continue };
        let Some((last, mirrors)) = places.split_last() else { continue };
        assert!(last.is_own && mirrors.iter().all(|mirror| !mirror.is_own), "the own place is the last");
        for place in &places {
            let repository = format!("{}/{}", place.domain, place.path);
            let read = Reference::parse(&repository).unwrap_or_else(|error| panic!("{repository}: {error}"));
            assert_eq!((read.domain(), read.path()), (&*place.domain, &*place.path), "names are normalised");
        }
    }
    outcome
}

/// Files as they are found, and such as say nothing sensible.
pub fn seeds() -> Vec<Seed> {
    let accepted = [
        ("toml-empty", "h"),
        ("toml-server", "hserver = \"https://registry.example\"\n"),
        (
            "toml-mirrors",
            "hserver = \"registry.example:5000/v2\"\n\
             [host.\"https://mirror.example\"]\n\
             capabilities = [\"pull\", \"resolve\"]\n\
             ca = [\"a.pem\", \"/etc/b.pem\"]\n\
             client = [[\"c.pem\", \"c.key\"], [\"d.pem\", \"\"], \"e.pem\"]\n\
             skip_verify = true\n\
             dial_timeout = \"1m30s\"\n\
             idle_timeout = \"1.5h\"\n\
             [host.\"https://mirror.example\".header]\n\
             x-own = [\"one\", \"two\"]\n\
             range = \"bytes=0-\"\n\
             [host.\"http://127.0.0.1:5000/path\"]\n\
             override_path = true\n\
             unknown = { a = 1 }\n",
        ),
        ("conf-empty", "c"),
        (
            "conf-mirrors",
            "cunqualified-search-registries = [\"docker.io\"]\n\
             [[registry]]\n\
             prefix = \"example.com/team\"\n\
             location = \"mirror.example/team\"\n\
             insecure = true\n\
             [[registry.mirror]]\n\
             location = \"localhost:5000/team/\"\n\
             pull-from-mirror = \"digest-only\"\n\
             [[registry]]\n\
             prefix = \"*.example.com\"\n\
             blocked = true\n",
        ),
        (
            "conf-renamed",
            "c[[registry]]\nlocation = \"docker.io\"\nmirror-by-digest-only = true\nmirror = [{ location = \"a.b/c\" }]\n",
        ),
    ];
    let refused = [
        ("toml-credentials", "hserver = \"https://a:b@registry.example\"\n"),
        ("toml-scheme", "hserver = \"ftp://registry.example\"\n"),
        ("toml-nameless", "h[host.\"\"]\n"),
        ("toml-no-capability", "hcapabilities = [\"fly\"]\n"),
        ("toml-broken", "h[host\n"),
        ("conf-version-1", "c[registries.search]\nregistries = []\n"),
        ("conf-nowhere", "c[[registry]]\n"),
        ("conf-star", "c[[registry]]\nprefix = \"a.*.b\"\n"),
    ];
    let accepted = accepted.into_iter().map(|(name, text)| Seed::accepted(name, text));
    accepted.chain(refused.into_iter().map(|(name, text)| Seed::refused(name, text))).collect()
}
