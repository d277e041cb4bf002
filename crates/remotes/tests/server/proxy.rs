//! A registry that is a cache of another one, which is wharf's own with a log of what it was asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use wharf_content::{
    CommitOptions, Descriptor, Digest, MemoryStore, Store, filter::FilterSet, gc::CollectOptions, reading,
    write_blob,
};
use wharf_images::{Image, media_types};
use wharf_remotes::{
    Via,
    registry::{RegistryResolver, RegistrySettings},
    server::{AccessRecord, Proxy, RegistryOptions, Upstream},
};

use crate::{
    ABSENT, bytes,
    site::{Answer, CONFIG, Site, index, local, manifest, soon},
};

/// Asks the registry at an address, and gives up soon.
pub(crate) fn proxy_of(address: impl std::fmt::Display) -> Proxy {
    let via = Via::random();
    let settings = RegistrySettings::new()
        .with_plain_http()
        .with_retries(0, Duration::ZERO)
        .with_timeouts(Duration::from_secs(5), Duration::from_secs(5))
        .with_via(via.clone());
    let upstream = Upstream::parse(&format!("http://{address}")).expect("a URL");
    Proxy::new(upstream, Arc::new(RegistryResolver::new(settings))).with_via(via)
}

/// A clock that stands until it is told to go on.
pub(crate) fn clock() -> (Arc<AtomicU64>, impl Fn() -> Instant + Send + Sync + 'static) {
    let (zero, seconds) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let told = Arc::clone(&seconds);
    (seconds, move || zero + Duration::from_secs(told.load(Ordering::Relaxed)))
}

pub(crate) async fn cache(store: Arc<dyn Store>, proxy: Proxy) -> Site {
    Site::start(store, RegistryOptions::default().with_proxy(proxy)).await
}

/// How often something was asked for, by the upstream's log.
fn asked(records: &[AccessRecord], method: &str, path: &str) -> usize {
    records.iter().filter(|record| record.method == method && record.path == path).count()
}

/// An upstream with an index of one image of three layers.
struct Upper {
    site: Site,
    layers: Vec<Vec<u8>>,
    manifest: Vec<u8>,
    index: Vec<u8>,
    pushes: usize,
}

impl Upper {
    async fn start() -> Self {
        let site = Site::memory(RegistryOptions::default()).await;
        let layers: Vec<Vec<u8>> = [3_000_000, 700_000, 10].map(bytes).to_vec();
        for layer in &layers {
            site.push_blob("lib/app", layer).await;
        }
        site.push_blob("lib/app", CONFIG).await;
        let described: Vec<Descriptor> =
            layers.iter().map(|layer| Descriptor::of(media_types::OCI_LAYER, layer)).collect();
        let manifest = manifest(&described);
        let index = index(&[Descriptor::of(media_types::OCI_MANIFEST, &manifest)]);
        let path = format!("/v2/lib/app/manifests/{}", Digest::sha256(&manifest));
        assert_eq!(site.put_manifest(&path, media_types::OCI_MANIFEST, &manifest).await.status, 201);
        let path = "/v2/lib/app/manifests/v1";
        assert_eq!(site.put_manifest(path, media_types::OCI_INDEX, &index).await.status, 201);
        let pushes = site.records(layers.len() + 3).await.len();
        Self { site, layers, manifest, index, pushes }
    }

    fn name(&self) -> String {
        format!("{}/lib/app:v1", self.site.address)
    }

    fn paths(&self) -> Vec<String> {
        let documents = [&self.index, &self.manifest]
            .map(|document| format!("/v2/lib/app/manifests/{}", Digest::sha256(document)));
        let blobs = self.layers.iter().map(|layer| Digest::sha256(layer)).chain([Digest::sha256(CONFIG)]);
        documents.into_iter().chain(blobs.map(|blob| format!("/v2/lib/app/blobs/{blob}"))).collect()
    }

    /// What was asked since the image was pushed.
    async fn asked(&self) -> Vec<AccessRecord> {
        self.site.records(self.pushes).await.split_off(self.pushes)
    }
}

