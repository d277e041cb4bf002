//! What an export promises: a valid layout, whole and verified, the same to the byte, and nothing at all after a failure.

mod fixtures;

use std::{
    fs,
    io::Read,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fixtures::*;
use oci_spec::image::{ImageIndex, OciLayout};
use serde_json::json;
use wharf_archive::{ArchiveFormats, ExportOptions, export, export_to_file};
use wharf_content::{
    Algorithm, Catalogue, Descriptor, Error, ErrorKind, Provider, Result, reading::CHUNK_LEN,
};
use wharf_images::{Image, Selection, media_types as types};
use wharf_platforms::Platform;

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("lists");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, words: &[&str]) -> Error {
    let error = result.expect_err("must fail");
    let report = error.report();
    assert_eq!(error.kind(), kind, "{report}");
    for word in words {
        assert!(report.contains(word), "{word:?} is not in: {report}");
    }
    error
}

/// Rewrites the file of a blob, as a failing disk or a careless hand does.
fn damage(root: &Path, descriptor: &Descriptor, change: impl FnOnce(&mut Vec<u8>)) {
    let file = root.join(path(&descriptor.digest));
    let mut bytes = fs::read(&file).expect("reads");
    change(&mut bytes);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("sets");
    fs::write(&file, bytes).expect("writes");
}

#[tokio::test]
async fn the_layout_is_valid_and_the_bytes_are_those_of_the_store() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for fixture in [Fixture::memory(), Fixture::local(&dir.path().join("store")).await] {
        let parts = fixture.image(&host(), "a").await;
        let archive = export_bytes(&fixture, &[parts.named(NAME)], &all()).await.expect("exports");
        let records = read(&archive);
        let modes: Vec<_> = records.iter().map(|record| (record.name.as_str(), record.mode)).collect();
        let blobs = paths([&parts.manifest, &parts.config, &parts.layers[0]]);
        let mut expected = vec![("blobs/", 0o755), ("blobs/sha256/", 0o755)];
        expected.extend(blobs.iter().map(|blob| (blob.as_str(), 0o444)));
        expected.extend([("index.json", 0o644), ("manifest.json", 0o644), ("oci-layout", 0o444)]);
        assert_eq!(modes, expected);

        let files = by_name(&archive);
        for descriptor in [&parts.manifest, &parts.config, &parts.layers[0]] {
            assert_eq!(files[&path(&descriptor.digest)], fixture.content(&descriptor.digest).await);
        }
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let layout: OciLayout = serde_json::from_slice(&files["oci-layout"]).expect("a layout");
        assert_eq!(layout.image_layout_version(), "1.0.0");
        let index: ImageIndex = serde_json::from_slice(&files["index.json"]).expect("an index");
        assert_eq!(index.schema_version(), 2);
        assert_eq!(index.media_type().as_ref().map(AsRef::as_ref), Some(types::OCI_INDEX));
        let [entry] = &index.manifests()[..] else { panic!("{index:?}") };
        assert_eq!(entry.digest().as_ref(), parts.manifest.digest.as_str());
        assert_eq!(entry.size(), parts.manifest.size);
        let annotations = entry.annotations().as_ref().expect("names");
        assert_eq!(annotations["io.containerd.image.name"], NAME);
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "1.36");
        assert_eq!(
            manifest_json(&archive),
            json!([{
                "Config": path(&parts.config.digest),
                "RepoTags": ["busybox:1.36"],
                "Layers": [path(&parts.layers[0].digest)],
            }])
        );
    }
}

