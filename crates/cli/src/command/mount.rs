//! `wharf mount` and `wharf unmount`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use wharf_archive::{
    UnpackOptions,
    mount::{Access, Written, mount, unmount},
};
use wharf_content::{LeasedStore, Result};

use crate::{
    args::{Format, LayerArgs, OnePlatformArgs},
    command::unpack::tell_left_out,
    context::Context,
    output::{self, note},
    progress,
};

/// Arguments of `mount`.
#[derive(Debug, Args)]
#[command(
    after_help = "Puts the image's unpacked layers together with overlayfs, and unpacks those that are not unpacked yet. Prints the directory. A \
lease holds the layers until `wharf unmount`, also when the image is removed; that of a mount that a boot ended goes with the next \
collection. Only root can mount: anybody can `wharf unpack NAME DIR`.\n\n\
With --rw the directory can be written to. Changes are kept in the store and are there again at the next mount of the same image on the same \
directory, until `wharf unmount --rm`.\n\n\
Examples:\n  wharf mount busybox /mnt\n  wharf mount --rw busybox /mnt"
)]
pub(crate) struct Mount {
    /// The image in the store
    #[arg(value_name = "NAME")]
    name: String,
    /// The directory, which is there already
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Let it be written to
    #[arg(long)]
    rw: bool,
    #[command(flatten)]
    platforms: OnePlatformArgs,
    #[command(flatten)]
    layers: LayerArgs,
}

impl Mount {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let image = context.image(&self.name).await?;
        let progress = progress::start(&context.global);
        let mut options =
            UnpackOptions::new().with_catalogue(context.catalogue.clone()).with_sink(progress.sink());
        options = options.with_layers(self.layers.options());
        if let Some(selection) = self.platforms.single()? {
            options = options.with_selection(selection);
        }
        let access = if self.rw { Access::Writable } else { Access::ReadOnly };
        let leased = LeasedStore::hold_while_at_work(context.store().await?).await?;
        leased.add(&image.target.digest).await?;
        let outcome = mount(&leased, &image.target, &self.directory, access, &options).await;
        progress.finish(outcome.is_ok());
        let released = leased.release().await;
        let mounted = outcome?;
        released?;
        tell_left_out(&mounted.unpacked.left_out);
        let directory = mounted.directory.display().to_string();
        let changes = mounted.changes.map(|changes| changes.display().to_string());
        if context.global.format == Format::Json {
            return output::json(&json!({
                "directory": directory,
                "chainId": mounted.unpacked.chain_id(),
                "changes": changes,
            }));
        }
        if let Some(changes) = changes.filter(|_| !context.global.quiet) {
            note(&format!("changes are kept in {changes}"));
        }
        output::line(&directory)
    }
}

/// Arguments of `unmount`.
#[derive(Debug, Args)]
#[command(
    after_help = "Lets go of the layers, so that they can be collected when no image needs them. With --rm the changes of `wharf mount --rw` go, too; also \
when the directory is not mounted any more, or has gone itself.\n\n\
Examples:\n  wharf unmount /mnt\n  wharf unmount --rm /mnt"
)]
pub(crate) struct Unmount {
    /// The directory that an image is mounted on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Throw away what was written to it
    #[arg(long)]
    rm: bool,
}

impl Unmount {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let written = if self.rm { Written::Removed } else { Written::Kept };
        unmount(context.store().await?.as_ref(), &self.directory, written).await?;
        match context.global.format {
            Format::Json => output::json(&json!({ "directory": self.directory.display().to_string() })),
            Format::Text => Ok(()),
        }
    }
}
