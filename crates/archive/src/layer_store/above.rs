//! Layers that go through links of those below.
//!
//! A layer is applied by itself while those below are still being unpacked, so that what it has in `bin` becomes a directory `bin`. Where `bin`
//! turns out to be a link below, that directory would hide it, and the layer means something else: what is in `bin` belongs where the link
//! leads, whiteouts too (containerd: `pkg/archive/tar.go`, which applies onto the mounted layers below). Then, when those are there, it
//! is unpacked once more from its blob, by itself again and with them in sight. Entries come in their order, so that the later of two that mean
//! one place counts, and all is as in a root that holds all layers. Few layers need it, made by tools that do not know their base.

use std::sync::{Arc, Weak};

use rustix::{fs::readlinkat, io::Errno};
use tokio::runtime::Handle;
use wharf_content::{LeasedStore, Provider, Result};
use wharf_images::{layer::BlobStream, progress::Silent};

use super::{
    Kind, LayerStore,
    image_layers::{Planned, Staged, stage},
    inherit::{Below, Root, Shown},
};
use crate::{
    apply::{ApplyOptions, Beneath, Seen, cannot},
    unpack::{
        UnpackOptions,
        ahead::{Buffers, Job},
    },
};

/// How many names of ways that were left are gone down once more, beyond what each path may: links lead up again a few times, and not thousands.
const MAX_AGAIN: usize = 8192;
/// How many more each path may.
const EACH_AGAIN: usize = 64;

/// Layers as overlayfs shows them together, where one asks at one place for many names.
#[derive(Debug)]
struct Merged {
    /// Lowest first.
    layers: Vec<Root>,
    /// Where one asked last.
    below: Below,
    way: Vec<Vec<u8>>,
    /// How many names may still be gone down again.
    left: usize,
}

impl Merged {
    fn of(layers: &[Root]) -> Result<Self, Errno> {
        let layers = layers.iter().map(Root::again).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { below: Below::of(&layers)?, layers, way: Vec::new(), left: MAX_AGAIN })
    }
}

impl Beneath for Merged {
    fn begin(&mut self) {
        self.left = (self.left + EACH_AGAIN).min(MAX_AGAIN);
    }

    fn look(&mut self, way: &[Vec<u8>], base: &[u8]) -> Result<Seen, Errno> {
        if !way.starts_with(&self.way) {
            self.left = self.left.checked_sub(way.len()).ok_or(Errno::LOOP)?;
            self.below = Below::of(&self.layers)?;
            self.way.clear();
        }
        for part in &way[self.way.len()..] {
            self.below.enter(part)?;
            self.way.push(part.clone());
        }
        if let Some(Shown::Other { .. }) = self.below.seen() {
            // What is in its place hides it.
            return Ok(Seen::Nothing);
        }
        Ok(match self.below.inside(base)?.seen() {
            None => Seen::Nothing,
            Some(Shown::Directory { .. }) => Seen::Directory,
            Some(Shown::Other { kind: rustix::fs::FileType::Symlink, fd, .. }) => {
                Seen::Link(readlinkat(fd, "", Vec::new())?.into_bytes())
            }
            Some(Shown::Other { .. }) => Seen::Other,
        })
    }
}

/// What it takes to unpack a layer once more.
pub(super) struct Again {
    pub(super) store: Arc<LeasedStore>,
    pub(super) options: UnpackOptions,
    pub(super) runtime: Handle,
    pub(super) waiting: Weak<()>,
}

impl Again {
    /// Unpacks a layer beside its place, above others, the lowest first. Blocks.
    ///
    /// # Errors
    /// `FailedPrecondition` where something is to be below what is no directory; those of unpacking it the first time.
    pub(super) fn stage(&self, layers: &LayerStore, planned: &Planned, below: &[Root]) -> Result<Staged> {
        let reader = self.runtime.block_on(self.store.reader(&planned.layer))?;
        let job = Job {
            layer: planned.layer.clone(),
            diff_id: planned.diff_id.clone(),
            stream: BlobStream::new(reader, self.runtime.clone()),
            buffers: Buffers::shared_by(1),
            is_verified: false,
            catalogue: self.options.catalogue.clone(),
            options: self.options.layers,
            // It was told of all of it before.
            sink: Arc::new(Silent),
        };
        let kind = Kind::of(self.options.ownership);
        let options =
            ApplyOptions::new().with_ownership(self.options.ownership).with_whiteouts(kind.whiteouts());
        let merged = Merged::of(below).map_err(|error| cannot("look at the layers below", b".", error))?;
        stage(layers, planned.clone(), job, &options, &self.waiting, Some(Box::new(merged)))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::apply::LOOKS;

    fn way(path: &str) -> Vec<Vec<u8>> {
        path.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_topmost_is_seen_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        for path in ["low/usr/bin", "low/usr/own", "top/usr/lib"] {
            fs::create_dir_all(at(path)).expect("makes");
        }
        symlink("usr/bin", at("low/bin")).expect("links");
        symlink("../own", at("low/usr/lib")).expect("links");
        fs::write(at("low/file"), "").expect("writes");
        fs::write(at("top/usr/own"), "").expect("writes");
        let roots = ["low", "top"].map(|name| Root::open(&at(name)).expect("opens"));
        let mut merged = Merged::of(&roots).expect("opens");
        for (place, base, expected) in [
            ("", "bin", Seen::Link(b"usr/bin".to_vec())),
            ("", "file", Seen::Other),
            ("", "none", Seen::Nothing),
            ("usr", "bin", Seen::Directory),
            ("usr", "lib", Seen::Directory),
            ("usr", "own", Seen::Other),
            // A directory of the layer itself is in the place of these.
            ("bin", "x", Seen::Nothing),
            ("file", "x", Seen::Nothing),
            ("none/none", "x", Seen::Nothing),
        ] {
            merged.begin();
            let seen = merged.look(&way(place), base.as_bytes()).expect("looks");
            assert_eq!(seen, expected, "{place}/{base}");
        }
    }

    #[test]
    fn a_way_is_gone_down_once_for_many_names_and_again_a_few_times() {
        const DEPTH: usize = 500;
        let dir = tempfile::tempdir().expect("a directory");
        let path = vec!["d"; DEPTH].join("/");
        fs::create_dir_all(dir.path().join(&path)).expect("makes");
        let mut merged = Merged::of(&[Root::open(dir.path()).expect("opens")]).expect("opens");
        let (deep, other) = (way(&path), way("x"));
        LOOKS.set(0);
        for depth in 0..DEPTH {
            assert_eq!(merged.look(&deep[..depth], b"d"), Ok(Seen::Directory));
        }
        for _ in 0..100 {
            assert_eq!(merged.look(&deep, b"none"), Ok(Seen::Nothing));
        }
        let looks = LOOKS.get();
        assert!((DEPTH..3 * DEPTH).contains(&looks), "{looks} directories were looked at");
        let mut up_and_down =
            || (0..DEPTH).try_for_each(|_| merged.look(&other, b"y").and(merged.look(&deep, b"y")).map(drop));
        assert_eq!(up_and_down(), Err(Errno::LOOP));
        // Each path adds a little to what all may.
        assert_eq!(merged.look(&deep, b"none"), Err(Errno::LOOP));
        (0..=DEPTH / EACH_AGAIN).for_each(|_| merged.begin());
        assert_eq!(merged.look(&deep, b"none"), Ok(Seen::Nothing));
    }
}
