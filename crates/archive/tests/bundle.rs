//! Bundles: what of an image's config a runtime is told, and that a bundle is there whole or not at all.

#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use wharf_archive::{
    UnpackOptions,
    apply::Ownership,
    bundle::{Access, Bind, BundleOptions, Bundled, Streams, bundle},
};
use wharf_content::{
    BlobReader, CommitOptions, Descriptor, Digest, ErrorKind, MemoryStore, Provider, Result, write_blob,
};
use wharf_images::media_types as types;

fn layer() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("etc/passwd", "root:x:0:0::/root:\napp:x:100:101::/home/app:\n"),
        ("etc/group", "root:x:0:\napp:x:101:\naudio:x:29:app\n"),
        ("full/file", "x"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, name, content.as_bytes()).expect("writing to memory");
    }
    builder.into_inner().expect("writing to memory")
}

async fn image(config: Value, os: &str) -> (Arc<MemoryStore>, Descriptor) {
    let store = Arc::new(MemoryStore::new());
    let put = async |media_type: &str, bytes: Vec<u8>| {
        let descriptor = Descriptor::of(media_type, &bytes);
        let name = descriptor.digest.to_string();
        write_blob(store.as_ref(), &name, &descriptor, bytes.into(), CommitOptions::default())
            .await
            .expect("writes");
        descriptor
    };
    let layer = layer();
    let config = json!({
        "architecture": "amd64", "os": os, "author": "somebody", "created": "2024-01-01T00:00:00Z",
        "config": config, "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&layer)] },
    });
    let layer = put(types::OCI_LAYER, layer).await;
    let config = put(types::OCI_CONFIG, config.to_string().into_bytes()).await;
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [layer] });
    let target = put(types::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
    (store, target)
}

/// Options with which both root and others can make a bundle.
fn options() -> BundleOptions {
    BundleOptions::new().with_unpack(UnpackOptions::new().with_ownership(Ownership::User))
}

async fn make(config: Value, directory: &Path, options: &BundleOptions) -> Result<Bundled> {
    let (store, target) = image(config, "linux").await;
    bundle(store as Arc<dyn Provider>, &target, directory, options).await
}

