//! `wharf pull` and its flags, as a user types them.

mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use wharf_content::Digest;
use wharf_images::media_types as types;
use wharf_tests::{FakeServer, Reply, TestRegistry, image::put};

use support::{Wharf, three_platforms};

/// A directory with one verifier.
fn verifier(wharf: &Wharf, script: &str) -> String {
    let directory = wharf.path("verifiers");
    fs::create_dir_all(&directory).expect("made");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("ours");
    let file = Path::new(&directory).join("policy");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("ours");
    directory
}

#[tokio::test]
async fn verifiers_decide() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let directory = verifier(&wharf, "echo 'not \\033[2J signed'; exit 1");
    let by_flag = ["pull", "--platform", "linux/amd64", "--verifier-dir", &directory, &name];
    let said = wharf.run(&by_flag).await.failed(5);
    assert!(
        said.contains("may not be pulled") && said.contains("/policy") && said.contains("signed"),
        "{said}"
    );
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let by_variable = async |directory: &str| {
        let mut command = wharf.command(&["pull", "--platform", "linux/amd64", &name]);
        command.env("WHARF_VERIFIER_DIR", directory);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        support::Done(output.expect("the program runs"))
    };
    by_variable(&directory).await.failed(5);
    by_variable("").await.succeeded();
    let missing = wharf.run(&["pull", "--verifier-dir", "/nowhere", &name]).await.failed(8);
    assert!(missing.contains("/nowhere"), "{missing}");

    verifier(&wharf, "cat > /dev/null");
    wharf.run(&by_flag).await.succeeded();
    fs::remove_file(Path::new(&directory).join("policy")).expect("removed");
    let done = wharf.run(&by_flag).await;
    assert!(done.err().contains("there is no verifier in"), "{}", done.err());
    done.succeeded();
}

#[tokio::test]
async fn referrers_and_metadata_come_along() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a:1", &three_platforms()).await.expect("puts");
    let subject = registry.image(&name).await.expect("there").target;
    let empty = put(registry.store(), types::OCI_EMPTY, b"{}".to_vec()).await.expect("puts");
    let referrer = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": "application/x-signature",
        "config": empty, "layers": [empty], "subject": subject,
    });
    let referrer =
        put(registry.store(), types::OCI_MANIFEST, referrer.to_string().into_bytes()).await.expect("puts");
    for (key, value) in [
        (wharf_remotes::server::LABEL_SUBJECT, subject.digest.as_str()),
        (wharf_remotes::server::LABEL_MEDIA_TYPE, types::OCI_MANIFEST),
    ] {
        let labels = [(key.to_owned(), value.to_owned())].into();
        registry
            .store()
            .update(&referrer.digest, &labels, &[&format!("labels.{key}")])
            .await
            .expect("labels");
    }
    let wharf = Wharf::new();
    let blobs = async || wharf.run(&["content", "ls", "-q"]).await.succeeded().lines().count();
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    assert_eq!(blobs().await, 5);
    assert_eq!(wharf.run(&["referrers", "--local", "-q", &name]).await.succeeded(), "");
    wharf.run(&["pull", "--platform", "linux/amd64", "--all-metadata", &name]).await.succeeded();
    assert_eq!(blobs().await, 9, "two more manifests and configs");
    wharf.run(&["pull", "--platform", "linux/amd64", "--referrers", &name]).await.succeeded();
    assert_eq!(blobs().await, 11);
    wharf.run(&["gc"]).await.succeeded();
    assert_eq!(blobs().await, 11);
    let listed = wharf.run(&["referrers", "--local", "-q", &name]).await.succeeded();
    assert_eq!(listed.trim(), referrer.digest.as_str());
}

#[tokio::test]
async fn the_user_is_told_of_a_conversion() {
    let layer = Digest::sha256(b"a tar stream");
    let told = json!({ "os": "linux", "architecture": "amd64" }).to_string();
    let manifest = json!({
        "schemaVersion": 1, "fsLayers": [{ "blobSum": layer }], "history": [{ "v1Compatibility": told }],
    });
    let manifest = manifest.to_string();
    let digest = Digest::sha256(manifest.as_bytes()).to_string();
    let named = digest.clone();
    let server = FakeServer::start(move |request| {
        let body: &str = if request.path.contains("/manifests/") { &manifest } else { "a tar stream" };
        let length = body.len().to_string();
        let headers = [
            ("Content-Type", types::DOCKER_SCHEMA1_UNSIGNED),
            ("Docker-Content-Digest", &*named),
            ("Content-Length", &*length),
        ];
        Reply::new(200, &headers, if request.method == "HEAD" { "" } else { body })
    })
    .await;
    let name = format!("{}/old:1", server.address());
    let wharf = Wharf::new();
    let said = wharf.run(&["pull", "--no-convert-schema1", &name]).await.failed(1);
    assert!(said.contains("schema 1") && said.contains("was switched off"), "{said}");
    let done = wharf.run(&["pull", &name]).await;
    assert!(done.err().contains("warning: ") && done.err().contains(&digest), "{}", done.err());
    let printed = done.succeeded();
    let converted =
        printed.trim().strip_prefix(&format!("{name}@")).expect("the name and a digest").to_owned();
    assert_ne!(converted, digest);
    let config: Value = serde_json::from_str(&wharf.run(&["config", &name]).await.succeeded()).expect("JSON");
    assert_eq!(config["rootfs"]["diff_ids"], json!([layer]));
    // What was made is an image like any other.
    let check = wharf.run(&["images", "check", &name]).await.succeeded();
    assert!(check.contains("complete"), "{check}");
    wharf.run(&["export", &name, "-o", &wharf.path("old.tar")]).await.succeeded();
}
