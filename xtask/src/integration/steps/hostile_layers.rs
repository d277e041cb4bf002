//! Layers that mean harm, while another process helps them: it exchanges directories and links below the root, or the root itself.
//! And what the unit tests of layers say when the user is not root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::super::small::FIRST;
use super::super::strace::{self, Inject};
use super::super::{Step, World};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::{Finished, Tool};
use crate::scratch::Scratch;

pub(super) const STEPS: &[Step] =
    &[("exchange", exchange), ("exchange-root", exchange_root), ("tar-table", tar_table)];

/// How many times a directory and a link change places for each way of finding directories.
const SWAPS: u32 = 100_000;

/// How many layers are applied by one process.
const LAYERS: usize = 100;

/// How often an image is unpacked while its directory is exchanged.
const UNPACKS: u32 = 30;

/// How long a process may take for its layers.
const LIMIT: Duration = Duration::from_secs(120);

/// The number of a user and a group that own nothing.
const NOBODY: u32 = 65534;

/// What can be seen of all below a directory. Whatever is done to a file changes the time of its last change.
fn seen(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let found = fs::symlink_metadata(&path).context(path.display())?;
        if found.is_dir() {
            left.extend(fs::read_dir(&path).context(path.display())?.flatten().map(|entry| entry.path()));
        }
        let (owner, links) = ((found.uid(), found.gid()), found.nlink());
        let times = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
        all.push((path, format!("{:?}", (found.ino(), found.mode(), links, owner, found.len(), times))));
    }
    all.sort();
    Ok(all)
}

/// A directory with files that nobody is to touch.
fn outside(directory: &Path) -> Result<PathBuf> {
    let outside = directory.join("outside");
    for name in ["dir", "sub/dir"] {
        let path = outside.join(name);
        fs::create_dir_all(&path).context(path.display())?;
    }
    for name in ["victim", "dir/victim", "sub/dir/victim"] {
        let path = outside.join(name);
        fs::write(&path, "nobody's business").context(path.display())?;
    }
    Ok(outside)
}

/// A layer with many entries below `d`, which it does not make itself, made by GNU tar.
fn layer(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    let deep = tree.join("d/sub/dir");
    fs::create_dir_all(&deep).context(deep.display())?;
    let mut names: Vec<String> = Vec::new();
    for at in 0..30 {
        names.extend([format!("d/{at}"), format!("d/sub/dir/{at}")]);
    }
    names.extend(["d/victim", "d/sub/dir/victim", "d/sub/dir/.wh.gone"].map(str::to_owned));
    for name in &names {
        fs::write(tree.join(name), "mine").context(name)?;
    }
    fs::set_permissions(tree.join("d/victim"), Permissions::from_mode(0o4777)).context("d/victim")?;
    symlink("victim", tree.join("d/link")).context("d/link")?;
    fs::hard_link(tree.join("d/victim"), tree.join("d/sub/again")).context("d/sub/again")?;
    names.extend(["d/link", "d/sub/again", "d/dir", "d/sub/dir"].map(str::to_owned));
    fs::create_dir(tree.join("d/dir")).context("d/dir")?;
    fs::set_permissions(tree.join("d/dir"), Permissions::from_mode(0o777)).context("d/dir")?;
    for hidden in ["d/.wh.victim", "d/sub/.wh.dir", "d/.wh..wh..opq"] {
        fs::write(tree.join(hidden), "").context(hidden)?;
        names.push(hidden.to_owned());
    }
    let layer = directory.join("layer.tar");
    let tar = Tool::new("tar").args(["--create", "--no-recursion", "--file"]).arg(&layer).arg("--directory");
    tar.arg(&tree).args(&names).success()?;
    Ok(layer)
}

/// Exchanges two names all the time while something is done. Says how often that was.
fn exchanging<T>(one: &Path, other: &Path, work: impl FnOnce(&AtomicU32) -> Result<T>) -> Result<(T, u32)> {
    let (done, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
    let worked = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // There may be only one of them now.
                if renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let worked = work(&swaps);
        done.store(true, Ordering::Relaxed);
        worked
    });
    Ok((worked?, swaps.into_inner()))
}

