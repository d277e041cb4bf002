//! Several hosts for one name: `hosts.toml`, `registries.conf` and what is asked where.

mod hosts;

use std::{sync::Arc, time::Duration};

use wharf_content::{Descriptor, ErrorKind, Store};
use wharf_images::{Image, media_types as types, transport::Resolver};
use wharf_remotes::{
    CopyOptions, PushOptions, RemoteError, copy, push,
    registry::{Login, RegistriesConf, RegistryResolver, RegistrySettings},
};
use wharf_tests::{FakeServer, Reply, Request, ScriptedRegistry, scripted::Contents};

use hosts::{Fixture, Root, lines, pull};

/// A registry with the image, that answers some requests otherwise.
async fn registry(
    fixture: &Fixture,
    bend: impl Fn(&Request, &Contents) -> Option<Reply> + Send + Sync + 'static,
) -> ScriptedRegistry {
    let registry = ScriptedRegistry::start(bend).await;
    fixture.fill(&registry.contents);
    registry
}

fn mirrored(server: &ScriptedRegistry, mirror: &str) -> Root {
    let keys = "capabilities = ['pull', 'resolve', 'referrers']";
    Root::new().with_hosts(&server.address(), &format!("[host.'http://{mirror}']\n{keys}\n"))
}

#[tokio::test]
async fn a_mirror_that_has_everything_is_all_that_is_asked() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let mirror = registry(&fixture, |_, _| None).await;
    let root = mirrored(&server, &mirror.address());
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    assert_eq!(lines(&server), <[String; 0]>::default());
    let namespace = server.address().replace(':', "%3A");
    for request in mirror.contents.requests() {
        assert!(request.path.ends_with(&format!("?ns={namespace}")), "{}", request.path);
    }
    assert_eq!(mirror.contents.count("HEAD"), 1);
    assert_eq!(mirror.contents.count("GET"), 3, "manifest, config and layer");
}

#[tokio::test]
async fn a_mirror_that_fails_is_left_at_once_for_the_server() {
    let fixture = Fixture::new().await;
    let silent: fn() -> Reply = || Reply::raw("");
    for (what, answer) in [
        ("404", (|| Reply::new(404, &[], "")) as fn() -> Reply),
        ("403", || Reply::new(403, &[], "")),
        ("401", || Reply::new(401, &[], "")),
        ("500", || Reply::new(500, &[], "")),
        ("429", || Reply::new(429, &[("Retry-After", "86400")], "")),
        ("a redirect without end", || Reply::new(302, &[("Location", "/v2/again")], "")),
        ("no answer", silent),
        ("no HTTP", || Reply::raw("SSH-2.0-server\r\n")),
        ("another digest", || {
            let other = wharf_content::Digest::sha256(b"other").to_string();
            Reply::new(
                200,
                &[("Docker-Content-Digest", &other), ("Content-Type", types::OCI_MANIFEST)],
                "other",
            )
        }),
    ] {
        let server = registry(&fixture, |_, _| None).await;
        let mirror = registry(&fixture, move |_, _| Some(answer())).await;
        let root = mirrored(&server, &mirror.address());
        // Retries would wait for longer than a test may take.
        let settings = root.settings().with_retries(3, Duration::from_secs(600));
        let name = server.reference(&format!("a/b@{}", fixture.root.digest));
        // Nor is a mirror waited for that wants to be left alone.
        let work = tokio::time::timeout(Duration::from_secs(20), pull(settings, &name)).await;
        let pulled = work.unwrap_or_else(|_| panic!("{what}: the mirror is waited for"));
        pulled.unwrap_or_else(|error| panic!("{what}: {}", error.report()));
        let namespace = server.contents.requests().iter().any(|request| request.path.contains("ns="));
        assert!(!namespace, "{what}: the server is told nothing");
        assert!(!mirror.contents.requests().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_mirror_that_is_not_there_is_found_out_once() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let mirror = registry(&fixture, |_, _| Some(Reply::raw(""))).await;
    let root = mirrored(&server, &mirror.address());
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    assert_eq!(lines(&mirror).len(), 2, "one for the name and one for the content: {:?}", lines(&mirror));

    // The port is free again.
    let gone = FakeServer::start(|_| Reply::new(404, &[], "")).await.address();
    let root = mirrored(&server, &gone);
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    let name = server.reference("a/b:none");
    let error = pull(root.settings(), &name).await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound, "an answer says more than none: {}", error.report());
}

#[tokio::test]
async fn a_silent_mirror_is_given_up_after_its_own_timeout() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let mirror = registry(&fixture, |_, _| Some(Reply::raw("").stalling())).await;
    let text =
        format!("[host.'http://{}']\nidle_timeout = '50ms'\ndial_timeout = '250ms'\n", mirror.address());
    let root = Root::new().with_hosts(&server.address(), &text);
    let settings = root.settings().with_timeouts(Duration::from_secs(600), Duration::from_secs(600));
    let name = server.reference("a/b:1");
    let work = tokio::time::timeout(Duration::from_secs(60), pull(settings, &name)).await;
    work.expect("the mirror is given up").expect("pulls");
    assert_eq!(lines(&mirror).len(), 2);
}

