//! Giving what was written its name among the blobs.
//!
//! Rename, sync the directory, database: in this order, and with the gate shared around all of it (see the module `local`). Writers that
//! come to this point while another one is at it wait, and go through it together: one sync of the directory and one transaction serve
//! them all, and each returns when its own blob is durable. Syncing the data is done before, by each for itself.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rusqlite::Connection;

use crate::{
    digest::Digest,
    error::{Error, Result, ResultExt},
    labels::Labels,
    lease::Resource,
};

use super::{Inner, blob, ingest, leases};

/// What is to be published: data that is synced, and what is written of it into the database.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) data: PathBuf,
    pub(super) digest: Digest,
    /// Labels of a new blob.
    pub(super) labels: Labels,
    /// What holds the blob, new or not.
    pub(super) lease: Option<String>,
}

/// Jobs that wait for the one thread that is at work.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    is_busy: bool,
    waiting: Vec<(u64, Job)>,
    done: HashMap<u64, Result<bool>>,
}

/// Publishes; `false` where something has that name already, which stays as it is. Blocks.
///
/// # Errors
/// `NotFound` when there is no such lease; those of the system. The blob may have its name by then.
pub(super) fn publish(inner: &Inner, job: Job) -> Result<bool> {
    let queue = &inner.publishing;
    let mut state = queue.lock();
    state.last += 1;
    let ticket = state.last;
    state.waiting.push((ticket, job));
    loop {
        if let Some(outcome) = state.done.remove(&ticket) {
            return outcome;
        }
        state = if state.is_busy {
            queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
        } else {
            state.is_busy = true;
            let (tickets, jobs): (Vec<_>, Vec<_>) = state.waiting.drain(..).unzip();
            drop(state);
            let mut turn = Turn { queue, tickets, outcomes: Vec::new() };
            turn.outcomes = together(inner, &jobs);
            drop(turn);
            queue.lock()
        };
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of a thread that works for others. Its end, however it comes, is told to all of them.
struct Turn<'a> {
    queue: &'a Queue,
    tickets: Vec<u64>,
    outcomes: Vec<Result<bool>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let ended = || Err(Error::internal("the thread that published ended early"));
        let outcomes = self.outcomes.drain(..).chain(std::iter::repeat_with(ended));
        let mut state = self.queue.lock();
        state.done.extend(self.tickets.iter().copied().zip(outcomes));
        state.is_busy = false;
        drop(state);
        self.queue.changed.notify_all();
    }
}

/// Publishes all of them; what fails for one is no failure of another.
fn together(inner: &Inner, jobs: &[Job]) -> Vec<Result<bool>> {
    // No collection may see a blob before the lease that holds it.
    let _gate = match (inner.metadata.share(), jobs) {
        (Ok(gate), _) => gate,
        (Err(error), [_]) => return vec![Err(error)],
        (Err(_), jobs) => return jobs.chunks(1).flat_map(|one| together(inner, one)).collect(),
    };
    let cannot = |job: &Job| format!("cannot commit {}", job.digest);
    let mut synced = HashSet::new();
    let named: Vec<Result<bool>> = jobs
        .iter()
        .map(|job| {
            blob::forget_labels(inner, &job.digest).context(|| cannot(job))?;
            ingest::rename(inner, &job.data, &job.digest).context(|| cannot(job))
        })
        .collect();
    let durable = jobs.iter().zip(named).map(|(job, named)| {
        let is_new = named?;
        // Each algorithm has one directory. Who finds it already synced was renamed before that.
        if !synced.contains(&job.digest.algorithm()) {
            inner.durability.sync_parent(&inner.blob_path(&job.digest)).context(|| cannot(job))?;
            synced.insert(job.digest.algorithm());
        }
        Ok(is_new)
    });
    let durable = durable.collect();
    let recorded = record_all(inner, jobs, durable).into_iter().zip(jobs);
    recorded.map(|(outcome, job)| outcome.context(|| cannot(job))).collect()
}

/// Writes what the database is to know of those that are durable, in one transaction if that works.
fn record_all(inner: &Inner, jobs: &[Job], durable: Vec<Result<bool>>) -> Vec<Result<bool>> {
    let now = inner.now();
    let wanted: Vec<bool> =
        jobs.iter().zip(&durable).map(|(job, durable)| durable.is_ok() && job.has_record()).collect();
    let mut failures: HashMap<usize, Error> = HashMap::new();
    if wanted.contains(&true) {
        let written = inner.metadata.write_blocking(|connection| {
            let mut failures = HashMap::new();
            for (at, job) in jobs.iter().enumerate().filter(|(at, _)| wanted[*at]) {
                connection.execute_batch("SAVEPOINT publish")?;
                let is_new = matches!(durable[at], Ok(true));
                if let Err(error) = record(connection, job, is_new, now) {
                    connection.execute_batch("ROLLBACK TO publish")?;
                    failures.insert(at, error);
                }
                connection.execute_batch("RELEASE publish")?;
            }
            Ok(failures)
        });
        match written {
            Ok(found) => failures = found,
            // Each by itself, so that each has an error of its own or none.
            Err(_) => {
                for (at, job) in jobs.iter().enumerate().filter(|(at, _)| wanted[*at]) {
                    let is_new = matches!(durable[at], Ok(true));
                    let write = |connection: &Connection| record(connection, job, is_new, now);
                    if let Err(error) = inner.metadata.write_blocking(write) {
                        failures.insert(at, error);
                    }
                }
            }
        }
    }
    let outcomes = durable.into_iter().enumerate();
    outcomes.map(|(at, outcome)| failures.remove(&at).map_or(outcome, Err)).collect()
}

