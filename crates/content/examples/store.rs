//! Puts a file into a store and prints its digest: `store ROOT FILE`.

use wharf_content::{CommitOptions, Descriptor, LocalStore, Result, ResultExt, write_blob};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err(wharf_content::Error::invalid_argument("usage: store ROOT FILE"));
    };
    let bytes = std::fs::read(&file).context(|| format!("cannot read {file}"))?;
    let descriptor = Descriptor::of("application/octet-stream", &bytes);
    let store = LocalStore::open(root).await?;
    write_blob(&store, &file, &descriptor, bytes.into(), CommitOptions::default()).await?;
    #[expect(clippy::print_stdout, reason = "this is what the example is for")]
    {
        println!("{}", descriptor.digest);
    }
    Ok(())
}
