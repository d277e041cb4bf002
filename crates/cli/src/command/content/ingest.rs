//! `wharf content ingest`: a blob from standard input or a file.
//!
//! What an earlier run left under the same name is gone on with only if the input is a file and begins with those bytes. What comes
//! through a pipe comes from its start, so it is written from its start.
//!
//! The process holds what it stores until it is done, so that no collection comes between the commit and the answer.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use serde_json::json;
use wharf_content::{
    Algorithm, CommitOptions, Digest, Error, ErrorKind, Hasher, Info, IngestOptions, Labels, LeasedStore,
    Resource, Result, Store, Writer, blocking, open_writer,
};

use crate::{args::Format, command::lease, context::Context, exit, labels, output};

/// How many bytes are read at a time.
const CHUNK_LEN: u64 = 256 * 1024;

/// Arguments of `content ingest`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the digest. Content that is in the store already is a success, and gets the labels too.\n\n\
An ingest that was interrupted is resumed by the same REF if the input is a file that begins with what is there; what does not match \
--expected-digest or --expected-size is thrown away.\n\n\
`wharf gc` removes what nothing keeps: hold it by a lease, by a label of other content, or by the label containerd.io/gc.root.\n\n\
Examples:\n  wharf content ingest notes notes.txt\n  curl -s https://example.com/layer | wharf content ingest layer \
--expected-digest sha256:…\n  wharf content ingest rootfs rootfs.tar --label containerd.io/gc.root=yes"
)]
pub(crate) struct Ingest {
    /// The name of the ingest until it is finished
    #[arg(value_name = "REF")]
    reference: String,
    /// Where the bytes come from; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Store nothing but what has this digest, whose algorithm is used
    #[arg(long, value_name = "DIGEST")]
    expected_digest: Option<Digest>,
    /// Store nothing but what has this size
    #[arg(long, value_name = "BYTES")]
    expected_size: Option<u64>,
    /// Set a label on the content; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Hold the content by this lease
    #[arg(long, value_name = "ID")]
    lease: Option<String>,
}

/// What ended an ingest early.
struct Failed {
    error: Error,
    /// Whether what is there may still be right.
    keeps: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let keeps = error.kind() != ErrorKind::FailedPrecondition;
        Self { error, keeps }
    }
}

