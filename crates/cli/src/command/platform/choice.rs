//! In which order the platforms of an image are chosen.
//!
//! It goes through indexes as [`wharf_images::image::manifest`] does, level by level, but on to the end instead of up to the
//! first that fits. Manifests whose platform the index tells are not read, so a remote image costs little more than its index.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use wharf_content::{Catalogue, Descriptor, Digest, Error, ErrorKind, Result};
use wharf_images::{
    Decoded, Kind, Limits, decode,
    decode::kind,
    image::{ConfigPlatforms, Manifest},
    platforms::is_known,
};
use wharf_platforms::{Matcher, Platform, format_all, normalize};

use crate::{output, view::View};

/// One platform that may be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Choice {
    /// The canonical spelling; absent where neither index nor config tells.
    pub(super) platform: Option<String>,
    pub(super) matches: bool,
    /// Whether it is the first that matches.
    pub(super) chosen: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Whether its manifest is in the store; absent where nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    present: Option<bool>,
}

impl Choice {
    /// What stands for it: its digest, else its platform.
    pub(super) fn name(&self) -> &str {
        self.digest.as_deref().or(self.platform.as_deref()).unwrap_or_default()
    }
}

/// The order in which these platforms are chosen.
pub(super) fn of_platforms(offered: &[Platform], matcher: &dyn Matcher) -> Vec<Choice> {
    let (mut matching, others): (Vec<&Platform>, Vec<_>) =
        offered.iter().partition(|platform| matcher.matches(platform));
    matching.sort_by(|a, b| matcher.compare(a, b));
    let choice = |platform: &Platform, matches| Choice {
        platform: Some(format_all(&normalize(platform))),
        matches,
        ..Choice::default()
    };
    let matching = matching.into_iter().map(|platform| choice(platform, true)).collect();
    finish(matching, others.into_iter().map(|platform| choice(platform, false)).collect())
}

/// The order in which the platforms of an image are chosen.
///
/// A manifest or an absent index of no platform may be anything: it matches, and comes last on its level.
///
/// # Errors
/// `NotFound` when the image's own document is not there, `ResourceExhausted` for an image of too many parts.
pub(super) async fn of_image(
    view: &View,
    matcher: &dyn Matcher,
    catalogue: &Catalogue,
) -> Result<Vec<Choice>> {
    let (mut matching, mut others) = (Vec::new(), Vec::new());
    let (mut indexes, mut told) = (HashSet::new(), Told::default());
    // Depth first, the best on top.
    let mut stack = vec![(view.target.clone(), 0_usize)];
    let mut budget = Limits::default().max_nodes;
    while let Some((descriptor, depth)) = stack.pop() {
        budget = budget.checked_sub(1).ok_or_else(|| {
            Error::resource_exhausted(format!("the image {} has too many parts", view.target.digest))
        })?;
        let kind = kind(&descriptor.media_type, catalogue)?;
        if kind == Some(Kind::Index) && depth < Limits::DEFAULT_MAX_DEPTH {
            // Named again it says nothing new.
            if !indexes.insert(descriptor.digest.clone()) {
                continue;
            }
            let decoded = match decode(view.provider.as_ref(), &descriptor, catalogue).await {
                // A pull would fetch it; what is in it, nobody knows here.
                Err(error) if error.kind() == ErrorKind::NotFound && depth > 0 => {
                    matching.push(choice(view, &descriptor, descriptor.platform.as_ref(), true).await?);
                    continue;
                }
                decoded => decoded?,
            };
            let children = decoded.map(Decoded::descriptors).unwrap_or_default();
            let fits = |child: &Descriptor| child.platform.as_ref().is_none_or(|it| matcher.matches(it));
            let (mut children, unfit): (Vec<_>, Vec<_>) = children.into_iter().partition(fits);
            // Attestations are for a platform that is no platform.
            for child in unfit.iter().filter(|child| child.platform.as_ref().is_some_and(is_known)) {
                others.push(choice(view, child, child.platform.as_ref(), false).await?);
            }
            children.sort_by(|a, b| match (&a.platform, &b.platform) {
                (Some(a), Some(b)) => matcher.compare(a, b),
                (a, b) => a.is_none().cmp(&b.is_none()),
            });
            stack.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
            continue;
        }
        let platform = match &descriptor.platform {
            Some(platform) => Some(platform.clone()),
            None if kind == Some(Kind::Manifest) => {
                told.by_config(view, &descriptor, depth, catalogue).await?
            }
            // Neither a manifest nor anything that says where it runs.
            None => {
                others.push(choice(view, &descriptor, None, false).await?);
                continue;
            }
        };
        let matches = platform.as_ref().is_none_or(|platform| matcher.matches(platform));
        let choice = choice(view, &descriptor, platform.as_ref(), matches).await?;
        if matches { matching.push(choice) } else { others.push(choice) }
    }
    Ok(finish(matching, others))
}

