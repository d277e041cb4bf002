//! `wharf pull`.

use std::{num::NonZeroU64, sync::Arc};

use clap::Args;
#[cfg(target_os = "linux")]
use wharf_content::follow::Follower;
use wharf_content::{Resource, Result};
use wharf_images::Selection;
use wharf_remotes::PullOptions;

#[cfg(target_os = "linux")]
use crate::{args::LayerArgs, command::unpacking::Unpacking};
use crate::{
    args::{self, Format, PlatformArgs, RegistryArgs},
    command::lease,
    context::Context,
    labels, output, progress,
    verifiers::VerifierArgs,
};

/// Arguments of `pull`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the name and the digest of what was pulled. An interrupted pull is resumed by the next one. An image of \
Docker's schema 1 is converted to schema 2, and recorded by the digest that it has then.\n\n\
A verifier is given -name, -digest and -stdin-media-type, and the image's descriptor as JSON on standard input. It has ten seconds, \
and accepts with exit status 0. At most ten are run, in the order of their names; what others could have changed is not.\n\n\
Examples:\n  wharf pull busybox\n  wharf pull --unpack busybox\n  wharf pull --platform linux/arm64 ghcr.io/owner/image:1.2\n  \
wharf pull --all-platforms localhost:5000/image@sha256:…\n  \
wharf pull --referrers --verifier-dir /etc/wharf/verifiers ghcr.io/owner/image:1.2"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that a user gives or not")]
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
    /// Fetch the manifests and configs of all platforms too, and layers only of those that are chosen
    #[arg(long)]
    all_metadata: bool,
    /// Pull what refers to the image too, such as signatures and bills of materials, and cosign's tags for its digests
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    verifiers: VerifierArgs,
    /// Fail for an image of Docker's schema 1 instead of converting it
    #[arg(long)]
    no_convert_schema1: bool,
    /// Fail if a part has a media type that nothing here knows, before any layer is fetched
    #[arg(long)]
    strict_types: bool,
    /// Unpack the layers into the store while they arrive, as `wharf unpack` does; those that are unpacked already are not fetched
    #[cfg(target_os = "linux")]
    #[arg(long)]
    unpack: bool,
    #[cfg(target_os = "linux")]
    #[command(flatten)]
    layers: LayerArgs,
    /// Fetch each blob that is longer in ranges of this length, several at once, such as 16MiB [default: only large ones whose stream is
    /// slow]
    #[arg(long, value_name = "SIZE", value_parser = args::length)]
    chunk_size: Option<NonZeroU64>,
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Pull {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let labels = labels::parse(&self.labels)?;
        let selection = self.platforms.selection()?.unwrap_or_else(Selection::host);
        let verifier = self.verifiers.open()?;
        let progress = progress::start(&context.global);
        let (resolver, name) = context.source(&self.reference, &self.registry, self.chunk_size, &progress)?;
        let (store, images) = (context.store().await?, context.images().await?);
        if let Some(id) = &self.lease {
            lease::demand(store.as_ref(), id).await?;
        }
        let mut options = PullOptions::new()
            .with_selection(selection)
            .with_labels(labels)
            .with_concurrency(self.registry.max_concurrent_downloads)
            .with_catalogue(context.catalogue.clone())
            .with_sink(progress.sink());
        if self.strict_types {
            options = options.with_strict_types();
        }
        if self.all_metadata {
            options = options.with_all_metadata();
        }
        if self.referrers {
            options = options.with_referrers();
        }
        if self.no_convert_schema1 {
            options = options.without_schema1_conversion();
        }
        if let Some(verifier) = verifier {
            options = options.with_verifier(verifier);
        }
        #[cfg(target_os = "linux")]
        let unpacking =
            Unpacking::begin(self.unpack.then_some(self.layers), context, &store, &progress).await?;
        #[cfg(target_os = "linux")]
        if let Some(unpacking) = &unpacking {
            let unpacker = unpacking.unpacker();
            let follower = Arc::clone(&unpacker) as Arc<dyn Follower>;
            options =
                options.with_wrapper(Arc::new(move |handler| unpacker.wrap(handler))).with_follower(follower);
        }
        let outcome =
            wharf_remotes::pull(Arc::clone(&store), images.as_ref(), resolver.as_ref(), &name, options).await;
        progress.finish(outcome.is_ok());
        #[cfg(target_os = "linux")]
        let unpacked = Unpacking::end(unpacking).await;
        let image = outcome?;
        #[cfg(target_os = "linux")]
        unpacked?;
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
