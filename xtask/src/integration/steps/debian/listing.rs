//! `ls-files` and `cat`, of the store and of the registry, beside what umoci unpacks.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::super::super::layout::{self, text};
use super::super::super::tree::{Node, Tree};
use super::super::super::{Step, World};
use super::{expected, filled, pushed};
use crate::failure::{Context, Result, ensure};

pub(super) const STEPS: &[Step] = &[("debian-ls-files", list), ("debian-cat", cat)];

/// Where the image is looked at.
const PLACES: [&str; 2] = ["--local", "--remote"];

/// What applying makes is known without it: all but attributes, content and the root itself, which `ls-files` does not
/// tell.
fn list(world: &World) -> Result<()> {
    let expected = expected(world)?.without(|path, _| path.as_os_str().is_empty());
    let expected = expected.amended(|_, node| {
        node.attributes.clear();
        node.first = None;
    });
    for place in PLACES {
        let tool = filled(world)?.wharf(&["ls-files", place, "--format", "json", &pushed(world)?]);
        let listed = layout::parse(&tool.success()?.stdout)?;
        let listed = listed.as_array().context("ls-files --format json gives no array")?;
        let mut nodes = BTreeMap::new();
        for file in listed {
            let path = text(file, "path")?;
            let node = node(file).context(format_args!("ls-files says {file}"))?;
            let again = nodes.insert(PathBuf::from(path.trim_start_matches('/')), node);
            ensure(again.is_none(), || format!("ls-files says {path} twice"))?;
        }
        Tree::listed(nodes).ensure_like(&format!("what ls-files {place} tells"), &expected)?;
    }
    Ok(())
}

/// Reads one file of the list.
fn node(file: &Value) -> Option<Node> {
    let kinds = [
        ("file", 'f'),
        ("directory", 'd'),
        ("symlink", 'l'),
        ("charDevice", 'c'),
        ("blockDevice", 'b'),
        ("fifo", 'p'),
    ];
    let (_, kind) = *kinds.iter().find(|(name, _)| file["type"] == *name)?;
    let number = |name: &str| file[name].as_u64();
    let device = |at: usize| file["device"][at].as_u64().and_then(|number| u32::try_from(number).ok());
    Some(Node {
        kind,
        mode: u32::from_str_radix(file["mode"].as_str()?, 8).ok()?,
        uid: u32::try_from(number("uid")?).ok()?,
        gid: u32::try_from(number("gid")?).ok()?,
        size: if kind == 'f' { Some(number("size")?) } else { None },
        mtime: moment(file["mtime"].as_str()?)?,
        target: file["target"].as_str().map(PathBuf::from),
        device: if matches!(kind, 'b' | 'c') {
            Some(rustix::fs::makedev(device(0)?, device(1)?))
        } else {
            None
        },
        attributes: BTreeMap::new(),
        first: None,
        names: usize::try_from(number("links")?).ok()?,
    })
}

/// Seconds since 1970 and nanoseconds of `YYYY-MM-DDTHH:MM:SS[.fraction]Z`.
fn moment(text: &str) -> Option<(i64, i64)> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        text.split(by).map(|part| part.parse().ok()).collect::<Option<Vec<i64>>>()?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    // Years that begin in March, so that a leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    let nanosecond = format!("{fraction:0<9}").parse().ok()?;
    Some((((day * 24 + hour) * 60 + minute) * 60 + second, nanosecond))
}

/// Files of the first layer, of one between and of the last, with holes, and through links; and some that are hidden. To
/// be certain of what the first layer has takes all of them, so that few of those are enough.
fn cat(world: &World) -> Result<()> {
    let (expected, store, image) = (expected(world)?, filled(world)?, pushed(world)?);
    let files = [
        ("--local", "srv/corners/sparse", "srv/corners/sparse"),
        ("--local", "srv/corners/opened/file", "srv/corners/opened/file"),
        ("--local", "srv/corners/relative", "etc/passwd"),
        ("--local", "usr/bin/git", "usr/bin/git"),
        ("--remote", "srv/corners/replaced/other", "srv/corners/replaced/other"),
        ("--remote", "srv/corners/directory-to-link/other", "srv/corners/opened/other"),
        ("--remote", "etc/os-release", "usr/lib/os-release"),
    ];
    for (place, path, file) in files {
        let file = expected.root().join(file);
        let bytes = fs::read(&file).context(file.display())?;
        let found = store.wharf(&["cat", place, &image, path]).success()?.stdout;
        ensure(found == bytes, || {
            format!("cat {place} of {path} gives {} bytes, which are not those {}", found.len(), bytes.len())
        })?;
    }
    for place in PLACES {
        for hidden in ["/srv/corners/removed/file", "/usr/share/doc/git/copyright"] {
            store.fails(&["cat", place, &image, hidden], 2)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        for (text, moment) in [
            ("1970-01-01T00:00:00Z", (0, 0)),
            ("2020-02-29T23:59:59.5Z", (1_583_020_799, 500_000_000)),
            ("2100-03-01T00:00:00.000000007Z", (4_107_542_400, 7)),
            ("1960-02-03T04:05:06Z", (-312_753_294, 0)),
        ] {
            assert_eq!(super::moment(text), Some(moment), "{text}");
        }
        for broken in ["", "1970-01-01", "1970-01-01T00:00Z", "1970-01-01T00:00:00"] {
            assert_eq!(super::moment(broken), None, "{broken}");
        }
    }

    #[test]
    fn files_of_a_list_are_read_or_refused() {
        let file = serde_json::json!({
            "path": "/dev/null", "type": "charDevice", "mode": "0666", "uid": 0, "gid": 5, "size": 0,
            "mtime": "1970-01-01T00:00:00Z", "links": 1, "device": [1, 3],
        });
        let read = node(&file).unwrap();
        assert_eq!((read.kind, read.mode, read.gid, read.size), ('c', 0o666, 5, None));
        assert_eq!(read.device, Some(rustix::fs::makedev(1, 3)));
        for field in ["type", "mode", "uid", "mtime", "links", "device"] {
            let mut bad = file.clone();
            bad.as_object_mut().unwrap().remove(field);
            assert_eq!(node(&bad), None, "{field}");
        }
    }
}
