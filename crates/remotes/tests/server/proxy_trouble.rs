//! A proxy whose upstream is slow, breaks off or refuses, and whose store others have filled, or which is full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use wharf_content::{
    CommitOptions, Descriptor, Digest, IngestManager, Labels, MemoryStore, filter::FilterSet, write_blob,
};
use wharf_images::media_types;
use wharf_remotes::{
    credentials::{Audience, Credential, CredentialSource, Sources},
    registry::{RegistryResolver, RegistrySettings},
    server::{Proxy, RegistryOptions, Upstream},
};

use crate::{
    ABSENT, bytes,
    parking::{Full, Noting},
    proxy::{begin, cache, clock, proxy_of},
    script::{Asked, Given, Script},
    site::{Site, local, manifest, soon},
};

const TAG: &str = "/v2/a/manifests/x";

fn document(layers: &[&[u8]]) -> Vec<u8> {
    let layers: Vec<Descriptor> =
        layers.iter().map(|layer| Descriptor::of(media_types::OCI_LAYER, layer)).collect();
    manifest(&layers)
}

fn blob_path(blob: &[u8]) -> String {
    format!("/v2/a/blobs/{}", Digest::sha256(blob))
}

fn manifest_path(document: &[u8]) -> String {
    format!("/v2/a/manifests/{}", Digest::sha256(document))
}

/// One image by its tag and digest, and its blobs.
fn image(asked: &Asked, document: &[u8], blobs: &[&[u8]]) -> Given {
    if asked.path.contains("/manifests/") {
        return match asked.path.rsplit('/').next() {
            Some("x") => Given::content(media_types::OCI_MANIFEST, document),
            Some(digest) if digest == Digest::sha256(document).as_str() => {
                Given::content(media_types::OCI_MANIFEST, document)
            }
            _ => Given::status(404),
        };
    }
    let found = blobs.iter().find(|blob| asked.path.ends_with(Digest::sha256(blob).as_str()));
    found.map_or(Given::status(404), |blob| Given::content("application/octet-stream", blob).ranged(asked))
}

fn closed() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

#[tokio::test]
async fn what_was_imported_is_served_without_a_question_and_a_half_without_waiting() {
    let upper = Script::start({
        let never = closed();
        move |_| Given::status(200).behind(&never)
    })
    .await;
    let document = document(&[b"layer"]);
    let descriptor = Descriptor::of(media_types::OCI_MANIFEST, &document);
    let label = ("containerd.io/gc.ref.content.l.0".to_owned(), Digest::sha256(b"layer").to_string());
    for (labels, is_half) in [(Labels::from([label]), false), (Labels::new(), true)] {
        let store = MemoryStore::new();
        let options = CommitOptions::default().with_labels(labels);
        write_blob(&store, "import", &descriptor, document.clone().into(), options).await.expect("writes");
        let site = cache(Arc::new(store), proxy_of(upper.address)).await;
        let began = Instant::now();
        assert_eq!(site.get(&manifest_path(&document)).await.body, document);
        assert!(began.elapsed() < Duration::from_secs(3), "nobody waits for the upstream");
        if is_half {
            soon(async || !upper.asked().is_empty()).await;
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(upper.asked().len(), 0);
        }
    }
}

#[tokio::test]
async fn a_manifest_that_is_asked_for_as_a_blob_holds_its_parts() {
    let document = document(&[b"layer"]);
    let index = crate::site::index(&[Descriptor::of(media_types::OCI_MANIFEST, &document)]);
    let (sent, listed) = (document.clone(), index.clone());
    let upper = Script::start(move |asked| {
        if asked.path.contains("/manifests/") && asked.path.ends_with(Digest::sha256(&sent).as_str()) {
            return Given::content(media_types::OCI_MANIFEST, &sent);
        }
        match asked.path.as_str() {
            path if path == TAG || path.ends_with(Digest::sha256(&listed).as_str()) => {
                Given::content(media_types::OCI_INDEX, &listed)
            }
            _ => image(asked, &sent, &[&sent]),
        }
    })
    .await;
    let holds = async |site: &Site| {
        let labels = site.store.info(&Digest::sha256(&document)).await.expect("it is there").labels;
        labels.values().any(|value| value == Digest::sha256(b"layer").as_str())
    };
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.address)).await;
    // By what leads to it it is known for a manifest.
    assert_eq!(site.get(TAG).await.body, index);
    assert_eq!(site.get(&blob_path(&document)).await.body, document);
    assert!(holds(&site).await);
    // Else it is when it is asked for as one.
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.address)).await;
    assert_eq!(site.get(&blob_path(&document)).await.body, document);
    assert!(!holds(&site).await);
    assert_eq!(site.get(&manifest_path(&document)).await.body, document);
    soon(async || holds(&site).await).await;
}