#[tokio::test]
async fn a_body_that_breaks_at_a_mirror_goes_on_elsewhere() {
    let fixture = Fixture::new().await;
    let layer = fixture.layer.clone();
    let half = fixture.layer_len() / 2;
    let path = format!("/blobs/{}", layer.digest);
    let server = registry(&fixture, |_, _| None).await;
    let breaks = path.clone();
    let mirror = registry(&fixture, move |request, contents| {
        if !request.path.contains(&breaks) {
            return None;
        }
        if request.header("range").is_some() {
            return Some(Reply::new(500, &[], ""));
        }
        let bytes = contents.blobs()[layer.digest.as_str()].clone();
        Some(Reply::new(200, &[("Content-Length", &bytes.len().to_string())], &bytes[..half]))
    })
    .await;
    let root = mirrored(&server, &mirror.address());
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    let asked: Vec<_> =
        server.contents.requests().into_iter().filter(|request| request.path.contains(&path)).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), Some(format!("bytes={half}-").as_str()));
}

/// A registry with the image, whose layer is as long as it should be and something else.
async fn lying(fixture: &Fixture) -> ScriptedRegistry {
    let (layer, len) = (fixture.layer.clone(), fixture.layer_len());
    registry(fixture, move |request, _| {
        let is_layer = request.path.contains(layer.digest.as_str());
        is_layer.then(|| Reply::new(200, &[], vec![b'x'; len]))
    })
    .await
}

/// How often a registry was asked for the layer.
fn layers(registry: &ScriptedRegistry, fixture: &Fixture) -> usize {
    lines(registry).iter().filter(|line| line.contains(fixture.layer.digest.as_str())).count()
}

#[tokio::test]
async fn what_a_mirror_sends_is_verified_and_had_elsewhere_where_it_is_wrong() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let mirrors = [lying(&fixture).await, lying(&fixture).await];
    let table = |mirror: &ScriptedRegistry| format!("[host.'http://{}']\n", mirror.address());
    let text: String = mirrors.iter().map(table).collect();
    let root = Root::new().with_hosts(&server.address(), &text);
    pull(root.settings(), &server.reference("a/b:1")).await.expect("the server has the right bytes");
    let asked = [&mirrors[0], &mirrors[1], &server].map(|registry| layers(registry, &fixture));
    assert_eq!(asked, [1, 1, 1]);
    // For everything else it is asked as before.
    assert_eq!(lines(&server).len(), 1, "{:?}", lines(&server));
}

