//! Layers in a store's directory: shared, complete or not there, and collected with the images that need them. Each is unpacked as the user
//! who runs the tests, and as root also with the image's owners.

mod fixtures;
#[path = "layer_store/links.rs"]
mod links;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use fixtures::Fixture;
use serde_json::json;
use wharf_archive::{
    LayerStore, UnpackOptions, UnpackedLayers, Unpacker, apply::Ownership, layer_store, unpack_layers,
};
use wharf_content::{
    BlobReader, Descriptor, Digest, Labels, LeasedStore, LocalStore, Manager, Result, follow::Follower,
    gc::CollectOptions, read_blob,
};
use wharf_images::{Flow, Handler, Image, collect_with, image_store, media_types as types};

/// A layer in the making.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, name: &str, kind: tar::EntryType, mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            header.set_link_name_literal(content).expect("fits");
            header.set_size(0);
            header.set_cksum();
            self.0.append(&header, &b""[..]).expect("writing to memory");
            return self;
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).expect("writing to memory");
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.add(name, tar::EntryType::Regular, 0o644, content.as_bytes())
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.add(name, tar::EntryType::Directory, mode, b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(name, tar::EntryType::Symlink, 0o777, target.as_bytes())
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.add(name, tar::EntryType::Link, 0o644, target.as_bytes())
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("writing to memory")
    }
}

struct Place {
    dir: tempfile::TempDir,
    fixture: Fixture,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let fixture = Fixture::local(&dir.path().join("store")).await;
        Self { dir, fixture }
    }

    fn layers(&self) -> LayerStore {
        LayerStore::of(self.fixture.store.as_ref()).expect("in a directory")
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store/layers")
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path()) else { return Vec::new() };
        entries.map(|entry| entry.expect("lists").file_name().to_string_lossy().into_owned()).collect()
    }

    /// An image whose config tells what the layers are, or something else.
    async fn image(&self, name: &str, layers: Vec<Vec<u8>>, diff_ids: Option<Vec<Digest>>) -> Image {
        let told = diff_ids.unwrap_or_else(|| layers.iter().map(|layer| Digest::sha256(layer)).collect());
        let config = json!({
            "architecture": "amd64", "os": "linux", "name": name, "rootfs": { "type": "layers", "diff_ids": told },
        });
        let config = self.fixture.blob(types::OCI_CONFIG, config.to_string()).await;
        let mut blobs = Vec::new();
        for layer in layers {
            blobs.push(self.fixture.blob(types::OCI_LAYER, layer).await);
        }
        let manifest = self.fixture.manifest(&config, &blobs).await;
        wharf_images::labels::hold_children(
            self.fixture.store.as_ref(),
            &manifest,
            &[&[config], &blobs[..]].concat(),
        )
        .await
        .expect("labels");
        let images = image_store(self.fixture.store.as_ref()).expect("records");
        images.create(Image::new(name, manifest)).await.expect("records")
    }

    async fn unpack(&self, target: &Descriptor, ownership: Ownership) -> Result<UnpackedLayers> {
        let leased = LeasedStore::hold(Arc::clone(&self.fixture.store), Labels::new()).await?;
        let options =
            UnpackOptions::new().with_ownership(ownership).with_selection(wharf_images::Selection::all());
        let unpacked = unpack_layers(&leased, target, &options).await;
        leased.release().await?;
        unpacked
    }

    async fn collect(&self) -> Vec<String> {
        let layers = self.layers();
        let collected = collect_with(self.fixture.store.as_ref(), &[&layers], &CollectOptions::new())
            .await
            .expect("collects");
        collected
            .into_iter()
            .map(|one| one.resource.to_string())
            .filter(|name| name.starts_with("snap"))
            .collect()
    }

    async fn remove(&self, name: &str) {
        let images = image_store(self.fixture.store.as_ref()).expect("records");
        images.delete(name, None).await.expect("removes");
    }
}

