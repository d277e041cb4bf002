//! A blob of the store on its way out: hashed while it is read, so that damage is told as what it is, and counted while it is sent.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use wharf_content::{
    BlobReader, ByteStream, Descriptor, Digest, Error, Hasher, Result, copying::Source, stream_blob,
};
use wharf_images::progress::{Event, Sink};

/// The source of a [`Shipment`](wharf_images::transport::Shipment).
#[derive(Clone)]
pub(super) struct Parcel {
    reader: Arc<dyn BlobReader>,
    descriptor: Descriptor,
    sink: Arc<dyn Sink>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Of the bytes up to `hashed`, however often they are read. `None` once they were all there and right.
    hasher: Option<Hasher>,
    hashed: u64,
    /// What they turned out to be, where that was something else: they are given to nobody after that.
    damaged: Option<Digest>,
    /// Where the stream was opened that has not been told of.
    opened_at: Option<u64>,
    /// How many bytes were told of as sent; a stream opened there just goes on.
    told: Option<u64>,
}

impl Parcel {
    pub(super) fn new(reader: Arc<dyn BlobReader>, descriptor: Descriptor, sink: Arc<dyn Sink>) -> Self {
        let hasher = Hasher::new(descriptor.digest.algorithm());
        let state = State { hasher: Some(hasher), hashed: 0, damaged: None, opened_at: None, told: None };
        Self { reader, descriptor, sink, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes what of a piece that was read at `at` has not been hashed; fails before the last one is given away where the whole is not
    /// what it should be.
    fn hash(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state();
        if let Some(found) = &state.damaged {
            return Err(self.damage(found));
        }
        let end = at + bytes.len() as u64;
        if at > state.hashed || end < state.hashed || state.hasher.is_none() {
            return Ok(());
        }
        let new = usize::try_from(state.hashed - at).unwrap_or(usize::MAX).min(bytes.len());
        if let Some(hasher) = &mut state.hasher {
            hasher.update(&bytes[new..]);
        }
        state.hashed = end;
        if end < self.descriptor.size {
            return Ok(());
        }
        let Some(hasher) = state.hasher.take() else { return Ok(()) };
        let found = hasher.finish();
        if found == self.descriptor.digest {
            return Ok(());
        }
        let error = self.damage(&found);
        state.damaged = Some(found);
        Err(error)
    }

    fn damage(&self, found: &Digest) -> Error {
        Error::failed_precondition(format!(
            "blob {} ({:?}) is damaged: its bytes have the digest {found}",
            self.descriptor.digest, self.descriptor.media_type
        ))
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for Parcel {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        self.state().opened_at = Some(offset);
        if self.descriptor.size == 0 {
            self.hash(0, &[])?;
        }
        let parcel = self.clone();
        let mut at = offset;
        let blob = stream_blob(Arc::clone(&self.reader), offset);
        Ok(Box::pin(blob.map(move |bytes| {
            let bytes = bytes?;
            parcel.hash(at, &bytes)?;
            at += bytes.len() as u64;
            Ok(bytes)
        })))
    }

    fn taken(&self, chunk: &Bytes) {
        let descriptor = &self.descriptor;
        let mut state = self.state();
        if let Some(offset) = state.opened_at.take()
            && state.told != Some(offset)
        {
            self.sink.event(&Event::Started { descriptor, offset });
            state.told = Some(offset);
        }
        let count = chunk.len() as u64;
        state.told = state.told.map(|told| told + count);
        drop(state);
        self.sink.event(&Event::Bytes { descriptor, count });
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::Algorithm;

    use super::*;

    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);

    impl Sink for Told {
        fn event(&self, event: &Event<'_>) {
            self.0.lock().expect("no panic").push(match event {
                Event::Started { offset, .. } => format!("started at {offset}"),
                Event::Bytes { count, .. } => format!("{count} bytes"),
                _ => "?".into(),
            });
        }
    }

    fn parcel(bytes: &'static [u8], descriptor: Descriptor) -> (Parcel, Arc<Told>) {
        let told = Arc::new(Told::default());
        (Parcel::new(Arc::new(Bytes::from_static(bytes)), descriptor, told.clone()), told)
    }

    async fn read(parcel: &Parcel, offset: u64) -> Result<Vec<u8>> {
        let mut stream = parcel.open(offset).await?;
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn good_bytes_pass_from_any_offset_and_any_number_of_times() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let descriptor = Descriptor::new("x", algorithm.digest(b"0123456789"), 10);
            let (parcel, _) = parcel(b"0123456789", descriptor);
            for (offset, expected) in [(0, &b"0123456789"[..]), (4, b"456789"), (0, b"0123456789"), (10, b"")]
            {
                assert_eq!(read(&parcel, offset).await.expect("reads"), expected);
            }
        }
    }

    #[tokio::test]
    async fn damage_is_found_before_the_last_piece_is_given() {
        let (parcel, _) = parcel(b"0123456x89", Descriptor::of("x", b"0123456789"));
        let mut stream = parcel.open(0).await.expect("opens");
        let error = stream.next().await.expect("one piece").expect_err("which is the last");
        assert!(error.to_string().contains("is damaged"), "{error}");
        for offset in [0, 3] {
            let again = read(&parcel, offset).await.expect_err("nor at the next try");
            assert!(again.to_string().contains("is damaged"), "{again}");
        }
        let empty = Descriptor::new("x", wharf_content::Digest::sha256(b"not empty"), 0);
        let (empty, _) = self::parcel(b"", empty);
        assert!(read(&empty, 0).await.is_err(), "no bytes have a digest, too");
    }

    #[tokio::test]
    async fn a_stream_that_goes_on_is_not_told_as_a_new_start() {
        let (parcel, told) = parcel(b"0123456789", Descriptor::of("x", b"0123456789"));
        for (offset, count) in [(0, 4), (4, 4), (6, 4)] {
            drop(parcel.open(offset).await.expect("opens"));
            parcel.taken(&Bytes::from_static(&b"0123456789"[..count]));
        }
        let told = told.0.lock().expect("no panic").clone();
        assert_eq!(told, ["started at 0", "4 bytes", "4 bytes", "started at 6", "4 bytes"]);
    }
}
