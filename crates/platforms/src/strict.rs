//! One platform, exactly: [`only_strict`] and the test that all other matchers are made of.
//!
//! Exactly means after normalising, so `x86_64` matches `amd64`, but `amd64` deliberately matches neither `amd64/v2` nor
//! `386`; that is what [`only`](crate::only()) is for. Corresponds to `NewMatcher` and `OnlyStrict` of containerd
//! (`platforms`, `platforms.go` and `compare.go`).

use std::cmp::{Ordering, Reverse};

use crate::fit::Fit;
use crate::normalize::normalize_for_os;
use crate::windows::{Version, WIN32K};
use crate::{Matcher, Platform, host};

/// Matches one platform and nothing that is merely compatible with it; made by [`only_strict`].
#[derive(Clone, Debug)]
pub struct Strict {
    /// What is asked for, normalised.
    platform: Platform,
    /// What an image without an operating system stands for.
    host_os: String,
    /// The version to compare with, if this is Windows and its version is known.
    windows: Option<Version>,
}

/// Returns a matcher of exactly this platform.
///
/// Operating system, architecture and variant are equal after normalising, and the image demands no features but those
/// of `platform`. For Windows, the version has to fit as well: see the table in the documentation of the crate.
///
/// ```
/// use wharf_platforms::{Matcher, Platform, only_strict};
///
/// let matcher = only_strict(&Platform::new("linux", "amd64").with_variant("v2"));
/// assert!(matcher.matches(&Platform::new("linux", "x86_64").with_variant("v2")));
/// assert!(!matcher.matches(&Platform::new("linux", "amd64")));
/// ```
pub fn only_strict(platform: &Platform) -> Strict {
    Strict::for_host(platform, host::detected())
}

/// Returns a matcher of exactly the platform of the host: [`only_strict`] of [`default_spec`](crate::default_spec).
pub fn default_strict() -> Strict {
    only_strict(host::detected())
}

impl Strict {
    pub(crate) fn for_host(platform: &Platform, host: &Platform) -> Self {
        let platform = normalize_for_os(platform, &host.os);
        let windows =
            platform.os_version.as_deref().filter(|_| platform.os == "windows").and_then(Version::parse);
        Self { platform, host_os: host.os.clone(), windows }
    }

    /// The platform that is asked for, normalised.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// How an image fits if only the exact architecture and variant will do.
    pub(crate) fn fit(&self, image: &Platform, rank: u64) -> Fit {
        self.fit_ranked(image, |image| {
            let same =
                image.architecture == self.platform.architecture && image.variant == self.platform.variant;
            same.then_some(rank)
        })
    }

    /// How an image fits, where `rank` judges its architecture and variant; it is given the normalised image.
    pub(crate) fn fit_ranked(&self, image: &Platform, rank: impl FnOnce(&Platform) -> Option<u64>) -> Fit {
        let image = normalize_for_os(image, &self.host_os);
        if image.os != self.platform.os {
            return Fit::No;
        }
        let Some(rank) = rank(&image) else { return Fit::No };

        let mut version = None;
        if let (Some(host), Some(written)) = (self.windows, image.os_version.as_deref()) {
            version = Version::parse(written).filter(|version| version.runs_on(host));
            if version.is_none() {
                return Fit::No;
            }
        }

        let ignores_win32k = self.platform.os == "windows";
        let mut features = 0;
        for feature in image.os_features.iter().filter(|feature| !(ignores_win32k && *feature == WIN32K)) {
            // Normalised features are sorted.
            if self.platform.os_features.binary_search(feature).is_err() {
                return Fit::LacksFeatures { rank };
            }
            features += 1;
        }
        Fit::Matches { rank, features: Reverse(features), version: Reverse(version) }
    }
}

impl Matcher for Strict {
    fn matches(&self, platform: &Platform) -> bool {
        self.fit(platform, 0).is_match()
    }

    fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        self.fit(a, 0).cmp(&self.fit(b, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse_for_host;

    fn host() -> Platform {
        Platform::new("linux", "amd64")
    }

    fn p(specifier: &str) -> Platform {
        parse_for_host(specifier, &host()).unwrap()
    }

    #[test]
    fn what_matches() {
        for (wanted, image, matches) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/x86_64", true),
            ("linux/amd64", "linux/amd64/v2", false),
            ("linux/amd64", "linux/386", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64/v2", "linux/amd64", false),
            ("linux/arm", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/armhf", true),
            ("linux/arm/v7", "linux/arm/v6", false),
            ("linux/arm/v8", "linux/arm/v7", false),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64", "linux/aarch64", true),
            ("linux/arm64", "linux/arm", false),
            ("linux/arm64/v9", "linux/arm64/v9.0", true),
            ("linux/arm64/v9", "linux/arm64/v8", false),
            ("linux/arm64/v8.1", "linux/arm64", false),
            ("macos/arm64", "darwin/arm64", true),
            // Features of the image are among those of the host.
            ("linux(+a+b)/amd64", "linux/amd64", true),
            ("linux(+a+b)/amd64", "linux(+b+a)/amd64", true),
            ("linux(+a+b)/amd64", "linux(+b+b)/amd64", true),
            ("linux(+a+b)/amd64", "linux(+c)/amd64", false),
            ("linux(+a+b)/amd64", "linux(+a+b+c)/amd64", false),
            ("linux/amd64", "linux(+a)/amd64", false),
            ("linux/amd64", "linux(+win32k)/amd64", false),
            // Versions count on Windows only.
            ("linux(1)/amd64", "linux(2)/amd64", true),
            ("windows/amd64", "windows(10.0.17763)/amd64", true),
            ("windows(10.0.17763)/amd64", "windows/amd64", true),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763.99)/amd64", true),
            ("windows(10.0.17763)/amd64", "windows(10.0.17762)/amd64", false),
            ("windows(10.0.22621)/amd64", "windows(10.0.20348)/amd64", true),
            ("windows(10.0.26100)/amd64", "windows(10.0.20348)/amd64", false),
            ("Windows(10.0.17763)/amd64", "windows(10.0.17762)/amd64", false),
            ("windows(10.0.17763)/amd64", "windows(nonsense)/amd64", false),
            ("windows(nonsense)/amd64", "windows(10.0.17763)/amd64", true),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763+win32k)/amd64", true),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763+other)/amd64", false),
            ("windows(+other)/amd64", "windows(+other+win32k)/amd64", true),
        ] {
            let matcher = Strict::for_host(&p(wanted), &host());
            assert_eq!(matcher.matches(&p(image)), matches, "{image} on {wanted}");
        }
    }

    #[test]
    fn an_image_without_an_os_is_one_of_the_host() {
        let image = Platform::new("", "amd64");
        assert!(Strict::for_host(&Platform::new("linux", "amd64"), &host()).matches(&image));
        assert!(!Strict::for_host(&Platform::new("windows", "amd64"), &host()).matches(&image));
        assert!(Strict::for_host(&image, &host()).matches(&Platform::new("linux", "amd64")));
    }

    #[test]
    fn more_features_come_first_and_those_that_lack_come_before_the_rest() {
        let matcher = Strict::for_host(&p("linux(+a+b)/amd64"), &host());
        let mut images =
            ["linux/arm64", "linux(+c)/amd64", "linux/amd64", "linux(+a+b)/amd64", "linux(+a)/amd64"];
        images.sort_by(|a, b| matcher.compare(&p(a), &p(b)));
        assert_eq!(
            images,
            ["linux(+a+b)/amd64", "linux(+a)/amd64", "linux/amd64", "linux(+c)/amd64", "linux/arm64"]
        );
    }

    #[test]
    fn win32k_makes_no_image_better() {
        let matcher = Strict::for_host(&p("windows(10.0.20348+win32k)/amd64"), &host());
        let (with, without) = (p("windows(10.0.20348+win32k)/amd64"), p("windows(10.0.20348)/amd64"));
        assert!(matcher.matches(&with) && matcher.matches(&without));
        assert_eq!(matcher.compare(&with, &without), Ordering::Equal);
    }

    #[test]
    fn newer_windows_comes_first_where_the_version_of_the_host_is_known() {
        let images = [
            "windows/amd64",
            "windows(10.0.20348.9)/amd64",
            "windows(10.0.20348.10)/amd64",
            "windows(10.0.25398)/amd64",
        ];
        let mut sorted = images;
        let matcher = Strict::for_host(&p("windows(10.0.25398)/amd64"), &host());
        sorted.sort_by(|a, b| matcher.compare(&p(a), &p(b)));
        assert_eq!(sorted, [images[3], images[2], images[1], images[0]]);

        let mut unsorted = images;
        let matcher = Strict::for_host(&p("windows/amd64"), &host());
        unsorted.sort_by(|a, b| matcher.compare(&p(a), &p(b)));
        assert_eq!(unsorted, images, "without a version nothing is known to be better");
    }
}
