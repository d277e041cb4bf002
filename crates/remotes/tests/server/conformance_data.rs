//! The documents that the conformance suite pushes, of every kind that it knows.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use wharf_content::{Algorithm, Digest};
use wharf_images::media_types;

use crate::conformance::unique;

const TYPE_1: &str = "application/vnd.example.oci.conformance.v1";
const TYPE_2: &str = "application/vnd.example.oci.conformance.v2";
const OCTETS: &str = "application/octet-stream";

/// A manifest or index, and what is to be known of it.
pub(crate) struct Manifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: &'static str,
    pub(crate) subject: Option<Digest>,
    pub(crate) artifact_type: String,
    pub(crate) annotations: Value,
    /// Blobs that it names are missing, which a client is warned of.
    pub(crate) is_sparse: bool,
}

/// What is pushed, pulled and deleted together.
pub(crate) struct Data {
    pub(crate) name: &'static str,
    pub(crate) algorithm: Algorithm,
    pub(crate) blobs: Vec<Vec<u8>>,
    /// In the order in which they are pushed.
    pub(crate) manifests: Vec<Manifest>,
    /// Each with the number of its manifest.
    pub(crate) tags: Vec<(String, usize)>,
    pub(crate) tags_are_parameters: bool,
    pub(crate) subjects: Vec<Digest>,
    inlines_blobs: bool,
    has_unknown_fields: bool,
}

/// What a manifest has beside its blobs.
#[derive(Clone, Default)]
struct Extra {
    artifact_type: Option<&'static str>,
    subject: Option<Value>,
    annotations: BTreeMap<String, String>,
}

impl Data {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            algorithm: Algorithm::Sha256,
            blobs: Vec::new(),
            manifests: Vec::new(),
            tags: Vec::new(),
            tags_are_parameters: false,
            subjects: Vec::new(),
            inlines_blobs: false,
            has_unknown_fields: false,
        }
    }

    fn descriptor(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = self.algorithm.digest(bytes);
        let mut descriptor =
            json!({ "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len() });
        if self.inlines_blobs {
            descriptor["data"] = json!(STANDARD.encode(bytes));
        }
        descriptor
    }

    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = self.descriptor(media_type, &bytes);
        if !self.blobs.contains(&bytes) {
            self.blobs.push(bytes);
        }
        descriptor
    }

    fn layer(&mut self) -> Value {
        let seed = self.seed();
        self.blob(media_types::OCI_LAYER_GZIP, unique(300, seed))
    }

    fn config(&mut self, architecture: &str) -> Value {
        let mut config = json!({ "os": "linux", "architecture": architecture, "author": self.seed() });
        if self.has_unknown_fields {
            config["org.example.unknown"] = json!("kept");
        }
        self.blob(media_types::OCI_CONFIG, config.to_string().into_bytes())
    }

    /// A number that no other blob of any data has.
    fn seed(&self) -> usize {
        let name: usize = self.name.bytes().fold(7, |sum, byte| (sum * 31 + usize::from(byte)) % 90_000);
        1000 * name + self.blobs.len()
    }

    /// Writes a document down, as the last one so far, and gives its descriptor.
    fn write(&mut self, media_type: &'static str, mut document: Value, extra: &Extra) -> Value {
        document["schemaVersion"] = json!(2);
        document["mediaType"] = json!(media_type);
        let config_type = document["config"]["mediaType"].as_str().unwrap_or_default().to_owned();
        if let Some(artifact_type) = extra.artifact_type {
            document["artifactType"] = json!(artifact_type);
        }
        if let Some(subject) = &extra.subject {
            document["subject"] = subject.clone();
        }
        if !extra.annotations.is_empty() {
            document["annotations"] = json!(extra.annotations);
        }
        if self.has_unknown_fields {
            document["org.example.unknown"] = json!({ "kept": 1.50 });
        }
        if document["config"].is_null() {
            document.as_object_mut().expect("an object").remove("config");
        }
        let bytes = document.to_string().into_bytes();
        let descriptor = self.descriptor(media_type, &bytes);
        let subject = extra.subject.as_ref().map(|subject| {
            subject["digest"].as_str().expect("a digest").parse::<Digest>().expect("a digest")
        });
        self.subjects.extend(subject.clone().filter(|subject| !self.subjects.contains(subject)));
        self.manifests.push(Manifest {
            digest: self.algorithm.digest(&bytes),
            bytes,
            media_type,
            subject,
            artifact_type: extra.artifact_type.map_or(config_type, str::to_owned),
            annotations: json!(extra.annotations),
            is_sparse: false,
        });
        descriptor
    }

    fn image(&mut self, architecture: &str, extra: &Extra) -> Value {
        let layers = [self.layer(), self.layer()];
        let config = self.config(architecture);
        self.write(media_types::OCI_MANIFEST, json!({ "config": config, "layers": layers }), extra)
    }

    fn artifact(&mut self, layer: &str, extra: &Extra) -> Value {
        let seed = self.seed();
        let layers = [self.blob(layer, unique(2048, seed))];
        let config = self.blob(media_types::OCI_EMPTY, b"{}".to_vec());
        self.write(media_types::OCI_MANIFEST, json!({ "config": config, "layers": layers }), extra)
    }

    fn index(&mut self, listed: &[Value], extra: &Extra) -> Value {
        self.write(media_types::OCI_INDEX, json!({ "manifests": listed }), extra)
    }

    /// An index of images for two platforms.
    fn images(&mut self, extra: &Extra) -> Value {
        let listed = ["amd64", "arm64"].map(|architecture| {
            let mut descriptor = self.image(architecture, &Extra::default());
            descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
            descriptor
        });
        self.index(&listed, extra)
    }

    /// Tags the last manifest.
    fn tagged(mut self, tag: &str) -> Self {
        self.tags.push((tag.to_owned(), self.manifests.len() - 1));
        self
    }
}

