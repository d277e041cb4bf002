//! A plugin as a layer decoder: the layer goes in at standard input, and comes out of standard output without one of its wrappings
//! (containerd: `core/diff/stream_unix.go`, "stream processors").

use std::{
    env,
    ffi::OsString,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use wharf_content::{Descriptor, Digest, Error, ErrorKind, Result};

use super::{
    decoder::said,
    manifest::LayerTask,
    process::{Environment, Processes, Program},
    stream::{Filter, Trouble},
};
use crate::layer::{LayerDecoder, LayerStream, Unwrap};

/// Variable with the media type of what is given, as containerd calls it.
const MEDIA_TYPE: &str = "STREAM_PROCESSOR_MEDIATYPE";

/// Variable with the descriptor of the layer.
const DESCRIPTOR: &str = "WHARF_LAYER_DESCRIPTOR";

/// The most bytes of a descriptor: Linux takes variables of up to 128 KiB.
const MAX_DESCRIPTOR_LEN: usize = 120 << 10;

/// A layer decoder that is an executable.
#[derive(Debug)]
pub(super) struct ExternalLayer {
    /// Name and manifest, for messages.
    pub(super) label: String,
    pub(super) task: LayerTask,
    pub(super) executable: PathBuf,
    pub(super) directory: PathBuf,
    /// How long it may do nothing.
    pub(super) patience: Duration,
    pub(super) processes: Arc<Processes>,
}

impl LayerDecoder for ExternalLayer {
    fn decode(&self, media_type: &str, layer: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        let environment = self.environment(media_type, layer)?;
        let arguments: Vec<OsString> = self.task.arguments.iter().map(OsString::from).collect();
        let program = Program {
            executable: &self.executable,
            arguments: &arguments,
            directory: &self.directory,
            environment: Environment::Only(&environment),
        };
        let (label, digest, patience) = (self.label.clone(), layer.digest.clone(), self.patience);
        let told = Told { label, digest, executable: self.executable.clone(), patience };
        let filter = Filter::start(Arc::clone(&self.processes), &program, stream, patience);
        match filter {
            Ok(filter) => {
                Ok(Unwrap::to(self.task.returns.clone(), Unwrapping { filter, told, has_failed: false }))
            }
            Err(Trouble::Source(error)) => Err(crate::layer::read_error("cannot read the layer", error)),
            Err(trouble) => Err(told.error(trouble)),
        }
    }
}

impl ExternalLayer {
    /// What the executable finds in its environment. What is said here goes before what is handed on.
    fn environment(&self, media_type: &str, layer: &Descriptor) -> Result<Vec<(OsString, OsString)>> {
        let descriptor = serde_json::to_string(layer)
            .map_err(|error| Error::internal("cannot describe a layer").with_source(error))?;
        if descriptor.len() > MAX_DESCRIPTOR_LEN {
            return Err(Error::resource_exhausted(format!(
                "layer {} has a descriptor of more than {MAX_DESCRIPTOR_LEN} bytes, which cannot be handed to the plugin {}",
                layer.digest, self.label
            )));
        }
        let handed = self.task.environment.iter().filter_map(|name| Some((name.into(), env::var_os(name)?)));
        let own = [(MEDIA_TYPE.into(), media_type.into()), (DESCRIPTOR.into(), descriptor.into())];
        Ok(handed.chain(own).collect())
    }
}

/// What comes out of an executable.
struct Unwrapping {
    filter: Filter,
    told: Told,
    has_failed: bool,
}

impl Read for Unwrapping {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_failed {
            return Err(io::Error::other(Error::internal(format!(
                "the plugin {} failed before at layer {}",
                self.told.label, self.told.digest
            ))));
        }
        let read = self.filter.read(buffer).map_err(|trouble| match trouble {
            Trouble::Source(error) => error,
            trouble => io::Error::other(self.told.error(trouble)),
        });
        self.has_failed = read.is_err();
        if matches!(read, Ok(0)) && !buffer.is_empty() {
            let errors = self.filter.errors();
            if !errors.is_empty() {
                tracing::debug!(plugin = self.told.label, layer = %self.told.digest, "{}", errors.escape_debug());
            }
        }
        read
    }
}

/// What messages are made of.
struct Told {
    label: String,
    digest: Digest,
    executable: PathBuf,
    patience: Duration,
}

impl Told {
    fn error(&self, trouble: Trouble) -> Error {
        let Self { label, digest, executable, patience } = self;
        match trouble {
            Trouble::System(error) | Trouble::Source(error) => {
                Error::io(format!("cannot run {} of the plugin {label}", executable.display()), error)
            }
            Trouble::Stalled(errors) => Error::resource_exhausted(format!(
                "the plugin {label} was ended, for it did nothing for {} s at layer {digest} (its manifest may have a timeLimit){}",
                patience.as_secs_f64(),
                said(&errors)
            )),
            Trouble::Failed(status, errors) => Error::internal(format!(
                "the plugin {label} ended with {status} at layer {digest}{}",
                said(&errors)
            )),
            Trouble::Open => Error::internal(format!(
                "the plugin {label} left a process behind that keeps its output open, at layer {digest}"
            )),
            Trouble::Stopped => {
                Error::new(ErrorKind::Aborted, format!("the plugin {label} was stopped at layer {digest}"))
            }
        }
    }
}
