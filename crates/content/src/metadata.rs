//! The database beside the blobs: one SQLite file that several processes use at once.
//!
//! The file is shared by the layers; each keeps tables of its own, created by [`Metadata::migrate`] under the layer's name. This
//! module knows none of the tables. WAL and `synchronous=FULL` make a committed transaction survive a power cut, unless the store was
//! opened with another [`Durability`].

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use tokio::sync::Semaphore;

use crate::{
    blocking,
    durability::Durability,
    error::{Error, Result, ResultExt},
};

/// How long a transaction waits for another process before it is `Unavailable`.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait before a database that somebody else is making is opened again.
const OPEN_RETRY: Duration = Duration::from_millis(5);

/// The file's name inside a store's root.
pub const FILE_NAME: &str = "metadata.db";

/// The name of the lock that a collection takes for itself, and everybody who adds something shares.
pub const GATE_NAME: &str = "gc.lock";

/// A handle on the database of one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metadata {
    root: Arc<Path>,
    connection: Arc<Mutex<Connection>>,
    durability: Durability,
    /// Whether the caller has the gate for itself, so that a transaction must not wait at it.
    is_exclusive: bool,
    /// Places for those who change something.
    places: Arc<Semaphore>,
}

/// How many threads at most are at work on changes, or wait for a collection to end before they are.
const MAX_CHANGES: usize = 64;

/// The gate between collection and everybody else. Dropping it opens it.
#[derive(Debug)]
pub struct Gate {
    _lock: Option<File>,
}