/// Pulls as a client does: tag, manifest, blobs.
async fn pull(site: &Site, upper: &Upper) {
    let head = site.send("HEAD", "/v2/lib/app/manifests/v1", &[], b"").await;
    assert_eq!((head.status, head.header("content-type")), (200, Some(media_types::OCI_INDEX)));
    assert_eq!(site.get("/v2/lib/app/manifests/v1").await.body, upper.index);
    let path = format!("/v2/lib/app/manifests/{}", Digest::sha256(&upper.manifest));
    let answer = site.get(&path).await;
    assert_eq!(
        (&answer.body, answer.header("content-type")),
        (&upper.manifest, Some(media_types::OCI_MANIFEST))
    );
    for blob in upper.layers.iter().map(Vec::as_slice).chain([CONFIG]) {
        let answer = site.get(&format!("/v2/lib/app/blobs/{}", Digest::sha256(blob))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body == blob, "{} of {} bytes", answer.body.len(), blob.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_cause_one_pull() {
    let upper = Arc::new(Upper::start().await);
    let root = TempDir::new().expect("a directory");
    let site = Arc::new(cache(local(&root).await, proxy_of(upper.site.address)).await);
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let (site, upper) = (Arc::clone(&site), Arc::clone(&upper));
        clients.spawn(async move { pull(&site, &upper).await });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every client succeeds");
    }
    let records = upper.asked().await;
    assert_eq!(asked(&records, "HEAD", "/v2/lib/app/manifests/v1"), 1);
    for path in upper.paths() {
        assert_eq!(asked(&records, "GET", &path), 1, "{path}");
    }
    assert_eq!(records.len(), 1 + upper.paths().len(), "nothing else is asked: {records:#?}");

    // It is an image of the store, whole, which a collection keeps without any lease.
    let leases = site.store.leases().expect("has leases");
    for lease in leases.list_leases(&FilterSet::all()).await.expect("lists") {
        leases.delete_lease(&lease.id).await.expect("removes");
    }
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    let images = site.images.list(&FilterSet::all()).await.expect("lists");
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, [upper.name()]);
    pull(&site, &upper).await;
    assert_eq!(upper.asked().await.len(), records.len());

    let metrics = String::from_utf8(site.get("/metrics").await.body).expect("text");
    for line in [
        "wharf_registry_proxy_upstream_requests_total{operation=\"resolve\"} 1",
        "wharf_registry_proxy_upstream_requests_total{operation=\"manifest\"} 2",
        "wharf_registry_proxy_upstream_requests_total{operation=\"blob\"} 4",
        "wharf_registry_proxy_requests_total{endpoint=\"blobs\",outcome=\"hit\"} ",
        "wharf_registry_proxy_fetched_bytes_total ",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn what_was_fetched_outlives_the_upstream_and_a_restart() {
    let upper = Upper::start().await;
    let root = TempDir::new().expect("a directory");
    let proxy = || proxy_of(upper.site.address).with_ttl(Duration::ZERO);
    let site = cache(local(&root).await, proxy()).await;
    pull(&site, &upper).await;
    site.stop().await;
    let (proxy, address) = (proxy(), upper.site.address);
    let Upper { site: gone, layers, manifest, index, pushes } = upper;
    gone.stop().await;

    let site = cache(local(&root).await, proxy).await;
    // Nobody answers there any more, and what is compared is what was pushed.
    let upper =
        Upper { site: Site::memory(RegistryOptions::default()).await, layers, manifest, index, pushes };
    pull(&site, &upper).await;
    assert_eq!(site.get("/v2/lib/app/tags/list").await.json()["tags"], serde_json::json!(["v1"]));
    let listed = site.get(&format!("/v2/lib/app/referrers/{ABSENT}")).await;
    assert_eq!((listed.status, listed.json()["manifests"].as_array().map(Vec::len)), (200, Some(0)));
    // What was never fetched cannot be told.
    for path in [
        "/v2/lib/app/manifests/v2".to_owned(),
        format!("/v2/lib/app/manifests/{ABSENT}"),
        format!("/v2/lib/app/blobs/{ABSENT}"),
        "/v2/lib/other/tags/list".to_owned(),
    ] {
        let answer = site.get(&path).await;
        answer.refuses(502, "UNAVAILABLE");
        assert!(!String::from_utf8_lossy(&answer.body).contains("Connection refused"), "{answer:?}");
    }
    assert_eq!(site.send("HEAD", &format!("/v2/lib/app/blobs/{ABSENT}"), &[], b"").await.status, 502);
    let name = format!("{address}/lib/app:v1");
    assert!(site.images.get(&name).await.is_ok());
}

#[tokio::test]
async fn a_tag_is_asked_about_when_it_may_have_moved() {
    let upper = Upper::start().await;
    let root = TempDir::new().expect("a directory");
    let (seconds, now) = clock();
    let proxy = proxy_of(upper.site.address).with_ttl(Duration::from_secs(60)).with_clock(now);
    let site = cache(local(&root).await, proxy).await;
    let tag = "/v2/lib/app/manifests/v1";
    assert_eq!(site.get(tag).await.body, upper.index);
    assert_eq!(upper.site.put_manifest(tag, media_types::OCI_MANIFEST, &upper.manifest).await.status, 201);
    seconds.store(59, Ordering::Relaxed);
    assert_eq!(site.get(tag).await.body, upper.index, "it is fresh");
    seconds.store(60, Ordering::Relaxed);
    assert_eq!(site.get(tag).await.body, upper.manifest, "it has moved");
    seconds.store(120, Ordering::Relaxed);
    assert_eq!(site.get(tag).await.body, upper.manifest, "it is the same");
    let records = upper.asked().await;
    assert_eq!(asked(&records, "HEAD", tag), 3);
    let moved = format!("/v2/lib/app/manifests/{}", Digest::sha256(&upper.manifest));
    assert_eq!(asked(&records, "GET", &moved), 1);
    assert_eq!(site.images.list(&FilterSet::all()).await.expect("lists").len(), 1);

    // Deleted there, it is not there, also while nobody answers; its record is not lost.
    assert_eq!(upper.site.send("DELETE", tag, &[], b"").await.status, 202);
    seconds.store(180, Ordering::Relaxed);
    site.get(tag).await.refuses(404, "MANIFEST_UNKNOWN");
    site.get("/v2/lib/app/manifests/never").await.refuses(404, "MANIFEST_UNKNOWN");
    site.get("/v2/lib/none/tags/list").await.refuses(404, "NAME_UNKNOWN");
    let name = upper.name();
    upper.site.stop().await;
    site.get(tag).await.refuses(404, "MANIFEST_UNKNOWN");
    site.get("/v2/lib/app/tags/list").await.refuses(502, "UNAVAILABLE");
    assert!(site.images.get(&name).await.is_ok());
}

#[tokio::test]
async fn blobs_of_the_upstream_are_no_manifests() {
    let upper = Upper::start().await;
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.site.address)).await;
    let nothing_more = async |count: usize| {
        for blob in [&upper.layers[0][..], CONFIG] {
            let path = format!("/v2/lib/app/manifests/{}", Digest::sha256(blob));
            for method in ["GET", "HEAD"] {
                assert_eq!(site.send(method, &path, &[], b"").await.status, 404, "{path}");
            }
        }
        assert_eq!(site.images.list(&FilterSet::all()).await.expect("lists").len(), count);
    };
    nothing_more(0).await;
    // When the manifests have told the types of their parts, either.
    assert_eq!(site.get("/v2/lib/app/manifests/v1").await.body, upper.index);
    let manifest = format!("/v2/lib/app/manifests/{}", Digest::sha256(&upper.manifest));
    assert_eq!(site.get(&manifest).await.body, upper.manifest);
    nothing_more(1).await;
    let blob = format!("/v2/lib/app/blobs/{}", Digest::sha256(CONFIG));
    assert_eq!(site.get(&blob).await.body, CONFIG);
}

#[tokio::test]
async fn heads_ranges_and_lists() {
    let upper = Upper::start().await;
    let root = TempDir::new().expect("a directory");
    let site = cache(local(&root).await, proxy_of(upper.site.address)).await;
    let layer = &upper.layers[0];
    let path = format!("/v2/lib/app/blobs/{}", Digest::sha256(layer));
    let head = site.send("HEAD", &path, &[], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("3000000")));
    assert_eq!(head.header("docker-content-digest"), Some(Digest::sha256(layer).as_str()));
    let records = upper.asked().await;
    assert_eq!((asked(&records, "HEAD", &path), asked(&records, "GET", &path)), (1, 0), "nothing is fetched");

    for (range, expected) in
        [("bytes=1000000-1999999", 1_000_000..2_000_000), ("bytes=-5", 2_999_995..3_000_000)]
    {
        let answer = site.send("GET", &path, &[("Range", range)], b"").await;
        assert_eq!(answer.status, 206);
        assert!(answer.body == layer[expected], "{range}");
    }
    let other = format!("/v2/lib/app/blobs/{}", Digest::sha256(&upper.layers[1]));
    let answer = site.send("GET", &other, &[("Range", "bytes=700000-")], b"").await;
    answer.refuses(416, "SIZE_INVALID");
    site.get(&format!("/v2/lib/app/blobs/{ABSENT}")).await.refuses(404, "BLOB_UNKNOWN");
    site.get(&format!("/v2/lib/app/manifests/{ABSENT}")).await.refuses(404, "MANIFEST_UNKNOWN");

    for number in 2..5 {
        let tag = format!("/v2/lib/app/manifests/v{number}");
        assert_eq!(upper.site.put_manifest(&tag, media_types::OCI_INDEX, &upper.index).await.status, 201);
    }
    let page = site.get("/v2/lib/app/tags/list?n=2&last=v1").await;
    assert_eq!(page.json()["tags"], serde_json::json!(["v2", "v3"]));
    assert_eq!(page.header("link"), Some("</v2/lib/app/tags/list?n=2&last=v3>; rel=\"next\""));

    let mut document: serde_json::Value = serde_json::from_slice(&upper.manifest).expect("JSON");
    let subject = Descriptor::of(media_types::OCI_INDEX, &upper.index);
    document["subject"] = serde_json::to_value(&subject).expect("serialises");
    document["artifactType"] = "application/x-sbom".into();
    let referrer = document.to_string().into_bytes();
    let pushed = format!("/v2/lib/app/manifests/{}", Digest::sha256(&referrer));
    assert_eq!(upper.site.put_manifest(&pushed, media_types::OCI_MANIFEST, &referrer).await.status, 201);
    for (query, expected) in [("", 1), ("?artifactType=application/x-sbom", 1), ("?artifactType=a/b", 0)] {
        let listed = site.get(&format!("/v2/lib/app/referrers/{}{query}", subject.digest)).await;
        assert_eq!(listed.header("content-type"), Some(media_types::OCI_INDEX));
        let found = listed.json()["manifests"].clone();
        assert_eq!(found.as_array().map(Vec::len), Some(expected), "{query}: {found}");
        assert!(expected == 0 || found[0]["digest"] == Digest::sha256(&referrer).as_str());
    }
}

