//! How blobs go out: from their files within the kernel, or read and written, and always the same bytes.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use wharf_content::{
    BlobReader, CommitOptions, Descriptor, Digest, Error, Info, IngestManager, IngestOptions, Ingester,
    Labels, Manager, MemoryStore, Provider, Result, Status, Store, Writer, filter::FilterSet,
    gc::CollectOptions, store::Visit,
};
use wharf_images::image_store;
use wharf_remotes::server::{Registry, RegistryOptions};

use crate::{
    bytes,
    site::{Answer, Site, local},
};

const MEBIBYTE: usize = 1024 * 1024;

/// How long a client waits for what must come.
const LIMIT: Duration = Duration::from_secs(120);

/// Blobs that are in files and cannot be read.
#[derive(Debug)]
struct Unreadable {
    store: MemoryStore,
    dir: TempDir,
}

#[derive(Debug)]
struct OnlyAFile(File, u64);

#[async_trait]
impl BlobReader for OnlyAFile {
    fn size(&self) -> u64 {
        self.1
    }

    async fn read_at(&self, _: u64, _: usize) -> Result<Bytes> {
        Err(Error::internal("read"))
    }

    fn file(&self) -> Option<&File> {
        Some(&self.0)
    }
}

#[async_trait]
impl Provider for Unreadable {
    async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
        let reader = self.store.reader(descriptor).await?;
        let size = reader.size();
        let path = self.dir.path().join(descriptor.digest.hex());
        let bytes = reader.read_at(0, usize::try_from(size).expect("small")).await?;
        fs::write(&path, bytes).expect("written");
        Ok(Arc::new(OnlyAFile(File::open(path).expect("opens"), size)))
    }
}

#[async_trait]
impl Ingester for Unreadable {
    async fn writer(&self, options: IngestOptions) -> Result<Box<dyn Writer>> {
        self.store.writer(options).await
    }
}

