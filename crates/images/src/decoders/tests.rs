//! Tests of the built-in decoders: what they find, what they refuse, and that no bytes harm them.

use base64::{Engine, engine::general_purpose};
use proptest::prelude::*;
use serde_json::{Value, json};
use wharf_content::{Catalogue, Descriptor, ErrorKind, Result};

use crate::{
    artifact,
    decode::{self, Decoded, Kind, ManifestDecoders, Role},
    media_types as types,
};

const MANIFESTS: [&str; 2] = [types::OCI_MANIFEST, types::DOCKER_MANIFEST];
const INDEXES: [&str; 2] = [types::OCI_INDEX, types::DOCKER_LIST];

fn decode_bytes(media_type: &str, bytes: &[u8]) -> Result<Decoded> {
    let descriptor = Descriptor::of(media_type, bytes);
    let decoder = Catalogue::linked().find::<ManifestDecoders>(media_type)?.expect("registered");
    artifact::refine(&descriptor, decoder.decode(&descriptor, bytes)?, Catalogue::linked())
}

fn decode(media_type: &str, text: &str) -> Result<Decoded> {
    decode_bytes(media_type, text.as_bytes())
}

fn decoded(media_type: &str, document: &Value) -> Decoded {
    decode(media_type, &document.to_string()).expect("valid")
}

fn part(name: &str) -> String {
    serde_json::to_string(&Descriptor::of(types::OCI_LAYER, name.as_bytes())).expect("serialises")
}

