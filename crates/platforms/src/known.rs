//! The operating systems and architectures that a specifier of one part is looked up in.
//!
//! The lists are those of containerd (`platforms`, `database.go`), which come from Go's `GOOS` and `GOARCH`. They are
//! deliberately not a filter: a platform with other words parses, matches and formats like any other, it only has to
//! be written in two parts.

pub(crate) const OPERATING_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

pub(crate) const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// Whether a normalised operating system is one of the known ones.
pub(crate) fn is_known_os(os: &str) -> bool {
    OPERATING_SYSTEMS.contains(&os)
}

/// Whether a normalised architecture is one of the known ones.
pub(crate) fn is_known_architecture(architecture: &str) -> bool {
    ARCHITECTURES.contains(&architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_do_not_overlap_and_are_normalised() {
        for os in OPERATING_SYSTEMS {
            assert!(!is_known_architecture(os), "{os} is ambiguous");
            assert_eq!(crate::normalize::canonical_os(os, ""), *os);
        }
        for architecture in ARCHITECTURES {
            assert!(!is_known_os(architecture), "{architecture} is ambiguous");
            assert_eq!(crate::normalize::canonical_architecture(architecture, None).0, *architecture);
        }
    }
}
