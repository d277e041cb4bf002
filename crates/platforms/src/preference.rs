//! Which architectures and variants run on a processor, and in which order they are preferred.
//!
//! The order is that of containerd (`platforms`, `compare.go`, `platformVector`), computed instead of listed, so that a
//! variant with an absurd number costs nothing. Only architecture and variant are looked at, deliberately: operating
//! system, version and features are for the matcher.
//!
//! ```text
//! processor    preferred first → last
//! amd64/vN     vN, vN-1 … v1, then 386
//! arm/vN       vN, vN-1 … v5
//! arm64/v8.x   v8.x … v8, then arm v8 … v5
//! arm64/v9.x   v9.x … v9, then v8.min(x+5, 9) … v8, then arm v8 … v5
//! other        itself
//! ```

use std::ops::Range;

use crate::{Platform, normalize::canonical_architecture};

/// Armv9.x includes Armv8.(x+5) (Arm Architecture Reference Manual, A2.1).
const V9_AHEAD_OF_V8: u64 = 5;

/// The last extension of Armv8.
const LAST_V8_EXTENSION: u64 = 9;

/// The oldest variant of 32-bit ARM that later ones run.
const OLDEST_ARM: u64 = 5;

/// How far down the order of preference of `host` an image stands; `None` if it does not run there.
///
/// Both are normalised.
pub(crate) fn rank(host: &Platform, image: &Platform) -> Option<u64> {
    let variants = (host.variant.as_deref(), image.variant.as_deref());
    match (host.architecture.as_str(), image.architecture.as_str()) {
        ("amd64", "amd64") => rank_amd64(variants.0, variants.1),
        // After all levels of amd64, of which there is one at least.
        ("amd64", "386") => image.variant.is_none().then(|| amd64_level(variants.0).unwrap_or(1).max(1)),
        ("arm", "arm") => rank_arm(variants.0, variants.1),
        ("arm64", "arm64") => rank_arm64(variants.0, variants.1),
        ("arm64", "arm") => {
            let (length, arm) = match variants.0.map_or(Some((8, 0)), arm64_version) {
                Some((major, extension)) => (arm64_length(major, extension), Some("v8".to_owned())),
                None => (1, arm_of_the_same_name(variants.0)),
            };
            rank_arm(arm.as_deref(), variants.1).map(|rank| length + rank)
        }
        (a, b) => (a == b && variants.0 == variants.1).then_some(0),
    }
}

/// What runs on `host`, which is normalised, by architecture and variant: the one at `rank` 0 first, then 1, and so on.
///
/// Computed on demand: an absurd variant has an absurd number of them.
pub(crate) fn order(host: &Platform) -> impl Iterator<Item = (String, Option<String>)> {
    let variant = host.variant.as_deref();
    let itself = (host.architecture.clone(), host.variant.clone());
    let mut below: Vec<Below> = Vec::new();
    let mut also = None;
    match host.architecture.as_str() {
        "amd64" => {
            let level = |level| ("amd64", (level > 1).then(|| format!("v{level}")));
            below.push((1..amd64_level(variant).unwrap_or(1), level));
            below.push((0..1, |_| ("386", None)));
        }
        "arm" => below.push((arm_below(variant), arm)),
        "arm64" => match variant.map_or(Some((8, 0)), arm64_version) {
            Some((9, extension)) => {
                below.push((0..extension, |extension| ("arm64", Some(versioned(9, extension)))));
                below.push((0..newest_v8_of_v9(extension) + 1, v8));
                below.push((OLDEST_ARM..9, arm));
            }
            Some((_, extension)) => {
                below.push((0..extension, v8));
                below.push((OLDEST_ARM..9, arm));
            }
            None => {
                let of_arm = arm_of_the_same_name(variant);
                below.push((arm_below(of_arm.as_deref()), arm));
                also = Some(("arm".to_owned(), of_arm));
            }
        },
        _ => {}
    }
    let below = below.into_iter().flat_map(|(numbers, name)| numbers.rev().map(name));
    let below = below.map(|(architecture, variant)| (architecture.to_owned(), variant));
    std::iter::once(itself).chain(also).chain(below)
}

