//! Handlers: what is done at one node of an image's graph, composed into chains.

use std::{
    fmt::{self, Debug},
    future::Future,
    sync::Arc,
};

use async_trait::async_trait;
use wharf_content::{Descriptor, Result};

/// What a handler says of the node that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// Go on with these children; none is a leaf.
    Children(Vec<Descriptor>),
    /// Leave out this node and all below it; its siblings go on.
    Skip,
    /// In a chain: no later handler sees this node, and the children gathered so far are taken.
    Stop,
}

impl Flow {
    /// No children.
    pub fn leaf() -> Self {
        Self::Children(Vec::new())
    }
}

/// Something done at each node: fetch it, decode it, label it.
#[async_trait]
pub trait Handler: Debug + Send + Sync + 'static {
    /// Handles one node.
    ///
    /// # Errors
    /// Any; an error ends the walk or dispatch.
    ///
    /// # Cancellation
    /// A dispatch drops the future when a sibling fails.
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow>;
}

#[async_trait]
impl<H: Handler + ?Sized> Handler for Arc<H> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        (**self).handle(descriptor).await
    }
}

/// Handlers that run one after the other and whose children are put together (containerd: `images.Handlers`).
#[derive(Clone, Debug, Default)]
pub struct Chain {
    handlers: Vec<Arc<dyn Handler>>,
}

impl Chain {
    /// A chain of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a handler.
    #[must_use]
    pub fn with(mut self, handler: impl Handler) -> Self {
        self.handlers.push(Arc::new(handler));
        self
    }
}

impl FromIterator<Arc<dyn Handler>> for Chain {
    fn from_iter<I: IntoIterator<Item = Arc<dyn Handler>>>(handlers: I) -> Self {
        Self { handlers: handlers.into_iter().collect() }
    }
}

#[async_trait]
impl Handler for Chain {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        let mut children = Vec::new();
        for handler in &self.handlers {
            match handler.handle(descriptor).await? {
                Flow::Children(more) => children.extend(more),
                Flow::Skip => return Ok(Flow::Skip),
                Flow::Stop => break,
            }
        }
        Ok(Flow::Children(children))
    }
}

/// Makes a handler of a function.
pub fn handler_fn<F, Fut>(function: F) -> HandlerFn<F>
where
    F: Fn(Descriptor) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Flow>> + Send,
{
    HandlerFn(function)
}

/// A function as a handler; see [`handler_fn`].
pub struct HandlerFn<F>(F);

impl<F> Debug for HandlerFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerFn")
    }
}

#[async_trait]
impl<F, Fut> Handler for HandlerFn<F>
where
    F: Fn(Descriptor) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Flow>> + Send,
{
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        (self.0)(descriptor.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::Error;

    use super::*;

    fn gives(flow: &Flow) -> impl Handler + use<> {
        let flow = flow.clone();
        handler_fn(move |_| {
            let flow = flow.clone();
            async move { Ok(flow) }
        })
    }

    #[tokio::test]
    async fn chains_concatenate_stop_and_skip() {
        let node = |name: &str| Descriptor::of("x", name.as_bytes());
        let children = |names: &[&str]| Flow::Children(names.iter().map(|name| node(name)).collect());
        let cases = [
            (vec![], children(&[])),
            (vec![children(&["a"]), children(&["b", "c"])], children(&["a", "b", "c"])),
            (vec![children(&["a"]), Flow::Stop, children(&["b"])], children(&["a"])),
            (vec![children(&["a"]), Flow::Skip, children(&["b"])], Flow::Skip),
        ];
        for (flows, expected) in cases {
            let chain = flows.iter().fold(Chain::new(), |chain, flow| chain.with(gives(flow)));
            assert_eq!(chain.handle(&node("root")).await.expect("no error"), expected, "{flows:?}");
        }
        let failing = handler_fn(|_| async { Err(Error::conflict("no")) });
        let chain = Chain::new().with(gives(&children(&["a"]))).with(failing);
        assert!(chain.handle(&node("root")).await.is_err());
    }
}
