//! What uploads cost: how often their bytes are read and hashed again, who can go on with them meanwhile, and what is left of those for which
//! there is no room.

use std::{
    io, mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ::bytes::Bytes;
use async_trait::async_trait;
use tempfile::TempDir;
use wharf_content::{
    Algorithm, BlobReader, CommitOptions, Descriptor, Digest, Error, Info, IngestManager, IngestOptions,
    Ingester, Labels, LeaseManager, LocalStore, Manager, Provider, Result, Status, Store, Writer,
    filter::FilterSet,
    gc::{CollectOptions, INGEST_GRACE},
    metadata::Metadata,
    store::Visit,
};
use wharf_remotes::server::RegistryOptions;

use crate::{
    bytes,
    site::{Site, local},
};

/// A store that notes what each writer that was opened had to hash, in bytes, and by what; and has no more room where that is wanted.
#[derive(Debug)]
pub(crate) struct Noting {
    store: LocalStore,
    opened: Mutex<Vec<(u64, Algorithm)>>,
    full: Mutex<Option<Full>>,
}

/// When it turns out that there is no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Write,
    Sync,
    Commit,
}

/// A writer for which there is no more room. Once it has failed it is of no more use.
#[derive(Debug)]
struct Cramped {
    writer: Box<dyn Writer>,
    full: Full,
}

impl Cramped {
    async fn fails(&mut self, when: Full) -> Result<()> {
        if self.full != when {
            return Ok(());
        }
        self.writer.close().await?;
        Err(Error::io("cannot write", io::ErrorKind::StorageFull.into()))
    }
}

#[async_trait]
impl Writer for Cramped {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.writer.write(bytes).await?;
        self.fails(Full::Write).await
    }

    fn status(&self) -> Status {
        self.writer.status()
    }

    async fn digest(&mut self) -> Result<Digest> {
        self.writer.digest().await
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.writer.truncate(size).await
    }

    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        options: CommitOptions,
    ) -> Result<Digest> {
        self.fails(Full::Commit).await?;
        self.writer.commit(size, expected, options).await
    }

    async fn sync(&mut self) -> Result<bool> {
        self.fails(Full::Sync).await?;
        self.writer.sync().await
    }

    async fn close(&mut self) -> Result<()> {
        self.fails(Full::Sync).await?;
        self.writer.close().await
    }
}

impl Noting {
    pub(crate) async fn over(root: &TempDir) -> Arc<Self> {
        let store = LocalStore::open(root.path().join("store")).await.expect("a store");
        Arc::new(Self { store, opened: Mutex::default(), full: Mutex::default() })
    }

    /// Has writers that are opened from now on fail, or no longer.
    pub(crate) fn full(&self, full: Option<Full>) {
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = full;
    }

    /// What was opened since this was asked last.
    fn opened(&self) -> Vec<(u64, Algorithm)> {
        mem::take(&mut self.opened.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Ingester for Noting {
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>> {
        let algorithm = options.digest.as_ref().map_or(options.algorithm, Digest::algorithm);
        let writer = self.store.writer(options).await?;
        let opened = (writer.status().offset, algorithm);
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
        let full = *self.full.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match full {
            Some(full) => Box::new(Cramped { writer, full }),
            None => writer,
        })
    }
}

#[async_trait]
impl Provider for Noting {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        self.store.reader(descriptor).await
    }
}

#[async_trait]
impl Manager for Noting {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        self.store.info(digest).await
    }

    async fn update(&self, digest: &Digest, labels: &Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.store.update(digest, labels, fieldpaths).await
    }

    async fn walk(&self, filters: &FilterSet, visit: &mut Visit<'_>) -> Result<()> {
        self.store.walk(filters, visit).await
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        self.store.delete(digest).await
    }
}

#[async_trait]
impl IngestManager for Noting {
    async fn status(&self, reference: &str) -> Result<Status> {
        self.store.status(reference).await
    }

    async fn list_statuses(&self, filters: &FilterSet) -> Result<Vec<Status>> {
        self.store.list_statuses(filters).await
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        self.store.abort(reference).await
    }
}

impl Store for Noting {
    fn metadata(&self) -> Option<&Metadata> {
        self.store.metadata()
    }

    fn leases(&self) -> Option<&dyn LeaseManager> {
        self.store.leases()
    }
}

async fn patch(site: &Site, location: &str, chunk: &[u8]) {
    assert_eq!(site.send("PATCH", location, &[], chunk).await.status, 202);
}

async fn put(site: &Site, location: &str, digest: &Digest, chunk: &[u8]) -> u16 {
    site.send("PUT", &format!("{location}?digest={digest}"), &[], chunk).await.status
}

#[tokio::test]
async fn every_byte_is_hashed_once_however_many_requests_bring_it() {
    let root = TempDir::new().expect("a directory");
    let store = Noting::over(&root).await;
    let site = Site::start(Arc::clone(&store) as _, RegistryOptions::default()).await;
    let blob = bytes(3_000_000);
    for (algorithm, begun, expected) in [
        // Begun without anything being open after it.
        (Algorithm::Sha256, "", vec![(0, Algorithm::Sha256), (0, Algorithm::Sha256)]),
        (Algorithm::Sha512, "?digest-algorithm=sha512", vec![(0, Algorithm::Sha512)]),
    ] {
        let digest = algorithm.digest(&blob);
        let begin = site.send("POST", &format!("/v2/a/blobs/uploads/{begun}"), &[], b"").await;
        let location = begin.header("location").expect("a location");
        for (number, chunk) in blob[..2_000_000].chunks(250_000).enumerate() {
            patch(&site, location, chunk).await;
            // What was answered for is there for everybody.
            let last = format!("0-{}", (number + 1) * 250_000 - 1);
            assert_eq!(site.get(location).await.header("range"), Some(last.as_str()));
        }
        // What is refused takes nothing away.
        assert_eq!(site.send("PATCH", location, &[("Content-Range", "0-1")], b"xx").await.status, 416);
        assert_eq!(put(&site, location, &algorithm.digest(b"other"), b"").await, 400);
        assert_eq!(put(&site, location, &digest, &blob[2_000_000..]).await, 201);
        assert_eq!(store.opened(), expected, "{algorithm:?}");
        assert!(site.get(&format!("/v2/a/blobs/{digest}")).await.body == blob);

        // All at the end, or in one request.
        let other = algorithm.digest(b"all");
        let location = site.begin("a").await;
        assert_eq!(store.opened().len(), 1);
        assert_eq!(put(&site, &location, &other, b"all").await, 201);
        let path = format!("/v2/a/blobs/uploads/?digest={}", algorithm.digest(b"whole"));
        assert_eq!(site.send("POST", &path, &[], b"whole").await.status, 201);
        assert_eq!(store.opened(), [(0, algorithm), (0, algorithm)]);
    }
    site.stop().await;
}