#[tokio::test]
async fn what_is_asked_for_by_digest_is_kept_by_that_name_or_by_what_leads_to_it() {
    let upper = Upper::start().await;
    let root = TempDir::new().expect("a directory");
    let options =
        RegistryOptions::default().with_proxy(proxy_of(upper.site.address)).with_upload_grace(Duration::ZERO);
    let site = Site::start(local(&root).await, options).await;
    let path = |document: &[u8]| format!("/v2/lib/app/manifests/{}", Digest::sha256(document));
    let names = async || {
        let images = site.images.list(&FilterSet::all()).await.expect("lists");
        images.into_iter().map(|image| image.name).collect::<Vec<_>>()
    };
    assert_eq!(site.get(&path(&upper.index)).await.body, upper.index);
    let pinned = format!("{}/lib/app@{}", upper.site.address, Digest::sha256(&upper.index));
    assert_eq!(names().await, std::slice::from_ref(&pinned));
    assert_eq!(site.get(&path(&upper.manifest)).await.body, upper.manifest);
    assert_eq!(names().await, [pinned], "the index leads to it");
    // A blob that nothing leads to is not kept for ever; one that something leads to is.
    let stray = upper.site.push_blob("lib/app", b"stray").await;
    let layer = Digest::sha256(&upper.layers[2]);
    for blob in [&stray, &layer] {
        assert_eq!(site.get(&format!("/v2/lib/app/blobs/{blob}")).await.status, 200);
    }
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    let exists = async |digest: &Digest| reading::exists(site.store.as_ref(), digest).await.expect("looks");
    assert!(!exists(&stray).await && exists(&layer).await);
    assert!(exists(&Digest::sha256(&upper.index)).await && exists(&Digest::sha256(&upper.manifest)).await);
}

