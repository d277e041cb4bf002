//! The program with a plugin of a third party: cookbooks are pulled, shown, kept and exported like any other image.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use wharf_content::{CommitOptions, Descriptor, Digest, write_blob};
use wharf_images::{Image, media_types as types};
use wharf_plugin_cookbook::{WRAPPED, wrapped::wrap};
use wharf_tests::{Layer, TestRegistry, image::put};

const COOKBOOK: &str = "application/vnd.example.cookbook.manifest.v1+json";
const RECIPE: &str = "application/vnd.example.recipe.v1+json";

struct Program(tempfile::TempDir);

impl Program {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// Runs on another thread, so that a registry in this process can answer.
    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cookbook-wharf"));
        command.env("WHARF_ROOT", self.0.path().join("store")).env("WHARF_PLUGIN_DIR", "").args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        output.expect("it runs")
    }

    async fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Puts blobs and a cookbook of them into the registry, and gives its name.
async fn publish(registry: &TestRegistry, tag: &str, recipes: &[(&str, &str)]) -> (String, Vec<Descriptor>) {
    let put = async |media_type: &str, text: &str| {
        let descriptor = Descriptor::of(media_type, text.as_bytes());
        let bytes = text.to_owned().into();
        let written = write_blob(registry.store(), text, &descriptor, bytes, CommitOptions::default()).await;
        written.expect("written");
        descriptor
    };
    let mut parts = vec![put("image/png", &format!("cover of {tag}")).await];
    for (name, text) in recipes {
        parts.push(put(RECIPE, text).await.with_annotation("com.example.recipe.name", *name));
    }
    let manifest = json!({ "mediaType": COOKBOOK, "title": tag, "cover": parts[0], "recipes": parts[1..] });
    let root = put(COOKBOOK, &manifest.to_string()).await;
    let name = registry.reference(&format!("kitchen/book:{tag}"));
    registry.record(Image::new(&name, root)).await.expect("recorded");
    (name, parts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookbook_is_an_image_like_any_other() {
    let registry = Arc::new(TestRegistry::start().await);
    let recipes =
        [("soup", r#"{"ingredients":["water"]}"#), ("cake", r#"{"ingredients":["flour","sugar"]}"#)];
    let (name, parts) = publish(&registry, "winter", &recipes).await;
    let program = Program::new();
    program.text(&["pull", &name]).await;

    let tree = program.text(&["tree", &name]).await;
    for part in &parts {
        assert!(tree.contains(part.digest.as_str()), "{tree}");
    }
    for words in ["cookbook \"winter\", 2 recipes", "recipe \"soup\"", "recipe \"cake\""] {
        assert!(tree.contains(words), "{words}: {tree}");
    }
    // The cover's type is nobody's business here.
    assert_eq!(tree.matches("unknown type").count(), 1, "{tree}");

    // The handler ran in the pull.
    let info = program.text(&["content", "info", parts[2].digest.as_str()]).await;
    assert!(info.contains("com.example.recipe.ingredients"), "{info}");

    // The children survive a collection, and go with the image.
    assert_eq!(program.text(&["gc", "-q"]).await, "");
    assert_eq!(program.text(&["content", "ls", "-q"]).await.lines().count(), 4);

    let archive = program.0.path().join("book.tar");
    program.text(&["export", &name, "-o", archive.to_str().expect("text")]).await;
    let archive = fs::read(archive).expect("written");
    for part in &parts {
        let path = format!("blobs/sha256/{}", part.digest.as_str().trim_start_matches("sha256:"));
        assert!(archive.windows(path.len()).any(|window| window == path.as_bytes()), "{path}");
    }

    program.text(&["images", "rm", &name]).await;
    program.text(&["gc"]).await;
    assert_eq!(program.text(&["content", "ls", "-q"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handler_of_the_plugin_ends_a_pull() {
    let registry = Arc::new(TestRegistry::start().await);
    let (name, parts) = publish(&registry, "diet", &[("nothing", r#"{"ingredients":[]}"#)]).await;
    let program = Program::new();
    let output = program.run(&["pull", &name]).await;
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nobody can cook") && said.contains(parts[1].digest.as_str()), "{said}");
    assert_eq!(program.text(&["images", "ls", "-q"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_layer_is_unwrapped_decompressed_and_unpacked() {
    let registry = Arc::new(TestRegistry::start().await);
    let tar = Layer::of("etc/menu", "soup, cake").tar();
    let mut gzipped = GzEncoder::new(Vec::new(), Compression::fast());
    gzipped.write_all(&tar).expect("writing to memory");
    let wrapped = wrap(&gzipped.finish().expect("writing to memory"), *b"0123456789abcdef");
    let blob = async |media_type, bytes| put(registry.store(), media_type, bytes).await.expect("written");
    let wrapped = blob(WRAPPED, wrapped).await;
    let config = json!({
        "os": "linux", "architecture": std::env::consts::ARCH,
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&tar)] },
    });
    let config = blob(types::OCI_CONFIG, config.to_string().into_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [wrapped],
    });
    let target = blob(types::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
    let name = registry.reference("kitchen/menu:1");
    registry.record(Image::new(&name, target)).await.expect("recorded");

    let program = Program::new();
    program.text(&["pull", "--strict-types", "--unpack", &name]).await;
    let layer = program.text(&["unpack", &name]).await;
    let menu = Path::new(layer.trim()).join("etc/menu");
    assert_eq!(fs::read_to_string(menu).expect("unpacked"), "soup, cake");
    assert_eq!(program.text(&["cat", &name, "/etc/menu"]).await, "soup, cake");
    let tree = program.text(&["tree", &name]).await;
    assert!(tree.contains("a wrapped layer"), "{tree}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_is_listed() {
    let entries = Program::new().text(&["plugins", "--format", "json"]).await;
    let entries: Value = serde_json::from_str(&entries).expect("JSON");
    let module = |name: &str| {
        let entry = entries.as_array().expect("a list").iter().find(|entry| entry["name"] == name);
        entry.expect("listed")["module"].clone()
    };
    assert_eq!(module("cookbook"), "wharf_plugin_cookbook::manifest");
    assert_eq!(module("recipe"), "wharf_plugin_cookbook::recipe");
    assert_eq!(module("tasting"), "wharf_plugin_cookbook::tasting");
    assert_eq!(module("unwrap"), "wharf_plugin_cookbook::wrapped");
}