impl Extra {
    fn of_type(artifact_type: &'static str) -> Self {
        Self { artifact_type: Some(artifact_type), ..Self::default() }
    }

    fn about(mut self, subject: &Value) -> Self {
        self.subject = Some(subject.clone());
        self
    }

    fn said(mut self, text: &str) -> Self {
        self.annotations.insert("org.opencontainers.conformance".to_owned(), "hello".to_owned());
        self.annotations.insert(format!("org.example.{text}"), text.to_owned());
        self
    }
}

/// All of them, as the suite goes through them.
pub(crate) fn everything() -> Vec<Data> {
    let none = Extra::default();
    let plain = |name, make: &dyn Fn(&mut Data)| {
        let mut data = Data::new(name);
        make(&mut data);
        data
    };
    let mut all = vec![
        plain("image", &|data| drop(data.image("amd64", &none))).tagged("image"),
        plain("image-uncompressed", &|data| {
            let layers = [data.blob(media_types::OCI_LAYER, unique(5000, 1))];
            let config = data.config("amd64");
            data.write(media_types::OCI_MANIFEST, json!({ "config": config, "layers": layers }), &none);
        })
        .tagged("image-uncompressed"),
        plain("large-manifest", &|data| {
            // Just within the 4 MiB that a registry has to take.
            let annotations = (0..390).map(|n| (format!("large-annotation-{n}"), "A".repeat(10_000)));
            data.image("amd64", &Extra { annotations: annotations.collect(), ..Extra::default() });
        })
        .tagged("large-manifest"),
        plain("index", &|data| drop(data.images(&none))).tagged("index"),
        plain("nested-index", &|data| {
            let listed = [data.images(&none), data.images(&none)];
            data.index(&listed, &none);
        })
        .tagged("index-of-index"),
        plain("empty-index", &|data| drop(data.index(&[], &none))).tagged("index"),
        plain("artifact", &|data| drop(data.artifact(TYPE_1, &Extra::of_type(TYPE_1)))).tagged("artifact"),
        plain("artifact-index", &|data| {
            let of_type = Extra::of_type(TYPE_1);
            let listed = [data.artifact(TYPE_1, &of_type), data.artifact(TYPE_1, &of_type)];
            data.index(&listed, &of_type);
        })
        .tagged("artifact-index"),
        plain("artifact-without-layers", &|data| {
            let empty = data.blob(media_types::OCI_EMPTY, b"{}".to_vec());
            let document = json!({ "config": empty, "layers": [empty] });
            data.write(media_types::OCI_MANIFEST, document, &Extra::of_type(TYPE_1));
        })
        .tagged("artifact-without-layers"),
    ];
    all.extend(with_subjects());
    all.extend(odd_contents());
    all.extend(other_digests());
    all
}

