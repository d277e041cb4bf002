//! What the name of a layer's entry asks for: a file, or that something of the layers below be hidden (OCI image specification,
//! layer.md, "Whiteouts"). Names are taken apart here and resolved elsewhere.

use wharf_content::{Error, Result};

/// Begins the name of what is to be hidden.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Begins the names that AUFS used for itself.
const META: &[u8] = b".wh..wh.";
/// Hides all that a directory had.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry is about. Directories are given by their components.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// The root itself.
    Root,
    /// A file, or a directory, below the root.
    Node { parent: Vec<&'a [u8]>, base: &'a [u8] },
    /// That `base` of the layers below is hidden.
    Whiteout { parent: Vec<&'a [u8]>, base: &'a [u8] },
    /// That everything the layers below have in this directory is hidden.
    Opaque { directory: Vec<&'a [u8]> },
    /// What means nothing to anybody any more.
    Nothing,
}

impl<'a> Name<'a> {
    /// Takes a name apart.
    ///
    /// # Errors
    /// `InvalidArgument` for one with `..`, which programs read differently, and for a whiteout of nothing or of a directory itself.
    pub(crate) fn parse(name: &'a [u8]) -> Result<Self> {
        let mut parent = components(name)?;
        let Some(base) = parent.pop() else { return Ok(Self::Root) };
        if base == OPAQUE {
            return Ok(Self::Opaque { directory: parent });
        }
        if base.starts_with(META) {
            return Ok(Self::Nothing);
        }
        let Some(hidden) = base.strip_prefix(WHITEOUT) else { return Ok(Self::Node { parent, base }) };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::invalid_argument(format!("{} is a whiteout of nothing", shown(name))));
        }
        Ok(Self::Whiteout { parent, base: hidden })
    }
}

/// The components of a name below the root, without those that mean nothing.
///
/// # Errors
/// `InvalidArgument` for `..`.
pub(crate) fn components(name: &[u8]) -> Result<Vec<&[u8]>> {
    let components = name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let components: Vec<_> = components.collect();
    if components.contains(&&b".."[..]) {
        return Err(Error::invalid_argument(format!(
            "{} leads upwards, which programs understand differently",
            shown(name)
        )));
    }
    Ok(components)
}

/// The most characters of a name that are shown. An error may name several, and each has up to thousands of bytes.
const MAX_SHOWN: usize = 256;

/// A name as it may be shown; a long one by its beginning and its length.
pub(crate) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    match text.char_indices().nth(MAX_SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], name.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node<'a>(parent: &[&'a str], base: &'a str) -> Name<'a> {
        Name::Node { parent: parent.iter().map(|part| part.as_bytes()).collect(), base: base.as_bytes() }
    }

    #[test]
    fn long_names_are_cut_where_they_are_shown() {
        let long = "ä".repeat(MAX_SHOWN);
        assert_eq!(shown(long.as_bytes()), format!("{long:?}"));
        assert_eq!(shown(format!("{long}bc").as_bytes()), format!("{long:?}… (514 bytes)"));
        assert_eq!(shown(b"\n\xff"), "\"\\n\u{fffd}\"");
    }

    #[test]
    fn names() {
        let whiteout = |parent: &[&'static str], base: &'static str| Name::Whiteout {
            parent: parent.iter().map(|part| part.as_bytes()).collect(),
            base: base.as_bytes(),
        };
        let opaque = |directory: &[&'static str]| Name::Opaque {
            directory: directory.iter().map(|part| part.as_bytes()).collect(),
        };
        for (name, expected) in [
            ("", Name::Root),
            (".", Name::Root),
            ("/", Name::Root),
            ("./", Name::Root),
            ("//./.", Name::Root),
            ("a", node(&[], "a")),
            ("/etc/passwd", node(&["etc"], "passwd")),
            ("./a//b/./c/", node(&["a", "b"], "c")),
            ("...", node(&[], "...")),
            ("a/..b", node(&["a"], "..b")),
            (".wh", node(&[], ".wh")),
            ("x.wh.a", node(&[], "x.wh.a")),
            (".wh.dir/file", node(&[".wh.dir"], "file")),
            (".wh.a", whiteout(&[], "a")),
            ("etc/.wh.a", whiteout(&["etc"], "a")),
            (".wh..a", whiteout(&[], ".a")),
            (".wh.....", whiteout(&[], "....")),
            (".wh..wh..opq", opaque(&[])),
            ("etc/.wh..wh..opq", opaque(&["etc"])),
            (".wh..wh.plnk", Name::Nothing),
            (".wh..wh.aufs", Name::Nothing),
        ] {
            assert_eq!(Name::parse(name.as_bytes()).expect(name), expected, "{name:?}");
        }
        for bad in ["..", "../x", "a/../b", "a/..", "/..", ".wh.", ".wh..", ".wh...", "etc/.wh.."] {
            assert!(Name::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
