//! Uploads of blobs: begun, appended to, asked about, finished, cancelled ("Pushing blobs").
//!
//! An upload is an ingest of the store, so it outlives this process, and so does what was sent of a request that broke off. Its writer
//! stays open for a while after a request ([parking](super::parking)). The digest is first known when an upload is finished; the store
//! verifies it, and until then nothing can be read. What fails stays as it is and can be finished with another digest, gone on with, or cancelled;
//! only what fails for want of room goes at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, StatusCode, header, request::Parts};
use tokio::runtime::Handle;
use wharf_content::{
    Algorithm, CommitOptions, Digest, Error, ErrorKind, IngestOptions, Ingester, Resource, Status, Writer,
    backoff::Backoff, reading,
};

use super::{
    Registry,
    keep::Kept,
    names::{Repository, UploadId},
    range::Chunk,
    refusal::{Code, Refusal},
    reply::Reply,
    request_body::RequestBody,
    route::{Start, Upload},
};

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// How long a request waits for another one that writes to the same upload, such as one whose client has just gone.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Bounds on the time between two tries of it.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const MAX_RETRY: Duration = Duration::from_millis(200);

impl Registry {
    pub(super) async fn start_upload(
        &self,
        repository: &Repository,
        start: Start,
        head: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        if let Start::Mount(digest) = &start
            && reading::exists(self.store(), digest).await?
        {
            // What is there after this cannot go.
            self.inner.keeper.hold(self.store(), Resource::Content(digest.clone())).await?;
            if reading::exists(self.store(), digest).await? {
                self.restore(repository, digest).await?;
                return Ok(created(repository, digest));
            }
        }
        let id = UploadId::random()
            .map_err(|error| Error::internal("the system has no randomness").with_source(error))?;
        let upload = Upload { repository: repository.clone(), id };
        let algorithm = start.algorithm();
        let (options, kept) = self.ingest(&upload, algorithm).await?;
        // Dropped after the writer, which locks the ingest.
        let mut nameless = Nameless { registry: self, ingest: None };
        let mut writer = self.store().writer(options).await?;
        let Start::Whole(digest) = start else {
            if algorithm == Algorithm::default() {
                // Dropped and not closed: there is nothing yet that would have to be durable.
                drop(writer);
            } else {
                // Who opens it next does not know the algorithm.
                self.inner.parking.park(writer, kept).await?;
            }
            return Ok(progress(StatusCode::ACCEPTED, &upload, 0));
        };
        nameless.ingest = Some(upload.ingest());
        let outcome = match append(writer.as_mut(), body, &upload, head).await {
            Ok(()) => self.commit(writer.as_mut(), &upload, &digest).await,
            refused => refused,
        };
        if outcome.is_err() {
            // Nobody was told its number.
            empty(writer.as_mut()).await;
            drop(writer);
            self.forget(&upload).await;
        }
        nameless.ingest = None;
        outcome.map(|()| created(repository, &digest))
    }

    pub(super) async fn upload_status(&self, upload: &Upload) -> Result<Reply, Refusal> {
        let status = self.status(upload).await?;
        Ok(progress(StatusCode::NO_CONTENT, upload, status.offset))
    }

    pub(super) async fn append_upload(
        &self,
        upload: &Upload,
        head: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let (mut writer, kept) = self.open(upload, Algorithm::default()).await?;
        let outcome = append(writer.as_mut(), body, upload, head).await;
        let offset = writer.status().offset;
        self.put_by(writer, kept, upload, outcome).await?;
        Ok(progress(StatusCode::ACCEPTED, upload, offset))
    }

    pub(super) async fn finish_upload(
        &self,
        upload: &Upload,
        digest: &Digest,
        head: &Parts,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let (mut writer, kept) = self.open(upload, digest.algorithm()).await?;
        let outcome = match append(writer.as_mut(), body, upload, head).await {
            Ok(()) => self.commit(writer.as_mut(), upload, digest).await,
            refused => refused,
        };
        if outcome.is_err() {
            self.put_by(writer, kept, upload, outcome).await?;
        }
        Ok(created(&upload.repository, digest))
    }

