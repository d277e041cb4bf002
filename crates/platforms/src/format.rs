//! Writing a platform as a specifier: short with [`format`](fn@format), complete with [`format_all`].
//!
//! Formatting deliberately neither normalises nor validates; it writes the words it is given. Operating system,
//! architecture and variant are written as they are, so a program that shows what a stranger wrote escapes the result.
//! The forms are those of containerd (`platforms`, `platforms.go`).

use crate::{Platform, percent};

/// What stands for a platform without an operating system.
const UNKNOWN: &str = "unknown";

/// Writes `os/architecture/variant`, without empty parts and without version and features.
///
/// A platform with an empty operating system is `unknown`.
///
/// ```
/// use wharf_platforms::{Platform, format};
///
/// let platform = Platform::new("linux", "arm").with_variant("v7").with_os_features(["gpu"]);
/// assert_eq!(format(&platform), "linux/arm/v7");
/// ```
pub fn format(platform: &Platform) -> String {
    if platform.os.is_empty() {
        return UNKNOWN.to_owned();
    }
    let mut out = platform.os.clone();
    push_architecture(&mut out, platform);
    out
}

/// Writes `os(version+feature+feature)/architecture/variant`: all that a platform says.
///
/// Features are sorted, without duplicates and blanks. In the version and the features everything but letters, digits,
/// `_`, `.` and `-` is percent-encoded, so that [`parse`](crate::parse()) reads the same platform back, provided that
/// operating system and architecture are there and in canonical spelling. A platform with an empty operating system is
/// `unknown`.
///
/// ```
/// use wharf_platforms::{format_all, parse};
///
/// let specifier = "windows(10.0.20348+win32k)/amd64";
/// assert_eq!(format_all(&parse(specifier)?), specifier);
/// # Ok::<(), wharf_platforms::Error>(())
/// ```
pub fn format_all(platform: &Platform) -> String {
    if platform.os.is_empty() {
        return UNKNOWN.to_owned();
    }
    let mut features: Vec<&str> =
        platform.os_features.iter().map(String::as_str).filter(|feature| !feature.is_empty()).collect();
    features.sort_unstable();
    features.dedup();

    let mut out = platform.os.clone();
    let version = platform.os_version.as_deref().unwrap_or_default();
    if !version.is_empty() || !features.is_empty() {
        out.push('(');
        percent::encode_into(&mut out, version);
        for feature in features {
            out.push('+');
            percent::encode_into(&mut out, feature);
        }
        out.push(')');
    }
    push_architecture(&mut out, platform);
    out
}

fn push_architecture(out: &mut String, platform: &Platform) {
    for part in [platform.architecture.as_str(), platform.variant.as_deref().unwrap_or_default()] {
        if !part.is_empty() {
            out.push('/');
            out.push_str(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_complete() {
        let linux = || Platform::new("linux", "amd64");
        let windows = || Platform::new("windows", "amd64");
        for (platform, short, complete) in [
            (Platform::default(), "unknown", "unknown"),
            (Platform::new("", "amd64").with_os_version("1"), "unknown", "unknown"),
            (Platform::new("linux", ""), "linux", "linux"),
            (linux(), "linux/amd64", "linux/amd64"),
            (linux().with_variant(""), "linux/amd64", "linux/amd64"),
            (linux().with_variant("v2"), "linux/amd64/v2", "linux/amd64/v2"),
            (linux().with_os_features([""]), "linux/amd64", "linux/amd64"),
            (linux().with_os_features(["b", "", "a", "b"]), "linux/amd64", "linux(+a+b)/amd64"),
            (linux().with_os_features(["feat+v2"]), "linux/amd64", "linux(+feat%2Bv2)/amd64"),
            (linux().with_os_features(["100%gpu"]), "linux/amd64", "linux(+100%25gpu)/amd64"),
            (windows().with_os_version("10.0.17763"), "windows/amd64", "windows(10.0.17763)/amd64"),
            (windows().with_os_version("%+()/"), "windows/amd64", "windows(%25%2B%28%29%2F)/amd64"),
            (windows().with_os_version("1(b)/c"), "windows/amd64", "windows(1%28b%29%2Fc)/amd64"),
            (
                windows().with_os_version("10.0").with_os_features(["win32k"]).with_variant("v2"),
                "windows/amd64/v2",
                "windows(10.0+win32k)/amd64/v2",
            ),
        ] {
            assert_eq!(format(&platform), short);
            assert_eq!(format_all(&platform), complete);
            assert_eq!(platform.to_string(), complete);
        }
    }
}
