//! strace as the steps use it: to see which system calls of a program change its store for good, and to kill the
//! program at one of them or make one fail. strace counts the calls of each thread by itself, so a call is picked
//! by its path as well.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Calls that give names, take them, sync or cut: between two of these a kill finds the same store.
pub(super) const CHANGES: &str = "rename,renameat,renameat2,fsync,fdatasync,sync_file_range,ftruncate,unlink,unlinkat,rmdir,\
     mkdir,mkdirat,link,linkat";

/// What happens to the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inject {
    /// Nothing; it is only written down.
    Nothing,
    /// The program is killed as it enters the call.
    Kill(usize),
    /// The call fails with EIO.
    Fail(usize),
    /// The call fails with EIO, and every one after it.
    FailFrom(usize),
    /// The call always fails as on a kernel that does not have it.
    Missing,
}

/// A system call on a path, and how often it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// The name of the call.
    pub(super) call: String,
    /// The path, for a renaming call the old one: strace looks at no other.
    pub(super) path: PathBuf,
    /// How often, by all threads.
    pub(super) times: usize,
}

/// What runs a program under strace (without its seccomp filter, which would keep signals from being injected), on `calls` (of `path` only, where one is given), with a log.
pub(super) fn wrapper(log: &Path, calls: &str, path: Option<&Path>, inject: Inject) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        ["strace", "-f", "-y", "-qqq", "-e", "signal=none", "-o"].map(OsString::from).into();
    words.push(log.into());
    words.extend(["-e".into(), format!("trace={calls}").into()]);
    if let Some(path) = path {
        words.extend(["-P".into(), path.into()]);
    }
    let what = match inject {
        Inject::Nothing => None,
        Inject::Kill(when) => Some(format!("signal=KILL:when={when}")),
        Inject::Fail(when) => Some(format!("error=EIO:when={when}")),
        Inject::FailFrom(when) => Some(format!("error=EIO:when={when}+")),
        Inject::Missing => Some("error=ENOSYS".to_owned()),
    };
    if let Some(what) = what {
        words.extend(["-e".into(), format!("inject={calls}:{what}").into()]);
    }
    words.push("--".into());
    words
}

/// The calls of a log that work on something below `root`. Temporary names with a process's number in them are
/// others in the next run, and left out.
pub(super) fn points(log: &str, root: &Path) -> Vec<Point> {
    let mut counts: BTreeMap<(&str, &Path), usize> = BTreeMap::new();
    let mut order = Vec::new();
    for (call, path) in log.lines().filter_map(call) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !path.starts_with(root) || (name.starts_with('.') && name.ends_with(".tmp")) {
            continue;
        }
        let count = counts.entry((call, path)).or_default();
        if *count == 0 {
            order.push((call, path));
        }
        *count += 1;
    }
    let point = |key: &(&str, &Path)| Point {
        call: key.0.to_owned(),
        path: key.1.to_owned(),
        times: counts.get(key).copied().unwrap_or_default(),
    };
    order.iter().map(point).collect()
}

/// How many calls were made to fail.
pub(super) fn injected(log: &str) -> usize {
    log.lines().filter(|line| line.ends_with("(INJECTED)")).count()
}

/// A line such as `12 rename("/a.tmp", "/a") = 0` or `12 fsync(9</a>) = 0`. Lines on signals, ends and the second
/// half of a call say nothing new.
fn call(line: &str) -> Option<(&str, &Path)> {
    let line = line.trim_start_matches(|character: char| character.is_ascii_digit()).trim_start();
    let (call, rest) = line.split_once('(')?;
    if call.is_empty() || !call.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'2')
    {
        return None;
    }
    let quoted = rest.split('"').nth(1);
    let path = quoted.or_else(|| rest.split_once('<')?.1.split_once('>').map(|(path, _)| path))?;
    Some((call, Path::new(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
12 mkdir(\"/s\", 0700)                 = 0
12 fsync(9</t>)                       = 0
12 fsync(11</s/metadata.db-wal>)      = 0
12 fsync(13</s/.index.json.12-0.tmp>) = 0
12 rename(\"/s/.index.json.12-0.tmp\", \"/s/index.json\") = 0
14 renameat2(AT_FDCWD</t>, \"/s/i/data\", AT_FDCWD</t>, \"/s/blobs/x\", RENAME_NOREPLACE <unfinished ...>
13 fsync(11</s/metadata.db-wal> <unfinished ...>
14 <... renameat2 resumed>)              = 0
13 +++ killed by SIGKILL +++
";

    #[test]
    fn calls_are_counted_by_path_in_their_order() {
        let found = points(LOG, Path::new("/s"));
        let point = |call: &str, path: &str, times| Point { call: call.to_owned(), path: path.into(), times };
        assert_eq!(
            found,
            [
                point("mkdir", "/s", 1),
                point("fsync", "/s/metadata.db-wal", 2),
                point("renameat2", "/s/i/data", 1),
            ]
        );
        assert_eq!(points(LOG, Path::new("/elsewhere")), []);
    }

    #[test]
    fn what_is_no_call_is_passed_over() {
        for line in
            ["", "12 +++ exited with 0 +++", "12 <... fsync resumed>) = 0", "12 exit(0) = ?", "strace: x(y"]
        {
            assert_eq!(call(line), None, "{line}");
        }
    }

    #[test]
    fn failures_that_were_injected_are_told_from_others() {
        let log = "1 fsync(3</a>) = -1 EIO (Input/output error) (INJECTED)\n1 fsync(3</a>) = -1 EIO (Input/output error)\n";
        assert_eq!(injected(log), 1);
    }

    #[test]
    fn the_wrapper_says_what_is_to_happen() {
        let shown = |inject| {
            let words = wrapper(Path::new("/log"), "fsync", Some(Path::new("/p")), inject);
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert!(!shown(Inject::Nothing).contains("inject"));
        assert!(shown(Inject::Kill(3)).ends_with("-P /p -e inject=fsync:signal=KILL:when=3 --"));
        assert!(shown(Inject::Fail(1)).ends_with("-e inject=fsync:error=EIO:when=1 --"));
        assert!(shown(Inject::FailFrom(1)).ends_with(":error=EIO:when=1+ --"));
    }
}
