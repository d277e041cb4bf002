//! A tar reader for archives of images: plain files and links, in one pass, from a stranger.
//!
//! It reads POSIX ustar and pax, GNU's long names and old tar. Where programs are known to read one archive differently, it refuses: two
//! headers that give one entry two names, sizes for things that have no content, global headers that rename or resize, bytes behind the
//! end. Sparse files are refused too, since nobody makes an archive of images with them. What a file's owner, mode and times are is not
//! read. Nothing is written anywhere, and no name is taken for a path.

mod header;
mod pax;

use std::io::Read;

use bytes::Bytes;
use wharf_content::{Error, Result, reading::CHUNK_LEN};

use crate::decompress::stream_error;
use header::{BLOCK_LEN, Header};
use pax::Pax;

/// The most bytes in the headers that say more of one entry (pax and GNU's long names), together.
const MAX_EXTENSIONS_LEN: u64 = 1024 * 1024;

/// The longest name, which is the longest that Linux has for a path.
const MAX_NAME_LEN: usize = 4096;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry before it.
    HardLink(Vec<u8>),
    /// A name that leads to another.
    Symlink(Vec<u8>),
    /// A directory, a device, or something unknown.
    Other,
}

/// One entry, whose content follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as it stands.
    pub(crate) name: Vec<u8>,
    /// What it is.
    pub(crate) kind: Kind,
    /// How many bytes of content follow.
    pub(crate) size: u64,
}

/// Reads a tar stream entry by entry.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    at: u64,
    /// How much of the entry's content is unread.
    left: u64,
    /// How many bytes follow it, to a whole number of blocks.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, at: 0, left: 0, padding: 0 }
    }

    /// Goes on to the next entry, whether the content of this one was read or not; `None` at the end, behind which there is nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no tar; `DataLoss` where the stream ends early; `ResourceExhausted` for headers that are too long.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        while self.chunk()?.is_some() {}
        let (mut pax, mut long_name, mut long_link) = (None, None, None);
        let mut extensions_len = 0;
        loop {
            self.skip_padding()?;
            let at = self.at;
            let malformed = |what: &str| {
                Error::invalid_argument(format!("the archive is malformed at byte {at}: {what}"))
            };
            let block = self.block()?;
            let Some(header) = Header::parse(&block).map_err(malformed)? else {
                if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(malformed("it ends after a header that belongs to another one"));
                }
                self.end()?;
                return Ok(None);
            };
            let slot = match header.flag {
                b'x' | b'g' => {
                    let text = self.extension(&header, &mut extensions_len)?;
                    let found = Pax::parse(&text).map_err(malformed)?;
                    if header.flag == b'x' {
                        if pax.replace(found).is_some() {
                            return Err(malformed("two pax headers for one entry"));
                        }
                    } else if !found.is_empty() {
                        return Err(malformed("a global header that renames or resizes what follows"));
                    }
                    continue;
                }
                b'L' => &mut long_name,
                b'K' => &mut long_link,
                _ => {
                    let pax = pax.unwrap_or_default();
                    let entry = entry(header, pax, long_name, long_link).map_err(malformed)?;
                    self.begin(entry.size);
                    return Ok(Some(entry));
                }
            };
            let mut name = self.extension(&header, &mut extensions_len)?;
            name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
            if slot.replace(name).is_some() {
                return Err(malformed("two long names for one entry"));
            }
        }
    }

    /// The next bytes of the entry's content, at most [`CHUNK_LEN`]; `None` at its end.
    ///
    /// # Errors
    /// `DataLoss` where the stream ends early; those of the stream.
    pub(crate) fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = self.left.min(CHUNK_LEN as u64);
        // It grows by what there is, not by what a header claims.
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(CHUNK_LEN));
        let read = self.input.by_ref().take(wanted).read_to_end(&mut bytes).map_err(cannot_read)? as u64;
        self.at += read;
        self.left -= read;
        if read < wanted {
            return Err(self.cut_short());
        }
        Ok(Some(bytes.into()))
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK_LEN as u64) - size;
    }

    fn skip_padding(&mut self) -> Result<()> {
        self.left = std::mem::take(&mut self.padding);
        self.chunk().map(drop)
    }

    fn block(&mut self) -> Result<[u8; BLOCK_LEN]> {
        let mut block = [0; BLOCK_LEN];
        let mut filled = 0;
        while filled < BLOCK_LEN {
            match self.input.read(&mut block[filled..]) {
                Ok(0) => return Err(self.cut_short()),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(error)),
            }
        }
        Ok(block)
    }

    /// Reads the content of a header that says more of the next one.
    fn extension(&mut self, header: &Header, sum: &mut u64) -> Result<Vec<u8>> {
        *sum = sum.saturating_add(header.size);
        if *sum > MAX_EXTENSIONS_LEN {
            return Err(Error::resource_exhausted(format!(
                "an entry of the archive has headers of more than {MAX_EXTENSIONS_LEN} bytes, at byte {}",
                self.at
            )));
        }
        self.begin(header.size);
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk()? {
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }

    /// Reads to the end of the stream, where there are zeros only: most programs fill a record of 10 KiB.
    fn end(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    if let Some(junk) = buffer[..read].iter().position(|byte| *byte != 0) {
                        return Err(Error::invalid_argument(format!(
                            "the archive goes on behind its end, at byte {}: it was put together from several or is damaged",
                            self.at + junk as u64
                        )));
                    }
                    self.at += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(error)),
            }
        }
    }

    fn cut_short(&self) -> Error {
        Error::data_loss(format!(
            "the archive was cut short: it ends at byte {} without an end mark",
            self.at
        ))
    }
}

/// Whether a stream that begins so is a tar; an empty one is.
pub(crate) fn is_tar(head: &[u8]) -> bool {
    head.first_chunk()
        .is_some_and(|block| matches!(Header::parse(block), Ok(None)) || header::has_checksum(block))
}

fn cannot_read(error: std::io::Error) -> Error {
    stream_error("cannot read the archive", error)
}

/// Puts together what all headers say of one entry.
fn entry(
    header: Header,
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<Entry, &'static str> {
    if pax.sparse || header.flag == b'S' {
        return Err("a sparse file: make the archive without sparse files");
    }
    let one_of = |long: Option<Vec<u8>>, pax: Option<Vec<u8>>, own: Vec<u8>| match (long, pax) {
        (Some(long), Some(pax)) if long != pax => Err("an entry with two names"),
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(own),
    };
    let name = one_of(long_name, pax.path, header.name)?;
    let link = one_of(long_link, pax.link, header.link)?;
    if name.len() > MAX_NAME_LEN || link.len() > MAX_NAME_LEN {
        return Err("a name of more than 4096 bytes");
    }
    let size = pax.size.unwrap_or(header.size);
    let kind = match header.flag {
        // Before POSIX a directory was a file whose name ends so.
        0 if name.ends_with(b"/") => Kind::Other,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink(link),
        b'2' => Kind::Symlink(link),
        _ => Kind::Other,
    };
    // Some programs skip such content and some take it for the next header.
    if matches!(header.flag, b'1'..=b'6') && size != 0 {
        return Err("a link, directory or device with content");
    }
    Ok(Entry { name, kind, size })
}

#[cfg(test)]
mod tests;