#[tokio::test]
async fn a_copy_takes_from_elsewhere_what_a_mirror_has_wrong() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let manifest = fixture.root.digest.to_string();
    let (layer, len) = (fixture.layer.clone(), fixture.layer_len());
    let size = fixture.root.size;
    let mirror = registry(&fixture, move |request, _| {
        let is_get = request.method == "GET";
        if is_get && request.path.contains(layer.digest.as_str()) {
            return Some(Reply::new(200, &[], vec![b'x'; len]));
        }
        let is_document = is_get && request.path.contains(&manifest);
        is_document.then(|| Reply::new(200, &[], vec![b' '; usize::try_from(size).expect("small")]))
    })
    .await;
    let root = mirrored(&server, &mirror.address());
    let destination = ScriptedRegistry::start(|_, _| None).await;
    let resolver = RegistryResolver::new(root.settings());
    let (from, to) = (server.reference("a/b:1"), destination.reference("c:1"));
    copy(&resolver, &from, &resolver, &to, &CopyOptions::new()).await.expect("copies");
    assert!(destination.contents.blobs().contains_key(fixture.layer.digest.as_str()));
    assert!(destination.contents.manifests().contains_key(fixture.root.digest.as_str()));
    assert_eq!([&mirror, &server].map(|registry| layers(registry, &fixture)), [1, 1]);
}

#[tokio::test]
async fn wrong_bytes_are_told_where_nobody_has_better_ones() {
    let fixture = Fixture::new().await;
    for has_mirror in [false, true] {
        let server = lying(&fixture).await;
        let mirror = lying(&fixture).await;
        let root = if has_mirror { mirrored(&server, &mirror.address()) } else { Root::new() };
        let error = pull(root.settings(), &server.reference("a/b:1")).await.expect_err("other bytes");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
        assert!(error.report().contains("mismatch"), "{}", error.report());
        let asked = [&mirror, &server].map(|registry| layers(registry, &fixture));
        assert_eq!(asked, [usize::from(has_mirror), 1]);
    }
    // Of a mirror that lies and a server that has nothing both is told.
    let server =
        registry(&fixture, |request, _| request.path.contains("/blobs/").then(|| Reply::new(404, &[], "")))
            .await;
    let mirror = lying(&fixture).await;
    let root = mirrored(&server, &mirror.address());
    let error = pull(root.settings(), &server.reference("a/b:1")).await.expect_err("nobody has it");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    assert!(error.report().contains("wrong bytes of a mirror"), "{}", error.report());
}

#[tokio::test]
async fn where_two_had_a_part_in_wrong_bytes_the_mirror_is_left_out() {
    // The mirror's half is wrong, and the server goes on with a right one: it is the server's whole that counts.
    let fixture = Fixture::new().await;
    let half = fixture.layer_len() / 2;
    let (layer, len) = (fixture.layer.digest.to_string(), fixture.layer.size.to_string());
    let part = layer.clone();
    let server = registry(&fixture, move |request, contents| {
        let is_rest = request.path.contains(&part) && request.header("range").is_some();
        let bytes = is_rest.then(|| contents.blobs()[&part].clone())?;
        let range = format!("bytes {half}-{}/{}", bytes.len() - 1, bytes.len());
        Some(Reply::new(206, &[("Content-Range", &range)], &bytes[half..]))
    })
    .await;
    let mirror = registry(&fixture, move |request, _| {
        let is_layer = request.path.contains(&layer);
        is_layer.then(|| Reply::new(200, &[("Content-Length", &len)], vec![b'x'; half]))
    })
    .await;
    let root = mirrored(&server, &mirror.address());
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    assert_eq!([&mirror, &server].map(|registry| layers(registry, &fixture)), [1, 2]);
}

#[tokio::test]
async fn capabilities_decide_who_is_asked_for_what() {
    let fixture = Fixture::new().await;
    for (capabilities, resolves, pulls) in
        [("'pull'", false, true), ("'resolve'", true, false), ("'push'", false, false), ("", true, true)]
    {
        let server = registry(&fixture, |_, _| None).await;
        let mirror = registry(&fixture, |_, _| None).await;
        let text = format!("[host.'http://{}']\ncapabilities = [{capabilities}]\n", mirror.address());
        let root = Root::new().with_hosts(&server.address(), &text);
        pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
        let at = |method| (mirror.contents.count(method) > 0, server.contents.count(method) > 0);
        assert_eq!(at("HEAD"), (resolves, !resolves), "{capabilities}");
        assert_eq!(at("GET"), (pulls, !pulls), "{capabilities}");
    }
    let server = registry(&fixture, |_, _| None).await;
    let root = Root::new().with_hosts(&server.address(), "capabilities = ['pull']");
    let error = pull(root.settings(), &server.reference("a/b:1")).await.expect_err("nobody resolves");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains("hosts.toml"), "{}", error.report());
    assert_eq!(lines(&server), <[String; 0]>::default());
}

