//! A tar reader for archives of images and for layers, in one pass, from a stranger.
//!
//! It reads POSIX ustar and pax, GNU's long names and sparse files, and old tar. Where programs are known to read one archive differently, it
//! refuses: two headers that give one entry two names, sizes for things that have no content, global headers that rename or resize. In
//! an archive of images bytes behind the end are refused as well, and so are sparse files, since nobody makes one with them. Nothing is
//! written anywhere, and no name is taken for a path.

mod header;
mod pax;
mod sparse;

use std::io::{Read, Seek};

use bytes::Bytes;
use wharf_content::{Error, Result, reading::CHUNK_LEN};

use crate::decompress::stream_error;
use header::{BLOCK_LEN, Header, OldSparse};
use pax::Pax;
use sparse::{MAX_MAP_LEN, Map, Told};

pub(crate) use pax::{Time, Xattr};
pub(crate) use sparse::{Piece, Sparse};

/// The most bytes in the headers that say more of one entry (pax and GNU's long names), together.
pub(crate) const MAX_EXTENSIONS_LEN: u64 = 1024 * 1024;

/// The longest name, which is the longest that Linux has for a path.
pub(crate) const MAX_NAME_LEN: usize = 4096;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry before it.
    HardLink(Vec<u8>),
    /// A name that leads to another.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A device of characters.
    CharDevice,
    /// A device of blocks.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// Something that this reader does not know, with its flag.
    Unknown(u8),
}

/// What headers say of a file besides its name and its content. `None` is what cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Time>,
    /// The major and the minor number, which only devices have.
    pub(crate) device: (Option<u64>, Option<u64>),
    pub(crate) xattrs: Vec<Xattr>,
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
    /// The rest of what is said of it.
    pub(crate) attributes: Attributes,
    /// Which pieces of the file the content is, where it is not all of it.
    pub(crate) sparse: Option<Sparse>,
}

/// What is read, which decides what is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// An archive of images.
    Images,
    /// A layer.
    Layer,
}

/// Reads a tar stream entry by entry.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    purpose: Purpose,
    at: u64,
    /// How much of the entry's content is unread.
    left: u64,
    /// How many bytes follow it, to a whole number of blocks.
    padding: u64,
}

impl<R: Read> TarReader<R> {
    /// Reads an archive of images.
    pub(crate) fn new(input: R) -> Self {
        Self { input, purpose: Purpose::Images, at: 0, left: 0, padding: 0 }
    }

