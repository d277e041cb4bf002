//! Graphs of real documents: absurd shapes, types that nobody decodes, decoders that take their time.

use std::{
    sync::{Arc, Mutex},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wharf_content::{
    Catalogue, CommitOptions, Descriptor, ErrorKind, MemoryStore, Provider, Result, plugin::Registration,
    write_blob,
};
use wharf_images::{
    Child, Children, Decoded, Flow, Handler, Kind, Limits, ManifestDecoder, Role, Selection,
    artifact::{ANY_TYPE, ArtifactDecoder, ArtifactDecoders},
    decode,
    decode::{MAX_LEAF_LEN, ManifestDecoders},
    describe, dispatch,
    handler::handler_fn,
    image, media_types as types,
    progress::{Event, Sink},
    walk,
};

/// How long something may take that ends "at once", on a machine that is busy with other things.
const AT_ONCE: Duration = Duration::from_secs(20);

async fn put(store: &MemoryStore, media_type: &str, document: &Value) -> Descriptor {
    let bytes = document.to_string().into_bytes();
    let descriptor = Descriptor::of(media_type, &bytes);
    let options = CommitOptions::default();
    write_blob(store, descriptor.digest.as_str(), &descriptor, bytes.into(), options).await.expect("writes");
    descriptor
}

async fn put_index(store: &MemoryStore, children: &[Descriptor]) -> Descriptor {
    put(store, types::OCI_INDEX, &json!({ "schemaVersion": 2, "manifests": children })).await
}

/// Visits everything below `root` by both ways, and gives how many nodes each has visited.
async fn visit(children: impl Fn() -> Children, root: &Descriptor, limits: Limits) -> Result<usize> {
    let mut counts = Vec::new();
    for parallel in [false, true] {
        let count = Arc::new(Mutex::new(0));
        let (children, counted) = (Arc::new(children()), Arc::clone(&count));
        let handler = Arc::new(handler_fn(move |descriptor: Descriptor| {
            *counted.lock().expect("no panic") += 1;
            let children = Arc::clone(&children);
            async move { children.handle(&descriptor).await }
        }));
        if parallel {
            dispatch(handler, vec![root.clone()], None, limits).await?;
        } else {
            walk(&handler, std::slice::from_ref(root), limits).await?;
        }
        counts.push(*count.lock().expect("no panic"));
    }
    assert_eq!(counts[0], counts[1], "walk and dispatch see the same nodes");
    Ok(counts[0])
}

#[tokio::test]
async fn a_diamond_of_two_to_the_forty_paths_is_forty_one_nodes() {
    let store = MemoryStore::new();
    let mut root = put_index(&store, &[]).await;
    for level in 0..40 {
        // Two ways to the same node that no comparison of whole descriptors finds out.
        let twin = root.clone().with_annotation("way", level.to_string());
        root = put_index(&store, &[root, twin]).await;
    }
    let begun = Instant::now();
    let visited = visit(|| Children::new(Arc::new(store.clone())), &root, Limits::default()).await;
    assert_eq!(visited.expect("visits"), 41);
    let (catalogue, all) = (Catalogue::linked(), Selection::all());
    assert_eq!(image::manifests(&store, &root, catalogue).await.expect("finds none"), []);
    let none = image::manifest(&store, &root, &all, catalogue).await.expect_err("there is none");
    assert_eq!(none.kind(), ErrorKind::NotFound);
    let check = image::check(Arc::new(store), &root, &all, catalogue).await.expect("checks");
    assert_eq!((check.required.len(), check.is_complete()), (41, true));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_chain_of_ten_thousand_is_refused_or_visited_once() {
    let store = MemoryStore::new();
    let mut root = put_index(&store, &[]).await;
    for _ in 0..10_000 {
        root = put_index(&store, &[root]).await;
    }
    let begun = Instant::now();
    let children = || Children::new(Arc::new(store.clone()));
    let error = visit(children, &root, Limits::default()).await.expect_err("too deep");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("deeper than 64 levels"), "{error}");
    let visited = visit(children, &root, Limits::default().with_max_depth(10_000)).await;
    assert_eq!(visited.expect("visits"), 10_001);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

/// The types that were reported.
#[derive(Debug, Default)]
struct Reported(Mutex<Vec<String>>);

impl Sink for Reported {
    fn event(&self, event: &Event<'_>) {
        if let Event::UnknownType { descriptor } = event {
            self.0.lock().expect("no panic").push(descriptor.media_type.clone());
        }
    }
}

/// Of the linked ones, those decoders that nobody can leave out, so that features make no difference.
fn plain() -> Catalogue {
    Catalogue::linked().clone().without::<ArtifactDecoders>("any-artifact")
}

#[tokio::test]
async fn unknown_types_are_reported_once_or_refused() {
    let store = MemoryStore::new();
    let manifest = |names: [&str; 2], kind: &str| {
        let layers: Vec<_> = names.iter().map(|name| Descriptor::of(kind, name.as_bytes())).collect();
        json!({ "config": Descriptor::of(types::OCI_CONFIG, b"{}"), "layers": layers })
    };
    let first = put(&store, types::OCI_MANIFEST, &manifest(["a", "b"], "application/x-odd")).await;
    let second = put(&store, types::OCI_MANIFEST, &manifest(["c", "d"], "application/x-odd")).await;
    let third = put(&store, types::OCI_MANIFEST, &manifest(["e", "f"], "application/x-\u{1b}odder")).await;
    let root = put_index(&store, &[first.clone(), second, third]).await;

    let reported = Arc::new(Reported::default());
    let children = Children::new(Arc::new(store.clone())).with_catalogue(plain()).with_sink(reported.clone());
    walk(&children, std::slice::from_ref(&root), Limits::default()).await.expect("kept whole");
    let types = std::mem::take(&mut *reported.0.lock().expect("no panic"));
    assert_eq!(types, ["application/x-odd", "application/x-\u{1b}odder"]);

    let strict = || Children::new(Arc::new(store.clone())).with_catalogue(plain()).with_strict_types();
    // It is known at the parent, and its own content is not needed.
    for (node, named) in
        [(&first, &first), (&Descriptor::of("application/x-odd", b"a"), &Descriptor::of("", b"a"))]
    {
        let error = strict().handle(node).await.expect_err("strict");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("\"application/x-odd\""), "{error}");
        assert!(error.to_string().contains(named.digest.as_str()), "{error}");
    }
    let error = visit(strict, &root, Limits::default()).await.expect_err("strict");
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}

#[derive(Debug)]
struct Vouching;

impl ArtifactDecoder for Vouching {
    fn refine(&self, _: &Descriptor, mut decoded: Decoded) -> Result<Decoded> {
        decoded.vouches = true;
        Ok(decoded)
    }
}

#[tokio::test]
async fn parts_of_an_artifact_are_known_by_its_word_and_only_those() {
    let store = MemoryStore::new();
    let config = Descriptor::of("application/x-thing", b"c");
    let layer = Descriptor::of("application/x-part", b"l");
    let artifact = json!({ "config": config, "layers": [layer] });
    let artifact = put(&store, types::OCI_MANIFEST, &artifact).await;
    let registration = |key: &str| {
        Registration::<ArtifactDecoders>::shared("v", [key.to_owned()], 0, "test", Arc::new(Vouching))
    };
    let strict = |catalogue: &Catalogue| {
        Children::new(Arc::new(store.clone())).with_catalogue(catalogue.clone()).with_strict_types()
    };
    for key in [ANY_TYPE, "application/x-thing"] {
        let catalogue = plain().with(registration(key));
        assert_eq!(visit(|| strict(&catalogue), &artifact, Limits::default()).await.expect("vouched for"), 3);
    }
    let other = plain().with(registration("application/x-other"));
    visit(|| strict(&other), &artifact, Limits::default()).await.expect_err("of another type");

    // What an artifact vouches for is no news elsewhere; what an image has is.
    let image = json!({ "config": Descriptor::of(types::OCI_CONFIG, b"{}"), "layers": [layer] });
    let image = put(&store, types::OCI_MANIFEST, &image).await;
    let catalogue = plain().with(registration(ANY_TYPE));
    strict(&catalogue).handle(&image).await.expect_err("an image is no artifact");

    let reported = Arc::new(Reported::default());
    let children =
        Children::new(Arc::new(store.clone())).with_catalogue(catalogue).with_sink(reported.clone());
    walk(&children, std::slice::from_ref(&artifact), Limits::default()).await.expect("walks");
    assert_eq!(*reported.0.lock().expect("no panic"), Vec::<String>::new());
}

#[tokio::test]
async fn leaves_are_read_only_for_what_they_say() {
    let store = Arc::new(MemoryStore::new());
    let missing = Descriptor::of(types::OCI_CONFIG, b"missing");
    assert_eq!(Children::new(store.clone()).handle(&missing).await.expect("not read"), Flow::leaf());
    let linked = Catalogue::linked();
    assert!(decode(store.as_ref(), &missing, linked).await.expect("not read").is_some());
    let error = describe(store.as_ref(), &missing, MAX_LEAF_LEN, linked).await.expect_err("read");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let config = put(&store, types::OCI_CONFIG, &json!({ "os": "linux", "architecture": "arm64" })).await;
    let said = describe(store.as_ref(), &config, MAX_LEAF_LEN, linked).await.expect("reads");
    assert_eq!(said.platform.map(|platform| platform.architecture), Some("arm64".into()));
    let titled = config.clone().with_annotation("org.opencontainers.image.title", "a title");
    let said = describe(store.as_ref(), &titled, 3, linked).await.expect("too large to be read");
    assert_eq!(said.description.as_deref(), Some("a title"));
    // What it claims of its size counts before anybody looks for it.
    let claimed = Descriptor { size: u64::MAX >> 1, ..missing };
    assert_eq!(
        describe(store.as_ref(), &claimed, MAX_LEAF_LEN, linked).await.expect("not read").description,
        None
    );
    let index = Descriptor { media_type: types::OCI_INDEX.into(), ..claimed };
    let error = decode(store.as_ref(), &index, linked).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

/// Tells on which thread it runs.
#[derive(Debug)]
struct Slow(Mutex<Option<ThreadId>>, bool);

impl ManifestDecoder for Slow {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn blocks(&self) -> bool {
        self.1
    }

    fn decode(&self, _: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        *self.0.lock().expect("no panic") = Some(thread::current().id());
        let descriptor = Descriptor::of(types::OCI_LAYER, bytes);
        Ok(Decoded::new(vec![Child { descriptor, role: Role::Other }]))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_decoder_that_blocks_does_so_elsewhere() {
    let store = MemoryStore::new();
    let node = put(&store, "application/x-slow", &json!({})).await;
    for blocks in [true, false] {
        let decoder = Arc::new(Slow(Mutex::default(), blocks));
        let registration = Registration::<ManifestDecoders>::shared(
            "slow",
            ["application/x-slow".to_owned()],
            0,
            "test",
            decoder.clone() as Arc<dyn ManifestDecoder>,
        );
        let catalogue = Catalogue::empty().with(registration);
        let provider: &dyn Provider = &store;
        let decoded = decode(provider, &node, &catalogue).await.expect("decodes").expect("known");
        assert_eq!(decoded.children.len(), 1);
        let thread = decoder.0.lock().expect("no panic").expect("it ran");
        assert_eq!(thread != thread::current().id(), blocks);
    }
}