#[tokio::test]
async fn a_push_goes_to_the_first_host_that_takes_pushes() {
    let fixture = Fixture::new().await;
    let image = Image::new("x", fixture.root.clone());
    for (capabilities, to_mirror) in [("'pull', 'resolve'", false), ("'pull', 'push'", true)] {
        let server = ScriptedRegistry::start(|_, _| None).await;
        let mirror = ScriptedRegistry::start(|_, _| None).await;
        let text = format!("[host.'http://{}']\ncapabilities = [{capabilities}]\n", mirror.address());
        let root = Root::new().with_hosts(&server.address(), &text);
        let resolver = RegistryResolver::new(root.settings());
        let store: Arc<dyn Store> = fixture.store.clone();
        push(store, &image, &resolver, &server.reference("a/b:1"), &PushOptions::new())
            .await
            .expect("pushes");
        let (taken, spared) = if to_mirror { (&mirror, &server) } else { (&server, &mirror) };
        assert!(taken.contents.manifests().contains_key("1"), "{capabilities}: {:?}", lines(taken));
        assert_eq!(lines(spared), <[String; 0]>::default(), "{capabilities}");
    }
    let server = ScriptedRegistry::start(|_, _| None).await;
    let root = Root::new().with_hosts(&server.address(), "capabilities = ['pull', 'resolve']");
    let error = RegistryResolver::new(root.settings()).pusher(&server.reference("a/b:1")).await;
    assert_eq!(error.expect_err("read only").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn who_logs_in_does_so_at_the_registry_and_at_no_mirror() {
    let [mirror, server] = [
        FakeServer::start(|_| Reply::new(200, &[], "{}")).await,
        FakeServer::start(|_| Reply::new(200, &[], "{}")).await,
    ];
    let root = Root::new().with_hosts(&server.address(), &format!("[host.'http://{}']\n", mirror.address()));
    let resolver = RegistryResolver::new(root.settings());
    assert_eq!(resolver.log_in(&server.address()).await.expect("it is open"), Login::Unasked);
    assert_eq!((mirror.requests().len(), server.requests().len()), (0, 1));
}

#[tokio::test]
async fn headers_are_for_the_origin_that_they_are_given_to() {
    let fixture = Fixture::new().await;
    let cdn = registry(&fixture, |_, _| None).await;
    let there = cdn.address();
    let server = registry(&fixture, |_, _| None).await;
    let mirror = registry(&fixture, move |request, _| {
        let path = request.path.split('?').next().unwrap_or_default();
        let location = format!("http://{there}{path}");
        path.contains("/blobs/").then(|| Reply::new(307, &[("Location", &location)], ""))
    })
    .await;
    let text = format!(
        "[host.'http://{}'.header]\nX-Key = ['canary', 'second']\nAuthorization = 'Basic canary'\nAccept = 'nothing'\n",
        mirror.address()
    );
    let root = Root::new().with_hosts(&server.address(), &text);
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    for request in mirror.contents.requests() {
        assert_eq!(request.header("x-key"), Some("canary"));
        assert_eq!(request.header("authorization"), Some("Basic canary"));
        assert_ne!(request.header("accept"), Some("nothing"), "a request knows best what it wants");
    }
    assert_eq!(cdn.contents.count("GET"), 2, "config and layer");
    for request in cdn.contents.requests() {
        assert!(!request.head.contains("canary"), "{}", request.head);
    }
    assert_eq!(lines(&server), <[String; 0]>::default());

    // A mirror that fails gives nothing away to the server.
    let broken = registry(&fixture, |_, _| Some(Reply::new(500, &[], ""))).await;
    let text = format!("[host.'http://{}'.header]\nX-Key = 'canary'\n", broken.address());
    let root = Root::new().with_hosts(&server.address(), &text);
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    assert!(server.contents.requests().iter().all(|request| !request.head.contains("canary")));
}

#[tokio::test]
async fn paths_of_hosts() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    for (address, key, expected) in [
        ("", "", "/v2/a/b/"),
        ("/proxy", "", "/proxy/v2/a/b/"),
        ("/v2/proxy", "override_path = true", "/v2/proxy/a/b/"),
        ("/v2/", "", "/v2/a/b/"),
    ] {
        let mirror = registry(&fixture, |_, _| None).await;
        let text = format!("[host.'http://{}{address}']\n{key}\n", mirror.address());
        let root = Root::new().with_hosts(&server.address(), &text);
        pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
        for request in mirror.contents.requests() {
            assert!(request.path.starts_with(expected), "{address}: {}", request.path);
        }
    }
    assert_eq!(lines(&server), <[String; 0]>::default());
}

#[tokio::test]
async fn lists_come_from_the_first_host_that_has_them() {
    let subject = Descriptor::of(types::OCI_MANIFEST, b"subject");
    let referrer = Descriptor::of(types::OCI_MANIFEST, b"referrer");
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [referrer] }).to_string();
    let tags = |tags: &'static str| move || Reply::new(200, &[], tags);
    let server = FakeServer::start(move |request| {
        if request.path.contains("/referrers/") {
            return Reply::new(200, &[("Content-Type", types::OCI_INDEX)], &index);
        }
        tags(r#"{"tags":["server"]}"#)()
    })
    .await;
    let name = format!("{}/a/b", server.address());
    for (status, expected) in [(200, "mirror"), (404, "server"), (500, "server")] {
        let mirror = FakeServer::start(move |request| match status {
            200 if !request.path.contains("/referrers/") && !request.path.contains("/manifests/") => {
                tags(r#"{"tags":["mirror"]}"#)()
            }
            200 => Reply::new(404, &[], ""),
            _ => Reply::new(status, &[], ""),
        })
        .await;
        let root =
            Root::new().with_hosts(&server.address(), &format!("[host.'http://{}']", mirror.address()));
        let resolver = RegistryResolver::new(root.settings());
        assert_eq!(resolver.tags(&name).await.expect("lists"), [expected], "{status}");
        let listed = resolver.referrers(&format!("{name}:1")).await.expect("makes").referrers(&subject).await;
        let listed = listed.unwrap_or_else(|error| panic!("{status}: {}", error.report()));
        assert_eq!(
            listed.iter().map(|listed| &listed.digest).collect::<Vec<_>>(),
            [&referrer.digest],
            "{status}"
        );
        assert!(mirror.requests().iter().any(|request| request.path.contains("/referrers/")), "{status}");
    }
}

#[tokio::test]
async fn pages_of_a_mirror_stay_with_the_registry_that_they_are_of() {
    let server = FakeServer::start(|_| Reply::new(404, &[], "")).await;
    let mirror = FakeServer::start(|request| {
        if request.path.contains("last=") {
            return Reply::new(200, &[], r#"{"tags":["two"]}"#);
        }
        let link = "</v2/a/b/tags/list?last=one>; rel=\"next\"";
        Reply::new(200, &[("Link", link)], r#"{"tags":["one"]}"#)
    })
    .await;
    let root = Root::new().with_hosts(&server.address(), &format!("[host.'http://{}']", mirror.address()));
    let listed = RegistryResolver::new(root.settings()).tags(&format!("{}/a/b", server.address())).await;
    assert_eq!(listed.expect("lists"), ["one", "two"]);
    assert!(mirror.requests().iter().all(|request| request.path.contains("ns=127.0.0.1%3A")));
}

#[tokio::test]
async fn mirrors_and_locations_of_registries_conf() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let mirror = registry(&fixture, |_, _| None).await;
    let text = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}/hub'\n",
        server.address(),
        mirror.address()
    );
    let root = Root::new().with_registries_conf(&text);
    pull(root.settings(), &server.reference("a/b:1")).await.expect("pulls");
    assert_eq!(lines(&server), <[String; 0]>::default());
    for request in mirror.contents.requests() {
        assert!(request.path.starts_with("/v2/hub/a/b/") && !request.path.contains('?'), "{}", request.path);
    }

    // What stands for a name that leads nowhere.
    let text =
        format!("[[registry]]\nprefix = 'away.example/team'\nlocation = '{}/moved'\n", server.address());
    let root = Root::new().with_registries_conf(&text);
    let image = pull(root.settings(), "away.example/team/b:1").await.expect("pulls");
    assert_eq!(image.name, "away.example/team/b:1", "the name is the user's");
    assert!(lines(&server).iter().all(|line| line.contains("/v2/moved/b/")), "{:?}", lines(&server));

    let text = "[[registry]]\nprefix = 'away.example'\nblocked = true\n";
    let root = Root::new().with_registries_conf(text);
    let resolver = RegistryResolver::new(root.settings());
    for error in [
        resolver.resolve("away.example/b").await.expect_err("blocked"),
        resolver.fetcher("away.example/b").await.expect_err("blocked"),
        resolver.pusher("away.example/b").await.expect_err("blocked"),
        resolver.tags("away.example/b").await.expect_err("blocked"),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.report().contains("registries.conf has blocked = true"), "{}", error.report());
    }
    pull(root.settings(), &server.reference("a/b:1")).await.expect("another registry");
}

