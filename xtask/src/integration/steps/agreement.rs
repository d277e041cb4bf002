//! Archives that programs might read differently: what wharf applies is what GNU tar and Python's tarfile make of it, where they make
//! something of it, or wharf refuses it.
//!
//! Where layers are to be read otherwise is left out: names of whiteouts, and what stands in the way, which Python is told to remove.

mod archive;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{Step, World};
use crate::failure::{Context, Result, ensure};
use crate::process::Tool;
use archive::Archive;

pub(super) const STEPS: &[Step] = &[("agreement", agreement)];

/// How many archives there are.
const ARCHIVES: u64 = 1200;

/// How many of them at least another program and wharf both make something of.
const COMPARED: u64 = 250;

/// How long one program may take for all of them.
const LIMIT: Duration = Duration::from_secs(300);

/// What a program makes of all archives: `applied` or why not, for each.
type Judgements = Vec<String>;

const APPLIED: &str = "applied";

/// GNU tar, a line for each archive as the others.
const TAR: &str = r#"
umask 022
export LC_ALL=C TZ=UTC
tab=$(printf '\t')
while IFS="$tab" read -r archive directory; do
    if said=$(tar --extract --file "$archive" --directory "$directory" --same-owner --same-permissions \
        --numeric-owner 2>&1); then
        echo applied
    else
        printf 'refused: %s\n' "$(printf %s "$said" | tr '\n' ';')"
    fi
done
"#;

/// Something that is there.
#[derive(Debug, PartialEq, Eq)]
struct Placed {
    kind: &'static str,
    /// Mode, owner, group and time of a file. What a directory has depends on when it was made and on what was made in it.
    attributes: Option<(u32, u32, u32, i64)>,
    /// The content of a file, or where a link leads to.
    content: String,
    /// The first name of the same file.
    same_as: Option<PathBuf>,
}

type Tree = BTreeMap<PathBuf, Placed>;

fn agreement(world: &World) -> Result<()> {
    let directory = world.dir("agreement")?;
    let archives: Vec<Archive> = (0..ARCHIVES).map(Archive::of).collect();
    for (seed, archive) in archives.iter().enumerate() {
        let path = file(&directory, seed);
        fs::write(&path, &archive.bytes).context(path.display())?;
    }
    let apply = Tool::new(world.workspace.build_apply_layers()?);
    let wharf = judge(&directory, "wharf", apply)?;
    let others = [
        ("tar", judge(&directory, "tar", Tool::new("sh").args(["-c", TAR]))?),
        ("python", {
            let script =
                ["-c", "umask 022; exec python3 -c \"$1\"", "sh", include_str!("agreement/extract.py")];
            judge(&directory, "python", Tool::new("sh").args(script))?
        }),
    ];
    for (other, judgements) in &others {
        let mut both = 0;
        let mut different = Vec::new();
        for (seed, archive) in archives.iter().enumerate() {
            if wharf[seed] != APPLIED || judgements[seed] != APPLIED {
                continue;
            }
            both += 1;
            let ours = tree(&place(&directory, "wharf", seed))?;
            let theirs = tree(&place(&directory, other, seed))?;
            if let Some(what) = difference(&ours, &theirs) {
                different.push(format!("seed {seed}: {what}\n    {}", archive.parts.join("\n    ")));
            }
        }
        ensure(different.is_empty(), || {
            format!(
                "{} archives are others for {other}:\n{}",
                different.len(),
                different[..different.len().min(5)].join("\n")
            )
        })?;
        // The rest is refused by one of them.
        ensure(both >= COMPARED, || format!("only {both} archives were compared with {other}"))?;
        println!("  {both} archives of {ARCHIVES} are the same for {other}");
    }
    let refused = wharf.iter().filter(|judgement| *judgement != APPLIED).count() as u64;
    ensure(refused > ARCHIVES / 10, || format!("wharf refused only {refused}"))?;
    let outside: Vec<_> = fs::read_dir(&directory).context(directory.display())?.collect();
    ensure(outside.len() == archives.len() + 3, || "something was put outside".to_owned())
}

fn file(directory: &Path, seed: usize) -> PathBuf {
    directory.join(format!("{seed}.tar"))
}

fn place(directory: &Path, who: &str, seed: usize) -> PathBuf {
    directory.join(who).join(seed.to_string())
}

/// Has a program extract all archives.
fn judge(directory: &Path, who: &str, tool: Tool) -> Result<Judgements> {
    let mut input = Vec::new();
    for seed in 0..usize::try_from(ARCHIVES).context("so many")? {
        let place = place(directory, who, seed);
        fs::create_dir_all(&place).context(place.display())?;
        input.extend_from_slice(file(directory, seed).as_os_str().as_bytes());
        input.push(b'\t');
        input.extend_from_slice(place.as_os_str().as_bytes());
        input.push(b'\n');
    }
    let told = tool.input(&input).limit(LIMIT).text()?;
    let judgements: Judgements = told.lines().map(str::to_owned).collect();
    ensure(judgements.len() as u64 == ARCHIVES, || format!("{who} told of {} archives", judgements.len()))?;
    Ok(judgements)
}

/// All that is below a directory, by its path there.
fn tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let found = fs::symlink_metadata(&full).context(full.display())?;
        let mut content = Vec::new();
        let kind = match found.file_type() {
            kind if kind.is_dir() => {
                let entries = fs::read_dir(&full).context(full.display())?;
                let mut names: Vec<_> = entries.flatten().map(|entry| path.join(entry.file_name())).collect();
                names.sort();
                left.extend(names.into_iter().rev());
                "directory"
            }
            kind if kind.is_symlink() => {
                let target = fs::read_link(&full).context(full.display())?;
                content = target.as_os_str().as_bytes().to_vec();
                "link"
            }
            kind if kind.is_file() => {
                content = fs::read(&full).context(full.display())?;
                "file"
            }
            kind if kind.is_fifo() => "pipe",
            _ => "something else",
        };
        // Python makes another link where one that leads nowhere has two names.
        let inode = if kind == "file" { Some(found.ino()) } else { None };
        let same_as = inode.map(|inode| first.entry(inode).or_insert_with(|| path.clone()).clone());
        let attributes = (found.mode() & 0o7777, found.uid(), found.gid(), found.mtime());
        let content = String::from_utf8_lossy(&content).into_owned();
        let attributes = (kind == "file").then_some(attributes);
        let placed = Placed { kind, attributes, content, same_as };
        tree.insert(path, placed);
    }
    Ok(tree)
}

/// The first thing that is not in both.
fn difference(ours: &Tree, theirs: &Tree) -> Option<String> {
    let names = ours.keys().chain(theirs.keys());
    let mut differs = names.filter(|name| ours.get(*name) != theirs.get(*name));
    differs
        .next()
        .map(|name| format!("{}: {:?}, and for them {:?}", name.display(), ours.get(name), theirs.get(name)))
}
