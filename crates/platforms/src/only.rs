//! One platform and what is compatible with it, best first: [`only`] and [`default_matcher`].
//!
//! Corresponds to `Only` and `Default` of containerd (`platforms`, `compare.go` and `defaults.go`). Emulation is
//! deliberately not considered: what the host runs through binfmt or Rosetta is for the caller to ask for.

use std::cmp::Ordering;

use crate::fit::Fit;
use crate::{Matcher, Platform, Strict, host, preference};

/// Matches one platform and what is compatible with it, in order of preference; made by [`only`].
#[derive(Clone, Debug)]
pub struct Only {
    platform: Strict,
}

/// Returns a matcher of a platform and of what runs on it as well, best first.
///
/// An `amd64/v3` machine runs `v3`, `v2`, `v1` and then `386`; an `arm64` machine runs `arm64` and then `arm` from `v8`
/// down to `v5`. The whole table is in the documentation of the crate. Among platforms of the same rank, the one that
/// uses more of the features comes first. Features and, for Windows, versions have to fit as with
/// [`only_strict`](crate::only_strict).
///
/// ```
/// use wharf_platforms::{Matcher, Platform, only};
///
/// let matcher = only(&Platform::new("linux", "amd64"));
/// assert!(matcher.matches(&Platform::new("linux", "386")));
/// assert!(!matcher.matches(&Platform::new("linux", "arm64")));
/// assert!(matcher.compare(&Platform::new("linux", "amd64"), &Platform::new("linux", "386")).is_lt());
/// ```
pub fn only(platform: &Platform) -> Only {
    Only::for_host(platform, host::detected())
}

/// Returns the matcher of the host: [`only`] of [`default_spec`](crate::default_spec).
pub fn default_matcher() -> Only {
    only(host::detected())
}

impl Only {
    pub(crate) fn for_host(platform: &Platform, host: &Platform) -> Self {
        Self { platform: Strict::for_host(platform, host) }
    }

    /// The platform that is asked for, normalised.
    pub fn platform(&self) -> &Platform {
        self.platform.platform()
    }

    /// The platforms that match, the preferred first, each with the version and the features that are asked for.
    ///
    /// An image with fewer features matches as well, and one for Windows with other versions; these are not listed. It
    /// is computed on demand: variants with absurd numbers have absurdly many before them.
    ///
    /// ```
    /// use wharf_platforms::{Platform, only};
    ///
    /// let matcher = only(&Platform::new("linux", "amd64").with_variant("v3"));
    /// let accepted: Vec<_> = matcher.platforms().map(|platform| platform.to_string()).collect();
    /// assert_eq!(accepted, ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]);
    /// ```
    pub fn platforms(&self) -> impl Iterator<Item = Platform> {
        preference::order(self.platform()).map(|(architecture, variant)| Platform {
            architecture,
            variant,
            ..self.platform().clone()
        })
    }

    fn fit(&self, image: &Platform) -> Fit {
        self.platform.fit_ranked(image, |image| preference::rank(self.platform(), image))
    }
}

impl Matcher for Only {
    fn matches(&self, platform: &Platform) -> bool {
        self.fit(platform).is_match()
    }

    fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        self.fit(a).cmp(&self.fit(b))
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
    fn sorts_an_index() {
        for (wanted, images, expected) in [
            (
                "linux/amd64/v2",
                vec!["linux/386", "windows/amd64", "linux/amd64/v3", "linux/amd64", "linux/amd64/v2"],
                vec!["linux/amd64/v2", "linux/amd64", "linux/386"],
            ),
            (
                "linux/arm64",
                vec!["linux/arm/v5", "linux/arm/v7", "linux/amd64", "linux/arm64/v8", "unknown/unknown"],
                vec!["linux/arm64/v8", "linux/arm/v7", "linux/arm/v5"],
            ),
            (
                "linux(+a+b)/amd64",
                vec!["linux(+a+b)/386", "linux/amd64", "linux(+a)/amd64", "linux(+c)/amd64"],
                vec!["linux(+a)/amd64", "linux/amd64", "linux(+a+b)/386"],
            ),
            (
                "windows(10.0.22621)/amd64",
                vec![
                    "windows(10.0.17763)/amd64",
                    "windows(10.0.20348.1)/amd64",
                    "windows(10.0.20348.2+win32k)/amd64",
                ],
                vec!["windows(10.0.20348.2+win32k)/amd64", "windows(10.0.20348.1)/amd64"],
            ),
        ] {
            let matcher = Only::for_host(&p(wanted), &host());
            let mut fitting = images.clone();
            fitting.retain(|image| matcher.matches(&p(image)));
            fitting.sort_by(|a, b| matcher.compare(&p(a), &p(b)));
            assert_eq!(fitting, expected, "for {wanted}");

            let mut all = images;
            all.sort_by(|a, b| matcher.compare(&p(a), &p(b)));
            assert_eq!(all[..expected.len()], expected, "what matches comes first for {wanted}");
        }
    }

    #[test]
    fn the_version_and_the_features_hold_for_compatible_architectures_too() {
        let matcher = Only::for_host(&p("windows(10.0.17763+a)/amd64"), &host());
        assert!(matcher.matches(&p("windows(10.0.17763+a)/386")));
        assert!(!matcher.matches(&p("windows(10.0.17762)/386")));
        assert!(!matcher.matches(&p("windows(+b)/386")));
    }

    #[test]
    fn lists_what_it_matches_best_first() {
        for (wanted, expected) in [
            ("linux/arm/v6", &["linux/arm/v6", "linux/arm/v5"][..]),
            ("windows(10.0.26100+a)/amd64", &["windows(10.0.26100+a)/amd64", "windows(10.0.26100+a)/386"]),
            ("linux/s390x", &["linux/s390x"]),
            ("linux/arm64/6", &["linux/arm64/6", "linux/arm/v6", "linux/arm/v5"]),
        ] {
            let matcher = Only::for_host(&p(wanted), &host());
            let listed: Vec<_> = matcher.platforms().collect();
            assert_eq!(listed.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
            assert!(listed.iter().all(|platform| matcher.matches(platform)));
            assert!(listed.is_sorted_by(|a, b| matcher.compare(a, b).is_lt()));
        }
    }

    #[test]
    fn the_host_matches_itself() {
        assert!(default_matcher().matches(&crate::default_spec()));
        assert!(crate::default_strict().matches(&crate::default_spec()));
    }

    #[test]
    fn shows_what_is_asked_for() {
        assert_eq!(Only::for_host(&p("Linux/x86_64"), &host()).platform(), &Platform::new("linux", "amd64"));
    }
}
