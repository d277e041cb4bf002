//! A collection between what a push found to be there and what it records.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wharf_content::{Catalogue, Descriptor, Digest, Result, Store, filter::FilterSet, gc::CollectOptions};
use wharf_images::{Image, ImageStore, Selection, image, image_store, media_types};
use wharf_remotes::server::RegistryOptions;

use crate::site::{Answer, CONFIG, Site, index, local};

/// Records before each of whose changes the store is collected.
#[derive(Debug)]
struct Collecting {
    store: Arc<dyn Store>,
    images: Arc<dyn ImageStore>,
}

impl Collecting {
    async fn collect(&self) -> Result<()> {
        wharf_images::collect(self.store.as_ref(), &CollectOptions::default()).await.map(drop)
    }
}

#[async_trait]
impl ImageStore for Collecting {
    async fn get(&self, name: &str) -> Result<Image> {
        self.images.get(name).await
    }

    async fn list(&self, filters: &FilterSet) -> Result<Vec<Image>> {
        self.images.list(filters).await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        self.collect().await?;
        self.images.create(image).await
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        self.collect().await?;
        self.images.update(image, fieldpaths).await
    }

    async fn delete(&self, name: &str, expected: Option<&Descriptor>) -> Result<()> {
        self.images.delete(name, expected).await
    }
}

#[tokio::test]
async fn a_push_keeps_what_it_found_until_it_is_recorded() {
    let root = tempfile::tempdir().expect("temporary directory");
    let store = local(&root).await;
    let images = image_store(store.as_ref()).expect("records");
    let collecting = Arc::new(Collecting { store: Arc::clone(&store), images });
    let site = Site::start_with(store, collecting, RegistryOptions::default()).await;

    site.push_image("app", "1", b"layer").await;

    // What keeps it now is the image: no lease is left but the one of what was pushed, and another collection takes nothing.
    let leases = site.store.leases().expect("has leases");
    let left = leases.list_leases(&FilterSet::all()).await.expect("lists");
    assert_eq!(left.len(), 1);
    leases.delete_lease(&left[0].id).await.expect("removes");
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    let [image] = &site.images.list(&FilterSet::all()).await.expect("lists")[..] else { panic!("one image") };
    let (selection, catalogue) = (Selection::all(), Catalogue::linked());
    let check = image::check(Arc::clone(&site.store) as _, &image.target, &selection, catalogue)
        .await
        .expect("checks");
    assert_eq!((check.required.len(), check.missing), (3, vec![]));
    site.stop().await;
}

#[tokio::test]
async fn what_has_no_manifest_yet_is_kept_for_a_while_also_over_a_restart() {
    let root = tempfile::tempdir().expect("temporary directory");
    let store = local(&root).await;
    let site = Site::start(Arc::clone(&store), RegistryOptions::default()).await;
    let collect = async || {
        let collected = wharf_images::collect(store.as_ref(), &CollectOptions::default()).await;
        collected.expect("collects").iter().filter(|found| found.size > 0).count()
    };
    // Found by who would have pushed it, while nothing else holds it any more.
    site.push_image("old", "1", b"shared").await;
    let listed = site.push_image("old", "2", b"of a child").await;
    let leases = store.leases().expect("has leases");
    for lease in leases.list_leases(&FilterSet::all()).await.expect("lists") {
        leases.delete_lease(&lease.id).await.expect("removes");
    }
    let site = {
        site.stop().await;
        Site::start(Arc::clone(&store), RegistryOptions::default()).await
    };
    let found = format!("/v2/a/blobs/{}", Digest::sha256(b"shared"));
    assert_eq!(site.send("HEAD", &found, &[], b"").await.status, 200);
    let manifest = format!("/v2/a/manifests/{}", Digest::sha256(&listed));
    assert_eq!(site.send("HEAD", &manifest, &[], b"").await.status, 200);
    for image in site.images.list(&FilterSet::all()).await.expect("lists") {
        site.images.delete(&image.name, None).await.expect("removes");
    }
    let empty = site.begin("a").await;
    let pushed = site.push_blob("a", b"pushed").await;
    assert_eq!(collect().await, 1, "the manifest of the old image");
    site.stop().await;

    let site = Site::start(Arc::clone(&store), RegistryOptions::default()).await;
    assert_eq!(collect().await, 0);
    // With all that it is made of, so that an index of it is whole.
    assert_eq!(site.get(&manifest).await.body, listed);
    for blob in [pushed, Digest::sha256(b"shared"), Digest::sha256(b"of a child"), Digest::sha256(CONFIG)] {
        assert_eq!(site.get(&format!("/v2/a/blobs/{blob}")).await.status, 200);
    }
    let digest = Digest::sha256(b"later");
    let finished = site.send("PUT", &format!("{empty}?digest={digest}"), &[], b"later").await;
    assert_eq!(finished.status, 201, "an upload that has no byte yet is gone on with");
    site.stop().await;
}

