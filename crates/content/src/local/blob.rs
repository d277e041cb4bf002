//! Committed blobs: opening, describing, labelling, listing and removing them.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::{self, File, FileType, Metadata as FileMetadata, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use rustix::fs::OFlags;

use crate::{
    blocking,
    digest::{Algorithm, Digest},
    error::{Error, ErrorKind, Result, ResultExt},
    filter::Fields,
    labels::{self, Labels},
    metadata::{from_nanos, to_nanos},
    store::{BlobReader, Info},
    verify::NotAFile,
};

use super::{
    Inner,
    quarantine::{self, kind_of},
};

/// An open blob.
#[derive(Debug)]
pub(super) struct Blob {
    file: Arc<File>,
    size: u64,
    digest: Digest,
}

/// Opens the file of a blob. A link or a FIFO in its place is damage and is not followed or waited for.
pub(super) fn open(inner: &Inner, digest: &Digest) -> Result<Blob> {
    let path = inner.blob_path(digest);
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
    let file = opened.map_err(|error| match fs::symlink_metadata(&path) {
        Ok(metadata) if !metadata.is_file() => not_regular(digest, metadata.file_type()),
        _ => absent_or_io(digest, error),
    })?;
    let metadata = file.metadata().context(|| format!("cannot read blob {digest}"))?;
    if !metadata.is_file() {
        return Err(not_regular(digest, metadata.file_type()));
    }
    Ok(Blob { file: Arc::new(file), size: metadata.len(), digest: digest.clone() })
}

fn not_regular(digest: &Digest, found: FileType) -> Error {
    Error::data_loss(format!(
        "blob {digest} is damaged: its file is not a regular file; remove it and pull the image again"
    ))
    .with_source(NotAFile(kind_of(found)))
}

fn absent_or_io(digest: &Digest, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return absent(digest);
    }
    Error::io(format!("cannot open blob {digest}"), error)
}

fn absent(digest: &Digest) -> Error {
    Error::not_found(format!("content {digest} is not in the store"))
}

