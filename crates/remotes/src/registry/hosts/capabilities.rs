//! What a host is used for (containerd: `core/remotes/docker/registry.go`, `HostCapabilities`).

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::registry) struct Capabilities(u8);

impl Capabilities {
    /// Gives content by its digest.
    pub(in crate::registry) const PULL: Self = Self(1);
    /// Tells what a tag means, and which tags there are.
    pub(in crate::registry) const RESOLVE: Self = Self(2);
    /// Takes content.
    pub(in crate::registry) const PUSH: Self = Self(4);
    /// Lists what refers to a manifest.
    pub(in crate::registry) const REFERRERS: Self = Self(8);
    /// None of them.
    pub(in crate::registry) const NONE: Self = Self(0);
    /// All of them.
    pub(in crate::registry) const ALL: Self = Self(15);

    /// The words in configuration files.
    const NAMES: [(&str, Self); 4] = [
        ("pull", Self::PULL),
        ("resolve", Self::RESOLVE),
        ("push", Self::PUSH),
        ("referrers", Self::REFERRERS),
    ];

    /// Both together.
    pub(in crate::registry) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    pub(in crate::registry) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Reads one, in any case.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, capability)| *capability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, capability) in [
            ("pull", Some(Capabilities::PULL)),
            ("Resolve", Some(Capabilities::RESOLVE)),
            ("PUSH", Some(Capabilities::PUSH)),
            ("referrers", Some(Capabilities::REFERRERS)),
            ("", None),
            ("pull ", None),
            ("delete", None),
        ] {
            assert_eq!(Capabilities::parse(name), capability, "{name:?}");
        }
        let some = Capabilities::PULL.and(Capabilities::RESOLVE);
        assert!(some.has(Capabilities::PULL) && !some.has(Capabilities::PUSH) && Capabilities::ALL.has(some));
        assert!(!some.has(Capabilities::ALL));
    }
}
