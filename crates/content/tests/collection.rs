//! What is kept and what goes: the collector against a simple model, and leases in a store on disk.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use wharf_content::{
    CommitOptions, Descriptor, Digest, ErrorKind, IngestManager, IngestOptions, Ingester, Labels,
    LeaseManager, LeaseOptions, LeasedStore, LocalStore, Manager, Resource, Result, Store,
    filter::FilterSet,
    gc::{self, CollectOptions, Collected, INGEST_GRACE, Vertex, mark},
    lease::{LABEL_EXPIRE, LABEL_FLAT, PROCESS_LEASE},
    write_blob,
};

/// Numbers without a pattern, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("below a usize")
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

fn resource(number: usize) -> Resource {
    match number % 5 {
        0 => Resource::Image(format!("image-{number}")),
        1 => Resource::Lease(format!("lease-{number}")),
        _ => Resource::Content(Digest::sha256(&number.to_le_bytes())),
    }
}

/// A graph whose edges are written as labels wherever there is a label for them.
fn graph(random: &mut Random) -> Vec<Vertex> {
    let size = 1 + random.below(12);
    let mut vertices = Vec::new();
    for number in 0..size {
        let mut labels = Labels::new();
        let mut edges = Vec::new();
        for at in 0..random.below(4) {
            let separator = [".", "/"][random.below(2)];
            match resource(random.below(size + 2)) {
                Resource::Content(digest) => {
                    let way = ["ref", "bref"][usize::from(random.one_in(4))];
                    labels
                        .insert(format!("containerd.io/gc.{way}.content{separator}{at}"), digest.to_string());
                }
                Resource::Image(name) => {
                    let way = ["ref", "bref"][usize::from(random.one_in(4))];
                    labels.insert(format!("containerd.io/gc.{way}.image{separator}{at}"), name);
                }
                other => edges.push(other),
            }
        }
        // What looks like an edge and is none.
        labels.insert("containerd.io/gc.ref.contents".into(), Digest::sha256(b"0").to_string());
        labels.insert("containerd.io/gc.ref.content.bad".into(), "no digest".into());
        let resource = resource(number);
        if random.one_in(8) {
            labels.insert("containerd.io/gc.root".into(), String::new());
        }
        let is_root = random.one_in(5);
        let mut vertex = Vertex::new(resource, is_root).with_labels(&labels).with_edges(edges);
        vertex.is_flat = random.one_in(6);
        vertices.push(vertex);
    }
    vertices
}

/// The rules said again, as slowly as they are read: a thing is kept if it is a root or something that is kept keeps it; and what only a flat
/// thing keeps, keeps nothing itself.
fn model(vertices: &[Vertex]) -> HashSet<Resource> {
    let keeps = |from: &Vertex, to: &Resource| {
        from.edges.contains(to)
            || vertices.iter().any(|v| v.resource == *to && v.back_edges.contains(&from.resource))
    };
    let mut full: HashSet<Resource> =
        vertices.iter().filter(|v| v.is_root).map(|v| v.resource.clone()).collect();
    let everything: HashSet<Resource> = vertices
        .iter()
        .flat_map(|v| [v.resource.clone()].into_iter().chain(v.edges.clone()).chain(v.back_edges.clone()))
        .collect();
    loop {
        let before = full.len();
        for to in &everything {
            if vertices.iter().any(|from| full.contains(&from.resource) && !from.is_flat && keeps(from, to)) {
                full.insert(to.clone());
            }
        }
        if full.len() == before {
            break;
        }
    }
    let mut kept = full.clone();
    for from in vertices.iter().filter(|v| full.contains(&v.resource)) {
        kept.extend(everything.iter().filter(|to| keeps(from, to)).cloned());
    }
    kept
}

#[test]
fn ten_thousand_random_graphs_are_marked_as_the_model_says() {
    let mut random = Random(0x5EED);
    let (mut kept, mut gone) = (0, 0);
    for round in 0..10_000 {
        let vertices = graph(&mut random);
        let (found, expected) = (mark(&vertices), model(&vertices));
        for vertex in &vertices {
            let resource = &vertex.resource;
            assert_eq!(
                found.contains(resource),
                expected.contains(resource),
                "round {round}: {resource} in {vertices:#?}"
            );
            *(if found.contains(resource) { &mut kept } else { &mut gone }) += 1;
        }
    }
    assert!(kept > 10_000 && gone > 10_000, "{kept} kept and {gone} gone: the graphs show nothing");
}

