//! Who a container runs as: names are looked up in the image's own `/etc/passwd` and `/etc/group`.

use std::{io::Read, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat},
    io::Errno,
};
use wharf_content::{Error, Result};

/// The most bytes that are read of a list of accounts.
const MAX_LEN: u64 = 4 * 1024 * 1024;

/// The accounts of an image.
#[derive(Debug)]
pub(super) struct Accounts {
    passwd: String,
    group: String,
    root: OwnedFd,
}

/// Who a container runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional: Vec<u32>,
    /// The home directory, where the image says one.
    pub(super) home: Option<String>,
}

impl Accounts {
    /// Reads them below a root. A list that is not there is empty.
    pub(super) fn open(root: OwnedFd) -> Result<Self> {
        Ok(Self { passwd: list(&root, "etc/passwd")?, group: list(&root, "etc/group")?, root })
    }

    /// Whether there is nothing at a place: nothing at all, or an empty directory.
    pub(super) fn is_vacant(&self, path: &str) -> bool {
        match within(&self.root, path.trim_start_matches('/'), OFlags::DIRECTORY) {
            Ok(fd) => rustix::fs::Dir::read_from(&fd).is_ok_and(|mut names| {
                names.all(|name| name.is_ok_and(|name| matches!(name.file_name().to_bytes(), b"." | b"..")))
            }),
            Err(error) => error == Errno::NOENT,
        }
    }

    /// Reads `USER[:GROUP]`.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that the image does not know.
    pub(super) fn user(&self, text: &str) -> Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let unknown = |what: &str, name: &str| {
            Error::invalid_argument(format!(
                "the image knows no {what} {name:?}: give one of its /etc/{}, or a number",
                if what == "user" { "passwd" } else { "group" }
            ))
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let id = |text: &str| text.parse().ok().filter(|id: &u32| is_number(text) && *id != u32::MAX);
        let user = if user.is_empty() { "0" } else { user };
        // name:password:uid:gid:comment:home:shell. A name may be a number, too.
        let lines = || self.passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let entry = lines().find(|line| line[0] == user).or_else(|| {
            let wanted = id(user)?;
            lines().find(|line| line.get(2).is_some_and(|uid| id(uid) == Some(wanted)))
        });
        let mut found = User::default();
        let mut name = None;
        match &entry {
            Some(line) if line.len() >= 4 => {
                found.uid = id(line[2]).ok_or_else(|| unknown("user", user))?;
                found.gid = id(line[3]).ok_or_else(|| unknown("user", user))?;
                found.home = line.get(5).filter(|home| home.starts_with('/')).map(|home| (*home).to_owned());
                name = Some(line[0]);
            }
            _ => found.uid = id(user).ok_or_else(|| unknown("user", user))?,
        }
        // name:password:gid:members
        let groups = || self.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        if let Some(group) = group {
            let entry = groups().find(|line| line[0] == group).and_then(|line| line.get(2).copied());
            found.gid = entry.and_then(id).or_else(|| id(group)).ok_or_else(|| unknown("group", group))?;
            return Ok(found);
        }
        for line in groups() {
            let is_member = name.is_some_and(|name| {
                line.get(3).is_some_and(|members| members.split(',').any(|member| member.trim() == name))
            });
            if is_member
                && let Some(gid) = line.get(2).and_then(|gid| id(gid))
                && !found.additional.contains(&gid)
            {
                found.additional.push(gid);
            }
        }
        if !found.additional.contains(&found.gid) {
            found.additional.insert(0, found.gid);
        }
        Ok(found)
    }
}

