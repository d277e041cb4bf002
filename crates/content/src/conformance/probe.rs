//! What the checks are made of: failures, comparisons, content, and futures that are dropped half-way.

use std::{
    fmt::Debug,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;

use crate::{
    descriptor::Descriptor,
    digest::Digest,
    error::{Error, ErrorKind, Result},
    filter::FilterSet,
    labels::Labels,
    store::{CommitOptions, Info, IngestOptions, Provider, Store, Writer},
};

/// One promise and how it is checked.
pub(super) struct Promise {
    pub(super) name: &'static str,
    pub(super) says: &'static str,
    pub(super) check: fn(Arc<dyn Store>) -> BoxFuture<'static, Check>,
}

/// Makes a [`Promise`] of an asynchronous function.
macro_rules! promise {
    ($name:literal, $says:literal, $check:path) => {
        $crate::conformance::probe::Promise {
            name: $name,
            says: $says,
            check: |store| Box::pin($check(store)),
        }
    };
}

/// Ends a check with a failure unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($found:tt)*) => {
        if !$condition {
            return Err($crate::conformance::probe::Failure(format!($($found)*)));
        }
    };
}

pub(super) use {ensure, promise};

/// What was found in place of what was promised.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("{} ({})", error.report(), error.kind()))
    }
}

/// The outcome of a check.
pub(super) type Check<T = ()> = Result<T, Failure>;

/// What a cancelled operation may go on for in the background before it counts as never ending.
pub(super) const SETTLE: Duration = Duration::from_secs(5);

/// Demands that something is as it should be.
#[allow(clippy::needless_pass_by_value, reason = "what is compared is mostly made for it")]
pub(super) fn equal<T: PartialEq<U> + Debug, U: Debug>(what: &str, found: T, expected: U) -> Check {
    ensure!(found == expected, "{what}: found {found:?}, expected {expected:?}");
    Ok(())
}

/// Demands that bytes are as they should be, and shows no more of them than where they differ.
pub(super) fn same_bytes(what: &str, found: &[u8], expected: &[u8]) -> Check {
    if found == expected {
        return Ok(());
    }
    let differ = found.iter().zip(expected).position(|(found, expected)| found != expected);
    Err(Failure(format!(
        "{what}: {} bytes that differ at {}, expected {} bytes",
        found.len(),
        differ.unwrap_or(found.len().min(expected.len())),
        expected.len()
    )))
}

/// Demands that something was refused with an error of this kind.
pub(super) fn refused<T>(what: &str, result: Result<T>, kind: ErrorKind) -> Check {
    match result {
        Ok(_) => Err(Failure(format!("{what}: succeeded, expected an error of the kind {kind}"))),
        Err(error) => {
            ensure!(error.kind() == kind, "{what}: {} ({}), expected {kind}", error.report(), error.kind());
            Ok(())
        }
    }
}

/// Some bytes; those of another seed differ from the first on.
pub(super) fn bytes(len: usize, seed: u8) -> Bytes {
    let mut state = u32::from(seed);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] ^ seed
    };
    // A period that no batch or page is a multiple of, so that a piece in the wrong place is seen.
    let period: Vec<u8> = (0..len.min(65_521)).map(|_| next()).collect();
    let mut bytes = BytesMut::with_capacity(len);
    while bytes.len() < len {
        bytes.extend_from_slice(&period[..period.len().min(len - bytes.len())]);
    }
    bytes.freeze()
}

/// The descriptor of some bytes.
pub(super) fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::of("application/octet-stream", bytes)
}

/// Names an ingest of known content.
pub(super) fn expecting(reference: &str, descriptor: &Descriptor) -> IngestOptions {
    IngestOptions::new(reference).with_descriptor(descriptor)
}

/// Commits what was written as the content that it has to be.
pub(super) async fn commit(writer: &mut dyn Writer, descriptor: &Descriptor) -> Check {
    let committed =
        writer.commit(Some(descriptor.size), Some(&descriptor.digest), CommitOptions::default()).await?;
    equal("the digest that a commit gave", &committed, &descriptor.digest)
}

/// Stores content in one write.
pub(super) async fn put(store: &dyn Store, content: &Bytes) -> Check<Descriptor> {
    let descriptor = describe(content);
    let mut writer = store.writer(expecting(descriptor.digest.as_str(), &descriptor)).await?;
    writer.write(content.clone()).await?;
    commit(writer.as_mut(), &descriptor).await?;
    Ok(descriptor)
}

/// Stores content and then gives it labels.
pub(super) async fn put_labelled(store: &dyn Store, content: &Bytes, pairs: Pairs<'_>) -> Check<Descriptor> {
    let descriptor = put(store, content).await?;
    store.update(&descriptor.digest, &labels(pairs), &[]).await?;
    Ok(descriptor)
}

/// Labels as they are written down in a check.
pub(super) type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Makes labels.
pub(super) fn labels(pairs: Pairs<'_>) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Leaves an ingest with these bytes in it.
pub(super) async fn begin(store: &dyn Store, options: IngestOptions, content: &Bytes) -> Check {
    let mut writer = store.writer(options).await?;
    writer.write(content.clone()).await?;
    writer.close().await?;
    Ok(())
}

/// Reads a whole blob in as many reads as it takes.
pub(super) async fn content(provider: &dyn Provider, descriptor: &Descriptor) -> Check<Bytes> {
    let reader = provider.reader(descriptor).await?;
    let mut content = BytesMut::new();
    while (content.len() as u64) < reader.size() {
        let left = usize::try_from(reader.size() - content.len() as u64).unwrap_or(usize::MAX);
        let piece = reader.read_at(content.len() as u64, left).await?;
        ensure!(!piece.is_empty(), "{} ends at byte {}", descriptor.digest, content.len());
        content.extend_from_slice(&piece);
    }
    Ok(content.freeze())
}

/// Demands that a blob is there and has these bytes.
pub(super) async fn holds(provider: &dyn Provider, descriptor: &Descriptor, expected: &[u8]) -> Check {
    same_bytes("the content of a blob", &content(provider, descriptor).await?, expected)
}

/// The digests that a walk visits, sorted.
pub(super) async fn walk(store: &dyn Store, filters: &[&str]) -> Check<Vec<Digest>> {
    let mut found = Vec::new();
    let mut visit = |info: Info| {
        found.push(info.digest);
        Ok(())
    };
    store.walk(&FilterSet::parse(filters)?, &mut visit).await?;
    found.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(found)
}

/// Opens a writer that something in the background may have for a while yet.
pub(super) async fn reopen(store: &dyn Store, options: IngestOptions) -> Result<Box<dyn Writer>> {
    let started = Instant::now();
    loop {
        match store.writer(options.clone()).await {
            Err(error) if error.kind() == ErrorKind::Unavailable && started.elapsed() < SETTLE => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            result => return result,
        }
    }
}

/// Polls a future at most `polls` times and then drops it; `None` where it was not done by then.
pub(super) async fn cancelled<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polled >= polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
