//! Handlers that plugins add to every pull, at a stage that they name.

use std::{fmt::Debug, sync::Arc};

use wharf_content::{Catalogue, Result, Store, plugin::Point};

use crate::handler::Handler;

/// Where in the chain of a pull a handler stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Before the content is fetched: it may skip or stop.
    BeforeFetch,
    /// When the content is in the store and verified, before its children are known.
    AfterFetch,
}

/// What a handler factory is told of the pull.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StageContext {
    /// Where the content goes.
    pub store: Arc<dyn Store>,
    /// The name that is pulled.
    pub name: String,
}

impl StageContext {
    /// Describes a pull.
    pub fn new(store: Arc<dyn Store>, name: impl Into<String>) -> Self {
        Self { store, name: name.into() }
    }
}

/// Makes a handler for each pull.
pub trait HandlerFactory: Debug + Send + Sync + 'static {
    /// The stage of the handler.
    fn stage(&self) -> Stage;

    /// Makes the handler of one pull.
    ///
    /// # Errors
    /// Any; it ends the pull before anything is fetched.
    fn handler(&self, context: &StageContext) -> Result<Arc<dyn Handler>>;
}

/// The extension point of handler factories; a key is a name of the maker's choice.
#[derive(Debug)]
pub struct HandlerFactories;

impl Point for HandlerFactories {
    const NAME: &'static str = "handler factory";
    const KEY: &'static str = "name";
    type Item = dyn HandlerFactory;
}

/// Registers a [`HandlerFactory`] with the catalogue: `name`, `keys`, optionally `priority`, and `make`.
#[macro_export]
macro_rules! register_handler_factory {
    ($($registration:tt)*) => {
        $crate::content::__register! { $crate::stage::HandlerFactories, $($registration)* }
    };
}

/// Makes the handlers of a stage, in the catalogue's order.
///
/// # Errors
/// Those of the factories.
pub fn handlers(
    catalogue: &Catalogue,
    stage: Stage,
    context: &StageContext,
) -> Result<Vec<Arc<dyn Handler>>> {
    catalogue
        .every::<HandlerFactories>()
        .into_iter()
        .filter(|(_, factory)| factory.stage() == stage)
        .map(|(_, factory)| factory.handler(context))
        .collect()
}
