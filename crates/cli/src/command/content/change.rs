//! `wharf content label`, `abort` and `rm`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::json;
use wharf_content::{Digest, Error, ErrorKind, Result, filter::FilterSet};
use wharf_images::{Selection, image::check};

use crate::{args::Format, context::Context, exit::Failures, labels, output};

use super::find;

/// Arguments of `content label`.
#[derive(Debug, Args)]
#[command(
    after_help = format!("{}\n\nLabels that steer collection can be set too: `containerd.io/gc.root` keeps a blob, \
`containerd.io/gc.ref.content.NAME` on a blob keeps the one that it names.\n\n\
Examples:\n  wharf content label 3f5a1c2 team=storage\n  wharf content label 3f5a1c2 containerd.io/gc.root=yes team=", find::DIGEST_HELP)
)]
pub(crate) struct Label {
    /// The blob
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// Labels to set; an empty value removes
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Label {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let labels = labels::parse(&self.labels)?;
        let store = context.store().await?;
        let digest = find::find_one(store.as_ref(), &self.digest).await?;
        let paths: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        // No path at all would mean all labels.
        let info = if paths.is_empty() {
            store.info(&digest).await?
        } else {
            store.update(&digest, &labels, &paths).await?
        };
        match context.global.format {
            Format::Json => output::json(&json!({ "digest": digest.as_str(), "labels": info.labels })),
            Format::Text if context.global.quiet => output::line(digest.as_str()),
            Format::Text => info
                .labels
                .iter()
                .try_for_each(|(key, value)| output::line(&output::escape(&format!("{key}={value}")))),
        }
    }
}

/// Arguments of `content abort`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints what it threw away, and exits with 7 when that is not all. An ingest that a process is at work on is left alone.\n\n\
Examples:\n  wharf content abort backup\n  wharf content active -q | xargs -r -d '\\n' wharf content abort"
)]
pub(crate) struct Abort {
    /// The ingests, as `wharf content active` names them
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
}

impl Abort {
    /// Throws away what is there, and fails if one was not.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let store = context.store().await?;
        let mut failures = Failures::new(context.global.format);
        let mut aborted = Vec::new();
        for reference in self.references {
            match store.abort(&reference).await {
                Ok(()) => {
                    failures.done(Ok(()));
                    aborted.push(reference);
                }
                // Not a matter of the network, as being unavailable is elsewhere.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    failures.add(Error::conflict(error.to_string()));
                }
                Err(error) => failures.add(error),
            }
        }
        failures.afterwards(output::names(context.global.format, &aborted));
        failures.finish(context)
    }
}

/// Arguments of `content rm`.
#[derive(Debug, Args)]
#[command(
    after_help = format!("{}\n\nWhat an image needs is removed as well, with a warning that names the image; pulling it again brings it \
back. `wharf gc` removes only what nothing needs.\n\nExamples:\n  wharf content rm 3f5a1c2\n  \
wharf content ls -q 'labels.stage==scratch' | xargs -r wharf content rm", find::DIGEST_HELP)
)]
pub(crate) struct Remove {
    /// The blobs
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<String>,
}

impl Remove {
    /// Removes what is there, and fails if one was not.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let store = context.store().await?;
        let mut failures = Failures::new(context.global.format);
        let found = find::find(store.as_ref(), &self.digests).await?;
        let wanted: Vec<Digest> = found.into_iter().filter_map(|digest| failures.sort(digest)).collect();
        // Without the parents nobody can tell any more who needed their children.
        let users = users(context, &wanted).await?;
        let mut removed = Vec::new();
        for digest in &wanted {
            if failures.done(store.delete(digest).await).is_none() {
                continue;
            }
            removed.push(digest.to_string());
            for name in users.get(digest).into_iter().flatten() {
                let name = output::escape(name);
                output::note(&format!("warning: image {name} needs {digest}, which was removed"));
            }
        }
        failures.afterwards(output::names(context.global.format, &removed));
        failures.finish(context)
    }
}

/// The names of the images that need each of these blobs.
async fn users(context: &Context, wanted: &[Digest]) -> Result<BTreeMap<Digest, BTreeSet<String>>> {
    let mut users: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(users);
    }
    let provider = context.provider().await?;
    for image in context.images().await?.list(&FilterSet::all()).await? {
        match check(provider.clone(), &image.target, &Selection::all(), &context.catalogue).await {
            Ok(check) => {
                for part in check.required.into_iter().filter(|part| wanted.contains(&part.digest)) {
                    users.entry(part.digest).or_default().insert(image.name.clone());
                }
            }
            // An image that is damaged is no reason to keep what the user wants to remove: it may be the damage.
            Err(error) => {
                let (name, error) = (output::escape(&image.name), error.report());
                output::note(&format!(
                    "warning: what image {name} needs cannot be told: {}",
                    output::escape(&error)
                ));
                if wanted.contains(&image.target.digest) {
                    users.entry(image.target.digest).or_default().insert(image.name);
                }
            }
        }
    }
    Ok(users)
}
