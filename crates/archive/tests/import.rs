//! What an import promises: every archive that wharf, containerd, Docker and skopeo write, the same images that went in, held against
//! collection, and nothing recorded before everything is there.

mod fixtures;

use std::{
    io::{self, Read},
    sync::{Arc, mpsc},
    time::Duration,
};

use fixtures::{tarball::*, *};
use serde_json::json;
use wharf_archive::{ExportOptions, ImportOptions, Input, Sniff, import, import_from_file};
use wharf_content::{
    Algorithm, Catalogue, Descriptor, Digest, ErrorKind, Provider, Result, Store, filter::FilterSet,
    gc::CollectOptions, plugin::Registration,
};
use wharf_images::{
    Image, Selection, collect, image, media_types as types,
    referrers::{ReferrersProvider, StoredReferrers},
};
use wharf_platforms::Platform;

fn plain() -> ImportOptions {
    ImportOptions::new()
}

/// Images of every shape that exports know.
async fn shapes(fixture: &Fixture) -> Vec<(Vec<Image>, ExportOptions)> {
    let shared = fixture.blob(types::OCI_LAYER, "shared").await;
    let one = fixture.image_of(&host(), std::slice::from_ref(&shared)).await;
    let two = fixture.image_of(&other(), &[shared.clone(), shared.clone()]).await;
    let index = fixture.index(&[one.manifest.clone(), two.manifest.clone()]).await;
    let nested = fixture.index(&[index.clone(), fixture.image(&host(), "nested").await.manifest]).await;
    let artifact = fixture.blob("application/x-unknown", "whatever").await;
    let pinned = format!("docker.io/library/busybox@{}", index.digest);
    vec![
        (vec![one.named(NAME)], all()),
        (vec![one.named(NAME)], all().without_docker_manifest()),
        (vec![Image::new("quay.io/c:3", index.clone())], all()),
        (vec![Image::new("quay.io/c:3", index.clone())], ExportOptions::default()),
        (
            vec![
                Image::new("quay.io/n:1", nested),
                Image::new("quay.io/c:3", index.clone()),
                two.named("quay.io/b:2"),
            ],
            all(),
        ),
        (vec![one.named("a:1"), one.named("not a reference"), Image::new(pinned, index)], all()),
        (vec![Image::new("quay.io/artifact:1", artifact)], all()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_exported_comes_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let mut fixture = Fixture::memory();
        fixture.algorithm = algorithm;
        for (at, (images, options)) in shapes(&fixture).await.into_iter().enumerate() {
            let archive = export_bytes(&fixture, &images, &options).await.expect("exports");
            let local = dir.path().join(format!("{algorithm}-{at}"));
            for (into, archive) in [
                (Into::memory(), archive.clone()),
                (Into::memory(), gzip(&archive)),
                (Into::local(&local).await, zstd(&archive)),
            ] {
                let imported = into.import(&archive, &plain()).await.expect("imports");
                let mut expected = images.clone();
                expected.sort_by(|a, b| a.name.cmp(&b.name));
                let told = |images: &[Image]| -> Vec<_> {
                    images.iter().map(|image| (image.name.clone(), image.target.clone())).collect()
                };
                assert_eq!(told(&imported), told(&expected));
                assert_eq!(told(&into.images.list(&FilterSet::all()).await.expect("lists")), told(&expected));
                for image in &imported {
                    let there = |provider: Arc<dyn Provider>| async move {
                        image::platforms(provider.as_ref(), &image.target, Catalogue::linked())
                            .await
                            .expect("reads")
                    };
                    if options.selection.is_all() {
                        assert_eq!(there(into.fixture.provider()).await, there(fixture.provider()).await);
                    }
                }
                assert_eq!(into.leases().await, 0);
                if into.fixture.store.leases().is_some() {
                    let collected = collect(into.fixture.store.as_ref(), &CollectOptions::default()).await;
                    assert_eq!(collected.expect("collects"), [], "everything is held");
                }
            }
            let into = Into::memory();
            let imported = into.import(&archive, &plain()).await.expect("imports");
            let again = export_bytes(&into.fixture, &imported, &options).await.expect("exports");
            assert!(again == archive, "the same to the byte");
        }
    }
}

/// `docker save` of Docker 1.10 to 24, with two images that share a layer by a link.
fn docker(link: Way) -> (Plain, Plain, Vec<u8>) {
    let (one, two) = (Plain::new("one"), Plain::new("two"));
    let both = json!({
        "architecture": "arm", "variant": "v7", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [one.layer_at().digest, two.layer_at().digest] },
    });
    let two = Plain { layer: two.layer, config: both.to_string().into_bytes() };
    let list = json!([
        { "Config": "one.json", "RepoTags": ["one:1", "ghcr.io/a/one:latest"], "Layers": ["id1/layer.tar"] },
        { "Config": "./two.json", "RepoTags": ["two"], "Layers": ["id2/layer.tar", "id3/layer.tar"] },
    ]);
    let archive = Tarball::new()
        .other("id1/", tar::EntryType::Directory)
        .file("id1/VERSION", "1.0")
        .file("id1/layer.tar", &one.layer)
        .file("one.json", &one.config)
        .file("./two.json", &two.config);
    let archive = link(archive, "id2/layer.tar", "id1/layer.tar")
        .file("id3/layer.tar", &two.layer)
        .file("repositories", "{}")
        .file("manifest.json", list.to_string());
    (one, two, archive.finish())
}

