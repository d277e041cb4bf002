//! `wharf content get`: the bytes of a blob, verified while they are written.
//!
//! The whole blob is read and hashed even if only a part of it is asked for, so that no damaged byte goes unnoticed.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, IsTerminal, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::json;
use wharf_content::{Descriptor, Digest, Error, Hasher, Result, blocking, local::atomic::PendingFile};

use crate::{
    args::Format,
    context::Context,
    exit::{self, Code},
    output,
};

use super::find;

/// How many bytes are read at a time.
const CHUNK_LEN: usize = 1024 * 1024;

/// Arguments of `content get`.
#[derive(Debug, Args)]
#[command(
    after_help = format!("{}\n\nThe bytes are hashed while they are written. If they are not what the digest promises, the exit code is 5: \
what went to a pipe by then is not to be used, and a file is not made.\n\n\
Examples:\n  wharf content get 3f5a1c2 | jq .\n  wharf content get 3f5a1c2 -o layer.tar.gz\n  \
wharf content get 3f5a1c2 --length 512 | xxd", find::DIGEST_HELP)
)]
pub(crate) struct Get {
    /// The blob
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// Where the bytes go; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Leave out so many bytes at the start
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Write so many bytes at most
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
}

impl Get {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let store = context.store().await?;
        let digest = find::find_one(store.as_ref(), &self.digest).await?;
        let reader = store.reader(&Descriptor::new("application/octet-stream", digest.clone(), 0)).await?;
        let size = reader.size();
        if self.offset > size {
            return Err(Error::invalid_argument(format!(
                "there is nothing at offset {}: {digest} has {size} bytes",
                self.offset
            )));
        }
        let end = self.length.map_or(size, |length| self.offset.saturating_add(length).min(size));
        let path = self.output.clone();
        let target = blocking::run(move || Target::open(&path)).await?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut at = 0;
        while at < size {
            let chunk = reader.read_at(at, CHUNK_LEN).await?;
            if chunk.is_empty() {
                return Err(damaged(&digest, &format!("it ends after {at} of {size} bytes")));
            }
            let next = at + chunk.len() as u64;
            let within =
                |position: u64| usize::try_from(position.clamp(at, next) - at).unwrap_or(chunk.len());
            let part = within(self.offset)..within(end);
            let sink = target.sink.clone();
            let is_read;
            (hasher, is_read) = blocking::run(move || {
                hasher.update(&chunk);
                Ok((hasher, sink.write(&chunk[part])?))
            })
            .await?;
            if !is_read {
                // Nobody is there to be told. What was read is not the whole, and was not verified.
                context.exit_with(Code::Local as u8);
                return Ok(());
            }
            at = next;
        }
        let found = hasher.finish();
        if found != digest {
            return Err(damaged(&digest, &format!("its bytes are {found}")));
        }
        let Some(path) = blocking::run(move || target.finish()).await? else { return Ok(()) };
        match context.global.format {
            Format::Json => output::json(&json!({
                "digest": digest.as_str(), "offset": self.offset, "length": end - self.offset, "file": &*path,
            })),
            Format::Text => output::line(&output::escape(&path)),
        }
    }
}

fn damaged(digest: &Digest, how: &str) -> Error {
    Error::data_loss(format!(
        "blob {digest} is damaged: {how}; remove it with `wharf content rm` and fetch it again"
    ))
}

/// Where bytes are written to.
#[derive(Debug)]
struct Target {
    sink: Sink,
    /// The file that appears whole or not at all; none for what is written as it is.
    pending: Option<PendingFile>,
    is_standard: bool,
}

/// The open end of a target. It travels to blocking threads; what has to be cleaned up does not.
#[derive(Clone, Debug)]
struct Sink {
    file: Arc<File>,
    name: Arc<str>,
    is_terminal: bool,
}

impl Sink {
    fn new(file: File, name: &str) -> Self {
        let is_terminal = file.is_terminal();
        Self { file: Arc::new(file), name: name.into(), is_terminal }
    }

    /// Writes all of `bytes`; whether anybody still reads them.
    fn write(&self, bytes: &[u8]) -> Result<bool> {
        if self.is_terminal && is_binary(bytes) {
            return Err(Error::invalid_argument(
                "these bytes are not for a terminal: name a file with --output FILE, or pipe them somewhere",
            ));
        }
        match (&*self.file).write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(exit::outside(format!("cannot write to {}", self.name), error)),
            Ok(()) => Ok(true),
        }
    }
}

impl Target {
    fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            let name = "standard output";
            let file = io::stdout().as_fd().try_clone_to_owned();
            let file =
                File::from(file.map_err(|error| exit::outside(format!("cannot write to {name}"), error))?);
            return Ok(Self { sink: Sink::new(file, name), pending: None, is_standard: true });
        }
        let name = path.display().to_string();
        let cannot = |error| exit::outside(format!("cannot write to {name}"), error);
        let (path, mode) = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
            Err(error) => return Err(cannot(error)),
            Ok(metadata) if metadata.is_dir() => {
                return Err(Error::invalid_argument(format!("cannot write to {name}: it is a directory")));
            }
            // A device, a FIFO: nothing to put another file in the place of.
            Ok(metadata) if !metadata.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(cannot)?;
                return Ok(Self { sink: Sink::new(file, &name), pending: None, is_standard: false });
            }
            Ok(metadata) => {
                (fs::canonicalize(path).map_err(cannot)?, Some(metadata.permissions().mode() & 0o777))
            }
        };
        let mut pending = PendingFile::create(&path, mode.unwrap_or(0o666)).map_err(cannot)?;
        if let Some(mode) = mode {
            pending.file().set_permissions(Permissions::from_mode(mode)).map_err(cannot)?;
        }
        let file = pending.file().try_clone().map_err(cannot)?;
        Ok(Self { sink: Sink::new(file, &name), pending: Some(pending), is_standard: false })
    }

    /// Gives a file its name, and tells that name; none where the bytes went to standard output.
    fn finish(self) -> Result<Option<Arc<str>>> {
        let Self { sink, pending, is_standard } = self;
        if let Some(pending) = pending {
            pending
                .publish()
                .map_err(|error| exit::outside(format!("cannot write to {}", sink.name), error))?;
        }
        Ok((!is_standard).then_some(sink.name))
    }
}

/// Whether bytes could steer a terminal.
fn is_binary(bytes: &[u8]) -> bool {
    let is_control = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t');
    let is_c1 = |pair: &[u8]| pair[0] == 0xc2 && (0x80..0xa0).contains(&pair[1]);
    bytes.iter().any(is_control) || bytes.windows(2).any(is_c1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_for_terminals() {
        for (bytes, expected) in [
            (&b"{\n\t\"a\": 1\r\n}"[..], false),
            ("ünïcödé ·".as_bytes(), false),
            (b"\x1f\x8b\x08", true),
            (b"\x1b[31m", true),
            ("\u{9b}1m".as_bytes(), true),
            (b"", false),
        ] {
            assert_eq!(is_binary(bytes), expected, "{bytes:?}");
        }
    }
}
