//! Executables as verifiers: each file of a directory is asked, and all have to accept.
//!
//! ```text
//! DIR/10-signed    -name NAME -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json
//!   standard input   the descriptor as JSON
//!   standard output  why, for people
//!   exit status      0 accepts, anything else rejects
//! ```
//!
//! The protocol is containerd's (`pkg/imageverifier/bindir`, `docs/image-verification.md`), so that its verifiers work here. Two things are
//! stricter: what somebody else could have changed is not run, and nothing is passed over. A file that cannot be run, and one too many,
//! are errors. Unlike plugins, verifiers are given the environment of the program: they ask registries and read configuration.

use std::{
    ffi::OsString,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use wharf_content::{Descriptor, Error, ErrorKind, Result, ResultExt, blocking};

use super::{
    process::{Call, Environment, Excess, Failure, Finished, Processes, Program},
    trust,
};
use crate::verifier::{Verdict, Verifier};

/// The type of what is given on standard input.
const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";

/// The most characters of a reason that are shown.
const MAX_REASON: usize = 1024;

/// How verifiers are run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifierOptions {
    /// The most verifiers of a directory.
    pub max_verifiers: usize,
    /// How long each may take.
    pub time_limit: Duration,
    /// The most bytes that are read of what each writes; the rest is dropped.
    pub max_output_len: usize,
}

impl VerifierOptions {
    /// Ten verifiers.
    pub const DEFAULT_MAX_VERIFIERS: usize = 10;
    /// Ten seconds.
    pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(10);
    /// 32 KiB.
    pub const DEFAULT_MAX_OUTPUT_LEN: usize = 32 << 10;

    /// Sets how long each may take.
    #[must_use]
    pub fn with_time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Sets the most verifiers of a directory.
    #[must_use]
    pub fn with_max_verifiers(mut self, max_verifiers: usize) -> Self {
        self.max_verifiers = max_verifiers;
        self
    }

    /// Sets the most bytes that are read of what each writes.
    #[must_use]
    pub fn with_max_output_len(mut self, max_output_len: usize) -> Self {
        self.max_output_len = max_output_len;
        self
    }
}

impl Default for VerifierOptions {
    fn default() -> Self {
        Self {
            max_verifiers: Self::DEFAULT_MAX_VERIFIERS,
            time_limit: Self::DEFAULT_TIME_LIMIT,
            max_output_len: Self::DEFAULT_MAX_OUTPUT_LEN,
        }
    }
}

/// The verifiers of a directory, as one: they are asked in the order of their names, and the first that rejects decides.
#[derive(Clone, Debug)]
pub struct VerifierDirectory {
    directory: PathBuf,
    executables: Vec<PathBuf>,
    options: VerifierOptions,
}

impl VerifierDirectory {
    /// Finds the verifiers of a directory: all its files but those whose names begin with a dot.
    ///
    /// # Errors
    /// `NotFound` where there is no directory; `PermissionDenied` where somebody else than root and the user can change it or a file in it,
    /// or a file cannot be run; `ResourceExhausted` for more than [`VerifierOptions::max_verifiers`].
    pub fn open(directory: &Path, options: VerifierOptions) -> Result<Self> {
        let directory = trust::check(directory)?;
        let doing = || format!("cannot read the verifier directory {}", directory.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).context(doing)? {
            let name = entry.context(doing)?.file_name();
            if !name.as_encoded_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        if names.len() > options.max_verifiers {
            return Err(Error::resource_exhausted(format!(
                "there are {} verifiers in {}, more than the {} that are run",
                names.len(),
                directory.display(),
                options.max_verifiers
            )));
        }
        names.sort();
        let executables = names.iter().map(|name| {
            let path = directory.join(name);
            trust::check_executable(&path).context(|| format!("cannot use the verifier {}", path.display()))
        });
        let executables = executables.collect::<Result<_>>()?;
        Ok(Self { directory, executables, options })
    }

    /// Whether there is none, so that every image is accepted.
    pub fn is_empty(&self) -> bool {
        self.executables.is_empty()
    }

    async fn ask(&self, executable: &Path, name: &str, descriptor: &Descriptor) -> Result<Verdict> {
        let input = serde_json::to_vec(descriptor)
            .map_err(|error| Error::internal("cannot describe an image").with_source(error))?;
        let arguments =
            ["-name", name, "-digest", descriptor.digest.as_str(), "-stdin-media-type", DESCRIPTOR];
        let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
        // Of its own, so that it is ended with this future, and nobody else's is.
        let running = Running(Arc::new(Processes::new(NonZeroUsize::MIN)));
        let processes = Arc::clone(&running.0);
        let (program, directory, options) =
            (executable.to_owned(), self.directory.clone(), self.options.clone());
        let outcome = blocking::run(move || {
            Ok(processes.run(Call {
                program: Program {
                    executable: &program,
                    arguments: &arguments,
                    directory: &directory,
                    environment: Environment::Inherited,
                },
                input,
                time_limit: options.time_limit,
                max_output_len: options.max_output_len,
                excess: Excess::Dropped,
            }))
        })
        .await?;
        let label = executable.display();
        let Finished { status, output, errors } = match outcome {
            Ok(finished) => finished,
            Err(failure) => return Err(self.failed(failure, executable)),
        };
        if !errors.is_empty() {
            tracing::debug!(verifier = %label, digest = %descriptor.digest, "{errors}");
        }
        let said = String::from_utf8_lossy(&output);
        let reason: String = said.trim().chars().take(MAX_REASON).collect();
        let reason = if reason.is_empty() { "it gave no reason".to_owned() } else { reason };
        Ok(if status.success() {
            Verdict::Accepted(format!("{label}: {reason}"))
        } else {
            Verdict::Rejected(format!("the verifier {label} rejects it ({status}): {reason}"))
        })
    }

    fn failed(&self, failure: Failure, executable: &Path) -> Error {
        let label = executable.display();
        let refused = |why: String| {
            Error::failed_precondition(format!("the image may not be pulled: the verifier {label} {why}"))
        };
        match failure {
            Failure::System(error) => Error::io(format!("cannot run the verifier {label}"), error),
            Failure::Time(_) => {
                refused(format!("gave no answer within {} s", self.options.time_limit.as_secs_f64()))
            }
            Failure::Output(_) => refused("wrote too much".to_owned()),
            Failure::Open => refused("left a process behind that keeps its output open".to_owned()),
            Failure::Stopped => Error::new(ErrorKind::Aborted, format!("the verifier {label} was stopped")),
        }
    }
}

/// Ends what runs when it is dropped.
struct Running(Arc<Processes>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[async_trait]
impl Verifier for VerifierDirectory {
    async fn verify(&self, name: &str, descriptor: &Descriptor) -> Result<Verdict> {
        let mut reasons = Vec::new();
        for executable in &self.executables {
            match self.ask(executable, name, descriptor).await? {
                Verdict::Accepted(reason) => reasons.push(reason),
                rejected @ Verdict::Rejected(_) => return Ok(rejected),
            }
        }
        Ok(Verdict::Accepted(reasons.join("; ")))
    }
}
