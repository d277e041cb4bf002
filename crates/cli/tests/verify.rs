//! `wharf verify` as a user runs it: what it says of which image, its exit codes, and what repair leaves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use wharf_tests::{ImageFixture, Layer, TestRegistry};

mod support;

use support::{Wharf, three_platforms};

fn root(wharf: &Wharf) -> PathBuf {
    wharf.dir.path().join("store")
}

fn append(path: &Path) {
    let mut bytes = fs::read(path).expect("reads");
    bytes.push(b'x');
    fs::remove_file(path).expect("removes");
    fs::write(path, bytes).expect("writes");
}

/// The digest and the file of the image's first layer.
async fn layer(wharf: &Wharf, name: &str) -> (String, PathBuf) {
    let manifest = wharf.run(&["manifest", "--local", name, "--platform", "linux/amd64"]).await.succeeded();
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let path = root(wharf).join("blobs").join(digest.replacen(':', "/", 1));
    (digest, path)
}

async fn pulled() -> (TestRegistry, String, Wharf) {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    (registry, name, wharf)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_store_exits_with_zero() {
    let (_registry, name, wharf) = pulled().await;
    for arguments in [vec!["verify"], vec!["verify", &name], vec!["verify", "--repair"]] {
        let done = wharf.run(&arguments).await;
        assert!(
            done.err().contains("verified 5 blobs of ") && done.err().contains("and 1 image:"),
            "{}",
            done.err()
        );
        assert_eq!(done.succeeded(), "");
    }
    let json = wharf.run(&["verify", "--format", "json"]).await.succeeded();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["clean"], &json["blobs"], &json["images"]), (&true.into(), &5.into(), &1.into()));
    assert_eq!(json["repair"], Value::Null);
    assert_eq!(wharf.run(&["verify", "-q"]).await.succeeded(), "");
    wharf.run(&["verify", "nothing"]).await.failed(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_with_its_image_and_repaired() {
    let (registry, name, wharf) = pulled().await;
    let (digest, path) = layer(&wharf, &name).await;
    append(&path);
    for arguments in [vec!["verify"], vec!["verify", &name]] {
        let done = wharf.run(&arguments).await;
        assert_eq!(done.code(), 5, "{}", done.err());
        let line = done.out();
        assert!(line.starts_with(&format!("{name}: {digest} (")) && line.contains("is damaged"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(done.err().contains("hint: ") && done.err().contains("--repair"), "{}", done.err());
    }
    let quiet = wharf.run(&["verify", "-q"]).await;
    assert_eq!((quiet.code(), quiet.out()), (5, format!("{digest}\n")));
    let json = wharf.run(&["verify", "--format", "json"]).await;
    assert_eq!(json.code(), 5);
    let json: Value = serde_json::from_str(&json.out()).expect("JSON");
    let problem = &json["problems"][0];
    assert_eq!((&problem["subject"], &problem["problem"]), (&digest.clone().into(), &"damaged".into()));
    assert_eq!((&problem["image"], &json["clean"]), (&name.clone().into(), &false.into()));

    let done = wharf.run(&["verify", "--repair"]).await;
    assert!(done.err().contains("repaired"), "{}", done.err());
    let said = done.succeeded();
    let quarantined = fs::read_dir(root(&wharf).join("quarantine")).expect("lists").count();
    assert_eq!(quarantined, 1);
    assert!(said.contains(&format!("moved {digest} to ")) && said.contains("/quarantine/sha256-"), "{said}");
    assert!(said.contains(&format!("fetched {digest} from {}/a/b", registry.address())), "{said}");
    wharf.run(&["verify"]).await.succeeded();
    wharf.run(&["export", &name, "--platform", "linux/amd64", "-o", &wharf.path("x.tar")]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_told_and_kept() {
    let (registry, name, wharf) = pulled().await;
    let (digest, path) = layer(&wharf, &name).await;
    let address = registry.address();
    drop(registry);
    append(&path);
    let damaged = fs::read(&path).expect("reads");
    let done = wharf.run(&["verify", "--repair", "--retry-times", "0"]).await;
    assert_eq!(done.code(), 5, "{}", done.err());
    let said = done.out();
    assert!(
        said.contains(&format!("failed: cannot fetch {digest} again")) && said.contains(&address),
        "{said}"
    );
    assert!(done.err().contains("could not be repaired"), "{}", done.err());
    let kept =
        fs::read_dir(root(&wharf).join("quarantine")).expect("lists").next().expect("one").expect("there");
    assert_eq!(fs::read(kept.path()).expect("reads"), damaged);
    let after = wharf.run(&["verify"]).await;
    assert_eq!(after.code(), 5);
    assert!(after.out().contains(&digest) && after.out().contains("is missing"), "{}", after.out());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_for_the_registry_of_what_is_damaged() {
    let (registry, name, wharf) = pulled().await;
    let other = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::of("other", "layer")]);
    let elsewhere = other.put("c/d:1", &image).await.expect("puts");
    wharf.run(&["pull", "--platform", "linux/amd64", &elsewhere]).await.succeeded();
    let (digest, path) = layer(&wharf, &name).await;
    let repair = ["verify", "--repair", "-u", "u:canary"];
    append(&path);
    let said = wharf.run(&repair).await.succeeded();
    assert!(said.contains(&format!("fetched {digest} from {}/a/b", registry.address())), "{said}");
    append(&path);
    append(&layer(&wharf, &elsewhere).await.1);
    let done = wharf.run(&repair).await;
    assert!(done.code() == 3 && done.err().contains("several are named"), "{}", done.err());
    for name in [&name, &elsewhere] {
        wharf.run(&[&repair[..], &[name]].concat()).await.succeeded();
    }
    wharf.run(&["verify"]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn strays_and_the_index_are_told_and_put_right() {
    let (_registry, _, wharf) = pulled().await;
    let good = fs::read(root(&wharf).join("index.json")).expect("reads");
    fs::write(root(&wharf).join("index.json"), "{}").expect("writes");
    fs::write(root(&wharf).join("blobs/sha256/a\x1b]52;c"), "x").expect("writes");
    let done = wharf.run(&["verify"]).await;
    assert_eq!(done.code(), 5);
    let said = done.out();
    assert!(said.contains("index.json is wrong") && said.contains("is no blob"), "{said}");
    assert!(!said.contains('\x1b'), "a name does not steer the terminal: {said}");
    let done = wharf.run(&["verify", "--repair"]).await;
    let said = done.succeeded();
    assert!(said.contains("rewrote index.json") && said.contains("/quarantine/stray-"), "{said}");
    assert_eq!(fs::read(root(&wharf).join("index.json")).expect("reads"), good);
    assert_eq!(wharf.run(&["verify"]).await.succeeded(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_ingest_and_the_mark_of_the_layout_are_told_and_put_right() {
    let (_registry, _, wharf) = pulled().await;
    let ingest = format!("ingest/{}", "0".repeat(64));
    let mark = root(&wharf).join("oci-layout");
    let good = fs::read(&mark).expect("reads");
    fs::create_dir_all(root(&wharf).join(&ingest)).expect("makes");
    fs::write(root(&wharf).join(&ingest).join("ref"), [0xff]).expect("writes");
    fs::write(&mark, "{}").expect("writes");
    assert_eq!(wharf.run(&["content", "active", "-q"]).await.succeeded(), "");
    wharf.run(&["gc"]).await.succeeded();
    let done = wharf.run(&["verify"]).await;
    assert_eq!(done.code(), 5);
    let said = done.out();
    assert!(said.contains(&format!("{ingest} is no ingest: its ref is not a file of UTF-8 text")), "{said}");
    assert!(said.contains("oci-layout is wrong: it does not name the version"), "{said}");
    let json = wharf.run(&["verify", "--repair", "--format", "json"]).await.succeeded();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let problems: Vec<&Value> =
        json["problems"].as_array().expect("an array").iter().map(|problem| &problem["problem"]).collect();
    assert_eq!(problems, ["ingest", "layout"]);
    let repair = &json["repair"];
    assert_eq!(
        (&repair["quarantined"][0]["stray"], &repair["layoutRewritten"]),
        (&ingest.into(), &true.into())
    );
    assert_eq!(fs::read(&mark).expect("reads"), good);
    wharf.run(&["verify"]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lease_keeps_is_fetched_or_told() {
    let (registry, name, wharf) = pulled().await;
    let other = ImageFixture::new().with("linux/amd64", vec![Layer::of("other", "layer")]);
    let other = registry.put("other:1", &other).await.expect("puts");
    wharf.run(&["lease", "create", "--id", "kept"]).await.succeeded();
    wharf.run(&["pull", "--lease", "kept", "--platform", "linux/amd64", &name]).await.succeeded();
    let (digest, path) = layer(&wharf, &name).await;
    wharf.run(&["images", "rm", &name]).await.succeeded();
    // What is at the same address tells the port, which the label does not.
    wharf.run(&["pull", "--platform", "linux/amd64", &other]).await.succeeded();
    append(&path);
    let done = wharf.run(&["verify", "--repair"]).await;
    let said = done.succeeded();
    assert!(said.contains(&format!("fetched {digest} from {}/", registry.address())), "{said}");

    append(&path);
    drop(registry);
    let done = wharf.run(&["verify", "--repair", "--retry-times", "0"]).await;
    assert_eq!(done.code(), 5, "{}", done.err());
    assert!(done.out().contains(&format!("failed: cannot fetch {digest} again")), "{}", done.out());
    let after = wharf.run(&["verify"]).await;
    assert_eq!(after.code(), 5);
    assert!(after.out().contains(&format!("{digest} is missing: it was damaged")), "{}", after.out());
    wharf.run(&["lease", "rm", "kept"]).await.succeeded();
    wharf.run(&["gc"]).await.succeeded();
    let last = wharf.run(&["verify"]).await;
    assert!(!last.out().contains(&digest), "nobody misses it any more: {}", last.out());
    last.succeeded();
}
