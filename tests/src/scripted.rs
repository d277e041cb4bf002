//! A registry that takes what is pushed to it and gives it back, as the specification says, and of whose answers a test bends single
//! ones. It has the same content in every repository.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use wharf_content::Digest;

use crate::fake::{FakeServer, Reply, Request};

/// What the registry has and was asked.
#[derive(Debug, Default)]
pub struct Contents {
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    uploads: Mutex<HashMap<usize, Vec<u8>>>,
    manifests: Mutex<HashMap<String, (String, Vec<u8>)>>,
    requests: Mutex<Vec<Request>>,
    mounts_nothing: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contents {
    /// Blobs by digest.
    pub fn blobs(&self) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
        lock(&self.blobs)
    }

    /// What was sent of uploads that are not finished, by number.
    pub fn uploads(&self) -> MutexGuard<'_, HashMap<usize, Vec<u8>>> {
        lock(&self.uploads)
    }

    /// Media type and bytes of manifests, by digest and by tag.
    pub fn manifests(&self) -> MutexGuard<'_, HashMap<String, (String, Vec<u8>)>> {
        lock(&self.manifests)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    /// How many requests of a method there were.
    pub fn count(&self, method: &str) -> usize {
        lock(&self.requests).iter().filter(|request| request.method == method).count()
    }

    /// Begins an upload where a mount is asked for, from now on.
    pub fn mount_nothing(&self) {
        self.mounts_nothing.store(true, Ordering::SeqCst);
    }

    /// Begins an upload, and gives its number.
    pub fn begin(&self) -> usize {
        let mut uploads = self.uploads();
        let id = uploads.len();
        uploads.insert(id, Vec::new());
        id
    }

    /// Appends to the upload that a request names at most `most` bytes of its body, and gives the upload's number and length.
    ///
    /// # Panics
    /// When there is no such upload.
    pub fn append(&self, request: &Request, most: usize) -> (usize, usize) {
        let path = request.path.split('?').next().unwrap_or_default();
        let id = path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("an upload's number");
        let mut uploads = self.uploads();
        let upload = uploads.get_mut(&id).expect("an upload that is there");
        upload.extend_from_slice(&request.body[..most.min(request.body.len())]);
        (id, upload.len())
    }

    /// The answer of the specification.
    pub fn answer(&self, request: &Request) -> Reply {
        // As front ends of large registries do.
        if matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") && request.content_length().is_none() {
            return Reply::new(411, &[], "");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let last = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/manifests/") {
            self.manifest(request, last)
        } else if path.contains("/uploads/") {
            self.upload(request, last, query)
        } else {
            match self.blobs().get(last) {
                Some(bytes) => described(request, last, "application/octet-stream", bytes),
                None => missing(),
            }
        }
    }

    fn manifest(&self, request: &Request, name: &str) -> Reply {
        let mut manifests = self.manifests();
        if request.method != "PUT" {
            return match manifests.get(name) {
                Some((media_type, bytes)) => {
                    described(request, Digest::sha256(bytes).as_str(), media_type, bytes)
                }
                None => missing(),
            };
        }
        let media_type = request.header("content-type").unwrap_or_default().to_owned();
        let digest = Digest::sha256(&request.body).to_string();
        for name in [name, &digest] {
            manifests.insert(name.to_owned(), (media_type.clone(), request.body.clone()));
        }
        Reply::new(201, &[("Docker-Content-Digest", &digest)], "")
    }

    fn upload(&self, request: &Request, last: &str, query: &str) -> Reply {
        let parameter = |name: &str| {
            let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
            Some(found.replace("%3A", ":"))
        };
        if request.method == "POST" {
            let is_here = parameter("mount").is_some_and(|mount| self.blobs().contains_key(&mount));
            if is_here && !self.mounts_nothing.load(Ordering::SeqCst) {
                return Reply::new(201, &[], "");
            }
            return Reply::new(202, &[("Location", &location(self.begin(), 0))], "");
        }
        let mut uploads = self.uploads();
        let id = last.parse().ok().filter(|id| uploads.contains_key(id) && query.starts_with(STATE));
        let Some(id) = id else { return missing() };
        let upload = uploads.entry(id).or_default();
        let range = |len: usize| format!("0-{}", len.saturating_sub(1));
        let first = request.header("content-range").and_then(|range| range.split_once('-'));
        if first.is_some_and(|(first, _)| first.parse() != Ok(upload.len())) {
            return Reply::new(416, &[("Range", &range(upload.len()))], "");
        }
        upload.extend_from_slice(&request.body);
        if request.body.len() < request.content_length().unwrap_or(0) {
            return Reply::raw("");
        }
        let (range, location) = (range(upload.len()), location(id, upload.len()));
        match request.method.as_str() {
            "PATCH" => Reply::new(202, &[("Range", &range), ("Location", &location)], ""),
            "GET" => Reply::new(204, &[("Range", &range), ("Location", &location)], ""),
            _ => {
                let bytes = uploads.remove(&id).unwrap_or_default();
                let digest = Digest::sha256(&bytes).to_string();
                if parameter("digest").as_ref() != Some(&digest) {
                    return Reply::new(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#);
                }
                self.blobs().insert(digest.clone(), bytes);
                Reply::new(201, &[("Docker-Content-Digest", &digest)], "")
            }
        }
    }
}

