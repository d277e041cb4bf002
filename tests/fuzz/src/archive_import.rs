//! Archives: what is imported is there, whole and verified, under a name that can be read; what is refused leaves no image behind.
//!
//! An input begins with a byte that says how it is to be imported. What follows is an archive as it stands, or a recipe of one, in which the
//! fuzzer can change documents without breaking the digests that name them:
//!
//! ```text
//! name \n content \0 name \n content \0 …
//!     a name that is #        the path of a blob of this content
//!     $d0 … $d9 in a content  the digest of the first, second, … file
//!     $s0 … $s9               its size
//! ```

use std::{
    io::Write,
    sync::{Arc, LazyLock},
};

use tokio::runtime::{Builder, Runtime};
use wharf_archive::{ExportOptions, ImportOptions, export, import};
use wharf_content::{
    Catalogue, Descriptor, Digest, Info, IngestManager, Manager, MemoryStore, Provider, Store,
    filter::FilterSet, read_blob,
};
use wharf_images::{Image, ImageStore, MemoryImages, Reference, Selection, image};

use crate::{
    Outcome, Seed,
    tarball::{Tarball, repair},
};

/// Of the first byte: what follows is a recipe.
const RECIPE: u8 = 1;
/// Of the first byte: images without a full name get one.
const BASE_NAME: u8 = 2;
/// Of the first byte: images are recorded by their digests, too.
const DIGESTS: u8 = 4;
/// Of the first byte: all platforms of an index must be there.
const WHOLE: u8 = 8;
/// Of the first byte: the sums of headers are set right, if this is no recipe.
const REPAIRED: u8 = 16;

/// The most bytes of an archive without its compression.
const MAX_LEN: u64 = 8 << 20;

/// The longest name that an archive gives to an image, in bytes.
const MAX_NAME_LEN: usize = 1024;

/// The most entries of an archive.
const MAX_ENTRIES: usize = 2_000;

/// Imports the input into a store that has nothing yet.
///
/// # Panics
/// Where something was recorded that is not there.
pub fn check(data: &[u8]) -> Outcome {
    let Some((&how, rest)) = data.split_first() else { return Outcome::Refused };
    let archive = if how & RECIPE == 0 {
        let mut archive = rest.to_vec();
        if how & REPAIRED != 0 {
            repair(&mut archive);
        }
        archive
    } else {
        cook(rest)
    };
    let mut options = ImportOptions::new().with_max_len(MAX_LEN).with_max_entries(MAX_ENTRIES);
    if how & BASE_NAME != 0 {
        options = options.with_base_name("ghcr.io/owner/image");
    }
    if how & DIGESTS != 0 {
        options = options.with_digests();
    }
    if how & WHOLE != 0 {
        options = options.with_selection(Selection::all());
    }
    RUNTIME.block_on(imported(archive, &options))
}

/// One for all inputs, with threads that stay: to start them takes longer than most inputs.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("there is room for threads"));

/// A store with records, and what is in it.
struct Place {
    store: Arc<MemoryStore>,
    images: MemoryImages,
}

impl Place {
    fn new() -> Self {
        Self { store: Arc::new(MemoryStore::new()), images: MemoryImages::new() }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.store) as Arc<dyn Provider>
    }

    async fn import(&self, archive: Vec<u8>, options: &ImportOptions) -> wharf_content::Result<Vec<Image>> {
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        import(store, &self.images, std::io::Cursor::new(archive), options).await
    }

    async fn recorded(&self) -> Vec<Image> {
        self.images.list(&FilterSet::all()).await.expect("a store in memory can be listed")
    }

    /// Every blob, read again.
    async fn verify(&self) {
        let mut digests = Vec::new();
        let mut visit = |info: Info| {
            digests.push((info.digest, info.size));
            Ok(())
        };
        self.store.walk(&FilterSet::all(), &mut visit).await.expect("a store in memory can be walked");
        for (digest, size) in digests {
            let descriptor = Descriptor::new("", digest, size);
            let bytes =
                read_blob(self.store.as_ref(), &descriptor, MAX_LEN).await.expect("the blob is there");
            descriptor.verify(&bytes).expect("the blob has its digest");
        }
        let left = self.store.list_statuses(&FilterSet::all()).await.expect("lists");
        assert!(left.is_empty(), "ingests are left: {left:?}");
        if let Some(leases) = self.store.leases() {
            let left = leases.list_leases(&FilterSet::all()).await.expect("lists");
            assert!(left.is_empty(), "leases are left: {left:?}");
        }
    }
}