#[tokio::test]
async fn a_slow_upstream_is_waited_for_a_while_and_its_answer_counts_when_it_comes() {
    let (first, second) = (document(&[b"one"]), document(&[b"two"]));
    let (is_slow, door) = (Arc::new(AtomicBool::new(false)), closed());
    let (slow, gate, documents) = (Arc::clone(&is_slow), Arc::clone(&door), [first.clone(), second.clone()]);
    let upper = Script::start(move |asked| {
        let is_slow = slow.load(Ordering::Relaxed);
        let given = image(asked, &documents[usize::from(is_slow)], &[]);
        if is_slow && asked.method == "HEAD" { given.behind(&gate) } else { given }
    })
    .await;
    let (seconds, now) = clock();
    let patience = Duration::from_millis(1500);
    let proxy =
        proxy_of(upper.address).with_ttl(Duration::from_secs(60)).with_clock(now).with_patience(patience);
    let site = cache(Arc::new(MemoryStore::new()), proxy).await;
    assert_eq!(site.get(TAG).await.body, first);
    is_slow.store(true, Ordering::Relaxed);
    seconds.store(60, Ordering::Relaxed);
    let began = Instant::now();
    assert_eq!(site.get(TAG).await.body, first);
    assert!(began.elapsed() >= patience, "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(site.get(TAG).await.body, first);
    assert!(began.elapsed() < patience, "it is not waited for again: {:?}", began.elapsed());
    assert_eq!(upper.count("HEAD", TAG), 2);
    // Nobody waits any more.
    door.add_permits(1);
    let name = format!("{}/a:x", upper.address);
    soon(async || site.images.get(&name).await.expect("recorded").target.digest == Digest::sha256(&second))
        .await;
    assert_eq!(site.get(TAG).await.body, second);
    assert_eq!(upper.count("HEAD", TAG), 2);
}

#[tokio::test]
async fn tags_that_the_store_knows_are_served_where_the_upstream_takes_its_time() {
    let (document, door) = (document(&[b"one"]), closed());
    let (sent, gate) = (document.clone(), Arc::clone(&door));
    let upper = Script::start(move |asked| {
        if asked.path.contains("/tags/list") {
            let listed = br#"{"name":"a","tags":["x","y"]}"#;
            return Given::content("application/json", listed).behind(&gate);
        }
        image(asked, &sent, &[])
    })
    .await;
    let patience = Duration::from_millis(300);
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.address).with_patience(patience)).await;
    let site = Arc::new(site);
    let get = |path: &'static str| {
        let site = Arc::clone(&site);
        tokio::spawn(async move { site.get(path).await.json()["tags"].clone() })
    };
    let asked = async |count: usize| {
        let listings = || upper.asked().iter().filter(|asked| asked.path.contains("/tags/list")).count();
        soon(async || listings() >= count).await;
    };
    // Nothing is known yet: that the repository has no tags would be a lie.
    let waits = get("/v2/a/tags/list");
    asked(1).await;
    tokio::time::sleep(patience * 2).await;
    assert!(!waits.is_finished());
    door.add_permits(1);
    assert_eq!(waits.await.expect("no panic"), json!(["x", "y"]));

    assert_eq!(site.get(TAG).await.body, document);
    let began = Instant::now();
    assert_eq!(get("/v2/a/tags/list").await.expect("no panic"), json!(["x"]));
    assert!(began.elapsed() >= patience, "{:?}", began.elapsed());
    // What follows a page of the upstream's is the upstream's. The question that nobody waited for any more has gone on.
    let waits = get("/v2/a/tags/list?last=x");
    tokio::time::sleep(patience * 2).await;
    assert!(!waits.is_finished());
    door.add_permits(1);
    assert_eq!(waits.await.expect("no panic"), json!(["y"]));
    asked(2).await;
}

