//! What strangers put into layouts and archives, and failures half-way; each with what works beside it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use wharf_images::transport::{Place, Shipment};

use super::*;

/// A layout with the image under the tag `1`.
async fn layout(dir: &Path) -> (PathBuf, String) {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 50_000, 1)]);
    let from = registry.put("source:1", &image).await.expect("puts");
    let path = dir.join("layout");
    let to = format!("{}:1", path.display());
    let remote = RegistryResolver::new(RegistrySettings::new());
    copied((&remote, &from), (&LayoutResolver::new(), &to), CopyOptions::new()).await.expect("copies");
    (path, to)
}

async fn read_all(name: &str, dir: &Path) -> Result<Pushed> {
    let end = store(&dir.join("end")).await;
    copied((&LayoutResolver::new(), name), (&end, NAME), CopyOptions::new()).await
}

/// The largest blob, which is the layer.
fn layer(layout: &Path) -> PathBuf {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).expect("lists");
    let blobs = blobs.map(|entry| entry.expect("an entry").path());
    blobs.max_by_key(|path| path.metadata().expect("there").len()).expect("a blob")
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_no_files_are_refused_at_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, name) = layout(dir.path()).await;
    let blob = layer(&path);
    let aside = dir.path().join("aside");
    for what in ["link", "fifo", "directory", "linked directory"] {
        let blobs = path.join("blobs/sha256");
        match what {
            "link" => {
                fs::rename(&blob, &aside).expect("renames");
                symlink(&aside, &blob).expect("links");
            }
            "fifo" => {
                fs::rename(&blob, &aside).expect("renames");
                assert!(Command::new("mkfifo").arg(&blob).status().expect("runs").success());
            }
            "directory" => {
                fs::rename(&blob, &aside).expect("renames");
                fs::create_dir(&blob).expect("makes");
            }
            _ => {
                fs::rename(&blobs, &aside).expect("renames");
                symlink(&aside, &blobs).expect("links");
            }
        }
        let error = read_all(&name, dir.path()).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {}", error.report());
        if what == "linked directory" {
            fs::remove_file(&blobs).expect("removes");
            fs::rename(&aside, &blobs).expect("renames");
        } else {
            drop(fs::remove_file(&blob).or_else(|_| fs::remove_dir(&blob)));
            fs::rename(&aside, &blob).expect("renames");
        }
    }
    read_all(&name, dir.path()).await.expect("the twin");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_nothing_damaged_arrives() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, name) = layout(dir.path()).await;
    let blob = layer(&path);
    let good = fs::read(&blob).expect("reads");
    let mut bad = good.clone();
    bad[20_000] ^= 1;
    for (bytes, what) in
        [(&bad[..], "changed"), (&good[..20_000], "cut short"), (&[&good[..], b"x"].concat(), "longer")]
    {
        fs::write(&blob, bytes).expect("writes");
        let archive = dir.path().join("out.tar");
        let to = format!("{}:1", archive.display());
        let archives = ArchiveResolver::new(ArchiveKind::Oci);
        let failed = copied((&LayoutResolver::new(), &name), (&archives, &to), CopyOptions::new()).await;
        let error = failed.expect_err(what);
        let kinds = [ErrorKind::FailedPrecondition, ErrorKind::DataLoss, ErrorKind::Unavailable];
        assert!(kinds.contains(&error.kind()), "{what}: {}", error.report());
        assert_eq!(names_in(dir.path()), ["layout"], "{what}: nothing is left");
    }
    fs::write(&blob, good).expect("writes");
    read_all(&name, dir.path()).await.expect("the twin");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_capped_and_checked() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, name) = layout(dir.path()).await;
    let index = path.join("index.json");
    let good = fs::read(&index).expect("reads");
    // A file of a GiB that takes no room.
    fs::File::create(&index).expect("makes").set_len(1 << 30).expect("grows");
    let error = read_all(&name, dir.path()).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.report());
    for (text, kind) in [
        (&b"{"[..], ErrorKind::InvalidArgument),
        (b"[]", ErrorKind::InvalidArgument),
        (br#"{"schemaVersion":2,"manifests":[]}"#, ErrorKind::NotFound),
    ] {
        fs::write(&index, text).expect("writes");
        let error = read_all(&name, dir.path()).await.expect_err("refuses");
        assert_eq!(error.kind(), kind, "{}", error.report());
    }
    fs::write(&index, &good).expect("writes");
    fs::write(path.join("oci-layout"), br#"{"imageLayoutVersion":"2.0.0"}"#).expect("writes");
    let error = read_all(&name, dir.path()).await.expect_err("another version");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report());
    fs::write(path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).expect("writes");
    read_all(&name, dir.path()).await.expect("the twin");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_into_an_index_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, name) = layout(dir.path()).await;
    let index = path.join("index.json");
    let mut document: serde_json::Value =
        serde_json::from_slice(&fs::read(&index).expect("reads")).expect("JSON");
    document["annotations"] = serde_json::json!({ "org.example": "kept" });
    document["manifests"][0]["annotations"]["org.example.more"] = "kept".into();
    fs::write(&index, document.to_string()).expect("writes");
    let layouts = LayoutResolver::new();
    let to = format!("{}:2", path.display());
    copied((&layouts, &name), (&layouts, &to), CopyOptions::new()).await.expect("copies");
    let changed = fs::read_to_string(&index).expect("reads");
    let changed: serde_json::Value = serde_json::from_str(&changed).expect("JSON");
    assert_eq!(changed["annotations"]["org.example"], "kept");
    assert_eq!(changed["manifests"][0]["annotations"]["org.example.more"], "kept");
    assert_eq!(layouts.tags(&path.display().to_string()).await.expect("lists"), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_leaves_the_archive_as_it_was_and_can_be_made_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (_, name) = layout(dir.path()).await;
    let layouts = LayoutResolver::new();
    let target = layouts.resolve(&name).await.expect("there").descriptor;
    let archive = dir.path().join("out.tar");
    let archives = ArchiveResolver::new(ArchiveKind::Oci);
    let first = format!("{}:1", archive.display());
    copied((&layouts, &name), (&archives, &first), CopyOptions::new()).await.expect("copies");
    let before = fs::read(&archive).expect("reads");
    // A pusher that gets a part of an image, and no root.
    let second = format!("{}:2", archive.display());
    let pusher = archives.pusher(&second).await.expect("begins");
    let bytes = bytes::Bytes::from_static(b"a layer");
    let blob = Descriptor::of("application/octet-stream", &bytes);
    pusher.push(&Shipment::new(blob, Place::Blob, Arc::new(bytes))).await.expect("takes it");
    let busy = archives.pusher(&second).await.expect_err("one at a time");
    assert_eq!(busy.kind(), ErrorKind::Unavailable, "{}", busy.report());
    pusher.finish().await.expect("lets go");
    drop(pusher);
    assert!(fs::read(&archive).expect("reads") == before, "it is as it was");
    assert_eq!(names_in(dir.path()), ["layout", "out.tar"], "nothing is left");
    copied((&layouts, &name), (&archives, &second), CopyOptions::new()).await.expect("the next try");
    for name in [&first, &second] {
        assert_eq!(archives.resolve(name).await.expect("there").descriptor, target);
    }
    let fetcher = archives.fetcher(&first).await.expect("opens");
    let missing = fetcher.fetch(&absent(), 0).await.map(drop).expect_err("not there");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_archive_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("x.tar");
    let name = path.display().to_string();
    let archives = ArchiveResolver::new(ArchiveKind::Docker);
    let resolve = async || archives.resolve(&name).await.expect_err("refuses");
    assert_eq!(resolve().await.kind(), ErrorKind::NotFound);
    fs::write(&path, "no archive at all".repeat(100)).expect("writes");
    assert_eq!(resolve().await.kind(), ErrorKind::InvalidArgument);
    fs::remove_file(&path).expect("removes");
    assert!(Command::new("mkfifo").arg(&path).status().expect("runs").success());
    let error = resolve().await;
    assert!(error.report().contains("wharf import"), "{}", error.report());
    fs::remove_file(&path).expect("removes");
    // A whole one, and the same without its second half.
    let (_, layout) = layout(dir.path()).await;
    let to = format!("{name}:app:1");
    copied((&LayoutResolver::new(), &layout), (&archives, &to), CopyOptions::new()).await.expect("copies");
    archives.resolve(&to).await.expect("the twin");
    let whole = fs::read(&path).expect("reads");
    fs::write(&path, &whole[..whole.len() / 2]).expect("writes");
    assert_eq!(resolve().await.kind(), ErrorKind::DataLoss);
}

