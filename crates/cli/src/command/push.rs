//! `wharf push`.

use std::num::NonZeroU64;

use clap::Args;
use serde_json::json;
use wharf_content::{Error, Result};
use wharf_images::{Reference, reference::ReferenceError};
use wharf_remotes::PushOptions;

use crate::{
    args::{self, Format, PlatformArgs, RegistryArgs},
    context::{Context, stored_name},
    output, progress,
};

/// Arguments of `push`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the name and the digest of what was pushed. What is at the registry already is not sent again, so that an \
interrupted push goes on with the next one. Documents are pushed as the bytes that they are.\n\n\
Of an image with several platforms everything is pushed, and it is an error if something of it is not in the store. With one --platform \
the manifest of that platform is pushed in the place of the index, so that the digest is that manifest's. With several, the index is \
pushed and of what it lists those platforms only, which many registries refuse.\n\n\
Examples:\n  wharf push localhost:5000/image:1.2\n  wharf push busybox registry.example.com/mirror/busybox:1.37\n  \
wharf push --platform linux/arm64 busybox localhost:5000/busybox:arm64"
)]
pub(crate) struct Push {
    /// The image in the store
    #[arg(value_name = "NAME")]
    name: String,
    /// Where it goes, read as Docker reads it [default: the image's own name]
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// Push layers that may not be distributed, too
    #[arg(long)]
    allow_non_distributable: bool,
    /// Push what refers to the image too, such as signatures, and cosign's tags for its digests, as far as they are in the store
    #[arg(long)]
    referrers: bool,
    /// Send blobs in chunks of so many bytes, such as 16MiB [default: whole, unless the registry wants chunks]
    #[arg(long, value_name = "SIZE", value_parser = args::length)]
    chunk_size: Option<NonZeroU64>,
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Push {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let portion = self.platforms.portion()?;
        if let Some(place) = self.reference.as_deref().filter(|typed| context.is_file_like(typed)) {
            let name = stored_name(&self.name).unwrap_or(&self.name);
            return Err(Error::invalid_argument(format!(
                "{place:?} is at no registry, which is where is pushed to: `wharf copy store:{name} {place}` writes the image there"
            )));
        }
        let image = context.image(&self.name).await?;
        let typed = self.reference.as_deref().unwrap_or(&image.name);
        let progress = progress::start_pushing(&context.global);
        let (resolver, name) = context.destination(typed, &self.registry, self.chunk_size, &progress)?;
        let reference = Reference::parse(&name).map_err(|error| self.no_destination(error))?;
        let store = context.store().await?;

        let mut options = PushOptions::new()
            .with_portion(portion)
            .with_concurrency(self.registry.max_concurrent_downloads)
            .with_catalogue(context.catalogue.clone())
            .with_sink(progress.sink());
        if self.allow_non_distributable {
            options = options.allowing_non_distributable();
        }
        if self.referrers {
            options = options.with_referrers();
        }
        let outcome = wharf_remotes::push(store, &image, resolver.as_ref(), &name, &options).await;
        progress.finish(outcome.is_ok());
        let pushed = outcome?;
        let digest = &pushed.target.digest;
        match context.global.format {
            Format::Json => output::json(&json!({
                "name": reference.full(),
                "target": pushed.target,
                "sent": pushed.sent,
                "mounted": pushed.mounted,
                "existing": pushed.existing,
                "skipped": pushed.skipped,
                "referrers": pushed.referrers,
            })),
            Format::Text if context.global.quiet => output::line(digest.as_str()),
            Format::Text => output::line(&reference.with_digest(digest.clone()).full()),
        }
    }

    /// What is no reference of a registry. Where nobody typed one, it is the image whose name is none.
    fn no_destination(&self, error: ReferenceError) -> Error {
        let error = Error::from(error);
        match self.reference {
            Some(_) => error,
            None => error.context(
                "the image's own name is no name at a registry: say where it goes, wharf push NAME REF",
            ),
        }
    }
}