/// What the configs of manifests told. An index may name one manifest tens of thousands of times, so each is read once.
#[derive(Default)]
struct Told {
    manifests: HashMap<(Digest, String, u64), Option<Platform>>,
    configs: ConfigPlatforms,
}

impl Told {
    /// The platform of a manifest that an index tells nothing about.
    async fn by_config(
        &mut self,
        view: &View,
        descriptor: &Descriptor,
        depth: usize,
        catalogue: &Catalogue,
    ) -> Result<Option<Platform>> {
        let provider = view.provider.as_ref();
        let key = (descriptor.digest.clone(), descriptor.media_type.clone(), descriptor.size);
        if let Some(told) = self.manifests.get(&key) {
            return Ok(told.clone());
        }
        let told = match decode(provider, descriptor, catalogue).await {
            Ok(Some(decoded)) => {
                let manifest = Manifest::new(descriptor.clone(), decoded);
                match self.configs.tell(provider, &manifest).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    told => told?,
                }
            }
            Ok(None) => None,
            Err(error) if error.kind() == ErrorKind::NotFound && depth > 0 => None,
            Err(error) => return Err(error),
        };
        self.manifests.insert(key, told.clone());
        Ok(told)
    }
}

async fn choice(
    view: &View,
    descriptor: &Descriptor,
    platform: Option<&Platform>,
    matches: bool,
) -> Result<Choice> {
    let present = match &view.image {
        None => None,
        Some(_) => match view.provider.reader(descriptor).await {
            Ok(_) => Some(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(false),
            Err(error) => return Err(error),
        },
    };
    let platform = platform.map(|platform| format_all(&normalize(platform)));
    Ok(Choice { platform, matches, chosen: false, digest: Some(descriptor.digest.to_string()), present })
}

fn finish(mut matching: Vec<Choice>, others: Vec<Choice>) -> Vec<Choice> {
    if let Some(first) = matching.first_mut() {
        first.chosen = true;
    }
    matching.extend(others);
    matching
}

/// The choices as a table, without the columns that nobody filled.
pub(super) fn table(choices: &[Choice]) -> String {
    let (has_digest, has_present) = (
        choices.iter().any(|choice| choice.digest.is_some()),
        choices.iter().any(|choice| choice.present.is_some()),
    );
    let mut header = vec!["CHOICE", "PLATFORM"];
    header.extend(has_digest.then_some("DIGEST"));
    header.extend(has_present.then_some("IN STORE"));
    let rows: Vec<Vec<String>> = (1..)
        .zip(choices)
        .map(|(place, choice)| {
            let order = match (choice.chosen, choice.matches) {
                (true, _) => "chosen".to_owned(),
                (false, true) => format!("{place}"),
                (false, false) => "-".to_owned(),
            };
            let mut row = vec![order, choice.platform.clone().unwrap_or_else(|| "-".to_owned())];
            row.extend(choice.digest.clone());
            row.extend(choice.present.map(|present| if present { "yes" } else { "no" }.to_owned()));
            row
        })
        .collect();
    output::table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use wharf_images::media_types as types;

    use super::*;
    use crate::command::tree::tests::Counting;

    #[tokio::test]
    async fn a_manifest_that_is_named_often_is_read_once() {
        let counting = Arc::new(Counting::default());
        let config =
            counting.put(types::OCI_CONFIG, &json!({ "os": "linux", "architecture": "arm64" })).await;
        let layers: [Descriptor; 0] = [];
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let manifest = counting.put(types::OCI_MANIFEST, &manifest).await;
        let inner = json!({ "schemaVersion": 2, "manifests": vec![&manifest; 1000] });
        let inner = counting.put(types::OCI_INDEX, &inner).await;
        let outer = json!({ "schemaVersion": 2, "manifests": vec![&inner; 1000] });
        let outer = counting.put(types::OCI_INDEX, &outer).await;
        let view = View {
            name: "x".into(),
            target: outer.clone(),
            provider: counting.clone(),
            image: None,
            fetcher: None,
        };
        let matcher = wharf_platforms::only(&Platform::new("linux", "arm64"));
        let choices = of_image(&view, &matcher, Catalogue::linked()).await.expect("an image");
        assert_eq!(choices.len(), 1000);
        assert!(
            choices.iter().all(|choice| choice.platform.as_deref() == Some("linux/arm64") && choice.matches)
        );
        for document in [&config, &manifest, &inner, &outer] {
            assert_eq!(counting.opened(&document.digest), 1, "{}", document.media_type);
        }
    }
}
