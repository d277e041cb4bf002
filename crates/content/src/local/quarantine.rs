//! What stands under `blobs/` and `ingest/`, and moving what is damaged out of it.
//!
//! ```text
//! blobs/<alg>/<hex>  ->  quarantine/<alg>-<hex>-<time>      a damaged blob
//! blobs/<any path>   ->  quarantine/stray-<name>-<time>     what is no blob
//! ingest/<any name>  ->  quarantine/ingest-<name>-<time>    what is no ingest
//! ```
//!
//! Nothing is removed: what is in quarantine is for a person to look at and to delete. The labels of a blob stay when it goes: they
//! come back with it, and until then tell a collection what it kept.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, FileType, Metadata as FileMetadata},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

use async_trait::async_trait;
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    digest::{Algorithm, Digest, Hasher},
    error::{Error, ErrorKind, Result, ResultExt},
    labels::Labels,
    store::BlobReader,
    verify::{Census, Custodian, Lost, Stray, StrayKind, hash_file},
};

use super::{Inner, LocalStore, blob, ingest, marker};

const BLOBS: &str = "blobs";
const INGESTS: &str = "ingest";
const QUARANTINE: &str = "quarantine";

/// The longest part of a stray's name that its name in quarantine repeats, in bytes.
const MAX_NAME_LEN: usize = 100;

/// What a file is, in words.
pub(super) fn kind_of(file_type: FileType) -> &'static str {
    if file_type.is_symlink() {
        "a symbolic link"
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_file() {
        "a file"
    } else {
        "a device"
    }
}

fn census(inner: &Inner) -> Result<Census> {
    let mut census = Census::default();
    for (name, file_type) in entries(&inner.root.join(BLOBS))? {
        let path = Path::new(BLOBS).join(&name);
        let Some(algorithm) = name.to_str().and_then(Algorithm::from_name) else {
            census.strays.push(Stray::new(path, "no algorithm that is known here"));
            continue;
        };
        if !file_type.is_dir() && !inner.root.join(&path).is_dir() {
            census.strays.push(Stray::new(path, "not a directory"));
            continue;
        }
        for (hex, _) in entries(&inner.root.join(&path))? {
            match hex.to_str().map(|hex| format!("{algorithm}:{hex}").parse()) {
                Some(Ok(digest)) => census.blobs.push(digest),
                _ => census.strays.push(Stray::new(path.join(hex), "its name is no digest")),
            }
        }
    }
    census.strays.extend(
        ingest::broken(inner)?
            .into_iter()
            .map(|(name, why)| Stray::ingest(Path::new(INGESTS).join(name), why)),
    );
    census.blobs.sort();
    census.strays.sort();
    census.quarantined = quarantined(inner)?;
    census.layout = marker::check(inner)?;
    Ok(census)
}

/// The digests in the names of what is in quarantine.
pub(super) fn quarantined(inner: &Inner) -> Result<BTreeSet<Digest>> {
    let names = entries(&inner.root.join(QUARANTINE))?;
    let digest = |name: &str| {
        let mut parts = name.splitn(3, '-');
        format!("{}:{}", parts.next()?, parts.next()?).parse().ok()
    };
    Ok(names.iter().filter_map(|(name, _)| digest(name.to_str()?)).collect())
}

/// The names in a directory; none where there is no directory.
fn entries(dir: &Path) -> Result<Vec<(std::ffi::OsString, FileType)>> {
    let cannot = || format!("cannot list {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(cannot)?,
    };
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name(), entry.file_type()?))
    };
    entries.map(entry).collect::<io::Result<_>>().context(cannot)
}