/// As a killed proxy leaves it: the bytes of a manifest are here, and nothing holds its parts.
#[tokio::test]
async fn a_manifest_that_was_brought_by_halves_is_finished_when_it_is_asked_for() {
    let upper = Upper::start().await;
    let descriptor = Descriptor::of(media_types::OCI_MANIFEST, &upper.manifest);
    let half = async || {
        let (store, content) = (MemoryStore::new(), upper.manifest.clone().into());
        let options = CommitOptions::default();
        write_blob(&store, "half", &descriptor, content, options).await.expect("writes");
        cache(Arc::new(store), proxy_of(upper.site.address)).await
    };
    let site = half().await;
    let path = format!("/v2/lib/app/manifests/{}", descriptor.digest);
    for _ in 0..2 {
        let answer = site.get(&path).await;
        assert_eq!((answer.status, &answer.body), (200, &upper.manifest));
        soon(async || !site.store.info(&descriptor.digest).await.expect("it is there").labels.is_empty())
            .await;
        let labels = site.store.info(&descriptor.digest).await.expect("it is there").labels;
        for part in upper.layers.iter().map(|layer| Digest::sha256(layer)).chain([Digest::sha256(CONFIG)]) {
            assert!(labels.values().any(|value| value == part.as_str()), "{part}: {labels:?}");
        }
    }
    let records = upper.asked().await;
    assert_eq!(asked(&records, "GET", &path), 0, "its bytes are here: {records:#?}");
    assert_eq!(records.len(), 1, "it is asked what it is, once");

    // Where nobody answers any more, what is here is served.
    let site = half().await;
    upper.site.stop().await;
    assert_eq!(site.get(&path).await.body, upper.manifest);
}

