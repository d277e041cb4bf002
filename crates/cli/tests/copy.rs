//! `wharf copy`, `wharf delete`, and `wharf push --referrers`, as a user types them.

mod support;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use serde_json::{Value, json};
use support::{Wharf, three_platforms};
use wharf_tests::{FakeServer, ImageFixture, Layer, Reply, TestRegistry};

#[tokio::test]
async fn between_registries_and_no_store_is_made() {
    let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
    let from = source.put("team/image:1", &three_platforms()).await.expect("puts");
    let digest = source.image(&from).await.expect("there").target.digest;
    let wharf = Wharf::new();
    let to = destination.reference("mirror/image:1");
    let out = wharf.run(&["copy", &from, &format!("docker://{to}")]).await.succeeded();
    assert_eq!(out, format!("{to}@{digest}\n"));
    assert!(!wharf.dir.path().join("store").exists(), "nothing touched the disk");
    assert_eq!(destination.image(&to).await.expect("there").target.digest, digest);
    assert_eq!(wharf.run(&["-q", "cp", &from, &to]).await.succeeded(), format!("{digest}\n"));

    let arm = destination.reference("mirror/image:arm");
    let page =
        wharf.run(&["copy", "--format", "json", "--platform", "linux/arm64", &from, &arm]).await.succeeded();
    let page: Value = serde_json::from_str(&page).expect("JSON");
    let told = |key: &str| page[key].as_u64();
    assert_eq!(page["name"], arm.as_str());
    assert_eq!(page["target"]["mediaType"], wharf_images::media_types::OCI_MANIFEST);
    let counts = ["sent", "mounted", "existing", "skipped", "referrers"].map(told);
    assert_eq!(counts, [Some(1), Some(0), Some(0), Some(0), Some(0)], "only the name is new");
}

