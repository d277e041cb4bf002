//! The [`Matcher`]: which platforms fit, and which of two fits better.
//!
//! It is the extension point of this crate: whatever takes a matcher takes one of yours. It deliberately knows nothing of
//! descriptors or indexes; the caller sorts what it has by the platforms that belong to it.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::sync::Arc;

use crate::Platform;

/// Decides which platforms fit and which of two is preferred.
///
/// Corresponds to `MatchComparer` of containerd (`platforms`, `compare.go`); its `Less(a, b)` is
/// `compare(a, b) == Ordering::Less`.
///
/// ```
/// use wharf_platforms::{Matcher, Platform};
///
/// /// Anything that runs on Linux.
/// #[derive(Debug)]
/// struct AnyLinux;
///
/// impl Matcher for AnyLinux {
///     fn matches(&self, platform: &Platform) -> bool {
///         platform.os == "linux"
///     }
/// }
///
/// let mut offered = [Platform::new("windows", "amd64"), Platform::new("linux", "s390x")];
/// offered.sort_by(|a, b| AnyLinux.compare(a, b));
/// assert_eq!(offered[0].os, "linux");
/// ```
pub trait Matcher: Send + Sync + Debug {
    /// Whether this platform fits.
    fn matches(&self, platform: &Platform) -> bool;

    /// Orders two platforms by preference: `Less` means that `a` is preferred to `b`.
    ///
    /// What matches comes before what does not. Implementations keep to a total preorder, so that the result can be
    /// used to sort; `Equal` says that neither is preferred, not that they are the same, and a stable sort keeps their
    /// order. The default knows no other preference.
    fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        // `false` sorts before `true`.
        (!self.matches(a)).cmp(&!self.matches(b))
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<M: Matcher + ?Sized> Matcher for $pointer {
            fn matches(&self, platform: &Platform) -> bool {
                (**self).matches(platform)
            }

            fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
                (**self).compare(a, b)
            }
        }
    )*};
}

forward!(&M, Box<M>, Arc<M>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::only;

    #[test]
    fn pointers_forward_the_preference() {
        let (v1, v2) = (Platform::new("linux", "amd64"), Platform::new("linux", "amd64").with_variant("v2"));
        let matcher = only(&v2);
        let shared: Arc<dyn Matcher> = Arc::new(matcher.clone());
        let boxed: Box<dyn Matcher> = Box::new(Arc::clone(&shared));
        let pointers: [&dyn Matcher; 4] = [&matcher, &&matcher, &shared, &boxed];
        for pointer in pointers {
            assert!(pointer.matches(&v1));
            assert_eq!(pointer.compare(&v2, &v1), Ordering::Less);
            assert_eq!(pointer.compare(&v1, &v2), Ordering::Greater);
        }
    }
}
