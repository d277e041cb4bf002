//! Files of images that are not unpacked: the same as those that are unpacked, and no more layers read than needed.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    sync::{Arc, Mutex},
};

use proptest::{collection::vec, prelude::*};
use serde_json::json;
use wharf_archive::{
    UnpackOptions,
    apply::Ownership,
    files::{self, FileKind, FilesOptions, Looked},
    unpack,
};
use wharf_content::{
    BlobReader, CommitOptions, Descriptor, Digest, Error, ErrorKind, MemoryStore, Provider, Result,
    write_blob,
};
use wharf_images::{async_trait, media_types as types};

/// A layer in the making.
#[derive(Clone, Debug, Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn entry(mut self, name: &str, flag: u8, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[156] = flag;
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(if flag == b'5' { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000);
        header.set_uid(0);
        header.set_gid(0);
        if flag == b'3' {
            header.set_device_major(1).expect("ustar");
            header.set_device_minor(3).expect("ustar");
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, b'0', "", content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, b'5', "", b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', target, b"")
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', target, b"")
    }

    fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A store that counts how many layers are opened.
#[derive(Debug, Default)]
struct Counting {
    store: MemoryStore,
    opened: Mutex<Vec<Digest>>,
}

#[async_trait]
impl Provider for Counting {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        if types::is_layer(&descriptor.media_type) {
            self.opened.lock().expect("no panic").push(descriptor.digest.clone());
        }
        self.store.reader(descriptor).await
    }
}

/// An image of these layers.
struct Image {
    store: Arc<Counting>,
    target: Descriptor,
}

impl Image {
    async fn of(layers: Vec<Layer>) -> Self {
        Self::with(layers.into_iter().map(Layer::bytes).collect(), &[]).await
    }