#[tokio::test]
async fn the_same_images_give_the_same_bytes_in_any_order_from_any_store() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut archives = Vec::new();
    for fixture in [Fixture::memory(), Fixture::local(&dir.path().join("store")).await] {
        let shared = fixture.blob(types::OCI_LAYER, "shared").await;
        let own = fixture.blob(types::OCI_LAYER, "own").await;
        let one = fixture.image_of(&host(), std::slice::from_ref(&shared)).await;
        let two = fixture.image_of(&other(), &[shared.clone(), own, shared.clone()]).await;
        let index =
            Image::new("quay.io/c:3", fixture.index(&[one.manifest.clone(), two.manifest.clone()]).await);
        let images = [one.named("quay.io/a:1"), two.named("quay.io/b:2"), index];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let images = order.map(|at| images[at].clone());
            archives.push(export_bytes(&fixture, &images, &all()).await.expect("exports"));
        }
        let twice = [&images[..], &images[..]].concat();
        archives.push(export_bytes(&fixture, &twice, &all()).await.expect("exports"));
        assert_eq!(
            blobs(&archives[0]).len(),
            1 + 2 + 2 + 2,
            "an index, manifests, configs and layers, each once"
        );
    }
    assert!(archives.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn one_image_under_several_names_is_one_to_docker() {
    let fixture = Fixture::memory();
    let parts = fixture.image(&host(), "a").await;
    let elsewhere = fixture.image(&other(), "b").await;
    let digest = parts.manifest.digest.clone();
    let names = ["quay.io/z/app:2", NAME, "not a reference", &format!("quay.io/z/app@{digest}")];
    let mut images: Vec<_> = names.iter().map(|name| parts.named(name)).collect();
    images.push(elsewhere.named(&format!("quay.io/only@{digest}")));
    let archive = export_bytes(&fixture, &images, &all()).await.expect("exports");
    let mut expected = [
        json!({
            "Config": path(&parts.config.digest),
            "RepoTags": ["busybox:1.36", "quay.io/z/app:2"],
            "Layers": [path(&parts.layers[0].digest)],
        }),
        json!({
            "Config": path(&elsewhere.config.digest),
            "RepoTags": [],
            "Layers": [path(&elsewhere.layers[0].digest)],
        }),
    ];
    expected.sort_by_key(|entry| entry["Config"].to_string());
    assert_eq!(manifest_json(&archive), json!(expected));

    let index: ImageIndex = serde_json::from_slice(&by_name(&archive)["index.json"]).expect("an index");
    let refs: Vec<_> = index.manifests().iter().filter_map(|entry| entry.annotations().clone()).collect();
    let refs: Vec<_> = refs.iter().map(|names| names["org.opencontainers.image.ref.name"].as_str()).collect();
    assert_eq!(refs, ["1.36", "not a reference", digest.as_str(), "2", digest.as_str()]);
}

#[tokio::test]
async fn platforms_are_chosen_and_the_index_stays_as_it_is() {
    let fixture = Fixture::memory();
    let here = fixture.image(&host(), "here").await;
    let there = fixture.image(&other(), "there").await;
    let statement = fixture.blob(types::IN_TOTO, "{}").await;
    let attestation = fixture.image_of(&Platform::new("unknown", "unknown"), &[statement]).await;
    let manifests = [&attestation, &there, &here].map(|parts| parts.manifest.clone());
    let image = Image::new(NAME, fixture.index(&manifests).await);
    let everything =
        |parts: &Parts| [&[parts.manifest.clone(), parts.config.clone()][..], &parts.layers].concat();
    for (selection, expected, docker) in [
        (Selection::host(), vec![&here], &here),
        (Selection::best([&other()]), vec![&there], &there),
        (Selection::best([&other(), &host()]), vec![&here, &there], &there),
        (Selection::all(), vec![&here, &there, &attestation], &here),
    ] {
        let options = ExportOptions::default().with_selection(selection);
        let archive = export_bytes(&fixture, std::slice::from_ref(&image), &options).await.expect("exports");
        let mut wanted = vec![image.target.clone()];
        wanted.extend(expected.into_iter().flat_map(everything));
        assert_eq!(blobs(&archive), paths(&wanted));
        let found = flaws(&unpacked(&archive).await, &image.target).await;
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(
            by_name(&archive)[&path(&image.target.digest)],
            fixture.content(&image.target.digest).await
        );
        assert_eq!(manifest_json(&archive)[0]["Config"], path(&docker.config.digest));
        assert_eq!(manifest_json(&archive).as_array().map(Vec::len), Some(1));
    }

    // Of all platforms, none of which is the host's: the first that Docker can load.
    let foreign = Image::new(NAME, fixture.index(&manifests[..2]).await);
    let archive = export_bytes(&fixture, std::slice::from_ref(&foreign), &all()).await.expect("exports");
    assert_eq!(manifest_json(&archive)[0]["Config"], path(&there.config.digest));

    let lacking = export_bytes(&fixture, &[foreign], &ExportOptions::default()).await;
    refused(lacking, ErrorKind::NotFound, &[NAME, "no match for platform", "linux/mips64"]);
    let asked = ExportOptions::default().with_selection(Selection::best([&other()]));
    let single = export_bytes(&fixture, &[here.named(NAME)], &asked).await;
    refused(single, ErrorKind::NotFound, &[NAME, "no match for platform linux/mips64"]);
    let unasked = export_bytes(&fixture, &[there.named(NAME)], &ExportOptions::default()).await;
    assert!(unasked.is_ok(), "an image that is no index has but one platform");
}

#[tokio::test]
async fn every_digest_algorithm_has_its_directory() {
    let mut fixture = Fixture::memory();
    let mut images = Vec::new();
    for algorithm in Algorithm::ALL {
        fixture.algorithm = algorithm;
        images.push(fixture.image(&host(), "a").await.named(&format!("quay.io/{algorithm}:1")));
    }
    let archive = export_bytes(&fixture, &images, &all()).await.expect("exports");
    let names: Vec<_> = read(&archive).into_iter().map(|record| record.name).collect();
    for algorithm in Algorithm::ALL {
        assert!(names.contains(&format!("blobs/{algorithm}/")));
    }
    let files = by_name(&archive);
    for image in &images {
        assert_eq!(files[&path(&image.target.digest)], fixture.content(&image.target.digest).await);
    }
    assert_eq!(blobs(&archive).len(), 9);
}

#[tokio::test]
async fn large_blobs_are_streamed() {
    let fixture = Fixture::memory();
    for len in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 5 * CHUNK_LEN + 77] {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let layer = fixture.blob(types::OCI_LAYER, bytes.clone()).await;
        let parts = fixture.image_of(&host(), std::slice::from_ref(&layer)).await;
        let odd = Odd::new(&fixture, &layer.digest, Way::AsItIs);
        let events = Arc::new(Events::default());
        let options = all().with_sink(events.clone());
        let mut archive = Vec::new();
        export(Arc::new(odd.clone()), &[parts.named(NAME)], &options, &mut archive).await.expect("exports");
        assert_eq!(by_name(&archive)[&path(&layer.digest)], bytes);
        assert!(odd.largest_read.load(Ordering::SeqCst) <= CHUNK_LEN);
        assert_eq!((events.with("started").len(), events.with("done").len()), (3, 3));
        assert!(events.with("bytes").len() >= len.div_ceil(CHUNK_LEN));
    }
}

