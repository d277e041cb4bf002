//! `wharf digest`: what a reference means, and nothing else.

use clap::Args;
use serde::Serialize;
use wharf_content::{Descriptor, Result};

use crate::{
    args::Format,
    context::Context,
    output::{self, escape},
    target::TargetArgs,
};

/// Arguments of `digest`.
#[derive(Debug, Args)]
#[command(
    after_help = "Asks the registry, by one request and without fetching anything. Of an image with several platforms the digest is the \
index's; with --platform it is that of the platform's manifest, for which the index is fetched.\n\n\
Examples:\n  wharf digest busybox\n  wharf digest --full-ref --platform linux/arm64 busybox:1.37\n  wharf digest --local busybox"
)]
pub(crate) struct Digest {
    /// Print the name with the digest, NAME@DIGEST
    #[arg(long)]
    full_ref: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Serialize)]
struct Page {
    name: String,
    #[serde(flatten)]
    descriptor: Descriptor,
}

impl Digest {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let target = context.target(&self.target).await?;
        match context.global.format {
            Format::Json => {
                let name = if self.full_ref { target.full_name() } else { target.name };
                output::json(&Page { name, descriptor: target.descriptor })
            }
            Format::Text if self.full_ref => output::line(&escape(&target.full_name())),
            Format::Text => output::line(target.descriptor.digest.as_str()),
        }
    }
}
