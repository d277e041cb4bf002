//! Prints what an image consists of: `tree ROOT NAME`.

use std::sync::Arc;

use wharf_content::{Error, LocalStore, Result};
use wharf_images::{Children, Flow, Handler, ImageStore, Limits, SqliteImages, handler::handler_fn, walk};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err(Error::invalid_argument("usage: tree ROOT NAME"));
    };
    let store = Arc::new(LocalStore::open(root).await?);
    let images = SqliteImages::open(
        wharf_content::Store::metadata(store.as_ref()).expect("a local store has one").clone(),
    )?;
    let image = images.get(&name).await?;
    let children = Arc::new(Children::new(store));
    let print = handler_fn(move |descriptor| {
        let children = Arc::clone(&children);
        async move {
            #[expect(clippy::print_stdout, reason = "this is what the example is for")]
            {
                println!("{} {} {}", descriptor.digest, descriptor.size, descriptor.media_type);
            }
            let flow: Flow = children.handle(&descriptor).await?;
            Ok(flow)
        }
    });
    walk(&print, &[image.target], Limits::default()).await
}
