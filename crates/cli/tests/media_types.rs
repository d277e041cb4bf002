//! What the program says of images and artifacts by their media types, and what it does about types that nothing knows.

mod support;

use serde_json::{Value, json};
use wharf_content::Descriptor;
use wharf_images::{Image, media_types as types};
use wharf_tests::{TestRegistry, image::put};

use support::{Wharf, three_platforms};

async fn put_json(registry: &TestRegistry, media_type: &str, document: &Value) -> Descriptor {
    put(registry.store(), media_type, document.to_string().into_bytes()).await.expect("puts")
}

/// Records a manifest of these parts, and gives its name.
async fn artifact(
    registry: &TestRegistry,
    name: &str,
    config: Descriptor,
    layers: &[Descriptor],
    more: Value,
) -> String {
    let mut manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    for (key, value) in more.as_object().expect("an object") {
        manifest[key] = value.clone();
    }
    let manifest = put_json(registry, types::OCI_MANIFEST, &manifest).await;
    record(registry, name, manifest).await
}

async fn record(registry: &TestRegistry, name: &str, target: Descriptor) -> String {
    let name = registry.reference(name);
    registry.record(Image::new(&*name, target)).await.expect("records");
    name
}

async fn blob(registry: &TestRegistry, media_type: &str, text: &str) -> Descriptor {
    put(registry.store(), media_type, text.into()).await.expect("puts")
}

/// An image with a layer of a type that nobody knows.
async fn odd_image(registry: &TestRegistry, name: &str, more: Value) -> String {
    let config =
        put_json(registry, types::OCI_CONFIG, &json!({ "os": "linux", "architecture": "amd64" })).await;
    let layers =
        [blob(registry, types::OCI_LAYER, "l").await, blob(registry, "application/x-odd", "o").await];
    artifact(registry, name, config, &layers, more).await
}

#[cfg(feature = "helm")]
#[tokio::test(flavor = "multi_thread")]
async fn a_helm_chart_tells_its_name_and_version() {
    let registry = TestRegistry::start().await;
    let config = json!({ "name": "wordpress", "version": "7.0.1", "appVersion": "5.2", "description": "\u{1b}]52;c\u{7}" });
    let config = put_json(&registry, "application/vnd.cncf.helm.config.v1+json", &config).await;
    let layers = [blob(&registry, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "chart").await];
    let annotations = json!({ "annotations": { "org.opencontainers.image.title": "wordpress" } });
    let name = artifact(&registry, "charts/wordpress:7.0.1", config, &layers, annotations).await;
    let wharf = Wharf::new();
    // At the registry and, pulled, in the store.
    for arguments in [&["inspect", "--remote"][..], &["pull", "--strict-types"], &["inspect", "--local"]] {
        let out = wharf.run(&[arguments, &[&*name]].concat()).await.succeeded();
        if arguments[0] == "inspect" {
            for part in ["Helm chart wordpress 7.0.1", "appVersion: 5.2", "description: \\u{1b}]52;c\\u{7}"] {
                assert!(out.contains(part), "{part}: {out}");
            }
        }
    }
    let tree = wharf.run(&["tree", &name]).await.succeeded();
    assert!(
        tree.contains("  Helm chart wordpress 7.0.1\n") && tree.contains("   appVersion: 5.2\n"),
        "{tree}"
    );
    assert!(!tree.contains("unknown type") && !tree.contains('\u{1b}'), "{tree}");
    let json = wharf.run(&["tree", "--format", "json", &name]).await.succeeded();
    assert!(!json.contains('\u{7}'), "{json}");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["root"]["description"], "Helm chart wordpress");
    assert_eq!(json["root"]["children"][0]["facts"]["appVersion"], "5.2");
    let page = wharf.run(&["inspect", "--format", "json", &name]).await.succeeded();
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["manifest"]["config"]["description"], "Helm chart wordpress 7.0.1");
    assert_eq!(page["manifest"]["config"]["facts"]["description"], "\u{1b}]52;c\u{7}");
}