#[async_trait]
impl BlobReader for Blob {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let (file, digest) = (Arc::clone(&self.file), self.digest.clone());
        read(file, offset, len, move || format!("cannot read blob {digest}")).await
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

/// Reads a part of a file, as far as it goes.
pub(super) async fn read(
    file: Arc<File>,
    offset: u64,
    len: usize,
    context: impl FnOnce() -> String + Send + 'static,
) -> Result<Bytes> {
    blocking::run(move || {
        let mut buffer = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(context(), error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.into())
    })
    .await
}

fn stat(inner: &Inner, digest: &Digest) -> Result<FileMetadata> {
    let metadata =
        fs::symlink_metadata(inner.blob_path(digest)).map_err(|error| absent_or_io(digest, error))?;
    if metadata.is_file() { Ok(metadata) } else { Err(not_regular(digest, metadata.file_type())) }
}

/// Fails with `NotFound` where the blob is absent.
pub(super) fn exists(inner: &Inner, digest: &Digest) -> Result<bool> {
    match stat(inner, digest) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Describes a blob. The row is read before the file is looked at: a file that is still there had not begun to be deleted when its labels
/// were read.
fn describe(
    connection: &Connection,
    digest: &Digest,
    stat: impl FnOnce() -> Result<FileMetadata>,
) -> Result<Info> {
    let mut query = connection.prepare_cached("SELECT updated_at, labels FROM content WHERE digest = ?1")?;
    let row = query
        .query_row([digest.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let metadata = stat()?;
    let mut info = Info::new(digest.clone(), metadata.len(), metadata.modified().unwrap_or(UNIX_EPOCH));
    if let Some((updated_at, text)) = row {
        info.updated_at = from_nanos(updated_at);
        info.labels = read_labels(digest, &text)?;
    }
    Ok(info)
}

fn read_labels(digest: &Digest, text: &str) -> Result<Labels> {
    serde_json::from_str(text)
        .map_err(|error| Error::data_loss(format!("the labels of {digest} are damaged")).with_source(error))
}

/// The labels that are written down, whatever is in the blob's place.
pub(super) fn labels(inner: &Inner, digest: &Digest) -> Result<Labels> {
    inner.metadata.read_blocking(|connection| stored_labels(connection, digest))
}

pub(super) fn info(inner: &Inner, digest: &Digest) -> Result<Info> {
    inner.metadata.read_blocking(|connection| describe(connection, digest, || stat(inner, digest)))
}

/// Describes those of `digests` that are still there. What is no file is among them: one damaged name must not hide the others, and its
/// labels keep what they refer to. Verification tells of it.
pub(super) fn infos(inner: &Inner, digests: &[Digest]) -> Result<Vec<Info>> {
    let any = |digest: &Digest| {
        fs::symlink_metadata(inner.blob_path(digest)).map_err(|error| absent_or_io(digest, error))
    };
    inner.metadata.read_blocking(|connection| {
        let mut infos = Vec::with_capacity(digests.len());
        for digest in digests {
            match describe(connection, digest, || any(digest)) {
                Ok(info) => infos.push(info),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(infos)
    })
}

pub(super) fn update(inner: &Inner, digest: &Digest, wanted: &Labels, fieldpaths: &[&str]) -> Result<Info> {
    let now = inner.now();
    inner.metadata.write_blocking(|connection| {
        let mut info = describe(connection, digest, || stat(inner, digest))?;
        labels::apply(&mut info.labels, wanted, fieldpaths)?;
        info.updated_at = now;
        save_labels(connection, digest, &info.labels, now)?;
        Ok(info)
    })
}

/// Writes the labels of a blob over those that it had.
fn save_labels(connection: &Connection, digest: &Digest, labels: &Labels, now: SystemTime) -> Result<()> {
    let text = serde_json::to_string(labels)
        .map_err(|error| Error::internal("labels cannot be written").with_source(error))?;
    connection
        .prepare_cached(
            "INSERT INTO content (digest, updated_at, labels) VALUES (?1, ?2, ?3) \
             ON CONFLICT (digest) DO UPDATE SET updated_at = excluded.updated_at, labels = excluded.labels",
        )?
        .execute((digest.as_str(), to_nanos(now), text))?;
    Ok(())
}

/// Removes the labels of a blob that is not there, which a deletion that was killed has left: they must not return with the blob. Those of
/// a blob in quarantine wait for the one that is fetched again.
pub(super) fn forget_labels(inner: &Inner, digest: &Digest) -> Result<()> {
    if labels(inner, digest)?.is_empty() || quarantine::quarantined(inner)?.contains(digest) {
        return Ok(());
    }
    inner.metadata.write_blocking(|connection| {
        // Whoever commits it meanwhile writes its labels after this.
        if !exists(inner, digest)? {
            connection.execute("DELETE FROM content WHERE digest = ?1", [digest.as_str()])?;
        }
        Ok(())
    })
}

/// Gives a new blob the labels of its commit. Who found the blob there may have given it labels before: those stay.
pub(super) fn add_labels(
    connection: &Connection,
    digest: &Digest,
    labels: &Labels,
    now: SystemTime,
) -> Result<()> {
    let mut all = labels.clone();
    all.extend(stored_labels(connection, digest)?);
    save_labels(connection, digest, &all, now)
}

fn stored_labels(connection: &Connection, digest: &Digest) -> Result<Labels> {
    let mut query = connection.prepare_cached("SELECT labels FROM content WHERE digest = ?1")?;
    let text = query.query_row([digest.as_str()], |row| row.get::<_, String>(0)).optional()?;
    text.map_or_else(|| Ok(Labels::new()), |text| read_labels(digest, &text))
}

/// Every digest that has a name under `blobs/`. Directories of unknown algorithms and names that are no digest are passed over.
pub(super) fn list(inner: &Inner) -> Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for algorithm in Algorithm::ALL {
        let dir = inner.blob_dir(algorithm);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.context(|| format!("cannot list {}", dir.display()))?,
        };
        for entry in entries {
            let entry = entry.context(|| format!("cannot list {}", dir.display()))?;
            let name = entry.file_name();
            if let Some(Ok(digest)) = name.to_str().map(|hex| format!("{algorithm}:{hex}").parse()) {
                digests.push(digest);
            }
        }
    }
    Ok(digests)
}

/// Lists the blobs whose labels, as they are written down, have one of these texts in them. Some of them may be gone.
pub(super) fn labelled(inner: &Inner, texts: &[String]) -> Result<Vec<Digest>> {
    let found: BTreeSet<String> = inner.metadata.read_blocking(|connection| {
        let mut query = connection.prepare_cached("SELECT digest FROM content WHERE instr(labels, ?1)")?;
        let mut found = BTreeSet::new();
        for text in texts {
            for digest in query.query_map([text], |row| row.get(0))? {
                found.insert(digest?);
            }
        }
        Ok(found)
    })?;
    Ok(found.into_iter().filter_map(|digest| digest.parse().ok()).collect())
}

pub(super) fn delete(inner: &Inner, digest: &Digest) -> Result<()> {
    let path = inner.blob_path(digest);
    fs::remove_file(&path).map_err(|error| absent_or_io(digest, error))?;
    inner.durability.sync_parent(&path).context(|| format!("cannot remove blob {digest}"))?;
    inner.metadata.write_blocking(|connection| {
        // Whoever has committed it again meanwhile has written its labels.
        if !exists(inner, digest)? {
            connection.execute("DELETE FROM content WHERE digest = ?1", [digest.as_str()])?;
        }
        Ok(())
    })
}

impl Fields for Info {
    fn field(&self, path: &[String]) -> Option<Cow<'_, str>> {
        match path {
            [field] if field == "digest" => Some(Cow::Borrowed(self.digest.as_str())),
            [field] if field == "size" => Some(Cow::Owned(self.size.to_string())),
            [field, key @ ..] if field == "labels" && !key.is_empty() => {
                self.labels.get(&key.join(".")).map(|value| Cow::Borrowed(value.as_str()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;
    use crate::{CommitOptions, Descriptor, LocalStore, Provider, write_blob};

    #[tokio::test]
    async fn who_commits_a_blob_while_it_is_removed_keeps_its_labels() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = LocalStore::open(dir.path()).await.expect("opens");
        let descriptor = Descriptor::of("a/b", b"content");
        let labels = Labels::from([("kept".to_owned(), "yes".to_owned())]);
        let options = CommitOptions::default().with_labels(labels.clone());
        write_blob(&store, "x", &descriptor, "content".into(), options).await.expect("writes");

        // The removal has removed the file, and waits for the database, while somebody commits the blob anew.
        let inner = Arc::clone(&store.inner);
        let (path, digest) = (inner.blob_path(&descriptor.digest), descriptor.digest.clone());
        let (sender, receiver) = mpsc::channel();
        let blocker = Arc::clone(&inner);
        let busy = thread::spawn(move || {
            blocker.metadata.write_blocking(|_| {
                sender.send(()).expect("somebody waits");
                while path.exists() {
                    thread::sleep(Duration::from_millis(1));
                }
                fs::write(&path, "content").expect("writes");
                Ok(())
            })
        });
        receiver.recv().expect("it is busy");
        let removed = thread::spawn(move || delete(&inner, &digest));
        busy.join().expect("no panic").expect("writes");
        removed.join().expect("no panic").expect("removes");
        assert_eq!(info(&store.inner, &descriptor.digest).expect("it is there").labels, labels);
        assert_eq!(store.reader(&descriptor).await.expect("it is there").size(), 7);
        store.inner.metadata.write_blocking(|_| Ok(())).expect("still good");
        delete(&store.inner, &descriptor.digest).expect("removes");
        assert!(labels_of(&store.inner, &descriptor.digest).is_empty());
    }

    fn labels_of(inner: &Inner, digest: &Digest) -> Labels {
        super::labels(inner, digest).expect("reads")
    }
}
