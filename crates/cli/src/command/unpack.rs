//! `wharf unpack`: into the store's layer directories, or into one directory as a root file system.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::{Value, json};
use wharf_archive::{
    UnpackOptions, UnpackedLayers,
    apply::{LeftOut, Ownership},
};
use wharf_content::{Descriptor, Error, LeasedStore, Provider, Result};
use wharf_images::Image;

use crate::{
    args::{Format, LayerArgs, OnePlatformArgs},
    command::Remains,
    context::Context,
    output::{self, escape, note},
    progress,
};

/// Arguments of `unpack`.
#[derive(Debug, Args)]
#[command(
    after_help = "With a directory, writes all layers, one over the other, as one root file system, and prints where. The directory is there \
when all of it is on the disk, or not at all.\n\n\
Without one, each layer is unpacked by itself into the store, which images share and `wharf mount` puts together; prints the directories, the \
topmost first, or with -q the chain id. What is unpacked already is left as it is, and stays until the last image that needs it is removed \
and collected.\n\n\
Blobs and layers are verified on the way. Who is not root owns all files, and devices are left out; what was left out is told.\n\n\
Examples:\n  wharf unpack busybox\n  wharf unpack busybox rootfs\n  wharf unpack --platform linux/arm64 busybox rootfs-arm64"
)]
pub(crate) struct Unpack {
    /// The image in the store; or in a file or a directory, as oci:DIR[:TAG] and the like
    #[arg(value_name = "NAME")]
    name: String,
    /// A directory, which is not there yet or is empty [default: directories of the store, one for each layer]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Give all files to the user, also as root
    #[arg(long, requires = "directory")]
    rootless: bool,
    #[command(flatten)]
    platforms: OnePlatformArgs,
    #[command(flatten)]
    layers: LayerArgs,
}

impl Unpack {
    /// What remains where it is interrupted: layers in the store, but no directory.
    pub(crate) fn remains(&self) -> Remains {
        if self.directory.is_some() { Remains::Nothing } else { Remains::Kept }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let progress = progress::start(&context.global);
        let mut options =
            UnpackOptions::new().with_catalogue(context.catalogue.clone()).with_sink(progress.sink());
        options = options.with_layers(self.layers.options());
        if let Some(selection) = self.platforms.single()? {
            options = options.with_selection(selection);
        }
        if self.rootless {
            options = options.with_ownership(Ownership::User);
        }
        if context.is_file_like(&self.name) {
            let outcome = self.file_like(&options, context).await;
            progress.finish(outcome.is_ok());
            return outcome?();
        }
        let image = context.image(&self.name).await?;
        // Somebody may remove the image and collect meanwhile.
        let leased = LeasedStore::hold_while_at_work(context.store().await?).await?;
        leased.add(&image.target.digest).await?;
        let outcome = match &self.directory {
            None => layers(&leased, &image, &options, context).await,
            Some(directory) => {
                let provider: Arc<dyn Provider> = Arc::clone(&leased) as Arc<dyn Provider>;
                flat(provider, &image.target, directory, &options, context).await
            }
        };
        progress.finish(outcome.is_ok());
        let released = leased.release().await;
        let print = outcome?;
        released?;
        print()
    }

    /// Unpacks an image that is in a file or a directory, where it is.
    async fn file_like<'a>(&self, options: &UnpackOptions, context: &'a Context) -> Result<Print<'a>> {
        let directory = self.directory.as_ref().ok_or_else(|| {
            Error::invalid_argument(
                "layers are unpacked into the store for images of the store: import the image first, or give a directory",
            )
        })?;
        let view = Box::pin(context.in_place(&self.name)).await?;
        flat(view.provider, &view.target, directory, options, context).await
    }
}

type Print<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

async fn flat<'a>(
    provider: Arc<dyn Provider>,
    target: &Descriptor,
    directory: &Path,
    options: &UnpackOptions,
    context: &'a Context,
) -> Result<Print<'a>> {
    let unpacked = Box::pin(wharf_archive::unpack(provider, target, directory, options)).await?;
    let directory = directory.display().to_string();
    Ok(Box::new(move || {
        tell_left_out(&unpacked.left_out);
        match context.global.format {
            Format::Json => output::json(&json!({
                "directory": directory,
                "manifest": unpacked.manifest,
                "layers": unpacked.layers,
                "entries": unpacked.entries,
                "bytes": unpacked.bytes,
                "leftOut": left_out(&unpacked.left_out),
            })),
            Format::Text if context.global.quiet => output::line(unpacked.manifest.digest.as_str()),
            Format::Text => output::line(&directory),
        }
    }))
}

async fn layers<'a>(
    leased: &Arc<LeasedStore>,
    image: &Image,
    options: &UnpackOptions,
    context: &'a Context,
) -> Result<Print<'a>> {
    let unpacked = wharf_archive::unpack_layers(leased, &image.target, options).await?;
    Ok(Box::new(move || {
        tell_left_out(&unpacked.left_out);
        match context.global.format {
            Format::Json => output::json(&described(&unpacked)),
            Format::Text if context.global.quiet => {
                unpacked.chain_id().map_or(Ok(()), |chain_id| output::line(chain_id.as_str()))
            }
            Format::Text => {
                let mut topmost_first = unpacked.layers.iter().rev();
                topmost_first.try_for_each(|layer| output::line(&layer.directory.display().to_string()))
            }
        }
    }))
}

fn described(unpacked: &UnpackedLayers) -> Value {
    let layers = unpacked.layers.iter().map(|layer| {
        json!({
            "digest": layer.layer.digest,
            "diffId": layer.diff_id,
            "chainId": layer.chain_id,
            "directory": layer.directory.display().to_string(),
            "new": layer.is_new,
        })
    });
    json!({
        "chainId": unpacked.chain_id(),
        "layers": layers.collect::<Vec<_>>(),
        "entries": unpacked.entries,
        "bytes": unpacked.bytes,
        "leftOut": left_out(&unpacked.left_out),
    })
}

/// Notes what was left out.
pub(crate) fn tell_left_out(all: &[LeftOut]) {
    for left_out in all {
        let (omission, count, first) = (left_out.omission, left_out.count, escape(&left_out.first));
        note(&format!("left out: {omission} ({count}, such as {first})"));
    }
}

fn left_out(all: &[LeftOut]) -> Vec<Value> {
    let value = |left_out: &LeftOut| json!({ "what": left_out.omission.to_string(), "count": left_out.count, "first": left_out.first });
    all.iter().map(value).collect()
}
