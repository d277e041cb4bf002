//! Compressions: how they are told, and how they are taken off. What is done about limits and errors is for those who read: archives
//! ([`crate::decompress`]) and layers ([`crate::layers`]).

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::format::Input;

/// How many compressed bytes are read at a time.
const BUFFER_LEN: usize = 128 * 1024;

/// How many bytes tell a compression.
pub(crate) const MAGIC_LEN: u64 = 6;

/// A zstd frame may ask for 128 MiB of memory and no more, which is what the zstd program allows.
pub(crate) const WINDOW_LOG_MAX: u32 = 27;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
    /// One that is known but not read.
    Foreign(&'static str),
}

/// Tells a compression by the first bytes (RFC 1952, 2.3.1; RFC 8878, 3.1.1 and 3.1.2).
pub(crate) fn sniff(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 8, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Foreign("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Foreign("bzip2"),
        _ => Compression::Plain,
    }
}

/// Takes off gzip, one member after the other (RFC 1952); anything else behind a member is an error.
pub(crate) fn gzip(stream: impl Read + Send + 'static) -> Input {
    Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_LEN, stream)))
}

/// Takes off zstd, one frame after the other with skippable ones among them (RFC 8878); anything else behind a frame is an error.
pub(crate) fn zstd(stream: impl Read + Send + 'static) -> io::Result<Input> {
    let stream = BufReader::with_capacity(BUFFER_LEN, stream);
    let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder))
}

/// Reads the first bytes of a stream, and gives a stream that has them still.
pub(crate) fn peek(mut stream: Input, len: u64) -> io::Result<(Vec<u8>, Input)> {
    let mut start = Vec::new();
    stream.by_ref().take(len).read_to_end(&mut start)?;
    Ok((start.clone(), Box::new(Cursor::new(start).chain(stream))))
}