#[tokio::test]
async fn a_damaged_blob_is_found_and_no_archive_is_left() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(Change, &str); 3] = [
        (|bytes| bytes[0] ^= 1, "digest"),
        (|bytes| bytes.truncate(bytes.len() - 1), "size mismatch"),
        (|bytes| bytes.push(0), "size mismatch"),
    ];
    for (change, words) in cases {
        for which in ["layer", "config", "manifest", "index"] {
            let dir = tempfile::tempdir().expect("temporary directory");
            let (root, out) = (dir.path().join("store"), dir.path().join("out"));
            fs::create_dir(&out).expect("makes");
            fs::write(out.join("old.tar"), "as it was").expect("writes");
            let fixture = Fixture::local(&root).await;
            let parts = fixture.image(&host(), "a").await;
            let image = Image::new(NAME, fixture.index(std::slice::from_ref(&parts.manifest)).await);
            let images = std::slice::from_ref(&image);
            export_to_file(out.join("good.tar"), fixture.provider(), images, &all()).await.expect("exports");
            fs::remove_file(out.join("good.tar")).expect("removes");

            let blob = match which {
                "layer" => &parts.layers[0],
                "config" => &parts.config,
                "manifest" => &parts.manifest,
                _ => &image.target,
            };
            damage(&root, blob, change);
            for file in ["new.tar", "old.tar"] {
                let result = export_to_file(out.join(file), fixture.provider(), images, &all()).await;
                refused(result, ErrorKind::FailedPrecondition, &[NAME, blob.digest.as_str(), words]);
                assert_eq!(names_in(&out), ["old.tar"], "{which}");
                assert_eq!(fs::read(out.join("old.tar")).expect("reads"), b"as it was");
            }
        }
    }
}

