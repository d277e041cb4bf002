//! Trying again: which failures another try may mend, how often one is made, and how long is waited before it.
//!
//! Nothing is sent here. Whoever makes the tries counts them by [`Retries`].

use std::time::Duration;

use wharf_content::{Descriptor, Error, Result, backoff::Backoff};
use wharf_images::progress::Event;

use super::settings::RegistrySettings;
use crate::error::RemoteError;

/// Why there is no answer of success.
#[derive(Debug)]
pub(super) enum Failed {
    /// The registry or the way to it, and how long the registry asks to wait.
    Remote(Box<RemoteError>, Option<Duration>),
    /// Something that another try does not mend.
    Final(Error),
}

impl Failed {
    /// An error that may be one of a host that another try mends.
    pub(super) fn of(error: Error) -> Self {
        match RemoteError::of(&error).filter(|failed| failed.is_retryable()) {
            Some(failed) => Self::Remote(Box::new(failed.clone()), None),
            None => Self::Final(error),
        }
    }

    /// The status that was answered.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Remote(failed, _) => failed.status,
            Self::Final(error) => RemoteError::of(error).and_then(|failed| failed.status),
        }
    }
}

impl From<RemoteError> for Failed {
    fn from(error: RemoteError) -> Self {
        Self::Remote(Box::new(error), None)
    }
}

/// The tries of one piece of work, and the waits between them.
pub(super) struct Retries<'a> {
    settings: &'a RegistrySettings,
    backoff: Backoff,
    attempts: u32,
    /// How often it was too slow, whatever it brought.
    slow: u32,
    waited: Duration,
    /// What is moved, where that is told when it is taken up again.
    about: Option<&'a Descriptor>,
}

impl<'a> Retries<'a> {
    /// As many, and with such waits, as the user decided.
    pub(super) fn new(settings: &'a RegistrySettings) -> Self {
        let backoff = Backoff::new(settings.retry_delay, settings.max_retry_delay);
        Self { settings, backoff, attempts: 1, slow: 0, waited: Duration::ZERO, about: None }
    }

    /// Tells of each new try that it is one at this content.
    pub(super) fn about(mut self, descriptor: &'a Descriptor) -> Self {
        self.about = Some(descriptor);
        self
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// What failed, where another try does not mend it or there were enough.
    pub(super) async fn wait(&mut self, failed: Failed) -> Result<()> {
        let (mut failed, retry_after) = match failed {
            Failed::Remote(failed, retry_after) => (*failed, retry_after),
            Failed::Final(error) => return Err(error),
        };
        self.slow += u32::from(failed.is_slow());
        if !failed.is_retryable() || self.attempts.max(self.slow) > self.settings.retries {
            failed.attempts = self.attempts.max(self.slow);
            let context = format!("the registry {} did not answer as it should", failed.host);
            return Err(failed.with_waited(self.waited).into_error(context));
        }
        let wait = self.backoff.wait_at_least_half().max(retry_after.unwrap_or_default());
        let wait = wait.min(self.settings.max_retry_delay);
        tracing::debug!(error = %failed, attempts = self.attempts, ?wait, "the request is sent again");
        if let Some(descriptor) = self.about {
            let error = failed.into_error("the transfer broke");
            self.settings.sink.event(&Event::Retried { descriptor, error: &error });
        }
        tokio::time::sleep(wait).await;
        self.attempts += 1;
        self.waited += wait;
        Ok(())
    }

    /// Begins to count anew, since the last try brought the work on.
    pub(super) fn advanced(&mut self) {
        (self.attempts, self.waited) = (1, Duration::ZERO);
        self.backoff = Backoff::new(self.settings.retry_delay, self.settings.max_retry_delay);
    }
}
