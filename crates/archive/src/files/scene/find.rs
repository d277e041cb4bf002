//! Finding files by their paths: below the root only, with links followed there.

use std::collections::VecDeque;

use wharf_content::{Error, Result};

use super::{Facts, Id, Look, MAX_LINKS, NOBODY, NodeKind, ROOT, Scene};
use crate::apply::shown;

/// What is done about directories that are missing on the way to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Leave,
}

/// The directory that something is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parent {
    Found(Id),
    Missing,
    /// Nobody knows, because of the first of these, which are the rest of the way.
    Unknown(Vec<Vec<u8>>),
}

/// What is done about a link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::files) enum Final {
    /// It is followed.
    Follow,
    /// It is what was asked for.
    Keep,
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::files) enum Found {
    /// This, whose path without links is that.
    Node(Id, Vec<u8>),
    Missing,
    /// That depends on layers that were not read.
    Unknown,
}

impl Scene {
    /// Finds a directory, as applying a layer does.
    ///
    /// # Errors
    /// `FailedPrecondition` where something on the way to what is to be made is no directory.
    pub(super) fn parent(&mut self, path: &[&[u8]], missing: Missing) -> Result<Parent> {
        let mut left: VecDeque<Vec<u8>> = path.iter().map(|part| part.to_vec()).collect();
        let (mut links, mut way) = (0, Vec::new());
        while let Some(part) = left.pop_front() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    way.pop();
                    continue;
                }
                _ => {}
            }
            let at = way.last().copied().unwrap_or(ROOT);
            let id = match self.look(at, &part) {
                Look::Unknown => {
                    left.push_front(part);
                    return Ok(Parent::Unknown(left.into()));
                }
                Look::Absent if missing == Missing::Leave => return Ok(Parent::Missing),
                Look::Absent => {
                    let facts = Facts { mode: 0o755, ..Facts::default() };
                    way.push(self.make(at, &part, false, None, facts, NOBODY)?);
                    continue;
                }
                Look::Node(id) => id,
            };
            match &self.node(id).kind {
                NodeKind::Directory(_) => way.push(id),
                NodeKind::Symlink(target) => follow(target, &mut left, &mut links, || way.clear())?,
                _ if missing == Missing::Leave => return Ok(Parent::Missing),
                _ => {
                    return Err(Error::failed_precondition(format!(
                        "{} is no directory, and something is to be in it: {}",
                        shown(&part),
                        shown(&path.join(&b'/'))
                    )));
                }
            }
        }
        Ok(Parent::Found(way.pop().unwrap_or(ROOT)))
    }

    /// Finds what a path leads to.
    ///
    /// # Errors
    /// `FailedPrecondition` for too many links.
    pub(in crate::files) fn find(&self, path: &[u8], last: Final) -> Result<Found> {
        let mut left: VecDeque<Vec<u8>> = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        // A slash behind it asks for the directory.
        let is_directory = matches!(left.back().map(|part| &part[..]), Some(b"" | b"." | b".."));
        left.retain(|part| !matches!(&part[..], b"" | b"."));
        let mut links = 0;
        let mut way: Vec<(Id, Vec<u8>)> = Vec::new();
        while let Some(part) = left.pop_front() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    way.pop();
                    continue;
                }
                _ => {}
            }
            let at = way.last().map_or(ROOT, |(id, _)| *id);
            if self.folder(at).is_none() {
                return Ok(Found::Missing);
            }
            let id = match self.look(at, &part) {
                Look::Unknown => return Ok(Found::Unknown),
                Look::Absent => return Ok(Found::Missing),
                Look::Node(id) => id,
            };
            match &self.node(id).kind {
                NodeKind::Symlink(target) if !left.is_empty() || last == Final::Follow || is_directory => {
                    follow(target, &mut left, &mut links, || way.clear())?;
                }
                _ => way.push((id, part)),
            }
        }
        let names: Vec<&[u8]> = way.iter().map(|(_, name)| &name[..]).collect();
        let path = names.join(&b'/');
        let id = way.last().map_or(ROOT, |(id, _)| *id);
        if is_directory && self.folder(id).is_none() {
            return Ok(Found::Missing);
        }
        Ok(Found::Node(id, path))
    }

    /// Goes through what is below a directory, in the order of paths' components; false when something of it is not known.
    pub(in crate::files) fn is_known_below(&self, id: Id) -> bool {
        let mut left = vec![id];
        let doubt = self.doubtful.values().copied().max().unwrap_or(0);
        let doubt = doubt.max(self.doubtful_all).max(self.doubtful_made);
        while let Some(id) = left.pop() {
            let Some(folder) = self.folder(id) else { continue };
            if folder.is_open || folder.since <= doubt {
                return false;
            }
            for child in folder.children.values() {
                match child.node {
                    _ if child.since <= doubt => return false,
                    Some(id) if matches!(self.node(id).kind, NodeKind::Unknown) => return false,
                    Some(id) => left.push(id),
                    None => {}
                }
            }
        }
        true
    }

    /// Shows everything below a directory, each directory before what is in it.
    pub(in crate::files) fn visit(
        &self,
        id: Id,
        path: &[u8],
        visit: &mut dyn FnMut(&[u8], Id) -> Result<()>,
    ) -> Result<()> {
        let mut path = path.to_vec();
        if !path.is_empty() {
            visit(&path, id)?;
        }
        let Some(folder) = self.folder(id) else { return Ok(()) };
        // How long the path of each directory on the way is, and what is left in it.
        let mut way = vec![(path.len(), folder.children.iter())];
        while let Some((len, children)) = way.last_mut() {
            let len = *len;
            let Some((name, child)) = children.next() else {
                way.pop();
                continue;
            };
            let Some(id) = child.node else { continue };
            path.truncate(len);
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            visit(&path, id)?;
            if let Some(folder) = self.folder(id) {
                way.push((path.len(), folder.children.iter()));
            }
        }
        Ok(())
    }
}

/// Puts what a link says in front of the rest of the way.
fn follow(
    target: &[u8],
    left: &mut VecDeque<Vec<u8>>,
    links: &mut usize,
    to_root: impl FnOnce(),
) -> Result<()> {
    *links += 1;
    if *links > MAX_LINKS {
        return Err(Error::failed_precondition(format!(
            "more than {MAX_LINKS} links on the way, the last of which leads to {}: they go in a circle",
            shown(target)
        )));
    }
    if target.starts_with(b"/") {
        to_root();
    }
    for part in target.split(|byte| *byte == b'/').rev() {
        left.push_front(part.to_vec());
    }
    Ok(())
}
