//! Damage to a store that was pulled into: found by verifying and by exporting, and repaired from the registry.

use std::{fs, os::unix::fs::symlink, path::Path};

use wharf_archive::ExportOptions;
use wharf_content::{
    Catalogue, Descriptor, Digest, ErrorKind, IngestOptions, Ingester, Labels, LeaseManager, LeaseOptions,
    Manager, Provider, Resource,
    filter::FilterSet,
    gc::CollectOptions,
    read_blob,
    verify::{Custodian, VerifyOptions},
};
use wharf_images::{
    Image, Role, Selection, collect, decode, image,
    verify::{Problem, verify_images},
};
use wharf_remotes::{PullOptions, RepairOptions, repair};
use wharf_tests::{Client, ImageFixture, Layer, TestRegistry};

const SOURCE: &str = "containerd.io/distribution.source.127.0.0.1";

async fn pulled(client: &Client, name: &str, platforms: &[&str]) -> Image {
    let platforms = wharf_platforms::parse_all(platforms).expect("platforms");
    let options = PullOptions::new().with_selection(Selection::best(&platforms));
    client.pull(name, options).await.expect("pulls")
}

async fn source(client: &Client, digest: &Digest) -> Option<String> {
    client.store.info(digest).await.expect("there").labels.get(SOURCE).cloned()
}

/// The index, and of its first platform that is here the manifest, the config and the first layer.
async fn parts(client: &Client, image: &Image) -> [Descriptor; 4] {
    let manifest =
        image::manifest(client.store.as_ref(), &image.target, &Selection::all(), Catalogue::linked())
            .await
            .expect("there");
    let config = manifest.config().expect("a config").clone();
    let layer = manifest.layers().next().expect("a layer").clone();
    [image.target.clone(), manifest.descriptor, config, layer]
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
    let image = pulled(&client, &name, &["linux/amd64"]).await;
    let clean = client.verify().await;
    assert!(clean.is_clean(), "{clean:?}");
    assert_eq!(
        (clean.blobs, clean.images.len()),
        (5, 1),
        "the other platform was never pulled and is not missed"
    );

    let mut quarantined = 0;
    for part in parts(&client, &image).await {
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
            assert_eq!(source(&client, &part.digest).await.as_deref(), Some("a/b"));
            wharf_archive::export(client.store.clone(), images, &options, &mut Vec::new())
                .await
                .expect("exports");
        }
    }
    // Labels came back too: nothing of the image may be collected.
    let collected = collect(client.store.as_ref(), &CollectOptions::new()).await;
    assert!(collected.expect("collects").is_empty());
}

#[tokio::test]
async fn damage_below_a_damaged_document_comes_to_light_and_is_repaired_too() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    for only in [false, true] {
        let client = Client::new().await;
        let image = pulled(&client, &name, &["linux/amd64"]).await;
        let parts = parts(&client, &image).await;
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
    let image = pulled(&client, &name, &["linux/amd64"]).await;
    let address = registry.address();
    drop(registry);
    let [_, manifest, _, layer] = parts(&client, &image).await;
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
    let collected = collect(client.store.as_ref(), &CollectOptions::new().dry_run()).await;
    drop(collected.expect("a collection goes through it"));
}

#[tokio::test]
async fn what_is_missing_is_told_from_what_was_never_pulled() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    let client = Client::new().await;
    let image = pulled(&client, &name, &["linux/amd64"]).await;
    let [index, manifest, config, _] = parts(&client, &image).await;
    client.store.delete(&config.digest).await.expect("removes");
    let found = client.verify().await;
    let told: Vec<_> = found.faults.iter().map(|fault| (&fault.descriptor, &fault.problem)).collect();
    assert_eq!(told, [(&config, &Problem::Missing)]);
    let done = client.repair().await;
    assert!(done.left.is_clean() && done.quarantined.is_empty(), "{done:?}");
    assert_eq!(source(&client, &config.digest).await.as_deref(), Some("a/b"));

    client.store.delete(&manifest.digest).await.expect("removes");
    let found = client.verify().await;
    let told: Vec<_> = found.faults.iter().map(|fault| (&fault.descriptor, &fault.problem)).collect();
    assert_eq!(told, [(&index, &Problem::Empty)], "no platform is left");
    client.store.delete(&index.digest).await.expect("removes");
    let done = client.repair().await;
    assert_eq!(done.fetched.len(), 1);
    assert_eq!(done.left.faults[0].problem, Problem::Empty, "which platform was wanted nobody knows");
    pulled(&client, &name, &["linux/amd64"]).await;
    assert!(client.verify().await.is_clean());
}

