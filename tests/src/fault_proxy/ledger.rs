//! What passed a proxy: one entry for each request, kept up to date while it passes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Asked, fault::Fault};
use crate::fake::Request;

/// A request and what became of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Passed {
    /// The request, without its body.
    pub request: Request,
    /// The fault that it was to meet.
    pub fault: Option<Fault>,
    /// Whether it met it.
    pub happened: bool,
    /// The status of the answer that went to the client; `None` where none did.
    pub status: Option<u16>,
    /// How many bytes of the answer's body went to the client.
    pub served: u64,
    /// How many bytes of the request's body were taken from the client.
    pub taken: u64,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Mutex<Vec<Passed>>,
    counts: Mutex<HashMap<(String, String), u64>>,
}

/// Which entry of the ledger a request has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line(usize);

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Vec<Passed>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request among those of its method and path.
    pub(super) fn count(&self, request: Request) -> Asked {
        let path = request.path.split('?').next().unwrap_or_default();
        let path = path.split_once("/uploads/").map_or(path, |(before, _)| before).to_owned();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((request.method.clone(), path)).or_default();
        let nth = *count;
        *count += 1;
        Asked { request, nth }
    }

    pub(super) fn enter(&self, request: &Request, fault: Option<&Fault>) -> Line {
        let mut entries = self.entries();
        let (request, fault) = (request.clone(), fault.cloned());
        entries.push(Passed { request, fault, happened: false, status: None, served: 0, taken: 0 });
        Line(entries.len() - 1)
    }

    pub(super) fn change(&self, line: Line, change: impl FnOnce(&mut Passed)) {
        if let Some(entry) = self.entries().get_mut(line.0) {
            change(entry);
        }
    }

    pub(super) fn all(&self) -> Vec<Passed> {
        self.entries().clone()
    }

    pub(super) fn sum(&self, part: &str, of: impl Fn(&Passed) -> u64) -> u64 {
        self.entries().iter().filter(|entry| entry.request.path.contains(part)).map(of).sum()
    }
}
