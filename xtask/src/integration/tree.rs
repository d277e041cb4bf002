//! What is in a directory, read by the system's calls alone, so that what two programs made of an image can be compared:
//! path, type, mode, owner, size, time, link target, device number, extended attributes, hard links, content.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, lgetxattr_query, llistxattr, llistxattr_query};

use crate::failure::{Context, Result, ensure};

/// How many differences are told.
const SHOWN: usize = 20;

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// One letter, as `find -type` has it.
    pub(super) kind: char,
    /// The permissions with set-uid, set-gid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Of regular files only.
    pub(super) size: Option<u64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, i64),
    /// Of symbolic links only.
    pub(super) target: Option<PathBuf>,
    /// The device that this file is, if it is one.
    pub(super) device: Option<u64>,
    /// Extended attributes by their names, both as `escape_ascii` writes them.
    pub(super) attributes: BTreeMap<String, String>,
    /// The first path of all that are this same file, if there is another one.
    pub(super) first: Option<PathBuf>,
    /// How many paths in the tree are this file.
    pub(super) names: usize,
}

/// All files below a directory, by their paths in it; the directory itself has the empty path.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: PathBuf,
    pub(super) nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// Reads what is at `root`.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut found = Vec::new();
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let place = root.join(&path);
            let metadata = fs::symlink_metadata(&place).context(place.display())?;
            if metadata.is_dir() {
                for entry in fs::read_dir(&place).context(place.display())? {
                    left.push(path.join(entry.context(place.display())?.file_name()));
                }
            }
            found.push((path, metadata));
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let mut groups: HashMap<(u64, u64), (PathBuf, usize)> = HashMap::new();
        for (path, metadata) in found.iter().filter(|(_, metadata)| !metadata.is_dir()) {
            groups.entry((metadata.dev(), metadata.ino())).or_insert_with(|| (path.clone(), 0)).1 += 1;
        }
        let mut nodes = BTreeMap::new();
        for (path, metadata) in found {
            let mut node = node(&root.join(&path), &metadata)?;
            if let Some((first, names)) =
                groups.get(&(metadata.dev(), metadata.ino())).filter(|_| !metadata.is_dir())
            {
                node.names = *names;
                node.first = (*names > 1).then(|| first.clone());
            }
            nodes.insert(path, node);
        }
        Ok(Self { root: root.to_owned(), nodes })
    }

    /// These files, of whose content nothing is known.
    pub(super) fn listed(nodes: BTreeMap<PathBuf, Node>) -> Self {
        Self { root: PathBuf::new(), nodes }
    }

    /// Where it was read.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The same tree with every file changed by `change`.
    pub(super) fn amended(mut self, change: impl Fn(&Path, &mut Node)) -> Self {
        self.nodes.iter_mut().for_each(|(path, node)| change(path, node));
        self
    }

    /// The same tree without the files that `gone` names.
    pub(super) fn without(mut self, gone: impl Fn(&Path, &Node) -> bool) -> Self {
        self.nodes.retain(|path, node| !gone(path, node));
        self
    }

    /// Fails unless both trees have the same files with the same content. `what` names this one.
    pub(super) fn ensure_same(&self, what: &str, expected: &Self) -> Result<()> {
        let mut differences = self.differences(expected);
        if differences.is_empty() {
            differences = self.different_contents(expected)?;
        }
        ensure(differences.is_empty(), || told(what, &differences))
    }

    /// Fails unless both trees have the same files, whatever their content. `what` names this one.
    pub(super) fn ensure_like(&self, what: &str, expected: &Self) -> Result<()> {
        let differences = self.differences(expected);
        ensure(differences.is_empty(), || told(what, &differences))
    }

    /// A line for each difference but those in content.
    fn differences(&self, expected: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for (path, node) in &expected.nodes {
            match self.nodes.get(path) {
                None => differences.push(format!("{}: is missing", shown(path))),
                Some(found) => {
                    let pairs = found.fields().into_iter().zip(node.fields());
                    let pairs = pairs.filter(|((_, found), (_, expected))| found != expected);
                    differences.extend(pairs.map(|((name, found), (_, expected))| {
                        format!("{}: {name} is {found}, not {expected}", shown(path))
                    }));
                }
            }
        }
        let more = self.nodes.keys().filter(|path| !expected.nodes.contains_key(*path));
        differences.extend(more.map(|path| format!("{}: should not be there", shown(path))));
        differences
    }

    /// A line for each regular file of both trees whose bytes are not the same.
    fn different_contents(&self, expected: &Self) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        for (path, node) in self.nodes.iter().filter(|(_, node)| node.kind == 'f') {
            let is_first = node.first.as_ref().is_none_or(|first| first == path);
            if is_first && expected.nodes.contains_key(path) {
                let (one, other) = (self.root.join(path), expected.root.join(path));
                if !same_bytes(&one, &other).context(one.display())? {
                    differences.push(format!("{}: the content is not the same", shown(path)));
                }
            }
        }
        Ok(differences)
    }
}

