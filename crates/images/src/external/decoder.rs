//! A plugin as a decoder: asks it, and makes of whatever happens a result that names the plugin.

use std::{path::PathBuf, sync::Arc, time::Duration};

use wharf_content::{Descriptor, Error, ErrorKind, Result};

use super::{
    manifest::Content,
    process::{Call, Environment, Excess, Failure, Finished, Processes, Program},
    protocol::{self, Bad},
};
use crate::decode::{Decoded, Kind, ManifestDecoder};

/// A decoder that is an executable.
#[derive(Debug)]
pub(super) struct External {
    /// Name and manifest, for messages.
    pub(super) label: String,
    pub(super) kind: Kind,
    pub(super) content: Content,
    pub(super) executable: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) time_limit: Duration,
    pub(super) max_answer_len: usize,
    pub(super) processes: Arc<Processes>,
}

impl ManifestDecoder for External {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn reads_content(&self) -> bool {
        self.content != Content::None
    }

    fn blocks(&self) -> bool {
        true
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let input = protocol::request(descriptor, bytes, self.content)?;
        let call = Call {
            program: Program {
                executable: &self.executable,
                arguments: &[],
                directory: &self.directory,
                environment: Environment::Bare,
            },
            input,
            time_limit: self.time_limit,
            max_output_len: self.max_answer_len,
            excess: Excess::Refused,
        };
        let finished = self.processes.run(call).map_err(|failure| self.failed(failure, descriptor))?;
        let Finished { status, output, errors } = finished;
        if !status.success() {
            return Err(Error::internal(format!(
                "the plugin {} ended with {status} at {}{}",
                self.label,
                descriptor.digest,
                said(&errors)
            )));
        }
        if !errors.is_empty() {
            tracing::debug!(plugin = self.label, digest = %descriptor.digest, "{errors}");
        }
        protocol::answer(&output, descriptor, self.kind).map_err(|bad| self.useless(bad, descriptor, &errors))
    }
}

impl External {
    fn failed(&self, failure: Failure, descriptor: &Descriptor) -> Error {
        let Self { label, .. } = self;
        let digest = &descriptor.digest;
        match failure {
            Failure::System(error) => {
                Error::io(format!("cannot run {} of the plugin {label}", self.executable.display()), error)
            }
            Failure::Time(errors) => Error::resource_exhausted(format!(
                "the plugin {label} was ended, for it took longer than {} s for {digest} (its manifest may have a timeLimit){}",
                self.time_limit.as_secs_f64(),
                said(&errors)
            )),
            Failure::Output(errors) => Error::resource_exhausted(format!(
                "the plugin {label} was ended, for its answer to {digest} is longer than {} bytes{}",
                self.max_answer_len,
                said(&errors)
            )),
            Failure::Open => Error::internal(format!(
                "the plugin {label} left a process behind that keeps its output open, at {digest}"
            )),
            Failure::Stopped => {
                Error::new(ErrorKind::Aborted, format!("the plugin {label} was stopped at {digest}"))
            }
        }
    }

    fn useless(&self, bad: Bad, descriptor: &Descriptor, errors: &str) -> Error {
        let Self { label, .. } = self;
        let digest = &descriptor.digest;
        match bad {
            Bad::Refused(reason) => Error::invalid_argument(format!("the plugin {label} refuses {digest}"))
                .with_source(Error::invalid_argument(reason)),
            Bad::Unsupported(reason) => {
                Error::not_implemented(format!("the plugin {label} does not read {digest}"))
                    .with_source(Error::not_implemented(reason))
            }
            Bad::Malformed(reason) => Error::internal(format!(
                "the plugin {label} gave an answer to {digest} that is not as the protocol says: {reason}{}",
                said(errors)
            )),
        }
    }
}

/// What an executable said, for a message.
pub(super) fn said(errors: &str) -> String {
    if errors.is_empty() { String::new() } else { format!("; it said {errors:?}") }
}
