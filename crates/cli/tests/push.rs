//! `wharf push` as a user runs it.

mod support;

use serde_json::Value;
use wharf_tests::{FakeServer, ImageFixture, Layer, Reply, ScriptedRegistry, TestRegistry};

use support::{Wharf, three_platforms};

#[tokio::test(flavor = "multi_thread")]
async fn pull_then_push_then_pull() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let pulled = wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let digest = pulled.trim().rsplit('@').next().expect("a digest").to_owned();

    let other = ScriptedRegistry::start(|_, _| None).await;
    let copy = other.reference("team/copy:2");
    let pushed = wharf.run(&["push", "--progress", "plain", &name, &copy]).await;
    for word in ["sending", "done", "sent"] {
        assert!(pushed.err().contains(word), "{word}: {}", pushed.err());
    }
    assert_eq!(pushed.succeeded(), format!("{copy}@{digest}\n"));
    assert_eq!(wharf.run(&["push", "-q", &name, &copy]).await.succeeded(), format!("{digest}\n"));
    let again =
        wharf.run(&["push", "--format", "json", &name, &format!("docker://{copy}")]).await.succeeded();
    let again: Value = serde_json::from_str(&again).expect("JSON");
    // An index, three manifests and configs, a layer of all and one of each.
    assert_eq!((&again["sent"], &again["existing"]), (&0.into(), &11.into()), "{again}");
    assert_eq!(again["target"]["digest"], digest.as_str());
    assert_eq!(again["name"], copy.as_str());
    // Without a destination it goes where its name says.
    assert_eq!(wharf.run(&["push", &name]).await.succeeded(), format!("{name}@{digest}\n"));
    assert_eq!(
        wharf.run(&["push", &name, &registry.reference(&format!("c@{digest}"))]).await.succeeded(),
        format!("{}\n", registry.reference(&format!("c@{digest}")))
    );

    let neighbour = Wharf::new();
    let back = neighbour.run(&["pull", "--all-platforms", &copy]).await.succeeded();
    assert_eq!(back, format!("{copy}@{digest}\n"));
    assert!(wharf.run(&["lease", "ls", "-q"]).await.succeeded().is_empty(), "no lease is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_platform_and_what_is_not_here() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/arm64", &name]).await.succeeded();
    let other = ScriptedRegistry::start(|_, _| None).await;
    let copy = other.reference("x:1");
    let missing = wharf.run(&["push", &name, &copy]).await.failed(2);
    assert!(missing.contains("linux/s390x") && missing.contains("--platform what is complete"), "{missing}");
    assert!(other.contents.requests().is_empty());
    let pushed = wharf.run(&["push", "--platform", "linux/arm64", &name, &copy]).await.succeeded();
    let manifest = wharf.run(&["manifest", "--platform", "linux/arm64", &name]).await.succeeded();
    let digest = wharf_content::Digest::sha256(manifest.as_bytes());
    assert_eq!(pushed, format!("{copy}@{digest}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_hints() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::of("a", "b")]);
    let name = registry.put("a/b:1", &image).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    let answer =
        |status| FakeServer::start(move |_| Reply::new(status, &[], r#"{"errors":[{"code":"CANARY"}]}"#));
    let (denied, taken, failing) = (answer(403).await, answer(405).await, answer(500).await);
    let at = |server: &FakeServer| format!("{}/a:1", server.address());
    let (denied, taken, failing) = (at(&denied), at(&taken), at(&failing));
    let pinned = registry.reference(&format!("a@sha256:{}", "0".repeat(64)));
    let layout = format!("oci:{}:1.0", wharf.path("layout"));
    let archives =
        ["oci-archive", "docker-archive"].map(|scheme| format!("{scheme}:{}", wharf.path("x.tar")));
    let [to_layout, to_oci, to_docker] =
        [&layout, &archives[0], &archives[1]].map(|place| format!("`wharf copy store:{name} {place}`"));
    for (arguments, code, said) in [
        (vec!["push", "nothing"], 2, "there is no image"),
        (vec!["push", &name, "a/B:1"], 3, "a/B"),
        (vec!["push", &name, "ftp:/tmp/x"], 3, "docker://"),
        (vec!["push", &name, "store:x"], 3, "is in the store already"),
        (vec!["push", &name, &layout], 3, &to_layout),
        (vec!["push", &name, &archives[0]], 3, &to_oci),
        (vec!["push", &name, &archives[1]], 3, &to_docker),
        (vec!["push", "oci:multi:1.0"], 3, "`wharf copy oci:multi:1.0 store:NAME`"),
        (vec!["push"], 3, "NAME"),
        (vec!["push", &name, &denied, "--chunk-size", "none"], 3, "16MiB"),
        (vec!["push", &name, &denied, "--platform", "linux/arm64"], 2, "linux/amd64"),
        (vec!["push", &name, &denied], 4, "CANARY"),
        (vec!["push", &name, &taken], 4, "read-only"),
        (vec!["push", &name, &failing, "--retry-times", "0"], 6, "500"),
        (vec!["push", &name, "127.0.0.1:1/a:1", "--retry-times", "0"], 6, "127.0.0.1:1"),
        (vec!["push", &name, &pinned], 5, "pinned"),
    ] {
        let error = wharf.run(&arguments).await.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    let other = wharf.run(&["push", &name, &denied, "--platform", "linux/arm64"]).await.failed(2);
    assert!(other.contains("hint: choose one of those with --platform"), "{other}");
    let nobody = wharf.run(&["push", &name, "127.0.0.1:1/a:1", "--retry-times", "0"]).await.failed(6);
    assert!(nobody.contains("pushing again sends the rest"), "{nobody}");
    let denied = wharf.run(&["push", &name, &denied]).await.failed(4);
    assert!(denied.contains("hint: pushing there needs a permission"), "{denied}");
}
