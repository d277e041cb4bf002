//! A crowd of clients of one registry for a while: pulls that check every byte, pushes of what is new, of what is there, and
//! of the same thing by everybody at once. The first thing that goes wrong ends it.
//!
//! The clients are light, so that many of them fit beside the registry, and follow the distribution specification to the letter;
//! no program's habits are imitated. What was pushed with a tag is told at the end, for somebody else to look for.

mod image;
mod pulling;
mod pushing;
mod visitor;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use wharf_content::Digest;

/// What a load consists of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Where the registry is; it speaks plain HTTP.
    pub registry: SocketAddr,
    /// An image that is there, as `REPOSITORY:TAG`: what is pulled until something was pushed.
    pub image: String,
    /// How many clients pull.
    pub pulls: u32,
    /// How many clients push.
    pub pushes: u32,
    /// How long it goes on. What was begun is finished.
    pub time: Duration,
}

impl LoadOptions {
    /// A load of nobody yet on a registry that has an image.
    pub fn new(registry: SocketAddr, image: &str) -> Self {
        Self { registry, image: image.to_owned(), pulls: 0, pushes: 0, time: Duration::ZERO }
    }
}

/// What a load has done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadReport {
    /// How many images were pulled.
    pub pulls: u64,
    /// How many images were pushed.
    pub pushes: u64,
    /// How many bytes came of the pulls.
    pub bytes: u64,
    /// The digests of what is in the registry now, by `REPOSITORY:TAG`.
    pub kept: BTreeMap<String, Digest>,
}

/// What went wrong, for a person.
type Result<T> = std::result::Result<T, String>;

/// What all clients share.
#[derive(Debug)]
struct Crowd {
    options: LoadOptions,
    begun: Instant,
    kept: Mutex<Vec<(String, String, Digest)>>,
    failure: Mutex<Option<String>>,
    pulls: AtomicU64,
    pushes: AtomicU64,
    bytes: AtomicU64,
}

/// Lets the crowd in.
///
/// # Errors
/// The first thing that went wrong: a status, a byte, or a wait that took too long.
///
/// # Cancellation
/// The clients leave at their next request.
///
/// # Panics
/// When a client does.
pub async fn run(options: LoadOptions) -> std::result::Result<LoadReport, String> {
    let crowd = std::sync::Arc::new(Crowd {
        options,
        begun: Instant::now(),
        kept: Mutex::default(),
        failure: Mutex::default(),
        pulls: AtomicU64::new(0),
        pushes: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    });
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..crowd.options.pulls {
        let crowd = std::sync::Arc::clone(&crowd);
        clients.spawn(async move { crowd.note(pulling::client(&crowd, number).await) });
    }
    for number in 0..crowd.options.pushes {
        let crowd = std::sync::Arc::clone(&crowd);
        clients.spawn(async move { crowd.note(pushing::client(&crowd, number).await) });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("because a client that has lost its way says so");
    }
    if let Some(failure) = locked(&crowd.failure).take() {
        return Err(failure);
    }
    let kept = std::mem::take(&mut *locked(&crowd.kept));
    Ok(LoadReport {
        pulls: crowd.pulls.load(Ordering::Relaxed),
        pushes: crowd.pushes.load(Ordering::Relaxed),
        bytes: crowd.bytes.load(Ordering::Relaxed),
        kept: kept
            .into_iter()
            .map(|(repository, tag, digest)| (format!("{repository}:{tag}"), digest))
            .collect(),
    })
}

impl Crowd {
    /// Whether there is time for one more, and nothing has gone wrong.
    fn goes_on(&self) -> bool {
        self.begun.elapsed() < self.options.time && locked(&self.failure).is_none()
    }

    fn note(&self, outcome: Result<()>) {
        if let Err(failure) = outcome {
            locked(&self.failure).get_or_insert(failure);
        }
    }

    /// An image that can be pulled: the newest ones most of all. Its digest is not known of the first one.
    fn any(&self, draw: u64) -> (String, String, Option<Digest>) {
        let kept = locked(&self.kept);
        if kept.is_empty() || draw.is_multiple_of(8) {
            let (repository, tag) =
                self.options.image.rsplit_once(':').unwrap_or((&self.options.image, "latest"));
            return (repository.to_owned(), tag.to_owned(), None);
        }
        let last = kept.len().min(64) as u64;
        let back = usize::try_from(draw / 8 % last).unwrap_or_default();
        let (repository, tag, digest) = kept[kept.len() - 1 - back].clone();
        (repository, tag, Some(digest))
    }

    fn keep(&self, repository: &str, tag: &str, digest: &Digest) {
        locked(&self.kept).push((repository.to_owned(), tag.to_owned(), digest.clone()));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers that look random, other ones for each client.
#[derive(Debug)]
struct Draws(u64);

impl Draws {
    fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
}