#[tokio::test]
async fn into_the_store_and_out_of_it() {
    let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
    let from = source.put("team/image:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let out = wharf.run(&["copy", &from, "store:app:1"]).await.succeeded();
    let digest = source.image(&from).await.expect("there").target.digest;
    assert_eq!(out, format!("docker.io/library/app:1@{digest}\n"));
    wharf.run(&["gc"]).await.succeeded();
    let checked = wharf.run(&["images", "check", "app:1"]).await.succeeded();
    assert!(checked.contains("complete") && !checked.contains("incomplete"), "{checked}");
    let to = destination.reference("back:1");
    wharf.run(&["copy", "store:app:1", &to]).await.succeeded();
    assert_eq!(destination.image(&to).await.expect("there").target.digest, digest);
    // Within the store it is another name.
    wharf.run(&["copy", "store:app:1", "store:twin:1"]).await.succeeded();
    assert_eq!(wharf.run(&["delete", "store:app:1"]).await.succeeded(), "store:app:1\n");
    let left = wharf.run(&["ls", "-q"]).await.succeeded();
    assert_eq!(left, "docker.io/library/twin:1\n");
}

#[tokio::test]
async fn verifiers_have_a_say_in_what_is_copied_from_elsewhere() {
    let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
    let from = source.put("team/image:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let directory = wharf.path("verifiers");
    std::fs::create_dir(&directory).expect("makes");
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let to = destination.reference("image:1");
    std::os::unix::fs::symlink("/bin/true", format!("{directory}/10-yes")).expect("links");
    let by_flag = ["copy", "--verifier-dir", &directory, &from, "store:app:1"];
    wharf.run(&by_flag).await.succeeded();
    std::os::unix::fs::symlink("/bin/false", format!("{directory}/20-no")).expect("links");
    for place in ["store:other:1", &to] {
        let mut command = wharf.command(&["copy", &from, place]);
        command.env("WHARF_VERIFIER_DIR", &directory);
        let done = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let done = done.expect("runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(5) && said.contains("rejects it"), "{place}: {said}");
    }
    let names = wharf.run(&["ls", "-q"]).await.succeeded();
    assert_eq!(names, "docker.io/library/app:1\n");
    // What is in the store was taken before.
    wharf.run(&["copy", "--verifier-dir", &directory, "store:app:1", &to]).await.succeeded();
}

#[tokio::test]
async fn one_password_is_for_one_registry() {
    let (one, other) = (TestRegistry::start().await, TestRegistry::start().await);
    let name = one.put("image:1", &three_platforms()).await.expect("puts");
    let (same, elsewhere) = (one.reference("copy:1"), other.reference("copy:1"));
    let wharf = Wharf::new();
    one.take_log();
    let copy = ["copy", "--creds", "u:canary", &name, &elsewhere];
    let error = wharf.run(&copy).await.failed(3);
    assert!(error.contains("several are named") && error.contains("--dest-creds"), "{error}");
    let users = ["copy", "--creds", "u", "--password-stdin", "--src-creds", "v", "--dest-creds", "w"];
    let error = wharf.run(&[&users[..], &[&name, &elsewhere]].concat()).await.failed(3);
    assert!(error.contains("several are named"), "{error}");
    let error = wharf.run(&["delete", "--creds", "u:canary", &name, &elsewhere]).await.failed(3);
    assert!(error.contains("several are named"), "{error}");
    assert!(one.take_log().is_empty() && other.take_log().is_empty(), "nobody was asked");
    let [layout, archive, docker] =
        [("oci", "layout"), ("oci-archive", "oci.tar"), ("docker-archive", "docker.tar")]
            .map(|(scheme, file)| format!("{scheme}:{}:x", wharf.path(file)));
    for legitimate in [
        &["copy", "--creds", "u:canary", &name, &same][..],
        &["copy", "--creds", "u:canary", &name, &layout],
        &["copy", "-u", "u:canary", &name, &archive],
        &["copy", "--creds", "u:canary", &name, &docker],
        &["copy", "--creds", "u:canary", &layout, &other.reference("from-layout:1")],
        &["copy", "--creds", "u:canary", &archive, &other.reference("from-archive:1")],
        &["copy", "--creds", "u:canary", &docker, &other.reference("from-docker:1")],
        &["inspect", "-u", "u:canary", &layout],
        &["copy", "--creds", "u:canary", &name, "store:app:1"],
        &["copy", "--creds", "u:canary", "--dest-creds", "v:canary", &name, &elsewhere],
        &["copy", "--chunk-size", "64KiB", &name, &other.reference("chunks:1")],
    ] {
        wharf.run(legitimate).await.succeeded();
    }
}

#[tokio::test]
async fn referrers_go_along_where_they_are_asked_for() {
    let registry = TestRegistry::start().await;
    let name = registry.put("image:1", &three_platforms()).await.expect("puts");
    let target = registry.image(&name).await.expect("there").target;
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let config = wharf_content::Descriptor::of(wharf_images::media_types::OCI_EMPTY, b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": wharf_images::media_types::OCI_MANIFEST, "config": config, "layers": [],
        "artifactType": "application/x-bill", "subject": target,
    });
    for bytes in [b"{}".as_slice(), manifest.to_string().as_bytes()] {
        let path = wharf.path("document");
        std::fs::write(&path, bytes).expect("writes");
        let mut command = wharf.command(&["content", "ingest", "document"]);
        command.stdin(std::fs::File::open(&path).expect("opens"));
        let done = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let done = done.expect("runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let other = TestRegistry::start().await;
    let to = other.reference("image:1");
    let page = wharf.run(&["push", "--format", "json", "--referrers", &name, &to]).await.succeeded();
    assert_eq!(serde_json::from_str::<Value>(&page).expect("JSON")["referrers"], 1);
    let third = TestRegistry::start().await;
    let to_third = third.reference("image:1");
    wharf.run(&["copy", "--referrers", &to, &to_third]).await.succeeded();
    let listed = wharf.run(&["referrers", &to_third]).await.succeeded();
    assert!(listed.contains("application/x-bill"), "{listed}");
}

#[tokio::test]
async fn mistakes_and_refusals() {
    let registry = TestRegistry::start().await;
    let name = registry.put("image:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let bare = registry.reference("image");
    let refusing = FakeServer::start(|request| match request.method.as_str() {
        "DELETE" => Reply::new(405, &[], ""),
        _ => Reply::new(404, &[], ""),
    });
    let refusing = refusing.await;
    let absent = format!("{}/x:1", refusing.address());
    let keeping = FakeServer::start(|request| match request.method.as_str() {
        "DELETE" => Reply::new(405, &[], ""),
        _ => Reply::new(200, &[("Content-Type", "application/vnd.oci.image.index.v1+json")], "{}"),
    });
    let keeping = keeping.await;
    let kept = format!("{}/x:1", keeping.address());
    let told = FakeServer::start(|_| {
        Reply::new(
            405,
            &[("Allow", "GET, HEAD")],
            r#"{"errors":[{"code":"UNSUPPORTED","message":"delete at the upstream"}]}"#,
        )
    });
    let told = told.await;
    let cached = format!("{}/x:1", told.address());
    let explained = wharf.run(&["delete", &cached]).await.failed(1);
    assert!(explained.contains("(delete at the upstream)") && !explained.contains("removes the manifest"));
    assert!(!explained.contains("hint:") && !explained.contains("by itself"), "{explained}");
    for (arguments, code, said) in [
        (vec!["copy", &name], 3, "<DST>"),
        (vec!["copy", &name, "ftp:/tmp/x"], 3, "docker-archive:, oci:, oci-archive:, store:"),
        (vec!["copy", &name, "x/B:1"], 3, "x/B"),
        (vec!["copy", "store:nothing:1", &name], 2, "there is no image"),
        (vec!["copy", &name, &name, "--src-plain-http", "--src-tls-verify"], 3, "cannot be used with"),
        (vec!["copy", &name, "127.0.0.1:1/a:1", "--retry-times", "0"], 6, "127.0.0.1:1"),
        (vec!["copy", &name, &name, "--src-tls-verify", "--retry-times", "0"], 6, "TLS"),
        (vec!["copy", "--platform", "linux/riscv64", &name, &bare], 2, "linux/arm64"),
        (vec!["delete", &bare], 3, "@DIGEST"),
        (vec!["delete", &kept], 1, "deletes no tag by itself"),
        (vec!["delete", &absent], 2, "404"),
        (vec!["delete", "store:nothing:1"], 2, "there is no image"),
    ] {
        let error = wharf.run(&arguments).await.failed(code);
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert!(registry.image(&name).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_store_is_told_as_that() {
    let (source, destination) = (TestRegistry::start().await, TestRegistry::start().await);
    // Large enough that its blocks are shared, where the file system can do that.
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 300_000, 1)]);
    let name = source.put("team/image:1", &image).await.expect("puts");
    let index = source.image(&name).await.expect("there").target.digest;
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let blobs = wharf.dir.path().join("store/blobs/sha256");
    let sizes = fs::read_dir(&blobs).expect("lists").map(|entry| entry.expect("an entry"));
    let layer = sizes.max_by_key(|entry| entry.metadata().expect("a file").len()).expect("a layer").path();
    let from = format!("store:{name}");
    let places = [format!("oci:{}", wharf.path("layout")), destination.reference("mirror/image:1")];
    for path in [layer, blobs.join(index.hex())] {
        let digest = path.file_name().expect("a name").to_string_lossy().into_owned();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
        let whole = fs::read(&path).expect("reads");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        fs::write(&path, flipped).expect("writes");
        for to in &places {
            let error = wharf.run(&["copy", &from, to]).await.failed(5);
            assert!(error.contains(&format!("blob sha256:{digest} (")), "{error}");
            assert!(error.contains(" is damaged: its bytes have the digest sha256:"), "{error}");
            assert!(error.contains("hint: `wharf verify --repair`"), "{error}");
        }
        fs::write(&path, whole).expect("writes");
    }
    for to in &places {
        wharf.run(&["copy", &from, to]).await.succeeded();
    }
}
