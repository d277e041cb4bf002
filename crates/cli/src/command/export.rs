//! `wharf export`.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use wharf_archive::{
    ExportOptions,
    options::{ArchiveCompression, DOCKER_FORMAT},
};
use wharf_content::{Error, LeasedStore, Provider, Result};
use wharf_images::{Image, referrers::StoredReferrers};

use crate::{
    args::{Format, PlatformArgs},
    context::Context,
    exit::{self, Code},
    output, progress,
};

/// Arguments of `export`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that a user gives or not")]
#[command(
    after_help = "Writes an OCI image layout as a tar archive that also carries Docker's manifest.json: of each image the platform of this \
machine alone, unless --platform or --all-platforms is given. The same images give the \
same bytes, always. With --referrers, what the store has that refers to the images stands in index.json without a name; `wharf import` \
brings it back.\n\nExamples:\n  wharf export busybox -o busybox.tar\n  wharf export busybox alpine | ssh host docker load\n  \
wharf export --type oci --compress zstd --all-platforms busybox -o busybox.tar.zst"
)]
pub(crate) struct Export {
    /// The images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Where the archive goes; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// What the archive is made for; without it one archive serves both
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Kind>,
    /// How the whole archive is compressed; layers mostly are already
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Compress::None)]
    compress: Compress,
    /// Leave out what the store lacks, and tell what it is
    #[arg(long)]
    skip_missing: bool,
    /// Leave out layers that may not be distributed, also where the store has them
    #[arg(long)]
    skip_non_distributable: bool,
    /// Take along what refers to the images, such as signatures, and what refers to that
    #[arg(long)]
    referrers: bool,
    /// Fail if a part has a media type that nothing here knows
    #[arg(long)]
    strict_types: bool,
    #[command(flatten)]
    platforms: PlatformArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// An OCI image layout without Docker's manifest.json
    Oci,
    /// Docker's manifest.json, configs and layers without an OCI image layout; of each image one platform
    Docker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compress {
    /// Not at all
    None,
    /// With gzip
    Gzip,
    /// With zstd
    Zstd,
}

impl Export {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut images = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let image = context.image(name).await?;
            if !images.iter().any(|other: &Image| other.name == image.name) {
                images.push(image);
            }
        }
        let is_stdout = self.output.as_os_str() == "-";
        if is_stdout {
            output::refuse_terminal("name a file with --output FILE")?;
        }
        let mut options = ExportOptions::new().with_catalogue(context.catalogue.clone());
        if let Some(selection) = self.platforms.selection()? {
            options = options.with_selection(selection);
        }
        if self.kind == Some(Kind::Oci) {
            options = options.without_docker_manifest();
        }
        if self.kind == Some(Kind::Docker) {
            if self.referrers {
                return Err(Error::invalid_argument(
                    "an archive for Docker alone has no place for --referrers: leave out --type, or say --type oci",
                ));
            }
            if self.platforms.are_many() {
                return Err(Error::invalid_argument(
                    "an archive for Docker alone has one platform of each image: give one --platform, leave out --type, or say --type oci",
                ));
            }
            options = options.with_format(DOCKER_FORMAT);
        }
        if self.skip_non_distributable {
            options = options.skipping_non_distributable();
        }
        options = options.with_compression(match self.compress {
            Compress::None => ArchiveCompression::None,
            Compress::Gzip => ArchiveCompression::Gzip,
            Compress::Zstd => ArchiveCompression::Zstd,
        });
        if self.skip_missing {
            options = options.skipping_missing();
        }
        if self.strict_types {
            options = options.with_strict_types();
        }
        let progress = progress::start(&context.global);
        options = options.with_sink(progress.sink());
        // Somebody may remove the images and collect meanwhile.
        let leased = LeasedStore::hold_while_at_work(context.store().await?).await?;
        for image in &images {
            leased.add(&image.target.digest).await?;
        }
        if self.referrers {
            let found = StoredReferrers::gather(leased.as_ref(), &context.catalogue).await?;
            options = options.with_referrers(Arc::new(found));
        }
        let provider: Arc<dyn Provider> = Arc::clone(&leased) as Arc<dyn Provider>;
        let outcome = if is_stdout {
            wharf_archive::export(provider, &images, &options, &mut tokio::io::stdout()).await
        } else {
            wharf_archive::export_to_file(&self.output, provider, &images, &options).await
        };
        progress.finish(outcome.is_ok());
        let released = leased.release().await;
        match outcome {
            // Nobody is there to be told. What was read is no archive.
            Err(error) if is_stdout && exit::is_broken_pipe(&error) => context.exit_with(Code::Local as u8),
            outcome => drop(outcome?),
        }
        released?;
        // Where the archive itself is the datum, nothing else goes to standard output.
        if is_stdout {
            return Ok(());
        }
        match context.global.format {
            Format::Json => output::json(&serde_json::json!({
                "file": self.output.display().to_string(),
                "images": images.iter().map(|image| &image.name).collect::<Vec<_>>(),
            })),
            Format::Text => output::line(&self.output.display().to_string()),
        }
    }
}