#[tokio::test]
async fn a_blob_that_shrinks_while_it_is_copied_is_found() {
    let fixture = Fixture::memory();
    let parts = fixture.image(&host(), "a").await;
    let odd = Odd::new(&fixture, &parts.layers[0].digest, Way::EndsEarly);
    let mut archive = Vec::new();
    let result = export(Arc::new(odd), &[parts.named(NAME)], &all(), &mut archive).await;
    refused(result, ErrorKind::DataLoss, &[NAME, "cut short"]);
}

#[tokio::test]
async fn a_lying_descriptor_is_refused_before_anything_is_written() {
    let fixture = Fixture::memory();
    let mut layer = fixture.blob(types::OCI_LAYER, "layer").await;
    layer.size += 1;
    let parts = fixture.image_of(&host(), std::slice::from_ref(&layer)).await;
    let mut archive = Vec::new();
    let result = export(fixture.provider(), &[parts.named(NAME)], &all(), &mut archive).await;
    refused(result, ErrorKind::FailedPrecondition, &[NAME, layer.digest.as_str(), "6 bytes"]);
    assert!(archive.is_empty());
}

#[tokio::test]
async fn what_is_missing_is_named_before_anything_is_written() {
    let fixture = Fixture::memory();
    let here = fixture.image(&host(), "here").await;
    let there = fixture.image(&other(), "there").await;
    let absent: Vec<_> = (0..=219_u8).map(|at| fixture.describe(types::OCI_LAYER, &[at; 3])).collect();
    let many = fixture.image_of(&host(), &absent).await;
    let index = fixture.index(&[here.manifest.clone(), there.manifest.clone()]).await;
    fixture.store.delete(&there.layers[0].digest).await.expect("deletes");
    fixture.store.delete(&there.config.digest).await.expect("deletes");
    let mut archive = Vec::new();
    let images = [Image::new(NAME, index)];
    let result = export(fixture.provider(), &images, &all(), &mut archive).await;
    let complete = format!("complete here: {}", wharf_platforms::format_all(&host()));
    let words =
        [NAME, there.layers[0].digest.as_str(), there.config.digest.as_str(), "--all-platforms", &complete];
    refused(result, ErrorKind::NotFound, &words);

    let images = [images[0].clone(), many.named("quay.io/many:1")];
    let result = export(fixture.provider(), &images, &all(), &mut archive).await;
    let error = refused(result, ErrorKind::NotFound, &["quay.io/many:1", "and 22 more"]);
    let report = error.report();
    let named = absent.iter().filter(|layer| report.contains(layer.digest.as_str())).count();
    assert!(
        (198..=200).contains(&named) && report.len() < 40_000,
        "{named} of them in {} bytes",
        report.len()
    );
    assert!(archive.is_empty());

    let chosen = export_bytes(&fixture, &images[..1], &ExportOptions::default()).await;
    assert!(chosen.is_ok(), "the host's platform is complete");
    let gone = Image::new(NAME, fixture.describe(types::OCI_INDEX, b"never there"));
    refused(export_bytes(&fixture, &[gone], &all()).await, ErrorKind::NotFound, &["pull the image again"]);
}

