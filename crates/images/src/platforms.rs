//! Choosing among the children of an index.

use std::{cmp::Ordering, sync::Arc};

use wharf_content::{Descriptor, Error, Result};
use wharf_platforms::{Matcher, Platform};

/// Which platforms of an image are wanted.
#[derive(Clone, Debug)]
pub struct Selection {
    /// `None` for all.
    wanted: Option<Arc<[Wanted]>>,
    explicit: bool,
}

#[derive(Debug)]
struct Wanted {
    name: String,
    matcher: Arc<dyn Matcher>,
}

impl Selection {
    /// Every platform, and what has none.
    pub fn all() -> Self {
        Self { wanted: None, explicit: false }
    }

    /// The best for this machine.
    pub fn host() -> Self {
        let host = wharf_platforms::default_spec();
        let mut selection = Self::best([&host]);
        selection.explicit = false;
        selection
    }

    /// The best for each of these platforms; every one of them must be there.
    pub fn best<'a>(platforms: impl IntoIterator<Item = &'a Platform>) -> Self {
        let wanted = platforms.into_iter().map(|platform| Wanted {
            name: wharf_platforms::format_all(platform),
            matcher: Arc::new(wharf_platforms::only(platform)),
        });
        Self { wanted: Some(wanted.collect()), explicit: true }
    }

    /// The best for one matcher, which `name` describes in errors.
    pub fn matching(name: impl Into<String>, matcher: Arc<dyn Matcher>) -> Self {
        Self { wanted: Some([Wanted { name: name.into(), matcher }].into()), explicit: true }
    }

    /// Whether everything is wanted.
    pub fn is_all(&self) -> bool {
        self.wanted.is_none()
    }

    /// Whether somebody asked for these platforms, and it is not just the host's.
    pub fn is_explicit(&self) -> bool {
        self.explicit
    }

    /// The wanted platforms as they were asked for, joined by commas.
    pub fn names(&self) -> String {
        match &self.wanted {
            None => "all".into(),
            Some(wanted) => wanted.iter().map(|wanted| wanted.name.as_str()).collect::<Vec<_>>().join(", "),
        }
    }

    /// Whether one of the wanted platforms is this one.
    pub fn matches(&self, platform: &Platform) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.iter().any(|wanted| wanted.matcher.matches(platform)))
    }

    /// Orders platforms for one best choice: the first wanted platform's matches first.
    pub fn compare(&self, a: &Platform, b: &Platform) -> Ordering {
        let Some(wanted) = &self.wanted else { return Ordering::Equal };
        let rank = |platform: &Platform| {
            wanted.iter().position(|wanted| wanted.matcher.matches(platform)).unwrap_or(wanted.len())
        };
        rank(a)
            .cmp(&rank(b))
            .then_with(|| wanted.get(rank(a)).map_or(Ordering::Equal, |wanted| wanted.matcher.compare(a, b)))
    }

    /// Keeps of an index's children the best for each wanted platform, in the index's order.
    ///
    /// Children without a platform are kept where some wanted platform has no other match, since they may be it.
    ///
    /// # Errors
    /// `NotFound` when a wanted platform cannot be there; it names those that are.
    pub fn choose(&self, index: &Descriptor, children: Vec<Descriptor>) -> Result<Vec<Descriptor>> {
        let Some(wanted) = &self.wanted else { return Ok(children) };
        let mut keep = vec![false; children.len()];
        let mut missing = Vec::new();
        for Wanted { name, matcher } in wanted.iter() {
            let candidates = children.iter().enumerate().filter_map(|(at, child)| {
                let platform = child.platform.as_ref()?;
                matcher.matches(platform).then_some((at, platform))
            });
            match candidates.min_by(|(_, a), (_, b)| matcher.compare(a, b)) {
                Some((at, _)) => keep[at] = true,
                None => missing.push(name.as_str()),
            }
        }
        if !missing.is_empty() {
            let mut found = false;
            for (keep, child) in keep.iter_mut().zip(&children) {
                found |= child.platform.is_none();
                *keep |= child.platform.is_none();
            }
            if !found {
                return Err(no_match(
                    index,
                    &missing.join(", "),
                    children.iter().filter_map(|c| c.platform.as_ref()),
                ));
            }
        }
        Ok(children.into_iter().zip(keep).filter_map(|(child, keep)| keep.then_some(child)).collect())
    }
}

/// Says which platforms there are instead.
pub(crate) fn no_match<'a>(
    target: &Descriptor,
    wanted: &str,
    present: impl Iterator<Item = &'a Platform>,
) -> Error {
    let mut names: Vec<String> =
        present.filter(|platform| is_known(platform)).map(wharf_platforms::format_all).collect();
    names.sort();
    names.dedup();
    let has = if names.is_empty() { "no platform at all".into() } else { names.join(", ") };
    Error::not_found(format!("no match for platform {wanted} in {}; the image has {has}", target.digest))
}

/// Whether a platform says something; attestations have "unknown".
pub fn is_known(platform: &Platform) -> bool {
    !matches!(platform.os.as_str(), "" | "unknown")
        && !matches!(platform.architecture.as_str(), "" | "unknown")
}

#[cfg(test)]
mod tests {
    use wharf_content::ErrorKind;

    use super::*;

    fn child(platform: &str) -> Descriptor {
        let descriptor = Descriptor::of("m", platform.as_bytes());
        if platform.is_empty() {
            return descriptor;
        }
        let (os, architecture) = platform.split_once('/').expect("os/architecture");
        let mut parsed = Platform::new(os, architecture);
        if let Some((architecture, variant)) = architecture.split_once('/') {
            parsed = Platform::new(os, architecture).with_variant(variant);
        }
        descriptor.with_platform(parsed)
    }

    fn chosen(wanted: &[&str], present: &[&str]) -> Result<Vec<usize>> {
        let wanted = wharf_platforms::parse_all(wanted)?;
        let children: Vec<_> = present.iter().map(|platform| child(platform)).collect();
        let kept = Selection::best(&wanted).choose(&child("index/x"), children.clone())?;
        Ok(kept
            .iter()
            .map(|kept| children.iter().position(|child| child == kept).expect("a child"))
            .collect())
    }

    #[test]
    fn the_best_for_each_in_order() {
        let all = ["linux/arm/v6", "linux/arm/v7", "linux/amd64", "unknown/unknown", "linux/386"];
        for (wanted, present, expected) in [
            (&["linux/amd64"][..], &all[..], &[2][..]),
            (&["linux/arm/v7"], &all, &[1]),
            (&["linux/arm/v8"], &all, &[1]),
            (&["linux/386", "linux/arm/v6"], &all, &[0, 4]),
            (&["linux/amd64"], &["linux/386", ""], &[0]),
            (&["linux/s390x"], &["linux/386", ""], &[1]),
            (&["linux/s390x"], &["", "linux/s390x"], &[1]),
        ] {
            assert_eq!(chosen(wanted, present).expect("a match"), expected, "{wanted:?} of {present:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there() {
        let error = chosen(&["linux/riscv64"], &["linux/arm64", "linux/amd64", "unknown/unknown"]);
        let error = error.expect_err("no match");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = error.to_string();
        assert!(
            text.contains("linux/riscv64") && text.ends_with("the image has linux/amd64, linux/arm64"),
            "{text}"
        );
    }
}
