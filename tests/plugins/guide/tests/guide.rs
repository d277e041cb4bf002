//! What `docs/plugins.md` says about executables, held to its schemas and to what wharf really does: a document is fine to both or to
//! neither. The snippets in Rust are documentation tests of this crate.

mod schema;

use std::{
    fs,
    io::{Cursor, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use wharf_images::{
    Catalogue, Decoded, Descriptor, ErrorKind, Result,
    decode::ManifestDecoders,
    external::{PluginOptions, Plugins},
    layer::{LayerDecoders, Unwrap},
};

use schema::Schema;

const TYPE: &str = "application/vnd.example.cookbook.manifest.v1+json";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn docs() -> PathBuf {
    root().join("docs")
}

/// The code blocks of the guide that are marked so.
fn blocks(mark: &str) -> Vec<String> {
    let guide = fs::read_to_string(docs().join("plugins.md")).expect("there");
    let fence = format!("```{mark}\n");
    let after = guide.split(&fence).skip(1);
    let found: Vec<_> = after.map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned()).collect();
    assert!(!found.is_empty(), "the guide has no {mark}");
    found
}

fn documents(mark: &str) -> Vec<Value> {
    blocks(mark).iter().map(|text| serde_json::from_str(text).expect(text)).collect()
}

/// A directory with one plugin.
struct Installed(tempfile::TempDir);

impl Installed {
    fn new(manifest: &Value, script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let put = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        };
        put("plugin.json", &manifest.to_string(), 0o644);
        put("plugin", script, 0o755);
        Self(directory)
    }

    fn answering(answer: &Value) -> Self {
        Self::new(&manifest(), &format!("#!/bin/sh\ncat <<'END'\n{answer}\nEND\n"))
    }

    /// Whether it can be loaded.
    fn loads(&self) -> bool {
        let mut plugins = Plugins::new(PluginOptions::default());
        plugins.load(self.0.path()).expect("a directory that is ours").is_empty()
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let mut plugins = Plugins::new(PluginOptions::default());
        assert!(plugins.load(self.0.path())?.is_empty());
        let decoder = plugins.register(Catalogue::empty()).find::<ManifestDecoders>(TYPE)?;
        decoder.expect("registered").decode(descriptor, bytes)
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join(name)).expect("there")).expect("JSON")
    }
}

fn manifest() -> Value {
    json!({ "protocol": 1, "name": "cookbook", "kind": "manifest", "mediaTypes": [TYPE], "executable": "plugin" })
}

/// Documents made of a good one by setting a member.
fn variants(good: &Value, members: &[(&str, Value)]) -> Vec<Value> {
    members
        .iter()
        .map(|(pointer, value)| {
            let mut document = good.clone();
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            document.pointer_mut(parent).expect("there")[name] = value.clone();
            document
        })
        .collect()
}

#[test]
fn manifests_are_fine_to_the_schema_and_to_wharf_or_to_neither() {
    let schema = Schema::load(&docs(), "manifest");
    let agrees = |document: &Value, fine: bool| {
        let mut named = document.clone();
        // The guide names executables of its own, and there is one here.
        if ["cookbook.py", "unmask"].iter().any(|name| named["executable"] == *name) {
            named["executable"] = "plugin".into();
        }
        assert_eq!(schema.check(document).is_ok(), fine, "the schema, of {document}");
        assert_eq!(Installed::new(&named, "#!/bin/sh\n").loads(), fine, "wharf, of {document}");
    };
    for document in documents("json manifest") {
        agrees(&document, true);
    }
    let good = variants(
        &manifest(),
        &[
            ("/$schema", json!("plugin-manifest.schema.json")),
            ("/kind", json!("index")),
            ("/priority", json!(-7)),
            ("/timeLimit", json!(0.1)),
            ("/content", json!("base64")),
            ("/name", json!("0.a_b-c")),
        ],
    );
    for document in &good {
        agrees(document, true);
    }
    let mut layer = variants(&manifest(), &[("/kind", json!("layer"))]).remove(0);
    agrees(&layer, false);
    layer["returns"] = json!("a/b");
    agrees(&layer, true);
    let layers = |members: &[(&str, Value)], fine: bool| {
        for document in variants(&layer, members) {
            agrees(&document, fine);
        }
    };
    layers(
        &[
            ("/arguments", json!(["-d", "", "two words"])),
            ("/environment", json!(["HOME", "_x9"])),
            ("/environment", json!([])),
            ("/timeLimit", json!(300)),
        ],
        true,
    );
    layers(
        &[
            ("/returns", json!("a b/c")),
            ("/returns", Value::Null),
            ("/content", json!("text")),
            ("/arguments", json!("-d")),
            ("/arguments", json!(["a\u{0}"])),
            ("/environment", json!(["A=B"])),
            ("/environment", json!(["9A"])),
            ("/environment", json!([""])),
            ("/environment", json!(["A", "A"])),
            ("/kind", json!("manifest")),
            ("/kind", json!("leaf")),
        ],
        false,
    );
    let bad = variants(
        &manifest(),
        &[
            ("/returns", json!("a/b")),
            ("/arguments", json!([])),
            ("/environment", json!([])),
            ("/protocol", json!(2)),
            ("/protocol", json!("1")),
            ("/name", json!("Cook")),
            ("/name", json!("a".repeat(65))),
            ("/kind", json!("blob")),
            ("/mediaTypes", json!([])),
            ("/mediaTypes", json!(["a b/c"])),
            ("/mediaTypes", json!(["a/b", "a/b"])),
            ("/mediaTypes", json!(TYPE)),
            ("/executable", json!("../plugin")),
            ("/executable", json!("..")),
            ("/executable", json!("")),
            ("/priority", json!(2_147_483_648_u32)),
            ("/priority", json!(0.5)),
            ("/timeLimit", json!(0)),
            ("/timeLimit", json!(301)),
            ("/content", json!("json")),
            ("/mediatypes", json!([TYPE])),
        ],
    );
    for document in &bad {
        agrees(document, false);
    }
    for name in ["protocol", "name", "kind", "mediaTypes", "executable"] {
        let mut document = manifest();
        document.as_object_mut().expect("an object").remove(name);
        agrees(&document, false);
    }
}