impl Ingest {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let labels = labels::parse(&self.labels)?;
        wharf_content::labels::validate(&labels)?;
        let path = self.file.clone();
        let mut input = blocking::run(move || Input::open(&path)).await?;
        let store = context.store().await?;
        if let Some(id) = &self.lease {
            lease::demand(store.as_ref(), id).await?;
        }
        let leased = LeasedStore::hold(store, Labels::new()).await?;
        let stored = self.store(context, leased.as_ref(), &mut input, &labels).await;
        let released = leased.release().await;
        let (info, is_new) = stored?;
        released?;
        match context.global.format {
            Format::Json => output::json(&json!({
                "digest": info.digest.as_str(), "size": info.size, "new": is_new, "labels": info.labels,
            })),
            Format::Text => output::line(info.digest.as_str()),
        }
    }

    /// Stores the input, labelled and under the user's lease; whether it is new to the store.
    async fn store(
        &self,
        context: &Context,
        store: &dyn Store,
        input: &mut Input,
        labels: &Labels,
    ) -> Result<(Info, bool)> {
        let (digest, is_new) = match self.open(context, store).await {
            Ok(mut writer) => self.fill(store, writer.as_mut(), input, labels).await?,
            Err(error) => match &self.expected_digest {
                Some(digest) if error.kind() == ErrorKind::AlreadyExists => (digest.clone(), false),
                _ => return Err(error),
            },
        };
        let mut info = store.info(&digest).await?;
        if let Some(expected) = self.expected_size.filter(|expected| *expected != info.size) {
            return Err(Error::failed_precondition(format!(
                "size mismatch for {digest}: expected {expected} bytes, and the store has it with {}",
                info.size
            )));
        }
        if !is_new && !labels.is_empty() {
            let paths: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            info = store.update(&digest, labels, &paths).await?;
        }
        if let Some(id) = &self.lease {
            lease::leases(store)?.add_resource(id, &Resource::Content(digest)).await?;
        }
        Ok((info, is_new))
    }

    /// Opens the writer, after whoever is at work on the ingest now.
    async fn open(&self, context: &Context, store: &dyn Store) -> Result<Box<dyn Writer>> {
        let mut options = IngestOptions::new(&self.reference);
        options.digest.clone_from(&self.expected_digest);
        options.total = self.expected_size;
        let is_told = AtomicBool::new(context.global.quiet);
        let waiting = |error: &Error| {
            if !is_told.swap(true, Ordering::Relaxed) {
                output::note(&format!("waiting for another wharf: {}", output::escape(&error.to_string())));
            }
        };
        open_writer(store, options, &waiting).await
    }

    /// Takes the input in; whether it is new to the store.
    async fn fill(
        &self,
        store: &dyn Store,
        writer: &mut dyn Writer,
        input: &mut Input,
        labels: &Labels,
    ) -> Result<(Digest, bool)> {
        let failed = match self.copy(writer, input, labels).await {
            Ok(done) => return Ok(done),
            Err(failed) => failed,
        };
        let ended = match writer.close().await {
            // A wrong byte is never resumed.
            Ok(()) if !failed.keeps => store.abort(&self.reference).await,
            closed => closed,
        };
        // The first error is the one to tell.
        if let Err(second) = ended {
            tracing::debug!(error = %second.report(), "ending a failed ingest");
        }
        Err(failed.error)
    }

    async fn copy(
        &self,
        writer: &mut dyn Writer,
        input: &mut Input,
        labels: &Labels,
    ) -> Result<(Digest, bool), Failed> {
        let subject = self.expected_digest.as_ref().map_or(self.reference.as_str(), Digest::as_str);
        let mut at = writer.status().offset;
        if at > 0 && !input.begins_with(at, &writer.digest().await?).await? {
            writer.truncate(0).await?;
            input.rewind().await?;
            at = 0;
        }
        let expected = self.expected_size.unwrap_or(u64::MAX);
        loop {
            let chunk = input.read().await?;
            if chunk.is_empty() {
                break;
            }
            at += chunk.len() as u64;
            if at > expected {
                return Err(Error::failed_precondition(format!(
                    "size mismatch for {subject}: expected {expected} bytes, and the input has more"
                ))
                .into());
            }
            writer.write(chunk.into()).await?;
        }
        if self.expected_size.is_some_and(|expected| at < expected) {
            let error = Error::failed_precondition(format!(
                "size mismatch for {subject}: expected {expected} bytes, and the input ended after {at}; they are kept as ingest {:?}",
                self.reference
            ));
            return Err(Failed { error, keeps: true });
        }
        let digest = writer.digest().await?;
        let mut labels = labels.clone();
        labels.retain(|_, value| !value.is_empty());
        match writer.commit(self.expected_size, None, CommitOptions::default().with_labels(labels)).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((digest, false)),
            committed => Ok((committed?, true)),
        }
    }
}

/// The bytes that are taken in. Blocking reads are on threads of their own, so that a pipe that says nothing can be interrupted.
#[derive(Debug)]
struct Input {
    file: Arc<File>,
    name: String,
    /// Where it began, for what can be read again.
    start: Option<u64>,
}

impl Input {
    fn open(path: &Path) -> Result<Self> {
        let (mut file, name) = if path.as_os_str() == "-" {
            let file = io::stdin().as_fd().try_clone_to_owned();
            let file = file.map_err(|error| exit::outside("cannot read standard input", error))?;
            (File::from(file), "standard input".to_owned())
        } else {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|error| exit::outside(format!("cannot open {name}"), error))?;
            (file, name)
        };
        let metadata =
            file.metadata().map_err(|error| exit::outside(format!("cannot read {name}"), error))?;
        if metadata.is_dir() {
            return Err(Error::invalid_argument(format!("cannot read {name}: it is a directory")));
        }
        let start = if metadata.is_file() { file.stream_position().ok() } else { None };
        Ok(Self { file: Arc::new(file), name, start })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut &File) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (file, name) = (Arc::clone(&self.file), self.name.clone());
        blocking::run(move || {
            work(&mut &*file).map_err(|error| exit::outside(format!("cannot read {name}"), error))
        })
        .await
    }

    /// The next bytes; none at the end.
    async fn read(&self) -> Result<Vec<u8>> {
        self.run(|file| {
            let mut bytes = Vec::new();
            file.take(CHUNK_LEN).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .await
    }

    /// Goes back to where it began; what cannot is still there.
    async fn rewind(&self) -> Result<()> {
        let Some(start) = self.start else { return Ok(()) };
        self.run(move |file| file.seek(SeekFrom::Start(start)).map(drop)).await
    }

    /// Whether the first `len` bytes are those of `digest`, and have been read.
    async fn begins_with(&self, len: u64, digest: &Digest) -> Result<bool> {
        if self.start.is_none() {
            return Ok(false);
        }
        let algorithm = digest.algorithm();
        Ok(self.run(move |file| hash(file.take(len), algorithm)).await? == *digest)
    }
}

fn hash(mut input: impl Read, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