    pub(super) async fn cancel_upload(&self, upload: &Upload) -> Result<Reply, Refusal> {
        self.inner.parking.release(&upload.ingest());
        match self.store().abort(&upload.ingest()).await {
            Ok(()) => Ok(Reply::new(StatusCode::NO_CONTENT)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Refusal::upload_unknown()),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(busy()),
            Err(error) => Err(error.into()),
        }
    }

    async fn status(&self, upload: &Upload) -> Result<Status, Refusal> {
        match self.store().status(&upload.ingest()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Refusal::upload_unknown()),
            status => Ok(status?),
        }
    }

    /// Opens an upload that is there, waiting a little while another request has it, and tells under which lease. Where it was not kept open,
    /// it is hashed by `algorithm` from now on.
    async fn open(
        &self,
        upload: &Upload,
        algorithm: Algorithm,
    ) -> Result<(Box<dyn Writer>, Option<Kept>), Refusal> {
        // A writer would begin an ingest where there is none.
        let found = self.status(upload).await?;
        let (options, kept) = self.ingest(upload, algorithm).await?;
        let began = Instant::now();
        let mut backoff = Backoff::new(FIRST_RETRY, MAX_RETRY);
        let writer = loop {
            match self.inner.parking.writer(options.clone()).await {
                // Only who is told that it is taken waits so long and no longer: opening may itself take its time, as a collection does.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    if began.elapsed() >= BUSY_WAIT {
                        return Err(busy());
                    }
                    tokio::time::sleep(backoff.wait()).await;
                }
                opened => break opened?,
            }
        };
        if writer.status().started_at != found.started_at {
            // The request that was waited for has finished or cancelled the upload, and this writer has begun another.
            drop(writer);
            self.forget(upload).await;
            return Err(Refusal::upload_unknown());
        }
        Ok((writer, kept))
    }

    /// Keeps an upload for the next request, after what has come of this one.
    ///
    /// One for which there is no room is thrown away: no client goes on with it, and its bytes are those that others have no room for.
    async fn put_by(
        &self,
        mut writer: Box<dyn Writer>,
        kept: Option<Kept>,
        upload: &Upload,
        outcome: Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if outcome.as_ref().is_err_and(Refusal::is_for_want_of_room) {
            empty(writer.as_mut()).await;
            drop(writer);
            self.forget(upload).await;
            return outcome;
        }
        let outcome = match (outcome, self.inner.parking.park(writer, kept).await) {
            (Err(refusal), Err(error)) => {
                tracing::debug!(error = %error.report(), "an upload that failed cannot be kept");
                Err(refusal)
            }
            (outcome, parked) => outcome.and(parked.map_err(Refusal::from)),
        };
        if outcome.as_ref().is_err_and(Refusal::is_for_want_of_room) {
            self.forget(upload).await;
        }
        outcome
    }

    /// Removes what nobody can go on with.
    async fn forget(&self, upload: &Upload) {
        if let Err(error) = self.store().abort(&upload.ingest()).await {
            tracing::debug!(error = %error.report(), "an upload that nobody knows of cannot be removed");
        }
    }

    /// How the ingest of an upload is opened: under the lease that is to hold the blob, and held by it, since a collection leaves nothing to
    /// be resumed that has no byte yet.
    async fn ingest(
        &self,
        upload: &Upload,
        algorithm: Algorithm,
    ) -> Result<(IngestOptions, Option<Kept>), Refusal> {
        self.inner.keeper.hold(self.store(), Resource::Ingest(upload.ingest())).await?;
        let mut options = IngestOptions::new(upload.ingest());
        options.algorithm = algorithm;
        let kept = self.inner.keeper.lease(self.store()).await?;
        options.lease = kept.as_ref().map(|kept| kept.id().to_owned());
        Ok((options, kept))
    }

    /// Publishes the blob. One that is there already is a success.
    async fn commit(&self, writer: &mut dyn Writer, upload: &Upload, digest: &Digest) -> Result<(), Refusal> {
        match writer.commit(None, Some(digest), CommitOptions::default()).await {
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                return Err(Refusal::bad(
                    Code::DigestInvalid,
                    format!("the bytes are not those of {digest}"),
                ));
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        Ok(self.restore(&upload.repository, digest).await?)
    }
}