#[test]
fn requests_are_as_the_guide_and_the_schema_say() {
    let schema = Schema::load(&docs(), "request");
    let recording = "#!/bin/sh\ncat >request\necho '{\"protocol\":1}'\n";
    for document in documents("json request") {
        schema.check(&document).expect("valid");
        let descriptor: Descriptor = serde_json::from_value(document["descriptor"].clone()).expect("valid");
        let text = document["content"]["text"].as_str().expect("text");
        descriptor.verify(text.as_bytes()).expect("the guide's digest is right");
        let installed = Installed::new(&manifest(), recording);
        installed.decode(&descriptor, text.as_bytes()).expect("answers");
        assert_eq!(installed.read("request"), document);
    }
    let platform = wharf_images::Platform::new("linux", "arm").with_variant("v7");
    let mut full = Descriptor::of(TYPE, b"{}").with_platform(platform).with_annotation("a", "b");
    full.urls.push("https://example.com/x".to_owned());
    full.artifact_type = Some("application/x".to_owned());
    full.data = Some("e30=".to_owned());
    for (kind, content) in [("manifest", "text"), ("index", "base64"), ("leaf", "none")] {
        let mut manifest = manifest();
        manifest["kind"] = kind.into();
        manifest["content"] = content.into();
        let installed = Installed::new(&manifest, recording);
        installed.decode(&full, b"{}").expect("answers");
        let request = installed.read("request");
        schema.check(&request).expect("valid");
        assert_eq!(request.get("content").is_some(), content != "none");
        for tampered in variants(&request, &[("/operation", json!("x")), ("/descriptor/size", json!(-1))]) {
            assert!(schema.check(&tampered).is_err(), "{tampered}");
        }
    }
}

