//! Layouts and archives as places that images are copied from and to: between all kinds of places, again and again, and against strangers.

#[path = "local_transports/hostile.rs"]
mod hostile;

use std::{fs, path::Path, sync::Arc};

use wharf_archive::{ArchiveKind, ArchiveResolver, LayoutResolver};
use wharf_content::{Descriptor, ErrorKind, LocalStore, Result};
use wharf_images::{MemoryImages, Selection, image_store, transport::Resolver};
use wharf_remotes::{
    CopyOptions, Portion, Pushed, StoreResolver, copy, pull,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{ImageFixture, Layer, TestRegistry};

const NAME: &str = "docker.io/library/app:1";

fn fixture() -> ImageFixture {
    ["linux/amd64", "linux/arm64"].into_iter().fold(ImageFixture::new(), |image, platform| {
        image.with(platform, vec![Layer::noise("data", 90_000, 1), Layer::of("platform", platform)])
    })
}

async fn store(root: &Path) -> StoreResolver {
    let store = LocalStore::open(root).await.expect("opens");
    let images = image_store(&store).expect("has records");
    StoreResolver::new(Arc::new(store), images)
}

async fn copied(
    (source, from): (&dyn Resolver, &str),
    (destination, to): (&dyn Resolver, &str),
    options: CopyOptions,
) -> Result<Pushed> {
    copy(source, from, destination, to, &options).await
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("lists");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A place and a name there.
struct Place {
    kind: &'static str,
    resolver: Arc<dyn Resolver>,
    name: String,
}

async fn places(dir: &Path, registry: &TestRegistry) -> Vec<Place> {
    fs::create_dir_all(dir).expect("makes");
    let at = |name: &str| dir.join(name).display().to_string();
    let place = |kind, resolver, name| Place { kind, resolver, name };
    let id = dir.file_name().expect("a name").to_string_lossy().into_owned();
    vec![
        place(
            "docker",
            Arc::new(RegistryResolver::new(RegistrySettings::new())),
            registry.reference(&format!("{id}:1")),
        ),
        place("store", Arc::new(store(&dir.join("store")).await), NAME.to_owned()),
        place("oci", Arc::new(LayoutResolver::new()), format!("{}:1", at("layout"))),
        place(
            "oci-archive",
            Arc::new(ArchiveResolver::new(ArchiveKind::Oci)),
            format!("{}:1", at("oci.tar")),
        ),
        place(
            "docker-archive",
            Arc::new(ArchiveResolver::new(ArchiveKind::Docker)),
            format!("{}:app:1", at("docker.tar")),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn between_all_kinds_of_places_every_digest_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let registry = TestRegistry::start().await;
    let from = registry.put("source:1", &fixture()).await.expect("puts");
    let target = registry.image(&from).await.expect("there").target;
    let remote = RegistryResolver::new(RegistrySettings::new());
    let sources = places(&dir.path().join("a"), &registry).await;
    for source in &sources {
        copied((&remote, &from), (source.resolver.as_ref(), &source.name), CopyOptions::new())
            .await
            .unwrap_or_else(|error| panic!("into {}: {}", source.kind, error.report()));
    }
    for (at, source) in sources.iter().enumerate() {
        for destination in places(&dir.path().join(format!("b{at}")), &registry).await {
            let what = format!("{} to {}", source.kind, destination.kind);
            let to = (destination.resolver.as_ref(), destination.name.as_str());
            let first = copied((source.resolver.as_ref(), &source.name), to, CopyOptions::new())
                .await
                .unwrap_or_else(|error| panic!("{what}: {}", error.report()));
            assert_eq!(first.target.digest, target.digest, "{what}");
            let found = to.0.resolve(to.1).await.unwrap_or_else(|error| panic!("{what}: {}", error.report()));
            assert_eq!(
                (found.descriptor.digest, found.descriptor.size),
                (target.digest.clone(), target.size)
            );
            let again = copied((source.resolver.as_ref(), &source.name), to, CopyOptions::new()).await;
            let again = again.unwrap_or_else(|error| panic!("{what}, again: {}", error.report()));
            assert_eq!(again.sent, 0, "{what}, again: {again:?}");
            // All of it is there: from there it goes on.
            let end = store(&dir.path().join(format!("end{at}{}", destination.kind))).await;
            let end = copied(to, (&end, NAME), CopyOptions::new()).await.expect(&what);
            assert_eq!(end.target.digest, target.digest, "{what}");
        }
        let left = names_in(&dir.path().join(format!("b{at}")));
        assert_eq!(left, ["docker.tar", "layout", "oci.tar", "store"], "nothing temporary stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_gives_the_same_archive() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let registry = TestRegistry::start().await;
    let from = registry.put("source:1", &fixture()).await.expect("puts");
    let remote = RegistryResolver::new(RegistrySettings::new());
    for kind in [ArchiveKind::Oci, ArchiveKind::Docker] {
        let mut archives = Vec::new();
        for number in 0..2 {
            let path = dir.path().join(format!("{kind:?}{number}.tar"));
            let to = format!("{}:docker.io/library/app:1", path.display());
            copied((&remote, &from), (&ArchiveResolver::new(kind), &to), CopyOptions::new())
                .await
                .expect("copies");
            archives.push(fs::read(path).expect("reads"));
        }
        assert!(archives[0] == archives[1], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_beside_others_leaves_them_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let registry = TestRegistry::start().await;
    let mut sources = Vec::new();
    for number in 1..=3_u64 {
        let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 50_000, number)]);
        sources.push(registry.put(&format!("source:{number}"), &image).await.expect("puts"));
    }
    let remote = RegistryResolver::new(RegistrySettings::new());
    let resolvers: [(&str, Arc<dyn Resolver>); 3] = [
        ("layout", Arc::new(LayoutResolver::new())),
        ("oci.tar", Arc::new(ArchiveResolver::new(ArchiveKind::Oci))),
        ("docker.tar", Arc::new(ArchiveResolver::new(ArchiveKind::Docker))),
    ];
    for (file, resolver) in resolvers {
        let path = dir.path().join(file).display().to_string();
        let name = |image: &str| format!("{path}:docker.io/library/{image}");
        let put = async |at: usize, image: &str| {
            let to = name(image);
            copied((&remote, &sources[at]), (resolver.as_ref(), &to), CopyOptions::new())
                .await
                .unwrap_or_else(|error| panic!("{file}: {}", error.report()))
                .target
                .digest
        };
        let meant = async |name: &str| resolver.resolve(name).await.map(|found| found.descriptor.digest);
        let one = put(0, "one:1").await;
        assert_eq!(meant(&path).await.expect("the only one"), one, "{file}");
        let two = put(1, "two:1").await;
        assert_eq!(meant(&name("one:1")).await.expect("there"), one, "{file}");
        assert_eq!(meant(&name("two:1")).await.expect("there"), two, "{file}");
        let error = meant(&path).await.expect_err("two images");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{file}");
        assert!(error.to_string().contains("library/one:1"), "{error}");
        // A name goes to another image, and no other name does.
        let three = put(2, "one:1").await;
        assert_eq!(meant(&name("one:1")).await.expect("there"), three, "{file}");
        assert_eq!(meant(&name("two:1")).await.expect("there"), two, "{file}");
        let tags = resolver.tags(&path).await.expect("lists");
        assert_eq!(tags, ["docker.io/library/one:1", "docker.io/library/two:1"], "{file}");
        assert_eq!(meant(&name("none:1")).await.expect_err("none").kind(), ErrorKind::NotFound, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_that_were_not_wanted_are_not_there() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let registry = TestRegistry::start().await;
    let from = registry.put("source:1", &fixture()).await.expect("puts");
    let remote = RegistryResolver::new(RegistrySettings::new());
    let arm = Selection::best(&wharf_platforms::parse_all(["linux/arm64"]).expect("a platform"));
    for (portion, is_index) in [(Portion::Best(arm.clone()), false), (Portion::Sparse(arm), true)] {
        let archives = ArchiveResolver::new(ArchiveKind::Oci);
        let to = format!("{}:1", dir.path().join(format!("{is_index}.tar")).display());
        let options = CopyOptions::new().with_portion(portion);
        let copied = copied((&remote, &from), (&archives, &to), options).await.expect("copies");
        assert_eq!(copied.target.media_type.contains("index"), is_index);
        let found = archives.resolve(&to).await.expect("there");
        let provider = archives.fetcher(&to).await.expect("opens").local().expect("a file");
        let check = async |platform: &str| {
            let selection = Selection::best(&wharf_platforms::parse_all([platform]).expect("a platform"));
            let catalogue = wharf_content::Catalogue::linked();
            let checked =
                wharf_images::image::check(Arc::clone(&provider), &found.descriptor, &selection, catalogue);
            checked.await.is_ok_and(|checked| checked.is_complete())
        };
        assert!(check("linux/arm64").await);
        // A manifest alone is what it is; of an index the others are known to be elsewhere.
        assert!(!is_index || !check("linux/amd64").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_records_the_name_that_the_layout_gives() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let registry = TestRegistry::start().await;
    let from = registry.put("source:1", &fixture()).await.expect("puts");
    let remote = RegistryResolver::new(RegistrySettings::new());
    let layouts = LayoutResolver::new();
    let to = format!("{}:ghcr.io/owner/app:1", dir.path().join("layout").display());
    copied((&remote, &from), (&layouts, &to), CopyOptions::new()).await.expect("copies");
    let store = Arc::new(LocalStore::open(dir.path().join("store")).await.expect("opens"));
    let images = MemoryImages::new();
    let options = wharf_remotes::PullOptions::new().with_selection(Selection::all());
    let pulled = pull(store, &images, &layouts, &to, options).await.expect("pulls");
    assert_eq!(pulled.name, "ghcr.io/owner/app:1");
}

/// A descriptor that is looked for where nothing is.
fn absent() -> Descriptor {
    Descriptor::of("x", b"absent")
}
