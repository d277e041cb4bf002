//! Several platforms without preference, and all of them: [`any`] and [`all`].
//!
//! For filters: which manifests of an index to keep when more than one is wanted. To choose one of them, use a matcher
//! with preferences instead. Corresponds to `Any` and `All` of containerd (`platforms`, `compare.go`).

use std::borrow::Borrow;
use std::cmp::Ordering;

use crate::fit::Fit;
use crate::{Matcher, Platform, Strict, host};

/// Matches any of a set of platforms; made by [`any`].
#[derive(Clone, Debug)]
pub struct Any {
    platforms: Vec<Strict>,
}

/// Returns a matcher of any of these platforms that prefers none of them.
///
/// Each is matched exactly, as by [`only_strict`](crate::only_strict). What matches comes before what does not, and more
/// features before fewer. An empty set matches nothing.
///
/// ```
/// use wharf_platforms::{Matcher, any, parse, parse_all};
///
/// let matcher = any(parse_all(["linux/arm64", "linux/amd64"])?);
/// assert!(matcher.matches(&parse("linux/amd64")?));
/// assert!(matcher.compare(&parse("linux/arm64")?, &parse("linux/amd64")?).is_eq());
/// # Ok::<(), wharf_platforms::Error>(())
/// ```
pub fn any<I>(platforms: I) -> Any
where
    I: IntoIterator,
    I::Item: Borrow<Platform>,
{
    Any::for_host(platforms, host::detected())
}

impl Any {
    pub(crate) fn for_host<I>(platforms: I, host: &Platform) -> Self
    where
        I: IntoIterator,
        I::Item: Borrow<Platform>,
    {
        let platforms =
            platforms.into_iter().map(|platform| Strict::for_host(platform.borrow(), host)).collect();
        Self { platforms }
    }

    /// The platforms that are asked for, normalised.
    pub fn platforms(&self) -> impl ExactSizeIterator<Item = &Platform> {
        self.platforms.iter().map(Strict::platform)
    }

    fn fit(&self, image: &Platform) -> Fit {
        self.platforms.iter().map(|platform| platform.fit(image, 0)).min().unwrap_or(Fit::No)
    }
}

impl Matcher for Any {
    fn matches(&self, platform: &Platform) -> bool {
        self.platforms.iter().any(|wanted| wanted.matches(platform))
    }

    fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        self.fit(a).cmp(&self.fit(b))
    }
}

/// Matches every platform and prefers none; made by [`all`].
#[derive(Clone, Copy, Debug, Default)]
pub struct All;

/// Returns the matcher of every platform.
///
/// ```
/// use wharf_platforms::{Matcher, Platform, all};
///
/// assert!(all().matches(&Platform::new("plan9", "mips")));
/// ```
pub fn all() -> All {
    All
}

impl Matcher for All {
    fn matches(&self, _: &Platform) -> bool {
        true
    }

    fn compare(&self, _: &Platform, _: &Platform) -> Ordering {
        Ordering::Equal
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
    fn any_prefers_none_of_them() {
        let matcher = Any::for_host([p("linux/arm64"), p("linux(+a)/amd64")], &host());
        for (a, b, expected) in [
            ("linux/arm64", "linux/amd64", Ordering::Equal),
            ("linux/amd64", "linux/arm64/v8", Ordering::Equal),
            ("linux(+a)/amd64", "linux/arm64", Ordering::Less),
            ("linux/386", "linux/arm64", Ordering::Greater),
            ("linux(+x)/arm64", "linux/386", Ordering::Less),
            ("linux/386", "windows/amd64", Ordering::Equal),
        ] {
            assert_eq!(matcher.compare(&p(a), &p(b)), expected, "{a} {b}");
            assert_eq!(matcher.compare(&p(b), &p(a)), expected.reverse(), "{b} {a}");
        }
        assert_eq!(matcher.platforms().len(), 2);
        assert!(!matcher.matches(&p("linux/386")));
        assert!(!Any::for_host(Vec::<Platform>::new(), &host()).matches(&host()));
    }

    #[test]
    fn all_matches_what_nobody_asks_for() {
        for platform in [Platform::default(), p("windows(+a)/amd64"), p("unknown/unknown")] {
            assert!(all().matches(&platform));
            assert_eq!(all().compare(&platform, &host()), Ordering::Equal);
        }
    }
}
