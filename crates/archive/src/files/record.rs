//! What a layer says of its entries, without their content, in as little memory as it takes.

use std::{
    io::Read,
    sync::{Arc, Weak},
};

use wharf_content::{Error, ErrorKind, Result};

use super::budget::Budget;
use crate::{
    apply::{Name, components, shown},
    untar::{Entry, Kind, TarReader, Time},
};

/// What a file has of attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Option<Time>,
    pub(super) size: u64,
    pub(super) device: (u32, u32),
}

/// What an entry makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    File,
    Directory,
    Symlink(Arc<[u8]>),
    HardLink(Box<[u8]>),
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) name: Box<[u8]>,
    pub(super) what: What,
    pub(super) facts: Facts,
}

/// All entries of a layer, in order.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) records: Vec<Record>,
    /// The content of the entry that was asked for by its name, where it is short: which entry it is, and its bytes.
    pub(super) kept: Option<(usize, Vec<u8>)>,
}

/// The longest content that is kept.
const MAX_KEPT_LEN: u64 = 1024 * 1024;

impl Records {
    /// Reads a layer to its end. `wanted` is the name of a file whose content is kept.
    pub(super) fn read(
        layer: impl Read,
        wanted: Option<&[&[u8]]>,
        budget: &mut Budget,
        waiting: &Weak<()>,
    ) -> Result<Self> {
        let mut tar = TarReader::of_layer(layer);
        let mut read = Self::default();
        while let Some(entry) = tar.next()? {
            if waiting.strong_count() == 0 {
                return Err(Error::new(ErrorKind::Aborted, "nobody waits for it"));
            }
            let is_wanted = entry.kind == Kind::File
                && entry.sparse.is_none()
                && entry.size <= MAX_KEPT_LEN
                && wanted.is_some_and(|wanted| components(&entry.name).is_ok_and(|name| name == wanted));
            if is_wanted {
                let mut bytes = Vec::new();
                while let Some(chunk) = tar.chunk()? {
                    bytes.extend_from_slice(&chunk);
                }
                budget.take(bytes.len())?;
                read.kept = Some((read.records.len(), bytes));
            }
            let record = Record::new(entry)?;
            let link_len = match &record.what {
                What::Symlink(target) => target.len(),
                What::HardLink(target) => target.len(),
                _ => 0,
            };
            budget.take(size_of::<Record>() + record.name.len() + link_len + 64)?;
            read.records.push(record);
        }
        Ok(read)
    }
}

impl Record {
    /// Checks what applying the layer would check.
    fn new(entry: Entry) -> Result<Self> {
        let Entry { name, kind, size, attributes, sparse } = entry;
        let makes_something = matches!(Name::parse(&name)?, Name::Node { .. } | Name::Root);
        let bad = |what: &str| {
            Error::invalid_argument(format!(
                "{} has a {what} that cannot be read or is out of range",
                shown(&name)
            ))
        };
        let what = match kind {
            Kind::Directory => What::Directory,
            Kind::Symlink(target) => What::Symlink(target.into()),
            Kind::HardLink(target) => What::HardLink(target.into()),
            Kind::CharDevice => What::CharDevice,
            Kind::BlockDevice => What::BlockDevice,
            Kind::Fifo => What::Fifo,
            Kind::Unknown(flag) if makes_something => {
                return Err(Error::invalid_argument(format!(
                    "{} is an entry of an unknown type: {:?}",
                    shown(&name),
                    char::from(flag)
                )));
            }
            // One that is not looked at any further, too.
            Kind::File | Kind::Unknown(_) => What::File,
        };
        let mut facts = Facts { size: sparse.map_or(size, |sparse| sparse.real_size), ..Facts::default() };
        if makes_something && !matches!(what, What::HardLink(_)) {
            let id = |id: Option<u64>| id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
            facts.mode = (attributes.mode.ok_or_else(|| bad("mode"))? & 0o7777) as u32;
            facts.uid = id(attributes.uid).ok_or_else(|| bad("user"))?;
            facts.gid = id(attributes.gid).ok_or_else(|| bad("group"))?;
            facts.mtime = Some(attributes.mtime.ok_or_else(|| bad("time"))?);
        }
        if matches!(what, What::CharDevice | What::BlockDevice) {
            let number = |number: Option<u64>, most: u32| {
                number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= most)
            };
            let major = number(attributes.device.0, 0xfff).ok_or_else(|| bad("device number"))?;
            let minor = number(attributes.device.1, 0xf_ffff).ok_or_else(|| bad("device number"))?;
            facts.device = (major, minor);
        }
        Ok(Self { name: name.into(), what, facts })
    }
}
