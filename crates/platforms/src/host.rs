//! The platform of the machine this program runs on: [`default_spec`].
//!
//! This is the only file of the crate that asks the system anything, and it asks once: the answer is kept for the life
//! of the process. Operating system and architecture are those that the program was compiled for, deliberately, so that
//! a program under emulation sees what it is and not what it runs on.
//!
//! | host | variant | version |
//! |---|---|---|
//! | Linux on ARM | `/proc/cpuinfo`, else uname(2) | none |
//! | Windows | `v8` on 64-bit ARM, `v7` on 32-bit ARM | major.minor.build |
//! | macOS | likewise | none |
//! | another system on 64-bit ARM | `v8` | none |
//! | everything else | none | none |
//!
//! The version is asked for on Windows only, where it decides which images run, as containerd does (`platforms`,
//! `defaults_windows.go`). Features are never detected: there is nothing to ask.

use std::env::consts;
use std::sync::OnceLock;

use crate::Platform;

/// Returns the platform of the host.
///
/// The processor's variant is named for ARM only, so a host is `linux/amd64` whatever its level, and
/// `linux/arm64/v8` on 64-bit ARM. An unknown variant of ARM is left out, which stands for `v7` on `arm` and `v8` on
/// `arm64`. The version of the operating system is named for Windows only, as in `10.0.20348`. Features are never named:
/// whoever knows them adds them.
///
/// ```
/// use wharf_platforms::default_spec;
///
/// let host = default_spec();
/// assert!(!host.os.is_empty() && !host.architecture.is_empty());
/// ```
pub fn default_spec() -> Platform {
    detected().clone()
}

/// The platform of the host, detected once.
pub(crate) fn detected() -> &'static Platform {
    static HOST: OnceLock<Platform> = OnceLock::new();
    HOST.get_or_init(|| {
        let os = os_name(consts::OS);
        let architecture = architecture_name(consts::ARCH, cfg!(target_endian = "little"));
        let variant = variant(os, architecture, linux::arm_variant).map(str::to_owned);
        Platform { variant, os_version: os_version(), ..Platform::new(os, architecture) }
    })
}

/// The variant of the processor; `linux_arm` is asked on Linux, with whether this program is one for 32-bit ARM.
fn variant(
    os: &str,
    architecture: &str,
    linux_arm: impl FnOnce(bool) -> Option<&'static str>,
) -> Option<&'static str> {
    match (os, architecture) {
        ("linux" | "android", "arm" | "arm64") => linux_arm(architecture == "arm"),
        (_, "arm64") => Some("v8"),
        ("windows" | "darwin", "arm") => Some("v7"),
        _ => None,
    }
}

/// The version of Windows, as RtlGetVersion tells it whatever the program's manifest.
#[cfg(windows)]
fn os_version() -> Option<String> {
    let version = windows_version::OsVersion::current();
    Some(format!("{}.{}.{}", version.major, version.minor, version.build))
}

/// Elsewhere the version decides nothing.
#[cfg(not(windows))]
fn os_version() -> Option<String> {
    None
}

/// Go's name for an operating system that Rust names otherwise.
fn os_name(os: &str) -> &str {
    match os {
        "macos" => "darwin",
        os => os,
    }
}