#[tokio::test]
async fn mirrors_for_digests_tell_nothing_of_tags() {
    let fixture = Fixture::new().await;
    let digest = &fixture.root.digest;
    for (key, by_tag, by_digest) in [
        ("pull-from-mirror = 'digest-only'", (false, true), (true, true)),
        ("pull-from-mirror = 'tag-only'", (true, true), (false, false)),
        ("pull-from-mirror = 'all'", (true, true), (true, true)),
    ] {
        for (object, expected) in [(":1".to_owned(), by_tag), (format!("@{digest}"), by_digest)] {
            let server = registry(&fixture, |_, _| None).await;
            let mirror = registry(&fixture, |_, _| None).await;
            let text = format!(
                "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\n{key}\n",
                server.address(),
                mirror.address()
            );
            let root = Root::new().with_registries_conf(&text);
            pull(root.settings(), &server.reference(&format!("a/b{object}"))).await.expect("pulls");
            let asked = (mirror.contents.count("HEAD") > 0, mirror.contents.count("GET") > 0);
            assert_eq!(asked, expected, "{key} {object}");
        }
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_stops_what_it_is_for() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let root = Root::new().with_hosts(&server.address(), "capabilities = ['fly']");
    let error = pull(root.settings(), &server.reference("a/b:1")).await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.report().contains("hosts.toml: capabilities: \"fly\""), "{}", error.report());
    assert_eq!(lines(&server), <[String; 0]>::default());
    let root = Root::new().with_hosts("other.example", "capabilities = ['fly']");
    pull(root.settings(), &server.reference("a/b:1")).await.expect("another host's");
}