#[async_trait]
impl Manager for Unreadable {
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
impl IngestManager for Unreadable {
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

impl Store for Unreadable {}

/// Commits a blob and gives its path at a registry.
async fn commit(store: &dyn Store, blob: &[u8]) -> String {
    let descriptor = Descriptor::of("x", blob);
    let (reference, bytes) = (descriptor.digest.to_string(), Bytes::copy_from_slice(blob));
    let done = wharf_content::write_blob(store, &reference, &descriptor, bytes, CommitOptions::default());
    done.await.expect("stored");
    format!("/v2/a/blobs/{}", descriptor.digest)
}

async fn site() -> (TempDir, Site) {
    let root = TempDir::new().expect("a directory");
    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    (root, site)
}

/// The file of the blob that a path asks for.
fn file(root: &TempDir, path: &str) -> PathBuf {
    let hex = path.rsplit(':').next().expect("a digest");
    root.path().join("store/blobs/sha256").join(hex)
}

/// Asks for a blob and reads the head of the answer.
async fn begin(site: &Site, path: &str) -> TcpStream {
    let mut stream = site.connect().await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    assert_eq!(Answer::parse(&head).status, 200);
    stream
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn files_are_sent_without_being_read() {
    let dir = TempDir::new().expect("a directory");
    let store = Arc::new(Unreadable { store: MemoryStore::new(), dir });
    let blob = bytes(3 * MEBIBYTE + 12_345);
    let path = commit(store.as_ref(), &blob).await;
    let site = Site::start(store, RegistryOptions::default()).await;
    let answer = site.get(&path).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body == blob);
    let range = [("Range", "bytes=777777-2777776")];
    assert!(site.send("GET", &path, &range, b"").await.body == blob[777_777..2_777_777]);
    site.stop().await;
}

#[tokio::test]
async fn every_way_sends_the_same_bytes() {
    let (_root, site) = site().await;
    let images = image_store(site.store.as_ref()).expect("records");
    let reading = Registry::new(Arc::clone(&site.store), images);
    let read = async |path: &str, range: Option<&str>| {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let range = range.map_or_else(String::new, |range| format!("Range: {range}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{range}\r\n");
        let talk = async move {
            client.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("answered");
            Answer::parse(&answer)
        };
        tokio::join!(talk, reading.serve_connection(server)).0
    };
    for len in [0, 1, 65_535, 65_536, 65_537, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 5 * MEBIBYTE + 65_537] {
        let blob = bytes(len);
        let path = commit(site.store.as_ref(), &blob).await;
        let (sent, read) = (site.get(&path).await, read(&path, None).await);
        assert!(sent.body == blob && read.body == blob, "{len}");
        assert_eq!(sent.header("content-length"), Some(len.to_string().as_str()));
        assert_eq!(sent.header("content-length"), read.header("content-length"));
    }
    let blob = bytes(5 * MEBIBYTE + 65_537);
    let path = commit(site.store.as_ref(), &blob).await;
    for (range, start, end) in [
        ("bytes=1-", 1, blob.len()),
        ("bytes=1-65537", 1, 65_538),
        ("bytes=1048575-4194304", MEBIBYTE - 1, 4 * MEBIBYTE + 1),
        ("bytes=-70000", blob.len() - 70_000, blob.len()),
    ] {
        let sent = site.send("GET", &path, &[("Range", range)], b"").await;
        assert_eq!(sent.status, 206, "{range}");
        assert!(sent.body == blob[start..end], "{range}");
        assert!(read(&path, Some(range)).await.body == blob[start..end], "{range}");
    }
    site.stop().await;
}

#[tokio::test]
async fn requests_that_follow_each_other_at_once_are_answered_in_order() {
    let (_root, site) = site().await;
    let (large, small) = (bytes(3 * MEBIBYTE + 1), bytes(100));
    let (large_path, small_path) =
        (commit(site.store.as_ref(), &large).await, commit(site.store.as_ref(), &small).await);
    let mut requests = String::new();
    let mut expected = Vec::new();
    for _ in 0..3 {
        for (method, path, range, body) in [
            ("GET", &large_path, "", &large[..]),
            ("HEAD", &large_path, "", &[]),
            ("GET", &small_path, "", &small),
            ("GET", &large_path, "Range: bytes=70000-2070000\r\n", &large[70_000..2_070_001]),
            ("GET", &large_path, "", &large),
        ] {
            requests += &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{range}\r\n");
            expected.push(body);
        }
    }
    let mut stream = site.connect().await;
    stream.write_all(requests.as_bytes()).await.expect("sent");
    for (number, body) in expected.into_iter().enumerate() {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let status = Answer::parse(&head).status;
        assert!(status == 200 || status == 206, "{number}: {status}");
        let mut found = vec![0; body.len()];
        stream.read_exact(&mut found).await.expect("a body");
        assert!(found == body, "{number}");
    }
    drop(stream);
    site.stop().await;
}

#[tokio::test]
async fn slow_readers_get_everything() {
    let (_root, site) = site().await;
    let blob = bytes(12 * MEBIBYTE);
    let mut stream = begin(&site, &commit(site.store.as_ref(), &blob).await).await;
    let mut found = vec![0; blob.len()];
    let read = async {
        for piece in found.chunks_mut(300_001) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            stream.read_exact(piece).await.expect("more");
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("in time");
    assert!(found == blob);
    assert_eq!(stream.read(&mut [0]).await.expect("closed"), 0);
    site.stop().await;
}

#[tokio::test]
async fn clients_that_hang_up_leave_nothing_behind() {
    let (_root, site) = site().await;
    let blob = bytes(24 * MEBIBYTE);
    let path = commit(site.store.as_ref(), &blob).await;
    for _ in 0..20 {
        let mut stream = begin(&site, &path).await;
        stream.read_exact(&mut [0; 1000]).await.expect("some of it");
        drop(stream);
    }
    let records = site.records(20).await;
    assert!(records.iter().all(|record| record.bytes < blob.len() as u64), "{records:?}");
    assert!(site.get(&path).await.body == blob);
    let metrics = String::from_utf8(site.get("/metrics").await.body).expect("text");
    let open = metrics.lines().find(|line| line.starts_with("wharf_registry_connections ")).expect("counted");
    assert_eq!(open, "wharf_registry_connections 1");
    site.stop().await;
}

#[tokio::test]
async fn a_file_that_is_cut_short_cuts_the_answer_short() {
    let (root, site) = site().await;
    let blob = bytes(48 * MEBIBYTE);
    let path = commit(site.store.as_ref(), &blob).await;
    let mut stream = begin(&site, &path).await;
    let file = file(&root, &path);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("writable");
    File::options().write(true).open(&file).expect("opens").set_len(1000).expect("cut");
    let mut found = Vec::new();
    // The connection may be reset.
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut found)).await;
    drop(read.expect("the connection ends"));
    assert!(found.len() < blob.len());
    assert_eq!(site.get("/v2/").await.status, 200);
    site.stop().await;
}

#[tokio::test]
async fn a_blob_that_is_removed_is_sent_to_its_end() {
    let (_root, site) = site().await;
    let blob = bytes(48 * MEBIBYTE);
    let path = commit(site.store.as_ref(), &blob).await;
    let mut stream = begin(&site, &path).await;
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert_eq!(site.get(&path).await.status, 404);
    let mut found = Vec::new();
    stream.read_to_end(&mut found).await.expect("everything");
    assert!(found == blob);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_connections_are_served() {
    let (_root, site) = site().await;
    let site = Arc::new(site);
    let blob = Arc::new(bytes(200_000));
    let path = commit(site.store.as_ref(), &blob).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(site.connect().await);
    }
    let mut clients = JoinSet::new();
    for _ in 0..300 {
        let (site, path, blob) = (Arc::clone(&site), path.clone(), Arc::clone(&blob));
        clients.spawn(async move {
            let mut stream = begin(&site, &path).await;
            let mut found = Vec::new();
            stream.read_to_end(&mut found).await.expect("everything");
            assert!(found == *blob);
        });
    }
    let all = async {
        while let Some(client) = clients.join_next().await {
            client.expect("every client succeeds");
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("in time");
    // Those that said nothing so far are there still.
    for stream in &mut idle {
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut first = [0; 15];
        stream.read_exact(&mut first).await.expect("answered");
        assert_eq!(&first, b"HTTP/1.1 200 OK");
    }
}
