//! Verifiers by flag or variable: which executables have a say in what is taken from elsewhere. The commands that take something flatten
//! this in, so that none of them is a way around the others.

use std::{ffi::OsString, path::Path, sync::Arc};

use clap::Args;
use wharf_content::Result;
use wharf_images::{
    external::{VerifierDirectory, VerifierOptions},
    verifier::Verifier,
};

use crate::output::escape;

/// Where the verifiers are.
#[derive(Debug, Args)]
pub(crate) struct VerifierArgs {
    /// Take from elsewhere only what every executable in this directory accepts, under containerd's protocol for image verifiers
    #[arg(long, env = "WHARF_VERIFIER_DIR", value_name = "DIR")]
    verifier_dir: Option<OsString>,
}

impl VerifierArgs {
    /// The verifiers of the directory; `None` where there is none, or its name is empty, as in a variable that was unset.
    ///
    /// # Errors
    /// Those of [`VerifierDirectory::open`].
    pub(crate) fn open(&self) -> Result<Option<Arc<dyn Verifier>>> {
        let Some(directory) = self.verifier_dir.as_deref().map(Path::new) else { return Ok(None) };
        if directory.as_os_str().is_empty() {
            return Ok(None);
        }
        let found = VerifierDirectory::open(directory, VerifierOptions::default())?;
        if found.is_empty() {
            tracing::warn!(
                "there is no verifier in {}: every image is accepted",
                escape(&directory.display().to_string())
            );
        }
        Ok(Some(Arc::new(found)))
    }
}