#[tokio::test]
async fn nothing_is_read_unless_it_is_asked_for() {
    let fixture = Fixture::new().await;
    let server = registry(&fixture, |_, _| None).await;
    let settings = RegistrySettings::new();
    assert_eq!(settings.hosts_dirs, <[std::path::PathBuf; 0]>::default());
    assert_eq!(settings.registries_conf, RegistriesConf::none());
    pull(settings, &server.reference("a/b:1")).await.expect("pulls");
}

#[tokio::test]
async fn the_heaviest_error_of_all_hosts_is_told() {
    for (first, second, expected) in [(404, 500, 500), (403, 404, 403), (401, 500, 401), (404, 404, 404)] {
        let mirror = FakeServer::start(move |_| Reply::new(first, &[], "")).await;
        let server = FakeServer::start(move |_| Reply::new(second, &[], "")).await;
        let root =
            Root::new().with_hosts(&server.address(), &format!("[host.'http://{}']", mirror.address()));
        let resolver = RegistryResolver::new(root.settings());
        let error = resolver.resolve(&format!("{}/a:1", server.address())).await.expect_err("nobody has it");
        let status = RemoteError::of(&error).and_then(|error| error.status);
        assert_eq!(status, Some(expected), "{first} {second}: {}", error.report());
    }
}
