//! `wharf tags`: the tags of a repository.

use clap::Args;
use regex::Regex;
use wharf_content::{Error, Result};
use wharf_images::referrers::is_digest_tag;

use crate::{
    args::{Format, RegistryArgs},
    context::{Context, STORE_SCHEME},
    output,
};

/// Arguments of `tags`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints every tag, however many pages the registry gives them in, one on each line and in the registry's order.\n\n\
Examples:\n  wharf tags busybox\n  wharf tags --filter '^1\\.3[67]' --omit-digest-tags ghcr.io/owner/image"
)]
pub(crate) struct Tags {
    /// The repository, without a tag
    #[arg(value_name = "REPO")]
    repository: String,
    /// Only the tags in which this regular expression matches somewhere; ^ and $ are the ends of a tag
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Leave out tags that are made of a digest, as those of signatures: sha256-<hex>
    #[arg(long = "omit-digest-tags")]
    omit_digests: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Tags {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let is_stored = self.repository.strip_prefix(STORE_SCHEME).is_some_and(|rest| rest.starts_with(':'));
        if is_stored {
            return Err(Error::invalid_argument(
                "tags are listed at registries: `wharf images ls` lists the names in the store",
            ));
        }
        let (resolver, repository) = context.resolver(&self.repository, &self.registry)?;
        let mut tags = resolver.tags(&repository).await?;
        tags.retain(|tag| {
            self.filter.as_ref().is_none_or(|filter| filter.is_match(tag))
                && !(self.omit_digests && is_digest_tag(tag))
        });
        match context.global.format {
            Format::Json => output::json(&tags),
            Format::Text => {
                let mut lines = String::new();
                for tag in &tags {
                    lines.push_str(&output::escape(tag));
                    lines.push('\n');
                }
                output::write(lines.as_bytes())
            }
        }
    }
}
