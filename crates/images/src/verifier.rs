//! Verifiers: who has a say in whether an image may be pulled, before anything of it is fetched.
//!
//! What they go by is theirs: signatures, a list of digests, the registry. Executables are verifiers by
//! [`external::VerifierDirectory`](crate::external::VerifierDirectory) (containerd: `pkg/imageverifier`).

use std::fmt::Debug;

use async_trait::async_trait;
use wharf_content::{Descriptor, Error, Result};

/// What a verifier says of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It may be pulled, for this reason.
    Accepted(String),
    /// It may not be pulled, for this reason.
    Rejected(String),
}

/// Decides whether an image may be pulled.
///
/// ```
/// use wharf_images::{Descriptor, Digest, Result, async_trait, verifier::{Verdict, Verifier, accept}};
///
/// /// Lets one image pass.
/// #[derive(Debug)]
/// struct Pinned(Digest);
///
/// #[async_trait]
/// impl Verifier for Pinned {
///     async fn verify(&self, _: &str, descriptor: &Descriptor) -> Result<Verdict> {
///         Ok(if descriptor.digest == self.0 {
///             Verdict::Accepted("it is the one".into())
///         } else {
///             Verdict::Rejected(format!("it is not {}", self.0))
///         })
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
/// let image = Descriptor::of("application/vnd.oci.image.index.v1+json", b"{}");
/// let pinned = Pinned(image.digest.clone());
/// assert!(accept(&pinned, "example.org/a:1", &image).await.is_ok());
/// # });
/// ```
#[async_trait]
pub trait Verifier: Debug + Send + Sync + 'static {
    /// Judges what a name was found to mean.
    ///
    /// # Errors
    /// Where there is no verdict. The image is not pulled then either.
    ///
    /// # Cancellation
    /// Nothing goes on in the background.
    async fn verify(&self, name: &str, descriptor: &Descriptor) -> Result<Verdict>;
}

/// Asks a verifier, and makes of a rejection an error.
///
/// # Errors
/// `FailedPrecondition` for a rejection, with its reason; those of the verifier.
///
/// # Cancellation
/// As [`Verifier::verify`].
pub async fn accept(verifier: &dyn Verifier, name: &str, descriptor: &Descriptor) -> Result<()> {
    match verifier.verify(name, descriptor).await? {
        Verdict::Accepted(reason) => {
            tracing::info!(name, digest = %descriptor.digest, reason, "the image was accepted");
            Ok(())
        }
        Verdict::Rejected(reason) => Err(Error::failed_precondition(format!(
            "{name} ({}) may not be pulled: {reason}",
            descriptor.digest
        ))),
    }
}