#[tokio::test]
async fn unknown_media_types_are_kept_whole_and_reported() {
    const STRANGE: &str = "application/vnd.example.strange.v1";
    let fixture = Fixture::memory();
    let strange = fixture.blob(STRANGE, r#"{"config":"not ours to read"}"#).await;
    let stranger = fixture.blob(STRANGE, "another").await;
    let here = fixture.image(&host(), "here").await;
    let odd = fixture.image_of(&host(), std::slice::from_ref(&stranger)).await;
    let index = fixture.index(&[strange.clone(), here.manifest.clone()]).await;
    let events = Arc::new(Events::default());
    let options = all().with_sink(events.clone());
    let images =
        [Image::new("a/index:1", index), odd.named("b/layer:1"), Image::new("c/root:1", strange.clone())];
    let archive = export_bytes(&fixture, &images, &options).await.expect("exports");
    let files = by_name(&archive);
    for descriptor in [&strange, &stranger] {
        assert_eq!(files[&path(&descriptor.digest)], fixture.content(&descriptor.digest).await);
    }
    assert_eq!(events.with("unknown"), [format!("unknown {STRANGE}")], "once");
    let docker = manifest_json(&archive);
    assert_eq!(docker.as_array().map(Vec::len), Some(1), "{docker}");
    assert_eq!(docker[0]["RepoTags"], json!(["a/index:1"]));

    let archive = export_bytes(&fixture, &images[2..], &all()).await.expect("exports");
    assert!(!by_name(&archive).contains_key("manifest.json"), "nothing for Docker");
}

#[tokio::test]
async fn a_body_of_two_kinds_is_refused() {
    let fixture = Fixture::memory();
    let config = serde_json::to_string(&fixture.blob(types::OCI_CONFIG, "{}").await).expect("serialises");
    let both = format!(r#"{{"manifests":[],"config":{config},"layers":[]}}"#);
    for media_type in [types::OCI_MANIFEST, types::OCI_INDEX] {
        let image = Image::new(NAME, fixture.blob(media_type, both.clone()).await);
        refused(export_bytes(&fixture, &[image], &all()).await, ErrorKind::InvalidArgument, &["ambiguous"]);
    }
    let schema1 = Image::new(NAME, fixture.blob(types::DOCKER_SCHEMA1, "{}").await);
    refused(export_bytes(&fixture, &[schema1], &all()).await, ErrorKind::NotImplemented, &["schema 1"]);
}

#[tokio::test]
async fn embedded_content_is_written_where_the_store_lacks_it() {
    let fixture = Fixture::memory();
    let mut config = fixture.describe(types::OCI_EMPTY, b"{}");
    config.data = Some("e30=".into());
    let manifest = fixture.manifest(&config, &[]).await;
    let image = Image::new(NAME, manifest);
    let archive = export_bytes(&fixture, std::slice::from_ref(&image), &all()).await.expect("exports");
    assert_eq!(by_name(&archive)[&path(&config.digest)], b"{}");

    config.data = Some("W10=".into());
    let manifest = fixture.manifest(&config, &[]).await;
    let wrong = export_bytes(&fixture, &[Image::new(NAME, manifest)], &all()).await;
    refused(wrong, ErrorKind::NotFound, &[config.digest.as_str()]);
}

#[tokio::test]
async fn layers_that_may_not_be_distributed_are_parts_unless_they_are_left_out() {
    let fixture = Fixture::memory();
    let plain = fixture.blob(types::DOCKER_LAYER_GZIP, "plain").await;
    let foreign = fixture.blob(types::DOCKER_LAYER_FOREIGN_GZIP, "foreign").await;
    let image = fixture.image_of(&host(), &[plain, foreign.clone()]).await.named(NAME);
    let images = std::slice::from_ref(&image);
    let has = |archive: &[u8]| blobs(archive).contains(&path(&foreign.digest));
    let whole = export_bytes(&fixture, images, &all()).await.expect("exports");
    assert!(has(&whole) && by_name(&whole).contains_key("manifest.json"));

    let events = Arc::new(Events::default());
    let without = all().skipping_non_distributable().with_sink(events.clone());
    let archive = export_bytes(&fixture, images, &without).await.expect("exports");
    assert!(!has(&archive) && !by_name(&archive).contains_key("manifest.json"));
    assert_eq!(events.with("warning").len(), 1);

    fixture.store.delete(&foreign.digest).await.expect("deletes");
    refused(export_bytes(&fixture, images, &all()).await, ErrorKind::NotFound, &[foreign.digest.as_str()]);
    assert_eq!(export_bytes(&fixture, images, &without).await.expect("exports"), archive);
}

#[tokio::test]
async fn what_was_asked_for_must_make_sense() {
    let fixture = Fixture::memory();
    let (one, two) = (fixture.image(&host(), "1").await, fixture.image(&host(), "2").await);
    refused(export_bytes(&fixture, &[], &all()).await, ErrorKind::InvalidArgument, &["no image"]);
    let names = export_bytes(&fixture, &[one.named(NAME), two.named(NAME)], &all()).await;
    refused(names, ErrorKind::Conflict, &[NAME, one.manifest.digest.as_str(), two.manifest.digest.as_str()]);
    refused(export_bytes(&fixture, &[one.named("")], &all()).await, ErrorKind::InvalidArgument, &["name"]);
    let format = export_bytes(&fixture, &[one.named(NAME)], &all().with_format("zip")).await;
    refused(format, ErrorKind::InvalidArgument, &["\"zip\"", "oci-archive"]);
    let catalogue = Catalogue::linked().clone().without::<ArchiveFormats>("oci-archive");
    let format = export_bytes(&fixture, &[one.named(NAME)], &all().with_catalogue(catalogue)).await;
    refused(format, ErrorKind::InvalidArgument, &["oci-archive"]);
    let plain = export_bytes(&fixture, &[one.named(NAME)], &all().without_docker_manifest()).await;
    assert!(!by_name(&plain.expect("exports")).contains_key("manifest.json"));
}

#[tokio::test]
async fn a_file_is_replaced_whole_and_at_the_end_of_its_links() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| dir.path().join(name);
    let fixture = Fixture::memory();
    let images = [fixture.image(&host(), "a").await.named(NAME)];
    let expected = export_bytes(&fixture, &images, &all()).await.expect("exports");
    fs::write(path("old.tar"), "old").expect("writes");
    fs::set_permissions(path("old.tar"), fs::Permissions::from_mode(0o600)).expect("sets");
    std::os::unix::fs::symlink("old.tar", path("link.tar")).expect("links");
    for name in ["new.tar", "link.tar"] {
        let exported =
            export_to_file(path(name), fixture.provider(), &images, &all()).await.expect("exports");
        assert_eq!((exported.len, exported.blobs), (expected.len() as u64, 3));
        assert_eq!(fs::read(path(name)).expect("reads"), expected);
    }
    assert!(path("link.tar").is_symlink());
    assert_eq!(fs::metadata(path("old.tar")).expect("exists").permissions().mode() & 0o777, 0o600);
    assert_eq!(names_in(dir.path()), ["link.tar", "new.tar", "old.tar"]);

    let missing = export_to_file(path("no/new.tar"), fixture.provider(), &images, &all()).await;
    refused(missing, ErrorKind::NotFound, &["no/new.tar", "there is no directory"]);
    let directory = export_to_file(dir.path(), fixture.provider(), &images, &all()).await;
    refused(directory, ErrorKind::InvalidArgument, &["it is a directory"]);
    assert_eq!(names_in(dir.path()).len(), 3);
}

#[tokio::test]
async fn what_is_no_file_is_written_as_it_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let fixture = Fixture::memory();
    let images = [fixture.image(&host(), "a").await.named(NAME)];
    let expected = export_bytes(&fixture, &images, &all()).await.expect("exports");

    let fifo = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("makes");
    let reading = fifo.clone();
    let reader = tokio::task::spawn_blocking(move || fs::read(reading));
    export_to_file(&fifo, fixture.provider(), &images, &all()).await.expect("exports");
    assert_eq!(reader.await.expect("no panic").expect("reads"), expected);

    export_to_file("/dev/null", fixture.provider(), &images, &all()).await.expect("exports");
    let full = export_to_file("/dev/full", fixture.provider(), &images, &all()).await;
    refused(full, ErrorKind::ResourceExhausted, &["cannot write the archive"]);

    // As /dev/stdout is, when a shell has redirected it to a file.
    let redirected = fs::File::create(dir.path().join("redirected")).expect("creates");
    let descriptor = format!("/dev/fd/{}", redirected.as_raw_fd());
    export_to_file(descriptor, fixture.provider(), &images, &all()).await.expect("exports");
    let mut written = Vec::new();
    fs::File::open(dir.path().join("redirected")).expect("opens").read_to_end(&mut written).expect("reads");
    assert_eq!(written, expected);
    assert_eq!(names_in(dir.path()), ["fifo", "redirected"]);
}

