//! Documents of images: every decoder says the same of the same document however it is written, and whatever walks an image comes to an
//! end with an answer or an error.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use wharf_content::{Catalogue, CommitOptions, Descriptor, Digest, MemoryStore, Provider, write_blob};
use wharf_images::{
    Children, Decoded, Kind, Limits,
    children::decode_bytes,
    decode::ManifestDecoders,
    diff_id::{chain_id, chain_ids},
    image, media_types as types, schema1, sniff,
    usage::{UsageOptions, usage},
    validate::{ValidateOptions, validate},
    walk,
};

use crate::{Outcome, Seed};

/// What the first byte of an input chooses, `a` the first one.
const TYPES: [&str; 14] = [
    types::OCI_INDEX,
    types::OCI_MANIFEST,
    types::OCI_CONFIG,
    types::DOCKER_LIST,
    types::DOCKER_MANIFEST,
    types::DOCKER_CONFIG,
    types::DOCKER_SCHEMA1,
    types::DOCKER_SCHEMA1_UNSIGNED,
    types::OCI_ARTIFACT_MANIFEST,
    types::IN_TOTO,
    types::DSSE,
    types::CHECKPOINT_CONFIG,
    "application/vnd.cncf.helm.config.v1+json",
    "application/vnd.wasm.config.v0+json",
];

/// Reads the input, without its first byte, as a document of the type that this one chooses.
///
/// # Panics
/// Where two readings of one document differ.
pub fn check(data: &[u8]) -> Outcome {
    let Some((&choice, bytes)) = data.split_first() else { return Outcome::Refused };
    let media_type = TYPES[usize::from(choice.wrapping_sub(b'a')) % TYPES.len()];
    let descriptor = Descriptor::of(media_type, bytes);
    if let Some(told) = sniff::document(bytes) {
        assert!(sniff::is_media_type(&told), "{told:?} is no media type");
    }
    // What can be asked of any document, whatever its type.
    let _ = image::platform_of_config(bytes);
    if let Ok(diff_ids) = image::rootfs(bytes) {
        assert_eq!(chain_ids(&diff_ids).len(), diff_ids.len());
        assert_eq!(chain_ids(&diff_ids).pop(), chain_id(&diff_ids));
    }
    RUNTIME.block_on(async {
        if types::is_schema1(media_type) {
            schema1_document(&descriptor, bytes)
        } else {
            document(&descriptor, bytes).await
        }
    })
}

/// One for all inputs: to start it takes longer than most of them.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("it needs no thread of its own"));

/// What the decoder of a document says.
async fn decode(descriptor: &Descriptor, bytes: &[u8]) -> wharf_content::Result<Decoded> {
    let catalogue = Catalogue::linked();
    let decoder = catalogue.find::<ManifestDecoders>(&descriptor.media_type)?;
    let decoder = decoder.unwrap_or_else(|| panic!("nobody decodes {}", descriptor.media_type));
    decode_bytes(decoder, descriptor, Bytes::copy_from_slice(bytes), catalogue).await
}

async fn document(descriptor: &Descriptor, bytes: &[u8]) -> Outcome {
    let read = decode(descriptor, bytes).await;
    let outcome = Outcome::of(&read);
    match (&read, &decode(descriptor, bytes).await) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.report(), other.report()),
        (one, other) => panic!("read twice: {one:?}, {other:?}"),
    }
    if let Ok(decoded) = &read {
        for child in decoded.children.iter().map(|child| &child.descriptor).chain(&decoded.subject) {
            let text = serde_json::to_string(child).expect("writes to memory");
            let again: Descriptor =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(&again, child, "a descriptor that is written and read");
            assert!(child.embedded().is_none_or(|bytes| child.verify(&bytes).is_ok()));
        }
        // The same document with other spaces and in another order of its keys. A config that has a key of its platform twice has none that
        // two programs would agree on, and is another one when it is written with the last of them.
        if let Some(text) = serde_json::from_slice::<Value>(bytes).ok().map(|value| value.to_string())
            && image::platform_of_config(text.as_bytes()) == image::platform_of_config(bytes)
        {
            let other = Descriptor::of(&*descriptor.media_type, text.as_bytes());
            assert_eq!(decode(&other, text.as_bytes()).await.as_ref().ok(), Some(decoded), "as {text}");
        }
    }
    stored(descriptor, bytes, read.is_ok()).await;
    outcome
}

/// Walks the document as it stands in a store that has nothing else. `is_read` is whether its decoder can read it.
async fn stored(descriptor: &Descriptor, bytes: &[u8], is_read: bool) {
    let store = Arc::new(MemoryStore::new());
    let content = Bytes::copy_from_slice(bytes);
    write_blob(store.as_ref(), "it", descriptor, content, CommitOptions::default()).await.expect("verified");
    let provider = || Arc::clone(&store) as Arc<dyn Provider>;
    let kind = Catalogue::linked().find::<ManifestDecoders>(&descriptor.media_type).ok().flatten();
    let is_leaf = kind.is_some_and(|decoder| decoder.kind() == Kind::Leaf);
    let children = Children::new(provider()).skipping_missing();
    let walked = walk(&children, std::slice::from_ref(descriptor), Limits::default()).await;
    if !is_read && !is_leaf {
        assert!(walked.is_err(), "what cannot be read has no children that can be walked");
    }
    let _ = usage(provider(), descriptor, &UsageOptions::new()).await;
    if let Ok(report) = validate(provider(), descriptor, &ValidateOptions::new()).await {
        assert!(is_leaf || is_read || !report.is_clean(), "{report:?}");
    }
}