async fn imported(archive: Vec<u8>, options: &ImportOptions) -> Outcome {
    let place = Place::new();
    let result = place.import(archive, options).await;
    let outcome = Outcome::of(&result);
    place.verify().await;
    let recorded = place.recorded().await;
    let Ok(images) = result else {
        assert!(recorded.is_empty(), "refused, and recorded: {recorded:?}");
        return outcome;
    };
    let told = |images: &[Image]| -> Vec<_> {
        images.iter().map(|image| (image.name.clone(), image.target.digest.clone())).collect()
    };
    assert_eq!(told(&images), told(&recorded), "what is told is what is recorded");
    for image in &images {
        // A name that the archive gives to an image is kept as it is, even if no registry could have such an image.
        assert!(image.validate().is_ok() && image.name.len() <= MAX_NAME_LEN, "{:?}", image.name);
        assert!(!image.name.contains(char::is_control), "{:?}", image.name);
        let target = read_blob(place.store.as_ref(), &image.target, MAX_LEN).await;
        assert!(target.is_ok(), "{:?} is not there: {target:?}", image.name);
        if options.selection.is_some() {
            let there =
                image::check(place.provider(), &image.target, &Selection::all(), Catalogue::linked()).await;
            assert!(there.is_ok_and(|there| there.is_complete()), "{:?} is not whole", image.name);
        }
    }
    let is_reference = |image: &Image| Reference::parse_canonical(&image.name).is_ok();
    if options.selection.is_some() && images.iter().all(is_reference) {
        again(&place, &images).await;
    }
    outcome
}

/// What was imported whole is exported and imported again: the same images.
async fn again(place: &Place, images: &[Image]) {
    let all = ExportOptions::new().with_selection(Selection::all());
    let mut archive = Vec::new();
    export(place.provider(), images, &all, &mut archive).await.expect("what is whole can be exported");
    let other = Place::new();
    let options = ImportOptions::new().with_selection(Selection::all());
    let told = |images: Vec<Image>| -> Vec<_> {
        images.into_iter().map(|image| (image.name, image.target.digest)).collect()
    };
    let back = other.import(archive, &options).await.expect("what was exported can be imported");
    assert_eq!(told(back), told(images.to_vec()), "other images come back");
}

/// Makes an archive of a recipe.
fn cook(recipe: &[u8]) -> Vec<u8> {
    let mut made: Vec<(Digest, usize)> = Vec::new();
    let mut archive = Tarball::new();
    for file in recipe.split(|byte| *byte == 0).take(MAX_ENTRIES) {
        let at = file.iter().position(|byte| *byte == b'\n').unwrap_or(file.len());
        let (name, content) = (&file[..at], file.get(at + 1..).unwrap_or_default());
        let content = fill_in(content, &made);
        let digest = Digest::sha256(&content);
        let name = match name {
            b"#" => format!("blobs/sha256/{}", digest.hex()),
            other => String::from_utf8_lossy(&other[..other.len().min(30)]).into_owned(),
        };
        made.push((digest, content.len()));
        archive = archive.file(&name, &content);
    }
    archive.finish()
}

/// Puts in the digests and sizes of the files so far.
fn fill_in(content: &[u8], made: &[(Digest, usize)]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if let (b'$', [kind @ (b'd' | b's'), number @ b'0'..=b'9', after @ ..]) = (first, rest)
            && let Some((digest, len)) = made.get(usize::from(number - b'0'))
        {
            let text = if *kind == b'd' { digest.to_string() } else { len.to_string() };
            filled.extend_from_slice(text.as_bytes());
            rest = after;
        } else {
            filled.push(*first);
        }
    }
    filled
}