fn full() -> Value {
    json!({
        "User": "app", "Env": ["A=1", "PATH=/bin", "nonsense", "A=2"], "Entrypoint": ["/entry"], "Cmd": ["one", "two"],
        "WorkingDir": "/work", "Labels": {
            "l": "v", "org.opencontainers.image.author": "label", "run.oci.hooks.stdout": "/etc/passwd", "run.ocicat": "kept",
            "org.systemd.property.ExecStopPost": "x", "org.criu.config": "/x", "io.katacontainers.config.hypervisor.path": "/x",
        },
        "StopSignal": "SIGINT", "ExposedPorts": { "80/tcp": {}, "443/tcp": {} }, "Volumes": { "/vol": {}, "/full": {} },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_becomes_a_container() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().join("b");
    let bundled = make(full(), &place, &options()).await.expect("makes");
    let config: Value =
        serde_json::from_slice(&fs::read(place.join("config.json")).expect("reads")).expect("JSON");
    assert_eq!(config, bundled.config);
    assert_eq!(fs::read(place.join("rootfs/full/file")).expect("reads"), b"x");
    // No layer says anything of the root, which every user of the container goes through.
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o7777;
    assert_eq!((mode(&place), mode(&place.join("rootfs"))), (0o700, 0o755));
    // As others read it.
    let spec = Spec::load(place.join("config.json")).expect("a runtime's configuration");
    let process = spec.process().as_ref().expect("a process");
    assert_eq!(process.args().as_deref(), Some(&["/entry".into(), "one".into(), "two".into()][..]));
    assert_eq!(process.cwd(), Path::new("/work"));
    assert_eq!(process.env().as_deref(), Some(&["PATH=/bin".into(), "A=2".into(), "HOME=/root".into()][..]));
    assert_eq!(spec.root().as_ref().expect("a root").path(), Path::new("rootfs"));
    assert_eq!(
        config["annotations"],
        json!({
            "l": "v",
            "org.opencontainers.image.architecture": "amd64",
            "org.opencontainers.image.author": "label",
            "org.opencontainers.image.created": "2024-01-01T00:00:00Z",
            "org.opencontainers.image.exposedPorts": "443/tcp,80/tcp",
            "org.opencontainers.image.os": "linux",
            "org.opencontainers.image.stopSignal": "SIGINT",
            "run.ocicat": "kept",
        })
    );
    let mounts = config["mounts"].as_array().expect("mounts");
    let mounted = |place: &str| mounts.iter().find(|mount| mount["destination"] == place);
    assert_eq!(mounted("/vol").expect("a volume")["type"], "tmpfs");
    assert!(mounted("/full").is_none(), "what the image has there stays");
    // Without root there is one user.
    assert_eq!(bundled.left_out_user.as_deref(), Some("app"));
    assert_eq!(config["process"]["user"]["uid"], 0);
    assert_eq!(config["linux"]["uidMappings"][0]["hostID"], rustix::process::geteuid().as_raw());
    assert!(config["linux"].get("resources").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_wins() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let options = options()
        .with_arguments(vec!["three".into()])
        .with_variable("A=3")
        .with_variable("B=")
        .with_directory("/else")
        .with_user("root")
        .with_bind(Bind::new("/tmp", "/vol", Access::Read))
        .with_streams(Streams::Terminal);
    let config = make(full(), &dir.path().join("b"), &options).await.expect("makes");
    assert_eq!(config.left_out_user, None);
    let process = &config.config["process"];
    assert_eq!(process["args"], json!(["/entry", "three"]));
    assert_eq!(process["env"], json!(["PATH=/bin", "A=3", "B=", "HOME=/root", "TERM=xterm"]));
    assert_eq!((&process["cwd"], &process["terminal"]), (&json!("/else"), &json!(true)));
    let mounts = config.config["mounts"].as_array().expect("mounts");
    let volumes: Vec<_> = mounts.iter().filter(|mount| mount["destination"] == "/vol").collect();
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0]["options"], json!(["rbind", "rprivate", "ro"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn for_root_users_are_those_of_the_image() {
    if !rustix::process::geteuid().is_root() {
        // Who is not root gets the other kind, which the other tests look at.
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let bundled = make(full(), &dir.path().join("b"), &BundleOptions::new()).await.expect("makes");
    assert_eq!(
        bundled.config["process"]["user"],
        json!({ "uid": 100, "gid": 101, "additionalGids": [101, 29] })
    );
    assert_eq!(bundled.config["linux"]["resources"]["devices"], json!([{ "allow": false, "access": "rwm" }]));
    let namespaces = &bundled.config["linux"]["namespaces"];
    assert!(namespaces.as_array().expect("some").contains(&json!({ "type": "network" })), "{namespaces}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let place = dir.path().join("b");
    for (what, config, options) in [
        ("nothing to run", json!({}), options()),
        ("nothing to run", json!({ "Cmd": [""] }), options()),
        ("no user", json!({ "Cmd": ["x"], "User": "nobody" }), options()),
        ("no group", json!({ "Cmd": ["x"], "User": "app:none" }), options()),
        ("working directory", json!({ "Cmd": ["x"], "WorkingDir": "work" }), options()),
        ("volume", json!({ "Cmd": ["x"], "Volumes": { "/a/../../x": {} } }), options()),
        ("zero byte", json!({ "Cmd": ["x\0"] }), options()),
        ("NAME=VALUE", json!({ "Cmd": ["x"] }), options().with_variable("=x")),
        ("absolute", json!({ "Cmd": ["x"] }), options().with_bind(Bind::new("tmp", "/x", Access::Write))),
        ("not an image config", json!("text"), options()),
    ] {
        let error = make(config, &place, &options).await.expect_err(what);
        assert!(
            error.kind() == ErrorKind::InvalidArgument && error.report().contains(what),
            "{what}: {error}"
        );
        let left: Vec<_> = fs::read_dir(dir.path()).expect("lists").collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
    let (store, target) = image(json!({ "Cmd": ["x"] }), "windows").await;
    let unpack = UnpackOptions::new().with_selection(wharf_images::Selection::all());
    let options = BundleOptions::new().with_unpack(unpack);
    let error = bundle(store as Arc<dyn Provider>, &target, &place, &options).await.expect_err("windows");
    assert!(error.to_string().contains("bundles are for linux"), "{error}");
    fs::create_dir(&place).expect("makes");
    fs::write(place.join("mine"), "").expect("writes");
    let error = make(full(), &place, &self::options()).await.expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    fs::remove_file(place.join("mine")).expect("removes");
    make(full(), &place, &self::options()).await.expect("an empty directory will do");
}

/// Blobs that have somebody else move the bundle away and put a link in its place, once they are read.
#[derive(Debug)]
struct Exchanging {
    blobs: Arc<MemoryStore>,
    hidden: PathBuf,
    outside: PathBuf,
}

#[derive(Debug)]
struct ExchangingReader {
    blob: Arc<dyn BlobReader>,
    hidden: PathBuf,
    outside: PathBuf,
}

#[async_trait::async_trait]
impl Provider for Exchanging {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        let blob = self.blobs.reader(descriptor).await?;
        Ok(Arc::new(ExchangingReader { blob, hidden: self.hidden.clone(), outside: self.outside.clone() }))
    }
}

#[async_trait::async_trait]
impl BlobReader for ExchangingReader {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let aside = self.hidden.with_extension("aside");
        if self.hidden.exists() && !aside.exists() {
            fs::rename(&self.hidden, aside).expect("moves");
            symlink(&self.outside, &self.hidden).expect("links");
        }
        self.blob.read_at(offset, len).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_what_others_put_into_its_place() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (place, outside) = (dir.path().join("b"), dir.path().join("outside"));
    fs::create_dir_all(outside.join("rootfs")).expect("makes");
    let hidden = dir.path().join(".b.wharf-unpack");
    let (blobs, target) = image(full(), "linux").await;
    let provider = Arc::new(Exchanging { blobs, hidden: hidden.clone(), outside: outside.clone() });
    let error = bundle(provider, &target, &place, &options()).await.expect_err("it is not there any more");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{}", error.report());
    let list = |path: &Path| fs::read_dir(path).expect("lists").count();
    assert_eq!((list(&outside), list(&outside.join("rootfs"))), (1, 0));
    assert!(!place.exists() && hidden.with_extension("aside").join("rootfs/full/file").exists());
}
