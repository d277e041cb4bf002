//! Pulls an image into a store: `pull ROOT NAME`.

use std::sync::Arc;

use wharf_content::{Error, LocalStore, Result};
use wharf_images::image_store;
use wharf_remotes::{
    PullOptions, pull,
    registry::{RegistryResolver, RegistrySettings},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err(Error::invalid_argument("usage: pull ROOT NAME"));
    };
    let store = Arc::new(LocalStore::open(root).await?);
    let images = image_store(store.as_ref())?;
    let registry = RegistryResolver::new(RegistrySettings::new());
    let image = pull(store, images.as_ref(), &registry, &name, PullOptions::new()).await?;
    #[expect(clippy::print_stdout, reason = "this is what the example is for")]
    {
        println!("{}@{}", image.name, image.target.digest);
    }
    Ok(())
}