/// Removes an upload whose number nobody was told, where its client goes away in the middle.
struct Nameless<'a> {
    registry: &'a Registry,
    ingest: Option<String>,
}

impl Drop for Nameless<'_> {
    fn drop(&mut self) {
        let (Some(ingest), Ok(runtime)) = (self.ingest.take(), Handle::try_current()) else { return };
        let store = Arc::clone(&self.registry.inner.store);
        runtime.spawn(async move {
            let (began, mut backoff) = (Instant::now(), Backoff::new(FIRST_RETRY, MAX_RETRY));
            // What was being written keeps it locked for a moment.
            while let Err(error) = store.abort(&ingest).await {
                if error.kind() != ErrorKind::Unavailable || began.elapsed() >= BUSY_WAIT {
                    tracing::debug!(error = %error.report(), "an upload that nobody knows of cannot be removed");
                    break;
                }
                tokio::time::sleep(backoff.wait()).await;
            }
        });
    }
}

fn busy() -> Refusal {
    Refusal::busy("another request is at work on this upload, or another registry keeps it open for a moment")
}

/// Empties an upload that is to be removed. What is still being written is waited for: it would keep the ingest locked.
async fn empty(writer: &mut dyn Writer) {
    if let Err(error) = writer.truncate(0).await {
        tracing::debug!(error = %error.report(), "an upload that failed cannot be emptied");
    }
}

/// Appends the body at the end of the upload, which is where it must say that it belongs, if it says so.
async fn append(
    writer: &mut dyn Writer,
    body: &mut RequestBody,
    upload: &Upload,
    head: &Parts,
) -> Result<(), Refusal> {
    let offset = writer.status().offset;
    let declared = body.declared_len();
    let mut left = None;
    if declared != Some(0)
        && let Some(value) = head.headers.get(header::CONTENT_RANGE)
    {
        let is_only = head.headers.get_all(header::CONTENT_RANGE).iter().nth(1).is_none();
        let chunk = value.to_str().ok().filter(|_| is_only).and_then(Chunk::parse);
        let chunk = chunk.ok_or_else(|| {
            Refusal::bad(Code::BlobUploadInvalid, "the Content-Range is not one first-last in bytes")
        })?;
        if chunk.start != offset {
            let message = format!("the chunk begins at byte {} and not at {offset}", chunk.start);
            return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid, message)
                .with_header(header::LOCATION, &location(upload))
                .with_header(header::RANGE, &range(offset)));
        }
        if declared.is_some_and(|declared| declared != chunk.len) {
            return Err(wrong_len(chunk.len));
        }
        left = Some((chunk.len, chunk.len));
    }
    while let Some(bytes) = body.piece().await? {
        if let Some((left, len)) = &mut left {
            *left = left.checked_sub(bytes.len() as u64).ok_or_else(|| wrong_len(*len))?;
        }
        writer.write(bytes).await?;
    }
    match left {
        Some((1.., len)) => Err(wrong_len(len)),
        _ => Ok(()),
    }
}

fn wrong_len(len: u64) -> Refusal {
    Refusal::bad(Code::SizeInvalid, format!("the body does not have the {len} bytes of its Content-Range"))
}

fn created(repository: &Repository, digest: &Digest) -> Reply {
    Reply::new(StatusCode::CREATED)
        .with(header::LOCATION, &format!("/v2/{}/blobs/{digest}", repository.as_str()))
        .with_digest(digest)
}

fn progress(status: StatusCode, upload: &Upload, offset: u64) -> Reply {
    Reply::new(status)
        .with(header::LOCATION, &location(upload))
        .with(header::RANGE, &range(offset))
        .with(UPLOAD_UUID, upload.id.as_str())
}

/// Relative, as nobody needs to know under which name and scheme the client reaches this registry.
fn location(upload: &Upload) -> String {
    format!("/v2/{}/blobs/uploads/{}", upload.repository.as_str(), upload.id.as_str())
}

/// What is there already, the last byte included; nothing is `0-0`, as registries have always had it.
fn range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}
