//! Importing images: from any stream, or from a file, in one pass and without a temporary copy.

use std::{
    collections::HashSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use wharf_content::{Descriptor, Error, ErrorKind, Labels, LeasedStore, Result, ResultExt, Store, blocking};
#[cfg(target_os = "linux")]
use wharf_images::Selection;
use wharf_images::{Image, ImageStore, progress::Event, record};

use crate::{
    bring,
    compression::peek,
    decompress::{self, stream_error},
    format::{ArchiveFormat, ArchiveFormats, HEAD_LEN, Input, Sniff},
    naming,
    options::ImportOptions,
    referrers,
    whole::Wholeness,
};

/// Brings the images of an archive into the store and records them. The archive is plain, gzip or zstd, whichever its first bytes tell,
/// and so is its format.
///
/// Everything is taken in while it streams by, verified, and looked through; the records are written last, when all the images are
/// known to be there, and given sorted by name. A record of the same image keeps its labels; one of another image by the same name is
/// replaced with a warning where [`ImportOptions::replacing`] says so, and an error otherwise. What the archive lists without a name because
/// it refers to one of the images, such as a signature, is held by labels on what it refers to.
///
/// # Errors
/// Nothing is recorded then, and images of the store are as they were, unless the record of one of several fails.
/// - `InvalidArgument`: no archive of images; one that is malformed or can be read in two ways; images without a full name; a base name or
///   a name of the index that is none
/// - `NotFound`: parts that neither the archive nor the store has, naming them; a platform that an image does not have
/// - `FailedPrecondition`: content of another digest or size than was promised
/// - `DataLoss`: an archive that was cut short
/// - `ResourceExhausted`: an archive beyond the limits of the options; no room in the store
/// - `AlreadyExists`: another image has a name of the archive, and names are not to be replaced
/// - `Conflict`: two images of one name; two formats that know the archive
/// - `NotImplemented`: another compression
/// - with an [unpacker](ImportOptions::with_unpacker), those of [`unpack_layers`](crate::unpack_layers)
/// - those of the input and the stores
///
/// # Cancellation
/// Nothing is recorded; content that is complete stays and is not written again by the next import. A lease keeps it from collection for
/// [`PROCESS_LEASE`](wharf_content::lease::PROCESS_LEASE). A thread may wait for the input once more. Dropped in its last step, it
/// may have recorded some of the images.
pub async fn import(
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    input: impl Read + Send + 'static,
    options: &ImportOptions,
) -> Result<Vec<Image>> {
    naming::check(options)?;
    let leased = LeasedStore::hold(store, Labels::new()).await?;
    let imported = under_lease(&leased, images, Box::new(input), options).await;
    // What failed is told first; what it took in may be collected, for nobody is at work on it.
    let released = leased.release().await;
    let imported = imported?;
    released?;
    Ok(imported)
}

/// Imports the archive that `path` leads to, which may be a FIFO or a device, or the OCI image layout in the directory that it leads to.
///
/// # Errors
/// As [`import`]; `NotFound` when there is no such file.
///
/// # Cancellation
/// As [`import`].
pub async fn import_from_file(
    path: impl Into<PathBuf>,
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    options: &ImportOptions,
) -> Result<Vec<Image>> {
    let path = path.into();
    let looked_at = path.clone();
    if blocking::run(move || Ok(looked_at.is_dir())).await? {
        return Box::pin(import_directory(&path, store, images, options)).await;
    }
    let file = blocking::run(move || open(&path)).await?;
    import(store, images, file, options).await
}

/// Imports the layout in a directory.
async fn import_directory(
    path: &Path,
    store: Arc<dyn Store>,
    images: &dyn ImageStore,
    options: &ImportOptions,
) -> Result<Vec<Image>> {
    naming::check(options)?;
    let leased = LeasedStore::hold(store, Labels::new()).await?;
    let imported = async {
        let entries = bring::images(path, Arc::clone(&leased) as Arc<dyn Store>, options).await?;
        record_entries(&leased, images, entries, options).await
    };
    let imported = imported.await;
    let released = leased.release().await;
    let imported = imported?;
    released?;
    Ok(imported)
}

fn open(path: &Path) -> Result<File> {
    let cannot = || format!("cannot read the archive {}", path.display());
    File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("{}: there is no such file", cannot())),
        _ => Error::io(cannot(), error),
    })
}

async fn under_lease(
    leased: &Arc<LeasedStore>,
    images: &dyn ImageStore,
    input: Input,
    options: &ImportOptions,
) -> Result<Vec<Image>> {
    let (format, input) = {
        let options = options.clone();
        blocking::run(move || sniff(input, &options)).await?
    };
    let store = Arc::clone(leased) as Arc<dyn Store>;
    let entries = format.import(store, input, options).await?;
    record_entries(leased, images, entries, options).await
}

