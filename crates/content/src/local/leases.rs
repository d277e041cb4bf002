//! Leases of a local store: records in the database, and a lock file for each that a process holds.
//!
//! The lock is taken before the record is written, so that there is no moment in which the record stands without it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    slice,
    time::SystemTime,
};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use crate::{
    digest::Digest,
    error::{Error, Result, ResultExt},
    filter::FilterSet,
    labels,
    lease::{Hold, LABEL_EXPIRE, Lease, LeaseManager, LeaseOptions, Resource},
    metadata::{from_nanos, to_nanos},
};

use super::{Inner, LocalStore};

/// A step of the tables of this crate.
pub(super) const TABLES: &str = "CREATE TABLE lease (id TEXT PRIMARY KEY, created_at INTEGER NOT NULL, labels TEXT NOT NULL) \
     WITHOUT ROWID; \
     CREATE TABLE lease_resource (lease TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE, kind TEXT NOT NULL, \
     id TEXT NOT NULL, PRIMARY KEY (lease, kind, id)) WITHOUT ROWID";

/// A lock file that this process has locked.
#[derive(Debug)]
struct LockFile {
    _file: File,
}

impl Hold for LockFile {}

impl Inner {
    /// The lock file of a lease. Its id may be any text, so that its digest is its name.
    fn lease_lock(&self, id: &str) -> PathBuf {
        self.root.join("leases").join(Digest::sha256(id.as_bytes()).hex())
    }
}

fn random_id() -> String {
    // Unique, not secret.
    let (one, other) = (RandomState::new(), RandomState::new());
    format!("{:016x}{:016x}", one.hash_one(SystemTime::now()), other.hash_one(std::process::id()))
}

fn absent(id: &str) -> Error {
    Error::not_found(format!("there is no lease {id:?}"))
}

/// Fails where the lease does not exist.
pub(super) fn require(connection: &Connection, id: &str) -> Result<()> {
    let found = connection.query_row("SELECT 1 FROM lease WHERE id = ?1", [id], |_| Ok(())).optional()?;
    found.ok_or_else(|| absent(id))
}

/// Adds a resource to a lease that may be gone by now.
pub(super) fn add(connection: &Connection, id: &str, resources: &[Resource]) -> Result<()> {
    require(connection, id)?;
    let mut insert = connection
        .prepare_cached("INSERT OR IGNORE INTO lease_resource (lease, kind, id) VALUES (?1, ?2, ?3)")?;
    for resource in resources {
        insert.execute((id, resource.kind(), resource.id()))?;
    }
    Ok(())
}

fn create(inner: &Inner, id: String, options: LeaseOptions) -> Result<Lease> {
    if id.is_empty() {
        return Err(Error::invalid_argument("a lease needs an id"));
    }
    let now = inner.now();
    let mut lease = Lease::new(id, now);
    lease.labels = options.labels;
    if let Some(lasts) = options.lasts {
        let expires_at = now.checked_add(lasts).and_then(|at| Timestamp::try_from(at).ok());
        let expires_at = expires_at.ok_or_else(|| Error::invalid_argument("the lease lasts too long"))?;
        lease.labels.insert(LABEL_EXPIRE.into(), expires_at.to_string());
    }
    labels::validate(&lease.labels)?;
    let text = serde_json::to_string(&lease.labels)
        .map_err(|error| Error::internal("labels cannot be written").with_source(error))?;
    inner.metadata.write_blocking(|connection| {
        if require(connection, &lease.id).is_ok() {
            return Err(Error::already_exists(format!("there is a lease {:?} already", lease.id)));
        }
        connection.execute(
            "INSERT INTO lease (id, created_at, labels) VALUES (?1, ?2, ?3)",
            (&lease.id, to_nanos(now), text),
        )?;
        Ok(())
    })?;
    Ok(lease)
}

fn hold(inner: &Inner, options: LeaseOptions) -> Result<(Lease, Box<dyn Hold>)> {
    let id = options.id.clone().unwrap_or_else(random_id);
    let path = inner.lease_lock(&id);
    let cannot = || format!("cannot lock lease {id:?}");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .context(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::already_exists(format!("lease {id:?} is held by another process")));
        }
        Err(TryLockError::Error(error)) => return Err(Error::io(cannot(), error)),
    }
    let lease = create(inner, id, options)?;
    Ok((lease, Box::new(LockFile { _file: file })))
}

