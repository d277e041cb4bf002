//! Tokens that expire in the middle of a long transfer.

use std::num::NonZeroU64;

use bytes::Bytes;
use futures_util::StreamExt;
use wharf_content::Descriptor;
use wharf_images::transport::{Delivery, Place, Shipment};
use wharf_tests::{ScriptedRegistry, image::noise};

use super::*;

/// A token server whose tokens have numbers, from 0, and hold for 300 seconds.
async fn numbered() -> FakeServer {
    let count = AtomicUsize::new(0);
    FakeServer::start(move |_| {
        let token =
            format!(r#"{{"token":"good-{}","expires_in":300}}"#, count.fetch_add(1, Ordering::SeqCst));
        Reply::new(200, &[], token)
    })
    .await
}

/// The number of a request's token.
fn number(request: &Request) -> Option<usize> {
    request.header("authorization")?.strip_prefix("Bearer good-")?.parse().ok()
}

/// Whether time passes while a transfer goes on, so that the client knows, or the registry forgets tokens early, so that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    Foreseen,
    Sudden,
}

#[tokio::test]
async fn between_the_chunks_of_an_upload() {
    for expiry in [Expiry::Foreseen, Expiry::Sudden] {
        let tokens = numbered().await;
        let wanted = format!("Bearer realm=\"{}\",service=\"test\"", realm(&tokens));
        let ((clock, time), oldest, refused) = (clock(), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&refused);
        let server = ScriptedRegistry::start(move |request, _| {
            let Some(number) = number(request).filter(|number| *number >= oldest.load(Ordering::SeqCst))
            else {
                counted.fetch_add(1, Ordering::SeqCst);
                return Some(challenge(&wanted));
            };
            if request.method == "PATCH" {
                oldest.store(number + 1, Ordering::SeqCst);
                if expiry == Expiry::Foreseen {
                    pass(&time, 300);
                }
            }
            None
        })
        .await;
        let chunk = NonZeroU64::new(20_000).expect("not zero");
        let given = Given::new(&server.address(), user());
        let settings = settings().with_upload_chunk(chunk).with_clock(clock).with_credentials(sources(given));
        let resolver = RegistryResolver::new(settings);
        let pusher = resolver.pusher(&server.reference("x:1")).await.expect("a pusher");
        let bytes = Bytes::from(noise(50_000, 1));
        let descriptor = Descriptor::of(types::OCI_LAYER, &bytes);
        let shipment = Shipment::new(descriptor.clone(), Place::Blob, Arc::new(bytes.clone()));
        let delivery = bounded(pusher.push(&shipment)).await.expect("pushes");
        assert_eq!(delivery, Delivery::Sent);
        assert_eq!(server.contents.blobs().get(descriptor.digest.as_str()), Some(&bytes.to_vec()));
        assert_eq!(tokens.requests().len(), 4, "one at first and one after each chunk");
        // Known beforehand, nothing but the first request is refused; else each chunk's successor is, and is sent again.
        let expected = if expiry == Expiry::Foreseen { 1 } else { 4 };
        assert_eq!(refused.load(Ordering::SeqCst), expected, "{expiry:?}");
    }
}

#[tokio::test]
async fn between_the_parts_of_a_download() {
    const PART: usize = 20_000;
    for expiry in [Expiry::Foreseen, Expiry::Sudden] {
        let tokens = numbered().await;
        let wanted = format!("Bearer realm=\"{}\",service=\"test\"", realm(&tokens));
        let ((clock, time), oldest, refused) = (clock(), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let (counted, content) = (Arc::clone(&refused), noise(50_000, 2));
        let served = content.clone();
        let server = FakeServer::start(move |request| {
            let Some(number) = number(request).filter(|number| *number >= oldest.load(Ordering::SeqCst))
            else {
                counted.fetch_add(1, Ordering::SeqCst);
                return challenge(&wanted);
            };
            oldest.store(number + 1, Ordering::SeqCst);
            if expiry == Expiry::Foreseen {
                pass(&time, 300);
            }
            let first: usize = request
                .header("range")
                .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
                .unwrap_or(0);
            let (rest, total) = (&served[first..], served.len());
            let (len, range) = (rest.len().to_string(), format!("bytes {first}-{}/{total}", total - 1));
            let headers = [("Content-Length", &*len), ("Content-Range", &*range)];
            let status = if first == 0 { 200 } else { 206 };
            // Every connection breaks after a part.
            Reply::new(status, &headers, &rest[..PART.min(rest.len())])
        })
        .await;
        let settings = knowing(&server, user()).with_clock(clock);
        let resolver = RegistryResolver::new(settings);
        let fetcher = resolver.fetcher(&format!("{}/a/b:1", server.address())).await.expect("a fetcher");
        let descriptor = Descriptor::of(types::OCI_LAYER, &content);
        let mut stream = bounded(fetcher.fetch(&descriptor, 0)).await.expect("opens");
        let mut read = Vec::new();
        while let Some(chunk) = bounded(stream.next()).await {
            read.extend_from_slice(&chunk.expect("a chunk"));
        }
        assert!(read == content, "{} bytes", read.len());
        assert_eq!(tokens.requests().len(), 3, "one for each part");
        let expected = if expiry == Expiry::Foreseen { 1 } else { 3 };
        assert_eq!(refused.load(Ordering::SeqCst), expected, "{expiry:?}");
    }
}
