//! The [`Platform`]: what an image needs to run, or what a machine offers.
//!
//! The struct holds what was read, as it was read. It deliberately does not normalise, validate or compare
//! compatibility by itself: `==` is equality of the written fields, so `x86_64` and `amd64` differ here. Use
//! [`normalize`](crate::normalize) for the canonical spelling and a [`Matcher`](crate::Matcher) to ask what runs where.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;

/// Describes the operating system and the processor that an image needs or a machine offers.
///
/// The names on the wire are those of the OCI image specification, section *Image Index*, property `platform`
/// (`image-index.md`):
///
/// ```text
/// { "architecture": "amd64", "os": "windows", "os.version": "10.0.20348.2113",
///   "os.features": ["win32k"], "variant": "v2" }
/// ```
///
/// Optional properties that are absent are not written. Reading is as lenient as containerd's: a missing or `null`
/// property is an empty one, an empty optional string is an absent one, and unknown properties are ignored.
///
/// `Display` is [`format_all`](crate::format_all) and `FromStr` is [`parse`](crate::parse()). The order of `Ord` is
/// alphabetical, by operating system first; it is for sorted output and says nothing about preference.
///
/// ```
/// use wharf_platforms::Platform;
///
/// let platform = Platform::new("linux", "arm").with_variant("v6");
/// assert_eq!(platform.to_string(), "linux/arm/v6");
/// assert_eq!("linux/arm/v6".parse::<Platform>()?, platform);
/// # Ok::<(), wharf_platforms::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    // Declared in the order in which the OCI Go types write them.
    /// The processor architecture, in the words of Go's `GOARCH`: `amd64`, `arm64`, `386`, …
    #[serde(default, deserialize_with = "null_as_default")]
    pub architecture: String,

    /// The operating system, in the words of Go's `GOOS`: `linux`, `windows`, `darwin`, …
    #[serde(default, deserialize_with = "null_as_default")]
    pub os: String,

    /// The version of the operating system, such as `10.0.20348.2113`; compared on Windows only.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "is_absent",
        deserialize_with = "empty_as_absent"
    )]
    pub os_version: Option<String>,

    /// What the image demands of the operating system beyond its version, such as `win32k`.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,

    /// The variant of the architecture: `v6` of `arm`, `v8.2` of `arm64`, `v3` of `amd64`.
    #[serde(default, skip_serializing_if = "is_absent", deserialize_with = "empty_as_absent")]
    pub variant: Option<String>,
}

impl Platform {
    /// Returns a platform of this operating system and architecture, as given, without anything optional.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }
    }

    /// Sets the variant of the architecture.
    pub fn with_variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = Some(variant.into());
        self
    }

    /// Sets the version of the operating system.
    pub fn with_os_version(mut self, os_version: impl Into<String>) -> Self {
        self.os_version = Some(os_version.into());
        self
    }

    /// Sets the features of the operating system, in place of those already there.
    pub fn with_os_features<I>(mut self, os_features: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.os_features = os_features.into_iter().map(Into::into).collect();
        self
    }

    /// All fields, in the order in which platforms are sorted.
    fn sort_key(&self) -> (&str, &str, Option<&str>, Option<&str>, &[String]) {
        (&self.os, &self.architecture, self.variant.as_deref(), self.os_version.as_deref(), &self.os_features)
    }
}

impl Ord for Platform {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sort_key().cmp(&other.sort_key())
    }
}

impl PartialOrd for Platform {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&crate::format_all(self))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(specifier: &str) -> Result<Self, Error> {
        crate::parse(specifier)
    }
}

// serde hands over a reference to the field, whatever its type.
#[allow(clippy::ref_option)]
fn is_absent(value: &Option<String>) -> bool {
    value.as_deref().unwrap_or_default().is_empty()
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn empty_as_absent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_are_those_of_the_image_spec() {
        let full = Platform::new("windows", "amd64")
            .with_variant("v2")
            .with_os_version("10.0.20348")
            .with_os_features(["win32k"]);
        let json = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.20348","os.features":["win32k"],"variant":"v2"}"#;
        assert_eq!(serde_json::to_string(&full).unwrap(), json);
        assert_eq!(serde_json::from_str::<Platform>(json).unwrap(), full);
    }

    #[test]
    fn absent_properties_are_not_written() {
        for platform in [
            Platform::new("linux", "amd64"),
            Platform::new("linux", "amd64").with_variant("").with_os_version(""),
        ] {
            assert_eq!(serde_json::to_string(&platform).unwrap(), r#"{"architecture":"amd64","os":"linux"}"#);
        }
    }

    #[test]
    fn reading_is_lenient() {
        let plain = Platform::new("linux", "amd64");
        for (json, expected) in [
            (r#"{"os":"linux","architecture":"amd64"}"#, plain.clone()),
            (r#"{"os":"linux","architecture":"amd64","variant":"","os.version":""}"#, plain.clone()),
            (r#"{"os":"linux","architecture":"amd64","variant":null,"os.features":null}"#, plain.clone()),
            (r#"{"os":"linux","architecture":"amd64","features":["sse4"],"x":{}}"#, plain),
            (r#"{"os":null}"#, Platform::default()),
            ("{}", Platform::default()),
        ] {
            assert_eq!(serde_json::from_str::<Platform>(json).unwrap(), expected, "{json}");
        }
        for json in [r#"{"os":1}"#, r#"{"os.features":"win32k"}"#, "[1]", "null"] {
            assert!(serde_json::from_str::<Platform>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn sorts_by_os_then_architecture_then_variant() {
        let mut platforms = [
            Platform::new("windows", "amd64"),
            Platform::new("linux", "arm").with_variant("v7"),
            Platform::new("linux", "arm"),
            Platform::new("linux", "amd64"),
        ];
        platforms.sort();
        let shown: Vec<_> = platforms.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["linux/amd64", "linux/arm", "linux/arm/v7", "windows/amd64"]);
    }

    #[test]
    fn display_honours_the_width() {
        assert_eq!(format!("{:<12}|", Platform::new("linux", "amd64")), "linux/amd64 |");
    }
}
