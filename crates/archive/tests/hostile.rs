//! Archives that nobody should have written: each is refused with a clear error, nothing is recorded, and what is in the store stays as it
//! was. Each row has a twin that is fine.

mod fixtures;

use fixtures::{tarball::*, *};
use serde_json::{Value, json};
use wharf_archive::ImportOptions;
use wharf_content::{Descriptor, Digest, ErrorKind};
use wharf_images::media_types as types;

use ErrorKind::{Conflict, DataLoss, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted};

const NEW: &str = "q.io/new:1";

/// A store that has an image already.
async fn used() -> Into {
    let into = Into::memory();
    into.import(&Plain::new("old").layout("q.io/old:1").finish(), &plain()).await.expect("imports");
    into
}

fn plain() -> ImportOptions {
    ImportOptions::new()
}

async fn refuse(archive: Vec<u8>, kind: ErrorKind, words: &[&str]) {
    let into = used().await;
    into.refused(&archive, &plain(), kind, words).await;
    let old = into.images.get("q.io/old:1").await.expect("it is there");
    assert_eq!(old.target.digest, Plain::new("old").manifest_at().digest);
    // The store has not taken harm: a good one goes in.
    into.import(&Plain::new("new").layout(NEW).finish(), &plain()).await.expect("imports");
}

fn docker(config: &str, layers: &[&str], tags: &Value) -> String {
    json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]).to_string()
}

#[tokio::test]
async fn what_is_no_archive() {
    let zip = b"PK\x03\x04 and so on, for more than a block of a tar".repeat(20);
    for (archive, words) in [
        (Vec::new(), "it is empty"),
        (gzip(b""), "it is empty"),
        (b"#!/bin/sh\n".repeat(200), "no format"),
        (zip, "no format"),
        (gzip(&b"x".repeat(5000)), "no format"),
        (vec![0; 10240], "neither oci-layout nor manifest.json"),
        (Tarball::new().file("etc/passwd", "root").finish(), "neither oci-layout nor manifest.json"),
        (Tarball::new().file("index.json", "{}").finish(), "neither oci-layout nor manifest.json"),
        (Tarball::new().file("x/manifest.json", "[]").finish(), "neither oci-layout nor manifest.json"),
        (Tarball::new().file("../manifest.json", "[]").finish(), "neither oci-layout nor manifest.json"),
        (Tarball::new().file("manifest.json", "[]").finish(), "there is no image"),
        (Tarball::layout(&json!([])).finish(), "there is no image"),
    ] {
        refuse(archive, InvalidArgument, &[words]).await;
    }
}