#[tokio::test]
async fn strays_the_view_and_ingests() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    let client = Client::new().await;
    pulled(&client, &name, &["linux/amd64"]).await;
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
    let image = pulled(&client, &names[0], &["linux/amd64"]).await;
    pulled(&client, &names[1], &["linux/amd64"]).await;
    let before = client.store.info(&image.target.digest).await.expect("there");
    pulled(&client, &names[1], &["linux/amd64"]).await;
    let after = client.store.info(&image.target.digest).await.expect("there");
    assert_eq!(before, after, "a repeated pull writes nothing");
    for part in parts(&client, &image).await {
        assert_eq!(source(&client, &part.digest).await.as_deref(), Some("a/b,z"));
    }
    // A name of the user's own: the label says where, and another image's name at which port.
    let own = Image::new("my own name", image.target.clone());
    wharf_images::record::put(client.images.as_ref(), own).await.expect("records");
    client.images.delete(&names[0], None).await.expect("removes");
    let [_, manifest, _, layer] = parts(&client, &image).await;
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

async fn collected(client: &Client) -> Vec<Resource> {
    let collected = collect(client.store.as_ref(), &CollectOptions::new()).await.expect("collects");
    collected.into_iter().map(|one| one.resource).collect()
}

fn content(digest: &Digest) -> Resource {
    Resource::Content(digest.clone())
}

#[tokio::test]
async fn a_document_in_quarantine_goes_on_keeping_what_it_refers_to() {
    // First with the damaged file in quarantine, then after somebody has deleted it there.
    for is_deleted in [false, true] {
        for at in [0, 1] {
            let registry = TestRegistry::start().await;
            let name = registry.put("a/b:1", &two_platforms()).await.expect("puts");
            let client = Client::new().await;
            let image = pulled(&client, &name, &["linux/amd64"]).await;
            let own = parts(&client, &image).await;
            let damaged = &own[at].digest;
            drop(registry);
            rewrite(&client.blob(damaged), |bytes| bytes.push(b' '));
            let done = client.repair().await;
            assert_eq!((done.quarantined.len(), done.fetched.len()), (1, 0), "{done:?}");
            if is_deleted {
                client.quarantine().into_iter().for_each(|path| fs::remove_file(path).expect("removes"));
            }
            assert_eq!(collected(&client).await, [], "what is whole stays");
            assert!(!client.store.labels(damaged).await.expect("reads").is_empty());

            client.images.delete(&name, None).await.expect("removes");
            let went = collected(&client).await;
            assert_eq!(went.len(), 4, "all that was whole: {went:?}");
            assert!(!went.contains(&content(damaged)), "what had gone did not go again");
            assert_eq!(client.store.labels(damaged).await.expect("reads"), Labels::new());
            assert_eq!(client.quarantine().len(), usize::from(!is_deleted), "quarantine is for people");
            assert!(client.verify().await.is_clean());
        }
    }
}

/// Pulls an image, keeps it by a lease or by a label, removes its record, and keeps another image so that the port is known.
async fn kept_without_an_image(registry: &TestRegistry, client: &Client, is_leased: bool) -> [Descriptor; 3] {
    let large = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 5_000_000, 8)]);
    let name = registry.put("large:1", &large).await.expect("puts");
    let other = registry.put("a/b:1", &two_platforms()).await.expect("puts");
    let image = pulled(client, &name, &["linux/amd64"]).await;
    pulled(client, &other, &["linux/amd64"]).await;
    // Of one platform: there is no index.
    let [_, manifest, config, layer] = parts(client, &image).await;
    if is_leased {
        let lease = client.store.create_lease(LeaseOptions::new()).await.expect("makes");
        client.store.add_resource(&lease.id, &content(&manifest.digest)).await.expect("adds");
    } else {
        let label = Labels::from([("containerd.io/gc.root".to_owned(), "x".to_owned())]);
        client
            .store
            .update(&manifest.digest, &label, &["labels.containerd.io/gc.root"])
            .await
            .expect("labels");
    }
    client.images.delete(&name, None).await.expect("removes");
    [manifest, config, layer]
}

#[tokio::test]
async fn what_only_a_lease_or_a_label_keeps_is_fetched_by_its_digest() {
    let registry = TestRegistry::start().await;
    for is_leased in [true, false] {
        let client = Client::new().await;
        let kept = kept_without_an_image(&registry, &client, is_leased).await;
        collected(&client).await;
        for harmed in [&kept[..1], &kept[1..2], &kept[2..], &kept[..]] {
            for part in harmed {
                rewrite(&client.blob(&part.digest), |bytes| bytes[0] ^= 1);
            }
            let done = client.repair().await;
            assert!(done.failed.is_empty() && done.left.is_clean(), "{done:?}");
            assert_eq!((done.quarantined.len(), done.fetched.len()), (harmed.len(), harmed.len()));
            assert!(done.fetched.iter().all(|(_, from)| *from == format!("{}/large", registry.address())));
            assert!(client.verify().await.is_clean());
            for part in &kept {
                assert_eq!(client.store.info(&part.digest).await.expect("is back").size, part.size);
            }
            assert_eq!(collected(&client).await, [], "and is kept as it was");
        }
    }
}

