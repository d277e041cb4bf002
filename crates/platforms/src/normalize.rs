//! The canonical spelling of a platform: `x86_64` is `amd64`, `macOS` is `darwin`, `armhf` is `arm/v7`.
//!
//! Normalising is deliberately no validation: words nobody knows pass through, only in lower case. The table is that of
//! containerd (`platforms`, `database.go` and `platforms.go`).

use crate::{Platform, host};

/// Returns the platform in its canonical spelling.
///
/// Operating system, architecture and variant become lower case (ASCII only, so that no other letter turns into one of
/// them); an empty operating system becomes the host's; `macos` becomes `darwin`; features are sorted, without
/// duplicates and blanks; an empty variant or version becomes an absent one. Architectures and variants:
///
/// | architecture | variant | result |
/// |---|---|---|
/// | `i386` | any | `386` |
/// | `x86_64`, `x86-64`, `amd64` | `v1` | `amd64` |
/// | `aarch64`, `arm64` | `8`, `v8`, `8.0`, `v8.0` | `arm64` |
/// | `aarch64`, `arm64` | `9`, `9.0`, `v9.0` | `arm64` `v9` |
/// | `armhf` | any | `arm` `v7` |
/// | `armel` | any | `arm` `v6` |
/// | `arm` | none, `7` | `arm` `v7` |
/// | `arm` | `5`, `6`, `8` | `arm` `v5`, `v6`, `v8` |
///
/// ```
/// use wharf_platforms::{Platform, normalize};
///
/// let written = Platform::new("Linux", "aarch64").with_variant("v8");
/// assert_eq!(normalize(&written), Platform::new("linux", "arm64"));
/// ```
pub fn normalize(platform: &Platform) -> Platform {
    normalize_for_os(platform, &host::detected().os)
}

/// [`normalize`] with the operating system that an empty one stands for.
pub(crate) fn normalize_for_os(platform: &Platform, host_os: &str) -> Platform {
    let (architecture, variant) = canonical_architecture(&platform.architecture, platform.variant.as_deref());
    let mut os_features: Vec<String> =
        platform.os_features.iter().filter(|feature| !feature.is_empty()).cloned().collect();
    os_features.sort_unstable();
    os_features.dedup();
    Platform {
        os: canonical_os(&platform.os, host_os),
        architecture,
        variant,
        os_version: platform.os_version.clone().filter(|version| !version.is_empty()),
        os_features,
    }
}

/// The canonical spelling of an operating system; an empty one is `host_os`.
pub(crate) fn canonical_os(os: &str, host_os: &str) -> String {
    match os.to_ascii_lowercase() {
        os if os.is_empty() => host_os.to_owned(),
        os if os == "macos" => "darwin".to_owned(),
        os => os,
    }
}

/// The canonical spelling of an architecture and its variant.
pub(crate) fn canonical_architecture(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_ascii_lowercase);
    let canonical = match (architecture.as_str(), variant.as_deref()) {
        ("i386", _) => ("386", None),
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64", Some(_)) => return ("amd64".to_owned(), variant),
        ("aarch64" | "arm64", None | Some("8" | "v8" | "8.0" | "v8.0")) => ("arm64", None),
        ("aarch64" | "arm64", Some("9" | "9.0" | "v9.0")) => ("arm64", Some("v9")),
        ("aarch64", Some(_)) => return ("arm64".to_owned(), variant),
        ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        _ => return (architecture, variant),
    };
    (canonical.0.to_owned(), canonical.1.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_and_variants() {
        for (architecture, variant, expected) in [
            ("i386", None, ("386", None)),
            ("i386", Some("v2"), ("386", None)),
            ("386", Some("softfloat"), ("386", Some("softfloat"))),
            ("x86_64", None, ("amd64", None)),
            ("X86_64", Some("V1"), ("amd64", None)),
            ("x86-64", Some("v3"), ("amd64", Some("v3"))),
            ("amd64", Some("v1"), ("amd64", None)),
            ("amd64", Some("v2"), ("amd64", Some("v2"))),
            ("aarch64", None, ("arm64", None)),
            ("Aarch64", Some("v8.1"), ("arm64", Some("v8.1"))),
            ("arm64", Some("8"), ("arm64", None)),
            ("arm64", Some("v8"), ("arm64", None)),
            ("arm64", Some("v8.0"), ("arm64", None)),
            ("arm64", Some("9"), ("arm64", Some("v9"))),
            ("arm64", Some("9.0"), ("arm64", Some("v9"))),
            ("arm64", Some("v9.0"), ("arm64", Some("v9"))),
            ("arm64", Some("v9.2"), ("arm64", Some("v9.2"))),
            ("armhf", None, ("arm", Some("v7"))),
            ("armhf", Some("v6"), ("arm", Some("v7"))),
            ("armel", None, ("arm", Some("v6"))),
            ("arm", None, ("arm", Some("v7"))),
            ("arm", Some(""), ("arm", Some("v7"))),
            ("arm", Some("7"), ("arm", Some("v7"))),
            ("arm", Some("5"), ("arm", Some("v5"))),
            ("arm", Some("6"), ("arm", Some("v6"))),
            ("arm", Some("8"), ("arm", Some("v8"))),
            ("arm", Some("V6"), ("arm", Some("v6"))),
            ("arm", Some("4"), ("arm", Some("4"))),
            ("S390X", None, ("s390x", None)),
            ("riscv64", Some("rva23u64"), ("riscv64", Some("rva23u64"))),
            ("", None, ("", None)),
        ] {
            let (a, v) = canonical_architecture(architecture, variant);
            assert_eq!((a.as_str(), v.as_deref()), expected, "{architecture} {variant:?}");
        }
    }

    #[test]
    fn operating_systems() {
        for (os, expected) in [
            ("", "hostos"),
            ("macOS", "darwin"),
            ("Linux", "linux"),
            ("DARWIN", "darwin"),
            ("\u{212A}", "\u{212A}"),
        ] {
            assert_eq!(canonical_os(os, "hostos"), expected, "{os}");
        }
    }

    #[test]
    fn features_are_sorted_without_duplicates_and_blanks() {
        let platform = Platform::new("linux", "amd64").with_os_features(["simd", "", "gpu", "simd", "GPU"]);
        assert_eq!(normalize_for_os(&platform, "linux").os_features, ["GPU", "gpu", "simd"]);
    }

    #[test]
    fn the_version_is_kept_as_written() {
        let platform = Platform::new("windows", "amd64").with_os_version("10.0.A");
        assert_eq!(normalize_for_os(&platform, "linux").os_version.as_deref(), Some("10.0.A"));
        assert_eq!(normalize_for_os(&platform.with_os_version(""), "linux").os_version, None);
    }
}
