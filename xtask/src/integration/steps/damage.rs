//! Blobs that are not what their names say: every kind of damage to a layer, a config and a manifest is found by
//! an export, a push and by `wharf verify`, in time and with exit code 5, and neither follows nor waits for what took the
//! blob's place.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::super::layout;
use super::super::small::{FIRST, SECOND};
use super::super::store::Store;
use super::super::{Step, World};
use super::serve::Server;
use crate::failure::{Context, Result, ensure};
use crate::process::{Signal, Tool};

pub(super) const STEPS: &[Step] = &[("damage", damage)];

/// How long finding it may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The exit code for content that is not what it should be.
const MISMATCH: i32 = 5;

/// Does something to the blob at the first path; the second one is free for what it needs.
type Harm = fn(&Path, &Path) -> Result<()>;

/// Every kind.
const KINDS: &[(&str, Harm)] = &[
    ("a bit flipped", |blob, _| {
        let mut bytes = fs::read(blob).context(blob.display())?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(blob, bytes).context(blob.display())
    }),
    ("truncated", |blob, _| {
        let file = OpenOptions::new().write(true).open(blob).context(blob.display())?;
        let length = file.metadata().context(blob.display())?.len();
        file.set_len(length - 1).context(blob.display())
    }),
    ("emptied", |blob, _| File::create(blob).context(blob.display()).map(drop)),
    ("extended", |blob, _| {
        let mut file = OpenOptions::new().append(true).open(blob).context(blob.display())?;
        file.write_all(b"x").context(blob.display())
    }),
    ("replaced by a symlink to the same bytes", |blob, free| {
        fs::rename(blob, free).context(blob.display())?;
        symlink(free, blob).context(blob.display())
    }),
    ("replaced by a FIFO", |blob, _| {
        fs::remove_file(blob).context(blob.display())?;
        Tool::new("mkfifo").arg(blob).success().map(drop)
    }),
];

fn damage(world: &World) -> Result<()> {
    let store = world.store("damage")?;
    let directory = world.dir("damage")?;
    let (image, other) = (world.registry.image(FIRST), world.registry.image(SECOND));
    let manifest = store.pull(&image, &[])?;
    store.pull(&other, &[])?;
    let parsed = layout::parse(&store.layout().blob(&manifest)?)?;
    // The last layer, for the other image has the rest too.
    let last = parsed["layers"].as_array().and_then(|layers| layers.last());
    let layer = layout::text(last.context("the image has no layers")?, "digest")?;
    let config = layout::text(&parsed["config"], "digest")?;
    for (part, digest) in [("layer", &layer), ("config", &config), ("manifest", &manifest)] {
        let blob = store.root().join("blobs").join(digest.replacen(':', "/", 1));
        let (good, archive) = (fs::read(&blob).context(blob.display())?, directory.join("archive.tar"));
        // A registry that has nothing, for what it has already is not read to be pushed.
        let elsewhere = world.store(&format!("damage-{part}"))?;
        let server = Server::start(world, &elsewhere, &format!("damage-{part}"))?;
        let target = format!("127.0.0.1:{}/damaged:1", server.port);
        for (kind, harm) in KINDS {
            let free = directory.join("aside");
            harm(&blob, &free)?;
            let found = found(&store, &image, digest, &archive);
            found.context(format_args!("{part} {kind}"))?;
            let push = store.wharf(&["push", &image, &target]).limit(LIMIT).run();
            push.and_then(|push| push.expect_code(MISMATCH)).context(format_args!("push, {part} {kind}"))?;
            ensure(elsewhere.names()?.is_empty(), || format!("{part} {kind} was pushed"))?;
            fs::remove_file(&blob).context(blob.display())?;
            fs::write(&blob, &good).context(blob.display())?;
            if free.exists() {
                fs::remove_file(&free).context(free.display())?;
            }
        }
        // The twin: what was mended passes.
        store.verify()?;
        store.wharf(&["push", &image, &target]).success()?;
        server.daemon.stop(Signal::Terminate)?;
        elsewhere.verify()?;
    }
    store.wharf(&["export", &other, "-o", &directory.join("other.tar").to_string_lossy()]).success().map(drop)
}

/// Export and verify both find it; the export leaves no archive, and verify names the blob.
fn found(store: &Store<'_>, image: &str, digest: &str, archive: &Path) -> Result<()> {
    let export = store.wharf(&["export", image, "-o", &archive.to_string_lossy()]);
    export.limit(LIMIT).run()?.expect_code(MISMATCH)?.expect_said(&["error"])?;
    ensure(!archive.exists(), || "the export leaves an archive".to_owned())?;
    let verify = store.wharf(&["verify"]).limit(LIMIT).run()?.expect_code(MISMATCH)?;
    let said = format!("{}{}", String::from_utf8_lossy(&verify.stdout), verify.stderr);
    ensure(said.contains(digest), || format!("verify does not name {digest}:\n{said}"))?;
    ensure(said.contains(image), || format!("verify does not name {image}:\n{said}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_kind_changes_the_blob() {
        for (kind, harm) in KINDS {
            let scratch = Scratch::new("harm").unwrap();
            let (blob, free) = (scratch.path().join("blob"), scratch.path().join("free"));
            fs::write(&blob, "good").unwrap();
            harm(&blob, &free).unwrap();
            let found = fs::symlink_metadata(&blob).unwrap().file_type();
            let other = found.is_symlink() || found.is_fifo() || fs::read(&blob).unwrap() != b"good";
            assert!(other, "{kind}");
        }
    }
}
