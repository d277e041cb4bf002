//! What the checks are made of: failures, comparisons, records, and futures that are dropped half-way.

use std::{
    fmt::{Debug, Write},
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
};

use futures_util::future::BoxFuture;
use wharf_content::{Descriptor, Error, ErrorKind, Labels, Result, filter::FilterSet};

use crate::{
    media_types,
    record::{Image, ImageStore},
};

/// One promise and how it is checked.
pub(super) struct Promise {
    pub(super) name: &'static str,
    pub(super) says: &'static str,
    pub(super) check: fn(Arc<dyn ImageStore>) -> BoxFuture<'static, Check>,
}

/// Makes a [`Promise`] of an asynchronous function.
macro_rules! promise {
    ($name:literal, $says:literal, $check:path) => {
        $crate::conformance::probe::Promise {
            name: $name,
            says: $says,
            check: |store| Box::pin(async move { $check(store.as_ref()).await }),
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

/// The most characters of a value that a failure shows; labels may be long.
const SHOWN: usize = 600;

/// Demands that something is as it should be.
#[allow(clippy::needless_pass_by_value, reason = "what is compared is mostly made for it")]
pub(super) fn equal<T: PartialEq<U> + Debug, U: Debug>(what: &str, found: T, expected: U) -> Check {
    if found == expected {
        return Ok(());
    }
    let shown = |value: &dyn Debug| format!("{value:?}").chars().take(SHOWN).collect::<String>();
    let mut failure = format!("{what}: found {}", shown(&found));
    write!(failure, ", expected {}", shown(&expected)).expect("because a String takes everything");
    Err(Failure(failure))
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

/// Keys and values as they are written down in a check.
pub(super) type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Makes labels or annotations.
pub(super) fn labels(pairs: Pairs<'_>) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A target; those of other content differ in the digest.
pub(super) fn target(content: &str) -> Descriptor {
    Descriptor::of(media_types::OCI_MANIFEST, content.as_bytes())
}

/// A target with annotations.
pub(super) fn annotated(content: &str, annotations: Pairs<'_>) -> Descriptor {
    annotations.iter().fold(target(content), |target, (key, value)| target.with_annotation(*key, *value))
}

/// A record with labels.
pub(super) fn image(name: &str, target: Descriptor, pairs: Pairs<'_>) -> Image {
    Image::new(name, target).with_labels(labels(pairs))
}

/// Demands that a record has this target and these labels.
pub(super) async fn holds(
    store: &dyn ImageStore,
    what: &str,
    name: &str,
    target: &Descriptor,
    pairs: Pairs<'_>,
) -> Check {
    let found = store.get(name).await?;
    equal(&format!("the target {what}"), &found.target, target)?;
    equal(&format!("the labels {what}"), &found.labels, &labels(pairs))
}

/// The names of what the filters match, in the order of the listing.
pub(super) async fn list(store: &dyn ImageStore, filters: &[&str]) -> Check<Vec<String>> {
    let found = store.list(&FilterSet::parse(filters)?).await?;
    Ok(found.into_iter().map(|image| image.name).collect())
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