    /// Reads a layer: sparse files are read, and what stands behind the end is read over, as other programs do.
    pub(crate) fn of_layer(input: R) -> Self {
        Self { purpose: Purpose::Layer, ..Self::new(input) }
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
            let malformed = |what: &str| self::malformed(at, what);
            let Some(block) = self.block()? else {
                // It ends without an end mark.
                return if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    Err(self.cut_short())
                } else {
                    Ok(None)
                };
            };
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
                    } else if !found.moves_nothing() {
                        return Err(malformed("a global header that renames or resizes what follows"));
                    }
                    continue;
                }
                b'L' => &mut long_name,
                b'K' => &mut long_link,
                _ => {
                    let mut pax: Pax = pax.unwrap_or_default();
                    let is_sparse = header.flag == b'S' || pax.sparse.is_some();
                    if is_sparse && self.purpose == Purpose::Images {
                        return Err(malformed("a sparse file: make the archive without sparse files"));
                    }
                    let sparse_pax = pax.sparse.take();
                    if let Some(name) = sparse_pax.as_ref().and_then(|sparse| sparse.name.clone()) {
                        // That of the header is made up for programs that know no sparse files.
                        pax.path = Some(name);
                    }
                    let flag = header.flag;
                    let mut entry = entry(header, pax, long_name, long_link).map_err(malformed)?;
                    if is_sparse && entry.kind != Kind::File {
                        return Err(malformed("something sparse that is no file"));
                    }
                    let told = match sparse_pax {
                        Some(_) if flag == b'S' => {
                            return Err(malformed("a file that is sparse in two ways"));
                        }
                        Some(sparse) => Some(sparse.finish().map_err(malformed)?),
                        None if flag == b'S' => Some(self.old_sparse(&block)?),
                        None => None,
                    };
                    self.begin(entry.size);
                    if let Some((real_size, told)) = told {
                        let pieces = match told {
                            Told::Here(pieces) => pieces,
                            Told::InContent => self.map()?,
                        };
                        entry.size = self.left;
                        entry.sparse = Some(Sparse::new(real_size, pieces, self.left).map_err(malformed)?);
                    }
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

    /// Reads content into `buffer`, which must not be empty; 0 at its end.
    ///
    /// # Errors
    /// As [`TarReader::chunk`].
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = loop {
            match self.input.read(&mut buffer[..most]) {
                Ok(0) => return Err(self.cut_short()),
                Ok(read) => break read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(error)),
            }
        };
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }

    /// How many bytes were read so far.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK_LEN as u64) - size;
    }

    fn skip_padding(&mut self) -> Result<()> {
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(BLOCK_LEN);
        let mut scratch = [0; BLOCK_LEN];
        let skipped = self.fill(&mut scratch[..padding])?;
        if skipped < padding && self.purpose == Purpose::Images {
            return Err(self.cut_short());
        }
        Ok(())
    }

    /// The next block; `None` where a layer ends without an end mark, as some programs leave it. That it is whole is for its digest
    /// to say.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_LEN]>> {
        let mut block = [0; BLOCK_LEN];
        match self.fill(&mut block)? {
            BLOCK_LEN => Ok(Some(block)),
            0 if self.purpose == Purpose::Layer => Ok(None),
            _ => Err(self.cut_short()),
        }
    }

    /// Fills a buffer as far as the stream goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_read(error)),
            }
        }
        Ok(filled)
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

    /// Reads the pieces in and behind the header of GNU's own sparse files.
    fn old_sparse(&mut self, block: &[u8; BLOCK_LEN]) -> Result<(u64, Told)> {
        let at = self.at;
        let malformed = |what: &str| self::malformed(at, what);
        let mut sparse = OldSparse::parse(block).map_err(malformed)?;
        let mut len = 0;
        while sparse.goes_on {
            len += BLOCK_LEN;
            self.check_map_len(len)?;
            let block = self.block()?.ok_or_else(|| self.cut_short())?;
            sparse.extend(&block).map_err(malformed)?;
        }
        Ok((sparse.real_size, Told::Here(sparse.pieces)))
    }

    /// Reads the pieces in front of the content, which fill whole blocks.
    fn map(&mut self) -> Result<Vec<Piece>> {
        let at = self.at;
        let (mut map, mut len) = (Map::default(), 0);
        loop {
            len += BLOCK_LEN;
            self.check_map_len(len)?;
            self.left = self
                .left
                .checked_sub(BLOCK_LEN as u64)
                .ok_or_else(|| malformed(at, "a sparse file whose map does not end"))?;
            let block = self.block()?.ok_or_else(|| self.cut_short())?;
            if let Some(pieces) = map.push(&block).map_err(|what| malformed(at, what))? {
                return Ok(pieces);
            }
        }
    }

    fn check_map_len(&self, len: usize) -> Result<()> {
        if len <= MAX_MAP_LEN {
            return Ok(());
        }
        Err(Error::resource_exhausted(format!(
            "a sparse file with a map of more than {MAX_MAP_LEN} bytes, at byte {}",
            self.at
        )))
    }

    /// Reads to the end of the stream. In an archive of images there are zeros only: most programs fill a record of 10 KiB. In a layer
    /// the end mark may be one block, and what stands behind two of them is no program's business.
    fn end(&mut self) -> Result<()> {
        let mut zeros = match self.purpose {
            Purpose::Images => usize::MAX,
            Purpose::Layer => BLOCK_LEN,
        };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    let checked = read.min(zeros);
                    if let Some(junk) = buffer[..checked].iter().position(|byte| *byte != 0) {
                        return Err(Error::invalid_argument(format!(
                            "the archive goes on behind its end, at byte {}: it was put together from several or is damaged",
                            self.at + junk as u64
                        )));
                    }
                    zeros -= checked;
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

impl<R: Seek> TarReader<R> {
    /// Passes over the content of the entry without reading it.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn pass_over(&mut self) -> Result<()> {
        let left =
            i64::try_from(self.left).map_err(|_| malformed(self.at, "a file longer than files are"))?;
        self.input.seek_relative(left).map_err(cannot_read)?;
        self.at += std::mem::take(&mut self.left);
        Ok(())
    }
}

fn malformed(at: u64, what: &str) -> Error {
    Error::invalid_argument(format!("the archive is malformed at byte {at}: {what}"))
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
    let one_of = |long: Option<Vec<u8>>, pax: Option<Vec<u8>>, own: Vec<u8>| match (long, pax) {
        (Some(long), Some(pax)) if long != pax => Err("an entry with two names"),
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(own),
    };
    let is_slashed_itself = header.name.ends_with(b"/");
    let name = one_of(long_name, pax.path, header.name)?;
    let link = one_of(long_link, pax.link, header.link)?;
    if name.len() > MAX_NAME_LEN || link.len() > MAX_NAME_LEN {
        return Err("a name of more than 4096 bytes");
    }
    let size = pax.size.unwrap_or(header.size);
    let is_slashed = name.ends_with(b"/");
    if header.flag == 0 && is_slashed != is_slashed_itself {
        return Err("an entry that is a directory by one of its names and a file by the other");
    }
    if matches!(header.flag, b'0' | b'7' | b'S') && is_slashed {
        return Err("a file whose name ends as that of a directory");
    }
    let kind = match header.flag {
        // Before POSIX a directory was a file whose name ends so.
        0 if is_slashed => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink(link),
        b'2' => Kind::Symlink(link),
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        flag => Kind::Unknown(flag),
    };
    // Some programs skip such content and some take it for the next header.
    if (matches!(header.flag, b'1'..=b'6') || kind == Kind::Directory) && size != 0 {
        return Err("a link, directory or device with content");
    }
    let is_readable = |what| pax.malformed != Some(what);
    let mtime = header.mtime.map(|seconds| Time { seconds, nanoseconds: 0 });
    let attributes = Attributes {
        mode: header.mode,
        uid: pax.uid.or(header.uid.filter(|_| is_readable("uid"))),
        gid: pax.gid.or(header.gid.filter(|_| is_readable("gid"))),
        mtime: pax.mtime.or(mtime.filter(|_| is_readable("mtime"))),
        device: header.device,
        xattrs: pax.xattrs,
    };
    Ok(Entry { name, kind, size, attributes, sparse: None })
}

#[cfg(test)]
mod tests;
