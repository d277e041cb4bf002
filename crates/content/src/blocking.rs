//! Runs blocking work away from the async threads.

use tokio::task;

use crate::error::{Error, Result};

/// Runs `work` on a blocking thread.
///
/// # Errors
/// Those of `work`.
///
/// # Cancellation
/// The work goes on to its end in the background.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("a blocking task ended early").with_source(error)),
    }
}