/// Adds a link of one kind, by a name and where it leads from the archive's root.
type Way = fn(Tarball, &str, &str) -> Tarball;

#[tokio::test]
async fn dockers_own_archives() {
    let soft = |tarball: Tarball, name: &str, to: &str| tarball.link(name, &format!("../{to}"));
    let absolute = |tarball: Tarball, name: &str, to: &str| tarball.link(name, &format!("/{to}"));
    let hard = |tarball: Tarball, name: &str, to: &str| tarball.hard(name, to);
    let ways: [Way; 3] = [soft, absolute, hard];
    for way in ways {
        let (one, two, archive) = docker(way);
        let into = Into::memory();
        let images = into.import(&archive, &plain()).await.expect("imports");
        let names: Vec<_> = images.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(
            names,
            ["docker.io/library/one:1", "docker.io/library/two:latest", "ghcr.io/a/one:latest"]
        );
        let layer = |plain: &Plain| Descriptor::of(types::DOCKER_LAYER, &plain.layer);
        for (image, config, layers, platform) in [
            (&images[0], &one.config, vec![layer(&one)], Platform::new("linux", "amd64")),
            (
                &images[1],
                &two.config,
                vec![layer(&one), layer(&two)],
                wharf_platforms::parse("linux/arm/v7").expect("one"),
            ),
        ] {
            let config = serde_json::to_string(&Descriptor::of(types::DOCKER_CONFIG, config)).expect("JSON");
            let layers = serde_json::to_string(&layers).expect("JSON");
            let expected = format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":{layers}}}"#,
                types::DOCKER_MANIFEST
            );
            assert_eq!(into.fixture.content(&image.target.digest).await, expected);
            assert_eq!(image.target.media_type, types::DOCKER_MANIFEST);
            assert_eq!(image.target.platform, Some(platform));
            assert!(image.target.annotations.is_empty());
        }
        assert_eq!(images[0].target, images[2].target);
        let again = Into::memory().import(&archive, &plain()).await.expect("imports");
        assert_eq!(again[0].target, images[0].target, "the same archive gives the same digest");
    }
}

#[tokio::test]
async fn layers_are_told_by_their_first_bytes() {
    let one = Plain::new("one");
    for (layer, media_type) in [
        (one.layer.clone(), types::DOCKER_LAYER),
        (gzip(&one.layer), types::DOCKER_LAYER_GZIP),
        (zstd(&one.layer), types::DOCKER_LAYER_ZSTD),
    ] {
        let (config, at) = (one.config_at(), Descriptor::of("", &layer));
        let list =
            json!([{ "Config": path(&config.digest), "RepoTags": ["a:1"], "Layers": [path(&at.digest)] }]);
        let archive = Tarball::new()
            .file("manifest.json", list.to_string())
            .blob(&config, &one.config)
            .blob(&at, &layer)
            .finish();
        let into = Into::memory();
        let [image] = &into.import(&archive, &plain()).await.expect("imports")[..] else {
            panic!("one image")
        };
        let manifest: serde_json::Value =
            serde_json::from_slice(&into.fixture.content(&image.target.digest).await).expect("JSON");
        assert_eq!(manifest["layers"][0]["mediaType"], media_type);
        assert_eq!(manifest["layers"][0]["digest"], at.digest.as_str());
    }
}