#[tokio::test]
async fn what_nothing_describes_is_described_by_the_registry() {
    let registry = TestRegistry::start().await;
    let client = Client::new().await;
    let [manifest, config, layer] = kept_without_an_image(&registry, &client, true).await;
    let leases = client.store.list_leases(&FilterSet::all()).await.expect("lists");
    client.store.add_resource(&leases[0].id, &content(&layer.digest)).await.expect("adds");
    client.store.delete_resource(&leases[0].id, &content(&manifest.digest)).await.expect("removes");
    assert_eq!(collected(&client).await.len(), 2, "the manifest and the config");
    assert!(client.store.info(&config.digest).await.is_err());
    rewrite(&client.blob(&layer.digest), |bytes| bytes.truncate(10));
    let done = client.repair().await;
    assert!(done.failed.is_empty() && done.left.is_clean(), "{done:?}");
    assert_eq!(client.store.info(&layer.digest).await.expect("is back").size, layer.size);
    assert!(layer.size > wharf_images::decode::MAX_MANIFEST_LEN);
}

#[tokio::test]
async fn what_only_a_lease_keeps_and_nobody_has_is_told_again_and_again() {
    let registry = TestRegistry::start().await;
    let client = Client::new().await;
    let [manifest, _, layer] = kept_without_an_image(&registry, &client, true).await;
    let label = [format!("labels.{SOURCE}")];
    let unlabelled = [label[0].as_str()];
    client.store.update(&manifest.digest, &Labels::new(), &unlabelled).await.expect("labels");
    let address = registry.address();
    drop(registry);
    for part in [&manifest, &layer] {
        rewrite(&client.blob(&part.digest), |bytes| bytes[0] ^= 1);
    }
    for _ in 0..2 {
        let done = client.repair().await;
        assert_eq!(done.left.lost.iter().collect::<Vec<_>>().len(), 2, "{done:?}");
        assert!(!done.left.is_clean());
        let told = |digest: &Digest| {
            let failed = done.failed.iter().find(|(failed, _)| failed.as_ref() == Some(digest));
            failed.expect("it is told").1.report()
        };
        assert!(told(&manifest.digest).contains("nothing says where it came from; pull or import"));
        let layer = told(&layer.digest);
        assert!(layer.contains(&format!("{address}/large")), "{layer}");
        collected(&client).await;
        assert_eq!(client.verify().await.lost, done.left.lost, "a later run tells it too");
    }
    // Without the lease nobody misses it.
    for lease in client.store.list_leases(&FilterSet::all()).await.expect("lists") {
        client.store.delete_lease(&lease.id).await.expect("deletes");
    }
    assert!(client.verify().await.is_clean());
    assert_eq!(collected(&client).await.len(), 1, "the config; the others are in quarantine");
}

#[tokio::test]
async fn the_mark_of_the_layout_is_checked_and_written_again() {
    let client = Client::new().await;
    let path = client.store.root().join("oci-layout");
    let good = fs::read(&path).expect("reads");
    fs::write(&path, "{ \"imageLayoutVersion\": \"1.0.0\" }\n").expect("writes");
    assert!(client.verify().await.is_clean(), "blanks are nobody's harm");
    let changes: [(&str, Harm); 6] = [
        ("gone", |path| fs::remove_file(path).expect("removes")),
        ("emptied", |path| fs::write(path, "").expect("writes")),
        ("of another version", |path| {
            fs::write(path, r#"{"imageLayoutVersion":"2.0.0"}"#).expect("writes");
        }),
        ("not UTF-8", |path| fs::write(path, [0xff, 0xfe]).expect("writes")),
        ("a FIFO", KINDS[4].1),
        ("a directory", |path| {
            fs::remove_file(path).expect("removes");
            fs::create_dir_all(path.join("full")).expect("makes");
        }),
    ];
    for (kind, change) in changes {
        change(&path);
        let found = client.verify().await;
        assert!(found.layout.is_some() && !found.is_clean(), "{kind}");
        let done = client.repair().await;
        assert!(done.is_layout_rewritten && done.left.is_clean(), "{kind}: {done:?}");
        assert_eq!(fs::read(&path).expect("reads"), good, "{kind}");
    }
    assert_eq!(client.quarantine().len(), 1, "the directory, with what was in it");
}
