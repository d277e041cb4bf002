//! Disks that fail: no room, no inodes, no right to write, a sync that goes wrong. The error has exit code 8, the
//! images that were there stay whole, and the same command passes once the disk is well again.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::mounts::SmallDisk;
use super::super::small::{FIRST, SECOND};
use super::super::store::Store;
use super::super::strace::{self, Inject};
use super::super::{Step, World};
use super::serve::Server;
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::{Finished, Signal, Tool};

pub(super) const STEPS: &[Step] = &[
    ("store-read-only", read_only),
    ("disk-full", disk_full),
    ("disk-full-small", disk_full_small),
    ("no-inodes", no_inodes),
    ("fsync-fails", fsync_fails),
    ("serve-disk-full", served_when_full),
];

/// The exit code for what the local disk does.
const LOCAL: i32 = 8;

/// A store on a disk of its own.
fn on_disk<'a>(world: &'a World, disk: &SmallDisk) -> Store<'a> {
    let root = disk.directory().join("store");
    Store::elsewhere(&world.wharf, root, disk.wrapper(), disk.seen().join("store"))
}

/// The images are these, and all of them are whole, by wharf and by sha256sum.
fn intact(store: &Store<'_>, images: &[&String]) -> Result<()> {
    let mut names: Vec<String> = images.iter().copied().cloned().collect();
    names.sort();
    ensure_equal("names", &store.names()?, &names)?;
    store.layout().verify()?;
    store.verify()
}

/// A store on a read-only file system cannot be pulled into, and is as it was afterwards.
fn read_only(world: &World) -> Result<()> {
    let directory = world.dir("read-only")?;
    let disk = SmallDisk::mount(&directory.join("disk"), "size=64m", &directory)?;
    let store = on_disk(world, &disk);
    let (image, other) = (&world.fixture.single, &world.fixture.docker.image);
    store.pull(image, &[])?;
    disk.remount("ro")?;
    store.fails(&["pull", other], LOCAL)?;
    store.fails(&["gc"], LOCAL)?;
    store.layout().verify()?;
    disk.remount("rw")?;
    intact(&store, &[image])?;
    store.pull(other, &[])?;
    intact(&store, &[image, other])?;
    disk.remount("ro")?;
    // A store that was never made, in the same place.
    let root = disk.directory().join("other");
    let other = Store::elsewhere(&world.wharf, root, disk.wrapper(), disk.seen().join("other"));
    other.fails(&["pull", image], LOCAL).map(drop)
}

/// The disk is full in the middle of a layer: the image that was there stays whole, and with more room the same
/// pull succeeds.
fn disk_full(world: &World) -> Result<()> {
    let directory = world.dir("disk-full")?;
    let disk = SmallDisk::mount(&directory.join("disk"), "size=48m", &directory)?;
    let store = on_disk(world, &disk);
    let (image, big) = (&world.fixture.single, world.registry.image(world.fixture.big));
    store.pull(image, &[])?;
    store.fails(&["pull", &big], LOCAL)?;
    intact_when_full(&store, image)?;
    disk.remount("size=400m")?;
    store.pull(&big, &[])?;
    intact(&store, &[image, &big])
}

/// A full disk must not even have room for a database's journal, and still the images can be read.
fn intact_when_full(store: &Store<'_>, image: &str) -> Result<()> {
    ensure_equal("names", &store.names()?, &vec![image.to_owned()])?;
    store.layout().verify()
}

/// No room at every stage, from a store that cannot be made to a last block that is missing.
fn disk_full_small(world: &World) -> Result<()> {
    let directory = world.dir("disk-full-small")?;
    let disk = SmallDisk::mount(&directory.join("disk"), "size=64m", &directory)?;
    let store = on_disk(world, &disk);
    let (first, second) = (world.registry.image(FIRST), world.registry.image(SECOND));
    store.pull(&first, &[])?;
    let used = kibibytes(&disk, "used")?;
    // From no room at all to less than the 500 kB of the last layer.
    for free in [0, 4, 8, 16, 32, 64, 128, 256, 384] {
        disk.remount(&format!("size={}k", used + free))?;
        let failed = store.fails(&["pull", &second], LOCAL);
        failed.context(format_args!("with {free} KiB free"))?;
        disk.remount("size=64m")?;
        intact(&store, &[&first]).context(format_args!("after {free} KiB free"))?;
    }
    store.pull(&second, &[])?;
    intact(&store, &[&first, &second])?;
    store.gc(&[])?;
    store.only_needed()
}