    /// With diff ids that are others than those of the layers.
    async fn with(layers: Vec<Vec<u8>>, wrong: &[usize]) -> Self {
        let store = Arc::new(Counting::default());
        let put = async |media_type: &str, bytes: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &bytes);
            let (name, options) = (descriptor.digest.to_string(), CommitOptions::default());
            match write_blob(&store.store, &name, &descriptor, bytes.into(), options).await {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{error}"),
                _ => descriptor,
            }
        };
        let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
        for (at, layer) in layers.into_iter().enumerate() {
            diff_ids.push(Digest::sha256(if wrong.contains(&at) { b"other" } else { &layer[..] }));
            descriptors.push(put(types::OCI_LAYER, layer).await);
        }
        let config = json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = put(types::OCI_CONFIG, config.to_string().into_bytes()).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": descriptors,
        });
        let target = put(types::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
        Self { store, target }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        self.store.clone()
    }

    /// What a file is, its layer (from 1), and how many names it has, by path.
    async fn list(&self, path: Option<&str>) -> Result<(Vec<String>, Looked)> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&lines);
        let looked = files::list(
            self.provider(),
            &self.target,
            path.map(str::as_bytes),
            &FilesOptions::new(),
            move |file| {
                let path = String::from_utf8_lossy(file.path);
                let what = match &file.kind {
                    FileKind::Directory => "/".into(),
                    FileKind::Symlink(target) => format!("->{}", String::from_utf8_lossy(target)),
                    FileKind::CharDevice(major, minor) => format!("({major},{minor})"),
                    _ if file.links > 1 => format!("*{}", file.links),
                    _ => String::new(),
                };
                shared.lock().expect("no panic").push(format!("{path}{what} {}", file.layer + 1));
                Ok(())
            },
        )
        .await?;
        let lines = lines.lock().expect("no panic").clone();
        Ok((lines, looked))
    }

    async fn cat(&self, path: &str) -> Result<(String, usize)> {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let sink = move |more: &[u8]| {
            shared.lock().expect("no panic").extend_from_slice(more);
            Ok(())
        };
        let options = FilesOptions::new();
        let looked = files::cat(self.provider(), &self.target, path.as_bytes(), &options, sink).await?;
        let text = String::from_utf8_lossy(&bytes.lock().expect("no panic")).into_owned();
        Ok((text, looked.layers_read))
    }

    async fn refuses(&self, path: &str) -> Error {
        self.cat(path).await.expect_err(path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_shown_one_over_the_other() {
    let image = Image::of(vec![
        Layer::default()
            .dir("usr")
            .dir("usr/bin")
            .link("bin", "usr/bin")
            .file("bin/sh", "sh")
            .hard("usr/bin/ash", "bin/sh")
            .file("etc/a", "a")
            .file("etc/b", "b")
            .file("old/x", "x")
            .file("gone", "g"),
        Layer::default()
            .file("bin/new", "n")
            .file("etc/.wh.a", "")
            .file("old/y", "y")
            .file("old/.wh..wh..opq", "")
            .file(".wh.gone", "")
            .hard("sbin/sh", "usr/bin/sh")
            .entry("null", b'3', "", b""),
        Layer::default().file("usr/bin/sh", "other").file("etc/c/d", "d"),
    ])
    .await;
    let (lines, looked) = image.list(None).await.expect("lists");
    let expected = [
        "bin->usr/bin 1",
        "etc/ 1",
        "etc/b 1",
        "etc/c/ 3",
        "etc/c/d 3",
        "null(1,3) 2",
        "old/ 1",
        "old/y 2",
        "sbin/ 2",
        "sbin/sh*2 1",
        "usr/ 1",
        "usr/bin/ 1",
        "usr/bin/ash*2 1",
        "usr/bin/new 2",
        "usr/bin/sh 3",
    ];
    assert_eq!(lines, expected);
    assert_eq!((looked.layers, looked.layers_read), (3, 3));
    assert_eq!(image.list(Some("/bin/new")).await.expect("lists").0, ["usr/bin/new 2"]);
    assert_eq!(image.list(Some("bin")).await.expect("lists").0, ["bin->usr/bin 1"]);
    assert_eq!(image.list(Some("bin/")).await.expect("lists").0, expected[11..]);
    for (path, content) in [
        ("/bin/sh", "other"),
        ("bin/ash", "sh"),
        ("sbin/sh", "sh"),
        ("/etc/../etc/./b", "b"),
        ("../../old/y", "y"),
    ] {
        assert_eq!(image.cat(path).await.expect(path).0, content, "{path}");
    }
    for path in ["etc/a", "old/x", "gone", "etc/b/x", "etc/b/", "nothing/at/all", "etc/.wh.a"] {
        let error = image.refuses(path).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{path}: {error}");
        assert!(image.list(Some(path)).await.is_err(), "{path}");
    }
    for (path, what) in
        [("etc", "a directory"), ("bin", "a directory"), ("null", "a device"), ("/", "a directory")]
    {
        let error = image.refuses(path).await;
        assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains(what), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_layers_are_read_than_it_takes() {
    let base =
        || Layer::default().dir("etc").file("etc/a", "base").link("lib", "usr/lib").file("usr/lib/x", "base");
    for (what, upper, path, expected) in [
        ("whole way known", Layer::default().dir("etc").file("etc/a", "new"), "etc/a", Ok(("new", 2))),
        ("the name alone tells nothing", Layer::default().file("etc/a", "new"), "etc/a", Ok(("new", 3))),
        ("hidden by name", Layer::default().dir("etc").file("etc/.wh.a", ""), "etc/a", Err(2)),
        ("hidden with all", Layer::default().dir("etc").file("etc/.wh..wh..opq", ""), "etc/a", Err(2)),
        ("hidden above", Layer::default().file(".wh.etc", ""), "etc/a", Err(2)),
        ("a link of its own", Layer::default().link("l", "f").file("f", "x"), "l", Ok(("x", 2))),
        ("a link to below", Layer::default().link("l", "etc/a"), "l", Ok(("base", 3))),
        (
            "at another name",
            Layer::default().dir("usr").dir("usr/lib").file("usr/lib/x", "1").file("lib/x", "2"),
            "usr/lib/x",
            Ok(("2", 3)),
        ),
        (
            "hidden by another name",
            Layer::default().dir("usr").dir("usr/lib").file("lib/.wh.x", ""),
            "usr/lib/x",
            Err(3),
        ),
        (
            "other names",
            Layer::default().file("lib/y", "2").dir("etc").file("etc/a", "1"),
            "etc/a",
            Ok(("1", 2)),
        ),
        ("a hard link of its own", Layer::default().file("f", "x").hard("h", "f"), "h", Ok(("x", 2))),
        ("a hard link to below", Layer::default().hard("h", "etc/a"), "h", Ok(("base", 3))),
        (
            "hidden with all at another name",
            Layer::default().dir("usr").dir("usr/lib").file("usr/lib/x", "1").file("lib/.wh..wh..opq", ""),
            "usr/lib/x",
            Ok(("1", 3)),
        ),
    ] {
        let image = Image::of(vec![base(), upper, Layer::default().file("top", "t")]).await;
        match (image.cat(path).await, expected) {
            (Ok((content, read)), Ok((expected, layers))) => {
                assert_eq!((content.as_str(), read), (expected, layers), "{what}");
            }
            (Err(error), Err(layers)) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
                assert_eq!(image.store.opened.lock().expect("no panic").len(), layers, "{what}");
            }
            (found, _) => panic!("{what}: {found:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_certain_when_nothing_below_can_add_to_it() {
    let base = Layer::default().dir("d").file("d/old", "").dir("e");
    let opaque = Layer::default().dir("d").file("d/new", "").file("d/.wh..wh..opq", "");
    let image = Image::of(vec![base.clone(), opaque]).await;
    let (lines, looked) = image.list(Some("d")).await.expect("lists");
    assert_eq!((lines, looked.layers_read), (vec!["d/ 2".into(), "d/new 2".into()], 1));
    let image = Image::of(vec![base, Layer::default().dir("d").file("d/new", "")]).await;
    let (lines, looked) = image.list(Some("d")).await.expect("lists");
    assert_eq!((lines, looked.layers_read), (vec!["d/ 2".into(), "d/new 2".into(), "d/old 1".into()], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_or_has_holes_is_read_from_its_layer() {
    let long = "0123456789abcdef".repeat(200_000);
    let mut sparse = tar::Header::new_gnu();
    sparse.as_mut_bytes()[..6].copy_from_slice(b"sparse");
    sparse.as_mut_bytes()[156] = b'S';
    for (at, number) in [(386, 100), (398, 3), (410, 300_000), (422, 0), (483, 300_000)] {
        sparse.as_mut_bytes()[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    sparse.set_size(3);
    sparse.set_mode(0o644);
    sparse.set_mtime(0);
    sparse.set_uid(0);
    sparse.set_gid(0);
    sparse.set_cksum();
    let mut layer = Layer::default().file("long", &long).link("l", "long");
    layer.0.extend_from_slice(sparse.as_bytes());
    layer.0.extend_from_slice(b"abc");
    layer.0.resize(layer.0.len().next_multiple_of(512), 0);
    let layer = layer.file("after", "x");
    let image = Image::of(vec![layer]).await;
    for path in ["long", "l"] {
        assert!(image.cat(path).await.expect("reads").0 == long, "{path}");
    }
    assert_eq!(image.store.opened.lock().expect("no panic").len(), 4, "each twice");
    let holes = image.cat("sparse").await.expect("reads").0;
    assert!(holes.len() == 300_000 && &holes[100..103] == "abc");
    assert!(holes.bytes().enumerate().all(|(at, byte)| byte == 0 || (100..103).contains(&at)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_verified_is_not_said() {
    let layers = || vec![Layer::default().file("a", "1").bytes(), Layer::default().file("b", "2").bytes()];
    let image = Image::with(layers(), &[1]).await;
    for path in ["b", "a"] {
        let error = image.refuses(path).await;
        assert!(
            error.kind() == ErrorKind::FailedPrecondition && error.report().contains("diff id mismatch"),
            "{error}"
        );
    }
    // What is not read is not judged.
    let image = Image::with(layers(), &[0]).await;
    assert_eq!(image.cat("b").await.expect("reads"), ("2".into(), 1));
    assert!(image.cat("a").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_images_cost_no_more_than_is_allowed() {
    let mut many = Layer::default();
    for at in 0..2_000 {
        many = many.file(&format!("f{at}"), "");
    }
    let image = Image::of(vec![many]).await;
    let small = FilesOptions::new().with_max_len(200_000);
    let error =
        files::list(image.provider(), &image.target, None, &small, |_| Ok(())).await.expect_err("too many");
    assert!(
        error.kind() == ErrorKind::ResourceExhausted && error.report().contains("so many files"),
        "{error}"
    );
    assert_eq!(image.list(None).await.expect("lists").0.len(), 2_000);

    let deep = |depth: usize| {
        let mut layer = Layer::default().dir("0");
        // Each link leads a hundred directories further down.
        for at in 0..depth / 40 {
            layer = layer.file(&format!("{at}/{}f", "d/".repeat(39)), "");
            layer = layer.link(&format!("{}", at + 1), &format!("{at}/{}", "d/".repeat(39)));
        }
        layer
    };
    let image = Image::of(vec![deep(4_000)]).await;
    let error = image.list(None).await.expect_err("deep");
    assert!(matches!(error.kind(), ErrorKind::ResourceExhausted | ErrorKind::FailedPrecondition), "{error}");
    assert!(Image::of(vec![deep(800)]).await.list(None).await.is_ok());

    let circle =
        Image::of(vec![Layer::default().link("a", "b").link("b", "a").link("c", "d").file("d", "x")]).await;
    assert!(circle.refuses("a").await.to_string().contains("circle"));
    assert_eq!(circle.cat("c").await.expect("reads").0, "x");
    for layer in [
        Layer::default().file("../x", ""),
        Layer::default().hard("x", "missing"),
        Layer::default().file("f", "").file("f/x", ""),
        Layer::default().entry("x", b'Z', "", b""),
    ] {
        assert!(Image::of(vec![layer]).await.list(None).await.is_err());
    }
}

/// What is in a directory, as [`Image::list`] says it.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("lists") {
            let path = entry.expect("lists").path();
            let metadata = fs::symlink_metadata(&path).expect("stat");
            let what = if metadata.is_symlink() {
                format!("->{}", fs::read_link(&path).expect("reads").display())
            } else if metadata.is_dir() {
                left.push(path.clone());
                "/".into()
            } else {
                format!("*{} {}", metadata.nlink(), fs::read_to_string(&path).expect("reads"))
            };
            found.insert(path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec(), what);
        }
    }
    found
}

fn name() -> impl Strategy<Value = String> {
    vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|parts| parts.join("/"))
}

fn layer() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    let target = prop_oneof![
        name(),
        name().prop_map(|name| format!("/{name}")),
        name().prop_map(|name| format!("../{name}"))
    ];
    vec((0..7_u8, name(), target), 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the layers are: what is listed is what is unpacked, and what is printed of each path is what is there.
    #[test]
    fn the_same_as_unpacked(layers in vec(layer(), 1..4)) {
        let layers: Vec<Layer> = layers.into_iter().enumerate().map(|(number, entries)| {
            entries.into_iter().enumerate().fold(Layer::default(), |layer, (at, (what, name, target))| {
                let (parent, base) = name.rsplit_once('/').map_or((String::new(), &*name), |(parent, base)| (format!("{parent}/"), base));
                match what {
                    0 | 1 => layer.file(&name, &format!("{number}.{at}")),
                    2 => layer.dir(&name),
                    3 => layer.link(&name, &target),
                    4 => layer.hard(&name, target.trim_start_matches("../").trim_start_matches('/')),
                    5 => layer.file(&format!("{parent}.wh.{base}"), ""),
                    _ => layer.file(&format!("{parent}.wh..wh..opq"), ""),
                }
            })
        }).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("starts");
        runtime.block_on(async {
            let image = Image::of(layers).await;
            let dir = tempfile::tempdir().expect("temporary directory");
            let root = dir.path().join("root");
            let options = UnpackOptions::new().with_ownership(Ownership::User);
            let unpacked = unpack(image.provider(), &image.target, &root, &options).await;
            let listed = Arc::new(Mutex::new(BTreeMap::new()));
            let shared = Arc::clone(&listed);
            let looked = files::list(image.provider(), &image.target, None, &FilesOptions::new(), move |file| {
                let what = match &file.kind {
                    FileKind::Directory => "/".into(),
                    FileKind::Symlink(target) => format!("->{}", String::from_utf8_lossy(target)),
                    _ => format!("*{}", file.links),
                };
                shared.lock().expect("no panic").insert(file.path.to_vec(), what);
                Ok(())
            }).await;
            assert_eq!(unpacked.is_ok(), looked.is_ok(), "{unpacked:?} {looked:?}");
            if unpacked.is_err() {
                return;
            }
            let there = tree(&root);
            let listed = listed.lock().expect("no panic").clone();
            let plain: BTreeMap<_, _> = there.iter().map(|(path, what)| {
                let what = if what.starts_with('*') { what.split(' ').next().unwrap_or_default().to_owned() } else { what.clone() };
                (path.clone(), what)
            }).collect();
            assert_eq!(listed, plain);
            for (path, what) in &there {
                let Some((_, content)) = what.strip_prefix('*').and_then(|what| what.split_once(' ')) else { continue };
                let path = String::from_utf8_lossy(path);
                assert_eq!(image.cat(&path).await.expect("reads").0, content, "{path}");
            }
            for path in ["a", "b", "c", "a/a", "a/b", "b/a", "c/b", "a/b/c", "c/a/b"] {
                let is_there = there.contains_key(path.as_bytes());
                if !is_there && let Ok((_, found)) = image.list(Some(path)).await.map(|(lines, looked)| (looked, lines)) {
                    // By way of a link.
                    assert!(found.iter().all(|line| !line.starts_with(&format!("{path} "))), "{path}: {found:?}");
                }
                if is_there {
                    let found = image.list(Some(path)).await.expect("lists").0;
                    assert_eq!(found.len(), there.keys().filter(|other| Path::new(std::ffi::OsStr::from_bytes(other)).starts_with(path)).count());
                }
            }
        });
    }
}