/// Variants by their numbers, of which the highest is preferred, and what each number is called.
type Below = (Range<u64>, fn(u64) -> (&'static str, Option<String>));

/// For a variant of 64-bit ARM that is not known, one from the future: that of 32-bit ARM, as images for it have it.
fn arm_of_the_same_name(variant: Option<&str>) -> Option<String> {
    canonical_architecture("arm", variant).1
}

/// The numbers of the variants of 32-bit ARM that one of them runs beside itself.
fn arm_below(variant: Option<&str>) -> Range<u64> {
    OLDEST_ARM..variant.and_then(|variant| number(variant.strip_prefix('v')?)).unwrap_or_default()
}

fn arm(number: u64) -> (&'static str, Option<String>) {
    ("arm", Some(format!("v{number}")))
}

fn v8(extension: u64) -> (&'static str, Option<String>) {
    ("arm64", (extension > 0).then(|| versioned(8, extension)))
}

fn versioned(major: u64, extension: u64) -> String {
    if extension == 0 { format!("v{major}") } else { format!("v{major}.{extension}") }
}

fn rank_amd64(host: Option<&str>, image: Option<&str>) -> Option<u64> {
    if host == image {
        return Some(0);
    }
    let (host, image) = (amd64_level(host)?, amd64_level(image)?);
    (1..host).contains(&image).then(|| host - image)
}

/// The level of x86-64; none is the first.
fn amd64_level(variant: Option<&str>) -> Option<u64> {
    variant.map_or(Some(1), |variant| number(variant.strip_prefix('v')?))
}

fn rank_arm(host: Option<&str>, image: Option<&str>) -> Option<u64> {
    if host == image {
        return Some(0);
    }
    let (host, image) = (number(host?.strip_prefix('v')?)?, number(image?.strip_prefix('v')?)?);
    (OLDEST_ARM..host).contains(&image).then(|| host - image)
}

fn rank_arm64(host: Option<&str>, image: Option<&str>) -> Option<u64> {
    if host == image {
        return Some(0);
    }
    let version = |variant: Option<&str>| variant.map_or(Some((8, 0)), arm64_version);
    match (version(host)?, version(image)?) {
        ((host_major, host), (major, image)) if host_major == major => (image < host).then(|| host - image),
        ((9, host), (8, image)) => {
            let newest = newest_v8_of_v9(host);
            (image <= newest).then(|| host + 1 + (newest - image))
        }
        _ => None,
    }
}

/// The version of 64-bit ARM, major and extension, of those majors whose compatibility is known.
fn arm64_version(variant: &str) -> Option<(u64, u64)> {
    let variant = variant.strip_prefix('v')?;
    let (major, extension) = match variant.split_once('.') {
        // Normalised variants have no ".0"; another spelling of the same would stand at the same rank.
        Some((major, extension)) => (major, number(extension).filter(|extension| *extension > 0)?),
        None => (variant, 0),
    };
    let major = number(major).filter(|major| matches!(major, 8 | 9))?;
    Some((major, extension))
}

/// How many variants of 64-bit ARM stand before 32-bit ARM.
fn arm64_length(major: u64, extension: u64) -> u64 {
    let same_major = extension + 1;
    if major == 9 { same_major + newest_v8_of_v9(extension) + 1 } else { same_major }
}

fn newest_v8_of_v9(extension: u64) -> u64 {
    (extension + V9_AHEAD_OF_V8).min(LAST_V8_EXTENSION)
}

/// A number in its one canonical spelling: no sign, no leading zero. Bounded, so that sums of a few do not overflow.
fn number(digits: &str) -> Option<u64> {
    let canonical =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    canonical.then(|| digits.parse::<u32>().ok().map(u64::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::normalize_for_os;
    use crate::parse::parse_for_host;

    fn p(architecture: &str) -> Platform {
        let platform = parse_for_host(&format!("linux/{architecture}"), &Platform::default()).unwrap();
        normalize_for_os(&platform, "linux")
    }

    #[test]
    fn the_whole_order_of_preference() {
        let arm = ["arm/v8", "arm/v7", "arm/v6", "arm/v5"];
        let v8_9 = [
            "arm64/v8.9",
            "arm64/v8.8",
            "arm64/v8.7",
            "arm64/v8.6",
            "arm64/v8.5",
            "arm64/v8.4",
            "arm64/v8.3",
            "arm64/v8.2",
            "arm64/v8.1",
            "arm64",
        ];
        for (host, expected) in [
            ("amd64", vec!["amd64", "386"]),
            ("amd64/v2", vec!["amd64/v2", "amd64", "386"]),
            ("amd64/v4", vec!["amd64/v4", "amd64/v3", "amd64/v2", "amd64/v1", "386"]),
            ("amd64/other", vec!["amd64/other", "386"]),
            ("386", vec!["386"]),
            ("arm/v8", arm.to_vec()),
            ("arm", arm[1..].to_vec()),
            ("arm/v6", arm[2..].to_vec()),
            ("arm/v5", vec!["arm/v5"]),
            ("arm/v4", vec!["arm/v4"]),
            ("arm64", [&["arm64"][..], &arm].concat()),
            ("arm64/v8.2", [&v8_9[7..], &arm].concat()),
            ("arm64/v9", [&["arm64/v9"][..], &v8_9[4..], &arm].concat()),
            ("arm64/v9.2", [&["arm64/v9.2", "arm64/v9.1", "arm64/v9"][..], &v8_9[2..], &arm].concat()),
            (
                "arm64/v9.6",
                [
                    &[
                        "arm64/v9.6",
                        "arm64/v9.5",
                        "arm64/v9.4",
                        "arm64/v9.3",
                        "arm64/v9.2",
                        "arm64/v9.1",
                        "arm64/v9",
                    ][..],
                    &v8_9,
                    &arm,
                ]
                .concat(),
            ),
            ("arm64/v10", vec!["arm64/v10", "arm/v10", "arm/v9", "arm/v8", "arm/v7", "arm/v6", "arm/v5"]),
            ("s390x", vec!["s390x"]),
            ("riscv64/rva23u64", vec!["riscv64/rva23u64"]),
        ] {
            for (place, image) in expected.iter().enumerate() {
                assert_eq!(rank(&p(host), &p(image)), Some(place as u64), "{image} on {host}");
            }
            let expected: Vec<_> = expected
                .iter()
                .map(|image| p(image))
                .map(|image| (image.architecture, image.variant))
                .collect();
            assert_eq!(order(&p(host)).collect::<Vec<_>>(), expected, "on {host}");
        }
    }

    #[test]
    fn what_does_not_run() {
        for (host, images) in [
            ("amd64", &["amd64/v2", "arm64", "386/v2", "amd64/v0", "amd64/1", "amd64p32"][..]),
            ("amd64/v2", &["amd64/v3", "amd64/v02", "amd64/2", "amd64/v-1"]),
            ("386", &["amd64"]),
            ("arm", &["arm/v8", "arm/v4", "arm64", "arm/v06", "arm/x"]),
            ("arm/v4", &["arm/v3", "arm/v5"]),
            ("arm64", &["arm64/v8.1", "arm64/v9", "arm/v4", "arm/v9", "amd64"]),
            ("arm64/v8.1", &["arm64/v8.2", "arm64/v9", "arm/v9", "arm64/v8.01"]),
            ("arm64/v9", &["arm64/v9.1", "arm64/v8.6", "arm/v9", "arm64/v10", "arm64/v7"]),
            ("arm64/v9.6", &["arm64/v8.10", "arm64/v9.7"]),
            ("arm64/v10", &["arm64", "arm64/v9"]),
            ("s390x", &["s390"]),
            ("riscv64", &["riscv64/rva23u64"]),
        ] {
            for image in images {
                assert_eq!(rank(&p(host), &p(image)), None, "{image} on {host}");
            }
        }
    }

    #[test]
    fn absurd_variants_cost_nothing() {
        for variant in
            ["v4294967295", "v9.4294967295", "v99999999999999999999", "v9.99999999999999999999", "v", "v8."]
        {
            for architecture in ["amd64", "arm", "arm64"] {
                let host = p(&format!("{architecture}/{variant}"));
                assert_eq!(rank(&host, &host), Some(0));
                for (place, (architecture, variant)) in order(&host).take(3).enumerate() {
                    let image = Platform { architecture, variant, ..host.clone() };
                    assert_eq!(rank(&host, &image), Some(place as u64), "{image} on {host}");
                }
                for image in ["386", "amd64", "arm/v5", "arm64", "arm64/v8.3", "arm64/v9"] {
                    let _ = rank(&host, &p(image));
                    let _ = rank(&p(image), &host);
                }
            }
        }
    }
}