/// Opens something inside a root; where the kernel cannot look there by itself, without following any link.
fn within(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    // A pipe would wait for who writes to it.
    let by_path = flags | OFlags::PATH | OFlags::CLOEXEC;
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, by_path, Mode::empty(), resolve) {
        Ok(found) => {
            // Looked at before it is opened: opening a device does something.
            let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
            if !matches!(kind, FileType::RegularFile | FileType::Directory) {
                return Err(Errno::INVAL);
            }
            openat2(root, path, flags, Mode::empty(), resolve)
        }
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut at =
                openat(root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let mut parts = path.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
            while let Some(part) = parts.next() {
                let kind = FileType::from_raw_mode(statat(&at, part, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
                if part == ".." || !matches!(kind, FileType::RegularFile | FileType::Directory) {
                    return Err(Errno::INVAL);
                }
                let more = if parts.peek().is_some() { OFlags::DIRECTORY } else { OFlags::empty() };
                at = openat(&at, part, flags | more | OFlags::NOFOLLOW, Mode::empty())?;
            }
            Ok(at)
        }
        Err(error) => Err(error),
    }
}

fn list(root: &OwnedFd, path: &str) -> Result<String> {
    let failed = |error: std::io::Error| Error::io(format!("cannot read the image's /{path}"), error);
    let fd = match within(root, path, OFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(Errno::INVAL | Errno::LOOP) => {
            return Err(Error::invalid_argument(format!("the image's /{path} is no file that can be read")));
        }
        Err(error) => return Err(failed(error.into())),
    };
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(Error::resource_exhausted(format!("the image's /{path} is longer than {MAX_LEN} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::fs::CWD;

    use super::*;

    fn open(root: &Path) -> OwnedFd {
        openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("opens")
    }

    #[test]
    fn users_are_those_of_the_image() {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:100:101::/home/app:\n7:x:70:71::/:\nbad:x:y:z::/:\nshort\n".into(),
            group: "root:x:0:\napp:x:101:\nwheel:x:10:root,app\naudio:x:29:app\n200:x:20:\n".into(),
            root: open(Path::new("/")),
        };
        for (text, uid, gid, additional) in [
            ("", 0, 0, &[0, 10][..]),
            ("root", 0, 0, &[0, 10]),
            ("0", 0, 0, &[0, 10]),
            ("app", 100, 101, &[101, 10, 29]),
            ("100", 100, 101, &[101, 10, 29]),
            ("app:", 100, 101, &[101, 10, 29]),
            ("app:wheel", 100, 10, &[]),
            ("app:5", 100, 5, &[]),
            ("app:200", 100, 20, &[]),
            ("7", 70, 71, &[71]),
            ("4000", 4000, 0, &[0]),
            ("4000:app", 4000, 101, &[]),
            (":wheel", 0, 10, &[]),
        ] {
            let user = accounts.user(text).expect(text);
            assert_eq!((user.uid, user.gid, &user.additional[..]), (uid, gid, additional), "{text:?}");
        }
        for bad in ["nobody", "-1", "4294967295", "app:nobody", "bad", "short", "1.5", "+100", "100:+5"] {
            assert!(accounts.user(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_are_read_inside_the_root() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("secret"), "outside").expect("writes");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("makes");
        std::fs::create_dir_all(root.join("usr/lib")).expect("makes");
        let opened = open(&root);
        let list = |path| list(&opened, path);
        assert_eq!(list("etc/passwd").expect("empty"), "");
        std::fs::write(root.join("usr/lib/passwd"), "inside").expect("writes");
        symlink("/usr/lib/passwd", root.join("etc/passwd")).expect("links");
        assert_eq!(list("etc/passwd").expect("reads"), "inside");
        for target in ["../../secret", "/../../secret"] {
            std::fs::remove_file(root.join("etc/passwd")).expect("removes");
            symlink(target, root.join("etc/passwd")).expect("links");
            assert_eq!(list("etc/passwd").expect("none there"), "", "{target}");
        }
        std::fs::remove_file(root.join("etc/passwd")).expect("removes");
        rustix::fs::mknodat(CWD, root.join("etc/passwd"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("makes");
        assert!(list("etc/passwd").is_err(), "a pipe is not waited for");
    }
}