#[tokio::test]
async fn documents_that_cannot_be_read() {
    let new = Plain::new("new");
    let list = |text: &str| Tarball::new().file("manifest.json", text).finish();
    let layout = |marker: &str, index: &str| {
        new.blobs(Tarball::new().file("oci-layout", marker).file("index.json", index)).finish()
    };
    let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
    let good = json!({ "schemaVersion": 2, "manifests": [new.named(NEW)] }).to_string();
    Into::memory().import(&layout(marker, &good), &plain()).await.expect("the twin");
    let twice = good.replacen("\"manifests\"", "\"manifests\":[],\"manifests\"", 1);
    let confused = good.replacen('{', "{\"layers\":[],", 1);
    let upper = good.replacen("\"manifests\"", "\"Manifests\"", 1);
    let digest = |digest: &str| good.replace(new.manifest_at().digest.as_str(), digest);
    let hex = new.manifest_at().digest.hex().to_owned();
    for (archive, words) in [
        (layout(r#"{"imageLayoutVersion":"2.0.0"}"#, &good), "version \"2.0.0\""),
        (layout("{", &good), "oci-layout"),
        (new.blobs(Tarball::new().file("oci-layout", marker)).finish(), "without its index.json"),
        (layout(marker, "{"), "index.json"),
        (layout(marker, &twice), "duplicate"),
        (layout(marker, &confused), "index.json"),
        (layout(marker, &upper), "ambiguous"),
        (layout(marker, &digest("sha256:../../x")), "index.json"),
        (layout(marker, &digest("sha256:")), "index.json"),
        (layout(marker, &digest(&hex)), "index.json"),
        (layout(marker, &digest(&format!("sha256:{}", hex.to_uppercase()))), "index.json"),
        (layout(marker, &digest(&format!("sha512:{hex}"))), "index.json"),
        (layout(marker, &digest(&format!("md5:{}", &hex[..32]))), "index.json"),
        (layout(marker, &good.replace("\"size\":", "\"size\":-")), "index.json"),
        (list("{}"), "manifest.json"),
        (list(r#"[{"config":"x"}]"#), "manifest.json"),
        (list(&"[".repeat(100_000)), "manifest.json"),
        (list(r#"[{"Config":"c","Layers":[],"layers":[]}]"#), "ambiguous"),
    ] {
        refuse(archive, InvalidArgument, &[words]).await;
    }
}

#[tokio::test]
async fn one_body_is_not_two_things() {
    let new = Plain::new("new");
    let mut both: Value = serde_json::from_slice(&new.manifest()).expect("JSON");
    both["manifests"] = json!([]);
    let both = both.to_string();
    for media_type in [types::OCI_MANIFEST, types::OCI_INDEX, types::DOCKER_MANIFEST, types::DOCKER_LIST] {
        let at = Descriptor::of(media_type, both.as_bytes());
        let named = at.clone().with_annotation("io.containerd.image.name", NEW);
        let archive = new.blobs(Tarball::layout(&json!([named]))).blob(&at, &both).finish();
        refuse(archive, InvalidArgument, &[at.digest.as_str()]).await;
    }
}

#[tokio::test]
async fn content_that_is_not_what_it_is_called() {
    let new = Plain::new("new");
    let layout = || Tarball::layout(&json!([new.named(NEW)]));
    let (manifest, config, layer) = (new.manifest_at(), new.config_at(), new.layer_at());
    let with = |content: &str| {
        layout().blob(&manifest, new.manifest()).blob(&config, &new.config).blob(&layer, content).finish()
    };
    refuse(with("another layer"), FailedPrecondition, &["digest mismatch", layer.digest.as_str()]).await;
    refuse(with(""), FailedPrecondition, &["digest mismatch"]).await;
    // Right or wrong does not depend on what the store has.
    let into = used().await;
    into.import(&new.layout(NEW).finish(), &plain()).await.expect("the twin");
    into.refused(&with("another layer"), &plain(), FailedPrecondition, &["digest mismatch"]).await;
    into.import(&new.layout(NEW).finish(), &plain()).await.expect("the twin, again");

    // A size that its descriptor does not tell rightly.
    for size in [0, 1, layer.size + 1, i64::MAX as u64] {
        let mut wrong = layer.clone();
        wrong.size = size;
        let text = json!({ "schemaVersion": 2, "config": config, "layers": [wrong] }).to_string();
        let at = Descriptor::of(types::OCI_MANIFEST, text.as_bytes());
        let named = at.clone().with_annotation("io.containerd.image.name", NEW);
        let archive = new.blobs(Tarball::layout(&json!([named]))).blob(&at, &text).finish();
        refuse(archive, FailedPrecondition, &["size mismatch", layer.digest.as_str()]).await;
    }
    // Names that only look like a digest claim nothing, and mean nothing.
    let odd = new
        .layout(NEW)
        .file("blobs/sha256/x", "y")
        .file(&format!("blobs/sha256/{}", &layer.digest.hex()[1..]), "y")
        .file("blobs/sha256/._x", "y")
        .file("blobs/sha256/../../../x", "y")
        .finish();
    Into::memory().import(&odd, &plain()).await.expect("imports");
}

#[tokio::test]
async fn parts_that_are_missing() {
    let new = Plain::new("new");
    let (manifest, config, layer) = (new.manifest_at(), new.config_at(), new.layer_at());
    let layout = || Tarball::layout(&json!([new.named(NEW)]));
    for (archive, words) in [
        (layout().finish(), &manifest),
        (layout().blob(&manifest, new.manifest()).blob(&layer, &new.layer).finish(), &config),
        (layout().blob(&manifest, new.manifest()).blob(&config, &new.config).finish(), &layer),
    ] {
        refuse(archive, NotFound, &[words.digest.as_str()]).await;
    }
    let list = docker("c.json", &["l.tar"], &json!([NEW]));
    let docker = || Tarball::new().file("manifest.json", &list);
    let twin = docker().file("c.json", &new.config).file("l.tar", &new.layer).finish();
    Into::memory().import(&twin, &plain()).await.expect("the twin");
    refuse(docker().file("l.tar", &new.layer).finish(), NotFound, &["\"c.json\""]).await;
    refuse(docker().file("c.json", &new.config).finish(), NotFound, &["\"l.tar\""]).await;
    // In the middle of the system, not of the archive.
    for outside in ["/etc/passwd", "../../etc/passwd"] {
        let list = self::docker("c.json", &[outside], &json!([NEW]));
        let archive = Tarball::new().file("manifest.json", &list).file("c.json", &new.config).finish();
        refuse(archive, NotFound, &[outside]).await;
    }
}

#[tokio::test]
async fn links_lead_nowhere_but_into_the_archive() {
    let new = Plain::new("new");
    let list = docker("c.json", &["a/layer.tar"], &json!([NEW]));
    let docker = || {
        Tarball::new().file("manifest.json", &list).file("c.json", &new.config).file("b/l.tar", &new.layer)
    };
    let twin = docker().link("a/layer.tar", "../x").link("x", "b/l.tar").finish();
    Into::memory().import(&twin, &plain()).await.expect("the twin");
    for (archive, words) in [
        (docker().link("a/layer.tar", "/etc/shadow"), "\"etc/shadow\", which the archive does not have"),
        (docker().link("a/layer.tar", "../../etc/shadow"), "outside"),
        (docker().link("a/layer.tar", "../b/none.tar"), "\"b/none.tar\", which the archive does not have"),
        (docker().hard("a/layer.tar", "b/none.tar"), "\"b/none.tar\", which the archive does not have"),
        (docker().link("a/layer.tar", "layer.tar"), "itself"),
        (docker().link("a/layer.tar", "x").link("a/x", "layer.tar"), "itself"),
        (docker().link("a/layer.tar", "../manifest.json"), "no part of an image"),
    ] {
        refuse(archive.finish(), InvalidArgument, &[words]).await;
    }
    let circle = Tarball::new().link("manifest.json", "config.json").link("config.json", "manifest.json");
    refuse(circle.finish(), InvalidArgument, &["itself"]).await;
    // Documents may be links, too.
    let linked = new
        .blobs(
            Tarball::new()
                .file("real", json!({ "schemaVersion": 2, "manifests": [new.named(NEW)] }).to_string()),
        )
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .link("index.json", "./real")
        .finish();
    Into::memory().import(&linked, &plain()).await.expect("imports");
    // A blob that is a link, a FIFO or a directory is no blob.
    let (manifest, layer) = (new.manifest_at(), new.layer_at());
    for kind in [tar::EntryType::Fifo, tar::EntryType::Directory, tar::EntryType::Char] {
        let archive = Tarball::layout(&json!([new.named(NEW)]))
            .blob(&manifest, new.manifest())
            .blob(&new.config_at(), &new.config)
            .other(&path(&layer.digest), kind);
        refuse(archive.finish(), NotFound, &[layer.digest.as_str()]).await;
    }
}

#[tokio::test]
async fn one_name_has_one_meaning() {
    let new = Plain::new("new");
    let list = docker("c.json", &["l.tar"], &json!([NEW]));
    let docker =
        || Tarball::new().file("c.json", &new.config).file("l.tar", &new.layer).file("manifest.json", &list);
    let twin = docker().file("./l.tar", &new.layer).file("manifest.json", &list).finish();
    Into::memory().import(&twin, &plain()).await.expect("the same twice");
    for archive in [
        docker().file("l.tar", "another"),
        docker().file("./x/../l.tar", "another"),
        docker().file("manifest.json", "[]"),
        docker().link("l.tar", "c.json"),
        docker().hard("l.tar", "c.json"),
    ] {
        refuse(archive.finish(), InvalidArgument, &["twice"]).await;
    }
    let other = Plain::new("other");
    let both = new.blobs(other.blobs(Tarball::layout(&json!([new.named(NEW), other.named(NEW)]))));
    refuse(both.finish(), Conflict, &[NEW]).await;
    for name in ["a\u{1b}[2Jb", "a\nb", "a\u{9b}b"] {
        let error = used().await;
        let error = error.refused(&new.layout(name).finish(), &plain(), InvalidArgument, &["control"]).await;
        assert!(!error.report().contains(name));
    }
    let bad = self::docker("c.json", &["l.tar"], &json!(["A b"]));
    let archive =
        Tarball::new().file("c.json", &new.config).file("l.tar", &new.layer).file("manifest.json", bad);
    refuse(archive.finish(), InvalidArgument, &["tag that is no name"]).await;
}

#[tokio::test]
async fn layers_are_those_of_the_config() {
    let (new, other) = (Plain::new("new"), Plain::new("other"));
    let archive = |config: &[u8], layers: &[&str]| {
        Tarball::new()
            .file("manifest.json", docker("c.json", layers, &json!([NEW])))
            .file("c.json", config)
            .file("l.tar", &new.layer)
            .file("o.tar", &other.layer)
            .finish()
    };
    Into::memory().import(&archive(&new.config, &["l.tar"]), &plain()).await.expect("the twin");
    refuse(archive(&new.config, &["o.tar"]), FailedPrecondition, &["digest mismatch", "o.tar"]).await;
    refuse(archive(&new.config, &["l.tar", "o.tar"]), FailedPrecondition, &["1 layers", "names 2"]).await;
    refuse(archive(&new.config, &[]), FailedPrecondition, &["names 0"]).await;
    refuse(archive(b"{}", &["l.tar"]), InvalidArgument, &["not an image config"]).await;
    refuse(archive(&vec![b' '; 5 << 20], &["l.tar"]), ResourceExhausted, &["c.json"]).await;
}

#[tokio::test]
async fn an_archive_that_was_cut_short_or_goes_on() {
    let good = Plain::new("new").layout(NEW).finish();
    for at in (512..good.len() - 1023).step_by(256) {
        let into = used().await;
        into.refused(&good[..at], &plain(), DataLoss, &["cut short"]).await;
    }
    for compressed in [gzip(&good), zstd(&good)] {
        refuse(compressed[..compressed.len() - 1].to_vec(), DataLoss, &["cut short"]).await;
        refuse(compressed[..compressed.len() / 2].to_vec(), DataLoss, &["cut short"]).await;
        refuse(
            [&compressed[..], b"junk that is longer than a header"].concat(),
            InvalidArgument,
            &["not valid"],
        )
        .await;
        Into::memory().import(&compressed, &plain()).await.expect("the twin");
    }
    refuse([&good[..], b"junk"].concat(), InvalidArgument, &["behind its end"]).await;
    refuse(
        [&good[..], &Plain::new("x").layout("q.io/x:1").finish()].concat(),
        InvalidArgument,
        &["behind its end"],
    )
    .await;
    Into::memory().import(&[&good[..], &[0; 9000]].concat(), &plain()).await.expect("zeros fill a record");
}

#[tokio::test]
async fn nothing_is_kept_in_memory_because_somebody_claims_so() {
    let mut huge = tar::Header::new_gnu();
    huge.set_path("index.json").expect("fits");
    huge.set_size(20 * 1024 * 1024 + 1);
    huge.set_cksum();
    for name in ["index.json", "manifest.json", "oci-layout"] {
        huge.set_path(name).expect("fits");
        huge.set_cksum();
        refuse(huge.as_bytes().to_vec(), ResourceExhausted, &[name, "20971520"]).await;
    }
    // An exbibyte is claimed, and there is nothing.
    huge.set_path("layer.tar").expect("fits");
    huge.set_size(1 << 60);
    huge.set_cksum();
    refuse(huge.as_bytes().to_vec(), DataLoss, &["cut short"]).await;

    let new = Plain::new("new");
    let names: Vec<_> = (0..10_001).map(|at| new.named(&format!("q.io/a:{at}"))).collect();
    for (count, is_fine) in [(10_000, true), (10_001, false)] {
        let archive = new.blobs(Tarball::layout(&json!(names[..count]))).finish();
        if is_fine {
            let images = Into::memory().import(&archive, &plain()).await.expect("the twin");
            assert_eq!(images.len(), count);
        } else {
            refuse(archive, ResourceExhausted, &["10000 images"]).await;
        }
    }
    let tags: Vec<_> = (0..10_001).map(|at| format!("a:{at}")).collect();
    let list = docker("c.json", &["l.tar"], &json!(tags));
    let archive =
        Tarball::new().file("c.json", &new.config).file("l.tar", &new.layer).file("manifest.json", list);
    refuse(archive.finish(), ResourceExhausted, &["10000 images"]).await;

    // Layers of one image, named by many.
    let new = Plain::new("new");
    let digests = vec![new.layer_at().digest; 1000];
    let config = json!({ "rootfs": { "type": "layers", "diff_ids": digests } }).to_string();
    for (count, is_fine) in [(250, true), (251, false)] {
        let entry = |at| json!({ "Config": "c", "RepoTags": [format!("a:{at}")], "Layers": vec!["l"; 1000] });
        let list = json!((0..count).map(entry).collect::<Vec<_>>()).to_string();
        let archive =
            Tarball::new().file("c", &config).file("l", &new.layer).file("manifest.json", list).finish();
        if is_fine {
            let images = Into::memory().import(&archive, &plain()).await.expect("the twin");
            assert_eq!(images.len(), count);
        } else {
            refuse(archive, ResourceExhausted, &["251000 layers", "250000"]).await;
        }
    }

    let many = (0..50).fold(Plain::new("new").layout(NEW), |tarball, at| tarball.link(&at.to_string(), "x"));
    let many = many.finish();
    let into = used().await;
    let few = plain().with_max_entries(54);
    into.refused(&many, &few, ResourceExhausted, &["54 entries"]).await;
    into.import(&many, &plain().with_max_entries(55)).await.expect("as many as there are");
    let into = used().await;
    let short = plain().with_max_len(many.len() as u64 - 1);
    into.refused(&zstd(&many), &short, ResourceExhausted, &["too large"]).await;
}

#[tokio::test]
async fn what_an_archive_says_is_no_order_to_the_store() {
    let new = Plain::new("new");
    let root = Digest::sha256(b"anything");
    let named = new
        .manifest_at()
        .with_annotation("io.containerd.image.name", NEW)
        .with_annotation("containerd.io/gc.root", "1")
        .with_annotation("containerd.io/gc.ref.content.0", root.as_str());
    let archive = new.blobs(Tarball::layout(&json!([named]))).finish();
    let into = Into::memory();
    let images = into.import(&archive, &plain()).await.expect("imports");
    assert!(images[0].labels.is_empty());
    for digest in into.blobs().await {
        let labels = into.fixture.store.info(&digest).await.expect("there").labels;
        assert!(!labels.contains_key("containerd.io/gc.root"));
        assert!(labels.values().all(|value| *value != root.as_str()), "{labels:?}");
    }
}