/// A registry whose disk is full is pulled from by tag and by digest, and takes nothing more.
fn served_when_full(world: &World) -> Result<()> {
    let directory = world.dir("serve-disk-full")?;
    let disk = SmallDisk::mount(&directory.join("disk"), "size=64m", &directory)?;
    let store = on_disk(world, &disk);
    let digest = store.pull(&world.registry.image(FIRST), &[])?;
    let server = Server::start(world, &store, "serve-disk-full")?;
    disk.remount(&format!("size={}k", kibibytes(&disk, "used")?))?;
    let registry = format!("127.0.0.1:{}", server.port);
    let name = format!("{registry}/{FIRST}");
    let (repository, _) = name.rsplit_once(':').context(FIRST)?;
    let pulled = world.store("serve-disk-full-pulled")?;
    ensure_equal("the digest", &pulled.pull(&name, &[])?, &digest)?;
    pulled.wharf(&["pull", &format!("{repository}@{digest}")]).success()?;
    let seeds = world.store("serve-disk-full-seeds")?;
    let second = world.registry.image(SECOND);
    seeds.pull(&second, &[])?;
    let refused = seeds.fails(&["push", &second, &format!("{registry}/{SECOND}")], 6)?;
    ensure(refused.stderr.contains("507"), || format!("a push is told {}", refused.stderr))?;
    server.daemon.stop(Signal::Terminate)?;
    disk.remount("size=64m")?;
    intact(&store, &[&world.registry.image(FIRST)])
}

/// A column of df for the disk, in KiB.
fn kibibytes(disk: &SmallDisk, column: &str) -> Result<u64> {
    let text = in_namespace(disk, &["df", "--block-size=1K", &format!("--output={column}")]).text()?;
    number(&text)
}

/// The last word of df's output.
fn number(text: &str) -> Result<u64> {
    let last = text.split_whitespace().last();
    last.and_then(|word| word.parse().ok()).context(format_args!("df prints {text:?}"))
}

/// A program on the disk's mount point, in its namespace.
fn in_namespace(disk: &SmallDisk, command: &[&str]) -> Tool {
    let wrapper = disk.wrapper();
    let tool = wrapper.iter().skip(1).fold(Tool::new(&wrapper[0]), Tool::arg);
    tool.args(command).arg(disk.directory())
}

/// There is room for bytes and none for names.
fn no_inodes(world: &World) -> Result<()> {
    let directory = world.dir("no-inodes")?;
    let disk = SmallDisk::mount(&directory.join("disk"), "size=64m,nr_inodes=1000", &directory)?;
    let store = on_disk(world, &disk);
    let (first, second) = (world.registry.image(FIRST), world.registry.image(SECOND));
    store.pull(&first, &[])?;
    let used = number(&in_namespace(&disk, &["df", "--output=iused"]).text()?)?;
    for free in [0, 1, 2, 3, 4, 5] {
        disk.remount(&format!("nr_inodes={}", used + free))?;
        let failed = store.fails(&["pull", &second], LOCAL);
        failed.context(format_args!("with {free} inodes free"))?;
        disk.remount("nr_inodes=1000")?;
        intact(&store, &[&first]).context(format_args!("after {free} inodes free"))?;
    }
    store.pull(&second, &[])?;
    intact(&store, &[&first, &second])
}

