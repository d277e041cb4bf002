//! `wharf pull`.

use std::sync::Arc;

use clap::Args;
use wharf_content::{Resource, Result};
use wharf_images::Selection;
use wharf_remotes::PullOptions;

use crate::{
    args::{Format, PlatformArgs, RegistryArgs},
    command::lease,
    context::Context,
    labels, output, progress,
};

/// Arguments of `pull`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the name and the digest of what was pulled. An interrupted pull is resumed by the next one.\n\n\
Examples:\n  wharf pull busybox\n  wharf pull --platform linux/arm64 ghcr.io/owner/image:1.2\n  \
wharf pull --all-platforms localhost:5000/image@sha256:…"
)]
pub(crate) struct Pull {
    /// The image, read as Docker reads it: `busybox` is docker.io/library/busybox:latest
    #[arg(value_name = "REF")]
    reference: String,
    /// Set a label on the image; may be given again
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Hold what is pulled by this lease as well, whatever becomes of the image
    #[arg(long, value_name = "ID")]
    lease: Option<String>,
    /// Fail if a part has a media type that nothing here knows, before any layer is fetched
    #[arg(long)]
    strict_types: bool,
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Pull {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let labels = labels::parse(&self.labels)?;
        let selection = self.platforms.selection()?.unwrap_or_else(Selection::host);
        let (resolver, name) = context.resolver(&self.reference, &self.registry)?;
        let (store, images) = (context.store().await?, context.images().await?);
        if let Some(id) = &self.lease {
            lease::demand(store.as_ref(), id).await?;
        }
        let progress = progress::start(&context.global);
        let mut options = PullOptions::new()
            .with_selection(selection)
            .with_labels(labels)
            .with_concurrency(self.registry.max_concurrent_downloads)
            .with_catalogue(context.catalogue.clone())
            .with_sink(progress.sink());
        if self.strict_types {
            options = options.with_strict_types();
        }
        let outcome =
            wharf_remotes::pull(Arc::clone(&store), images.as_ref(), resolver.as_ref(), &name, options).await;
        progress.finish(outcome.is_ok());
        let image = outcome?;
        let digest = &image.target.digest;
        if let Some(id) = &self.lease {
            lease::leases(store.as_ref())?.add_resource(id, &Resource::Content(digest.clone())).await?;
        }
        match context.global.format {
            Format::Json => output::json(&serde_json::json!({ "name": image.name, "target": image.target })),
            Format::Text if context.global.quiet => output::line(digest.as_str()),
            Format::Text if image.name.contains('@') => output::line(&image.name),
            Format::Text => output::line(&format!("{}@{digest}", image.name)),
        }
    }
}
