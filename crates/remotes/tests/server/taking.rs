//! Manifests whose decoders are programs: how many at once are taken in, whom they keep waiting, what becomes of them, and what is told of the
//! programs.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream};
use wharf_content::{
    Descriptor, Digest, Error, MemoryStore, Result, filter::FilterSet, plugin::Registration,
};
use wharf_images::{
    Catalogue, Kind, ManifestDecoder,
    decode::{Decoded, ManifestDecoders},
    media_types,
};
use wharf_remotes::server::RegistryOptions;

use crate::site::{Site, manifest, soon};

const TYPE: &str = "application/vnd.example.slow";

/// A decoder that ends when it is let.
#[derive(Debug, Default)]
struct Gate {
    begun: AtomicUsize,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn open(&self) {
        *self.is_open.lock().expect("no panic") = true;
        self.opened.notify_all();
    }
}

impl ManifestDecoder for Gate {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn blocks(&self) -> bool {
        true
    }

    fn decode(&self, _: &Descriptor, _: &[u8]) -> Result<Decoded> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let is_open = self.is_open.lock().expect("no panic");
        // Not for ever: a test that fails is to end.
        let patience = Duration::from_secs(30);
        drop(self.opened.wait_timeout_while(is_open, patience, |is_open| !*is_open).expect("no panic"));
        Ok(Decoded::default())
    }
}

/// A registry that reads [`TYPE`] so.
async fn site_with(decoder: Arc<dyn ManifestDecoder>) -> Site {
    let decoder = Registration::<ManifestDecoders>::shared("test", [TYPE.to_owned()], 0, "test", decoder);
    let options = RegistryOptions::default().with_catalogue(Catalogue::linked().clone().with(decoder));
    Site::start(Arc::new(MemoryStore::new()), options).await
}

async fn site() -> (Site, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    (site_with(Arc::clone(&gate) as Arc<dyn ManifestDecoder>).await, gate)
}

/// Pushes a manifest and does not wait for the answer.
async fn push(site: &Site, tag: &str, headers: &str) -> TcpStream {
    let body = format!("{{\"tag\":\"{tag}\"}}");
    let mut stream = site.connect().await;
    let request = format!(
        "PUT /v2/a/manifests/{tag} HTTP/1.1\r\nHost: a\r\nContent-Type: {TYPE}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_make_no_more_of_them_than_there_are_places() {
    const PLACES: usize = 64;
    let (site, gate) = site().await;
    let mut clients = Vec::new();
    for number in 0..PLACES + 16 {
        clients.push(push(&site, &format!("t{number}"), "").await);
    }
    soon(async || gate.begun() == PLACES).await;
    drop(clients);
    // Until all of them have been missed. What has a place is brought to its end before the registry ends.
    site.deserted().await;
    let images = Arc::clone(&site.images);
    let opener = Arc::clone(&gate);
    let opened = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        opener.open();
    });
    site.stop().await;
    opened.await.expect("no panic");
    assert_eq!(images.list(&FilterSet::all()).await.expect("lists").len(), PLACES);
    assert_eq!(gate.begun(), PLACES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_under_a_condition_keeps_no_other_waiting() {
    let (site, gate) = site().await;
    let _slow = push(&site, "x", "If-None-Match: *\r\n").await;
    soon(async || gate.begun() == 1).await;
    let other = site.put_manifest("/v2/a/manifests/y", media_types::OCI_MANIFEST, &manifest(&[])).await;
    assert_eq!(other.status, 201);
    // Its condition was met when it began, and is not any more when it counts.
    let other = site.put_manifest("/v2/a/manifests/x", media_types::OCI_MANIFEST, &manifest(&[])).await;
    assert_eq!(other.status, 201);
    gate.open();
    let records = site.records(3).await;
    assert_eq!(records[2].status, 412, "{records:?}");
    assert_eq!(site.get("/v2/a/manifests/x").await.body, manifest(&[]));
    let refused = format!("/v2/a/manifests/{}", Digest::sha256(br#"{"tag":"x"}"#));
    site.get(&refused).await.refuses(404, "MANIFEST_UNKNOWN");
    site.stop().await;
}

/// A decoder that is a program, which takes nothing.
#[derive(Debug)]
struct Program;

impl ManifestDecoder for Program {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn blocks(&self) -> bool {
        true
    }

    fn decode(&self, _: &Descriptor, _: &[u8]) -> Result<Decoded> {
        Err(Error::invalid_argument("the plugin at /secret/path refuses it")
            .with_source(Error::invalid_argument("it has no flour")))
    }
}

#[tokio::test]
async fn where_a_decoder_is_nobody_is_told() {
    let site = site_with(Arc::new(Program)).await;
    let put = site.put_manifest("/v2/a/manifests/x", TYPE, b"{}").await;
    put.refuses(400, "MANIFEST_INVALID");
    assert_eq!(put.json()["errors"][0]["message"], "it has no flour");
    site.stop().await;
}