/// Looks through the images that were described, and records them.
async fn record_entries(
    leased: &Arc<LeasedStore>,
    images: &dyn ImageStore,
    mut entries: Vec<Descriptor>,
    options: &ImportOptions,
) -> Result<Vec<Image>> {
    let store = Arc::clone(leased) as Arc<dyn Store>;
    let listed = referrers::take_out(&mut entries, store.as_ref(), options).await?;
    let named = naming::name(entries, options)?;
    if let Some(name) = naming::index_name(options)?
        && !named.images.iter().any(|image| image.name == name)
    {
        return Err(Error::not_implemented(format!(
            "the format of this archive gives no index that could be named {name:?}"
        )));
    }
    if !named.unnamed.is_empty() {
        let unnamed = naming::list(&named.unnamed);
        let text = format!("images of the archive are left out: {unnamed}; a base name would give them one");
        options.sink.event(&Event::Warning { text: &text });
    }
    let wholeness = Wholeness::new(Arc::clone(&store), options);
    let mut whole = HashSet::new();
    for image in &named.images {
        // Many names may mean one image.
        if !whole.insert((&image.target.digest, &image.target.media_type, image.target.size)) {
            continue;
        }
        leased.add(&image.target.digest).await?;
        wholeness.check(image).await.context(|| format!("cannot import {:?}", image.name))?;
    }
    referrers::hold(&store, &named.images, &listed, options).await?;
    let mut recorded = Vec::with_capacity(named.images.len());
    if !options.replace {
        refuse_taken(images, &named.images).await?;
    }
    #[cfg(target_os = "linux")]
    if let Some(unpacker) = &options.unpacker {
        let host = Selection::host();
        let selection = options.selection.as_ref().unwrap_or(&host);
        for image in &named.images {
            let unpacked = unpacker.unpack(&image.target, selection, options.limits).await;
            unpacked.map_err(|error| {
                let is_chosen_here = options.selection.is_none() && error.kind() == ErrorKind::NotFound;
                let mut context = format!("cannot unpack {:?}", image.name);
                if is_chosen_here {
                    let host = wharf_platforms::format_all(&wharf_platforms::default_spec());
                    context.push_str(&format!(", of which no match for platform {host} is there as a whole"));
                }
                error.context(context)
            })?;
        }
    }
    for image in named.images {
        recorded.push(put(images, image, options).await?);
    }
    Ok(recorded)
}

/// Takes off the compression and finds the format. Blocks.
fn sniff(input: Input, options: &ImportOptions) -> Result<(Arc<dyn ArchiveFormat>, Input)> {
    let catalogue = &options.catalogue;
    let input = decompress::open(input, options)?;
    if let Some(name) = &options.format {
        let format = catalogue.find::<ArchiveFormats>(name)?;
        return Ok((format.ok_or_else(|| unknown(name, options))?, input));
    }
    let (head, input) =
        peek(input, HEAD_LEN as u64).map_err(|error| stream_error("cannot read the archive", error))?;
    if head.is_empty() {
        return Err(Error::invalid_argument("not an image archive: it is empty"));
    }
    let mut found: Vec<(String, Arc<dyn ArchiveFormat>)> = Vec::new();
    let mut surest = Sniff::No;
    for key in catalogue.keys::<ArchiveFormats>() {
        let Some(format) = catalogue.find::<ArchiveFormats>(&key)? else { continue };
        let sure = format.sniff(&head);
        if sure > surest {
            surest = sure;
            found.clear();
        }
        if sure == surest && sure > Sniff::No {
            found.push((key, format));
        }
    }
    match found.len() {
        0 => Err(Error::invalid_argument(format!(
            "not an image archive: its first bytes are of no format that is known here ({})",
            catalogue.keys::<ArchiveFormats>().join(", ")
        ))),
        1 => Ok((found.swap_remove(0).1, input)),
        _ => {
            let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
            Err(Error::conflict(format!("more than one format knows the archive: {}", names.join(", "))))
        }
    }
}

fn unknown(name: &str, options: &ImportOptions) -> Error {
    Error::invalid_argument(format!(
        "unknown archive format {name:?}: known are {}",
        options.catalogue.keys::<ArchiveFormats>().join(", ")
    ))
}

/// Looks for the names of images before any of them is recorded: an archive chooses its names itself, and the user's are not for it to
/// take.
async fn refuse_taken(images: &dyn ImageStore, found: &[Image]) -> Result<()> {
    let mut taken = Vec::new();
    for image in found {
        if let Some(there) = so_far(images, &image.name).await?.filter(|there| is_another(there, image)) {
            taken.push(clash(&there, image));
        }
    }
    if taken.is_empty() { Ok(()) } else { Err(naming::taken(&taken)) }
}

/// Records an image. The labels of a record of the same image are the user's, and stay; those of another image are not of this one.
async fn put(images: &dyn ImageStore, image: Image, options: &ImportOptions) -> Result<Image> {
    // Another process may make the record between the two calls; more often than this it does not do by chance.
    const TRIES: usize = 8;
    let cannot = || format!("cannot record the image {}", image.name);
    let mut outcome = Err(Error::already_exists("other processes make and remove it all the time"));
    for _ in 0..TRIES {
        outcome = match so_far(images, &image.name).await? {
            None => images.create(image.clone()).await,
            Some(there) if !is_another(&there, &image) => {
                record::put(images, image.clone().with_labels(there.labels)).await
            }
            Some(there) if options.replace => {
                let text = format!("{:?} was {} and is replaced", image.name, there.target.digest);
                options.sink.event(&Event::Warning { text: &text });
                record::put(images, image.clone()).await
            }
            Some(there) => return Err(naming::taken(&[clash(&there, &image)])),
        };
        if !matches!(&outcome, Err(error) if error.kind() == ErrorKind::AlreadyExists) {
            break;
        }
    }
    outcome.context(cannot)
}

async fn so_far(images: &dyn ImageStore, name: &str) -> Result<Option<Image>> {
    match images.get(name).await {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_another(there: &Image, image: &Image) -> bool {
    there.target.digest != image.target.digest
}

fn clash(there: &Image, image: &Image) -> String {
    format!("{:?} is {} here and {} in the archive", image.name, there.target.digest, image.target.digest)
}
