//! How well a platform fits what is asked for, as one value that sorts: the least fits best.
//!
//! Every matcher with preferences compares by it, so all of them order in one way. It deliberately holds no decision of
//! its own about what fits; that is for the matchers to find out.
//!
//! The order is that of containerd (`platforms`, `compare.go`): first by rank, then more features first. What fails
//! for its features alone comes after what matches and before the rest. Among images for Windows a newer version comes
//! first after that, as in containerd's default matcher for Windows (`platform_windows_compat.go`).

use std::cmp::Reverse;

use crate::windows::Version;

/// How well a platform fits. The order of the variants and of their fields is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// It fits.
    Matches {
        /// How far down the order of preference it was found.
        rank: u64,
        /// How many features it uses of those that are offered.
        features: Reverse<usize>,
        /// Its version, where versions are compared.
        version: Reverse<Option<Version>>,
    },
    /// It would fit, but demands features that are not offered.
    LacksFeatures {
        /// How far down the order of preference it was found.
        rank: u64,
    },
    /// It does not fit.
    No,
}

impl Fit {
    pub(crate) fn is_match(self) -> bool {
        matches!(self, Self::Matches { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_by_rank_then_features_then_version() {
        let fits = |rank, features, version| Fit::Matches {
            rank,
            features: Reverse(features),
            version: Reverse(Version::parse(version)),
        };
        let best_first = [
            fits(0, 2, ""),
            fits(0, 1, "10.0.20348.10"),
            fits(0, 1, "10.0.20348.9"),
            fits(0, 1, ""),
            fits(0, 0, "10.0.26100"),
            fits(1, 9, ""),
            Fit::LacksFeatures { rank: 0 },
            Fit::LacksFeatures { rank: 1 },
            Fit::No,
        ];
        assert!(best_first.is_sorted_by(|a, b| a < b));
    }
}