impl Node {
    fn fields(&self) -> [(&'static str, String); 10] {
        [
            ("type", self.kind.to_string()),
            ("mode", format!("{:04o}", self.mode)),
            ("owner", format!("{}:{}", self.uid, self.gid)),
            ("size", format!("{:?}", self.size)),
            ("time", format!("{}.{:09}", self.mtime.0, self.mtime.1)),
            ("link target", format!("{:?}", self.target)),
            ("device", format!("{:x?}", self.device)),
            ("attributes", format!("{:?}", self.attributes)),
            ("hard link to", format!("{:?}", self.first)),
            ("number of names", self.names.to_string()),
        ]
    }
}

/// The first differences, and how many there are.
pub(super) fn told(what: &str, differences: &[String]) -> String {
    let first: Vec<_> = differences.iter().take(SHOWN).map(String::as_str).collect();
    format!("{what}: {} differences:\n    {}", differences.len(), first.join("\n    "))
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".to_owned() } else { escaped(path.as_os_str().as_bytes()) }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn node(place: &Path, metadata: &Metadata) -> Result<Node> {
    let kind = metadata.file_type();
    let letters = [
        (kind.is_file(), 'f'),
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'l'),
        (kind.is_char_device(), 'c'),
        (kind.is_block_device(), 'b'),
        (kind.is_fifo(), 'p'),
    ];
    let target = if kind.is_symlink() { Some(fs::read_link(place).context(place.display())?) } else { None };
    Ok(Node {
        kind: letters.iter().find(|(is, _)| *is).map_or('?', |(_, letter)| *letter),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: kind.is_file().then_some(metadata.len()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        target,
        device: (kind.is_char_device() || kind.is_block_device()).then(|| metadata.rdev()),
        attributes: attributes(place).map_err(io::Error::from).context(place.display())?,
        first: None,
        names: 1,
    })
}

fn attributes(place: &Path) -> rustix::io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut names = vec![0; llistxattr_query(place)?];
    let length = llistxattr(place, &mut names[..])?;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; lgetxattr_query(place, name)?];
        let length = lgetxattr(place, name, &mut value[..])?;
        found.insert(escaped(name.as_bytes()), escaped(&value[..length]));
    }
    Ok(found)
}

/// Whether two files have the same content.
fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut here, mut there) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    loop {
        let (read, same) = (fill(&mut one, &mut here)?, fill(&mut other, &mut there)?);
        if here[..read] != there[..same] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::{FileTimes, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use rustix::fs::XattrFlags;

    use super::*;
    use crate::scratch::Scratch;

    /// The same few files in a new directory.
    fn sample() -> Scratch {
        let scratch = Scratch::new("tree").unwrap();
        let root = scratch.path();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/file"), "content").unwrap();
        fs::hard_link(root.join("d/file"), root.join("twin")).unwrap();
        symlink("d/file", root.join("link")).unwrap();
        fs::write(root.join("other"), "another").unwrap();
        scratch
    }

    /// The tree without the times, which are those of the test.
    fn read(scratch: &Scratch) -> Tree {
        Tree::read(scratch.path()).unwrap().amended(|_, node| node.mtime = (0, 0))
    }

    #[test]
    fn equal_trees_are_equal() {
        let (one, other) = (sample(), sample());
        read(&one).ensure_same("one", &read(&other)).unwrap();
        assert_eq!(read(&one).nodes.len(), 6);
        let twin = &read(&one).nodes[Path::new("twin")];
        assert_eq!((twin.first.as_deref(), twin.names), (Some(Path::new("d/file")), 2));
    }

    #[test]
    fn every_difference_is_seen() {
        type Tamper = fn(&Path);
        let tampered: &[(&str, Tamper)] = &[
            ("content", |root| fs::write(root.join("other"), "ANOTHER").unwrap()),
            ("size", |root| fs::write(root.join("other"), "longer than before").unwrap()),
            ("is missing", |root| fs::remove_file(root.join("other")).unwrap()),
            ("should not be there", |root| fs::write(root.join("more"), "").unwrap()),
            ("mode", |root| fs::set_permissions(root.join("d"), Permissions::from_mode(0o500)).unwrap()),
            ("attributes", |root| {
                rustix::fs::setxattr(root.join("other"), "user.x", b"y", XattrFlags::empty()).unwrap();
            }),
            ("link target", |root| {
                fs::remove_file(root.join("link")).unwrap();
                symlink("d/fil", root.join("link")).unwrap();
            }),
            ("hard link", |root| {
                fs::remove_file(root.join("twin")).unwrap();
                fs::write(root.join("twin"), "content").unwrap();
            }),
            ("type", |root| {
                fs::remove_file(root.join("other")).unwrap();
                fs::create_dir(root.join("other")).unwrap();
            }),
        ];
        for (what, tamper) in tampered {
            let (one, other) = (sample(), sample());
            tamper(one.path());
            let error = read(&one).ensure_same("one", &read(&other)).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn times_are_seen_to_the_nanosecond() {
        let scratch = sample();
        let file = File::options().write(true).open(scratch.path().join("other")).unwrap();
        let set = |nanoseconds| {
            let time = UNIX_EPOCH + Duration::new(7, nanoseconds);
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
            Tree::read(scratch.path()).unwrap()
        };
        let (one, other) = (set(1), set(2));
        let error = other.ensure_same("it", &one).unwrap_err().to_string();
        assert!(error.contains("other: time is 7.000000002, not 7.000000001"), "{error}");
    }

    #[test]
    fn only_the_first_differences_are_told() {
        let many: Vec<_> = (0..30).map(|number| format!("number {number}")).collect();
        let text = told("it", &many);
        assert!(text.contains("30 differences") && text.contains("number 19"), "{text}");
        assert!(!text.contains("number 20"), "{text}");
    }
}