/// Layers are applied while a directory that they go through and a link to the outside change places.
fn exchange(world: &World) -> Result<()> {
    let directory = world.dir("exchange")?;
    let (outside, layer) = (outside(&directory)?, layer(&directory)?);
    let before = seen(&outside)?;
    let program = world.workspace.build_apply_layers()?;
    for (how, has_openat2) in [("kernel", true), ("component", false)] {
        let root = directory.join(how);
        let (inside, link) = (root.join("d"), root.join("l"));
        fs::create_dir_all(&inside).context(inside.display())?;
        symlink(&outside, &link).context(link.display())?;
        let log = directory.join(format!("{how}.log"));
        let line = format!("{}\t{}\n", layer.display(), root.display());
        let mut applied = 0;
        let work = |swaps: &AtomicU32| {
            while swaps.load(Ordering::Relaxed) < SWAPS {
                let tool = if has_openat2 {
                    Tool::new(&program)
                } else {
                    let words = strace::wrapper(&log, "openat2", None, Inject::Missing);
                    let (first, rest) = words.split_first().context("no wrapper")?;
                    Tool::new(first).args(rest).arg(&program)
                };
                let told = tool.input(line.repeat(LAYERS).as_bytes()).limit(LIMIT).text()?;
                ensure_equal("the layers", &told.lines().count(), &LAYERS)?;
                // It may fail: what it looks at is not there any more.
                applied += told.lines().filter(|line| *line == "applied").count();
                ensure(seen(&outside)? == before, || format!("something was done outside, by {how}"))?;
            }
            Ok(())
        };
        let ((), swaps) = exchanging(&inside, &link, work)?;
        ensure(applied > 0, || "no layer was applied at all".to_owned())?;
        if !has_openat2 {
            let log = fs::read_to_string(&log).context(log.display())?;
            ensure(strace::injected(&log) > 0, || "openat2 was there".to_owned())?;
        }
        println!("  {applied} layers applied by {how}, {swaps} exchanges");
    }
    Ok(())
}

/// An image is unpacked while the directory that it is made in and a link to the outside change places.
fn exchange_root(world: &World) -> Result<()> {
    let directory = world.dir("exchange-root")?;
    let outside = outside(&directory)?;
    let before = seen(&outside)?;
    let store = world.store("exchange-root")?;
    let image = world.registry.image(FIRST);
    store.pull(&image, &[])?;
    let parent = directory.join("everybodys");
    let (target, staging, link) =
        (parent.join("out"), parent.join(".out.wharf-unpack"), parent.join("aside"));
    let unpack = || store.wharf(&["unpack", &image, &target.to_string_lossy()]).limit(LIMIT).run();
    let mut hits = 0;
    for _ in 0..UNPACKS {
        fs::create_dir(&parent).context(parent.display())?;
        symlink(&outside, &link).context(link.display())?;
        let (_, swaps): (Finished, u32) = exchanging(&staging, &link, |_| unpack())?;
        hits += swaps;
        ensure(seen(&outside)? == before, || "something was done outside".to_owned())?;
        fs::remove_dir_all(&parent).context(parent.display())?;
    }
    ensure(hits >= UNPACKS, || format!("the directory was exchanged only {hits} times"))?;
    // The twin: a directory where nobody else is at work.
    fs::create_dir(&parent).context(parent.display())?;
    unpack()?.expect_code(0)?;
    ensure(target.is_dir() && !staging.exists(), || "it was not unpacked".to_owned())
}

/// The unit tests of layers pass as root and as a user who may do little.
fn tar_table(world: &World) -> Result<()> {
    let built = world.workspace.build_unit_tests("wharf-archive")?;
    // The run's own directory is closed to others.
    let open = Scratch::new("open")?;
    let program = open.path().join("tests");
    fs::copy(&built, &program).context(built.display())?;
    let temporary = open.dir("temporary")?;
    for path in [open.path(), &program] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).context(path.display())?;
    }
    chown(&temporary, Some(NOBODY), Some(NOBODY)).context(temporary.display())?;
    let modules = ["apply::", "untar::", "unpack::"];
    let user = NOBODY.to_string();
    let as_user = Tool::new("setpriv").args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
    let mut passed = Vec::new();
    for tool in [Tool::new(&program), as_user.arg(&program)] {
        let tool = tool.args(modules).dir(open.path()).env("TMPDIR", &temporary).limit(LIMIT * 3);
        // What fails is told on standard output.
        let told = String::from_utf8_lossy(&tool.run()?.stdout).into_owned();
        let result = told.lines().find_map(|line| line.strip_prefix("test result: ok. "));
        let result = result.and_then(|result| result.split_once(" passed; 0 failed; 0 ignored"));
        let (count, _) = result.context(format_args!("not all passed:\n{told}"))?;
        passed.push(count.parse::<u32>().context("a count")?);
    }
    ensure_equal("the tests that pass as a user", &passed[1], &passed[0])?;
    ensure(passed[0] >= 40, || format!("there are only {} tests", passed[0]))
}
