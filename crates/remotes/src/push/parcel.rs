//! A piece of content on its way out: hashed while it is read, so that damage is told as what it is, and counted while it is sent.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use wharf_content::{BlobReader, ByteStream, Descriptor, Digest, Error, Hasher, Result, copying::Source};
use wharf_images::progress::{Event, Sink};

use super::cargo::Cargo;

/// The source of a [`Shipment`](wharf_images::transport::Shipment).
#[derive(Clone)]
pub(super) struct Parcel {
    source: Arc<dyn Source>,
    cargo: Arc<dyn Cargo>,
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
    /// Wraps the bytes that a cargo gives.
    pub(super) fn new(
        source: Arc<dyn Source>,
        cargo: Arc<dyn Cargo>,
        descriptor: Descriptor,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let hasher = Hasher::new(descriptor.digest.algorithm());
        let state = State { hasher: Some(hasher), hashed: 0, damaged: None, opened_at: None, told: None };
        Self { source, cargo, descriptor, sink, state: Arc::new(Mutex::new(state)) }
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
        if end > self.descriptor.size {
            return Err(Error::failed_precondition(format!(
                "size mismatch for {} ({:?}): described with {} bytes, and there are more",
                self.descriptor.digest, self.descriptor.media_type, self.descriptor.size
            )));
        }
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
        self.cargo.damage(&self.descriptor, found)
    }

    fn cut_short(&self, at: u64) -> Error {
        let Descriptor { media_type, digest, size, .. } = &self.descriptor;
        Error::unavailable(format!("{digest} ({media_type:?}) ended after {at} of {size} bytes"))
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
        let bytes = self.source.open(offset).await?;
        let parcel = self.clone();
        Ok(Box::pin(stream::unfold(Some((bytes, offset)), move |state| {
            let parcel = parcel.clone();
            async move {
                let (mut bytes, at) = state?;
                match bytes.next().await {
                    Some(Ok(chunk)) => match parcel.hash(at, &chunk) {
                        Ok(()) => {
                            let next = at + chunk.len() as u64;
                            Some((Ok(chunk), Some((bytes, next))))
                        }
                        Err(error) => Some((Err(error), None)),
                    },
                    Some(Err(error)) => Some((Err(error), None)),
                    None if at < parcel.descriptor.size => Some((Err(parcel.cut_short(at)), None)),
                    None => None,
                }
            }
        })))
    }

    /// Who takes it over in place hashes what it took over.
    async fn local(&self) -> Option<Arc<dyn BlobReader>> {
        self.source.local().await
    }

    fn shared(&self, len: u64) {
        let descriptor = &self.descriptor;
        self.sink.event(&Event::Started { descriptor, offset: 0 });
        self.sink.event(&Event::Bytes { descriptor, count: len });
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
    use wharf_content::{Algorithm, MemoryStore, Provider};

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

    /// A cargo of which only what it says of damage matters.
    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl Cargo for Nothing {
        fn documents(&self) -> Arc<dyn Provider> {
            Arc::new(MemoryStore::new())
        }

        async fn has(&self, _: &Descriptor) -> Result<bool> {
            Ok(false)
        }

        async fn source(&self, _: &Descriptor) -> Result<Arc<dyn Source>> {
            Ok(Arc::new(Bytes::new()))
        }

        async fn origins(&self, _: &Descriptor, _: Option<&str>) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        fn damage(&self, descriptor: &Descriptor, found: &Digest) -> Error {
            Error::failed_precondition(format!("{} is damaged: {found}", descriptor.digest))
        }
    }

    fn parcel(bytes: &'static [u8], descriptor: Descriptor) -> (Parcel, Arc<Told>) {
        let told = Arc::new(Told::default());
        let cargo = Arc::new(Nothing);
        (Parcel::new(Arc::new(Bytes::from_static(bytes)), cargo, descriptor, told.clone()), told)
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
    async fn too_many_and_too_few_bytes_are_told() {
        for (size, said) in [(9, "and there are more"), (11, "ended after 10 of 11 bytes")] {
            let descriptor = Descriptor::new("x", wharf_content::Digest::sha256(b"0123456789"), size);
            let (parcel, _) = parcel(b"0123456789", descriptor);
            let error = read(&parcel, 0).await.expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        }
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