impl Metadata {
    /// Opens or makes the database in `root`, readable by its owner alone. Blocks.
    ///
    /// # Errors
    /// `PermissionDenied`, `ResourceExhausted`, or `DataLoss` when the file is not a database.
    pub fn open(root: &Path, durability: Durability) -> Result<Self> {
        let path = root.join(FILE_NAME);
        let cannot = || format!("cannot open the database {}", path.display());
        // Made before SQLite sees it, so that its mode does not hang on the umask; SQLite gives its other files the same mode.
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).context(cannot)?;
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", durability.pragma())?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS wharf_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL) \
                 WITHOUT ROWID",
            )?;
            Ok(connection)
        };
        // Who makes a new database at the same time is refused at once by the change to WAL, whatever the busy timeout.
        let began = Instant::now();
        let opened = loop {
            match open() {
                Err(error) if is_busy(&error) && began.elapsed() < BUSY_TIMEOUT => thread::sleep(OPEN_RETRY),
                opened => break opened,
            }
        };
        let connection = opened.map_err(|error| {
            // SQLite does not tell why it could not open one of its files; too many open ones are told by the next.
            match error.sqlite_error_code() {
                Some(ErrorCode::CannotOpen) => File::open(&path)
                    .err()
                    .map_or_else(|| Error::from(error).context(cannot()), |told| Error::io(cannot(), told)),
                _ => Error::from(error).context(cannot()),
            }
        })?;
        let connection = Arc::new(Mutex::new(connection));
        let places = Arc::new(Semaphore::new(MAX_CHANGES));
        Ok(Self { root: root.into(), connection, durability, is_exclusive: false, places })
    }

    /// What of it survives a power cut, and what of the files beside it that belong to it.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The directory that holds the database.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of the database.
    pub fn path(&self) -> PathBuf {
        self.root.join(FILE_NAME)
    }

    /// Keeps a collection from starting until the gate is dropped; waits for one that is under way. Blocks.
    ///
    /// Every write takes it. Who publishes a file and then writes a record of it takes it around both.
    ///
    /// # Errors
    /// Those of the system.
    pub fn share(&self) -> Result<Gate> {
        if self.is_exclusive {
            return Ok(Gate { _lock: None });
        }
        let lock = self.open_gate()?;
        lock.lock_shared().context(|| format!("cannot lock {}", self.root.join(GATE_NAME).display()))?;
        Ok(Gate { _lock: Some(lock) })
    }

    /// Waits until nobody is adding anything, and keeps everybody from it until the gate is dropped. Blocks. The handle that comes with the gate
    /// may write meanwhile, and no other may.
    ///
    /// # Errors
    /// Those of the system.
    pub fn exclude(&self) -> Result<(Self, Gate)> {
        let lock = self.open_gate()?;
        lock.lock().context(|| format!("cannot lock {}", self.root.join(GATE_NAME).display()))?;
        Ok((Self { is_exclusive: true, ..self.clone() }, Gate { _lock: Some(lock) }))
    }

    fn open_gate(&self) -> Result<File> {
        let path = self.root.join(GATE_NAME);
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .context(|| format!("cannot open {}", path.display()))
    }

    /// Brings the tables of `component` up to date: `steps[n]` leads from version n to n + 1. Blocks.
    ///
    /// # Errors
    /// `FailedPrecondition` when a newer program has made them.
    pub fn migrate(&self, component: &str, steps: &[&str]) -> Result<()> {
        let known = steps.len();
        let version = |connection: &Connection| -> Result<usize> {
            let found: Option<u32> = connection
                .query_row("SELECT version FROM wharf_schema WHERE component = ?1", [component], |row| {
                    row.get(0)
                })
                .optional()?;
            Ok(found.map_or(0, |version| version as usize))
        };
        let mut connection = self.lock();
        if version(&connection)? == known {
            return Ok(());
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let from = version(&transaction)?;
        if from > known {
            return Err(Error::failed_precondition(format!(
                "the {component} tables of {} have version {from} and this program knows {known}: use the newer wharf that made \
                 them",
                self.path().display()
            )));
        }
        for step in &steps[from..] {
            transaction.execute_batch(step)?;
        }
        transaction.execute(
            "INSERT INTO wharf_schema (component, version) VALUES (?1, ?2) \
             ON CONFLICT (component) DO UPDATE SET version = excluded.version",
            (component, i64::try_from(known).unwrap_or(i64::MAX)),
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Runs `work` on a blocking thread, outside a transaction: for reading.
    ///
    /// # Errors
    /// Those of `work`, and `Unavailable` after [`BUSY_TIMEOUT`].
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        blocking::run(move || this.read_blocking(work)).await
    }

    /// [`Metadata::read`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Metadata::read`].
    pub fn read_blocking<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&self.lock())
    }

    /// Runs `work` on a blocking thread in a transaction that excludes other writers; it is committed if `work` succeeds.
    ///
    /// # Errors
    /// Those of `work`, and `Unavailable` after [`BUSY_TIMEOUT`].
    ///
    /// # Cancellation
    /// The transaction goes on in the background and happens wholly or not at all.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        self.change(move || this.write_blocking(work)).await
    }

    /// Runs `work`, which changes something in the store, on a blocking thread. It may have to wait there for a collection to end, and who asked
    /// for it may give up and ask again: no more threads are taken than leave others to those who read.
    ///
    /// # Errors
    /// Those of `work`.
    ///
    /// # Cancellation
    /// Work that has begun goes on to its end in the background.
    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // Who has the gate for itself does not wait behind those who wait for it. The semaphore is never closed.
        let place =
            if self.is_exclusive { None } else { Arc::clone(&self.places).acquire_owned().await.ok() };
        blocking::run(move || {
            let _place = place;
            work()
        })
        .await
    }

    /// [`Metadata::write`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Metadata::write`].
    pub fn write_blocking<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let _gate = self.share()?;
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        // A panic inside a transaction rolls it back when it is dropped, so the connection is good.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time as it stands in a table: nanoseconds since 1970, which reach to the year 2262.
pub fn to_nanos(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The time of [`to_nanos`].
pub fn from_nanos(nanos: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let kind = match error.sqlite_error_code() {
            _ if is_busy(&error) => {
                return Self::unavailable("the database is busy: another process holds it")
                    .with_source(error);
            }
            Some(ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                io::ErrorKind::PermissionDenied
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        // As an I/O error in the chain, so that callers tell local storage from the network.
        Self::io("database", io::Error::new(kind, error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn opens_twice_migrates_once_and_refuses_the_future() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let one = Metadata::open(dir.path(), Durability::Full).expect("opens");
        let other = Metadata::open(dir.path(), Durability::Full).expect("opens");
        let steps = ["CREATE TABLE t (x INTEGER)", "ALTER TABLE t ADD COLUMN y INTEGER"];
        one.migrate("test", &steps[..1]).expect("first step");
        other.migrate("test", &steps).expect("second step");
        one.migrate("test", &steps).expect("nothing to do");
        let error = one.migrate("test", &steps[..1]).expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let mode = std::fs::metadata(one.path()).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_database_is_data_loss() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join(FILE_NAME), vec![b'x'; 8192]).expect("writes");
        let error = Metadata::open(dir.path(), Durability::Full).expect_err("not a database");
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.find_source::<io::Error>().is_some());
    }

    #[test]
    fn many_make_one_database() {
        for _ in 0..300 {
            let dir = tempfile::tempdir().expect("temporary directory");
            thread::scope(|scope| {
                let open =
                    || Metadata::open(dir.path(), Durability::None).expect("opens").migrate("test", &[]);
                let all: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                for one in all {
                    one.join().expect("no panic").expect("migrates");
                }
            });
        }
    }

    #[tokio::test]
    async fn a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let metadata = Metadata::open(dir.path(), Durability::Full).expect("opens");
        metadata.migrate("test", &["CREATE TABLE t (x INTEGER)"]).expect("migrates");
        let result: Result<()> = metadata
            .write(|connection| {
                connection.execute("INSERT INTO t VALUES (1)", [])?;
                Err(Error::conflict("no"))
            })
            .await;
        assert!(result.is_err());
        let count: i64 = metadata
            .read(|connection| Ok(connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?))
            .await
            .expect("counts");
        assert_eq!(count, 0);
    }

    /// A collection may take long, and those who wait for it may give up and come again.
    #[test]
    fn who_waits_at_the_gate_leaves_threads_to_who_reads() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let metadata = Metadata::open(dir.path(), Durability::Full).expect("opens");
        let threads = MAX_CHANGES + 2;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(threads).build();
        runtime.expect("a runtime").block_on(async {
            let (alone, gate) = metadata.exclude().expect("nobody else is here");
            let count = "SELECT count(*) FROM wharf_schema";
            let read =
                |connection: &Connection| Ok(connection.query_row(count, [], |row| row.get::<_, u32>(0))?);
            for _ in 0..threads * 2 {
                let write = metadata.write(|_| Ok(()));
                let given_up = tokio::time::timeout(Duration::from_millis(1), write).await;
                assert!(given_up.is_err(), "the gate is closed");
            }
            let limit = Duration::from_secs(30);
            let found = tokio::time::timeout(limit, metadata.read(read)).await.expect("there is a thread");
            assert_eq!(found.expect("reads"), 0);
            // Who has the gate does not wait behind those who wait for it.
            tokio::time::timeout(limit, alone.write(|_| Ok(()))).await.expect("has a way").expect("writes");
            drop(gate);
            metadata.write(|_| Ok(())).await.expect("writes");
        });
    }
}