/// A tar of files and symbolic links.
fn tar_of(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).expect("appends");
    }
    for (name, to) in links {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, name, to).expect("appends");
    }
    builder.into_inner().expect("finishes")
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_older_archives_are_followed_inside_and_never_round() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("old.tar");
    let layer = tar_of(&[("file", b"content")], &[]);
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": [Descriptor::of("", &layer).digest] },
    });
    let manifest = r#"[{"Config":"config.json","RepoTags":["app:1"],"Layers":["b/layer.tar"]}]"#;
    let config = config.to_string();
    let documents = [("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())];
    let with_layer = [documents[0], documents[1], ("a/layer.tar", &layer)];
    let name = format!("{}:app:1", path.display());
    for (links, is_fine) in [
        (&[("b/layer.tar", "../a/layer.tar")][..], true),
        (&[("b/layer.tar", "../c"), ("c", "b/layer.tar")], false),
        (&[("b/layer.tar", "b")], false),
        (&[("b/layer.tar", "../../../../etc/passwd")], false),
        (&[], false),
    ] {
        fs::write(&path, tar_of(&with_layer, links)).expect("writes");
        let end = store(&dir.path().join("end")).await;
        let archives = ArchiveResolver::new(ArchiveKind::Docker);
        let outcome = copied((&archives, &name), (&end, NAME), CopyOptions::new()).await;
        match outcome {
            Ok(pushed) => assert!(is_fine, "{links:?}: {pushed:?}"),
            Err(error) => {
                assert!(!is_fine, "{links:?}: {}", error.report());
                let kinds = [ErrorKind::InvalidArgument, ErrorKind::NotFound];
                assert!(kinds.contains(&error.kind()), "{links:?}: {}", error.report());
            }
        }
    }
    // It is compressed, and read all the same.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let plain = tar_of(&with_layer, &[("b/layer.tar", "../a/layer.tar")]);
    std::io::Write::write_all(&mut encoder, &plain).expect("compresses");
    fs::write(&path, encoder.finish().expect("compresses")).expect("writes");
    let archives = ArchiveResolver::new(ArchiveKind::Docker);
    let found = archives.resolve(&name).await.expect("reads");
    assert_eq!(found.image_name.as_deref(), Some(NAME));
    let error = archives.pusher(&name).await.expect_err("nothing is added to it");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", error.report());
    // As an OCI archive it is none.
    let error = ArchiveResolver::new(ArchiveKind::Oci).resolve(&name).await.expect_err("refuses");
    assert!(error.report().contains("docker-archive:"), "{}", error.report());
}
