//! Windows versions: which image runs on which host.
//!
//! A Windows container shares the kernel of its host, and before Windows Server 2022 the interface between both changed
//! with every build. Since then it is stable from one long-term release to the next. The rule is that of containerd
//! (`platforms`, `platform_windows_compat.go`), with Windows Server 2025 added to the long-term releases. Hyper-V
//! isolation, which would run older images too, is deliberately not considered.
//!
//! ```text
//! host build      image builds that run on it
//! < 20348         the same build
//! 20348 … 26099   20348 … host
//! 26100 …         26100 … host
//! ```

/// The feature of images that need `win32k.sys`; every host but Nano Server has it, so it is not compared.
pub(crate) const WIN32K: &str = "win32k";

/// The first build with a stable interface: Windows Server 2022.
const FIRST_STABLE_BUILD: u32 = 20348;

/// The long-term builds from which images run on later hosts: Windows Server 2022 and 2025. Ascending.
const LONG_TERM_BUILDS: [u32; 2] = [FIRST_STABLE_BUILD, 26100];

/// A Windows version, `major.minor.build[.revision]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
    build: u32,
    /// Zero if it is missing or not a number: it decides about preference only.
    revision: u32,
}

impl Version {
    /// Reads a version; `None` if one of the first three numbers is missing or is not a number.
    pub(crate) fn parse(version: &str) -> Option<Self> {
        let mut numbers = version.split('.');
        Some(Self {
            major: number(numbers.next()?)?,
            minor: number(numbers.next()?)?,
            build: number(numbers.next()?)?,
            revision: numbers.next().and_then(number).unwrap_or_default(),
        })
    }

    /// Whether an image of this version runs on `host`.
    pub(crate) fn runs_on(self, host: Self) -> bool {
        if (self.major, self.minor) != (host.major, host.minor) {
            return false;
        }
        if host.build < FIRST_STABLE_BUILD {
            return self.build == host.build;
        }
        let oldest = LONG_TERM_BUILDS
            .into_iter()
            .rev()
            .find(|long_term| *long_term <= host.build)
            .unwrap_or(FIRST_STABLE_BUILD);
        (oldest..=host.build).contains(&self.build)
    }
}

fn number(digits: &str) -> Option<u32> {
    // `u32::from_str` alone would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let version = |major, minor, build, revision| Some(Version { major, minor, build, revision });
        for (text, expected) in [
            ("10.0.17763", version(10, 0, 17763, 0)),
            ("10.0.17763.1", version(10, 0, 17763, 1)),
            ("10.0.17763.x", version(10, 0, 17763, 0)),
            ("10.0.17763.1.9", version(10, 0, 17763, 1)),
            ("", None),
            ("10", None),
            ("10.0", None),
            ("10.0.", None),
            ("10.0.+1", None),
            ("10.0.-1", None),
            ("a.0.1", None),
            ("10.0.99999999999", None),
        ] {
            assert_eq!(Version::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn which_image_runs_on_which_host() {
        for (host, image, runs) in [
            ("10.0.17763", "10.0.17763", true),
            ("10.0.17763.1", "10.0.17763.2000", true),
            ("10.0.17763", "10.0.17762", false),
            ("10.0.17763", "10.0.17764", false),
            ("10.0.20347", "10.0.20347", true),
            ("10.0.20347", "10.0.20346", false),
            ("10.0.20348", "10.0.20348", true),
            ("10.0.20348", "10.0.17763", false),
            ("10.0.20348", "10.0.20349", false),
            ("10.0.22621", "10.0.20348", true),
            ("10.0.22621", "10.0.22000", true),
            ("10.0.22621", "10.0.19042", false),
            ("10.0.22621", "10.0.22622", false),
            ("10.0.26099", "10.0.20348", true),
            ("10.0.26100", "10.0.26100", true),
            ("10.0.26100", "10.0.20348", false),
            ("10.0.26100", "10.0.26099", false),
            ("10.0.27000", "10.0.26100", true),
            ("10.0.27000", "10.0.25398", false),
            ("11.0.20348", "10.0.20348", false),
            ("10.1.20348", "10.0.20348", false),
        ] {
            let (host, image) = (Version::parse(host).unwrap(), Version::parse(image).unwrap());
            assert_eq!(image.runs_on(host), runs, "{image:?} on {host:?}");
        }
    }
}