fn with_subjects() -> [Data; 3] {
    let mut several = Data::new("artifacts-with-subject");
    let subject = several.image("amd64", &Extra::default());
    several = several.tagged("image");
    several.image("amd64", &Extra::default().about(&subject));
    several.artifact(TYPE_1, &Extra::of_type(TYPE_1).said("one").about(&subject));
    several = several.tagged("tagged-artifact1");
    several.artifact(OCTETS, &Extra::of_type(TYPE_2).said("two").about(&subject));
    several = several.tagged("tagged-artifact2");

    let mut index = Data::new("index-with-subject");
    let subject = index.images(&Extra::default());
    index = index.tagged("index");
    let about = Extra::of_type(TYPE_1).said("index").about(&subject);
    // In the suite what an index about something lists is about the same.
    let listed = [index.artifact(TYPE_1, &about), index.artifact(TYPE_1, &about)];
    index.index(&listed, &about);
    index = index.tagged("tagged-artifact");

    let mut missing = Data::new("missing-subject");
    let subject = json!({
        "mediaType": media_types::OCI_MANIFEST, "size": 123, "digest": Digest::sha256(b"missing content").as_str(),
    });
    missing.artifact(TYPE_1, &Extra::of_type(TYPE_1).said("missing").about(&subject));
    [several, index, missing.tagged("tagged-artifact")]
}

fn odd_contents() -> [Data; 5] {
    let none = Extra::default();
    let mut data_field = Data::new("data-field");
    data_field.inlines_blobs = true;
    data_field.image("amd64", &none);

    let mut elsewhere = Data::new("non-distributable-layers");
    let foreign = |media_type: &str, name: &str| {
        let digest = Digest::sha256(name.as_bytes());
        json!({
            "mediaType": media_type, "digest": digest.as_str(), "size": 12345,
            "urls": [format!("https://store.example.com/blobs/sha256/{}", digest.hex())],
        })
    };
    let layers = [
        foreign(media_types::OCI_LAYER_NON_DISTRIBUTABLE_GZIP, "one"),
        foreign(media_types::OCI_LAYER_NON_DISTRIBUTABLE, "two"),
        elsewhere.layer(),
    ];
    let config = elsewhere.config("amd64");
    elsewhere.write(media_types::OCI_MANIFEST, json!({ "config": config, "layers": layers }), &none);

    let mut custom = Data::new("custom-fields");
    custom.has_unknown_fields = true;
    custom.images(&none);

    let mut no_layers = Data::new("no-layers");
    let config = no_layers.config("amd64");
    no_layers.write(media_types::OCI_MANIFEST, json!({ "config": config, "layers": [] }), &none);

    let mut sparse = Data::new("sparse");
    sparse.image("amd64", &none);
    // A layer that is never pushed.
    sparse.blobs.remove(0);
    sparse.manifests[0].is_sparse = true;
    sparse = sparse.tagged("sparse-image");
    let image = sparse.image("arm64", &none);
    let absent = sparse.descriptor(media_types::OCI_MANIFEST, b"random");
    sparse.index(&[image, absent], &none);
    [
        data_field.tagged("data-field"),
        elsewhere.tagged("non-distributable-image"),
        custom.tagged("custom-fields"),
        no_layers.tagged("no-layers"),
        sparse.tagged("sparse-index"),
    ]
}

fn other_digests() -> [Data; 3] {
    let by = |name, algorithm, tags: &[(&str, usize)]| {
        let mut data = Data::new(name);
        data.algorithm = algorithm;
        data.tags_are_parameters = true;
        data.images(&Extra::default());
        data.tags = tags.iter().map(|(tag, number)| ((*tag).to_owned(), *number)).collect();
        data
    };
    // The index has two tags, and what it lists has one each.
    [
        by("sha512", Algorithm::Sha512, &[]),
        by("tag-param-sha256", Algorithm::Sha256, &[("tag-a", 2), ("tag-0", 0), ("tag-1", 1), ("tag-2", 2)]),
        by("tag-param-sha512", Algorithm::Sha512, &[("tag-a", 2), ("tag-0", 0), ("tag-1", 1), ("tag-2", 2)]),
    ]
}
