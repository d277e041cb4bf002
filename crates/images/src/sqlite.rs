//! Image records in the store's database, with `index.json` as their view.
//!
//! The database is the truth. `index.json` is written whole to a temporary file and renamed while the change still holds the
//! database's lock, so that it never shows a mixture and the last change is the last to be written.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use wharf_content::{
    Descriptor, Error, Result, ResultExt,
    filter::FilterSet,
    metadata::{Metadata, from_nanos, to_nanos},
};

use crate::{
    media_types,
    record::{Image, ImageStore, absent, present, refuse_nameless, refuse_unexpected},
};

/// Annotation of an entry of an index with an image's full name.
pub const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation of an entry of an index by which tools choose it.
pub const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";

const TABLES: &[&str] =
    &["CREATE TABLE image (name TEXT PRIMARY KEY, target TEXT NOT NULL, labels TEXT NOT NULL, \
     created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL) WITHOUT ROWID"];

/// How the names of markers begin; the process and a number follow.
const MARKER: &str = ".index.json.changing-";

const COLUMNS: &str = "name, target, labels, created_at, updated_at";

/// The records of a local store.
#[derive(Clone, Debug)]
pub struct SqliteImages {
    metadata: Metadata,
}

impl SqliteImages {
    /// Opens the records in `metadata`, making their table where there is none. Blocks for a moment.
    ///
    /// # Errors
    /// Those of the database.
    pub fn open(metadata: Metadata) -> Result<Self> {
        metadata.migrate("images", TABLES)?;
        let this = Self { metadata };
        if !this.markers()?.is_empty() {
            this.mend_view()?;
        }
        Ok(this)
    }

    /// The markers that stand: each while records and their view may differ. A change that was killed, or that failed, leaves one.
    fn markers(&self) -> Result<Vec<PathBuf>> {
        let root = self.metadata.root();
        let read = || -> io::Result<Vec<PathBuf>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(root)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(MARKER) {
                    found.push(entry.path());
                }
            }
            Ok(found)
        };
        read().context(|| format!("cannot read {}", root.display()))
    }

    /// Brings the view back to what the records are. Blocks. Markers are made within transactions, so that within this one all of them
    /// are of changes that have ended.
    fn mend_view(&self) -> Result<()> {
        self.metadata.write_blocking(|connection| {
            self.write_view(connection)?;
            self.markers()?.iter().try_for_each(|marker| remove(marker))
        })
    }

    fn index_path(&self) -> PathBuf {
        self.metadata.root().join("index.json")
    }

    fn write_view(&self, connection: &Connection) -> Result<()> {
        let (index, path) = (index_json(&select_all(connection)?)?, self.index_path());
        let durability = self.metadata.durability();
        durability.replace(&path, &index, 0o600).context(|| format!("cannot write {}", path.display()))
    }

    /// Changes records and then their view, in one transaction. The view is renamed into place before the database commits, so that the last
    /// change is the last to be written; should the commit not come, the marker tells the next to open.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{MARKER}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let marker = self.metadata.root().join(name);
        let this = self.clone();
        let change = move || {
            let changed = this.metadata.write_blocking(|connection| {
                let value = work(connection)?;
                File::create(&marker).context(|| "cannot begin a change of the images")?;
                this.write_view(connection)?;
                Ok(value)
            });
            match changed {
                Ok(value) => remove(&marker).map(|()| value),
                Err(error) => {
                    // The first error is the one to tell; the marker stays where this fails too.
                    if marker.exists()
                        && let Err(second) = this.mend_view()
                    {
                        tracing::debug!(error = %second.report(), "the view of the images cannot be mended");
                    }
                    Err(error)
                }
            }
        };
        // At once, so that who gives up leaves no marker.
        self.metadata.change(change).await
    }
}

/// Removes a marker that another process may have removed.
fn remove(marker: &Path) -> Result<()> {
    match fs::remove_file(marker) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("cannot finish a change of the images", error))
        }
        _ => Ok(()),
    }
}

/// Writes the view of the records as this transaction sees them.
/// The view: an image index with one entry per record, sorted by name.
fn index_json(images: &[Image]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct View {
        schema_version: u8,
        media_type: &'static str,
        manifests: Vec<Descriptor>,
    }
    let entry = |image: &Image| {
        image
            .target
            .clone()
            .with_annotation(ANNOTATION_IMAGE_NAME, &image.name)
            .with_annotation(ANNOTATION_REF_NAME, &image.name)
    };
    let view = View {
        schema_version: 2,
        media_type: media_types::OCI_INDEX,
        manifests: images.iter().map(entry).collect(),
    };
    to_json(&view).map(String::into_bytes)
}

fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal("a record cannot be written").with_source(error))
}

/// A row as it stands in the table.
struct Stored {
    name: String,
    target: String,
    labels: String,
    created_at: i64,
    updated_at: i64,
}

impl Stored {
    fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            target: row.get(1)?,
            labels: row.get(2)?,
            created_at: row.get(3)?,
            updated_at: row.get(4)?,
        })
    }

    fn read(self) -> Result<Image> {
        let damaged = |error: serde_json::Error| {
            Error::data_loss(format!("the record of image {:?} is damaged", self.name)).with_source(error)
        };
        let target: Descriptor = serde_json::from_str(&self.target).map_err(damaged)?;
        let labels = serde_json::from_str(&self.labels).map_err(damaged)?;
        let mut image = Image::new(self.name, target).with_labels(labels);
        image.created_at = from_nanos(self.created_at);
        image.updated_at = from_nanos(self.updated_at);
        Ok(image)
    }
}

fn select(connection: &Connection, name: &str) -> Result<Option<Image>> {
    let mut query = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM image WHERE name = ?1"))?;
    query.query_row([name], Stored::of_row).optional()?.map(Stored::read).transpose()
}

fn select_all(connection: &Connection) -> Result<Vec<Image>> {
    let mut query = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM image ORDER BY name"))?;
    query.query_map([], Stored::of_row)?.map(|row| row?.read()).collect()
}

fn upsert(connection: &Connection, image: &Image) -> Result<()> {
    connection
        .prepare_cached(&format!("INSERT OR REPLACE INTO image ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5)"))?
        .execute((
            &image.name,
            to_json(&image.target)?,
            to_json(&image.labels)?,
            to_nanos(image.created_at),
            to_nanos(image.updated_at),
        ))?;
    Ok(())
}

#[async_trait]
impl ImageStore for SqliteImages {
    async fn get(&self, name: &str) -> Result<Image> {
        let name = name.to_owned();
        self.metadata.read(move |connection| select(connection, &name)?.ok_or_else(|| absent(&name))).await
    }

    async fn list(&self, filters: &FilterSet) -> Result<Vec<Image>> {
        let mut images = self.metadata.read(select_all).await?;
        images.retain(|image| filters.matches(image));
        Ok(images)
    }

    async fn create(&self, mut image: Image) -> Result<Image> {
        image.validate()?;
        self.change(move |connection| {
            if select(connection, &image.name)?.is_some() {
                return Err(present(&image.name));
            }
            image.created_at = SystemTime::now();
            image.updated_at = image.created_at;
            upsert(connection, &image)?;
            Ok(image)
        })
        .await
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        refuse_nameless(&image.name)?;
        let paths: Vec<String> = fieldpaths.iter().map(|path| (*path).to_owned()).collect();
        self.change(move |connection| {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let mut current = select(connection, &image.name)?.ok_or_else(|| absent(&image.name))?;
            current.apply(&image, &paths)?;
            current.updated_at = SystemTime::now();
            upsert(connection, &current)?;
            Ok(current)
        })
        .await
    }

    async fn delete(&self, name: &str, expected: Option<&Descriptor>) -> Result<()> {
        let (name, expected) = (name.to_owned(), expected.cloned());
        self.change(move |connection| {
            let image = select(connection, &name)?.ok_or_else(|| absent(&name))?;
            refuse_unexpected(&image, expected.as_ref())?;
            connection.execute("DELETE FROM image WHERE name = ?1", [&name])?;
            Ok(())
        })
        .await
    }

    async fn stale_view(&self) -> Result<Option<String>> {
        let path = self.index_path();
        // In a transaction, since the view is written before the change that it shows is committed.
        self.metadata.write(move |connection| difference(&path, &index_json(&select_all(connection)?)?)).await
    }

    async fn rewrite_view(&self) -> Result<()> {
        self.change(|_| Ok(())).await
    }
}

/// What is wrong with the view: it says what the records say, whatever its spelling, or it is stale.
fn difference(path: &Path, expected: &[u8]) -> Result<Option<String>> {
    let cannot = |error| Ok(Some(format!("it cannot be read: {error}")));
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Ok(Some("it is not a regular file".into())),
        Ok(_) => {}
        Err(error) => return cannot(error),
    }
    // Read as far as the right one reaches, and a little more for its spelling.
    let limit = 2 * expected.len() as u64 + 4096;
    let mut found = Vec::new();
    if let Err(error) = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut found)) {
        return cannot(error);
    }
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    if found == expected || value(&found).is_some_and(|found| Some(found) == value(expected)) {
        return Ok(None);
    }
    Ok(Some("it does not say what the records say".into()))
}
