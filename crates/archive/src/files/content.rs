//! The content of one entry of a layer.

use std::sync::Weak;

use wharf_content::{Error, ErrorKind, Result, ResultExt, blocking};

use super::Files;
use crate::{
    unpack::{
        ahead::{Ahead, Job},
        stored::Stored,
    },
    untar::{Sparse, TarReader},
};

/// How many bytes are given at once.
const BUFFER_LEN: usize = 256 * 1024;

impl Files {
    /// Gives the content of an entry, which is in memory or is read from its layer.
    pub(super) async fn content(
        &mut self,
        layer: usize,
        entry: usize,
        mut sink: impl FnMut(&[u8]) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let above = self.layers.len() - 1 - layer;
        let kept = self.read.get_mut(above).and_then(|records| records.kept.take());
        if let Some((_, bytes)) = kept.filter(|(kept, _)| *kept == entry) {
            return blocking::run(move || sink(&bytes)).await;
        }
        let job = self.job(layer).await?;
        let waiting = self.waiting();
        blocking::run(move || {
            let context = format!("cannot read layer {} ({})", job.layer.digest, job.layer.media_type);
            let stored = Stored::of(&job);
            let given = give(job, entry, &mut sink, &waiting);
            given.map_err(|error| stored.explain(error)).context(|| context)
        })
        .await
    }
}

/// Reads a layer to its end, and gives the content of one of its entries.
fn give(
    job: Job,
    wanted: usize,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    waiting: &Weak<()>,
) -> Result<()> {
    let mut tar = TarReader::of_layer(Ahead::start(job)?);
    let mut buffer = vec![0; BUFFER_LEN];
    let (mut at, mut is_found) = (0, false);
    while let Some(entry) = tar.next()? {
        if waiting.strong_count() == 0 {
            return Err(Error::new(ErrorKind::Aborted, "nobody waits for it"));
        }
        if at == wanted {
            is_found = true;
            match entry.sparse {
                Some(sparse) => spread(&sparse, &mut tar, &mut buffer, sink)?,
                None => pass(entry.size, &mut tar, &mut buffer, sink)?,
            }
        }
        at += 1;
    }
    if is_found { Ok(()) } else { Err(Error::data_loss("the layer has changed while it was read")) }
}

/// Gives so many bytes of content.
fn pass<R: std::io::Read>(
    mut left: u64,
    tar: &mut TarReader<R>,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = tar.read(&mut buffer[..most])?;
        sink(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(())
}

/// Gives a sparse file with its holes.
fn spread<R: std::io::Read>(
    sparse: &Sparse,
    tar: &mut TarReader<R>,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let zeros = vec![0; BUFFER_LEN];
    let hole = |mut left: u64, sink: &mut dyn FnMut(&[u8]) -> Result<()>| {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            sink(&zeros[..most])?;
            left -= most as u64;
        }
        Ok::<_, Error>(())
    };
    let mut at = 0;
    for piece in &sparse.pieces {
        hole(piece.offset - at, sink)?;
        pass(piece.len, tar, buffer, sink)?;
        at = piece.offset + piece.len;
    }
    hole(sparse.real_size - at, sink)
}