#[tokio::test]
async fn names_come_from_the_archive_or_from_the_user() {
    let (one, two) = (Plain::new("one"), Plain::new("two"));
    let tagged = json!(one.manifest_at().with_annotation("org.opencontainers.image.ref.name", "1.0"));
    let archive = one.blobs(two.blobs(Tarball::layout(&json!([tagged, json!(two.manifest_at())])))).finish();
    let into = Into::memory();
    let words = ["is only tagged \"1.0\"", "has no name at all", "base name"];
    into.refused(&archive, &plain(), ErrorKind::InvalidArgument, &words).await;
    into.refused(&archive, &plain().with_base_name("a:1"), ErrorKind::InvalidArgument, &["base name"]).await;
    into.import(&archive, &plain().with_base_name("q.io/b").with_digests()).await.expect("imports");
    let (one_at, two_at) = (one.manifest_at().digest, two.manifest_at().digest);
    let mut expected = vec!["q.io/b:1.0".to_owned(), format!("q.io/b@{one_at}"), format!("q.io/b@{two_at}")];
    expected.sort();
    assert_eq!(into.names().await, expected);

    // One that has a name is enough; the other is told.
    let archive =
        one.blobs(two.blobs(Tarball::layout(&json!([one.named("q.io/one:1"), two.manifest_at()])))).finish();
    let (into, events) = (Into::memory(), Arc::new(Events::default()));
    into.import(&archive, &plain().with_sink(events.clone())).await.expect("imports");
    assert_eq!(into.names().await, ["q.io/one:1"]);
    assert!(events.with("warning")[0].contains(two_at.as_str()));
}

#[tokio::test]
async fn a_name_goes_to_another_image_only_if_it_may() {
    let (into, events) = (Into::memory(), Arc::new(Events::default()));
    let options = plain().with_sink(events.clone());
    let (one, two) = (Plain::new("one"), Plain::new("two"));
    let [first] = &into.import(&one.layout("q.io/b:1").finish(), &options).await.expect("imports")[..] else {
        panic!("one image")
    };
    let labelled = first.clone().with_labels([("mine".to_owned(), "1".to_owned())].into());
    into.images.update(labelled.clone(), &["labels"]).await.expect("updates");
    // The first name is free, and not taken either.
    let list = json!([two.named("q.io/a:1"), two.named("q.io/b:1")]);
    let archive = two.blobs(Tarball::layout(&list)).finish();
    let (old, new) = (one.manifest_at().digest, two.manifest_at().digest);
    let words = ["\"q.io/b:1\"", old.as_str(), new.as_str()];
    into.refused(&archive, &options, ErrorKind::AlreadyExists, &words).await;
    let there = into.images.get("q.io/b:1").await.expect("there");
    assert_eq!((&there.target.digest, &there.labels), (&old, &labelled.labels));
    assert!(events.with("warning").is_empty());

    into.import(&archive, &options.clone().replacing()).await.expect("imports");
    let [warning] = &events.with("warning")[..] else { panic!("one warning") };
    assert!(warning.contains("q.io/b:1") && warning.contains("is replaced"), "{warning}");
    for name in ["q.io/a:1", "q.io/b:1"] {
        let image = into.images.get(name).await.expect("there");
        assert_eq!(image.target.digest, new);
        assert!(image.labels.is_empty(), "they were of the other image");
    }
    into.import(&archive, &options).await.expect("the same images");
    assert_eq!(events.with("warning").len(), 1);
}

