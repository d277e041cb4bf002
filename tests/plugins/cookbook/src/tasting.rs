//! A handler in every pull: it tastes each recipe as soon as it is in the store, and refuses one that nobody could cook. Tasted recipes
//! are labelled.

use std::sync::Arc;

use serde::Deserialize;
use wharf_images::{
    Descriptor, Error, Flow, Handler, Labels, Result, Store, async_trait,
    content::read_blob,
    stage::{HandlerFactory, Stage, StageContext},
};

use crate::recipe::RECIPE;

/// The label on a recipe with the number of its ingredients.
pub const LABEL: &str = "com.example.recipe.ingredients";

/// The most bytes of a recipe.
const MAX_LEN: u64 = 1 << 20;

wharf_images::register_handler_factory! { name: "tasting", keys: ["tasting"], make: Tasting }

/// Makes a [`Taster`] for each pull.
#[derive(Debug)]
struct Tasting;

impl HandlerFactory for Tasting {
    fn stage(&self) -> Stage {
        Stage::AfterFetch
    }

    fn handler(&self, context: &StageContext) -> Result<Arc<dyn Handler>> {
        Ok(Arc::new(Taster { store: Arc::clone(&context.store) }))
    }
}

#[derive(Debug)]
struct Taster {
    store: Arc<dyn Store>,
}

#[derive(Deserialize)]
struct Recipe {
    ingredients: Vec<String>,
}

#[async_trait]
impl Handler for Taster {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
        if descriptor.media_type != RECIPE {
            return Ok(Flow::leaf());
        }
        let bytes = read_blob(self.store.as_ref(), descriptor, MAX_LEN).await?;
        let recipe: Recipe = serde_json::from_slice(&bytes).map_err(|error| {
            Error::invalid_argument(format!("{} is not a recipe", descriptor.digest)).with_source(error)
        })?;
        if recipe.ingredients.is_empty() {
            return Err(Error::invalid_argument(format!(
                "nobody can cook {}: it has no ingredients",
                descriptor.digest
            )));
        }
        let labels = Labels::from([(LABEL.to_owned(), recipe.ingredients.len().to_string())]);
        self.store.update(&descriptor.digest, &labels, &[&format!("labels.{LABEL}")]).await?;
        Ok(Flow::leaf())
    }
}

#[cfg(test)]
mod tests {
    use wharf_images::{
        Catalogue, ErrorKind,
        content::{CommitOptions, Manager, MemoryStore, write_blob},
        stage::handlers,
    };

    use super::*;

    async fn taste(text: &'static str) -> Result<Labels> {
        let store = Arc::new(MemoryStore::new());
        let recipe = Descriptor::of(RECIPE, text.as_bytes());
        write_blob(store.as_ref(), "recipe", &recipe, text.into(), CommitOptions::default()).await?;
        let context = StageContext::new(store.clone(), "example.com/cookbook:1");
        for handler in handlers(Catalogue::linked(), Stage::AfterFetch, &context)? {
            handler.handle(&recipe).await?;
        }
        Ok(store.info(&recipe.digest).await?.labels)
    }

    #[tokio::test]
    async fn recipes_are_tasted() {
        let labels = taste(r#"{"ingredients":["flour","water"]}"#).await.expect("edible");
        assert_eq!(labels[LABEL], "2");
        for bad in [r#"{"ingredients":[]}"#, "{}", "soup"] {
            assert_eq!(taste(bad).await.expect_err(bad).kind(), ErrorKind::InvalidArgument);
        }
    }
}
