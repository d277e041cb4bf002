//! Manifests of schema 1 as they are written and as they are forged.

use serde_json::json;
use wharf_content::ErrorKind;

use super::*;

/// A manifest of these entries, newest first: the content of the blob, and what is told of it.
fn manifest(entries: &[(&str, Value)]) -> Value {
    json!({
        "schemaVersion": 1, "name": "a", "tag": "1", "architecture": "arm64",
        "fsLayers": entries.iter().map(|(blob, _)| json!({ "blobSum": Digest::sha256(blob.as_bytes()) })).collect::<Vec<_>>(),
        "history": entries.iter().map(|(_, told)| json!({ "v1Compatibility": told.to_string() })).collect::<Vec<_>>(),
    })
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signs as libtrust does: the signatures stand before the brace that ends the document.
fn sign(payload: &str, protected: &[Value]) -> String {
    let end = payload.trim_end_matches(['}', '\n']).len();
    let signatures: Vec<Value> = protected
        .iter()
        .map(|block| json!({ "header": {}, "protected": encode(block.to_string()) }))
        .collect();
    format!("{},\n   \"signatures\": {}\n}}", &payload[..end], Value::from(signatures))
}

fn protected(payload: &str) -> Value {
    let end = payload.trim_end_matches(['}', '\n']).len();
    json!({ "formatLength": end, "formatTail": encode(&payload[end..]), "time": "2015-01-01T00:00:00Z" })
}

fn parse(manifest: &Value) -> Result<Manifest> {
    let bytes = manifest.to_string().into_bytes();
    Manifest::parse(&Descriptor::of(types::DOCKER_SCHEMA1, &bytes), &bytes)
}

#[test]
fn the_payload_is_what_was_signed() {
    let text = serde_json::to_string_pretty(&manifest(&[("a", json!({}))])).expect("JSON");
    assert_eq!(payload(text.as_bytes()).expect("unsigned"), text.as_bytes());
    let block = protected(&text);
    for blocks in [vec![block.clone()], vec![block.clone(), block.clone()]] {
        let signed = sign(&text, &blocks);
        assert_eq!(payload(signed.as_bytes()).expect("signed"), text.as_bytes());
        for (digest, expected) in [(&*text, true), (&*signed, true), ("another", false)]
            .map(|(of, is)| (Digest::sha256(of.as_bytes()), is))
        {
            assert_eq!(is_digest_of(&digest, signed.as_bytes()), expected);
        }
    }
    // As many as there is room for, of a large document: that takes no longer than to read them.
    let large = format!("{}{}", " ".repeat(2 << 20), text);
    let many = sign(&large, &vec![protected(&large); 10_000]);
    assert_eq!(payload(many.as_bytes()).expect("signed"), large.as_bytes());
    let with = |length: Value, tail: String| json!({ "formatLength": length, "formatTail": tail });
    let other = manifest(&[("b", json!({}))]).to_string();
    for (what, blocks) in [
        ("no signature", vec![]),
        ("too long", vec![with(json!(1_u64 << 40), String::new())]),
        ("negative", vec![with(json!(-1), String::new())]),
        ("no base64", vec![with(json!(2), "!".into())]),
        ("no tail", vec![json!({ "formatLength": 2 })]),
        ("no JSON", vec![with(json!(5), String::new())]),
        ("another document", vec![with(json!(0), encode(&other))]),
        (
            "two contents",
            vec![block.clone(), with(json!(0), encode(&text))]
                .into_iter()
                .chain([with(json!(0), encode(&other))])
                .collect(),
        ),
    ] {
        let error = payload(sign(&text, &blocks).as_bytes()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}");
        assert!(error.to_string().contains("schema 1"), "{error}");
    }
    for bad in [
        "",
        "[]",
        "{\"signatures\":7}",
        "{\"signatures\":[{}]}",
        "{\"signatures\":[{\"protected\":\"e30\"}]}",
    ] {
        assert!(payload(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_config_is_made_of_the_newest_layer() {
    let newest = json!({
        "id": "x", "parent": "y", "Size": 5, "os": "linux", "architecture": "amd64", "created": "2016-02-02T00:00:00Z",
        "config": { "Cmd": ["sh"], "Healthcheck": { "Test": ["NONE"] } }, "docker_version": "1.9",
        "container_config": { "Cmd": ["/bin/sh", "-c", "ADD b"] }, "author": "me", "comment": "last",
        "history": "not this", "rootfs": 7, "float": 1.50,
    });
    let throwaway = json!({ "throwaway": true, "container_config": { "Cmd": null } });
    let old = json!({ "Size": 0, "created": "" });
    let layers = [
        ("c", newest),
        ("b", throwaway),
        ("b", json!({ "throwaway": false, "Size": 0 })),
        ("d", old),
        ("a", json!({})),
    ];
    let read = parse(&manifest(&layers)).expect("valid");
    let told: Vec<_> = read.entries().iter().map(|entry| (entry.blob.clone(), entry.is_empty)).collect();
    let blob = |text: &str| Digest::sha256(text.as_bytes());
    assert_eq!(
        told,
        [("a", false), ("d", true), ("b", false), ("b", true), ("c", false)].map(|(of, is)| (blob(of), is))
    );

    let (first, third) = (blob("first"), blob("third"));
    let config = read.config(&[Some(first.clone()), None, None, None, Some(third.clone())]).expect("as many");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(
        config,
        json!({
            "os": "linux", "architecture": "amd64", "created": "2016-02-02T00:00:00Z", "docker_version": "1.9",
            "config": { "Cmd": ["sh"], "Healthcheck": { "Test": ["NONE"] } }, "author": "me", "comment": "last",
            "container_config": { "Cmd": ["/bin/sh", "-c", "ADD b"] }, "float": 1.50,
            "rootfs": { "type": "layers", "diff_ids": [first, third] },
            "history": [
                {}, { "empty_layer": true }, { "empty_layer": true }, { "empty_layer": true },
                { "created": "2016-02-02T00:00:00Z", "created_by": "/bin/sh -c ADD b", "author": "me", "comment": "last" },
            ],
        })
    );
    assert_eq!(read.config(&[]).expect_err("not as many").kind(), ErrorKind::Internal);

    // What the newest does not tell, the manifest does, and there was one system only.
    for told in [json!({}), json!({ "os": "", "architecture": null })] {
        let config = parse(&manifest(&[("a", told)])).expect("valid").config(&[None]).expect("as many");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!((&config["os"], &config["architecture"]), (&json!("linux"), &json!("arm64")));
    }
}

#[test]
fn forgeries_are_refused() {
    let good = manifest(&[("a", json!({})), ("b", json!({}))]);
    parse(&good).expect("valid");
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let layer = &good["fsLayers"][0];
    let part = serde_json::to_value(Descriptor::of("x", b"x")).expect("JSON");
    for (what, changed) in [
        ("too few layers", with("fsLayers", json!([layer]))),
        ("too many layers", with("fsLayers", json!([layer, layer, layer]))),
        ("no layers", manifest(&[])),
        ("no history", with("history", Value::Null)),
        ("another version", with("schemaVersion", json!(2))),
        ("another type", with("mediaType", json!(types::DOCKER_MANIFEST))),
        ("a config", with("config", part.clone())),
        ("layers", with("layers", json!([part]))),
        ("manifests", with("manifests", json!([]))),
        ("blobs", with("blobs", json!([]))),
        ("upper case", with("FSLayers", json!([]))),
        ("upper case", with("History", json!([]))),
        ("a path for a digest", with("fsLayers", json!([layer, { "blobSum": "sha256:../../x" }]))),
        (
            "history that is no JSON",
            with("history", json!([{ "v1Compatibility": "x" }, { "v1Compatibility": "{}" }])),
        ),
        (
            "history that is no object",
            with("history", json!([{ "v1Compatibility": "[]" }, { "v1Compatibility": "{}" }])),
        ),
        (
            "history that says two things",
            with(
                "history",
                json!([{ "v1Compatibility": "{}" }, { "v1Compatibility": r#"{"throwaway":true,"throwaway":false}"# }]),
            ),
        ),
        (
            "a deep history",
            with("history", json!([{ "v1Compatibility": "[".repeat(100_000) }, { "v1Compatibility": "{}" }])),
        ),
    ] {
        let error = parse(&changed).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
    }
    parse(&with("mediaType", json!(types::DOCKER_SCHEMA1))).expect("its own type");
    let most: Vec<(&str, Value)> = vec![("a", json!({})); MAX_LAYERS];
    assert_eq!(parse(&manifest(&most)).expect("as many as may be").entries().len(), MAX_LAYERS);
    let more: Vec<(&str, Value)> = vec![("a", json!({})); MAX_LAYERS + 1];
    assert_eq!(parse(&manifest(&more)).expect_err("too many").kind(), ErrorKind::ResourceExhausted);
}
