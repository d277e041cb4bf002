//! How many transfers are under way at once: as many as are allowed, and never one more, whoever moves the content.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Barrier,
    task::JoinHandle,
};
use wharf_content::{Info, Manager, MemoryStore, Store, filter::FilterSet, read_blob};
use wharf_images::{MemoryImages, Selection, media_types as types, transport::MemoryRegistry};
use wharf_remotes::{
    CopyOptions, PullOptions, copy, pull,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{ImageFixture, Layer};

/// How many transfers are allowed.
const ALLOWED: usize = 3;
/// How many times so many layers the image has.
const ROUNDS: usize = 4;

/// How many answers with blobs are open now, and how many there were at most.
#[derive(Debug, Default)]
struct Open {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A registry that gives each layer only when as many as are allowed are asked for at once.
struct Counting {
    address: String,
    open: Arc<Open>,
    task: JoinHandle<()>,
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Counting {
    async fn start() -> Self {
        let store = MemoryStore::new();
        let layers =
            (0..ALLOWED * ROUNDS).map(|seed| Layer::noise("data", 20_000, seed as u64 + 1)).collect();
        let image = ImageFixture::new().with("linux/amd64", layers);
        let root = image.write(&store).await.expect("writes");
        let mut sizes = Vec::new();
        let mut visit = |info: Info| {
            sizes.push((info.digest, info.size));
            Ok(())
        };
        store.walk(&FilterSet::all(), &mut visit).await.expect("walks");
        let mut content = HashMap::new();
        for (digest, size) in sizes {
            let blob = wharf_content::Descriptor::new("x", digest.clone(), size);
            let bytes = read_blob(&store, &blob, 1 << 20).await.expect("reads");
            content.insert(digest.to_string(), bytes);
        }
        content.insert("1".into(), content[root.digest.as_str()].clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("bound").to_string();
        let (content, open) = (Arc::new(content), Arc::new(Open::default()));
        let (barrier, counted) = (Arc::new(Barrier::new(ALLOWED)), Arc::clone(&open));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, barrier) = (Arc::clone(&content), Arc::clone(&barrier));
                tokio::spawn(answer(stream, content, barrier, Arc::clone(&counted)));
            }
        });
        Self { address, open, task }
    }

    fn reference(&self) -> String {
        format!("{}/a:1", self.address)
    }
}

async fn answer(
    mut stream: TcpStream,
    content: Arc<HashMap<String, bytes::Bytes>>,
    barrier: Arc<Barrier>,
    open: Arc<Open>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let bytes = content.get(path.rsplit('/').next().unwrap_or_default()).cloned().unwrap_or_default();
    let digest = wharf_content::Digest::sha256(&bytes);
    let head_of_answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {}\r\n\r\n",
        types::OCI_MANIFEST,
        bytes.len()
    );
    if stream.write_all(head_of_answer.as_bytes()).await.is_err() || head.starts_with("HEAD ") {
        return;
    }
    if !path.contains("/blobs/") {
        drop(stream.write_all(&bytes).await);
        return;
    }
    let now = open.now.fetch_add(1, Ordering::SeqCst) + 1;
    open.most.fetch_max(now, Ordering::SeqCst);
    let (start, last) = bytes.split_at(bytes.len() - 1);
    drop(stream.write_all(start).await);
    // The config is smaller than any layer, and waits for nobody.
    if bytes.len() > 10_000 {
        barrier.wait().await;
        // Whoever asks for more than is allowed has the time to do so.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Nobody has all of it before it stops being counted, so that the next one is not counted beside it.
    open.now.fetch_sub(1, Ordering::SeqCst);
    drop(stream.write_all(last).await);
}

fn allowed() -> NonZeroUsize {
    NonZeroUsize::new(ALLOWED).expect("not zero")
}

fn resolver() -> RegistryResolver {
    RegistryResolver::new(RegistrySettings::new().with_retries(0, Duration::ZERO))
}

/// Fewer than are allowed would wait for each other without end.
async fn bounded<T>(work: impl Future<Output = wharf_content::Result<T>>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(60), work).await;
    done.expect("as many at once as are allowed").expect("succeeds")
}

#[tokio::test]
async fn a_pull_has_as_many_transfers_as_are_allowed() {
    for has_handler in [false, true] {
        let server = Counting::start().await;
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let mut options = PullOptions::new().with_selection(Selection::all()).with_concurrency(allowed());
        if has_handler {
            // A pull with handlers has other limits beside this one.
            let seen = Arc::new(wharf_images::Chain::new());
            options = options.with_handler(seen);
        }
        bounded(pull(store, &MemoryImages::new(), &resolver(), &server.reference(), options)).await;
        assert_eq!(server.open.most.load(Ordering::SeqCst), ALLOWED);
    }
}

#[tokio::test]
async fn a_copy_has_as_many_transfers_as_are_allowed() {
    let server = Counting::start().await;
    let destination = MemoryRegistry::new();
    let options = CopyOptions::new().with_concurrency(allowed());
    bounded(copy(&resolver(), &server.reference(), &destination, "there.example/a:1", &options)).await;
    assert_eq!(server.open.most.load(Ordering::SeqCst), ALLOWED);
}

#[tokio::test]
async fn any_number_may_be_allowed() {
    let registry = wharf_tests::TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::of("a", "b")]);
    let name = registry.put("a:1", &image).await.expect("puts");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let most = NonZeroUsize::MAX;
    let options = PullOptions::new().with_selection(Selection::all()).with_concurrency(most);
    bounded(pull(store, &MemoryImages::new(), &resolver(), &name, options)).await;
    let options = CopyOptions::new().with_concurrency(most).with_referrers();
    bounded(copy(&resolver(), &name, &resolver(), &registry.reference("b:1"), &options)).await;
}
