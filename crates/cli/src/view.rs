//! An image to look into: where it is looked for, and what is found. Nothing of it is fetched before it is read.

use std::sync::Arc;

use clap::Args;
use wharf_content::{Catalogue, Descriptor, Error, ErrorKind, MemoryStore, Provider, Result};
use wharf_images::{
    Image,
    reference::{DEFAULT_TRANSPORT, Location},
    transport::{Fetcher, Resolved, Resolver, TransportOptions, Transports},
};
use wharf_remotes::{LazyProvider, StreamedProvider};

use crate::{
    args::RegistryArgs,
    context::{Context, STORE_SCHEME, refuse_stream},
};

/// An image that can be looked into, in the store or at a remote place.
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) target: Descriptor,
    pub(crate) provider: Arc<dyn Provider>,
    /// The record, where the image is in the store.
    pub(crate) image: Option<Image>,
    /// What fetches it, where it is at a remote place.
    pub(crate) fetcher: Option<Arc<dyn Fetcher>>,
}

impl View {
    /// Where it is, in one word.
    pub(crate) fn source(&self) -> &'static str {
        match &self.fetcher {
            _ if self.image.is_some() => "store",
            Some(fetcher) if fetcher.local().is_none() => "remote",
            _ => "file",
        }
    }

    /// The image for who reads whole layers: those of a remote image flow by and are kept nowhere.
    pub(crate) fn streamed(&self, catalogue: &Catalogue) -> Arc<dyn Provider> {
        let documents = Arc::clone(&self.provider);
        match &self.fetcher {
            Some(fetcher) => {
                Arc::new(StreamedProvider::new(documents, Arc::clone(fetcher), catalogue.clone()))
            }
            None => documents,
        }
    }
}

/// An image to look at, and where to look for it.
#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    /// The image
    #[arg(index = 1, value_name = "REF")]
    pub(crate) reference: String,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Where to look for an image.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Look in the store only
    #[arg(long, conflicts_with = "remote")]
    local: bool,
    /// Look at the registry even if the image is in the store
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl PlaceArgs {
    /// Whether the user said where to look.
    pub(crate) fn is_given(&self) -> bool {
        self.local || self.remote
    }
}

impl Context {
    /// Finds an image in the store, else at the remote place that its name means.
    pub(crate) async fn view(&self, look: &LookArgs) -> Result<View> {
        self.view_at(&look.reference, &look.place).await
    }

    /// [`Context::view`] of a name that is given elsewhere.
    pub(crate) async fn view_at(&self, typed: &str, place: &PlaceArgs) -> Result<View> {
        if !place.remote && !self.is_file_like(typed) {
            match self.local_view(typed).await {
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && !place.local
                        && !typed.starts_with("store:") => {}
                found => return found,
            }
        }
        let (resolver, rest) = self.resolver(typed, &place.registry)?;
        self.remote_view(resolver.as_ref(), &rest).await
    }

    /// Whether a name begins with the prefix of a place that is neither the store nor a registry, such as a layout in a directory.
    pub(crate) fn is_file_like(&self, typed: &str) -> bool {
        self.location(typed)
            .is_ok_and(|location| !matches!(location.scheme, DEFAULT_TRANSPORT | STORE_SCHEME))
    }

    /// An image in a file or a directory, read in place.
    pub(crate) async fn in_place(&self, typed: &str) -> Result<View> {
        let location = self.location(typed)?;
        refuse_stream(&location)?;
        let Location { scheme, rest, .. } = location;
        let transport = self.catalogue.find::<Transports>(scheme)?;
        let transport = transport
            .ok_or_else(|| Error::invalid_argument(format!("this program has no transport {scheme:?}")))?;
        let resolver = transport.resolver(&TransportOptions::new().with_catalogue(self.catalogue.clone()))?;
        let Resolved { name, descriptor, .. } = resolver.resolve(rest).await?;
        let provider = resolver.fetcher(&name).await?.local().ok_or_else(|| {
            Error::not_implemented(format!(
                "{typed:?} is not read in place: pull it, or copy it to store:NAME"
            ))
        })?;
        Ok(View { name, target: descriptor, provider, image: None, fetcher: None })
    }

    /// An image at a remote place. What is looked into is fetched then; resolving is all that is done here.
    pub(crate) async fn remote_view(&self, resolver: &dyn Resolver, name: &str) -> Result<View> {
        let Resolved { name, descriptor, .. } = resolver.resolve(name).await?;
        let fetcher = resolver.fetcher(&name).await?;
        let documents = Arc::new(MemoryStore::new());
        let provider = Arc::new(LazyProvider::new(documents, Arc::clone(&fetcher), self.catalogue.clone()));
        Ok(View { name, target: descriptor, provider, image: None, fetcher: Some(fetcher) })
    }

    /// An image of the store.
    pub(crate) async fn local_view(&self, typed: &str) -> Result<View> {
        let image = self.image(typed).await?;
        let provider = self.provider().await?;
        let (name, target) = (image.name.clone(), image.target.clone());
        Ok(View { name, target, provider, image: Some(image), fetcher: None })
    }
}