#[tokio::test]
async fn labels_that_the_user_gave_an_image_stay() {
    let into = Into::memory();
    let archive = Plain::new("one").layout("q.io/a:1").finish();
    let [image] = &into.import(&archive, &plain()).await.expect("imports")[..] else { panic!("one image") };
    let labelled = image.clone().with_labels([("mine".to_owned(), "1".to_owned())].into());
    into.images.update(labelled.clone(), &["labels"]).await.expect("updates");
    for options in [plain(), plain().replacing()] {
        let again = into.import(&archive, &options).await.expect("imports");
        assert_eq!(again[0].labels, labelled.labels);
    }
}

#[tokio::test]
async fn what_is_there_is_taken_and_what_is_demanded_must_be_whole() {
    let fixture = Fixture::memory();
    let one = fixture.image(&host(), "one").await;
    let two = fixture.image(&other(), "two").await;
    let index = Image::new("q.io/a:1", fixture.index(&[one.manifest.clone(), two.manifest.clone()]).await);
    let whole = export_bytes(&fixture, std::slice::from_ref(&index), &all()).await.expect("exports");
    let only = ExportOptions::default().with_selection(Selection::best([&other()]));
    let half = export_bytes(&fixture, std::slice::from_ref(&index), &only).await.expect("exports");
    let demand = |platform: &Platform| plain().with_selection(Selection::best([platform]));
    let everything = plain().with_selection(Selection::all());

    // Not the host's, and fine.
    Into::memory().import(&half, &plain()).await.expect("takes what is there");
    Into::memory().import(&half, &demand(&other())).await.expect("what is demanded is there");
    let into = Into::memory();
    let missing = one.manifest.digest.as_str();
    into.refused(&half, &demand(&host()), ErrorKind::NotFound, &[missing]).await;
    into.refused(&half, &everything, ErrorKind::NotFound, &[missing]).await;
    let words = ["no match for platform plan9/mips"];
    into.refused(&whole, &demand(&Platform::new("plan9", "mips")), ErrorKind::NotFound, &words).await;
    Into::memory().import(&whole, &everything).await.expect("whole");

    // Half a platform is told; of half an image nothing is recorded.
    let without = |digest: &Digest| {
        let mut tarball = Tarball::new();
        for (name, bytes) in by_name(&whole) {
            if !name.ends_with('/') && name != path(digest) {
                tarball = tarball.file(&name, bytes);
            }
        }
        tarball.finish()
    };
    let events = Arc::new(Events::default());
    let lacking = without(&two.layers[0].digest);
    Into::memory().import(&lacking, &plain().with_sink(events.clone())).await.expect("the other is whole");
    assert!(events.with("warning")[0].contains("linux/mips64"), "{:?}", events.with("warning"));
    let into = Into::memory();
    into.refused(&lacking, &everything, ErrorKind::NotFound, &[two.layers[0].digest.as_str()]).await;
    let into = Into::memory();
    into.refused(
        &without(&index.target.digest),
        &plain(),
        ErrorKind::NotFound,
        &[index.target.digest.as_str()],
    )
    .await;
    // What an earlier import brought counts.
    let into = Into::memory();
    into.import(&half, &plain()).await.expect("imports");
    into.import(&lacking, &everything).await.expect("together they are whole");
}

#[tokio::test]
async fn an_attestation_alone_is_no_image() {
    let fixture = Fixture::memory();
    let one = fixture.image(&host(), "one").await;
    let attestation = fixture.image(&Platform::new("unknown", "unknown"), "attestation").await;
    let target = fixture.index(&[one.manifest.clone(), attestation.manifest.clone()]).await;
    let index = Image::new("q.io/a:1", target);
    let archive = export_bytes(&fixture, std::slice::from_ref(&index), &all()).await.expect("exports");
    let without = |parts: &Parts| {
        let files = by_name(&archive).into_iter().filter(|(name, _)| !name.ends_with('/'));
        let kept = files.filter(|(name, _)| *name != path(&parts.manifest.digest));
        kept.fold(Tarball::new(), |tarball, (name, bytes)| tarball.file(&name, bytes)).finish()
    };
    let missing = one.manifest.digest.as_str();
    Into::memory().refused(&without(&one), &plain(), ErrorKind::NotFound, &[missing]).await;
    Into::memory().import(&without(&attestation), &plain()).await.expect("an image without its attestation");
}