#[tokio::test]
async fn a_referrer_is_kept_for_as_long_as_its_subject() {
    let root = tempfile::tempdir().expect("temporary directory");
    let options = RegistryOptions::default().with_upload_grace(Duration::ZERO);
    let site = Site::start(local(&root).await, options).await;
    let subject = site.push_image("a", "x", b"layer").await;
    let mut document: serde_json::Value = serde_json::from_slice(&subject).expect("JSON");
    document["subject"] =
        serde_json::to_value(Descriptor::of(media_types::OCI_MANIFEST, &subject)).expect("serialises");
    let bytes = document.to_string().into_bytes();
    let path = format!("/v2/a/manifests/{}", Digest::sha256(&bytes));
    assert_eq!(site.put_manifest(&path, media_types::OCI_MANIFEST, &bytes).await.status, 201);
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(site.get(&path).await.status, 200);
    assert_eq!(site.send("DELETE", "/v2/a/manifests/x", &[], b"").await.status, 202);
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(site.get(&path).await.status, 404);
    site.stop().await;
}

#[tokio::test]
async fn asking_for_what_is_not_there_writes_nothing() {
    let root = tempfile::tempdir().expect("temporary directory");
    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    let absent = crate::ABSENT;
    assert_eq!(site.send("HEAD", &format!("/v2/a/blobs/{absent}"), &[], b"").await.status, 404);
    assert_eq!(site.get(&format!("/v2/a/blobs/{absent}")).await.status, 404);
    let leases = site.store.leases().expect("has leases").list_leases(&FilterSet::all()).await;
    assert_eq!(leases.expect("lists"), []);
    // A mount of it is an upload like any other, and the lease has that.
    let mounted = site.send("POST", &format!("/v2/a/blobs/uploads/?mount={absent}"), &[], b"").await;
    assert_eq!(mounted.status, 202);
    let leases = site.store.leases().expect("has leases");
    let [lease] = &leases.list_leases(&FilterSet::all()).await.expect("lists")[..] else {
        panic!("one lease")
    };
    let held = leases.resources(&lease.id).await.expect("lists");
    assert!(matches!(&held[..], [wharf_content::Resource::Ingest(_)]), "{held:?}");
    site.stop().await;
}

#[tokio::test]
async fn uploads_go_on_when_somebody_has_removed_their_lease() {
    let root = tempfile::tempdir().expect("temporary directory");
    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    let location = site.begin("a").await;
    let remove = async || {
        let leases = site.store.leases().expect("has leases");
        for lease in leases.list_leases(&FilterSet::all()).await.expect("lists") {
            leases.delete_lease(&lease.id).await.expect("removes");
        }
    };
    remove().await;
    assert_eq!(site.send("PATCH", &location, &[], b"one").await.status, 202);
    remove().await;
    let digest = Digest::sha256(b"one");
    assert_eq!(site.send("PUT", &format!("{location}?digest={digest}"), &[], b"").await.status, 201);
    remove().await;
    site.push_blob("a", b"two").await;
    site.stop().await;
}

/// The clock may be set, and a machine may sleep for hours: what a registry that runs has promised holds.
#[tokio::test]
async fn what_is_kept_for_a_while_hangs_on_no_clock() {
    let root = tempfile::tempdir().expect("temporary directory");
    let store = local(&root).await;
    let grace = Duration::from_millis(400);
    let site = Site::start(Arc::clone(&store), RegistryOptions::default().with_upload_grace(grace)).await;
    let pushed = site.push_blob("a", b"pushed").await;
    let leases = store.leases().expect("has leases");
    let held = async || {
        let all = leases.list_leases(&FilterSet::all()).await.expect("lists");
        let mut held = 0;
        for lease in &all {
            held += usize::from(leases.is_held(&lease.id).await.expect("looks"));
        }
        held
    };
    assert!(held().await > 0);
    // The next request has a lease of its own.
    tokio::time::sleep(grace * 5 / 4).await;
    // A request that works under a lease has it to its end.
    let mut slow = site.connect().await;
    let digest = Digest::sha256(b"slow and steady");
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 15\r\n\r\nslow "
    );
    slow.write_all(head.as_bytes()).await.expect("sent");
    while held().await == 0 || site.store.list_statuses(&FilterSet::all()).await.expect("lists").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(grace * 4).await;
    assert_eq!(held().await, 1, "that of the request, and no other");
    wharf_images::collect(store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(site.get(&format!("/v2/a/blobs/{pushed}")).await.status, 404, "its time is over");
    slow.write_all(b"and steady").await.expect("sent");
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.expect("answered");
    assert_eq!(Answer::parse(&answer).status, 201);
    assert_eq!(held().await, 0);
    site.stop().await;
}

#[tokio::test]
async fn who_does_not_wait_for_an_answer_leaves_no_lease() {
    let root = tempfile::tempdir().expect("temporary directory");
    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    site.push_image("a", "x", b"layer").await;
    for number in 0..40 {
        let document = index(&[]).into_iter().chain(vec![b' '; number]).collect::<Vec<_>>();
        let head = format!(
            "PUT /v2/a/manifests/t{number} HTTP/1.1\r\nHost: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            site.address,
            media_types::OCI_INDEX,
            document.len()
        );
        let mut stream = site.connect().await;
        stream.write_all(&[head.as_bytes(), &document].concat()).await.expect("sent");
        tokio::time::sleep(Duration::from_micros(300 * number as u64)).await;
        drop(stream);
    }
    // What was taken in is whole, whoever waited for it, and nothing is left but the lease of what was pushed.
    let leases = site.store.leases().expect("has leases");
    let all = FilterSet::all();
    for _ in 0..200 {
        if leases.list_leases(&all).await.expect("lists").len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(leases.list_leases(&all).await.expect("lists").len(), 1);
    site.stop().await;
}
