//! skopeo, containerd and wharf push and pull everything that there is here by way of one `wharf serve`, all at once and more than
//! once: into repositories of their own and under names that they share, while the store is verified and collected.

use std::sync::{Mutex, PoisonError};
use std::thread;

use super::super::super::assortment;
use super::super::super::store::Store;
use super::super::super::{Step, World};
use super::site::{Door, Site};
use crate::failure::{Failure, Result, ensure, ensure_equal};

pub(super) const STEPS: &[Step] = &[
    ("serve-everything", |world| everything(world, "everything", Door::Open, 2)),
    ("serve-everything-tls", |world| everything(world, "everything-tls", Door::Tls, 1)),
    ("serve-everything-passwords", |world| everything(world, "everything-in", Door::Passwords, 1)),
];

/// How many programs run at once.
const AT_ONCE: usize = 8;

/// Something that a client does.
type Job<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// What is heavy comes in the first round of the open door only. Before each further round everything is taken out of the store
/// behind the server's back, so that it comes anew.
fn everything(world: &World, name: &str, door: Door, rounds: u32) -> Result<()> {
    let mut pieces = assortment::build(world)?;
    pieces.retain(|piece| !piece.is_heavy || door == Door::Open);
    let store = world.store(name)?;
    let site = &Site::start(world, &store, name, door)?;
    site.seed(&pieces)?;
    let mut names = Vec::new();
    for round in 0..rounds {
        if round > 0 {
            clear(&store)?;
            pieces.retain(|piece| !piece.is_heavy);
        }
        names.clear();
        let mut jobs: Vec<Job<'_>> = vec![Box::new(|| beside(&store))];
        for piece in &pieces {
            let shared = site.image(&format!("everybody/{}:1", piece.kind));
            names.push(shared.clone());
            for client in piece.clients {
                let own = site.image(&format!("{}/{}:{round}", client.name(), piece.kind));
                names.push(own.clone());
                let shared = shared.clone();
                jobs.push(Box::new(move || {
                    site.push(*client, piece, &own)?;
                    site.push(*client, piece, &shared)?;
                    site.pulls(*client, &shared, &piece.digest)
                }));
            }
        }
        at_once(jobs)?;
        beside(&store)?;
        // What one has pushed, the next one pulls.
        let mut jobs: Vec<Job<'_>> = Vec::new();
        for piece in &pieces {
            for (client, next) in piece.clients.iter().zip(piece.clients.iter().cycle().skip(1)) {
                let own = site.image(&format!("{}/{}:{round}", client.name(), piece.kind));
                jobs.push(Box::new(move || site.pulls(*next, &own, &piece.digest)));
            }
        }
        at_once(jobs)?;
    }
    store.layout().verify()?;
    names.sort();
    ensure_equal("the names in the store", &store.names()?, &names)?;
    for record in store.records()? {
        let piece = pieces.iter().find(|piece| record.name.contains(&format!("/{}:", piece.kind)));
        let expected = piece.map(|piece| piece.digest.as_str());
        ensure_equal(&record.name, &Some(record.digest.as_str()), &expected)?;
    }
    clear(&store)
}

/// Verifies and collects. Nothing may be missing after it.
fn beside(store: &Store<'_>) -> Result<()> {
    store.verify()?;
    store.gc(&[])?;
    store.verify()
}

/// Takes every image out, and with it everything, since the server holds only what is no image's.
fn clear(store: &Store<'_>) -> Result<()> {
    let names = store.names()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    store.wharf(&[&["images", "rm"], &names[..]].concat()).success()?;
    release(store)?;
    store.gc(&[])?;
    ensure_equal("blobs without images", &store.layout().blobs()?, &Vec::new())?;
    store.only_needed()
}

/// Ends what the server holds for those who may be pushing. There is no more of it than one lease of the hour.
pub(super) fn release(store: &Store<'_>) -> Result<()> {
    let leases = store.wharf(&["lease", "ls", "-q"]).text()?;
    ensure(leases.lines().count() <= 1, || format!("leases that no push needs any more: {leases}"))?;
    for lease in leases.lines() {
        store.wharf(&["lease", "rm", lease]).success()?;
    }
    Ok(())
}

/// Does everything, a few things at a time, and tells all that went wrong.
fn at_once(mut jobs: Vec<Job<'_>>) -> Result<()> {
    jobs.reverse();
    let (jobs, failures) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(job) = next() {
                    if let Err(failure) = job() {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure.to_string());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failures.is_empty() { Ok(()) } else { Err(Failure::new(failures.join("\n  "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn everything_is_done_and_all_failures_are_told() {
        let done = AtomicU32::new(0);
        let fine = || -> Job<'_> {
            Box::new(|| {
                done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        };
        at_once((0..50).map(|_| fine()).collect()).unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 50);
        let broken = |what: &'static str| -> Job<'_> { Box::new(move || Err(Failure::new(what))) };
        let error = at_once(vec![broken("one"), fine(), broken("two")]).unwrap_err().to_string();
        assert!(error.contains("one") && error.contains("two"), "{error}");
        assert_eq!(done.load(Ordering::Relaxed), 51);
    }
}
