//! Collection of a store with images: what they keep stays, what nobody keeps goes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use wharf_content::{
    CommitOptions, Descriptor, ErrorKind, Labels, LocalStore, MemoryStore, Resource, Store,
    filter::FilterSet, gc::CollectOptions, write_blob,
};
use wharf_images::{Image, ImageStore, collect, image_store, labels::hold_children};

struct Fixture {
    _dir: tempfile::TempDir,
    store: LocalStore,
    images: Arc<dyn ImageStore>,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = LocalStore::open(dir.path().join("store")).await.expect("opens");
        let images = image_store(&store).expect("opens");
        Self { _dir: dir, store, images }
    }

    async fn put(&self, text: &str, children: &[&Descriptor]) -> Descriptor {
        let descriptor = Descriptor::of("application/x-part", text.as_bytes());
        write_blob(&self.store, text, &descriptor, text.to_owned().into(), CommitOptions::default())
            .await
            .expect("writes");
        let children: Vec<Descriptor> = children.iter().map(|child| (*child).clone()).collect();
        hold_children(&self.store, &descriptor, &children).await.expect("labels");
        descriptor
    }

    async fn name(&self, name: &str, target: &Descriptor, labels: &[(&str, &str)]) {
        let labels: Labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.images.create(Image::new(name, target.clone()).with_labels(labels)).await.expect("creates");
    }

    async fn collected(&self, options: CollectOptions) -> Vec<Resource> {
        let collected = collect(&self.store, &options).await.expect("collects");
        collected.into_iter().map(|one| one.resource).collect()
    }
}

fn content(descriptor: &Descriptor) -> Resource {
    Resource::Content(descriptor.digest.clone())
}

#[tokio::test]
async fn images_keep_what_they_are_made_of() {
    let fixture = Fixture::new().await;
    let (shared, own) = (fixture.put("shared", &[]).await, fixture.put("own", &[]).await);
    let one = fixture.put("one", &[&shared, &own]).await;
    let other = fixture.put("other", &[&shared]).await;
    fixture.name("one:1", &one, &[]).await;
    fixture.name("other:1", &other, &[]).await;
    assert_eq!(fixture.collected(CollectOptions::new()).await, []);

    fixture.images.delete("one:1", None).await.expect("deletes");
    let mut expected = vec![content(&one), content(&own)];
    expected.sort();
    assert_eq!(fixture.collected(CollectOptions::new().dry_run()).await, expected);
    assert_eq!(fixture.collected(CollectOptions::new()).await, expected);
    fixture.images.delete("other:1", None).await.expect("deletes");
    assert_eq!(fixture.collected(CollectOptions::new()).await.len(), 2);
    assert_eq!(std::fs::read_dir(fixture.store.root().join("blobs/sha256")).expect("lists").count(), 0);
}

#[tokio::test]
async fn an_image_that_has_expired_goes_unless_another_refers_to_it() {
    let fixture = Fixture::new().await;
    let (a, b) = (fixture.put("a", &[]).await, fixture.put("b", &[]).await);
    fixture.name("keeper", &fixture.put("k", &[]).await, &[("containerd.io/gc.ref.image.x", "kept")]).await;
    let expires = [("containerd.io/gc.expire", "2030-01-01T00:00:00Z")];
    fixture.name("kept", &a, &expires).await;
    fixture.name("gone", &b, &expires).await;
    fixture.name("malformed", &fixture.put("m", &[]).await, &[("containerd.io/gc.expire", "soon")]).await;
    let at = |year: u64| {
        CollectOptions::new().at(SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_556_952))
    };
    assert_eq!(fixture.collected(at(2029)).await, []);
    let mut expected = vec![content(&b), Resource::Image("gone".into())];
    expected.sort();
    assert_eq!(fixture.collected(at(2031)).await, expected);
    let left: Vec<String> = fixture
        .images
        .list(&FilterSet::all())
        .await
        .expect("lists")
        .into_iter()
        .map(|image| image.name)
        .collect();
    assert_eq!(left, ["keeper", "kept", "malformed"]);
    let index = std::fs::read_to_string(fixture.store.root().join("index.json")).expect("reads");
    assert!(!index.contains("gone"), "{index}");
}

#[tokio::test]
async fn what_killed_processes_leave_is_swept() {
    let fixture = Fixture::new().await;
    let root = fixture.store.root();
    std::fs::write(root.join(".index.json.1-1.tmp"), "half").expect("writes");
    let (empty, nameless) = ("a".repeat(64), "b".repeat(64));
    for ingest in [&empty, &nameless] {
        std::fs::create_dir(root.join("ingest").join(ingest)).expect("makes");
    }
    std::fs::write(root.join("ingest").join(nameless).join("updatedat"), "x").expect("writes");
    collect(&fixture.store, &CollectOptions::new()).await.expect("collects");
    assert!(!root.join(".index.json.1-1.tmp").exists());
    assert_eq!(std::fs::read_dir(root.join("ingest")).expect("lists").count(), 0);
    assert!(root.join("index.json").exists());
}

#[tokio::test]
async fn a_change_that_was_killed_half_way_is_mended_when_the_store_is_opened() {
    let fixture = Fixture::new().await;
    fixture.name("kept", &fixture.put("a", &[]).await, &[]).await;
    let index = fixture.store.root().join("index.json");
    let right = std::fs::read(&index).expect("reads");
    // As a kill leaves it between the view and the commit.
    std::fs::write(&index, r#"{"schemaVersion":2,"manifests":[{"ahead":1}]}"#).expect("writes");
    let marker = fixture.store.root().join(".index.json.changing-1-1");
    std::fs::write(&marker, "").expect("writes");
    image_store(&fixture.store).expect("opens");
    assert_eq!(std::fs::read(&index).expect("reads"), right);
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_change_that_fails_leaves_the_view_as_it_was() {
    let fixture = Fixture::new().await;
    let target = fixture.put("a", &[]).await;
    fixture.name("kept", &target, &[]).await;
    let right = std::fs::read(fixture.store.root().join("index.json")).expect("reads");
    let refused = fixture.images.create(Image::new("kept", target)).await;
    assert_eq!(refused.expect_err("is there").kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(fixture.store.root().join("index.json")).expect("reads"), right);
    let names = std::fs::read_dir(fixture.store.root()).expect("lists");
    assert!(names.flatten().all(|entry| !entry.file_name().to_string_lossy().contains("changing")));
}

#[tokio::test]
async fn a_store_without_leases_is_not_collected() {
    let store = MemoryStore::new();
    assert!(store.leases().is_none());
    let error = collect(&store, &CollectOptions::new()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::NotImplemented);
}