#[tokio::test]
async fn what_may_not_be_distributed_may_be_missing() {
    let fixture = Fixture::memory();
    let foreign = Descriptor::of(types::OCI_LAYER_NON_DISTRIBUTABLE, b"foreign");
    let own = fixture.blob(types::OCI_LAYER, "own").await;
    let parts = fixture.image_of(&host(), &[foreign, own]).await;
    let options = all().skipping_non_distributable();
    let archive = export_bytes(&fixture, &[parts.named(NAME)], &options).await.expect("exports");
    Into::memory().import(&archive, &plain()).await.expect("imports");
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_keeps_what_was_chosen_and_nothing_else() {
    let fixture = Fixture::memory();
    let one = fixture.image(&host(), "one").await;
    let two = fixture.image(&other(), "two").await;
    let index = Image::new("q.io/a:1", fixture.index(&[one.manifest.clone(), two.manifest.clone()]).await);
    let archive = export_bytes(&fixture, std::slice::from_ref(&index), &all()).await.expect("exports");
    let dir = tempfile::tempdir().expect("temporary directory");
    let into = Into::local(&dir.path().join("store")).await;
    let chosen = plain().with_selection(Selection::best([&other()]));
    into.import(&archive, &chosen).await.expect("imports");
    assert_eq!(into.blobs().await.len(), 7);
    collect(into.fixture.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    let mut kept: Vec<_> = [&index.target, &two.manifest, &two.config, &two.layers[0]]
        .map(|descriptor| descriptor.digest.clone())
        .into();
    kept.sort();
    assert_eq!(into.blobs().await, kept);
    // The other platform comes later, and the labels of both stay.
    let chosen = plain().with_selection(Selection::best([&host()]));
    into.import(&archive, &chosen).await.expect("imports");
    collect(into.fixture.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(into.blobs().await.len(), 7);
}

#[tokio::test]
async fn parts_inside_descriptors_are_written() {
    let one = Plain::new("one");
    let mut config = one.config_at();
    config.data = Some("e30=".into());
    config.digest = Digest::sha256(b"{}");
    config.size = 2;
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string();
    let at = Descriptor::of(types::OCI_MANIFEST, manifest.as_bytes());
    let named = at.clone().with_annotation("io.containerd.image.name", "q.io/a:1");
    let archive = Tarball::layout(&json!([named])).blob(&at, &manifest).finish();
    let into = Into::memory();
    into.import(&archive, &plain()).await.expect("imports");
    assert_eq!(into.fixture.content(&config.digest).await, "{}");
}

/// Gives what it is sent, and waits for more.
struct Pipe(mpsc::Receiver<Vec<u8>>, io::Cursor<Vec<u8>>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.1.read(buffer)? {
                0 => match self.0.recv() {
                    Ok(more) => self.1 = io::Cursor::new(more),
                    Err(_) => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_import_keeps_what_is_complete_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let into = Into::local(&dir.path().join("store")).await;
    let big = Plain { layer: vec![7; 3 << 20], ..Plain::new("one") };
    let list = json!([big.named("q.io/a:1")]);
    let archive = Tarball::layout(&list)
        .blob(&big.config_at(), &big.config)
        .blob(&big.manifest_at(), big.manifest())
        .blob(&big.layer_at(), &big.layer)
        .finish();
    let (sender, receiver) = mpsc::channel();
    let (store, images) = (into.store(), Arc::clone(&into.images));
    let importing = tokio::spawn(async move {
        let pipe = Pipe(receiver, io::Cursor::default());
        import(store, images.as_ref(), pipe, &plain()).await
    });
    sender.send(archive[..1 << 20].to_vec()).expect("it listens");
    let begun = async {
        while into.blobs().await.len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), begun).await.expect("two blobs are complete");
    importing.abort();
    assert!(importing.await.expect_err("aborted").is_cancelled());
    drop(sender);
    assert!(into.names().await.is_empty());
    assert_eq!(into.leases().await, 1, "a lease keeps what there is");
    collect(into.fixture.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(into.blobs().await.len(), 2);

    let events = Arc::new(Events::default());
    into.import(&archive, &plain().with_sink(events.clone())).await.expect("imports");
    assert_eq!(into.names().await, ["q.io/a:1"]);
    assert_eq!(events.with("done").len(), 1, "the others were there");
}

#[tokio::test]
async fn files_of_the_system() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("a.tar");
    std::fs::write(&file, Plain::new("one").layout("q.io/a:1").finish()).expect("writes");
    let into = Into::memory();
    let options = plain();
    let from =
        |path: std::path::PathBuf| import_from_file(path, into.store(), into.images.as_ref(), &options);
    from(file).await.expect("imports");
    assert_eq!(from(dir.path().join("none")).await.expect_err("none").kind(), ErrorKind::NotFound);
    let error = from(dir.path().to_owned()).await.expect_err("a directory");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

/// A format of one line: the text of a manifest.
#[derive(Debug)]
struct Line(Sniff);

#[async_trait::async_trait]
impl wharf_archive::ArchiveFormat for Line {
    async fn export(
        &self,
        _: Arc<dyn Provider>,
        _: &[Image],
        _: &ExportOptions,
        _: &mut wharf_archive::Output<'_>,
    ) -> Result<wharf_archive::Exported> {
        unreachable!("nothing is exported")
    }

    fn sniff(&self, head: &[u8]) -> Sniff {
        if head.starts_with(b"{") { self.0 } else { Sniff::No }
    }

    async fn import(
        &self,
        store: Arc<dyn Store>,
        mut input: Input,
        _: &ImportOptions,
    ) -> Result<Vec<Descriptor>> {
        let mut text = Vec::new();
        input.read_to_end(&mut text).expect("reads");
        let fixture = Fixture { store, algorithm: Algorithm::Sha256 };
        let at = fixture.blob("application/x-line", text).await;
        Ok(vec![at.with_annotation("io.containerd.image.name", "line")])
    }
}

#[tokio::test]
async fn the_catalogue_chooses_the_format() {
    let with = |name: &'static str, sure: Sniff| {
        Registration::<wharf_archive::ArchiveFormats>::shared(
            name,
            [name.to_owned()],
            0,
            "test",
            Arc::new(Line(sure)),
        )
    };
    let catalogue = Catalogue::linked().clone().with(with("line", Sniff::Format));
    let options = plain().with_catalogue(catalogue.clone());
    let into = Into::memory();
    into.import(&gzip(b"{}"), &options).await.expect("a line");
    into.import(&Plain::new("one").layout("q.io/a:1").finish(), &options).await.expect("a tar");
    assert_eq!(into.names().await, ["line", "q.io/a:1"]);
    into.refused(b"{}", &plain(), ErrorKind::InvalidArgument, &["no format", "oci-archive"]).await;
    let words = ["unknown archive format", "line", "oci-archive"];
    into.refused(b"{}", &options.clone().with_format("x"), ErrorKind::InvalidArgument, &words).await;
    let both = plain().with_catalogue(catalogue.clone().with(with("other", Sniff::Format)));
    into.refused(b"{}", &both, ErrorKind::Conflict, &["line, other"]).await;
    let surer = plain().with_catalogue(catalogue.with(with("other", Sniff::Container)));
    into.import(b"{}", &surer).await.expect("the surest");
}

/// A manifest that is about another one.
async fn about(fixture: &Fixture, subject: &Descriptor, text: &str) -> (Descriptor, Descriptor) {
    let payload = fixture.blob("application/x-payload", text.to_owned()).await;
    let config = fixture.blob(types::OCI_EMPTY, "{}").await;
    let mut subject = subject.clone();
    subject.platform = None;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "artifactType": "application/x-test",
        "config": config, "layers": [payload], "subject": subject,
    });
    (fixture.blob(types::OCI_MANIFEST, manifest.to_string()).await, payload)
}

async fn gathered(store: &dyn Store) -> StoredReferrers {
    StoredReferrers::gather(store, Catalogue::linked()).await.expect("gathers")
}

async fn referrers(store: &dyn Store, subject: &Descriptor) -> Vec<Digest> {
    let found = gathered(store).await.referrers(subject).await.expect("lists");
    found.into_iter().map(|referrer| referrer.digest).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_images_goes_along_on_request_and_comes_back() {
    let fixture = Fixture::memory();
    let (one, two) = (fixture.image(&host(), "one").await, fixture.image(&other(), "two").await);
    let index = fixture.index(&[one.manifest.clone(), two.manifest.clone()]).await;
    let (of_index, _) = about(&fixture, &index, "of the index").await;
    let (of_one, _) = about(&fixture, &one.manifest, "of one platform").await;
    let (of_that, _) = about(&fixture, &of_one, "of what is about it").await;
    let (of_other, _) = about(&fixture, &two.manifest, "of the other platform").await;
    let (elsewhere, _) = about(&fixture, &fixture.image(&host(), "elsewhere").await.manifest, "more").await;
    let image = Image::new("quay.io/a:1", index.clone());
    let found = Arc::new(gathered(fixture.store.as_ref()).await);
    let own = ExportOptions::default();
    for (options, expected) in [
        (own.clone(), vec![]),
        (own.clone().with_referrers(found.clone()), vec![&of_index, &of_one, &of_that]),
        (all().with_referrers(found.clone()), vec![&of_index, &of_one, &of_that, &of_other]),
    ] {
        let archive =
            export_bytes(&fixture, &[image.clone(), image.clone()], &options).await.expect("exports");
        let listed: serde_json::Value =
            serde_json::from_slice(&by_name(&archive)["index.json"]).expect("an index");
        let mut wanted: Vec<_> = expected
            .iter()
            .map(|at| json!({ "mediaType": at.media_type, "digest": at.digest, "size": at.size }))
            .collect();
        wanted.sort_by_key(|entry| entry["digest"].to_string());
        let (named, unnamed): (Vec<_>, Vec<_>) = listed["manifests"]
            .as_array()
            .expect("a list")
            .iter()
            .cloned()
            .partition(|entry| entry["annotations"].is_object());
        assert_eq!((named.len(), &unnamed), (1, &wanted));

        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = dir.path().join("layout");
        tar::Archive::new(&archive[..]).unpack(&layout).expect("unpacks");
        for is_directory in [false, true] {
            let into = Into::local(&dir.path().join(format!("store-{is_directory}"))).await;
            let store = into.fixture.store.as_ref();
            let events = Arc::new(Events::default());
            let options = plain().with_base_name("quay.io/a").with_sink(events.clone());
            let imported = if is_directory {
                import_from_file(&layout, into.fixture.store.clone(), into.images.as_ref(), &options).await
            } else {
                into.import(&archive, &options).await
            };
            let names: Vec<_> = imported.expect("imports").into_iter().map(|image| image.name).collect();
            assert_eq!(names, ["quay.io/a:1"], "what has no name of its own gets none");
            assert_eq!(events.with("warning"), [""; 0]);
            assert_eq!(collect(store, &CollectOptions::default()).await.expect("collects"), []);
            for (subject, referrer) in [
                (&index, &of_index),
                (&one.manifest, &of_one),
                (&of_one, &of_that),
                (&two.manifest, &of_other),
            ] {
                let is_there = expected.contains(&referrer);
                let wanted: Vec<_> = is_there.then(|| referrer.digest.clone()).into_iter().collect();
                assert_eq!(referrers(store, subject).await, wanted);
            }
            let images = into.images.list(&FilterSet::all()).await.expect("lists");
            let again = Arc::new(gathered(store).await);
            let same = ExportOptions::default().with_selection(options_of(&expected, &of_other));
            let again =
                export_bytes(&into.fixture, &images, &same.with_referrers(again)).await.expect("exports");
            if !expected.is_empty() {
                assert!(again == archive, "the same to the byte");
            }
        }
    }
    assert!(!referrers(fixture.store.as_ref(), &one.manifest).await.contains(&elsewhere.digest));
}

fn options_of(expected: &[&Descriptor], of_other: &Descriptor) -> Selection {
    if expected.contains(&of_other) { Selection::all() } else { Selection::host() }
}

#[tokio::test]
async fn what_refers_to_an_image_and_is_not_whole_is_told() {
    let fixture = Fixture::memory();
    let one = fixture.image(&host(), "one").await;
    let (good, _) = about(&fixture, &one.manifest, "good").await;
    let (half, payload) = about(&fixture, &one.manifest, "half").await;
    fixture.store.delete(&payload.digest).await.expect("deletes");
    let found = Arc::new(gathered(fixture.store.as_ref()).await);
    let options = all().with_referrers(found);
    let error = export_bytes(&fixture, &[one.named(NAME)], &options).await.expect_err("lacks a part");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains(payload.digest.as_str()), "{}", error.report());
    let archive =
        export_bytes(&fixture, &[one.named(NAME)], &options.skipping_missing()).await.expect("exports");
    let dir = tempfile::tempdir().expect("temporary directory");
    let into = Into::local(dir.path()).await;
    let events = Arc::new(Events::default());
    into.import(&archive, &plain().with_sink(events.clone())).await.expect("imports");
    let told = events.with("warning");
    assert!(told.len() == 1 && told[0].contains(half.digest.as_str()), "{told:?}");
    collect(into.fixture.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(referrers(into.fixture.store.as_ref(), &one.manifest).await, [good.digest]);
}

#[tokio::test]
async fn what_refers_to_nothing_that_is_there_is_an_image_like_others() {
    let fixture = Fixture::memory();
    let one = fixture.image(&host(), "one").await;
    let (alone, _) = about(&fixture, &one.manifest, "alone").await;
    let archive = Tarball::new();
    let mut manifests = vec![];
    let mut archive = archive;
    for blob in [&alone.digest, &Digest::sha256(b"{}"), &Digest::sha256(b"alone")] {
        archive = archive.file(&path(blob), &fixture.content(blob).await);
    }
    manifests.push(alone.clone());
    let archive = archive
        .file("index.json", json!({ "schemaVersion": 2, "manifests": manifests }).to_string())
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .finish();
    let into = Into::memory();
    let error = into.import(&archive, &plain()).await.expect_err("has no name");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let images = into.import(&archive, &plain().with_base_name("quay.io/a")).await.expect("imports");
    assert_eq!(images[0].name, format!("quay.io/a@{}", alone.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_of_an_archive_is_an_image_where_it_is_wanted() {
    let fixture = Fixture::memory();
    let images = [
        fixture.image(&host(), "one").await.named("quay.io/a:1"),
        fixture.image(&other(), "two").await.named("quay.io/a:2"),
    ];
    let layout = export_bytes(&fixture, &images, &all()).await.expect("exports");
    let dir = tempfile::tempdir().expect("temporary directory");
    tar::Archive::new(&layout[..]).unpack(dir.path()).expect("unpacks");
    let index =
        Descriptor::of(types::OCI_INDEX, &std::fs::read(dir.path().join("index.json")).expect("reads"));
    let (_, _, docker) = docker(Tarball::hard);
    let options = plain().with_index_name("quay.io/all").with_digests();
    for (archive, count) in [(Some(layout), 2), (None, 2), (Some(docker), 3)] {
        let is_layout = count == 2;
        let into = Into::memory();
        let imported = if let Some(archive) = &archive {
            into.import(archive, &options).await
        } else {
            let (store, images) = (Arc::clone(&into.fixture.store), into.images.as_ref());
            import_from_file(dir.path(), store, images, &options).await
        };
        let imported = imported.expect("imports");
        let names: Vec<_> = imported.iter().filter(|image| !image.name.contains('@')).collect();
        assert_eq!(names.len(), count + 1, "{names:?}");
        let all = names.iter().find(|image| image.name == "quay.io/all:latest").expect("recorded");
        assert_eq!(all.target.media_type, types::OCI_INDEX);
        assert!(!is_layout || all.target.digest == index.digest, "as it stands");
        let by_digest = format!("@{}", all.target.digest);
        assert!(!imported.iter().any(|image| image.name.ends_with(&by_digest)), "it has its name");
        // It leads to all images.
        let found = image::platforms(into.fixture.store.as_ref(), &all.target, Catalogue::linked()).await;
        assert_eq!(found.expect("reads").len(), 2);
    }
    // An archive does not choose that name.
    let (into, taken) = (Into::memory(), fixture.image(&host(), "one").await.named("quay.io/all:latest"));
    let archive = export_bytes(&fixture, &[taken], &all()).await.expect("exports");
    let error = into.import(&archive, &options).await.expect_err("two of that name");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}
