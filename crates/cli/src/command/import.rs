//! `wharf import`.

use std::{
    fs::File,
    io::{self, IsTerminal},
    num::NonZeroU64,
    os::fd::AsFd,
    path::PathBuf,
};

use clap::Args;
use wharf_archive::ImportOptions;
use wharf_content::{Error, Result};
use wharf_images::Image;

#[cfg(target_os = "linux")]
use crate::{args::LayerArgs, command::unpacking::Unpacking};
use crate::{
    args::{self, Format, PlatformArgs},
    context::Context,
    exit::outside,
    output, progress,
};

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads OCI image layouts, as directories and as tar archives, and what `docker save` writes; plain, gzip or zstd. Prints the name and the \
digest of each image. Takes the platforms that are there, unless some are asked for. Where another image has one of the names, nothing \
is recorded, and the exit code is 1; --force gives the name to the image of the archive instead.\n\nWith --unpack nothing is recorded either \
where an image cannot be unpacked.\n\nExamples:\n  wharf import busybox.tar\n  wharf import --unpack busybox.tar\n  \
docker save busybox | wharf import\n  wharf import --base-name ghcr.io/owner/image layout.tar.gz"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that a user gives or not")]
pub(crate) struct Import {
    /// The archive, or a directory with an OCI image layout; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// The repository of images that the archive only gives a tag, or no name at all
    #[arg(long, value_name = "REPOSITORY")]
    base_name: Option<String>,
    /// Leave out images whose own full name is not that repository's, or of one below it
    #[arg(long, requires = "base_name")]
    filter_names: bool,
    /// Name each image by its digest, too
    #[arg(long)]
    digests: bool,
    /// With --digests: only images that the archive gives no name, which --base-name names by digest anyway
    #[arg(long, requires = "digests")]
    skip_digest_for_named: bool,
    /// Record the archive's own index by this name too, with all images of the archive
    #[arg(long, value_name = "NAME")]
    index_name: Option<String>,
    /// Take names away from the images that have them
    #[arg(long)]
    force: bool,
    /// Unpack the layers into the store, as `wharf unpack` does: of the platforms that are asked for, else of this machine's
    #[cfg(target_os = "linux")]
    #[arg(long)]
    unpack: bool,
    #[cfg(target_os = "linux")]
    #[command(flatten)]
    layers: LayerArgs,
    /// Read no archive that has more bytes without its compression
    #[arg(long, value_name = "SIZE", default_value = "1TiB", value_parser = args::length)]
    max_size: NonZeroU64,
    #[command(flatten)]
    platforms: PlatformArgs,
}

impl Import {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let is_stdin = self.file.as_os_str() == "-";
        if is_stdin && io::stdin().is_terminal() {
            return Err(Error::invalid_argument(
                "an archive does not come from a terminal: name a file, or pipe one in",
            ));
        }
        let input = if is_stdin { Some(standard_input()?) } else { None };
        let mut options =
            ImportOptions::new().with_catalogue(context.catalogue.clone()).with_max_len(self.max_size.get());
        #[cfg(target_os = "linux")]
        {
            options = options.with_max_ratio(self.layers.max_ratio.get());
        }
        if let Some(selection) = self.platforms.selection()? {
            options = options.with_selection(selection);
        }
        if let Some(base_name) = self.base_name {
            options = options.with_base_name(base_name);
        }
        if self.filter_names {
            options = options.filtering_names();
        }
        if self.digests && !self.skip_digest_for_named {
            options = options.with_digests();
        }
        if let Some(index_name) = self.index_name {
            options = options.with_index_name(index_name);
        }
        if self.force {
            options = options.replacing();
        }
        let (store, images) = (context.store().await?, context.images().await?);
        let progress = progress::start(&context.global);
        let mut options = options.with_sink(progress.sink());
        #[cfg(target_os = "linux")]
        let unpacking =
            Unpacking::begin(self.unpack.then_some(self.layers), context, &store, &progress).await?;
        #[cfg(target_os = "linux")]
        if let Some(unpacking) = &unpacking {
            options = options.with_unpacker(unpacking.unpacker());
        }
        let outcome = match input {
            Some(input) => wharf_archive::import(store, images.as_ref(), input, &options).await,
            None => wharf_archive::import_from_file(self.file, store, images.as_ref(), &options).await,
        };
        progress.finish(outcome.is_ok());
        #[cfg(target_os = "linux")]
        let unpacked = Unpacking::end(unpacking).await;
        let images = outcome?;
        #[cfg(target_os = "linux")]
        unpacked?;
        print(&images, context)
    }
}

/// Standard input without the buffer and the lock that the program's own has.
fn standard_input() -> Result<File> {
    let cannot = "cannot read the archive from standard input";
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(|error| outside(cannot, error))?);
    if input.metadata().map_err(|error| outside(cannot, error))?.is_dir() {
        return Err(Error::invalid_argument(format!("{cannot}: it is a directory")));
    }
    Ok(input)
}

fn print(images: &[Image], context: &Context) -> Result<()> {
    if context.global.format == Format::Json {
        let images =
            images.iter().map(|image| serde_json::json!({ "name": image.name, "target": image.target }));
        return output::json(&images.collect::<Vec<_>>());
    }
    for image in images {
        let digest = &image.target.digest;
        // The archive chose the name.
        let name = output::escape(&image.name);
        if context.global.quiet {
            output::line(digest.as_str())?;
        } else if name.contains('@') {
            output::line(&name)?;
        } else {
            output::line(&format!("{name}@{digest}"))?;
        }
    }
    Ok(())
}
