//! Writes images of a store as one archive: `export ROOT FILE NAME…`.

use std::sync::Arc;

use wharf_archive::{ExportOptions, export_to_file};
use wharf_content::{Error, LocalStore, Result};
use wharf_images::{Selection, image_store};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err(Error::invalid_argument("usage: export ROOT FILE NAME…"));
    };
    let store = Arc::new(LocalStore::open(root).await?);
    let records = image_store(store.as_ref())?;
    let mut images = Vec::new();
    for name in arguments {
        images.push(records.get(&name).await?);
    }
    let options = ExportOptions::new().with_selection(Selection::all());
    let exported = export_to_file(file, store, &images, &options).await?;
    #[expect(clippy::print_stdout, reason = "this is what the example is for")]
    {
        println!("{} blobs, {} bytes", exported.blobs, exported.len);
    }
    Ok(())
}
