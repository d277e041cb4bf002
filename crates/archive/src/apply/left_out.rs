//! What of a layer could not be made, or must not be, and was left out. It is told and is no error.

use std::fmt;

use super::name::shown;

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Omission {
    /// A device, which only the superuser can make.
    Device,
    /// A device of characters with the numbers 0 and 0, which overlayfs takes for a whiteout.
    WhiteoutDevice,
    /// An extended attribute in the names of overlayfs, which is not for an image to set.
    OverlayAttribute,
    /// An extended attribute that the file system or the user's rights do not allow.
    Attribute,
    /// Owners other than the user.
    Owner,
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "devices, which only root can make",
            Self::WhiteoutDevice => "devices 0:0, which overlayfs takes for whiteouts",
            Self::OverlayAttribute => "extended attributes of overlayfs, which are not for an image to set",
            Self::Attribute => "extended attributes that are not supported or not permitted here",
            Self::Owner => "owners other than the user",
        })
    }
}

/// One kind of things that were left out of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// Why.
    pub omission: Omission,
    /// How many.
    pub count: u64,
    /// The first of them, as it may be shown.
    pub first: String,
}

/// Counts what is left out.
#[derive(Debug, Default)]
pub(super) struct Omissions(Vec<LeftOut>);

impl Omissions {
    pub(super) fn add(&mut self, omission: Omission, name: &[u8]) {
        match self.0.iter_mut().find(|left_out| left_out.omission == omission) {
            Some(left_out) => left_out.count += 1,
            None => self.0.push(LeftOut { omission, count: 1, first: shown(name) }),
        }
    }

    pub(super) fn finish(self) -> Vec<LeftOut> {
        self.0
    }
}