#[tokio::test]
async fn a_cancelled_export_leaves_no_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let fixture = Fixture::memory();
    let parts = fixture.image(&host(), "a").await;
    let odd: Arc<dyn Provider> = Arc::new(Odd::new(&fixture, &parts.layers[0].digest, Way::Hangs));
    let images = [parts.named(NAME)];
    let options = all();
    let mut exporting =
        Box::pin(export_to_file(dir.path().join("out.tar"), Arc::clone(&odd), &images, &options));
    for _ in 0..200 {
        let waited = tokio::time::timeout(Duration::from_millis(10), &mut exporting).await;
        assert!(waited.is_err(), "it cannot end");
        if !names_in(dir.path()).is_empty() {
            break;
        }
    }
    let names = names_in(dir.path());
    assert!(names.len() == 1 && names[0] != "out.tar", "it was under way: {names:?}");
    drop(exporting);
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[tokio::test]
async fn what_is_exported_is_valid_and_a_tampered_twin_is_not() {
    let fixture = Fixture::memory();
    let good = fixture.image(&host(), "a").await;
    let other = fixture.blob(types::OCI_LAYER, "another layer").await;
    // The layers of one image and the config of another.
    let swapped = fixture.manifest(&good.config, std::slice::from_ref(&other)).await;
    let doubled = fixture.manifest(&good.config, &[good.layers[0].clone(), other]).await;
    let elsewhere = good.manifest.clone().with_platform(Platform::new("plan9", "mips"));
    let elsewhere = fixture.index(&[elsewhere]).await;
    for (target, expected) in [
        (good.named("").target, &[][..]),
        (swapped, &["diff-id"]),
        (doubled, &["layer-count"]),
        (elsewhere, &["platform"]),
    ] {
        let image = Image::new(NAME, target);
        let archive = export_bytes(&fixture, std::slice::from_ref(&image), &all()).await.expect("exports");
        let unpacked = unpacked(&archive).await;
        assert_eq!(flaws(&unpacked, &image.target).await, expected);
        unpacked.store.delete(&good.config.digest).await.expect("deletes");
        assert_eq!(flaws(&unpacked, &image.target).await, ["missing"]);
    }
}
