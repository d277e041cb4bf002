//! `wharf digest`, `tags` and `referrers` as a user runs them.

mod support;

use serde_json::{Value, json};
use wharf_content::{Descriptor, Digest};
use wharf_images::{Image, media_types as types, referrers::fallback_tag};
use wharf_tests::{FakeServer, Reply, ScriptedRegistry, TestRegistry, image::put};

use support::{Wharf, three_platforms};

fn requests(registry: &TestRegistry) -> Vec<(String, String)> {
    registry.take_log().into_iter().map(|record| (record.method, record.path)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_costs_one_request() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let digest = registry.image(&name).await.expect("there").target.digest;
    let wharf = Wharf::new();
    let plain = format!("{digest}\n");
    let head = vec![("HEAD".to_owned(), "/v2/a/b/manifests/1".to_owned())];
    for arguments in [
        &["digest", &name][..],
        &["resolve", &name],
        &["digest", "-q", &name],
        &["digest", &format!("docker://{name}")],
        &["digest", "--all-platforms", &name],
    ] {
        assert_eq!(wharf.run(arguments).await.succeeded(), plain, "{arguments:?}");
        assert_eq!(requests(&registry), head, "{arguments:?}");
    }
    assert_eq!(wharf.run(&["digest", "--full-ref", &name]).await.succeeded(), format!("{name}@{digest}\n"));
    let pinned = registry.reference(&format!("a/b@{digest}"));
    assert_eq!(wharf.run(&["digest", "--full-ref", &pinned]).await.succeeded(), format!("{pinned}\n"));
    let json = wharf.run(&["digest", "--format", "json", &name]).await.succeeded();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["name"], &json["digest"]), (&name.as_str().into(), &digest.as_str().into()), "{json}");
    assert!(json["mediaType"].is_string() && json["size"].is_u64(), "{json}");

    for platform in ["linux/arm64", "linux/s390x"] {
        let manifest = wharf.run(&["manifest", "--remote", "--platform", platform, &name]).await.succeeded();
        let expected = Digest::sha256(manifest.as_bytes());
        assert_ne!(expected, digest);
        let found = wharf.run(&["digest", "--platform", platform, &name]).await.succeeded();
        assert_eq!(found, format!("{expected}\n"));
        let full = wharf.run(&["digest", "--full-ref", "--platform", platform, &name]).await.succeeded();
        assert_eq!(full, format!("{name}@{expected}\n"));
    }
    assert!(!wharf.dir.path().join("store").exists(), "no store is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_of_the_store_and_of_nothing() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let digest = registry.image(&name).await.expect("there").target.digest;
    let wharf = Wharf::new();
    assert!(wharf.run(&["digest", "--local", &name]).await.failed(2).contains("there is no image"));
    wharf.run(&["pull", "--platform", "linux/arm64", &name]).await.succeeded();
    registry.take_log();
    for arguments in [&["digest", "--local", &name][..], &["digest", &format!("store:{name}")]] {
        assert_eq!(wharf.run(arguments).await.succeeded(), format!("{digest}\n"));
    }
    let there = wharf.run(&["digest", "--local", "--platform", "linux/arm64", &name]).await.succeeded();
    assert_ne!(there, format!("{digest}\n"));
    assert_eq!(requests(&registry), []);

    let missing = registry.reference("a/b:2");
    let several = ["digest", "--platform", "linux/arm64,linux/amd64", &name];
    for (arguments, code, said) in [
        (&["digest", &missing][..], 2, "cannot resolve"),
        (&["digest", "--platform", "linux/riscv64", &name], 2, "hint: choose one of those with --platform"),
        (&several, 3, "one --platform"),
        (&["digest", "a/B:1"], 3, "a/B"),
        (&["digest", "nowhere://x"], 3, "docker://"),
        (&["digest"], 3, "REF"),
        (&["digest", "127.0.0.1:1/a", "--retry-times", "0"], 6, "127.0.0.1:1"),
    ] {
        let error = wharf.run(arguments).await.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_filtered_and_without_those_of_digests() {
    let registry = TestRegistry::start().await;
    let target = Descriptor::of(types::OCI_MANIFEST, b"{}");
    let digest_tag = fallback_tag(&target.digest);
    let signature = format!("{digest_tag}.sig");
    let all = ["1.36", "1.37", "1.37-musl", "latest", &digest_tag, &signature];
    for tag in all {
        let name = registry.reference(&format!("a/b:{tag}"));
        registry.record(Image::new(name, target.clone())).await.expect("records");
    }
    let (wharf, repository) = (Wharf::new(), registry.reference("a/b"));
    let lines = |tags: &[&str]| tags.iter().flat_map(|tag| [*tag, "\n"]).collect::<String>();
    for (arguments, expected) in [
        (&["tags", &repository][..], &all[..]),
        (&["list-tags", "-q", &format!("docker://{repository}")], &all),
        (&["tags", "--omit-digest-tags", &repository], &all[..4]),
        (&["tags", "--filter", "37", &repository], &all[1..3]),
        (&["tags", "--filter", r"^1\.\d+$", &repository], &all[..2]),
        (&["tags", "--filter", "sha", "--omit-digest-tags", &repository], &[]),
    ] {
        // The registry's order is that of bytes.
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(wharf.run(arguments).await.succeeded(), lines(&expected), "{arguments:?}");
    }
    let json = wharf.run(&["tags", "--format", "json", "--filter", "^l", &repository]).await.succeeded();
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), json!(["latest"]));
    let none = wharf.run(&["tags", "--format", "json", "--filter", "^none$", &repository]).await.succeeded();
    assert_eq!(none, "[]\n");
    assert!(!wharf.dir.path().join("store").exists(), "no store is needed");

    let (missing, image) = (registry.reference("a/missing"), registry.reference("a/b:1.36"));
    let astray = FakeServer::start(|_| {
        Reply::new(200, &[("Link", "<http://127.0.0.1:1/x>; rel=next")], r#"{"tags":["a"]}"#)
    })
    .await;
    let astray = format!("{}/a", astray.address());
    for (arguments, code, said) in [
        (&["tags", &missing][..], 2, "hint: check the name"),
        (&["tags", &image], 3, "without a tag or digest"),
        (&["tags", "store:x"], 3, "wharf images ls"),
        (&["tags", "--filter", "(", &repository], 3, "regex"),
        (&["tags", &astray], 5, "at another place"),
        (&["tags"], 3, "REPO"),
    ] {
        let error = wharf.run(arguments).await.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
}

/// Records an artifact about `subject`, and gives its name and descriptor.
async fn artifact(
    registry: &TestRegistry,
    tag: &str,
    artifact_type: &str,
    subject: &Descriptor,
) -> (String, Descriptor) {
    let empty = put(registry.store(), types::OCI_EMPTY, b"{}".to_vec()).await.expect("puts");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": artifact_type,
        "config": empty, "layers": [empty], "subject": subject,
        "annotations": { "created.by": "\u{1b}]52;c\u{7}tests" },
    });
    let manifest = manifest.to_string().into_bytes();
    let manifest = put(registry.store(), types::OCI_MANIFEST, manifest).await.expect("puts");
    let name = registry.reference(&format!("a/b:{tag}"));
    registry.record(Image::new(&*name, manifest.clone())).await.expect("records");
    (name, manifest)
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_by_request_by_tag_and_of_the_store() {
    let origin = TestRegistry::start().await;
    let name = origin.put("a/b:1", &three_platforms()).await.expect("puts");
    let subject = origin.image(&name).await.expect("there").target;
    let (spdx, sig) = ("application/spdx+json", "application/x-sig");
    let (sbom_name, sbom) = artifact(&origin, "sbom", spdx, &subject).await;
    let (signature_name, signature) = artifact(&origin, "sig", sig, &subject).await;
    let wharf = Wharf::new();
    let own = TestRegistry::start().await;
    let old = ScriptedRegistry::start(|_, _| None).await;
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    for place in [own.address(), old.address()] {
        wharf.run(&["push", &name, &format!("{place}/a/b:1")]).await.succeeded();
        let none = wharf.run(&["referrers", "--format", "json", &format!("{place}/a/b:1")]).await.succeeded();
        assert_eq!(none, "[]\n");
    }
    assert_eq!(wharf.run(&["referrers", "--local", "-q", &name]).await.succeeded(), "");
    for name in [&sbom_name, &signature_name] {
        wharf.run(&["pull", name]).await.succeeded();
        for (place, tag) in [(own.address(), "x"), (old.address(), "x")] {
            wharf.run(&["push", name, &format!("{place}/a/b:{tag}")]).await.succeeded();
        }
    }
    let stored = format!("store:{name}");
    for place in [&own.reference("a/b:1"), &old.reference("a/b:1"), &stored] {
        let table = wharf.run(&["referrers", place]).await.succeeded();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        for part in ["DIGEST", "ARTIFACT TYPE", "SIZE", "ANNOTATIONS"] {
            assert!(lines[0].contains(part), "{table}");
        }
        let row = lines.iter().find(|line| line.starts_with(sbom.digest.as_str())).expect("a row");
        assert!(row.contains(spdx) && row.contains("created.by=\\u{1b}]52;c\\u{7}tests"), "{table}");
        let one = wharf.run(&["referrers", "-q", "--artifact-type", sig, place]).await.succeeded();
        assert_eq!(one, format!("{}\n", signature.digest));
        let json =
            wharf.run(&["referrers", "--format", "json", "--artifact-type", spdx, place]).await.succeeded();
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json.as_array().map(Vec::len), Some(1), "{json}");
        assert_eq!(json[0]["digest"], sbom.digest.as_str());
        assert_eq!((&json[0]["artifactType"], &json[0]["size"]), (&spdx.into(), &sbom.size.into()));
        assert_eq!(json[0]["annotations"]["created.by"], "\u{1b}]52;c\u{7}tests");
        // They are about the index, and not about a manifest of it.
        let platform = ["referrers", "-q", "--platform", "linux/arm64", place];
        assert_eq!(wharf.run(&platform).await.succeeded(), "");
        let none = wharf.run(&["referrers", "-q", "--artifact-type", "no/such", place]).await.succeeded();
        assert_eq!(none, "");
    }
    let missing = own.reference("a/b:missing");
    assert!(wharf.run(&["referrers", &missing]).await.failed(2).contains("cannot resolve"));
    assert!(wharf.run(&["referrers", "--local", &missing]).await.failed(2).contains("there is no image"));
}