/// Manifests of schema 1 are not decoded but converted.
fn schema1_document(descriptor: &Descriptor, bytes: &[u8]) -> Outcome {
    let Ok(payload) = schema1::payload(bytes) else { return Outcome::Refused };
    assert!(schema1::is_digest_of(&Digest::sha256(&payload), bytes), "the digest is that of what was signed");
    assert!(schema1::payload(&payload).is_ok_and(|again| again == payload), "a payload is not signed itself");
    let parsed = schema1::Manifest::parse(descriptor, &payload);
    let outcome = Outcome::of(&parsed);
    let Ok(manifest) = parsed else { return outcome };
    let diff_ids: Vec<_> =
        manifest.entries().iter().map(|entry| (!entry.is_empty).then(|| entry.blob.clone())).collect();
    let config = manifest.config(&diff_ids).expect("as many diff ids as layers");
    assert_eq!(manifest.config(&diff_ids).expect("as before"), config, "the same bytes each time");
    let rootfs = image::rootfs(&config).expect("a config that is read as one");
    assert!(
        rootfs.iter().eq(diff_ids.iter().flatten()),
        "the layers of the manifest are those of its config"
    );
    outcome
}

/// A document of each type, and such as could be two things.
pub fn seeds() -> Vec<Seed> {
    let layer = Descriptor::of(types::OCI_LAYER_GZIP, b"layer").with_annotation("title", "a");
    let config = Descriptor::of(types::OCI_CONFIG, b"config");
    let mut embedded = Descriptor::of(types::OCI_EMPTY, b"{}");
    embedded.data = Some("e30=".to_owned());
    let diff_id = Digest::sha256(b"layer");
    let manifest =
        |own: &str| json!({ "schemaVersion": 2, "mediaType": own, "config": config, "layers": [layer] });
    let image_config = json!({
        "architecture": "arm", "variant": "v7", "os": "linux", "created": "2020-01-01T00:00:00Z",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": { "a": "b" } },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "x" }, { "empty_layer": true }],
    });
    let index = |own: &str| {
        json!({
            "schemaVersion": 2, "mediaType": own, "annotations": { "a": "b" },
            "manifests": [
                { "mediaType": types::OCI_MANIFEST, "digest": diff_id, "size": 5,
                  "platform": { "architecture": "arm64", "os": "linux", "variant": "v8", "os.features": ["x"] } },
                { "mediaType": types::OCI_MANIFEST, "digest": diff_id, "size": 5, "urls": ["https://a.example"],
                  "platform": { "architecture": "amd64", "os": "windows", "os.version": "10.0.1" } },
            ],
        })
    };
    let schema1 = json!({
        "schemaVersion": 1, "name": "a", "tag": "1", "architecture": "amd64",
        "fsLayers": [{ "blobSum": diff_id }, { "blobSum": diff_id }],
        "history": [
            { "v1Compatibility": r#"{"id":"b","created":"2015-01-01T00:00:00Z","config":{},"throwaway":true}"# },
            { "v1Compatibility": r#"{"id":"a","Size":3,"container_config":{"Cmd":["sh","-c"]}}"# },
        ],
    });
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{ "name": "a", "digest": { "sha256": diff_id.hex() } }], "predicate": {},
    });
    let artifact = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": "application/vnd.example.sbom",
        "config": embedded, "layers": [embedded], "subject": config, "annotations": { "a": "b" },
    });
    let seed = |media_type: &str, document: &Value| {
        let at = TYPES.iter().zip(b'a'..).find(|(known, _)| **known == media_type);
        let (_, choice) = at.unwrap_or_else(|| panic!("{media_type} is not chosen by any byte"));
        [vec![choice], document.to_string().into_bytes()].concat()
    };
    let accepted = [
        ("oci-index", seed(types::OCI_INDEX, &index(types::OCI_INDEX))),
        ("docker-list", seed(types::DOCKER_LIST, &index(types::DOCKER_LIST))),
        ("oci-manifest", seed(types::OCI_MANIFEST, &manifest(types::OCI_MANIFEST))),
        ("docker-manifest", seed(types::DOCKER_MANIFEST, &manifest(types::DOCKER_MANIFEST))),
        ("artifact", seed(types::OCI_MANIFEST, &artifact)),
        ("oci-config", seed(types::OCI_CONFIG, &image_config)),
        ("docker-config", seed(types::DOCKER_CONFIG, &image_config)),
        ("schema1", seed(types::DOCKER_SCHEMA1_UNSIGNED, &schema1)),
        ("schema1-signed", [b"g", SIGNED.as_bytes()].concat()),
        ("in-toto", seed(types::IN_TOTO, &statement)),
        (
            "artifact-manifest",
            seed(
                types::OCI_ARTIFACT_MANIFEST,
                &json!({ "mediaType": types::OCI_ARTIFACT_MANIFEST, "blobs": [layer], "subject": config }),
            ),
        ),
    ];
    let mut both = manifest(types::OCI_MANIFEST);
    both["manifests"] = json!([]);
    let refused = [
        ("nothing", seed(types::OCI_INDEX, &json!([]))),
        ("two-things", seed(types::OCI_MANIFEST, &both)),
        ("twice", [b"b", &br#"{"layers":[],"layers":[]}"#[..]].concat()),
        ("deep", [b"a".to_vec(), b"[".repeat(2000)].concat()),
    ];
    let accepted = accepted.into_iter().map(|(name, bytes)| Seed::accepted(name, bytes));
    accepted.chain(refused.into_iter().map(|(name, bytes)| Seed::refused(name, bytes))).collect()
}

/// Signed as libtrust does it: the protected header is of `{"formatLength":LENGTH,"formatTail":"fQ"}`, where the tail is the last brace.
const SIGNED: &str = concat!(
    r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}],"#,
    r#""history":[{"v1Compatibility":"{\"id\":\"a\"}"}],"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjE2NiwiZm9ybWF0VGFpbCI6ImZRIn0"}]}"#,
);
