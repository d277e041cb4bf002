//! The root directory: making it, and refusing what is not a wharf store.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    digest::{Algorithm, Digest},
    error::{Error, Result, ResultExt},
    metadata::{self, Metadata},
};

use super::{Durability, Inner, ingest, leases};

pub(super) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// First labels and the time of their last change, one row for each blob that ever had any; then leases. Labels may be long, and in a table
/// without row ids every search reads those of the rows that it passes.
const TABLES: &[&str] = &[
    "CREATE TABLE content (digest TEXT PRIMARY KEY, updated_at INTEGER NOT NULL, labels TEXT NOT NULL) \
     WITHOUT ROWID",
    leases::TABLES,
    "ALTER TABLE content RENAME TO content_1; \
     CREATE TABLE content (digest TEXT NOT NULL PRIMARY KEY, updated_at INTEGER NOT NULL, labels TEXT NOT NULL); \
     INSERT INTO content SELECT digest, updated_at, labels FROM content_1; \
     DROP TABLE content_1",
];

impl Inner {
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blob_dir(digest.algorithm()).join(digest.hex())
    }

    pub(super) fn blob_dir(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.as_str())
    }

    pub(super) fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }
}

/// Opens the store's directory, making what is missing.
pub(super) fn open(root: &Path, durability: Durability) -> Result<Metadata> {
    let cannot = || format!("cannot open the store {}", root.display());
    if !root.join(metadata::FILE_NAME).exists() {
        refuse_file(root)?;
        make_root(root, durability).context(cannot)?;
        refuse_foreign(root)?;
    }
    // The database comes first: a directory without one is not, or not yet, a store.
    let metadata = Metadata::open(root, durability).context(cannot)?;
    metadata.migrate("content", TABLES)?;
    let make = || -> io::Result<()> {
        for algorithm in Algorithm::ALL {
            make_dir(&root.join("blobs").join(algorithm.as_str()))?;
        }
        make_dir(&root.join("ingest"))?;
        make_dir(&root.join("leases"))?;
        for (name, text) in [("index.json", EMPTY_INDEX), ("oci-layout", OCI_LAYOUT)] {
            let path = root.join(name);
            if !path.exists() {
                durability.replace(&path, text.as_bytes(), 0o600)?;
            }
        }
        Ok(())
    };
    make().context(cannot)?;
    Ok(metadata)
}

/// Removes what killed processes may have left, while nobody adds anything: temporary files of the view, and ingests without a name.
pub(super) fn sweep(inner: &Inner) -> Result<()> {
    let sweep = || -> io::Result<()> {
        for entry in fs::read_dir(&inner.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") && entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        ingest::sweep(inner)
    };
    sweep().context(|| format!("cannot tidy up {}", inner.root.display()))
}

fn make_root(root: &Path, durability: Durability) -> io::Result<()> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(root) {
        Ok(()) => durability.sync_parent(root),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if root.is_dir() {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::NotADirectory))
            }
        }
        Err(error) => Err(error),
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
}

/// A store cannot be at a file, or below one.
fn refuse_file(root: &Path) -> Result<()> {
    // Without the slash at the end, with which a file is not found.
    let root = root.components().as_path();
    let found = root.ancestors().find(|path| path.symlink_metadata().is_ok());
    match found.filter(|path| !path.is_dir()) {
        None => Ok(()),
        Some(path) => Err(Error::failed_precondition(format!(
            "{} is not a wharf store: {} is no directory",
            root.display(),
            path.display()
        ))),
    }
}

/// A directory with other things in it, or another tool's image layout, would be damaged by becoming a store.
fn refuse_foreign(root: &Path) -> Result<()> {
    let cannot = || format!("cannot open the store {}", root.display());
    let entries = fs::read_dir(root).context(cannot)?;
    for entry in entries {
        let entry = entry.context(cannot)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Another process may be making the same store right now.
        if name == "lost+found" || name.starts_with(metadata::FILE_NAME) {
            continue;
        }
        if root.join(metadata::FILE_NAME).exists() {
            return Ok(());
        }
        return Err(Error::failed_precondition(format!(
            "{} is not a wharf store: it holds {name:?} and no {}; choose an empty or a new directory",
            root.display(),
            metadata::FILE_NAME
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn makes_a_private_layout_and_opens_it_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("a/b");
        open(&root, Durability::Full).expect("makes");
        open(&root, Durability::Full).expect("opens");
        assert_eq!(fs::metadata(&root).expect("exists").permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(root.join("oci-layout")).expect("reads"), OCI_LAYOUT);
        assert_eq!(fs::read_to_string(root.join("index.json")).expect("reads"), EMPTY_INDEX);
    }

    #[test]
    fn a_store_of_before_keeps_its_labels() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let metadata = Metadata::open(dir.path(), Durability::Full).expect("makes");
        metadata.migrate("content", &TABLES[..2]).expect("as it was");
        let row = "INSERT INTO content VALUES ('sha256:00', 7, '{\"a\":\"b\"}')";
        metadata.write_blocking(|connection| Ok(connection.execute_batch(row)?)).expect("writes");
        drop(metadata);
        let metadata = open(dir.path(), Durability::Full).expect("opens");
        let found = metadata.read_blocking(|connection| {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
            let wanted = "SELECT updated_at, labels FROM content WHERE digest = 'sha256:00'";
            Ok(connection.query_row(wanted, [], row)?)
        });
        assert_eq!(found.expect("it is there"), (7, r#"{"a":"b"}"#.to_owned()));
    }

    #[test]
    fn refuses_directories_that_belong_to_something_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join("thesis.txt"), "x").expect("writes");
        let error = open(dir.path(), Durability::Full).expect_err("foreign");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        assert!(!dir.path().join("blobs").exists());
    }

    #[test]
    fn a_file_is_not_a_store() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("file");
        fs::write(&path, "x").expect("writes");
        std::os::unix::fs::symlink("nothing", dir.path().join("link")).expect("makes");
        for (root, what) in
            [("file", "file"), ("file/", "file"), ("file/a", "file"), ("file/a/b", "file"), ("link", "link")]
        {
            let error = open(&dir.path().join(root), Durability::Full).expect_err("no directory");
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            let said = error.report();
            let expected =
                format!(" is not a wharf store: {} is no directory", dir.path().join(what).display());
            assert!(said.ends_with(&expected), "{root}: {said}");
        }
    }
}