#[tokio::test]
async fn what_a_proxy_refuses() {
    let upper = Upper::start().await;
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.site.address)).await;
    let upload = "/v2/a/blobs/uploads/00000000000000000000000000000000";
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PATCH", upload),
        ("PUT", &format!("{upload}?digest={ABSENT}")),
        ("DELETE", upload),
        ("PUT", "/v2/a/manifests/x"),
        ("DELETE", "/v2/lib/app/manifests/v1"),
        ("DELETE", &format!("/v2/a/blobs/{ABSENT}")),
    ] {
        site.send(method, path, &[("Content-Type", "a/b")], b"x").await.refuses(405, "UNSUPPORTED");
    }
    let (own, other) = (upper.site.address, "docker.io");
    let path = |namespace: &str| format!("/v2/lib/app/manifests/v1?ns={namespace}");
    assert_eq!(site.get("/v2/_catalog").await.json()["repositories"], serde_json::json!([]));
    let answer = site.get(&path(other)).await;
    answer.refuses(404, "NAME_UNKNOWN");
    assert!(String::from_utf8_lossy(&answer.body).contains(&own.to_string()), "{answer:?}");
    assert_eq!(upper.asked().await.len(), 0);
    let answer = site.get(&path(&own.to_string())).await;
    assert_eq!(answer.body, upper.index, "a store in memory will do");
    assert_eq!(answer.header("oci-namespace"), Some(own.to_string().as_str()));
    let target = site.images.get(&upper.name()).await.expect("recorded").target;
    site.images.create(Image::new("quay.io/not/served:1", target)).await.expect("recorded");
    assert_eq!(site.get("/v2/_catalog").await.json()["repositories"], serde_json::json!(["lib/app"]));
    assert_eq!(site.get(&format!("/v2/lib/app/blobs/{}", Digest::sha256(CONFIG))).await.body, CONFIG);
    assert_eq!(site.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn a_circle_ends() {
    // Two that are proxies of each other, so that neither knows it at first.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let store = || Arc::new(MemoryStore::new());
    let one = cache(store(), proxy_of(address)).await;
    let registry = wharf_remotes::server::Registry::with_options(
        store(),
        Arc::new(wharf_images::MemoryImages::new()),
        RegistryOptions::default().with_proxy(proxy_of(one.address)),
    );
    let two = tokio::spawn(wharf_remotes::server::serve(registry, listener, std::future::pending()));
    // A time-out would be another status.
    for path in [
        "/v2/a/manifests/x".to_owned(),
        format!("/v2/a/manifests/{ABSENT}"),
        format!("/v2/a/blobs/{ABSENT}"),
        "/v2/a/tags/list".to_owned(),
    ] {
        one.get(&path).await.refuses(508, "UNSUPPORTED");
    }
    two.abort();
}

/// A server of one image whose layer comes in two pieces, the second one only when it is let go, and may be wrong or missing.
struct Slow {
    address: std::net::SocketAddr,
    layer: Vec<u8>,
    manifest: Vec<u8>,
    go: Arc<tokio::sync::Semaphore>,
    asked: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Right,
    Wrong,
    Missing,
}

impl Slow {
    async fn start(end: End) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let layer = bytes(4 << 20);
        let manifest = manifest(&[Descriptor::of(media_types::OCI_LAYER, &layer)]);
        let (go, asked) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
        let mut task = JoinSet::new();
        let (sent, document, gate, count) =
            (layer.clone(), manifest.clone(), Arc::clone(&go), Arc::clone(&asked));
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (layer, manifest) = (sent.clone(), document.clone());
                let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let (is_manifest, is_head) = (head.contains("/manifests/"), head.starts_with("HEAD"));
                    let (body, media_type) = if is_manifest {
                        (&manifest, media_types::OCI_MANIFEST)
                    } else {
                        (&layer, "application/octet-stream")
                    };
                    let told = format!(
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
                         Docker-Content-Digest: {}\r\nContent-Length: {}\r\n\r\n",
                        Digest::sha256(body),
                        body.len()
                    );
                    stream.write_all(told.as_bytes()).await?;
                    if is_head {
                        return Ok(());
                    }
                    if is_manifest {
                        return stream.write_all(body).await;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    let (first, last) = body.split_at(body.len() - 1);
                    stream.write_all(first).await?;
                    gate.acquire().await.expect("never closed").forget();
                    match end {
                        End::Right => stream.write_all(last).await,
                        End::Wrong => stream.write_all(&[!last[0]]).await,
                        End::Missing => Ok(()),
                    }
                });
            }
        });
        Self { address, layer, manifest, go, asked, _task: task }
    }

    fn path(&self) -> String {
        format!("/v2/a/blobs/{}", Digest::sha256(&self.layer))
    }
}