/// fsync fails with EIO at every place where it is called: exit code 8, nothing lost, and the next pull passes.
fn fsync_fails(world: &World) -> Result<()> {
    let directory = world.dir("fsync-fails")?;
    let log = directory.join("strace");
    let (first, second) = (world.registry.image(FIRST), world.registry.image(SECOND));
    let store = world.store("fsync-fails")?;
    store.pull(&first, &[])?;
    let survey = traced(world, &store, strace::wrapper(&log, "fsync,fdatasync", None, Inject::Nothing));
    survey.wharf(&["pull", &second]).success()?;
    let text = fs::read_to_string(&log).context(log.display())?;
    let points = strace::points(&text, store.root());
    ensure(points.len() > 2, || format!("strace sees {points:?} only"))?;
    // By path, then by number, and at last the disk fails for good.
    let mut plans: Vec<_> = points.iter().map(|point| (Some(&point.path), Inject::Fail(1))).collect();
    plans.extend((1..=points.iter().map(|point| point.times).sum()).map(|when| (None, Inject::Fail(when))));
    plans.push((None, Inject::FailFrom(1)));
    let mut failures = 0;
    let mut complaints = Vec::new();
    for (path, inject) in plans {
        store.wharf(&["images", "rm", &second]).success()?;
        store.gc(&[])?;
        let wrapper = strace::wrapper(&log, "fsync,fdatasync", path.map(PathBuf::as_path), inject);
        let finished = traced(world, &store, wrapper).wharf(&["pull", &second]).run()?;
        failures += usize::from(finished.code == LOCAL);
        if let Err(failure) = after_fsync(&store, &finished, &log, [&first, &second]) {
            complaints.push(format!("{inject:?} on {path:?}: {failure}"));
        }
        // Whatever was wrong must not be what the next plan finds.
        store.wharf(&["pull", &second]).success()?;
    }
    let all = complaints.len();
    complaints.truncate(5);
    ensure(all == 0, || format!("{all} times, first:\n  {}", complaints.join("\n  ")))?;
    ensure(failures > points.len() / 2, || format!("only {failures} failures"))?;
    println!("  {failures} pulls failed as they must");
    Ok(())
}

/// What must hold after a pull of the second image in which syncs failed.
fn after_fsync(store: &Store<'_>, finished: &Finished, log: &Path, images: [&String; 2]) -> Result<()> {
    let text = fs::read_to_string(log).context(log.display())?;
    let injected = strace::injected(&text);
    // The last connection to a database copies its log when it goes: all is safe there by then, and what fails is
    // done again by the next one.
    let fine = injected == 0 || (finished.code == 0 && is_of_the_database(&text, store.root()));
    let expected = if fine { 0 } else { LOCAL };
    ensure(finished.code == expected, || {
        format!("exit code {} after {injected} failures: {}", finished.code, finished.stderr)
    })?;
    store.verify()?;
    ensure(store.names()?.contains(images[0]), || format!("{} is gone", images[0]))?;
    store.wharf(&["pull", images[1]]).success()?;
    intact(store, &images)
}

/// Whether every call that was made to fail was on the database, its log, or the store's root, which SQLite syncs after
/// it has made a file there and without asking how that went.
fn is_of_the_database(log: &str, root: &Path) -> bool {
    let root = format!("<{}>)", root.display());
    let mut injected = log.lines().filter(|line| line.ends_with("(INJECTED)"));
    injected.all(|line| line.contains("/metadata.db") || line.contains(&root))
}

/// The same store, with wharf under strace.
fn traced<'a>(world: &'a World, store: &Store<'_>, wrapper: Vec<OsString>) -> Store<'a> {
    Store::elsewhere(&world.wharf, store.root().to_owned(), wrapper, store.root().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_df_is_the_number() {
        assert_eq!(number("  Used\n 1428\n").unwrap(), 1428);
        for broken in ["", "Used\n", "Used\n-\n"] {
            assert!(number(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn what_the_database_syncs_is_told_from_blobs() {
        let line = |path: &str| format!("1 fsync(3<{path}>) = -1 EIO (Input/output error) (INJECTED)\n");
        let ours = |log: &str| is_of_the_database(log, Path::new("/s"));
        let (database, root, blob) = (line("/s/metadata.db-wal"), line("/s"), line("/s/ingest/a/data"));
        assert!(ours(&database) && ours(&root));
        assert!(!ours(&blob) && !ours(&format!("{database}{blob}")) && !ours(&line("/s/blobs/sha256")));
    }
}
