//! Damage to a store that was pulled into: found by verifying and by exporting, and repaired from the registry.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use wharf_archive::ExportOptions;
use wharf_content::{
    Catalogue, Descriptor, Digest, ErrorKind, IngestOptions, Ingester, LocalStore, Manager, Provider, Store,
    read_blob, verify::VerifyOptions,
};
use wharf_images::{
    Image, ImageStore, Role, Selection, collect, decode, image, image_store,
    transport::{Resolver, TransportOptions, Transports},
    verify::{Problem, Report, verify, verify_images},
};
use wharf_remotes::{PullOptions, RepairOptions, Repaired, pull, registry::RegistrySettings, repair};
use wharf_tests::{ImageFixture, Layer, TestRegistry};

const SOURCE: &str = "containerd.io/distribution.source.127.0.0.1";

struct Client {
    _dir: tempfile::TempDir,
    store: Arc<LocalStore>,
    images: Arc<dyn ImageStore>,
    resolver: Arc<dyn Resolver>,
}

impl Client {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
        let images = image_store(store.as_ref()).expect("opens");
        let transport =
            Catalogue::linked().find::<Transports>("docker").expect("no conflict").expect("linked");
        let settings = RegistrySettings::new().with_retries(0, std::time::Duration::ZERO);
        let resolver = transport.resolver(&TransportOptions::new().with(settings)).expect("makes a resolver");
        Self { _dir: dir, store, images, resolver }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn pull(&self, name: &str, platforms: &[&str]) -> Image {
        let platforms = wharf_platforms::parse_all(platforms).expect("platforms");
        let options = PullOptions::new().with_selection(Selection::best(&platforms));
        pull(self.store(), self.images.as_ref(), self.resolver.as_ref(), name, options).await.expect("pulls")
    }

    async fn verify(&self) -> Report {
        verify(self.store(), self.images.as_ref(), &VerifyOptions::default(), Catalogue::linked())
            .await
            .expect("verifies")
    }

    async fn repair(&self) -> Repaired {
        let report = self.verify().await;
        repair(self.store(), self.images.as_ref(), self.resolver.as_ref(), report, &RepairOptions::new())
            .await
            .expect("repairs")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.store.root().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn quarantine(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.store.root().join("quarantine")) else { return Vec::new() };
        entries.map(|entry| entry.expect("lists").path()).collect()
    }

    async fn source(&self, digest: &Digest) -> Option<String> {
        self.store.info(digest).await.expect("there").labels.get(SOURCE).cloned()
    }

    /// The index, and of its first platform that is here the manifest, the config and the first layer.
    async fn parts(&self, image: &Image) -> [Descriptor; 4] {
        let manifest =
            image::manifest(self.store.as_ref(), &image.target, &Selection::all(), Catalogue::linked())
                .await
                .expect("there");
        let config = manifest.config().expect("a config").clone();
        let layer = manifest.layers().next().expect("a layer").clone();
        [image.target.clone(), manifest.descriptor, config, layer]
    }
}

fn two_platforms() -> ImageFixture {
    ["linux/amd64", "linux/arm64"].into_iter().fold(ImageFixture::new(), |image, platform| {
        image.with(platform, vec![Layer::noise("data", 50_000, 3), Layer::of("platform", platform)])
    })
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("reads");
    change(&mut bytes);
    fs::remove_file(path).expect("removes");
    fs::write(path, bytes).expect("writes");
}

type Harm = fn(&Path);

const KINDS: &[(&str, Harm)] = &[
    ("bit flip", |path| rewrite(path, |bytes| bytes[7] ^= 4)),
    ("truncated", |path| rewrite(path, |bytes| bytes.truncate(bytes.len() / 2))),
    ("extended", |path| rewrite(path, |bytes| bytes.push(0))),
    ("symlink", |path| {
        let aside = path.ancestors().nth(4).expect("above the store").join("aside");
        fs::rename(path, &aside).expect("moves");
        symlink(aside, path).expect("links");
    }),
    ("FIFO", |path| {
        fs::remove_file(path).expect("removes");
        assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
    }),
];