/// What every Location carries and every request to it must bring back as it is.
const STATE: &str = "_state=a%2Bb";

/// The Location of an upload.
pub fn location(id: usize, at: usize) -> String {
    format!("/v2/x/blobs/uploads/{id}?{STATE}&at={at}")
}

fn described(request: &Request, digest: &str, media_type: &str, bytes: &[u8]) -> Reply {
    let len = bytes.len().to_string();
    let headers = [("Content-Type", media_type), ("Docker-Content-Digest", digest), ("Content-Length", &len)];
    Reply::new(200, &headers, if request.method == "GET" { bytes } else { &[] })
}

fn missing() -> Reply {
    Reply::new(404, &[], r#"{"errors":[{"code":"UNKNOWN","message":"not here"}]}"#)
}

/// The registry. It ends when this is dropped.
pub struct ScriptedRegistry {
    /// What it has and was asked.
    pub contents: Arc<Contents>,
    server: FakeServer,
}

impl fmt::Debug for ScriptedRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedRegistry").field("server", &self.server).finish_non_exhaustive()
    }
}

impl ScriptedRegistry {
    /// Answers as the specification says, but for what `bend` answers.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start(bend: impl Fn(&Request, &Contents) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::reading(|_| usize::MAX, bend).await
    }

    /// As [`ScriptedRegistry::start`], but reads of each body no more than `most` says before it answers; what it read it keeps, and
    /// the connection ends.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn reading(
        most: impl Fn(&Request) -> usize + Send + Sync + 'static,
        bend: impl Fn(&Request, &Contents) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let contents = Arc::new(Contents::default());
        let answering = Arc::clone(&contents);
        let server = FakeServer::start_reading(most, move |request| {
            lock(&answering.requests).push(request.clone());
            bend(request, &answering).unwrap_or_else(|| answering.answer(request))
        });
        Self { contents, server: server.await }
    }

    /// The address as it stands in a reference.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// The reference of a repository and tag here.
    pub fn reference(&self, repository_and_tag: &str) -> String {
        format!("{}/{repository_and_tag}", self.server.address())
    }
}

/// Answers by `reply` the first `count` requests of a method whose path contains `part`.
pub fn first(
    count: usize,
    method: &'static str,
    part: &'static str,
    reply: impl Fn() -> Reply,
) -> impl Fn(&Request) -> Option<Reply> {
    let left = AtomicUsize::new(count);
    move |request| {
        let fits = request.method == method && request.path.contains(part);
        let spend = |left: usize| left.checked_sub(1);
        (fits && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok()).then(&reply)
    }
}