struct Fixture {
    _dir: tempfile::TempDir,
    store: LocalStore,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = LocalStore::open(dir.path().join("store")).await.expect("opens");
        Self { _dir: dir, store }
    }

    /// Another process's view of the same store.
    async fn neighbour(&self) -> LocalStore {
        LocalStore::open(self.store.root()).await.expect("opens")
    }

    fn shared(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn put(&self, text: &str, labels: &[(&str, &Digest)]) -> Descriptor {
        let descriptor = Descriptor::of("x", text.as_bytes());
        let labels = labels.iter().map(|(key, digest)| ((*key).to_owned(), digest.to_string())).collect();
        let options = CommitOptions::default().with_labels(labels);
        write_blob(&self.store, text, &descriptor, text.to_owned().into(), options).await.expect("writes");
        descriptor
    }

    async fn collect(&self, options: CollectOptions) -> Vec<Collected> {
        let neighbour = self.neighbour().await;
        let exclusive = neighbour.exclusive().await.expect("locks").expect("is collected");
        gc::collect(&exclusive, &[], &options).await.expect("collects")
    }

    async fn has(&self, descriptor: &Descriptor) -> bool {
        wharf_content::reading::exists(&self.store, &descriptor.digest).await.expect("looks")
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("must fail").kind()
}

fn after(duration: Duration) -> CollectOptions {
    CollectOptions::new().at(SystemTime::now() + duration)
}

#[tokio::test]
async fn what_nothing_keeps_goes_and_is_told() {
    let fixture = Fixture::new().await;
    let (loose, child) = (fixture.put("loose", &[]).await, fixture.put("child", &[]).await);
    let root = fixture.put("root", &[("containerd.io/gc.ref.content.l.0", &child.digest)]).await;
    let labels = Labels::from([("containerd.io/gc.root".into(), "yes".into())]);
    fixture.store.update(&root.digest, &labels, &["labels.containerd.io/gc.root"]).await.expect("labels");

    let would = fixture.collect(CollectOptions::new().dry_run()).await;
    assert_eq!(would.len(), 1);
    assert_eq!((&would[0].resource, would[0].size), (&Resource::Content(loose.digest.clone()), 5));
    assert!(fixture.has(&loose).await, "a dry run removes nothing");
    assert_eq!(fixture.collect(CollectOptions::new()).await, would);
    assert!(!fixture.has(&loose).await && fixture.has(&root).await && fixture.has(&child).await);
    assert_eq!(fixture.collect(CollectOptions::new()).await, []);
}

#[tokio::test]
async fn a_damaged_name_hides_nothing_and_keeps_its_children() {
    let fixture = Fixture::new().await;
    let (child, loose) = (fixture.put("child", &[]).await, fixture.put("loose", &[]).await);
    let parent = fixture.put("parent", &[("containerd.io/gc.ref.content.m.0", &child.digest)]).await;
    fixture.store.create_lease(LeaseOptions::new().with_id("l")).await.expect("creates");
    fixture.store.add_resource("l", &Resource::Content(parent.digest.clone())).await.expect("adds");
    let path = fixture.store.root().join("blobs/sha256").join(parent.digest.hex());
    std::fs::remove_file(&path).expect("removes");
    std::os::unix::fs::symlink("/nowhere", &path).expect("links");
    let collected = fixture.collect(CollectOptions::new()).await;
    let resources: Vec<Resource> = collected.into_iter().map(|one| one.resource).collect();
    assert_eq!(resources, [Resource::Content(loose.digest)]);
    assert!(fixture.has(&child).await);
}

#[tokio::test]
async fn leases() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let lease = store.create_lease(LeaseOptions::new().with_id("one")).await.expect("creates");
    assert_eq!(kind(store.create_lease(LeaseOptions::new().with_id("one")).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(store.create_lease(LeaseOptions::new().with_id("")).await), ErrorKind::InvalidArgument);
    let labels = Labels::from([("colour".into(), "red".into())]);
    store.create_lease(LeaseOptions::new().with_labels(labels)).await.expect("a random id");
    let list = async |filter: &str| {
        let filters = FilterSet::parse([filter]).expect("valid");
        store.list_leases(&filters).await.expect("lists").len()
    };
    assert_eq!((list("").await, list("id==one").await, list("labels.colour==red").await), (2, 1, 1));

    let blob = fixture.put("blob", &[]).await;
    let resource = Resource::Content(blob.digest.clone());
    store.add_resource(&lease.id, &resource).await.expect("adds");
    store.add_resource(&lease.id, &resource).await.expect("is there already");
    assert_eq!(kind(store.add_resource("none", &resource).await), ErrorKind::NotFound);
    assert_eq!(store.resources("one").await.expect("lists"), std::slice::from_ref(&resource));
    assert_eq!(kind(store.resources("none").await), ErrorKind::NotFound);
    assert_eq!(fixture.collect(CollectOptions::new()).await, []);

    store.delete_resource("one", &resource).await.expect("removes");
    assert_eq!(kind(store.delete_resource("one", &resource).await), ErrorKind::NotFound);
    store.add_resource("one", &resource).await.expect("adds");
    store.delete_lease("one").await.expect("deletes");
    assert_eq!(kind(store.delete_lease("one").await), ErrorKind::NotFound);
    assert_eq!(fixture.collect(CollectOptions::new()).await.len(), 1);
}

#[tokio::test]
async fn a_lease_ends_by_its_clock_unless_a_process_holds_it() {
    let fixture = Fixture::new().await;
    let leased = LeasedStore::hold(fixture.shared(), Labels::new()).await.expect("holds");
    let blob = Descriptor::of("x", b"held");
    write_blob(leased.as_ref(), "r", &blob, "held".into(), CommitOptions::default()).await.expect("writes");

    // However far the clock jumps, in either direction.
    for years in [1, 100] {
        assert_eq!(fixture.collect(after(Duration::from_secs(years * 366 * 86_400))).await, []);
    }
    assert_eq!(fixture.collect(CollectOptions::new().at(SystemTime::UNIX_EPOCH)).await, []);

    // The process dies: its lock goes, its lease stays for a day, and then it goes with what it held.
    let id = leased.lease().expect("a lease").to_owned();
    drop(leased);
    assert!(!fixture.store.is_held(&id).await.expect("looks"));
    assert_eq!(fixture.collect(after(Duration::from_secs(23 * 60 * 60))).await, []);
    let collected = fixture.collect(after(PROCESS_LEASE + Duration::from_secs(60))).await;
    let resources: Vec<Resource> = collected.into_iter().map(|one| one.resource).collect();
    assert_eq!(resources, [Resource::Content(blob.digest.clone()), Resource::Lease(id)]);
    assert!(!fixture.has(&blob).await);
    assert_eq!(fixture.store.list_leases(&FilterSet::all()).await.expect("lists"), []);
}

#[tokio::test]
async fn work_that_leaves_nothing_holds_what_it_needs_and_no_longer() {
    let fixture = Fixture::new().await;
    let blob = fixture.put("read", &[]).await;
    let leased = LeasedStore::hold_while_at_work(fixture.shared()).await.expect("holds");
    leased.add(&blob.digest).await.expect("adds");
    for at in [CollectOptions::new(), after(PROCESS_LEASE)] {
        assert_eq!(fixture.collect(at).await, []);
    }
    // It ends without a release, as where it is interrupted.
    let id = leased.lease().expect("a lease").to_owned();
    drop(leased);
    let collected = fixture.collect(CollectOptions::new()).await;
    let resources: Vec<Resource> = collected.into_iter().map(|one| one.resource).collect();
    assert_eq!(resources, [Resource::Content(blob.digest), Resource::Lease(id)]);
}

#[tokio::test]
async fn a_released_lease_keeps_nothing() {
    let fixture = Fixture::new().await;
    let leased = LeasedStore::hold(fixture.shared(), Labels::new()).await.expect("holds");
    let blob = Descriptor::of("x", b"held");
    write_blob(leased.as_ref(), "r", &blob, "held".into(), CommitOptions::default()).await.expect("writes");
    leased.release().await.expect("releases");
    leased.release().await.expect("is gone already");
    assert_eq!(fixture.collect(CollectOptions::new()).await.len(), 1);
}

#[tokio::test]
async fn who_finds_content_there_holds_it_too() {
    let fixture = Fixture::new().await;
    let blob = fixture.put("there", &[]).await;
    let leased = LeasedStore::hold(fixture.shared(), Labels::new()).await.expect("holds");
    let found = leased.writer(IngestOptions::new("r").with_descriptor(&blob)).await;
    assert_eq!(kind(found), ErrorKind::AlreadyExists);
    assert_eq!(fixture.collect(CollectOptions::new()).await, []);

    // Written by two at once under different names: the second commit finds it there.
    let twin = Descriptor::of("x", b"twin");
    let mut one = leased.writer(IngestOptions::new("a")).await.expect("opens");
    let mut other = leased.writer(IngestOptions::new("b")).await.expect("opens");
    for writer in [&mut one, &mut other] {
        writer.write("twin".into()).await.expect("writes");
    }
    one.commit(None, None, CommitOptions::default()).await.expect("commits");
    assert_eq!(kind(other.commit(None, None, CommitOptions::default()).await), ErrorKind::AlreadyExists);
    assert_eq!(fixture.collect(CollectOptions::new()).await, []);
    assert!(fixture.has(&twin).await);
}

#[tokio::test]
async fn writing_under_a_lease_that_is_none_is_refused() {
    let fixture = Fixture::new().await;
    let leased = LeasedStore::under(fixture.shared(), "nothing");
    assert_eq!(kind(leased.writer(IngestOptions::new("r")).await), ErrorKind::NotFound);
    fixture.store.create_lease(LeaseOptions::new().with_id("kept")).await.expect("creates");
    let leased = LeasedStore::under(fixture.shared(), "kept");
    let blob = Descriptor::of("x", b"kept");
    write_blob(leased.as_ref(), "r", &blob, "kept".into(), CommitOptions::default()).await.expect("writes");
    assert_eq!(fixture.collect(after(Duration::from_secs(1 << 32))).await, [], "it has no end");
}

#[tokio::test]
async fn a_flat_lease_and_a_time_that_cannot_be_read() {
    let fixture = Fixture::new().await;
    let child = fixture.put("child", &[]).await;
    let parent = fixture.put("parent", &[("containerd.io/gc.ref.content.m.0", &child.digest)]).await;
    let labels = Labels::from([
        (LABEL_FLAT.to_owned(), "true".to_owned()),
        (LABEL_EXPIRE.to_owned(), "the day after tomorrow".to_owned()),
    ]);
    let flat = fixture.store.create_lease(LeaseOptions::new().with_labels(labels)).await.expect("creates");
    let resource = Resource::Content(parent.digest.clone());
    fixture.store.add_resource(&flat.id, &resource).await.expect("adds");
    let collected = fixture.collect(after(Duration::from_secs(1 << 32))).await;
    let resources: Vec<Resource> = collected.into_iter().map(|one| one.resource).collect();
    assert_eq!(resources, [Resource::Content(child.digest.clone())]);
    assert!(fixture.has(&parent).await);
}

#[tokio::test]
async fn ingests_stay_while_they_are_written_and_a_day_longer() {
    let fixture = Fixture::new().await;
    let mut live = fixture.store.writer(IngestOptions::new("live")).await.expect("opens");
    live.write("x".into()).await.expect("writes");
    let mut left = fixture.store.writer(IngestOptions::new("left")).await.expect("opens");
    left.write("xyz".into()).await.expect("writes");
    left.close().await.expect("closes");

    assert_eq!(fixture.collect(CollectOptions::new()).await, []);
    let collected = fixture.collect(after(INGEST_GRACE + Duration::from_secs(60))).await;
    assert_eq!(collected.len(), 1);
    assert_eq!((&collected[0].resource, collected[0].size), (&Resource::Ingest("left".into()), 3));
    live.commit(None, None, CommitOptions::default()).await.expect("was left alone");
    assert_eq!(fixture.store.list_statuses(&FilterSet::all()).await.expect("lists"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_collection_waits_for_who_adds_and_who_adds_waits_for_it() {
    let fixture = Fixture::new().await;
    let gate = fixture.store.metadata().expect("a local store has one").share().expect("shares");
    let neighbour = fixture.neighbour().await;
    let waiting = tokio::spawn(async move { neighbour.exclusive().await.map(drop) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "somebody is adding");
    drop(gate);
    waiting.await.expect("no panic").expect("locks");

    let exclusive = fixture.neighbour().await.exclusive().await.expect("locks").expect("is collected");
    let store = fixture.store.clone();
    let writing = tokio::spawn(async move {
        let blob = Descriptor::of("x", b"blob");
        write_blob(&store, "r", &blob, "blob".into(), CommitOptions::default()).await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!writing.is_finished(), "a collection is under way");
    drop(exclusive);
    writing.await.expect("no panic").expect("goes on");
}