impl Job {
    fn has_record(&self) -> bool {
        !self.labels.is_empty() || self.lease.is_some()
    }
}

fn record(connection: &Connection, job: &Job, is_new: bool, now: SystemTime) -> Result<()> {
    if is_new && !job.labels.is_empty() {
        blob::add_labels(connection, &job.digest, &job.labels, now)?;
    }
    match &job.lease {
        Some(lease) => leases::add(connection, lease, &[Resource::Content(job.digest.clone())]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc, thread};

    use super::*;
    use crate::{
        error::ErrorKind,
        lease::{LeaseManager, LeaseOptions},
        local::LocalStore,
    };

    fn job(inner: &Inner, number: usize, lease: &str) -> Job {
        let bytes = format!("content {number}");
        let data = inner.root.join(format!("data-{number}"));
        fs::write(&data, &bytes).expect("writes");
        let labels = Labels::from([("a".to_owned(), number.to_string())]);
        Job { data, digest: Digest::sha256(bytes.as_bytes()), labels, lease: Some(lease.to_owned()) }
    }

    async fn store() -> (tempfile::TempDir, LocalStore) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = LocalStore::open(dir.path().join("store")).await.expect("opens");
        store.create_lease(LeaseOptions::default().with_id("held")).await.expect("creates");
        (dir, store)
    }

    #[tokio::test]
    async fn what_fails_for_one_is_no_failure_of_another() {
        let (_dir, store) = store().await;
        let inner = store.inner.as_ref();
        let jobs =
            [job(inner, 0, "held"), job(inner, 1, "gone"), job(inner, 2, "held"), job(inner, 2, "held")];
        let mut jobs = jobs.to_vec();
        jobs.push(Job { data: inner.root.join("nothing"), ..job(inner, 3, "held") });
        // The second of two with one digest finds it there.
        jobs[3].data = inner.root.join("again");
        fs::write(&jobs[3].data, "content 2").expect("writes");
        let outcomes = together(inner, &jobs);
        let found: Vec<_> =
            outcomes.iter().map(|outcome| outcome.as_ref().map_err(Error::kind).copied()).collect();
        let gone = Err(ErrorKind::NotFound);
        assert_eq!(found, [Ok(true), gone, Ok(true), Ok(false), gone]);
        assert!(outcomes[1].as_ref().is_err_and(|error| error.report().contains("\"gone\"")));
        assert_eq!(store.resources("held").await.expect("lists").len(), 2);
        let labels = |at: usize| blob::labels(inner, &jobs[at].digest).expect("reads");
        assert_eq!((labels(0).len(), labels(1).len(), labels(2).len()), (1, 0, 1));
        assert!(jobs[3].data.exists(), "what gives way is left to its writer");
    }

    #[tokio::test]
    async fn many_at_once_each_have_their_own_outcome() {
        let (_dir, store) = store().await;
        let inner = Arc::clone(&store.inner);
        thread::scope(|scope| {
            for number in 0..64 {
                let inner = &inner;
                scope.spawn(move || {
                    let lease = if number % 8 == 0 { "gone" } else { "held" };
                    let outcome = publish(inner, job(inner, number, lease));
                    assert_eq!(outcome.is_ok(), number % 8 != 0, "{number}: {outcome:?}");
                    let digest = Digest::sha256(format!("content {number}").as_bytes());
                    assert!(blob::exists(inner, &digest).expect("looks"));
                });
            }
        });
        assert_eq!(store.resources("held").await.expect("lists").len(), 56);
        let state = inner.publishing.lock();
        assert!(state.waiting.is_empty() && state.done.is_empty() && !state.is_busy);
    }

    #[test]
    fn who_is_waited_for_and_fails_tells_it() {
        let queue = Queue::default();
        queue.lock().is_busy = true;
        drop(Turn { queue: &queue, tickets: vec![1, 2], outcomes: vec![Ok(true)] });
        let mut state = queue.lock();
        assert!(matches!(state.done.remove(&1), Some(Ok(true))));
        assert!(matches!(state.done.remove(&2), Some(Err(error)) if error.kind() == ErrorKind::Internal));
        assert!(!state.is_busy);
    }
}
