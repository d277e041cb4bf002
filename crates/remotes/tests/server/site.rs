//! A registry that runs, and a client that says exactly what it is told to, well formed or not.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use wharf_content::{Descriptor, Digest, LocalStore, MemoryStore, Store};
use wharf_images::{ImageStore, image_store, media_types};
use wharf_remotes::server::{AccessRecord, Registry, RegistryOptions, serve};

/// A registry on a port of its own.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) images: Arc<dyn ImageStore>,
    pub(crate) registry: Registry,
    records: Arc<Mutex<Vec<AccessRecord>>>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<wharf_content::Result<()>>,
}

impl Site {
    pub(crate) async fn start(store: Arc<dyn Store>, options: RegistryOptions) -> Self {
        let images = image_store(store.as_ref()).expect("records");
        Self::start_with(store, images, options).await
    }

    pub(crate) async fn start_with(
        store: Arc<dyn Store>,
        images: Arc<dyn ImageStore>,
        options: RegistryOptions,
    ) -> Self {
        let records = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&records);
        let options = options.with_observer(move |record| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(record.clone());
        });
        let registry = Registry::with_options(Arc::clone(&store), Arc::clone(&images), options);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(registry.clone(), listener, async { drop(stopped.await) }));
        Self { address, store, images, registry, records, stop: Some(stop), server }
    }

    /// A registry over an empty store in memory.
    pub(crate) async fn memory(options: RegistryOptions) -> Self {
        Self::start(Arc::new(MemoryStore::new()), options).await
    }

    /// Shuts down in order.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.server.await.expect("no panic").expect("no error");
    }

    /// The records of the requests so far, once there are `count`.
    pub(crate) async fn records(&self, count: usize) -> Vec<AccessRecord> {
        for _ in 0..2000 {
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if records.len() >= count {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{} of {count} requests were recorded",
            self.records.lock().unwrap_or_else(PoisonError::into_inner).len()
        );
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the registry listens")
    }

    /// Sends bytes as they are and reads what comes until the registry closes the connection.
    pub(crate) async fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        // A registry that has seen enough may close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            write!(request, "Host: {}\r\n", self.address).expect("a string grows");
        }
        for (name, value) in headers {
            write!(request, "{name}: {value}\r\n").expect("a string grows");
        }
        if !body.is_empty() || !matches!(method, "GET" | "HEAD") {
            write!(request, "Content-Length: {}\r\n", body.len()).expect("a string grows");
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        Answer::parse(&self.raw(&request).await)
    }

    /// One request whose body comes in chunks, without a length.
    pub(crate) async fn send_streamed(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            write!(request, "{name}: {value}\r\n").expect("a string grows");
        }
        request.push_str("Transfer-Encoding: chunked\r\n\r\n");
        let mut request = request.into_bytes();
        for piece in body.chunks(100_000) {
            request.extend(format!("{:x}\r\n", piece.len()).bytes());
            request.extend(piece);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        Answer::parse(&self.raw(&request).await)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    /// Waits until nobody is connected.
    pub(crate) async fn deserted(&self) {
        soon(async || {
            let metrics = String::from_utf8(self.get("/metrics").await.body).expect("text");
            // But who asks.
            metrics.lines().any(|line| line == "wharf_registry_connections 1")
        })
        .await;
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let answer = self.send("POST", &path, &[("Content-Type", "application/octet-stream")], bytes).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    /// Begins an upload and gives its location.
    pub(crate) async fn begin(&self, repository: &str) -> String {
        let answer = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"").await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.header("range"), Some("0-0"));
        answer.header("location").expect("a location").to_owned()
    }

    pub(crate) async fn put_manifest(&self, path: &str, media_type: &str, bytes: &[u8]) -> Answer {
        self.send("PUT", path, &[("Content-Type", media_type)], bytes).await
    }

    /// Pushes an image with one layer, tagged, and gives its manifest.
    pub(crate) async fn push_image(&self, repository: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
        self.push_blob(repository, layer).await;
        self.push_blob(repository, CONFIG).await;
        let bytes = manifest(&[Descriptor::of(media_types::OCI_LAYER, layer)]);
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self.put_manifest(&path, media_types::OCI_MANIFEST, &bytes).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        bytes
    }
}

/// Runs a test over every kind of store.
pub(crate) async fn each(test: impl AsyncFn(&Site)) {
    let site = Site::memory(RegistryOptions::default()).await;
    test(&site).await;
    site.stop().await;
    let root = TempDir::new().expect("a directory");
    let site = Site::start(local(&root).await, RegistryOptions::default()).await;
    test(&site).await;
    site.stop().await;
}

pub(crate) async fn local(root: &TempDir) -> Arc<dyn Store> {
    Arc::new(LocalStore::open(root.path().join("store")).await.expect("a store"))
}

/// The config of every image here.
pub(crate) const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux"}"#;

/// A manifest with odd spaces and an unknown field, so that writing it anew would change it.
pub(crate) fn manifest(layers: &[Descriptor]) -> Vec<u8> {
    let config = serde_json::to_string(&Descriptor::of(media_types::OCI_CONFIG, CONFIG)).expect("serialises");
    let layers = serde_json::to_string(layers).expect("serialises");
    format!(
        "{{ \"schemaVersion\": 2,  \"x-unknown\": 1e0, \"mediaType\": \"{}\", \"config\": {config}, \"layers\": {layers} }}\n",
        media_types::OCI_MANIFEST
    )
    .into_bytes()
}

pub(crate) fn index(manifests: &[Descriptor]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "manifests": manifests }).to_string().into_bytes()
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).expect("a head in ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let headers = lines.map(|line| line.split_once(": ").expect("a header"));
        Self {
            status: status.parse().expect("a number"),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Checks that this is an error as the specification has them.
    pub(crate) fn refuses(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("docker-distribution-api-version"), Some("registry/2.0"));
        let body = self.json();
        assert_eq!(body["errors"][0]["code"], code, "{body}");
        assert!(body["errors"][0]["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

/// Waits until something is so.
pub(crate) async fn soon(is_so: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come to be so");
}