#[test]
fn answers_are_fine_to_the_schema_and_to_wharf_or_to_neither() {
    let schema = Schema::load(&docs(), "answer");
    let ask = |answer: &Value| Installed::answering(answer).decode(&Descriptor::of(TYPE, b"{}"), b"{}");
    for answer in documents("json answer") {
        schema.check(&answer).expect("valid");
        match ask(&answer) {
            Ok(decoded) => assert_eq!(decoded.children.len(), 1),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report()),
        }
    }
    let good = json!({
        "protocol": 1,
        "children": [{ "descriptor": Descriptor::of("image/png", b"x"), "role": "other" }],
        "platform": { "os": "linux", "architecture": "arm", "variant": "v7" },
        "description": "x",
        "facts": { "a": "b" },
        "vouches": true,
    });
    let refused = json!({ "protocol": 1, "error": { "message": "no" } });
    let mut fine = variants(
        &good,
        &[
            ("/children", json!([])),
            ("/children/0/role", json!("config")),
            ("/children/0/descriptor/size", json!(i64::MAX)),
            ("/children/0/descriptor/unknown", json!(1)),
            ("/subject", json!(Descriptor::of("a/b", b"subject"))),
            ("/artifactType", json!("application/x")),
            ("/description", json!("ü".repeat(1024))),
        ],
    );
    fine.push(json!({ "protocol": 1 }));
    for answer in fine {
        schema.check(&answer).expect("valid");
        ask(&answer).expect("taken");
    }
    let mut bad = variants(
        &good,
        &[
            ("/protocol", json!(0)),
            ("/children", json!({})),
            ("/children/0/role", json!("boss")),
            ("/children/0/x", json!(1)),
            ("/children/0/descriptor/digest", json!("sha256:../../x")),
            ("/children/0/descriptor/digest", json!("md5:00")),
            ("/children/0/descriptor/size", json!(-1)),
            ("/children/0/descriptor/size", json!("1")),
            ("/children/0/descriptor/mediaType", json!("")),
            ("/platform", json!({ "os": "linux" })),
            ("/platform/os", json!("")),
            ("/description", json!("a\nb")),
            ("/description", json!("\u{9b}31m")),
            ("/description", json!("x".repeat(1025))),
            ("/facts/a", json!(1)),
            ("/vouches", json!(1)),
            ("/chidlren", json!([])),
        ],
    );
    bad.extend(variants(
        &refused,
        &[("/error/kind", json!("x")), ("/error", json!("no")), ("/error", json!({}))],
    ));
    bad.push(json!([]));
    for answer in bad {
        assert!(schema.check(&answer).is_err(), "the schema takes {answer}");
        assert_eq!(ask(&answer).expect_err("refused").kind(), ErrorKind::Internal, "{answer}");
    }
}

#[test]
fn the_plugin_in_shell_is_a_whole_one() {
    for script in blocks("sh plugin") {
        let decoded = Installed::new(&manifest(), &script).decode(&Descriptor::of(TYPE, b"{}"), b"{}");
        assert_eq!(decoded.expect("answers").description.as_deref(), Some("a list"));
    }
}

#[test]
fn the_filter_in_shell_is_a_whole_one() {
    let mut named = documents("json manifest")
        .into_iter()
        .find(|manifest| manifest["kind"] == "layer")
        .expect("one of layers");
    named["executable"] = "plugin".into();
    let (from, to) = (named["mediaTypes"][0].as_str(), named["returns"].as_str());
    let (from, to) = (from.expect("text").to_owned(), to.expect("text").to_owned());
    assert_eq!(to, wharf_images::media_types::OCI_LAYER_GZIP);
    for script in blocks("sh layer") {
        let installed = Installed::new(&named, &script);
        let mut plugins = Plugins::new(PluginOptions::default());
        assert!(plugins.load(installed.0.path()).expect("ours").is_empty());
        let decoder = plugins.register(Catalogue::empty()).find::<LayerDecoders>(&from).expect("no conflict");
        let masked: Vec<u8> = (0..=255).map(|byte: u8| byte ^ 0x80).collect();
        let (layer, stream) = (Descriptor::of(&from, &masked), Cursor::new(masked));
        let unwrapped = decoder.expect("registered").decode(&from, &layer, Box::new(stream)).expect("starts");
        let Unwrap::As { media_type, mut stream } = unwrapped else { panic!("{unwrapped:?}") };
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("reads");
        assert_eq!((media_type, bytes), (to.clone(), (0..=255).collect::<Vec<u8>>()));
    }
}

#[test]
fn the_example_s_manifests_are_valid() {
    let schema = Schema::load(&docs(), "manifest");
    for name in ["cookbook.json", "recipe.json"] {
        let text = fs::read(root().join("tests/plugins/executable").join(name)).expect("there");
        let mut manifest: Value = serde_json::from_slice(&text).expect("JSON");
        schema.check(&manifest).expect("valid");
        let executable = manifest["executable"].as_str().expect("text");
        assert!(root().join("tests/plugins/executable").join(executable).exists());
        manifest["executable"] = "plugin".into();
        assert!(Installed::new(&manifest, "#!/bin/sh\n").loads());
    }
}

/// Every extension point of the crates is in the guide's table.
#[test]
fn the_guide_names_every_extension_point() {
    let guide = fs::read_to_string(docs().join("plugins.md")).expect("there");
    let mut directories = vec![root().join("crates")];
    let mut points = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("there") {
            let path = entry.expect("there").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(path).expect("text");
                // Those in documentation and in tests are indented or commented.
                for rest in source.split("\nimpl Point for ").skip(1) {
                    let name =
                        rest.split("NAME: &'static str = \"").nth(1).and_then(|rest| rest.split('"').next());
                    points.push(name.expect("a name").to_owned());
                }
            }
        }
    }
    assert!(points.len() >= 5, "{points:?}");
    for point in points {
        assert!(guide.contains(&point), "docs/plugins.md does not say what a {point} is");
    }
}