/// Asks for a blob and reads so much of its body.
pub(crate) async fn begin(site: &Site, path: &str, len: usize) -> (tokio::net::TcpStream, Vec<u8>) {
    let mut stream = site.connect().await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut read = Vec::new();
    while !read.windows(4).any(|window| window == b"\r\n\r\n") {
        read.push(stream.read_u8().await.expect("answered"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.expect("the beginning comes at once");
    read.extend_from_slice(&body);
    (stream, read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_read_while_it_arrives_and_who_leaves_ends_nothing() {
    let upper = Slow::start(End::Right).await;
    let root = TempDir::new().expect("a directory");
    let site = cache(local(&root).await, proxy_of(upper.address)).await;
    assert_eq!(site.get("/v2/a/manifests/x").await.body, upper.manifest);
    // What comes first is there before what comes last.
    let (first, _) = begin(&site, &upper.path(), 1 << 20).await;
    let (mut second, mut read) = begin(&site, &upper.path(), 1 << 20).await;
    // A collection beside it takes nothing.
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    drop(first);
    tokio::time::sleep(Duration::from_millis(50)).await;
    upper.go.add_permits(1);
    second.read_to_end(&mut read).await.expect("whole");
    assert!(Answer::parse(&read).body == upper.layer);
    // All leave: it goes on, for the next one.
    assert!(site.get(&upper.path()).await.body == upper.layer);
    assert_eq!(upper.asked.load(Ordering::Relaxed), 1);
    wharf_images::collect(site.store.as_ref(), &CollectOptions::default()).await.expect("collects");
    assert!(site.get(&upper.path()).await.body == upper.layer);
    site.stop().await;

    let root = TempDir::new().expect("a directory");
    let site = cache(local(&root).await, proxy_of(upper.address)).await;
    drop(begin(&site, &upper.path(), 1 << 20).await);
    upper.go.add_permits(1);
    for _ in 0..400 {
        if reading::exists(site.store.as_ref(), &Digest::sha256(&upper.layer)).await.expect("looks") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the fetch did not go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_or_breaks_is_nobodys_blob() {
    for end in [End::Wrong, End::Missing] {
        let upper = Slow::start(end).await;
        let root = TempDir::new().expect("a directory");
        let site = cache(local(&root).await, proxy_of(upper.address)).await;
        assert_eq!(site.get("/v2/a/manifests/x").await.body, upper.manifest);
        let (mut stream, mut read) = begin(&site, &upper.path(), 1 << 20).await;
        upper.go.add_permits(8);
        // Reset or closed, but never with all that was announced.
        let _ = stream.read_to_end(&mut read).await;
        let answer = Answer::parse(&read);
        assert_eq!(answer.header("content-length"), Some(upper.layer.len().to_string().as_str()));
        assert!(answer.body.len() < upper.layer.len(), "a whole body of wrong bytes");
        assert!(!reading::exists(site.store.as_ref(), &Digest::sha256(&upper.layer)).await.expect("looks"));
        site.stop().await;
    }
}