#[tokio::test]
async fn blobs_are_no_manifests_whatever_type_they_are_said_to_have() {
    for media_type in ["binary/octet-stream", "application/gzip", "application/json", "application/x-own"] {
        let upper = Script::start(move |asked| {
            let is_blob = asked.path.contains("/blobs/");
            if is_blob { Given::content(media_type, b"{}") } else { Given::status(404) }
        })
        .await;
        let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.address)).await;
        site.get(&manifest_path(b"{}")).await.refuses(404, "MANIFEST_UNKNOWN");
        assert_eq!(site.images.list(&FilterSet::all()).await.expect("lists"), []);
        assert_eq!(site.get(&blob_path(b"{}")).await.body, b"{}");
    }
}

#[tokio::test]
async fn how_long_the_upstream_wants_to_be_left_alone_is_told_on() {
    let upper = Script::start(|_| Given::status(429).with("Retry-After", "7")).await;
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.address)).await;
    let answer = site.get(TAG).await;
    answer.refuses(429, "TOOMANYREQUESTS");
    assert_eq!(answer.header("retry-after"), Some("7"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_blobs_are_fetched_at_once_and_questions_go_by() {
    let (one, two) = (bytes(1 << 20), bytes((1 << 20) + 1));
    let (document, gate) = (document(&[&one, &two]), closed());
    let (sent, pause, blobs) = (document.clone(), Arc::clone(&gate), [one.clone(), two.clone()]);
    let upper = Script::start(move |asked| {
        let given = image(asked, &sent, &[&blobs[0], &blobs[1]]);
        if asked.path.contains("/blobs/") { given.stopping(1000, &pause) } else { given }
    })
    .await;
    let proxy = proxy_of(upper.address).with_downloads(std::num::NonZeroUsize::MIN);
    let site = Arc::new(cache(Arc::new(MemoryStore::new()), proxy).await);
    let get = |blob: &[u8]| {
        let (site, path) = (Arc::clone(&site), blob_path(blob));
        tokio::spawn(async move { site.get(&path).await.body })
    };
    let fetched = || {
        upper
            .asked()
            .iter()
            .filter(|asked| asked.is("GET", &asked.path) && asked.path.contains("/blobs/"))
            .count()
    };
    let both = [get(&one), get(&two)];
    soon(async || fetched() == 1).await;
    assert_eq!(site.get(TAG).await.body, document);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fetched(), 1, "one at a time");
    gate.add_permits(2);
    let [first, second] = both;
    assert!(first.await.expect("ends") == one && second.await.expect("ends") == two);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_short_is_gone_on_with_after_a_restart() {
    const FIRST: usize = 3 << 20;
    let layer = bytes(4 << 20);
    let document = document(&[&layer]);
    let (sent, blob, never) = (document.clone(), layer.clone(), closed());
    let upper = Script::start(move |asked| {
        let given = image(asked, &sent, &[&blob]);
        let is_first = asked.path.contains("/blobs/") && asked.header("range").is_none();
        if is_first { given.stopping(FIRST, &never) } else { given }
    })
    .await;
    let root = TempDir::new().expect("a directory");
    let site = cache(local(&root).await, proxy_of(upper.address)).await;
    assert_eq!(site.get(TAG).await.body, document);
    drop(begin(&site, &blob_path(&layer), FIRST - (1 << 20)).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    site.stop().await;
    // What the manifest promised is forgotten.
    let site = cache(local(&root).await, proxy_of(upper.address)).await;
    assert!(site.get(&blob_path(&layer)).await.body == layer);
    let asked = upper.asked().into_iter().filter(|asked| asked.is("GET", &blob_path(&layer)));
    let [_, last] = asked.collect::<Vec<_>>().try_into().expect("asked for twice");
    let range = last.header("range").expect("the rest alone is asked for");
    assert!(range.starts_with("bytes=") && range != "bytes=0-", "{range}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_share_a_fetch_and_not_its_failure() {
    let layer = bytes(4 << 20);
    let document = document(&[&layer]);
    let (sent, blob, gate) = (document.clone(), layer.clone(), closed());
    let pause = Arc::clone(&gate);
    let upper = Script::start(move |asked| {
        let given = image(asked, &sent, &[&blob]);
        match (asked.method.as_str(), asked.path.contains("/blobs/")) {
            ("GET", true) if asked.path.starts_with("/v2/not/") => Given::status(404).behind(&pause),
            ("GET", true) => given.stopping(3 << 20, &pause),
            _ => given,
        }
    })
    .await;
    let path = |repository: &str| format!("/v2/{repository}/blobs/{}", Digest::sha256(&layer));
    let roots = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let site = async |root| Arc::new(cache(local(root).await, proxy_of(upper.address)).await);
    let get = |site: &Arc<Site>, repository: &str| {
        let (site, path) = (Arc::clone(site), path(repository));
        tokio::spawn(async move { site.get(&path).await })
    };
    // One knows its size by a manifest, and the other one by asking.
    let shared = site(&roots[0]).await;
    assert_eq!(shared.get(TAG).await.body, document);
    let one = get(&shared, "a");
    upper.wait_for("GET", &path("a"), 1).await;
    drop(
        tokio::time::timeout(Duration::from_secs(3), begin(&shared, &path("b"), 1000))
            .await
            .expect("read along"),
    );
    gate.add_permits(1);
    assert!(one.await.expect("ends").body == layer);
    assert_eq!((upper.count("GET", &path("a")), upper.count("GET", &path("b"))), (1, 0));

    let failing = site(&roots[1]).await;
    let one = get(&failing, "not");
    upper.wait_for("GET", &path("not"), 1).await;
    let other = get(&failing, "b");
    upper.wait_for("HEAD", &path("b"), 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.add_permits(8);
    assert!(other.await.expect("ends").body == layer);
    assert_eq!(one.await.expect("ends").status, 404);
}

#[tokio::test]
async fn a_head_without_a_length_is_asked_again_by_get() {
    let layer = bytes(100_000);
    let blob = layer.clone();
    let upper = Script::start(move |asked| {
        let given = image(asked, b"", &[&blob]);
        if asked.method == "HEAD" { given.without_length() } else { given }
    })
    .await;
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.address)).await;
    let head = site.send("HEAD", &blob_path(&layer), &[], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("100000")));
    assert!(site.get(&blob_path(&layer)).await.body == layer);
}

#[tokio::test]
async fn what_is_collected_while_its_tag_is_asked_about_is_fetched_anew() {
    let document = document(&[b"layer"]);
    let (is_slow, door) = (Arc::new(AtomicBool::new(false)), closed());
    let (slow, gate, sent) = (Arc::clone(&is_slow), Arc::clone(&door), document.clone());
    let upper = Script::start(move |asked| {
        let given = image(asked, &sent, &[]);
        if asked.method == "HEAD" && slow.load(Ordering::Relaxed) { given.behind(&gate) } else { given }
    })
    .await;
    let proxy = proxy_of(upper.address).with_ttl(Duration::ZERO);
    let site = Arc::new(cache(Arc::new(MemoryStore::new()), proxy).await);
    assert_eq!(site.get(TAG).await.body, document);
    is_slow.store(true, Ordering::Relaxed);
    let waits = tokio::spawn({
        let site = Arc::clone(&site);
        async move { site.get(TAG).await }
    });
    upper.wait_for("HEAD", TAG, 2).await;
    site.store.delete(&Digest::sha256(&document)).await.expect("removes");
    door.add_permits(8);
    assert_eq!(waits.await.expect("ends").body, document);
}

#[tokio::test]
async fn a_list_does_not_end_where_the_upstream_fails() {
    let document = document(&[]);
    let (sent, status) = (document.clone(), Arc::new(AtomicU64::new(503)));
    let given = Arc::clone(&status);
    let upper = Script::start(move |asked| {
        if asked.path.contains("/manifests/") {
            return image(asked, &sent, &[]);
        }
        Given::status(u16::try_from(given.load(Ordering::Relaxed)).expect("a status"))
    })
    .await;
    let site = cache(Arc::new(MemoryStore::new()), proxy_of(upper.address)).await;
    assert_eq!(site.get(TAG).await.body, document);
    assert_eq!(site.get("/v2/a/tags/list").await.json()["tags"], json!(["x"]));
    site.get("/v2/a/tags/list?n=5&last=m").await.refuses(502, "UNAVAILABLE");
    assert_eq!(site.get(&format!("/v2/a/referrers/{ABSENT}")).await.status, 200);
    // That is an answer.
    status.store(418, Ordering::Relaxed);
    site.get("/v2/a/tags/list").await.refuses(502, "UNAVAILABLE");
}

/// Credentials that are there from some time on.
#[derive(Debug)]
struct Later(Arc<AtomicBool>);

#[async_trait]
impl CredentialSource for Later {
    async fn credential(&self, _: &Audience) -> wharf_content::Result<Option<Credential>> {
        let credential = Credential::Password { user: "ann".into(), secret: "secret".into() };
        Ok(self.0.load(Ordering::Relaxed).then_some(credential))
    }
}

#[tokio::test]
async fn a_login_counts_that_is_made_while_the_upstream_gives_tokens_to_anybody() {
    let document = document(&[]);
    let (sent, own) = (document.clone(), Arc::new(std::sync::OnceLock::<String>::new()));
    let address = Arc::clone(&own);
    let upper = Script::start(move |asked| {
        if asked.path.starts_with("/token") {
            let token = if asked.method == "POST" { "known" } else { "anybody" };
            return Given::content("application/json", format!("{{\"token\":\"{token}\"}}").as_bytes());
        }
        if asked.header("authorization") == Some("Bearer known") {
            return image(asked, &sent, &[]);
        }
        let realm = format!("http://{}/token", address.get().expect("told"));
        Given::status(401).with(
            "WWW-Authenticate",
            &format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:a:pull\""),
        )
    })
    .await;
    own.set(upper.address.to_string()).expect("once");
    let is_there = Arc::new(AtomicBool::new(false));
    let sources = Sources::none().with("later", Arc::new(Later(Arc::clone(&is_there))));
    let settings =
        RegistrySettings::new().with_plain_http().with_retries(0, Duration::ZERO).with_credentials(sources);
    let upstream = Upstream::parse(&format!("http://{}", upper.address)).expect("a URL");
    let proxy = Proxy::new(upstream, Arc::new(RegistryResolver::new(settings)));
    let site = cache(Arc::new(MemoryStore::new()), proxy).await;
    site.get(TAG).await.refuses(403, "DENIED");
    is_there.store(true, Ordering::Relaxed);
    assert_eq!(site.get(TAG).await.body, document);
}

#[tokio::test]
async fn nothing_is_left_of_a_blob_that_there_is_no_room_for() {
    let upper = Site::memory(RegistryOptions::default()).await;
    let layer = bytes(4 << 20);
    let path = format!("/v2/a/blobs/{}", upper.push_blob("a", &layer).await);
    let root = TempDir::new().expect("a directory");
    let store = Noting::over(&root).await;
    let site = cache(Arc::clone(&store) as _, proxy_of(upper.address)).await;
    store.full(Some(Full::Write));
    site.get(&path).await.refuses(507, "UNAVAILABLE");
    let left = store.list_statuses(&FilterSet::all()).await.expect("lists");
    assert!(left.is_empty(), "{left:?}");
    store.full(None);
    assert!(site.get(&path).await.body == layer);
}