fn is_held(inner: &Inner, id: &str) -> Result<bool> {
    let file = match File::open(inner.lease_lock(id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.context(|| format!("cannot look at lease {id:?}"))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(Error::io(format!("cannot look at lease {id:?}"), error)),
    }
}

fn delete(inner: &Inner, id: &str) -> Result<()> {
    inner.metadata.write_blocking(|connection| {
        match connection.execute("DELETE FROM lease WHERE id = ?1", [id])? {
            0 => Err(absent(id)),
            _ => Ok(()),
        }
    })?;
    match fs::remove_file(inner.lease_lock(id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove the lock of lease {id:?}"), error))
        }
        _ => Ok(()),
    }
}

fn list(inner: &Inner) -> Result<Vec<Lease>> {
    inner.metadata.read_blocking(|connection| {
        let mut query = connection.prepare_cached("SELECT id, created_at, labels FROM lease ORDER BY id")?;
        let rows = query.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        })?;
        rows.map(|row| {
            let (id, created_at, text) = row?;
            let mut lease = Lease::new(id, from_nanos(created_at));
            lease.labels = serde_json::from_str(&text).map_err(|error| {
                Error::data_loss(format!("the labels of lease {:?} are damaged", lease.id)).with_source(error)
            })?;
            Ok(lease)
        })
        .collect()
    })
}

fn resources(inner: &Inner, id: &str) -> Result<Vec<Resource>> {
    inner.metadata.read_blocking(|connection| {
        require(connection, id)?;
        let mut query = connection
            .prepare_cached("SELECT kind, id FROM lease_resource WHERE lease = ?1 ORDER BY kind, id")?;
        let rows = query.query_map([id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        rows.map(|row| {
            let (kind, id) = row?;
            Resource::parse(&kind, &id)
        })
        .collect()
    })
}

#[async_trait]
impl LeaseManager for LocalStore {
    async fn create_lease(&self, options: LeaseOptions) -> Result<Lease> {
        self.changing(move |inner| create(inner, options.id.clone().unwrap_or_else(random_id), options)).await
    }

    async fn hold_lease(&self, options: LeaseOptions) -> Result<(Lease, Box<dyn Hold>)> {
        self.changing(move |inner| hold(inner, options)).await
    }

    async fn delete_lease(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.changing(move |inner| delete(inner, &id)).await
    }

    async fn list_leases(&self, filters: &FilterSet) -> Result<Vec<Lease>> {
        let mut leases = self.blocking(list).await?;
        leases.retain(|lease| filters.matches(lease));
        Ok(leases)
    }

    async fn is_held(&self, id: &str) -> Result<bool> {
        let id = id.to_owned();
        self.blocking(move |inner| is_held(inner, &id)).await
    }

    async fn add_resource(&self, id: &str, resource: &Resource) -> Result<()> {
        self.add_resources(id, slice::from_ref(resource)).await
    }

    /// All of them or none.
    async fn add_resources(&self, id: &str, resources: &[Resource]) -> Result<()> {
        let (id, resources) = (id.to_owned(), resources.to_vec());
        self.changing(move |inner| {
            inner.metadata.write_blocking(|connection| add(connection, &id, &resources))
        })
        .await
    }

    async fn delete_resource(&self, id: &str, resource: &Resource) -> Result<()> {
        let (id, resource) = (id.to_owned(), resource.clone());
        self.changing(move |inner| {
            inner.metadata.write_blocking(|connection| {
                require(connection, &id)?;
                let removed = connection.execute(
                    "DELETE FROM lease_resource WHERE lease = ?1 AND kind = ?2 AND id = ?3",
                    (&id, resource.kind(), resource.id()),
                )?;
                if removed == 0 {
                    return Err(Error::not_found(format!("lease {id:?} does not hold {resource}")));
                }
                Ok(())
            })
        })
        .await
    }

    async fn resources(&self, id: &str) -> Result<Vec<Resource>> {
        let id = id.to_owned();
        self.blocking(move |inner| resources(inner, &id)).await
    }
}