#[tokio::test]
async fn an_upload_is_free_for_others_after_a_while_and_when_the_registry_ends() {
    let root = TempDir::new().expect("a directory");
    // Longer than a request waits for another one.
    let options = || RegistryOptions::default().with_upload_idle(Duration::from_secs(5));
    // Two processes that share a store.
    let (one, other) = (local(&root).await, local(&root).await);
    let (one, other) = (Site::start(one, options()).await, Site::start(other, options()).await);
    let location = one.begin("a").await;
    patch(&one, &location, b"one ").await;
    assert_eq!(other.get(&location).await.header("range"), Some("0-3"));
    other.send("DELETE", &location, &[], b"").await.refuses(503, "UNAVAILABLE");
    let mut answer = other.send("PATCH", &location, &[], b"two ").await;
    answer.refuses(503, "UNAVAILABLE");
    for _ in 0..10 {
        if answer.status != 503 {
            break;
        }
        assert!(answer.header("retry-after").is_some());
        answer = other.send("PATCH", &location, &[], b"two ").await;
    }
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-7")));
    // Who keeps a registry that no longer serves keeps no upload by it.
    let ended = other.registry.clone();
    other.stop().await;
    let digest = Digest::sha256(b"one two three");
    assert_eq!(put(&one, &location, &digest, b"three").await, 201);
    drop(ended);
    one.stop().await;
}

#[tokio::test]
async fn a_kept_upload_can_be_cancelled_and_is_not_collected() {
    let root = TempDir::new().expect("a directory");
    let store = local(&root).await;
    let site = Site::start(Arc::clone(&store), RegistryOptions::default()).await;
    let location = site.begin("a").await;
    patch(&site, &location, b"one ").await;
    // As if it were long ago, and with nothing that holds it but who is at work on it.
    let leases = store.leases().expect("has leases");
    for lease in leases.list_leases(&FilterSet::all()).await.expect("lists") {
        leases.delete_lease(&lease.id).await.expect("removes");
    }
    let mut late = CollectOptions::default();
    late.now = SystemTime::now() + INGEST_GRACE * 2;
    assert_eq!(wharf_images::collect(store.as_ref(), &late).await.expect("collects"), []);
    patch(&site, &location, b"two").await;
    assert_eq!(site.send("DELETE", &location, &[], b"").await.status, 204);
    site.get(&location).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(store.list_statuses(&FilterSet::all()).await.expect("lists"), []);

    // Without anything kept, as between registries behind one address.
    let lone =
        Site::start(Arc::clone(&store), RegistryOptions::default().with_upload_idle(Duration::ZERO)).await;
    let location = lone.begin("a").await;
    patch(&lone, &location, b"one ").await;
    patch(&site, &location, b"two").await;
    patch(&site, &location, b"!").await;
    site.stop().await;
    assert_eq!(put(&lone, &location, &Digest::sha256(b"one two!"), b"").await, 201);
    lone.stop().await;
}

#[tokio::test]
async fn what_there_is_no_room_for_goes_at_once() {
    let root = TempDir::new().expect("a directory");
    let store = Noting::over(&root).await;
    let left = async || store.list_statuses(&FilterSet::all()).await.expect("lists").len();
    for idle in [Duration::ZERO, Duration::from_secs(5)] {
        let options = RegistryOptions::default().with_upload_idle(idle);
        let site = Site::start(Arc::clone(&store) as _, options).await;
        let blob = bytes(300_000);
        let end = format!("?digest={}", Digest::sha256(&blob));
        for (method, full) in [
            ("POST", Full::Write),
            ("POST", Full::Commit),
            ("PATCH", Full::Write),
            ("PATCH", Full::Sync),
            ("PUT", Full::Write),
            ("PUT", Full::Commit),
        ] {
            let mut path = "/v2/a/blobs/uploads/".to_owned();
            if method != "POST" {
                path = site.begin("a").await;
            }
            store.full(Some(full));
            let answer = site.send(method, &format!("{path}{end}"), &[], &blob).await;
            store.full(None);
            answer.refuses(507, "UNAVAILABLE");
            assert_eq!(left().await, 0, "{method}, {full:?}, {idle:?}");
            if method != "POST" {
                site.get(&path).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
            }
        }
        // What is wrong otherwise is kept as it was.
        let location = site.begin("a").await;
        assert_eq!(put(&site, &location, &Digest::sha256(b"other"), &blob).await, 400);
        assert_eq!(left().await, 1);
        assert_eq!(put(&site, &location, &Digest::sha256(&blob), b"").await, 201);
        assert_eq!(left().await, 0);
        site.stop().await;
        store.delete(&Digest::sha256(&blob)).await.expect("it is there");
    }
}