#[cfg(feature = "artifacts")]
#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_of_any_type_is_known_by_its_own_word() {
    let registry = TestRegistry::start().await;
    let config = blob(&registry, types::OCI_EMPTY, "{}").await;
    let layers = [blob(&registry, "application/x-weights", "w")
        .await
        .with_annotation("org.opencontainers.image.title", "weights.bin")];
    let subject = Descriptor::of(types::OCI_MANIFEST, b"subject");
    let more = json!({ "artifactType": "application/x-model", "subject": subject });
    let name = artifact(&registry, "model:1", config, &layers, more).await;
    let wharf = Wharf::new();
    let pulled = wharf.run(&["pull", "--strict-types", &name]).await;
    assert_eq!(pulled.err(), "", "nothing is unknown");
    let empty = TestRegistry::start().await;
    let pushed = wharf.run(&["push", &name, &empty.reference("model:1")]).await;
    assert_eq!((pushed.code(), pushed.err()), (0, String::new()), "nor is it to a push");
    pulled.succeeded();
    let tree = wharf.run(&["tree", &name]).await.succeeded();
    for part in ["artifact application/x-model\n", "  weights.bin\n", &format!("subject: {}", subject.digest)]
    {
        assert!(tree.contains(part), "{part}: {tree}");
    }
    assert!(!tree.contains("unknown type"), "{tree}");
    let tar = wharf.path("model.tar");
    wharf.run(&["export", "--strict-types", &name, "-o", &tar]).await.succeeded();

    // The withdrawn form, which has no config.
    let old = json!({
        "mediaType": types::OCI_ARTIFACT_MANIFEST, "artifactType": "application/x-model", "blobs": layers,
    });
    let old = put_json(&registry, types::OCI_ARTIFACT_MANIFEST, &old).await;
    let old = record(&registry, "model:old", old).await;
    wharf.run(&["pull", "--strict-types", &old]).await.succeeded();
    let page = wharf.run(&["inspect", &old]).await.succeeded();
    assert!(page.contains("weights.bin") && page.contains("artifact application/x-model"), "{page}");
    assert!(wharf.run(&["tree", &old]).await.succeeded().contains("layer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_types_fail_before_a_layer_is_fetched_and_record_nothing() {
    let registry = TestRegistry::start().await;
    let name = odd_image(&registry, "odd:1", json!({})).await;
    // Behind an index, so that the type is found two levels down.
    let manifest = registry.image(&name).await.expect("there").target;
    let fine = three_platforms().write(registry.store()).await.expect("writes");
    let index = json!({ "schemaVersion": 2, "manifests": [fine, manifest] });
    let index = put_json(&registry, types::OCI_INDEX, &index).await;
    let index = record(&registry, "odd:index", index).await;
    let root = record(&registry, "odd:root", blob(&registry, "application/x-root", "root").await).await;
    // What it calls itself makes no artifact of an image.
    let called = odd_image(&registry, "odd:called", json!({ "artifactType": "application/x-thing" })).await;
    let wharf = Wharf::new();
    for (name, media_type) in [(&name, "x-odd"), (&index, "x-odd"), (&root, "x-root"), (&called, "x-odd")] {
        registry.take_log();
        let error = wharf.run(&["pull", "--strict-types", "--all-platforms", name]).await.failed(5);
        assert!(error.starts_with("error[failed precondition]: ") && error.contains("\nhint: "), "{error}");
        assert!(error.contains(&format!("unknown media type \"application/{media_type}\"")), "{error}");
        assert!(error.contains("sha256:"), "it names the node: {error}");
        let fetched: u64 = registry.take_log().iter().map(|record| record.bytes).sum();
        assert!(fetched < 5_000, "{fetched} bytes: no layer was fetched");
        assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded(), "", "nothing is recorded");
    }
    let error = wharf.run(&["pull", "--strict-types", "--format", "json", &name]).await.failed(5);
    let error: Value = serde_json::from_str(&error).expect("JSON");
    assert_eq!(error["error"]["exit"], 5);

    // Without it the same is a warning, once; and then an export can be strict.
    let pulled = wharf.run(&["pull", "--all-platforms", &name]).await;
    assert_eq!(pulled.err().matches("application/x-odd").count(), 1, "{}", pulled.err());
    pulled.succeeded();
    assert!(
        wharf
            .run(&["tree", &name])
            .await
            .succeeded()
            .contains("application/x-odd  (unknown type, kept whole)")
    );
    let tar = wharf.path("odd.tar");
    let error = wharf.run(&["export", "--strict-types", &name, "-o", &tar]).await.failed(5);
    assert!(error.contains("x-odd"), "{error}");
    assert!(!std::path::Path::new(&tar).exists(), "nothing half is left");
    wharf.run(&["export", &name, "-o", &tar]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_lie_or_are_missing_are_shown_and_stop_nothing() {
    let registry = TestRegistry::start().await;
    let config = blob(&registry, types::OCI_CONFIG, "[\"no\u{1b} config\"]").await;
    let statement =
        json!({ "predicateType": "https://slsa.dev/provenance/v1", "subject": [{ "name": "a\u{9b}b" }] });
    let layers = [put_json(&registry, types::IN_TOTO, &statement).await];
    let annotations: serde_json::Map<String, Value> =
        (0..200).map(|at| (format!("k{at:03}"), json!("x".repeat(5_000)))).collect();
    let name =
        artifact(&registry, "a:1", config.clone(), &layers, json!({ "annotations": annotations })).await;
    let wharf = Wharf::new();
    wharf.run(&["pull", &name]).await.succeeded();
    for command in ["tree", "inspect"] {
        let out = wharf.run(&[command, &name]).await.succeeded();
        assert!(out.contains("problem: ") && out.contains("is not a valid document"), "{out}");
        assert!(
            out.contains("attestation https://slsa.dev/provenance/v1") && out.contains("a\\u{9b}b"),
            "{out}"
        );
        assert!(out.contains("and 136 more facts") && out.len() < 200_000, "{}", out.len());
        assert!(!out.contains('\u{1b}') && !out.contains('\u{9b}'), "{out}");
        let json = wharf.run(&[command, "--format", "json", &name]).await.succeeded();
        assert!(!json.contains('\u{9b}') && json.contains("\\u009b") && json.len() < 200_000);
        assert!(serde_json::from_str::<Value>(&json).is_ok());
    }
    wharf.run(&["content", "rm", config.digest.as_str()]).await.succeeded();
    let tree = wharf.run(&["tree", "--local", &name]).await.succeeded();
    assert!(tree.contains("(not in the store)"), "{tree}");
    wharf.run(&["inspect", "--local", &name]).await.succeeded();
}
