//! `wharf referrers`: what refers to an image.

use std::sync::Arc;

use clap::Args;
use wharf_content::{Descriptor, Result};
use wharf_images::referrers::{ReferrersProvider, StoredReferrers};

use crate::{
    args::Format,
    context::Context,
    node::cut,
    output,
    target::{Target, TargetArgs},
};

/// The most characters of one annotation in the table.
const MAX_ANNOTATION: usize = 80;

/// Arguments of `referrers`.
#[derive(Debug, Args)]
#[command(
    after_help = "Lists the manifests that name the image as their subject: at its registry, also where that keeps them under a tag made of \
the digest; with --local those in the store. Of an image with several platforms it is the index that is asked about, with --platform \
that platform's manifest.\n\n\
Examples:\n  wharf referrers ghcr.io/owner/image:1.2\n  \
wharf referrers --artifact-type application/spdx+json --platform linux/amd64 ghcr.io/owner/image:1.2"
)]
pub(crate) struct Referrers {
    /// Only those of this type, such as application/spdx+json
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

impl Referrers {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let target = context.target(&self.target).await?;
        let provider = provider(context, &target).await?;
        let found = match &self.artifact_type {
            Some(artifact_type) => provider.referrers_of_type(&target.descriptor, artifact_type).await?,
            None => provider.referrers(&target.descriptor).await?,
        };
        match context.global.format {
            Format::Json => output::json(&found),
            Format::Text if context.global.quiet => {
                found.iter().try_for_each(|referrer| output::line(referrer.digest.as_str()))
            }
            Format::Text => output::write(table(&found).as_bytes()),
        }
    }
}

/// What lists the referrers where the target was found.
async fn provider(context: &Context, target: &Target) -> Result<Arc<dyn ReferrersProvider>> {
    if let Some(resolver) = &target.resolver {
        return resolver.referrers(&target.name).await;
    }
    let store = context.store().await?;
    Ok(Arc::new(StoredReferrers::gather(store.as_ref(), &context.catalogue).await?))
}

fn table(referrers: &[Descriptor]) -> String {
    let or_dash = |text: String| if text.is_empty() { "-".into() } else { text };
    let row = |referrer: &Descriptor| {
        let annotations = referrer.annotations.iter();
        let annotations: Vec<String> =
            annotations.map(|(key, value)| cut(&format!("{key}={value}"), MAX_ANNOTATION)).collect();
        vec![
            referrer.digest.to_string(),
            or_dash(referrer.artifact_type.clone().unwrap_or_default()),
            output::size(referrer.size),
            or_dash(annotations.join(",")),
        ]
    };
    let rows: Vec<Vec<String>> = referrers.iter().map(row).collect();
    output::table(&["DIGEST", "ARTIFACT TYPE", "SIZE", "ANNOTATIONS"], &rows)
}
