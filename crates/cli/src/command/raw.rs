//! `wharf manifest` and `wharf config`: bytes as they are.

use clap::Args;
use wharf_content::{Result, read_blob};
use wharf_images::{
    Selection,
    decode::MAX_MANIFEST_LEN,
    image::{self, MAX_CONFIG_LEN},
};

use crate::{
    args::{OnePlatformArgs, PlatformArgs},
    context::Context,
    output,
    view::LookArgs,
};

/// Arguments of `manifest`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --platform the image's own document is printed, which may be an index; with it, the manifest of that platform."
)]
pub(crate) struct Manifest {
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    look: LookArgs,
}

impl Manifest {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let selection = self.platforms.selection()?.filter(|selection| !selection.is_all());
        if selection.is_some() {
            self.platforms.single()?;
        }
        let view = context.view(&self.look).await?;
        let provider = view.provider.as_ref();
        let descriptor = match selection {
            Some(selection) => {
                image::manifest(provider, &view.target, &selection, &context.catalogue).await?.descriptor
            }
            None => view.target,
        };
        output::write(&read_blob(provider, &descriptor, MAX_MANIFEST_LEN).await?)
    }
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(flatten)]
    platforms: OnePlatformArgs,
    #[command(flatten)]
    look: LookArgs,
}

impl Config {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let selection = self.platforms.single()?.unwrap_or_else(Selection::host);
        let view = context.view(&self.look).await?;
        let provider = view.provider.as_ref();
        let manifest = image::manifest(provider, &view.target, &selection, &context.catalogue).await?;
        output::write(&read_blob(provider, manifest.config()?, MAX_CONFIG_LEN).await?)
    }
}