#[tokio::test]
async fn every_kind_of_damage_is_found_and_repaired() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    let client = Client::new().await;
    let image = client.pull(&name, &["linux/amd64"]).await;
    let clean = client.verify().await;
    assert!(clean.is_clean(), "{clean:?}");
    assert_eq!(
        (clean.blobs, clean.images.len()),
        (5, 1),
        "the other platform was never pulled and is not missed"
    );

    let mut quarantined = 0;
    for part in client.parts(&image).await {
        for (kind, harm) in KINDS {
            harm(&client.blob(&part.digest));
            let found = client.verify().await;
            assert_eq!(found.damaged.keys().collect::<Vec<_>>(), [&part.digest], "{kind}");
            assert_eq!(found.images_of(&part.digest).collect::<Vec<_>>(), [&name], "{kind}");
            let options = ExportOptions::new().with_selection(Selection::best(
                &wharf_platforms::parse_all(["linux/amd64"]).expect("a platform"),
            ));
            let mut archive = Vec::new();
            let images = std::slice::from_ref(&image);
            let error = wharf_archive::export(client.store.clone(), images, &options, &mut archive)
                .await
                .expect_err("an export finds it too");
            assert!(
                matches!(error.kind(), ErrorKind::DataLoss | ErrorKind::FailedPrecondition),
                "{kind} of {}: {}",
                part.media_type,
                error.report()
            );

            let done = client.repair().await;
            assert!(
                done.failed.is_empty() && done.left.is_clean(),
                "{kind} of {}: {done:?}",
                part.media_type
            );
            assert_eq!(done.quarantined.len(), 1);
            assert_eq!(done.fetched, [(part.digest.clone(), format!("{}/a/b", registry.address()))]);
            quarantined += 1;
            assert_eq!(client.quarantine().len(), quarantined, "nothing is lost");
            assert!(client.verify().await.is_clean());
            assert_eq!(client.source(&part.digest).await.as_deref(), Some("a/b"));
            wharf_archive::export(client.store.clone(), images, &options, &mut Vec::new())
                .await
                .expect("exports");
        }
    }
    // Labels came back too: nothing of the image may be collected.
    let collected = collect(client.store.as_ref(), &wharf_content::gc::CollectOptions::new()).await;
    assert!(collected.expect("collects").is_empty());
}

#[tokio::test]
async fn damage_below_a_damaged_document_comes_to_light_and_is_repaired_too() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    for only in [false, true] {
        let client = Client::new().await;
        let image = client.pull(&name, &["linux/amd64"]).await;
        let parts = client.parts(&image).await;
        for part in &parts {
            rewrite(&client.blob(&part.digest), |bytes| bytes.push(b' '));
        }
        let report = if only {
            let options = VerifyOptions::default();
            let only = vec![image.clone()];
            verify_images(client.store(), client.images.as_ref(), only, &options, Catalogue::linked())
                .await
                .expect("verifies")
        } else {
            client.verify().await
        };
        assert_eq!(report.damaged.len(), if only { 1 } else { 4 }, "what is below cannot be known");
        let options = RepairOptions::new();
        let done = repair(client.store(), client.images.as_ref(), client.resolver.as_ref(), report, &options)
            .await
            .expect("repairs");
        assert!(done.failed.is_empty() && done.left.is_clean(), "{done:?}");
        assert_eq!((done.quarantined.len(), done.fetched.len()), (4, 4));
        assert!(client.verify().await.is_clean());
    }
}

#[tokio::test]
async fn a_registry_that_is_gone_is_told_and_nothing_is_lost() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    let client = Client::new().await;
    let image = client.pull(&name, &["linux/amd64"]).await;
    let address = registry.address();
    drop(registry);
    let [_, manifest, _, layer] = client.parts(&image).await;
    for part in [&layer, &manifest] {
        let before = client.quarantine().len();
        rewrite(&client.blob(&part.digest), |bytes| bytes.push(b' '));
        let bytes = fs::read(client.blob(&part.digest)).expect("reads");
        let done = client.repair().await;
        assert!(!done.left.is_clean());
        assert_eq!(done.quarantined.len(), 1);
        assert_eq!(fs::read(&done.quarantined[0].1).expect("kept"), bytes);
        let told: Vec<String> = done.failed.iter().map(|(_, error)| error.report()).collect();
        assert!(
            told.iter().any(|told| told.contains(&address) && told.contains(part.digest.as_str())),
            "{told:?}"
        );
        assert_eq!(client.quarantine().len(), before + 1);
        let again = client.verify().await;
        assert!(
            again
                .faults
                .iter()
                .any(|fault| fault.descriptor.digest == part.digest && fault.problem == Problem::Missing),
            "still missed by a later run: {again:?}"
        );
    }
    let collected = collect(client.store.as_ref(), &wharf_content::gc::CollectOptions::new().dry_run()).await;
    drop(collected.expect("a collection goes through it"));
}

#[tokio::test]
async fn what_is_missing_is_told_from_what_was_never_pulled() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    let client = Client::new().await;
    let image = client.pull(&name, &["linux/amd64"]).await;
    let [index, manifest, config, _] = client.parts(&image).await;
    client.store.delete(&config.digest).await.expect("removes");
    let found = client.verify().await;
    let told: Vec<_> = found.faults.iter().map(|fault| (&fault.descriptor, &fault.problem)).collect();
    assert_eq!(told, [(&config, &Problem::Missing)]);
    let done = client.repair().await;
    assert!(done.left.is_clean() && done.quarantined.is_empty(), "{done:?}");
    assert_eq!(client.source(&config.digest).await.as_deref(), Some("a/b"));

    client.store.delete(&manifest.digest).await.expect("removes");
    let found = client.verify().await;
    let told: Vec<_> = found.faults.iter().map(|fault| (&fault.descriptor, &fault.problem)).collect();
    assert_eq!(told, [(&index, &Problem::Empty)], "no platform is left");
    client.store.delete(&index.digest).await.expect("removes");
    let done = client.repair().await;
    assert_eq!(done.fetched.len(), 1);
    assert_eq!(done.left.faults[0].problem, Problem::Empty, "which platform was wanted nobody knows");
    client.pull(&name, &["linux/amd64"]).await;
    assert!(client.verify().await.is_clean());
}

