//! What a reference means at its registry, for the commands that ask there first: `digest` and `referrers`.
//!
//! Commands that look into an image prefer the store, which is `view::View`'s way.

use std::sync::Arc;

use clap::Args;
use wharf_content::{Descriptor, Error, Result};
use wharf_images::{Reference, image, transport::Resolver};

use crate::{
    args::{PlatformArgs, RegistryArgs},
    context::{Context, STORE_SCHEME},
};

/// A reference, and where it is resolved.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The image, at its registry unless --local is given
    #[arg(value_name = "REF")]
    reference: String,
    /// Look in the store, and nowhere else
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// What a reference means.
pub(crate) struct Target {
    /// The name in the form in which it is recorded.
    pub(crate) name: String,
    pub(crate) descriptor: Descriptor,
    /// What resolved it; `None` where it is in the store.
    pub(crate) resolver: Option<Arc<dyn Resolver>>,
}

impl Target {
    /// The name pinned to the digest.
    pub(crate) fn full_name(&self) -> String {
        let digest = &self.descriptor.digest;
        match Reference::parse(&self.name) {
            Ok(reference) => reference.with_digest(digest.clone()).full(),
            Err(_) if self.name.ends_with(digest.as_str()) => self.name.clone(),
            Err(_) => format!("{}@{digest}", self.name),
        }
    }
}

impl Context {
    /// Resolves a reference: to the manifest of one platform where that is asked for, else to what it is.
    pub(crate) async fn target(&self, args: &TargetArgs) -> Result<Target> {
        let typed = &args.reference;
        let selection = args.platforms.selection()?.filter(|selection| !selection.is_all());
        if selection.is_some() && !args.platforms.is_one() {
            return Err(Error::invalid_argument("there is one answer: give one --platform, or none"));
        }
        let is_stored = typed.strip_prefix(STORE_SCHEME).is_some_and(|rest| rest.starts_with(':'));
        let (view, resolver) = if args.local || is_stored {
            (self.local_view(typed).await?, None)
        } else {
            let (resolver, rest) = self.resolver(typed, &args.registry)?;
            (self.remote_view(resolver.as_ref(), &rest).await?, Some(resolver))
        };
        let descriptor = match selection {
            None => view.target,
            Some(selection) => {
                let provider = view.provider.as_ref();
                image::manifest(provider, &view.target, &selection, &self.catalogue).await?.descriptor
            }
        };
        Ok(Target { name: view.name, descriptor, resolver })
    }
}
