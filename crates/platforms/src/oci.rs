//! Conversions from and to `oci_spec::image::Platform`.
//!
//! They go through that type's own fields and not through its JSON: that of oci-spec 0.10 names the version and the
//! features `os_version` and `os_features`, not `os.version` and `os.features` as the image specification does, so what
//! it reads from a registry lacks both. Where they matter, read a [`Platform`] instead.
//!
//! The reserved property `features` of the image specification has no counterpart here and is deliberately dropped.

use oci_spec::image::{Arch, Os, Platform as OciPlatform};

use crate::Platform;

impl From<&OciPlatform> for Platform {
    fn from(platform: &OciPlatform) -> Self {
        Self {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone(),
            os_version: platform.os_version().clone(),
            os_features: platform.os_features().clone().unwrap_or_default(),
        }
    }
}

impl From<OciPlatform> for Platform {
    fn from(platform: OciPlatform) -> Self {
        Self::from(&platform)
    }
}

impl From<&Platform> for OciPlatform {
    fn from(platform: &Platform) -> Self {
        let mut converted = Self::default();
        converted
            .set_os(Os::from(platform.os.as_str()))
            .set_architecture(architecture(&platform.architecture))
            .set_variant(platform.variant.clone())
            .set_os_version(platform.os_version.clone())
            .set_os_features((!platform.os_features.is_empty()).then(|| platform.os_features.clone()));
        converted
    }
}

impl From<Platform> for OciPlatform {
    fn from(platform: Platform) -> Self {
        Self::from(&platform)
    }
}

fn architecture(name: &str) -> Arch {
    match name {
        // oci-spec 0.10 reads this as 64-bit ARM.
        "armbe" => Arch::ARMbe,
        name => Arch::from(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::{ARCHITECTURES, OPERATING_SYSTEMS};

    #[test]
    fn there_and_back() {
        for platform in [
            Platform::default(),
            Platform::new("linux", "amd64"),
            Platform::new("linux", "armbe"),
            Platform::new("unknown", "unknown"),
            Platform::new("windows", "arm64")
                .with_variant("v8")
                .with_os_version("10.0.20348")
                .with_os_features(["win32k", "other"]),
        ] {
            assert_eq!(Platform::from(OciPlatform::from(&platform)), platform);
        }
    }

    #[test]
    fn every_known_word_is_kept() {
        for os in OPERATING_SYSTEMS {
            let converted = OciPlatform::from(Platform::new(*os, "amd64"));
            assert!(!matches!(converted.os(), Os::Other(_)), "{os} is one of oci-spec's");
            assert_eq!(Platform::from(converted).os, *os);
        }
        for architecture in ARCHITECTURES {
            let converted = OciPlatform::from(Platform::new("linux", *architecture));
            assert!(
                !matches!(converted.architecture(), Arch::Other(_)),
                "{architecture} is one of oci-spec's"
            );
            assert_eq!(OciPlatform::from(Platform::from(&converted)), converted);
            assert_eq!(Platform::from(converted).architecture, *architecture);
        }
    }

    #[test]
    fn uses_the_words_that_oci_spec_knows() {
        let converted = OciPlatform::from(Platform::new("linux", "arm64"));
        assert_eq!((converted.os(), converted.architecture()), (&Os::Linux, &Arch::ARM64));
        assert_eq!(converted.os_features(), &None);
    }
}
