//! Plugins outside the process: executables that decode media types and unwrap layers, for people who do not write Rust.
//!
//! ```text
//! DIR/cookbook.json     what the plugin is for: name, media types, executable, limits
//! DIR/cookbook          any executable: one request on standard input, one answer on standard output
//!
//!   wharf                          plugin
//!     | --- {"protocol":1,…} -----> |      descriptor and document
//!     | <-- {"protocol":1,…} ------ |      children, facts, or an error
//! ```
//!
//! One that unwraps layers has no messages: the layer goes in at its standard input, and what comes out is looked at again.
//!
//! A directory of plugins is code that will be run. So it is read only where nobody but root and the user can change it, no shell is
//! between, the environment is empty but for the search path and a locale, and time, output and number of processes are limited.
//!
//! Executables can be [verifiers](VerifierDirectory), too, under a protocol of containerd's.
//!
//! What this does not do: it confines no plugin. One that is installed may do all that its user may. The messages and the manifest
//! are described by JSON schemas in `docs/` and explained in `docs/plugins.md` of the repository.

mod decoder;
mod layer;
mod manifest;
mod process;
mod protocol;
mod stream;
mod trust;
mod verifier;

use std::{
    collections::HashSet,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use wharf_content::{
    Catalogue, Error, Result, ResultExt,
    plugin::{Point, Registration},
};

use crate::{
    decode::{ManifestDecoder, ManifestDecoders},
    decoders,
    layer::{LayerDecoder, LayerDecoders},
};

use decoder::External;
use layer::ExternalLayer;
use manifest::{Manifest, Task};
use process::Processes;

pub use verifier::{VerifierDirectory, VerifierOptions};

/// The version of the messages and of the manifest.
pub const PROTOCOL: u32 = 1;

/// How plugins are run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginOptions {
    /// The most plugin processes at once; further calls wait for their turn. The wait does not count as the plugin's time. Those that
    /// unwrap layers take no turn: there are as many as layers are unwrapped, for each wrapping one.
    pub max_processes: NonZeroUsize,
    /// The most bytes of an answer.
    pub max_answer_len: usize,
    /// How long a plugin may take for an answer, where its manifest says nothing.
    pub time_limit: Duration,
    /// How long a plugin that unwraps layers may do nothing while it is waited for, where its manifest says nothing.
    pub stall_limit: Duration,
}

impl PluginOptions {
    /// As many processes as a small machine has cores.
    pub const DEFAULT_MAX_PROCESSES: NonZeroUsize = NonZeroUsize::new(4).expect("because four is not zero");
    /// 16 MiB: the children of the largest manifest, several times over.
    pub const DEFAULT_MAX_ANSWER_LEN: usize = 16 << 20;
    /// Ten seconds.
    pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(10);
    /// A minute: it may ask somebody for a key first.
    pub const DEFAULT_STALL_LIMIT: Duration = Duration::from_secs(60);

    /// Sets the most processes at once.
    #[must_use]
    pub fn with_max_processes(mut self, max_processes: NonZeroUsize) -> Self {
        self.max_processes = max_processes;
        self
    }

    /// Sets the most bytes of an answer.
    #[must_use]
    pub fn with_max_answer_len(mut self, max_answer_len: usize) -> Self {
        self.max_answer_len = max_answer_len;
        self
    }

    /// Sets the time limit of plugins whose manifest has none.
    #[must_use]
    pub fn with_time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Sets how long plugins that unwrap layers may do nothing, if their manifest has no time limit.
    #[must_use]
    pub fn with_stall_limit(mut self, stall_limit: Duration) -> Self {
        self.stall_limit = stall_limit;
        self
    }
}

impl Default for PluginOptions {
    fn default() -> Self {
        Self {
            max_processes: Self::DEFAULT_MAX_PROCESSES,
            max_answer_len: Self::DEFAULT_MAX_ANSWER_LEN,
            time_limit: Self::DEFAULT_TIME_LIMIT,
            stall_limit: Self::DEFAULT_STALL_LIMIT,
        }
    }
}

/// The plugins of some directories.
///
/// ```
/// use wharf_images::{Catalogue, external::{PluginOptions, Plugins}};
///
/// # fn main() -> wharf_images::Result<()> {
/// # let directory = tempfile::tempdir().expect("a temporary directory");
/// # let directory = directory.path();
/// let mut plugins = Plugins::new(PluginOptions::default());
/// for problem in plugins.load(directory)? {
///     eprintln!("left out: {}", problem.report());
/// }
/// let catalogue = plugins.register(Catalogue::linked().clone());
/// // … work with the catalogue, and at the end:
/// plugins.stop();
/// # assert_eq!(catalogue.entries(), Catalogue::linked().entries());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Plugins {
    options: PluginOptions,
    processes: Arc<Processes>,
    found: Vec<Plugin>,
}

/// One plugin that was found.
#[derive(Debug)]
struct Plugin {
    name: String,
    media_types: Vec<String>,
    priority: i32,
    /// The manifest.
    path: PathBuf,
    decoder: Decoder,
}

