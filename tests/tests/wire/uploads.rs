//! Uploads that nobody takes, or takes slowly.

use super::*;

async fn push(settings: RegistrySettings, name: &str, content: &Arc<Bytes>) -> Result<Delivery> {
    let pusher = RegistryResolver::new(settings).pusher(name).await?;
    let source: Arc<dyn Source> = Arc::clone(content) as Arc<dyn Source>;
    bounded(pusher.push(&Shipment::new(blob(content), Place::Blob, source))).await
}

/// Takes uploads, the body of the first `slow` of them by `taking`.
async fn taking<F: Future<Output = ()> + Send>(
    slow: usize,
    content: usize,
    taking: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Slow {
    let (taking, count) = (Arc::new(taking), Arc::new(AtomicUsize::new(0)));
    Slow::start(move |_, asked, mut stream| {
        let (taking, count) = (Arc::clone(&taking), Arc::clone(&count));
        async move {
            match asked.split(' ').next() {
                Some("POST") => {
                    send(stream, head("202 Go", 0, "Location: /v2/a/blobs/uploads/1\r\n"), b"").await;
                }
                Some("PUT") if count.fetch_add(1, Ordering::SeqCst) < slow => taking(stream).await,
                Some("PUT") => {
                    let mut body = Vec::new();
                    let read = (&mut stream).take(content as u64).read_to_end(&mut body).await;
                    assert_eq!(read.expect("reads"), content);
                    send(stream, head("201 There", 0, ""), b"").await;
                }
                _ => send(stream, head("404 Not", 0, ""), b"").await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_upload_that_nobody_takes_is_begun_again() {
    let content = Arc::new(Bytes::from(noise(16 << 20, 9)));
    let silent = |stream: TcpStream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    };
    let server = taking(1, content.len(), silent).await;
    let (settings, told) = settings();
    let settings = settings.with_timeouts(Duration::from_secs(5), MS * 300);
    let pushed = push(settings, &format!("{}/a:1", server.address), &content).await.expect("pushes");
    assert_eq!(pushed, Delivery::Sent);
    let retried = told.of("retried");
    assert!(retried.len() == 1 && retried[0].contains("stopped taking what is sent"), "{:?}", told.all());
}

#[tokio::test]
async fn an_upload_that_is_taken_too_slowly_is_begun_again_unless_it_may_be() {
    let content = Arc::new(Bytes::from(noise(16 << 20, 9)));
    let len = content.len();
    let sip = |pause: Duration| {
        move |mut stream: TcpStream| async move {
            let (mut buffer, mut left) = (vec![0; 256 << 10], 16 << 20);
            while left > 0 {
                tokio::time::sleep(pause).await;
                match stream.read(&mut buffer).await {
                    Ok(read) if read > 0 => left -= read,
                    _ => return,
                }
            }
            send(stream, head("201 There", 0, ""), b"").await;
        }
    };
    // Some 5 MB per second, of which 50 are wanted.
    let server = taking(1, len, sip(MS * 50)).await;
    let (settings, told) = settings();
    let wanting = settings.with_min_throughput(NonZeroU64::new(50_000_000), MS * 300);
    push(wanting, &format!("{}/a:1", server.address), &content).await.expect("pushes");
    let retried = told.of("retried");
    assert!(retried.len() == 1 && retried[0].contains("takes what is sent too slowly"), "{:?}", told.all());

    let server = taking(1, len, sip(MS * 10)).await;
    let (settings, told) = self::settings();
    let patient = settings.with_min_throughput(None, MS * 300);
    push(patient, &format!("{}/a:1", server.address), &content).await.expect("pushes");
    assert_eq!(told.all(), [""; 0]);
}