/// As whom layers can be unpacked here.
fn ownerships() -> Vec<Ownership> {
    let mut ownerships = vec![Ownership::User];
    if rustix::process::geteuid().is_root() {
        ownerships.push(Ownership::Image);
    }
    ownerships
}

fn base() -> Vec<u8> {
    Tar::new()
        .dir("./", 0o751)
        .dir("etc", 0o710)
        .dir("etc/deep", 0o700)
        .file("etc/deep/a", "a")
        .file("etc/old", "old")
        .dir("var", 0o755)
        .file("var/x", "x")
        .link("lib", "usr/lib")
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .bytes()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_there_by_themselves_and_shared() {
    for ownership in ownerships() {
        let place = Place::new().await;
        let top = Tar::new().file("etc/deep/b", "b").file("etc/.wh.old", "").file("new/c", "c").bytes();
        let opaque = Tar::new().file("var/.wh..wh..opq", "").file("var/sub/y", "y").bytes();
        let one = place.image("one", vec![base(), top], None).await;
        let two = place.image("two", vec![base(), opaque], None).await;
        let first = place.unpack(&one.target, ownership).await.expect("unpacks");
        assert_eq!(first.layers.iter().map(|layer| layer.is_new).collect::<Vec<_>>(), [true, true]);
        let second = place.unpack(&two.target, ownership).await.expect("unpacks");
        assert_eq!(second.layers.iter().map(|layer| layer.is_new).collect::<Vec<_>>(), [false, true]);
        assert_eq!(first.layers[0].directory, second.layers[0].directory);
        assert_eq!(place.names().len(), 3, "{:?}", place.names());

        let lower = &first.layers[0].directory;
        assert_eq!(fs::read_to_string(lower.join("etc/old")).expect("stays"), "old");
        let upper = &first.layers[1].directory;
        assert_eq!(fs::read_to_string(upper.join("etc/deep/b")).expect("reads"), "b");
        assert!(!upper.join("etc/deep/a").exists());
        let hidden = fs::symlink_metadata(upper.join("etc/old")).expect("there");
        assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
        // What the layer does not describe is as below, and where there is nothing below as everywhere.
        for (path, expected) in [("", 0o751), ("etc", 0o710), ("etc/deep", 0o700), ("new", 0o755)] {
            assert_eq!(mode(&upper.join(path)), expected, "{path}");
        }
        assert_eq!(fs::metadata(upper.join("etc/deep")).expect("there").mtime(), 1_000_000);
        assert_eq!(mode(&second.layers[1].directory.join("var")), 0o755);

        // Nothing is unpacked again.
        let again = place.unpack(&two.target, ownership).await.expect("unpacks");
        assert!(again.layers.iter().all(|layer| !layer.is_new) && again.entries == 0);
        assert_eq!(again.chain_id(), second.chain_id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_below_what_is_opaque_takes_nothing_from_below() {
    let place = Place::new().await;
    let below = Tar::new().dir("d", 0o700).dir("d/e", 0o711).bytes();
    let opaque = Tar::new().file("d/.wh..wh..opq", "").bytes();
    let top = Tar::new().file("d/e/x", "").bytes();
    let image = place.image("a", vec![below, opaque, top], None).await;
    let unpacked = place.unpack(&image.target, ownerships()[0]).await.expect("unpacks");
    let top = &unpacked.layers[2].directory;
    assert_eq!((mode(&top.join("d")), mode(&top.join("d/e"))), (0o700, 0o755));
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_are_there_only_where_they_can_hide_something() {
    for ownership in ownerships() {
        let place = Place::new().await;
        let below = Tar::new()
            .dir("d", 0o755)
            .file("d/x", "x")
            .dir("o", 0o755)
            .file("o/x", "x")
            .dir("gone", 0o755)
            .file("gone/x", "x")
            .bytes();
        let middle = Tar::new().file(".wh.gone", "").file("late/y", "y").bytes();
        // Overlayfs hides whiteouts in directories that it merges, and lists those in others.
        let top = Tar::new()
            .file("d/.wh.x", "")
            .file("d/.wh.nothing", "")
            .file("d/new/.wh.a", "")
            .dir("own", 0o555)
            .file("own/.wh.b", "")
            .file("own/deep/er/.wh.c", "")
            .file("own/deep/kept", "")
            .file("o/.wh.x", "")
            .file("o/.wh..wh..opq", "")
            .file("gone/.wh.x", "")
            .file("late/.wh.y", "")
            .file(".wh.root", "")
            .bytes();
        let image = place.image("a", vec![below, middle, top], None).await;
        let unpacked = place.unpack(&image.target, ownership).await.expect("unpacks");
        let top = &unpacked.layers[2].directory;
        for (path, is_there) in [
            ("d/x", true),
            ("d/nothing", true),
            ("late/y", true),
            ("root", true),
            ("d/new/a", false),
            ("own/b", false),
            ("own/deep/er/c", false),
            ("o/x", false),
            ("gone/x", false),
        ] {
            let found = fs::symlink_metadata(top.join(path));
            assert_eq!(found.is_ok(), is_there, "{path}");
            assert!(found.map_or(true, |found| found.file_type().is_char_device() && found.rdev() == 0));
        }
        // The directories themselves are as they were.
        assert!(
            top.join("own/deep/kept").exists() && top.join("own/deep/er").is_dir() && top.join("o").is_dir()
        );
        assert_eq!(fs::metadata(top.join("own")).expect("there").mtime(), 1_000_000);
        assert_eq!(mode(&top.join("own")) & 0o77, 0o55);
        let lowest = Tar::new().file("d/.wh.x", "").file("d/y", "y").bytes();
        let image = place.image("b", vec![lowest], None).await;
        let unpacked = place.unpack(&image.target, ownership).await.expect("unpacks");
        assert!(fs::symlink_metadata(unpacked.layers[0].directory.join("d/x")).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_leaves_nothing() {
    let other = Digest::sha256(b"other");
    let good = Digest::sha256(&base());
    for (layers, diff_ids, what) in [
        (vec![base()], vec![other.clone()], "diff id mismatch"),
        (vec![base(), base()], vec![good.clone(), other], "diff id mismatch"),
        (vec![base()], vec![good.clone(), good.clone()], "has 1 layers"),
        (vec![b"no tar at all".to_vec()], vec![Digest::sha256(b"no tar at all")], "layer sha256:"),
    ] {
        let place = Place::new().await;
        let image = place.image("a", layers, Some(diff_ids)).await;
        let error = place.unpack(&image.target, ownerships()[0]).await.expect_err(what);
        assert!(error.report().contains(what), "{}", error.report());
        // A layer beside it may be at its end yet; what it made goes with it.
        for _ in 0..200 {
            if place.names().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(place.names(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_all_succeed() {
    let place = Arc::new(Place::new().await);
    let layers: Vec<_> = (0..5).map(|at| Tar::new().file(&format!("d{at}/f"), "x").bytes()).collect();
    let image = place.image("a", layers, None).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (place, target) = (Arc::clone(&place), image.target.clone());
        tasks.spawn(
            async move { place.unpack(&target, ownerships()[0]).await.expect("unpacks").layers.len() },
        );
    }
    assert_eq!(tasks.join_all().await, [5; 8]);
    assert_eq!(place.names().len(), 5, "{:?}", place.names());
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_stay_while_an_image_or_a_lease_needs_them() {
    let place = Place::new().await;
    let top = |name: &str| Tar::new().file(name, name).bytes();
    let one = place.image("one", vec![base(), top("one")], None).await;
    let two = place.image("two", vec![base(), top("two")], None).await;
    let first = place.unpack(&one.target, ownerships()[0]).await.expect("unpacks");
    place.unpack(&two.target, ownerships()[0]).await.expect("unpacks");
    assert_eq!(place.collect().await, [""; 0]);

    place.remove("two").await;
    let gone = place.collect().await;
    assert_eq!((gone.len(), place.names().len()), (1, 2), "{gone:?}");
    assert!(gone[0].starts_with("snapshots/wharf/sha256:"), "{gone:?}");

    // A lease holds the topmost, and with it those below.
    let chain_id = first.chain_id().expect("layers").clone();
    let leases = place.fixture.store.leases().expect("leases");
    let lease = leases.create_lease(wharf_content::LeaseOptions::new()).await.expect("makes");
    leases.add_resource(&lease.id, &LayerStore::resource(&chain_id)).await.expect("adds");
    place.remove("one").await;
    assert_eq!(place.collect().await, [""; 0]);
    assert!(place.layers().has(&chain_id).expect("looks"));
    leases.delete_lease(&lease.id).await.expect("removes");
    assert_eq!(place.collect().await.len(), 2);
    assert_eq!(place.names(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_goes() {
    let place = Place::new().await;
    let image = place.image("a", vec![base()], None).await;
    let left = place.path().join(".new-1-0/fs/d");
    fs::create_dir_all(&left).expect("makes");
    fs::set_permissions(&left, fs::Permissions::from_mode(0o555)).expect("changes");
    place.unpack(&image.target, ownerships()[0]).await.expect("unpacks");
    assert_eq!(place.names().len(), 1, "{:?}", place.names());
    // Its config keeps it, by a label that others know.
    let store = LocalStore::open(place.dir.path().join("store")).await.expect("opens");
    let mut labels = Vec::new();
    let mut visit = |info: wharf_content::Info| {
        labels.extend(info.labels.get(layer_store::LABEL).cloned());
        Ok(())
    };
    store.walk(&wharf_content::filter::FilterSet::all(), &mut visit).await.expect("walks");
    assert_eq!(labels, [Digest::sha256(&base()).to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_linked_to_in_a_layer_below_comes_up() {
    for ownership in ownerships() {
        let place = Place::new().await;
        let below =
            Tar::new().dir("usr", 0o710).add("usr/a", tar::EntryType::Regular, 0o640, b"text").bytes();
        let middle = Tar::new().hard("one", "usr/a").hard("new/two", "./usr/a").hard("three", "one").bytes();
        let top = Tar::new().hard("four", "three").file(".wh.three", "").bytes();
        let image = place.image("a", vec![below, middle, top], None).await;
        let unpacked = place.unpack(&image.target, ownership).await.expect("unpacks");
        let [below, middle, top] = [0, 1, 2].map(|at| unpacked.layers[at].directory.clone());
        let stat = |path: PathBuf| fs::symlink_metadata(path).expect("there");
        let first = stat(middle.join("usr/a"));
        for name in ["one", "new/two", "three"] {
            assert_eq!(stat(middle.join(name)).ino(), first.ino(), "{name}");
        }
        assert_eq!((first.nlink(), first.mode() & 0o7777, first.mtime()), (4, 0o640, 1_000_000));
        assert_eq!(fs::read_to_string(middle.join("one")).expect("reads"), "text");
        assert_eq!(mode(&middle.join("usr")), 0o710, "as below");
        assert_eq!((stat(below.join("usr/a")).nlink(), mode(&below.join("usr/a"))), (1, 0o640));

        // What is hidden after it was linked to goes, and the link stays.
        assert_eq!(fs::read_to_string(top.join("four")).expect("reads"), "text");
        let hidden = stat(top.join("three"));
        assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
        assert_eq!(stat(top.join("four")).nlink(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_linked_to_may_be_hidden_afterwards() {
    let base = || {
        let file = |tar: Tar, name, text| tar.add(name, tar::EntryType::Regular, 0o640, text);
        let tar = Tar::new().dir("d", 0o710).dir("d/sub", 0o750);
        file(file(tar, "d/old", b"text"), "d/sub/old", b"text").bytes()
    };
    for (top, left) in [
        (Tar::new().hard("new", "d/old").file("d/.wh..wh..opq", ""), &[][..]),
        (Tar::new().hard("new", "d/sub/old").file("d/.wh..wh..opq", "").file("d/a", "a"), &["a"]),
        (Tar::new().hard("new", "d/sub/old").file("d/.wh.sub", "").file("d/.wh.old", ""), &["old", "sub"]),
        (Tar::new().file("d/a", "a").hard("new", "d/old").file(".wh.d", ""), &["a"]),
        (Tar::new().hard("new", "d/old").file(".wh.d", "").file("d/a", "a"), &["a"]),
    ] {
        let top = top.bytes();
        for ownership in ownerships() {
            let place = Place::new().await;
            let image = place.image("a", vec![base(), top.clone()], None).await;
            let unpacked = place.unpack(&image.target, ownership).await.expect("unpacks");
            let top = &unpacked.layers[1].directory;
            let stat = |path: PathBuf| fs::symlink_metadata(path).expect("there");
            assert_eq!(fs::read_to_string(top.join("new")).expect("reads"), "text");
            let linked = stat(top.join("new"));
            assert_eq!((linked.nlink(), linked.mode() & 0o7777, linked.mtime()), (1, 0o640, 1_000_000));
            let entries = fs::read_dir(top.join("d")).expect("lists");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("lists").file_name()).collect();
            names.sort();
            assert_eq!(names, left);
            // The same as all layers one over the other.
            let flat = place.dir.path().join(format!("flat-{}", names.len()));
            let options = UnpackOptions::new().with_ownership(ownership);
            let provider = Arc::clone(&place.fixture.store) as Arc<dyn wharf_content::Provider>;
            wharf_archive::unpack(provider, &image.target, &flat, &options).await.expect("unpacks");
            assert_eq!(fs::read_to_string(flat.join("new")).expect("reads"), "text");
            let is_whiteout =
                |name: &&std::ffi::OsString| stat(top.join("d").join(name)).file_type().is_char_device();
            let shown = names.iter().filter(|name| !is_whiteout(name)).count();
            assert_eq!(fs::read_dir(flat.join("d")).expect("lists").count(), shown);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_linked_to_and_nowhere_below_is_refused() {
    let hides = |name: &str| Tar::new().file(name, "").bytes();
    for (layers, what) in [
        (vec![base(), Tar::new().hard("x", "etc/none").bytes()], "not there"),
        (vec![base(), hides("etc/.wh.old"), Tar::new().hard("x", "etc/old").bytes()], "not there"),
        (vec![base(), hides("etc/.wh..wh..opq"), Tar::new().hard("x", "etc/old").bytes()], "not there"),
        (vec![base(), hides(".wh.etc"), Tar::new().hard("x", "etc/old").bytes()], "not there"),
        (vec![base(), Tar::new().file("etc/.wh.old", "").hard("x", "etc/old").bytes()], "no file"),
        (vec![base(), Tar::new().file("etc/.wh..wh..opq", "").hard("x", "etc/old").bytes()], "not there"),
        (vec![base(), Tar::new().hard("x", "lib").bytes()], "no regular file"),
        (vec![base(), Tar::new().hard("x", "etc/deep").bytes()], "no regular file"),
        (vec![base(), Tar::new().hard("x", "var/x/y").bytes()], "not there"),
        (vec![base(), Tar::new().link("l", "var").hard("x", "l/old").bytes()], "not there"),
    ] {
        let place = Place::new().await;
        let image = place.image("a", layers, None).await;
        let error = place.unpack(&image.target, ownerships()[0]).await.expect_err(what);
        assert!(error.report().contains(what), "{what}: {}", error.report());
        assert_eq!(place.names().iter().filter(|name| !name.starts_with('.')).count(), 0);
    }
}

/// A blob that nobody has verified.
#[derive(Debug)]
struct Arriving(Vec<u8>);

#[async_trait::async_trait]
impl BlobReader for Arriving {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let rest = &self.0[usize::try_from(offset).expect("small").min(self.0.len())..];
        Ok(Bytes::copy_from_slice(&rest[..rest.len().min(len)]))
    }
}

/// Finds everything there, and gives the children of the manifest.
#[derive(Debug)]
struct Finds(Vec<Descriptor>);

#[async_trait::async_trait]
impl Handler for Finds {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let is_manifest = descriptor.media_type == types::OCI_MANIFEST;
        Ok(Flow::Children(if is_manifest { self.0.clone() } else { Vec::new() }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_unpacked_while_it_arrives_and_counts_when_it_is_verified() {
    let good = base();
    let mut bad = good.clone();
    bad[600] ^= 1;
    // Whether the store has the blob in the end, what arrives, and whether that is enough.
    for (is_stored, arriving, is_fine) in
        [(false, &good, true), (true, &bad, true), (true, &good, true), (false, &bad, false)]
    {
        let place = Place::new().await;
        let image = place.image("a", vec![good.clone()], None).await;
        let manifest = read_blob(place.fixture.store.as_ref(), &image.target, 1 << 20).await.expect("reads");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let part = |part: &serde_json::Value| -> Descriptor {
            serde_json::from_value(part.clone()).expect("a descriptor")
        };
        let (config, layer) = (part(&manifest["config"]), part(&manifest["layers"][0]));
        if !is_stored {
            place.fixture.store.delete(&layer.digest).await.expect("removes");
        }
        let leased = LeasedStore::hold(Arc::clone(&place.fixture.store), Labels::new()).await.expect("holds");
        let options = UnpackOptions::new().with_ownership(ownerships()[0]);
        let unpacker = Unpacker::new(leased, options).expect("in a directory");
        let pull = unpacker.wrap(Arc::new(Finds(vec![config.clone(), layer.clone()])));
        let children = |flow: Flow| match flow {
            Flow::Children(children) => children,
            other => panic!("{other:?}"),
        };
        let found = children(pull.handle(&image.target).await.expect("handles"));
        assert_eq!(found, std::slice::from_ref(&config), "layers wait for the config");
        let found = children(pull.handle(&config).await.expect("handles"));
        assert_eq!(found, std::slice::from_ref(&layer));

        unpacker.begun(&layer, Arc::new(Arriving(arriving.clone())));
        // It is told twice where the fetch begins anew.
        unpacker.begun(&layer, Arc::new(Arriving(arriving.clone())));
        let published = || place.names().iter().filter(|name| !name.starts_with('.')).count();
        assert_eq!((published(), unpacker.unpacked().len()), (0, 0));
        let done = pull.handle(&layer).await;
        assert_eq!(done.is_ok(), is_fine, "{done:?}");
        assert_eq!((published(), unpacker.unpacked().len()), (usize::from(is_fine), usize::from(is_fine)));
        if is_fine {
            let directory = &unpacker.unpacked()[0].layers[0].directory;
            assert_eq!(fs::read_to_string(directory.join("etc/deep/a")).expect("reads"), "a");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_never_arrives_whole_leaves_nothing() {
    let place = Place::new().await;
    let image = place.image("a", vec![base()], None).await;
    let manifest = read_blob(place.fixture.store.as_ref(), &image.target, 1 << 20).await.expect("reads");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let parts: Vec<Descriptor> = [&manifest["config"], &manifest["layers"][0]]
        .map(|part| serde_json::from_value(part.clone()).expect("a descriptor"))
        .into();
    let leased = LeasedStore::hold(Arc::clone(&place.fixture.store), Labels::new()).await.expect("holds");
    let unpacker =
        Unpacker::new(leased, UnpackOptions::new().with_ownership(ownerships()[0])).expect("opens");
    let pull = unpacker.wrap(Arc::new(Finds(parts.clone())));
    pull.handle(&image.target).await.expect("handles");
    pull.handle(&parts[0]).await.expect("handles");
    // All of it comes, and the fetch fails after that.
    unpacker.begun(&parts[1], Arc::new(Arriving(base())));
    drop((pull, unpacker));
    for _ in 0..500 {
        if place.names().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(place.names(), [""; 0]);
}