/// A config of one layer that is not compressed, and so its own diff id.
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["$d0"]}}"#;
const MANIFEST: &str = concat!(
    r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"$d1","size":$s1},"#,
    r#""layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"$d0","size":$s0}]}"#,
);
const LAYOUT: &str = "oci-layout\n{\"imageLayoutVersion\":\"1.0.0\"}\0index.json\n";
const ENTRY: &str = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"$d2","size":$s2"#;

/// Archives of OCI and Docker, plain and compressed, as recipes and as they are.
pub fn seeds() -> Vec<Seed> {
    let blobs = format!("#\nthe layer\0#\n{CONFIG}\0#\n{MANIFEST}\0");
    let named = r#""annotations":{"io.containerd.image.name":"docker.io/library/a:1"}}"#;
    let oci = format!("{blobs}{LAYOUT}{{\"schemaVersion\":2,\"manifests\":[{ENTRY},{named}]}}");
    let tagged = r#""annotations":{"org.opencontainers.image.ref.name":"v1"}}"#;
    let bare = format!("{blobs}{LAYOUT}{{\"schemaVersion\":2,\"manifests\":[{ENTRY},{tagged}]}}");
    let index = format!(
        "{blobs}#\n{{\"schemaVersion\":2,\"manifests\":[{ENTRY},\"platform\":{{\"architecture\":\"amd64\",\"os\":\"linux\"}}}}]}}\0\
         {LAYOUT}{{\"manifests\":[{{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":\"$d3\",\"size\":$s3,{named}]}}"
    );
    let docker = format!(
        "layer.tar\nthe layer\0config.json\n{CONFIG}\0manifest.json\n\
         [{{\"Config\":\"config.json\",\"RepoTags\":[\"a:1\",\"ghcr.io/b/c:2\"],\"Layers\":[\"layer.tar\"]}}]"
    );
    let with = |how: u8, bytes: &[u8]| [&[how][..], bytes].concat();
    let recipe = |how: u8, text: &str| with(how | RECIPE, text.as_bytes());
    let plain = cook(oci.as_bytes());
    let old = cook(docker.as_bytes());
    let linked = Tarball::new()
        .dir("id/")
        .file("one.tar", "the layer")
        .symlink("id/layer.tar", "../one.tar")
        .hard_link("two.tar", "one.tar")
        .file("c.json", fill_in(CONFIG.as_bytes(), &[(Digest::sha256(b"the layer"), 9)]))
        .file("manifest.json", r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["id/layer.tar"]}]"#)
        .finish();
    // Whatever its name, a file is content by its own digest; so another one is asked for.
    let without =
        oci.replace(r#""digest":"$d0""#, &format!("\"digest\":\"{}\"", Digest::sha256(b"elsewhere")));
    let accepted = [
        ("oci-recipe", recipe(0, &oci)),
        ("oci-recipe-whole", recipe(WHOLE | DIGESTS, &oci)),
        ("oci-recipe-tag", recipe(BASE_NAME, &bare)),
        ("oci-recipe-index", recipe(WHOLE, &index)),
        ("docker-recipe", recipe(WHOLE, &docker)),
        ("oci", with(0, &plain)),
        ("oci-gzip", with(0, &gzip(&plain))),
        ("oci-zstd", with(0, &zstd::encode_all(&plain[..], 1).expect("writes to memory"))),
        ("docker", with(DIGESTS, &old)),
        ("docker-gzip", with(WHOLE, &gzip(&old))),
        ("docker-links", with(REPAIRED, &linked)),
    ];
    let refused = [
        ("nothing", vec![0]),
        ("no-archive", with(0, b"this is no archive of anything, and rather short")),
        ("cut-short", with(0, &plain[..2000])),
        ("no-name", recipe(0, &bare)),
        ("cut-gzip", with(0, &gzip(&plain)[..200])),
        ("lacks-a-layer", recipe(0, &without)),
        ("no-images", recipe(0, &format!("{LAYOUT}{{\"manifests\":{{}}}}"))),
        ("wrong-size", recipe(0, &oci.replace("$s2", "7"))),
    ];
    let accepted = accepted.into_iter().map(|(name, bytes)| Seed::accepted(name, bytes));
    accepted.chain(refused.into_iter().map(|(name, bytes)| Seed::refused(name, bytes))).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writes to memory");
    encoder.finish().expect("writes to memory")
}
