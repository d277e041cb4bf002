//! The stream of an archive: plain, gzip or zstd, told by its first bytes, and never more of it than its reader bargained for.
//!
//! What an archive is inside is for the formats to tell. Layers are not looked into; they have decoders of their own.

use std::{
    error::Error as StdError,
    fmt,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use wharf_content::{Error, Result};

use crate::{
    compression::{self, Compression, MAGIC_LEN, peek, sniff},
    format::Input,
    options::ImportOptions,
};

/// So much may come out whatever went in.
const FREE_LEN: u64 = 1 << 30;

/// Takes the compression off. Blocks until the first bytes are there.
///
/// # Errors
/// `NotImplemented` for another compression; those of the input.
pub(crate) fn open(input: Input, options: &ImportOptions) -> Result<Input> {
    let cannot = |error| stream_error("cannot read the archive", error);
    let taken = Arc::new(AtomicU64::new(0));
    let input: Input = Box::new(Counted { input, taken: Arc::clone(&taken) });
    let (start, input) = peek(input, MAGIC_LEN).map_err(cannot)?;
    let (stream, format) = match sniff(&start) {
        Compression::Plain => (input, None),
        Compression::Gzip => (compression::gzip(input), Some("gzip")),
        Compression::Zstd => (compression::zstd(input).map_err(cannot)?, Some("zstd")),
        Compression::Foreign(name) => {
            return Err(Error::not_implemented(format!(
                "the archive is compressed with {name}, and plain, gzip and zstd are read: pipe it through `{name} -d`"
            )));
        }
    };
    let (max_len, max_ratio) = (options.max_len, options.max_ratio);
    Ok(Box::new(Limited { stream, format, given: 0, taken, max_len, max_ratio }))
}

/// Makes an [`Error`] of one that came up while a stream was read: the one that it carries, else the system's.
pub(crate) fn stream_error(context: impl Into<String>, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io(context, error),
    }
}

/// Counts what was read.
struct Counted {
    input: Input,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What fails here is the input's, and is told from what a decoder makes of its bytes.
        let read = self.input.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(stream_error("cannot read the archive", error)),
        })?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Stops where more comes out than may, and says what is wrong with compressed data.
struct Limited {
    stream: Input,
    /// `None` where it is plain.
    format: Option<&'static str>,
    given: u64,
    taken: Arc<AtomicU64>,
    max_len: u64,
    max_ratio: u64,
}

impl fmt::Debug for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limited")
            .field("format", &self.format)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer).map_err(|error| {
            let is_the_inputs = error.kind() == io::ErrorKind::Interrupted
                || error.get_ref().is_some_and(<dyn StdError + Send + Sync>::is::<Error>);
            match self.format.filter(|_| !is_the_inputs) {
                Some(format) if error.kind() == io::ErrorKind::UnexpectedEof => io::Error::other(
                    Error::data_loss(format!("the archive was cut short: its {format} data ends early")),
                ),
                Some(format) => io::Error::other(
                    Error::invalid_argument(format!("the archive is not valid {format}")).with_source(error),
                ),
                None => error,
            }
        })?;
        self.given += read as u64;
        let taken = self.taken.load(Ordering::Relaxed);
        let refuse = |what: String| {
            Err(io::Error::other(Error::resource_exhausted(format!("the archive is too large: {what}"))))
        };
        if self.given > self.max_len {
            return refuse(format!(
                "more than {} bytes come out of it, the most that an archive may have here",
                self.max_len
            ));
        }
        if self.format.is_some() && self.given > FREE_LEN && self.given / self.max_ratio > taken {
            return refuse(format!(
                "it grows to more than {} times its size, {} bytes out of {taken}, as a decompression bomb does",
                self.max_ratio, self.given
            ));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::write::GzEncoder;
    use wharf_content::ErrorKind;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("writing to memory");
        encoder.finish().expect("writing to memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).expect("writing to memory")
    }

    fn read(stored: Vec<u8>, options: &ImportOptions) -> Result<Vec<u8>> {
        let mut stream = open(Box::new(Cursor::new(stored)), options)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map_err(|error| stream_error("cannot read", error))?;
        Ok(bytes)
    }

    fn text() -> Vec<u8> {
        (0..100_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect()
    }

    #[test]
    fn what_was_compressed_comes_out() {
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&text())].concat();
        let members = [gzip(&text()[..1000]), gzip(&text()[1000..])].concat();
        for stored in [text(), gzip(&text()), zstd(&text()), skippable, members] {
            assert_eq!(read(stored, &ImportOptions::new()).expect("reads"), text());
        }
        for short in [&b""[..], b"a", b"\x1f\x8b"] {
            assert_eq!(read(short.to_vec(), &ImportOptions::new()).expect("short"), short);
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let options = ImportOptions::new();
        let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
        let and = |bytes: Vec<u8>, more: &[u8]| [&bytes, more].concat();
        for (stored, kind, word) in [
            (half(gzip(&text())), ErrorKind::DataLoss, "cut short"),
            (half(zstd(&text())), ErrorKind::DataLoss, "cut short"),
            (and(gzip(&text()), b"junk, and more of it"), ErrorKind::InvalidArgument, "not valid gzip"),
            (and(zstd(&text()), b"junk, and more of it"), ErrorKind::InvalidArgument, "not valid zstd"),
            (b"\xfd7zXZ\0...".to_vec(), ErrorKind::NotImplemented, "xz -d"),
            (b"BZh9...".to_vec(), ErrorKind::NotImplemented, "bzip2 -d"),
        ] {
            let error = read(stored, &options).expect_err(word);
            assert_eq!(error.kind(), kind, "{}", error.report());
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn the_inputs_own_errors_stay() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(5))
            }
        }
        for start in [&b""[..], b"plain, as far as it goes", &gzip(&text())[..50], &zstd(&text())[..50]] {
            let input: Input = Box::new(Cursor::new(start.to_vec()).chain(Fails));
            let error = open(input, &ImportOptions::new()).and_then(|mut stream| {
                stream.read_to_end(&mut Vec::new()).map_err(|error| stream_error("cannot read", error))
            });
            assert!(error.expect_err("fails").find_source::<io::Error>().is_some());
        }
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let zeros = vec![0; 8 << 20];
        let options = ImportOptions::new().with_max_len(1 << 20);
        for stored in [gzip(&zeros), zstd(&zeros), zeros.clone()] {
            let error = read(stored.clone(), &options).expect_err("a bomb");
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
            assert_eq!(read(stored, &ImportOptions::new()).expect("8 MiB").len(), zeros.len());
        }
        let limited = |taken: u64| {
            let stream: Input = Box::new(io::repeat(0).take(10));
            let (given, taken) = (FREE_LEN, Arc::new(AtomicU64::new(taken)));
            let mut limited =
                Limited { stream, format: Some("zstd"), given, taken, max_len: u64::MAX, max_ratio: 1100 };
            limited.read(&mut [0; 10])
        };
        assert!(limited(FREE_LEN / 1100 - 1).is_err());
        assert!(limited(FREE_LEN / 1100 + 1).is_ok());
    }
}
