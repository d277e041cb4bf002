//! What the layers below show, for a layer that is applied by itself and goes through their links: over `bin -> usr/bin`, a layer that has
//! `bin/x` and says nothing of `bin` means `usr/bin/x`.

use std::fmt;

use rustix::io::Errno;

/// Looks at the layers below as overlayfs shows them together. It follows no links: who asks has done so.
pub(crate) trait Beneath: fmt::Debug {
    /// Says that another path begins.
    fn begin(&mut self);

    /// What is shown under a name in a directory, which is given by the names on the way to it.
    ///
    /// # Errors
    /// Those of the file system; `ELOOP` where one path leads up and down more often than any does.
    fn look(&mut self, way: &[Vec<u8>], base: &[u8]) -> Result<Seen, Errno>;
}

/// What is under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Directory,
    /// A link, and where it leads.
    Link(Vec<u8>),
    Other,
}