#[tokio::test]
async fn strays_the_view_and_ingests() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    let client = Client::new().await;
    client.pull(&name, &["linux/amd64"]).await;
    drop(client.store.writer(IngestOptions::new("half")).await.expect("opens"));
    let root = client.store.root().to_owned();
    let good = fs::read(root.join("index.json")).expect("reads");
    fs::write(root.join("blobs/sha256/note"), "x").expect("writes");
    let found = client.verify().await;
    assert_eq!((found.strays.len(), found.ingests.len()), (1, 1));
    let changes: [(&str, Harm); 4] = [
        ("emptied", |path| fs::write(path, "{}").expect("writes")),
        ("gone", |path| fs::remove_file(path).expect("removes")),
        ("a link", |path| {
            fs::remove_file(path).expect("removes");
            symlink("oci-layout", path).expect("links");
        }),
        ("one more", |path| {
            let text = fs::read_to_string(path).expect("reads");
            fs::write(path, text.replace("\"manifests\":[", "\"manifests\":[{},")).expect("writes");
        }),
    ];
    for (kind, change) in changes {
        change(&root.join("index.json"));
        assert!(client.verify().await.view.is_some(), "{kind}");
        let done = client.repair().await;
        assert!(done.is_view_rewritten && done.left.is_clean(), "{kind}: {done:?}");
        assert_eq!(fs::read(root.join("index.json")).expect("reads"), good, "{kind}");
    }
    let pretty: serde_json::Value = serde_json::from_slice(&good).expect("JSON");
    fs::write(root.join("index.json"), serde_json::to_vec_pretty(&pretty).expect("JSON")).expect("writes");
    let clean = client.verify().await;
    assert!(clean.is_clean() && clean.ingests.len() == 1, "{clean:?}");
}

#[tokio::test]
async fn sources_are_labelled_gathered_and_found_by_another_name() {
    let registry = TestRegistry::start().await;
    let (one, other) = (two_platforms(), two_platforms());
    let names =
        [registry.put("z:1", &one).await.expect("puts"), registry.put("a/b:1", &other).await.expect("puts")];
    let client = Client::new().await;
    let image = client.pull(&names[0], &["linux/amd64"]).await;
    client.pull(&names[1], &["linux/amd64"]).await;
    let before = client.store.info(&image.target.digest).await.expect("there");
    client.pull(&names[1], &["linux/amd64"]).await;
    let after = client.store.info(&image.target.digest).await.expect("there");
    assert_eq!(before, after, "a repeated pull writes nothing");
    for part in client.parts(&image).await {
        assert_eq!(client.source(&part.digest).await.as_deref(), Some("a/b,z"));
    }
    // A name of the user's own: the label says where, and another image's name at which port.
    let own = Image::new("my own name", image.target.clone());
    wharf_images::record::put(client.images.as_ref(), own).await.expect("records");
    client.images.delete(&names[0], None).await.expect("removes");
    let [_, manifest, _, layer] = client.parts(&image).await;
    let bytes = read_blob(client.store.as_ref(), &manifest, 1 << 20).await.expect("reads");
    assert!(
        decode(client.store.as_ref(), &manifest, Catalogue::linked())
            .await
            .expect("decodes")
            .is_some_and(|decoded| decoded.child(Role::Layer) == Some(&layer))
    );
    rewrite(&client.blob(&manifest.digest), |bytes| bytes[0] = b'[');
    let done = client.repair().await;
    assert!(done.left.is_clean(), "{done:?}");
    assert_eq!(done.fetched[0].1, format!("{}/a/b", registry.address()));
    assert_eq!(read_blob(client.store.as_ref(), &manifest, 1 << 20).await.expect("reads"), bytes);
    assert!(client.store.reader(&manifest).await.is_ok());
}

#[tokio::test]
async fn a_damaged_blob_that_no_image_needs_is_moved_away_and_not_fetched() {
    let client = Client::new().await;
    let orphan = wharf_tests::image::put(client.store.as_ref(), "x", b"orphan".to_vec()).await.expect("puts");
    rewrite(&client.blob(&orphan.digest), |bytes| bytes.push(b'x'));
    let done = client.repair().await;
    assert_eq!((done.quarantined.len(), done.fetched.len(), done.failed.len()), (1, 0, 0));
    assert!(done.left.is_clean() && client.verify().await.is_clean());
}