/// Go's name for an architecture that Rust names otherwise.
fn architecture_name(architecture: &str, little_endian: bool) -> &str {
    match (architecture, little_endian) {
        ("x86", _) => "386",
        ("x86_64", _) => "amd64",
        ("aarch64", true) => "arm64",
        ("aarch64", false) => "arm64be",
        ("arm", false) => "armbe",
        ("powerpc", _) => "ppc",
        ("powerpc64", true) => "ppc64le",
        ("powerpc64", false) => "ppc64",
        ("mips", true) => "mipsle",
        ("mips64", true) => "mips64le",
        ("loongarch64", _) => "loong64",
        ("riscv32", _) => "riscv",
        ("wasm32" | "wasm64", _) => "wasm",
        (architecture, _) => architecture,
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    //! What the Linux kernel says about an ARM processor.

    use std::fs::File;
    use std::io::Read as _;

    use crate::arm;

    /// More than the first processor takes in `/proc/cpuinfo`, in bytes; large machines list hundreds.
    const CPUINFO_LIMIT: u64 = 64 * 1024;

    pub(super) fn arm_variant(is_32_bit: bool) -> Option<&'static str> {
        cpuinfo().and_then(|text| arm::from_cpuinfo(&text, is_32_bit)).or_else(machine_variant)
    }

    /// The beginning of `/proc/cpuinfo`; `None` where it cannot be read, as in some sandboxes.
    pub(super) fn cpuinfo() -> Option<String> {
        let mut text = Vec::new();
        File::open("/proc/cpuinfo").ok()?.take(CPUINFO_LIMIT).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    pub(super) fn machine_variant() -> Option<&'static str> {
        arm::from_machine(&rustix::system::uname().machine().to_string_lossy())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod linux {
    //! Stands in where the kernel is not Linux.

    pub(super) fn arm_variant(_: bool) -> Option<&'static str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::{is_known_architecture, is_known_os};
    use crate::normalize;

    #[test]
    fn names_are_those_of_go() {
        for (os, expected) in [("macos", "darwin"), ("linux", "linux"), ("windows", "windows")] {
            assert_eq!(os_name(os), expected);
            assert!(is_known_os(os_name(os)));
        }
        for (architecture, little_endian, expected) in [
            ("x86", true, "386"),
            ("x86_64", true, "amd64"),
            ("aarch64", true, "arm64"),
            ("aarch64", false, "arm64be"),
            ("arm", true, "arm"),
            ("arm", false, "armbe"),
            ("powerpc", false, "ppc"),
            ("powerpc64", true, "ppc64le"),
            ("powerpc64", false, "ppc64"),
            ("mips", true, "mipsle"),
            ("mips", false, "mips"),
            ("mips64", true, "mips64le"),
            ("mips64", false, "mips64"),
            ("loongarch64", true, "loong64"),
            ("riscv32", true, "riscv"),
            ("riscv64", true, "riscv64"),
            ("s390x", false, "s390x"),
            ("sparc64", false, "sparc64"),
            ("wasm32", true, "wasm"),
        ] {
            assert_eq!(architecture_name(architecture, little_endian), expected);
            assert!(is_known_architecture(expected), "{expected}");
        }
    }

    #[test]
    fn the_variant_is_that_of_arm() {
        let linux = |is_32_bit| Some(if is_32_bit { "of 32-bit Linux" } else { "of 64-bit Linux" });
        for (os, architecture, expected) in [
            ("linux", "arm64", Some("of 64-bit Linux")),
            ("linux", "arm", Some("of 32-bit Linux")),
            ("android", "arm64", Some("of 64-bit Linux")),
            ("linux", "amd64", None),
            ("darwin", "arm64", Some("v8")),
            ("darwin", "amd64", None),
            ("windows", "arm64", Some("v8")),
            ("windows", "arm", Some("v7")),
            ("windows", "amd64", None),
            ("freebsd", "arm64", Some("v8")),
            ("freebsd", "arm", None),
        ] {
            assert_eq!(variant(os, architecture, linux), expected, "{os}/{architecture}");
        }
        assert_eq!(variant("linux", "arm64", |_| None), None, "an answer that is not known");
    }

    #[test]
    fn the_host_is_detected_once_and_makes_sense() {
        let host = default_spec();
        assert_eq!(host, *detected());
        assert!(std::ptr::eq(detected(), detected()));
        assert_eq!(normalize(&host).os, host.os);
        assert_eq!(normalize(&host).architecture, host.architecture);
        assert_eq!(host.os_version.is_some(), cfg!(windows));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_answers() {
        let is_arm = matches!(detected().architecture.as_str(), "arm" | "arm64");
        // On another processor, which has neither the field nor the name, the answer is none.
        assert_eq!(linux::arm_variant(detected().architecture == "arm").is_some(), is_arm);
        assert!(!rustix::system::uname().machine().is_empty());
    }
}
