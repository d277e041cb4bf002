//! `wharf bundle`, and how bundles are made for `wharf run`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::json;
use wharf_archive::{
    UnpackOptions,
    apply::Ownership,
    bundle::{self, Access, Bind, BundleOptions, Bundled},
};
use wharf_content::{LeasedStore, Provider, Result};

use super::unpack::tell_left_out;
use crate::{
    args::{Format, LayerArgs, OnePlatformArgs},
    context::Context,
    exit,
    output::{self, escape, note},
};

/// Arguments of `bundle`.
#[derive(Debug, Args)]
#[command(
    after_help = "Writes DIR/rootfs, the unpacked image, and DIR/config.json, made from the image's config: arguments, variables, user (its \
name looked up in the image), working directory, annotations, and volumes as file systems in memory where the image has nothing. The \
directory is there when all of it is on the disk, or not at all. A bundle belongs to one container.\n\n\
For who is not root it is a bundle for them: a namespace of their own where they are root, and the host's network.\n\n\
Examples:\n  wharf bundle busybox /tmp/b && runc run -b /tmp/b name\n  wharf bundle busybox /tmp/b -- sleep 10\n  \
wharf bundle oci:layout:1.36 /tmp/b"
)]
pub(crate) struct Bundle {
    /// The image in the store; or in a file or a directory, as oci:DIR[:TAG] and the like
    #[arg(value_name = "NAME")]
    name: String,
    /// The directory, which is not there yet or is empty
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    container: ContainerArgs,
}

/// What becomes of an image in a container.
#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    /// What to run: follows the image's entrypoint, in place of its command
    #[arg(last = true, value_name = "CMD")]
    arguments: Vec<String>,
    /// Set a variable; one without a value takes that of this process; may be given again
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The working directory, in place of the image's
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user, by names of the image or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Show a file or directory of this machine; may be given again
    #[arg(long = "volume", visible_alias = "bind", value_name = "SOURCE:DEST[:ro]", value_parser = bind)]
    volumes: Vec<Bind>,
    /// Give all files to the user and make a container of their own, also as root
    #[arg(long)]
    rootless: bool,
    #[command(flatten)]
    platforms: OnePlatformArgs,
    #[command(flatten)]
    layers: LayerArgs,
}

/// Reads `SOURCE:DEST[:ro|rw]`.
fn bind(text: &str) -> Result<Bind, String> {
    let mut parts = text.split(':');
    let (source, destination, access) = (parts.next(), parts.next(), parts.next());
    let access = match access {
        None | Some("rw") => Access::Write,
        Some("ro") => Access::Read,
        Some(other) => return Err(format!("{other:?} is neither ro nor rw")),
    };
    match (source, destination, parts.next()) {
        (Some(source), Some(destination), None) if !source.is_empty() && destination.starts_with('/') => {
            Ok(Bind::new(source, destination, access))
        }
        _ => Err("expected SOURCE:DEST[:ro], where DEST is an absolute path".into()),
    }
}

impl ContainerArgs {
    pub(crate) fn options(&self, context: &Context) -> Result<BundleOptions> {
        let mut unpack =
            UnpackOptions::new().with_catalogue(context.catalogue.clone()).with_layers(self.layers.options());
        if let Some(selection) = self.platforms.single()? {
            unpack = unpack.with_selection(selection);
        }
        if self.rootless {
            unpack = unpack.with_ownership(Ownership::User);
        }
        let mut options = BundleOptions::new().with_unpack(unpack);
        if !self.arguments.is_empty() {
            options = options.with_arguments(self.arguments.clone());
        }
        for variable in &self.env {
            if variable.contains('=') {
                options = options.with_variable(variable);
            } else if let Ok(value) = std::env::var(variable) {
                options = options.with_variable(format!("{variable}={value}"));
            }
        }
        for bind in &self.volumes {
            let source = std::path::absolute(&bind.source)
                .and_then(|source| source.metadata().map(|_| source))
                .map_err(|error| exit::outside(format!("cannot show {}", bind.source.display()), error))?;
            options = options.with_bind(Bind::new(source, &bind.destination, bind.access));
        }
        options = self.workdir.iter().fold(options, BundleOptions::with_directory);
        Ok(self.user.iter().fold(options, BundleOptions::with_user))
    }
}

/// Makes a bundle of an image, in the store or in a file or a directory, and tells what was left out.
pub(crate) async fn make(
    context: &Context,
    name: &str,
    directory: &Path,
    options: &BundleOptions,
) -> Result<Bundled> {
    let bundled = if context.is_file_like(name) {
        let view = Box::pin(context.in_place(name)).await?;
        Box::pin(bundle::bundle(view.provider, &view.target, directory, options)).await?
    } else {
        Box::pin(of_store(context, name, directory, options)).await?
    };
    tell_left_out(&bundled.unpacked.left_out);
    if let Some(user) = &bundled.left_out_user {
        note(&format!(
            "left out: the user {:?}: without root there is one user, who is root in the container",
            escape(user)
        ));
    }
    Ok(bundled)
}

async fn of_store(
    context: &Context,
    name: &str,
    directory: &Path,
    options: &BundleOptions,
) -> Result<Bundled> {
    let image = context.image(name).await?;
    // Somebody may remove the image and collect meanwhile.
    let leased = LeasedStore::hold_while_at_work(context.store().await?).await?;
    leased.add(&image.target.digest).await?;
    let provider: Arc<dyn Provider> = Arc::clone(&leased) as Arc<dyn Provider>;
    let outcome = bundle::bundle(provider, &image.target, directory, options).await;
    let released = leased.release().await;
    let bundled = outcome?;
    released?;
    Ok(bundled)
}

impl Bundle {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let options = self.container.options(context)?;
        let bundled = make(context, &self.name, &self.directory, &options).await?;
        match context.global.format {
            Format::Json => output::json(&json!({
                "directory": self.directory.display().to_string(),
                "manifest": bundled.unpacked.manifest,
                "config": bundled.config,
            })),
            Format::Text if context.global.quiet => output::line(bundled.unpacked.manifest.digest.as_str()),
            Format::Text => output::line(&self.directory.display().to_string()),
        }
    }
}
