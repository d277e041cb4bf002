//! Several platforms, the earlier preferred: [`ordered`].
//!
//! Each is matched exactly, as by [`only_strict`](crate::only_strict); what is compatible has to be listed. Corresponds
//! to `Ordered` of containerd (`platforms`, `compare.go`).

use std::borrow::Borrow;
use std::cmp::Ordering;

use crate::fit::Fit;
use crate::{Matcher, Platform, Strict, host};

/// Matches any of a list of platforms and prefers the earlier; made by [`ordered`].
#[derive(Clone, Debug)]
pub struct Ordered {
    platforms: Vec<Strict>,
}

/// Returns a matcher of any of these platforms that prefers the earlier.
///
/// An empty list matches nothing.
///
/// ```
/// use wharf_platforms::{Matcher, ordered, parse, parse_all};
///
/// let matcher = ordered(parse_all(["linux/arm64", "linux/amd64"])?);
/// assert!(matcher.compare(&parse("linux/arm64")?, &parse("linux/amd64")?).is_lt());
/// assert!(!matcher.matches(&parse("linux/386")?));
/// # Ok::<(), wharf_platforms::Error>(())
/// ```
pub fn ordered<I>(platforms: I) -> Ordered
where
    I: IntoIterator,
    I::Item: Borrow<Platform>,
{
    Ordered::for_host(platforms, host::detected())
}

impl Ordered {
    pub(crate) fn for_host<I>(platforms: I, host: &Platform) -> Self
    where
        I: IntoIterator,
        I::Item: Borrow<Platform>,
    {
        let platforms =
            platforms.into_iter().map(|platform| Strict::for_host(platform.borrow(), host)).collect();
        Self { platforms }
    }

    /// The platforms that are asked for, normalised, the preferred first.
    pub fn platforms(&self) -> impl ExactSizeIterator<Item = &Platform> {
        self.platforms.iter().map(Strict::platform)
    }

    fn fit(&self, image: &Platform) -> Fit {
        (0..).zip(&self.platforms).map(|(rank, platform)| platform.fit(image, rank)).min().unwrap_or(Fit::No)
    }
}

impl Matcher for Ordered {
    fn matches(&self, platform: &Platform) -> bool {
        self.platforms.iter().any(|wanted| wanted.matches(platform))
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

    fn matcher(specifiers: &[&str]) -> Ordered {
        Ordered::for_host(specifiers.iter().map(|specifier| p(specifier)), &host())
    }

    #[test]
    fn the_earlier_comes_first_then_more_features() {
        let matcher = matcher(&["linux/arm64", "linux(+a+b)/amd64", "linux/arm64"]);
        let mut images = ["linux/386", "linux/amd64", "linux(+a)/amd64", "linux(+z)/arm64", "linux/arm64/v8"];
        images.sort_by(|a, b| matcher.compare(&p(a), &p(b)));
        assert_eq!(
            images,
            ["linux/arm64/v8", "linux(+a)/amd64", "linux/amd64", "linux(+z)/arm64", "linux/386"]
        );
    }

    #[test]
    fn compatible_platforms_have_to_be_listed() {
        let matcher = matcher(&["linux/amd64/v2", "linux/arm/v7"]);
        for (image, matches) in [
            ("linux/amd64/v2", true),
            ("linux/amd64", false),
            ("linux/386", false),
            ("linux/arm", true),
            ("linux/arm/v6", false),
        ] {
            assert_eq!(matcher.matches(&p(image)), matches, "{image}");
        }
    }

    #[test]
    fn an_empty_list_matches_nothing() {
        let matcher = matcher(&[]);
        assert!(!matcher.matches(&host()));
        assert_eq!(matcher.compare(&host(), &p("linux/arm64")), Ordering::Equal);
        assert_eq!(matcher.platforms().len(), 0);
    }
}