/// Which file was looked at, so that another one that has come in its place meanwhile is left alone.
fn mark(metadata: &FileMetadata) -> (u64, u64, u64, i64, i64) {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Whether the blob's file has other bytes than its name says, or cannot be read.
fn is_damaged(inner: &Inner, digest: &Digest) -> Result<bool> {
    let blob = match blob::open(inner, digest) {
        Ok(blob) => blob,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == ErrorKind::ResourceExhausted => return Err(error),
        Err(_) => return Ok(true),
    };
    let mut hasher = Hasher::new(digest.algorithm());
    let hashed = blob.file().map(|file| hash_file(file, 0, u64::MAX, &mut hasher));
    Ok(!matches!(hashed, Some(Ok(_))) || hasher.finish() != *digest)
}

fn quarantine(inner: &Inner, digest: &Digest) -> Result<Option<PathBuf>> {
    let path = inner.blob_path(digest);
    let Some(before) = stat(&path)? else { return Ok(None) };
    if !is_damaged(inner, digest)? {
        return Ok(None);
    }
    move_away(inner, &path, &before, &format!("{}-{}", digest.algorithm(), digest.hex()))
}

fn quarantine_stray(inner: &Inner, stray: &Stray) -> Result<Option<PathBuf>> {
    let (parent, depth) = match stray.kind {
        StrayKind::Blob => (BLOBS, usize::MAX),
        StrayKind::Ingest => (INGESTS, 1),
    };
    let is_plain = |below: &Path| {
        below.file_name().is_some()
            && below.components().all(|part| matches!(part, Component::Normal(_)))
            && below.components().count() <= depth
    };
    let Some(below) = stray.path.strip_prefix(parent).ok().filter(|below| is_plain(below)) else {
        let (path, kind) = (stray.path.display(), stray.kind.as_str());
        return Err(Error::invalid_argument(format!("{path} does not stand where {kind}s stand")));
    };
    let path = inner.root.join(&stray.path);
    match stray.kind {
        StrayKind::Blob => move_stray(inner, &path, &below.to_string_lossy()),
        StrayKind::Ingest => {
            let Some(before) = stat(&path)? else { return Ok(None) };
            // A writer that takes it over throws away what was broken; it must not lose the ground under it.
            let _lock = ingest::lock_broken(&path)?;
            if ingest::breakage(&path)?.is_none() {
                return Ok(None);
            }
            move_away(inner, &path, &before, &format!("ingest-{}", harmless(&below.to_string_lossy())))
        }
    }
}

/// Moves away what is not a blob and has this name.
pub(super) fn move_stray(inner: &Inner, path: &Path, name: &str) -> Result<Option<PathBuf>> {
    let Some(before) = stat(path)? else { return Ok(None) };
    move_away(inner, path, &before, &format!("stray-{}", harmless(name)))
}

/// A stranger's name as a part of one of ours.
fn harmless(name: &str) -> String {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '_' };
    name.chars().take(MAX_NAME_LEN).map(harmless).collect()
}

fn lost(inner: &Inner) -> Result<Vec<Lost>> {
    let labelled: Vec<String> = inner.metadata.read_blocking(|connection| {
        let mut query = connection.prepare_cached("SELECT digest FROM content ORDER BY digest")?;
        let digests = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(digests)
    })?;
    let mut absent = Vec::new();
    for digest in labelled.iter().filter_map(|digest| digest.parse::<Digest>().ok()) {
        if stat(&inner.blob_path(&digest))?.is_none() {
            absent.push(digest);
        }
    }
    let quarantined = if absent.is_empty() { BTreeSet::new() } else { quarantined(inner)? };
    let lost = |digest: Digest| {
        let labels = blob::labels(inner, &digest)?;
        let is_quarantined = quarantined.contains(&digest);
        Ok(Lost::new(digest, labels, is_quarantined))
    };
    absent.into_iter().map(lost).collect()
}

fn forget(inner: &Inner, digest: &Digest) -> Result<()> {
    inner.metadata.write_blocking(|connection| {
        if stat(&inner.blob_path(digest))?.is_none() {
            connection.execute("DELETE FROM content WHERE digest = ?1", [digest.as_str()])?;
        }
        Ok(())
    })
}

fn stat(path: &Path) -> Result<Option<FileMetadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        metadata => metadata.map(Some).context(|| format!("cannot look at {}", path.display())),
    }
}

/// Renames durably. The database's lock keeps two processes from moving one after the other what only the first should.
fn move_away(inner: &Inner, path: &Path, before: &FileMetadata, name: &str) -> Result<Option<PathBuf>> {
    let cannot = || format!("cannot move {} into quarantine", path.display());
    let dir = inner.root.join(QUARANTINE);
    let now = Timestamp::try_from(inner.now()).unwrap_or(Timestamp::UNIX_EPOCH);
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    inner.metadata.write_blocking(|_| {
        if stat(path)?.as_ref().map(mark) != Some(mark(before)) {
            return Ok(None);
        }
        DirBuilder::new().mode(0o700).recursive(true).create(&dir).context(cannot)?;
        let mut target = dir.join(format!("{name}-{time}"));
        let mut count = 1;
        while stat(&target)?.is_some() {
            count += 1;
            target = dir.join(format!("{name}-{time}.{count}"));
        }
        fs::rename(path, &target).context(cannot)?;
        for path in [&target, path, &dir] {
            inner.durability.sync_parent(path).context(cannot)?;
        }
        Ok(Some(target))
    })
}

#[async_trait]
impl Custodian for LocalStore {
    async fn census(&self) -> Result<Census> {
        self.blocking(census).await
    }

    async fn labels(&self, digest: &Digest) -> Result<Labels> {
        let digest = digest.clone();
        self.blocking(move |inner| blob::labels(inner, &digest)).await
    }

    async fn quarantine(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let digest = digest.clone();
        self.changing(move |inner| quarantine(inner, &digest)).await
    }

    async fn quarantine_stray(&self, stray: &Stray) -> Result<Option<PathBuf>> {
        let stray = stray.clone();
        self.changing(move |inner| quarantine_stray(inner, &stray)).await
    }

    async fn lost(&self) -> Result<Vec<Lost>> {
        self.blocking(lost).await
    }

    async fn forget(&self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        self.changing(move |inner| forget(inner, &digest)).await
    }

    async fn rewrite_layout(&self) -> Result<()> {
        self.blocking(marker::rewrite).await
    }
}
