//! Opening a store by a path or a `scheme:rest` URL, through the catalogue.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;

use crate::{
    error::{Error, Result},
    plugin::{Catalogue, Point},
    store::Store,
};

/// Opens the stores of one kind.
#[async_trait]
pub trait StoreFactory: Debug + Send + Sync + 'static {
    /// Opens the store at `location`, which is what follows the scheme and its colon.
    ///
    /// # Errors
    /// Those of the store.
    async fn open(&self, location: &str) -> Result<Arc<dyn Store>>;
}

/// The extension point of store factories; a key is the scheme of a store's URL.
#[derive(Debug)]
pub struct StoreFactories;

impl Point for StoreFactories {
    const NAME: &'static str = "store factory";
    const KEY: &'static str = "scheme";
    type Item = dyn StoreFactory;
}

/// Registers a [`StoreFactory`] with the catalogue: `name`, `keys` (schemes), optionally `priority`, and `make`.
#[macro_export]
macro_rules! register_store_factory {
    ($($registration:tt)*) => { $crate::__register! { $crate::url::StoreFactories, $($registration)* } };
}

/// Opens the store that `url` names: a path, or a scheme that the catalogue knows followed by `:` and a location.
///
/// # Errors
/// `InvalidArgument` for a scheme that is followed by `//` and not known; else those of the store.
pub async fn open_store(url: &str, catalogue: &Catalogue) -> Result<Arc<dyn Store>> {
    let (scheme, location) = match url.split_once(':') {
        Some((scheme, location)) if !scheme.is_empty() && !scheme.contains('/') => {
            if let Some(factory) = catalogue.find::<StoreFactories>(scheme)? {
                return factory.open(location.strip_prefix("//").unwrap_or(location)).await;
            }
            if location.starts_with("//") {
                return Err(Error::invalid_argument(format!(
                    "unknown store scheme {scheme:?}: known are {}",
                    catalogue.keys::<StoreFactories>().join(", ")
                )));
            }
            ("file", url)
        }
        _ => ("file", url),
    };
    let factory = catalogue.find::<StoreFactories>(scheme)?.ok_or_else(|| {
        Error::not_found("no store factory is registered for the scheme \"file\"; this program was built without the local store")
    })?;
    factory.open(location).await
}