/// What a plugin decodes.
#[derive(Debug)]
enum Decoder {
    Document(Arc<dyn ManifestDecoder>),
    Layer(Arc<dyn LayerDecoder>),
}

impl Plugin {
    fn registration<P: Point>(&self, media_types: &[String], item: Arc<P::Item>) -> Registration<P> {
        let (name, module) = (self.name.clone(), self.path.display().to_string());
        Registration::<P>::shared(name, media_types.iter().cloned(), self.priority, module, item)
    }
}

impl Plugins {
    /// None so far.
    pub fn new(options: PluginOptions) -> Self {
        let processes = Arc::new(Processes::new(options.max_processes));
        Self { options, processes, found: Vec::new() }
    }

    /// Adds the plugins of a directory: those of its files whose names end in `.json`, in the order of their names.
    ///
    /// A plugin of a name that another directory gave before is left out, so that a user's replaces the system's. What cannot be loaded
    /// is left out too, and told in the list that is returned.
    ///
    /// # Errors
    /// `NotFound` where there is no directory; `PermissionDenied` where somebody else than root and the user can change it.
    pub fn load(&mut self, directory: &Path) -> Result<Vec<Error>> {
        let directory = trust::check(directory)?;
        let doing = || format!("cannot read the plugin directory {}", directory.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(&directory).context(doing)? {
            let path = entry.context(doing)?.path();
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        let before: HashSet<String> = self.found.iter().map(|plugin| plugin.name.clone()).collect();
        let mut problems = Vec::new();
        for path in paths {
            match self.plugin(&path, &directory) {
                Ok(plugin) if before.contains(&plugin.name) => {
                    tracing::debug!(plugin = plugin.name, path = %path.display(), "replaced by one of that name");
                }
                Ok(plugin) => match self.found.iter().find(|other| other.name == plugin.name) {
                    None => self.found.push(plugin),
                    Some(other) => problems.push(Error::conflict(format!(
                        "two plugins are called {:?}: {} and {}",
                        plugin.name,
                        other.path.display(),
                        path.display()
                    ))),
                },
                Err(error) => {
                    problems.push(error.context(format!("cannot load the plugin {}", path.display())));
                }
            }
        }
        Ok(problems)
    }

    fn plugin(&self, path: &Path, directory: &Path) -> Result<Plugin> {
        let manifest = Manifest::read(&trust::check(path)?)?;
        let executable = trust::check_executable(&directory.join(&manifest.executable))?;
        let label = format!("{:?} ({})", manifest.name, path.display());
        let (directory, processes) = (directory.to_owned(), Arc::clone(&self.processes));
        let decoder = match manifest.task {
            Task::Document { kind, content } => Decoder::Document(Arc::new(External {
                label,
                kind,
                content,
                executable,
                directory,
                time_limit: manifest.time_limit.unwrap_or(self.options.time_limit),
                max_answer_len: self.options.max_answer_len,
                processes,
            })),
            Task::Layer(task) => Decoder::Layer(Arc::new(ExternalLayer {
                label,
                task,
                executable,
                directory,
                patience: manifest.time_limit.unwrap_or(self.options.stall_limit),
                processes,
            })),
        };
        let Manifest { name, media_types, priority, .. } = manifest;
        Ok(Plugin { name, media_types, priority, path: path.to_owned(), decoder })
    }

    /// Adds the decoders to a catalogue. In place of a module the entries name the manifest's path.
    ///
    /// A media type of layers that the catalogue does not know yet becomes a leaf as well, so that nobody reports it as unknown.
    #[must_use]
    pub fn register(&self, catalogue: Catalogue) -> Catalogue {
        let documents = self.found.iter().filter_map(|plugin| match &plugin.decoder {
            Decoder::Document(decoder) => Some((plugin, decoder)),
            Decoder::Layer(_) => None,
        });
        let catalogue = documents.fold(catalogue, |catalogue, (plugin, decoder)| {
            let decoder = Arc::clone(decoder);
            catalogue.with(plugin.registration::<ManifestDecoders>(&plugin.media_types, decoder))
        });
        self.found.iter().fold(catalogue, |catalogue, plugin| match &plugin.decoder {
            Decoder::Document(_) => catalogue,
            Decoder::Layer(decoder) => {
                let unknown = plugin
                    .media_types
                    .iter()
                    .filter(|media_type| matches!(catalogue.find::<ManifestDecoders>(media_type), Ok(None)));
                let unknown: Vec<String> = unknown.cloned().collect();
                let catalogue = catalogue
                    .with(plugin.registration::<LayerDecoders>(&plugin.media_types, Arc::clone(decoder)));
                if unknown.is_empty() {
                    return catalogue;
                }
                catalogue.with(plugin.registration::<ManifestDecoders>(&unknown, decoders::leaf()))
            }
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Ends every plugin process that still runs, and starts none any more: a decoder that is called then fails with `Aborted`.
    ///
    /// A program calls it before it exits, since a decoder goes on when its caller is cancelled.
    pub fn stop(&self) {
        self.processes.stop();
    }
}