#[test]
fn manifests_and_indexes_give_their_children_in_order() {
    let text = format!(r#"{{"config":{},"layers":[{},{}]}}"#, part("c"), part("1"), part("2"));
    for media_type in MANIFESTS {
        let decoded = decode(media_type, &text).expect("valid");
        let roles: Vec<_> = decoded.children.iter().map(|child| child.role).collect();
        assert_eq!(roles, [Role::Config, Role::Layer, Role::Layer]);
        assert_eq!(decoded.children[2].descriptor, Descriptor::of(types::OCI_LAYER, b"2"));
    }
    let text = format!(r#"{{"manifests":[{}],"annotations":null}}"#, part("m"));
    for media_type in INDEXES {
        assert_eq!(decode(media_type, &text).expect("valid").children.len(), 1);
    }
    for leaf in [types::OCI_CONFIG, types::OCI_LAYER_GZIP, types::DOCKER_LAYER_FOREIGN, types::CHECKPOINT_RW]
    {
        assert_eq!(decode(leaf, "{}").expect("a leaf").children, []);
        assert_eq!(decode::kind(leaf, Catalogue::linked()).expect("no conflict"), Some(Kind::Leaf));
    }
    assert_eq!(decode::kind("application/x-unheard-of", Catalogue::linked()).expect("no conflict"), None);
}

#[test]
fn what_documents_say_beside_their_children() {
    let subject = Descriptor::of(types::OCI_MANIFEST, b"subject");
    let config = Descriptor::of(types::OCI_EMPTY, b"{}");
    let annotations = json!({ "org.opencontainers.image.title": "name", "b": "" });
    let manifest = json!({
        "config": config, "layers": [config], "subject": subject, "annotations": annotations,
        "artifactType": "application/x-thing",
    });
    let found = decoded(types::OCI_MANIFEST, &manifest);
    assert_eq!(found.subject.as_ref(), Some(&subject));
    assert_eq!(found.artifact_type.as_deref(), Some("application/x-thing"));
    assert_eq!(found.facts.len(), 2);

    let artifact = json!({
        "mediaType": types::OCI_ARTIFACT_MANIFEST, "artifactType": "application/x-thing",
        "blobs": [config, subject], "subject": subject, "annotations": annotations,
    });
    let found = decoded(types::OCI_ARTIFACT_MANIFEST, &artifact);
    assert_eq!(found.children_of(Role::Layer).count(), 2);
    assert_eq!(found.child(Role::Config), None);
    assert_eq!(found.subject, Some(subject));
    assert_eq!(found.artifact_type.as_deref(), Some("application/x-thing"));
    assert_eq!(decoded(types::OCI_ARTIFACT_MANIFEST, &json!({ "blobs": null })).children, []);
}

#[test]
fn the_type_of_an_artifact_is_its_own_else_that_of_its_config() {
    for (config, own, expected) in [
        (types::OCI_CONFIG, None, None),
        (types::DOCKER_CONFIG, None, None),
        (types::OCI_EMPTY, None, None),
        ("", None, None),
        ("application/x-config", None, Some("application/x-config")),
        ("application/x-config", Some(""), Some("application/x-config")),
        ("application/x-config", Some("application/x-own"), Some("application/x-own")),
        (types::OCI_CONFIG, Some("application/x-own"), Some("application/x-own")),
    ] {
        let manifest = json!({ "config": Descriptor::of(config, b"c"), "layers": [], "artifactType": own });
        let found = decoded(types::OCI_MANIFEST, &manifest);
        assert_eq!(found.artifact_type.as_deref(), expected, "{config:?} {own:?}");
        // An image does not become an artifact by calling itself one.
        let is_artifact = expected.is_some() && !types::is_config(config);
        assert_eq!(found.vouches, cfg!(feature = "artifacts") && is_artifact, "{config:?} {own:?}");
    }
}

#[test]
fn a_body_that_could_be_both_is_refused_under_every_type() {
    let config = part("c");
    let both = format!(r#"{{"manifests":[],"config":{config},"layers":[]}}"#);
    let null = format!(r#"{{"manifests":null,"config":{config},"layers":null}}"#);
    let schema1 = format!(r#"{{"fsLayers":[],"config":{config}}}"#);
    let blobs = format!(r#"{{"blobs":[],"config":{config}}}"#);
    let blobs_and_manifests = r#"{"blobs":[],"manifests":[]}"#.to_owned();
    for media_type in [&MANIFESTS[..], &INDEXES, &[types::OCI_ARTIFACT_MANIFEST]].concat() {
        for text in [&both, &null, &schema1, &blobs, &blobs_and_manifests] {
            assert_eq!(decode(media_type, text).expect_err("refused").kind(), ErrorKind::InvalidArgument);
        }
    }
    let claims = |own: &str| format!(r#"{{"mediaType":"{own}","config":{config}}}"#);
    assert!(decode(types::OCI_MANIFEST, &claims(types::OCI_INDEX)).is_err());
    assert!(decode(types::OCI_MANIFEST, &claims(types::OCI_ARTIFACT_MANIFEST)).is_err());
    assert!(decode(types::OCI_MANIFEST, &claims("application/x-other")).is_err());
    assert!(decode(types::OCI_MANIFEST, &claims(types::DOCKER_MANIFEST)).is_ok());
    assert!(decode(types::OCI_MANIFEST, &claims("")).is_ok());
    assert!(decode(types::OCI_INDEX, &format!(r#"{{"mediaType":"{}"}}"#, types::OCI_MANIFEST)).is_err());
    assert!(
        decode(types::OCI_ARTIFACT_MANIFEST, &format!(r#"{{"mediaType":"{}"}}"#, types::OCI_INDEX)).is_err()
    );
    assert!(decode(types::OCI_MANIFEST, r#"{"layers":[]}"#).is_err(), "no config");
    // What calls itself something long or harmful is quoted in part and escaped.
    let long = claims(&format!("\\u001b{}", "x".repeat(10_000)));
    let error = decode(types::OCI_MANIFEST, &long).expect_err("refused").to_string();
    assert!(error.len() < 1000 && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn schema_1_says_what_it_is() {
    for media_type in [types::DOCKER_SCHEMA1, types::DOCKER_SCHEMA1_UNSIGNED] {
        let error = decode(media_type, "{}").expect_err("not supported");
        assert_eq!(error.kind(), ErrorKind::NotImplemented);
        assert!(error.to_string().contains("schema 1"), "{error}");
    }
}

#[test]
fn configs_and_other_leaves_describe_themselves() {
    let config = json!({
        "os": "linux", "architecture": "arm64", "variant": "v8", "created": "2026-01-01T00:00:00Z", "author": " ",
    });
    let found = decoded(types::DOCKER_CONFIG, &config);
    assert_eq!(found.platform.map(|platform| platform.architecture), Some("arm64".into()));
    assert_eq!(found.facts, [("created".to_owned(), "2026-01-01T00:00:00Z".to_owned())].into());
    for nothing in ["{}", r#"{"os":"unknown","architecture":"unknown","created":null}"#] {
        assert_eq!(decode(types::OCI_CONFIG, nothing).expect("valid"), Decoded::default(), "{nothing}");
    }
    for bad in ["", "[", "7", r#"{"created":7}"#, r#"{"author":"a","author":"b"}"#] {
        let error = decode(types::OCI_CONFIG, bad).expect_err("malformed");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
    }
    for (media_type, expected) in [
        (types::OCI_LAYER_ENCRYPTED, Some("encrypted")),
        (types::OCI_LAYER_NON_DISTRIBUTABLE, Some("not to be distributed")),
        (types::CHECKPOINT, Some("checkpoint: memory and state of the processes")),
        (types::OCI_LAYER, None),
    ] {
        assert_eq!(decode(media_type, "not read").expect("a leaf").description.as_deref(), expected);
    }
}

#[test]
fn attestations() {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [{ "name": "pkg:docker/a@1", "digest": {} }, { "digest": { "sha256": "ab" } }],
        "predicate": { "anything": [1, 2, 3] },
    });
    let found = decoded(types::IN_TOTO, &statement);
    assert_eq!(found.description.as_deref(), Some("attestation https://slsa.dev/provenance/v1"));
    assert_eq!(found.facts["subject"], "pkg:docker/a@1, sha256:ab");
    assert_eq!(found.facts["predicateType"], "https://slsa.dev/provenance/v1");

    let bytes = statement.to_string().into_bytes();
    for payload in [general_purpose::STANDARD.encode(&bytes), general_purpose::URL_SAFE_NO_PAD.encode(&bytes)]
    {
        let envelope =
            json!({ "payloadType": types::IN_TOTO, "payload": payload, "signatures": [{ "sig": "x" }] });
        for media_type in [types::IN_TOTO, types::DSSE, "application/vnd.in-toto.spdx+dsse"] {
            let found = decoded(media_type, &envelope);
            assert_eq!(found.facts["predicateType"], "https://slsa.dev/provenance/v1");
            assert_eq!(found.facts["signatures"], "1, not verified");
        }
    }
    let other = json!({ "payloadType": "text/plain", "payload": "eA==", "signatures": [] });
    assert_eq!(decoded(types::DSSE, &other).facts["payloadType"], "text/plain");
    for bad in [r#"{"payload":"!"}"#, r#"{"payload":"eA=="}"#, "[]", r#"{"subject":[{"name":7}]}"#] {
        assert_eq!(
            decode(types::DSSE, bad).expect_err("malformed").kind(),
            ErrorKind::InvalidArgument,
            "{bad}"
        );
    }

    let about = Descriptor::of(types::OCI_MANIFEST, b"image").digest;
    let manifest = json!({
        "config": Descriptor::of(types::OCI_CONFIG, b"{}"), "layers": [Descriptor::of(types::IN_TOTO, b"s")],
    });
    let bytes = manifest.to_string().into_bytes();
    let descriptor = Descriptor::of(types::OCI_MANIFEST, &bytes)
        .with_annotation("vnd.docker.reference.digest", about.to_string());
    let decoder =
        Catalogue::linked().find::<ManifestDecoders>(types::OCI_MANIFEST).expect("one").expect("there");
    let found = decoder.decode(&descriptor, &bytes).expect("valid");
    assert_eq!(found.description, Some(format!("attestation about {about}")));
}

#[cfg(feature = "helm")]
#[test]
fn helm_charts() {
    let helm = "application/vnd.cncf.helm.config.v1+json";
    let config = json!({
        "name": "wordpress", "version": "7.0.1", "appVersion": "5.2", "apiVersion": "v2", "description": "Blogs",
        "dependencies": [{ "name": "mariadb" }], "keywords": ["cms"], "type": "application",
    });
    let found = decoded(helm, &config);
    assert_eq!(found.description.as_deref(), Some("Helm chart wordpress 7.0.1"));
    assert_eq!(found.facts["appVersion"], "5.2");
    assert!(!found.facts.contains_key("deprecated"));
    assert_eq!(decode(helm, "{}").expect("valid").description.as_deref(), Some("Helm chart"));
    assert!(decode(helm, r#"{"name":[]}"#).is_err());
    let manifest = json!({
        "config": Descriptor::of(helm, b"c"),
        "layers": [Descriptor::of("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"l")],
        "annotations": { artifact::TITLE: "wordpress", artifact::VERSION: "7.0.1" },
    });
    let found = decoded(types::OCI_MANIFEST, &manifest);
    assert_eq!(found.description.as_deref(), Some("Helm chart wordpress 7.0.1"));
    for child in &found.children {
        assert!(
            decode::kind(&child.descriptor.media_type, Catalogue::linked()).expect("no conflict").is_some()
        );
    }
}

#[cfg(feature = "wasm")]
#[test]
fn webassembly() {
    let config = json!({
        "created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2", "layerDigests": ["sha256:x"],
        "component": { "exports": ["wasi:http/incoming-handler@0.2.0"], "imports": ["a", "b"], "target": null },
    });
    let found = decoded("application/vnd.wasm.config.v0+json", &config);
    assert_eq!(found.description.as_deref(), Some("WebAssembly component"));
    assert_eq!(found.facts["imports"], "a, b");
    assert!(!found.facts.contains_key("target"));
    assert_eq!(found.platform.map(|platform| platform.os), Some("wasip2".into()));
    let old = decode("application/vnd.wasm.config.v1+json", "{}").expect("valid");
    assert_eq!(old.description.as_deref(), Some("WebAssembly module"));
    let manifest = json!({
        "config": Descriptor::of("application/vnd.wasm.config.v0+json", b"c"),
        "layers": [Descriptor::of("application/wasm", b"l")],
    });
    assert_eq!(decoded(types::OCI_MANIFEST, &manifest).description.as_deref(), Some("WebAssembly"));
}

#[cfg(feature = "artifacts")]
#[test]
fn artifacts_of_any_type_vouch_for_their_parts() {
    let manifest = json!({
        "config": Descriptor::of(types::OCI_EMPTY, b"{}"), "layers": [], "artifactType": "application/x-thing",
        "annotations": { artifact::TITLE: "name" },
    });
    let found = decoded(types::OCI_MANIFEST, &manifest);
    assert!(found.vouches);
    assert_eq!(found.description.as_deref(), Some("artifact application/x-thing name"));
    let image = json!({ "config": Descriptor::of(types::OCI_CONFIG, b"{}"), "layers": [] });
    let found = decoded(types::OCI_MANIFEST, &image);
    assert!(!found.vouches && found.description.is_none());
}

/// Everything that is registered here.
fn every_type() -> Vec<String> {
    Catalogue::linked().keys::<ManifestDecoders>()
}

#[test]
fn no_decoder_minds_what_is_absurd() {
    const LARGE: usize = 4 << 20;
    let part = part("c");
    let annotated = format!(r#"{{"config":{part},"annotations":{{"a":"{}"}}}}"#, "x".repeat(LARGE));
    let many = vec![part.as_str(); 20_000].join(",");
    let documents: Vec<Vec<u8>> = vec![
        "[".repeat(LARGE).into_bytes(),
        "{\"config\":".repeat(LARGE / 10).into_bytes(),
        vec![0; 4096],
        vec![0xff; 4096],
        format!(r#"{{"config":{part},"layers":{}}}"#, "[".repeat(LARGE)).into_bytes(),
        format!(r#"{{"config":{{"digest":"sha256:{}","size":-1}}}}"#, "0".repeat(64)).into_bytes(),
        format!(r#"{{"config":{{"digest":"sha256:{}","size":1e99}}}}"#, "0".repeat(64)).into_bytes(),
        format!(r#"{{"config":{{"digest":"sha256:{}","size":{}}}}}"#, "0".repeat(64), "9".repeat(999))
            .into_bytes(),
        br#"{"config":{"digest":"../../etc","size":1}}"#.to_vec(),
        format!("{{\"config\":{part},\"annotations\":{{\"\0\":\"\"}}}}").into_bytes(),
        annotated.into_bytes(),
        format!(r#"{{"manifests":[{many}]}}"#).into_bytes(),
        format!(r#"{{"config":{part},"layers":[{many}]}}"#).into_bytes(),
    ];
    for media_type in every_type() {
        for document in &documents {
            // No panic, and an error that says what it means.
            if let Err(error) = decode_bytes(&media_type, document) {
                assert!(
                    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotImplemented),
                    "{media_type}: {error}"
                );
                assert!(error.to_string().len() < 4096, "{media_type}");
            }
        }
    }
    assert_eq!(
        decode(types::OCI_INDEX, &format!(r#"{{"manifests":[{many}]}}"#)).expect("large").children.len(),
        20_000
    );
}

proptest! {
    #[test]
    fn malformed_documents_are_errors_and_never_panics(
        cut in 0..300_usize, at in 0..300_usize, byte in any::<u8>(),
    ) {
        let text = format!(
            r#"{{"config":{0},"layers":[{0}],"manifests":[],"blobs":[],"subject":null,"name":"a","payload":"e30="}}"#,
            part("c"),
        );
        let mut bytes = text.into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut % bytes.len());
        for media_type in every_type() {
            let _ = decode_bytes(&media_type, &bytes);
        }
    }

    /// A field that stands twice is refused in each object that decides something, whatever the values.
    #[test]
    fn duplicates_are_refused_at_every_level(
        which in prop::sample::select(vec!["mediaType", "digest", "size", "urls", "annotations", "platform", "data"]),
        at in prop::sample::select(vec!["config", "layers", "subject"]),
    ) {
        let plain = part("c");
        let twice = format!(r#"{},"{which}":null,"{which}":null}}"#, plain.trim_end_matches('}'));
        let pick = |place: &str| if place == at { twice.as_str() } else { plain.as_str() };
        let text = format!(
            r#"{{"config":{},"layers":[{}],"subject":{}}}"#,
            pick("config"), pick("layers"), pick("subject"),
        );
        let error = decode(types::OCI_MANIFEST, &text).expect_err("ambiguous");
        prop_assert!(error.report().contains("duplicate field"), "{}", error.report());
    }
}
