//! Images of Docker's schema 1: what becomes of them, and what is refused.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
// The layer decoders, by which diff ids are found.
use wharf_archive as _;
use wharf_content::{
    Catalogue, Descriptor, Digest, ErrorKind, Manager, MemoryStore, Provider, filter::FilterSet,
    gc::CollectOptions, read_blob,
};
use wharf_images::{
    Role, Selection, collect, decode, media_types as types,
    progress::{Event, Sink},
    record,
    schema1::MAX_LAYERS,
    transport::{MemoryRegistry, Resolver},
    validate::{ValidateOptions, validate},
};
use wharf_remotes::{
    CopyOptions, LazyProvider, PullOptions, copy,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{Client, FakeServer, Reply};

/// A tar stream of one file.
fn tar(path: &str, content: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content.as_bytes()).expect("writing to memory");
    builder.into_inner().expect("writing to memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// The layer that Docker wrote for what changes no file.
fn nothing() -> Vec<u8> {
    gzip(&[0; 1024])
}

/// An image as registries had it ten years ago.
#[derive(Clone)]
struct Old {
    /// Newest first.
    entries: Vec<(Digest, Value)>,
    blobs: HashMap<String, Vec<u8>>,
    content_type: &'static str,
    is_signed: bool,
    change: fn(&mut Value),
}

impl Old {
    fn new() -> Self {
        let (entries, blobs) = (Vec::new(), HashMap::new());
        Self { entries, blobs, content_type: types::DOCKER_SCHEMA1, is_signed: true, change: |_| () }
    }

    /// Puts a layer on top.
    fn with(mut self, blob: Vec<u8>, told: Value) -> Self {
        let digest = Digest::sha256(&blob);
        self.entries.insert(0, (digest.clone(), told));
        self.blobs.insert(digest.to_string(), blob);
        self
    }

    /// Of three files, one of them twice, with two layers between that change nothing.
    fn usual() -> Self {
        let twice = gzip(&tar("b", "two"));
        Self::new()
            .with(gzip(&tar("a", "one")), json!({ "id": "1", "created": "2015-01-01T00:00:00Z" }))
            .with(
                nothing(),
                json!({ "id": "2", "throwaway": true, "container_config": { "Cmd": ["ENV", "A=b"] } }),
            )
            .with(twice.clone(), json!({ "id": "3" }))
            .with(gzip(&[0; 10_240]), json!({ "id": "4" }))
            .with(twice, json!({ "id": "5", "throwaway": false }))
            .with(
                tar("c", "plain"),
                json!({ "id": "6", "os": "linux", "architecture": "amd64", "config": { "Cmd": ["/a"] } }),
            )
    }

    fn payload(&self) -> String {
        let mut manifest = json!({
            "schemaVersion": 1, "name": "a", "tag": "1", "architecture": "amd64",
            "fsLayers": self.entries.iter().map(|(blob, _)| json!({ "blobSum": blob })).collect::<Vec<_>>(),
            "history": self.entries.iter().map(|(_, told)| json!({ "v1Compatibility": told.to_string() })).collect::<Vec<_>>(),
        });
        (self.change)(&mut manifest);
        serde_json::to_string_pretty(&manifest).expect("JSON")
    }

    /// What is sent: with a signature, which nobody verifies.
    fn sent(&self) -> String {
        let payload = self.payload();
        if !self.is_signed {
            return payload;
        }
        let end = payload.len() - 2;
        let protected = json!({ "formatLength": end, "formatTail": URL_SAFE_NO_PAD.encode(&payload[end..]) });
        let signatures =
            json!([{ "header": {}, "protected": URL_SAFE_NO_PAD.encode(protected.to_string()) }]);
        format!("{},\n   \"signatures\": {signatures}\n}}", &payload[..end])
    }

    /// As which Docker's registry names it.
    fn digest(&self) -> Digest {
        Digest::sha256(self.payload().as_bytes())
    }

    fn answer(&self, method: &str, path: &str) -> Reply {
        let whole = |content_type: &str, bytes: &[u8], digest: Option<String>| {
            let length = bytes.len().to_string();
            let mut headers = vec![("Content-Type", content_type), ("Content-Length", &length)];
            headers.extend(digest.as_ref().map(|digest| ("Docker-Content-Digest", digest.as_str())));
            Reply::new(200, &headers, if method == "HEAD" { &[] } else { bytes })
        };
        match path.strip_prefix("/v2/old/").and_then(|path| path.split_once('/')) {
            Some(("manifests", name)) => {
                let sent = self.sent();
                let digests = [self.digest().to_string(), Digest::sha256(sent.as_bytes()).to_string()];
                // A registry that lies about what was asked for says it is that.
                let named = if name.starts_with("sha256:") { name.to_owned() } else { digests[0].clone() };
                whole(self.content_type, sent.as_bytes(), Some(named))
            }
            Some(("blobs", digest)) => match self.blobs.get(digest) {
                Some(blob) => whole("application/octet-stream", blob, None),
                None => Reply::new(404, &[], ""),
            },
            _ => Reply::new(404, &[], ""),
        }
    }

    async fn serve(self) -> FakeServer {
        FakeServer::start(move |request| self.answer(&request.method, &request.path)).await
    }
}

/// What was asked since `from`, by method and the last part of the path.
fn asked(server: &FakeServer, from: usize) -> Vec<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    server.requests()[from..]
        .iter()
        .map(|request| format!("{} {}", request.method, last(&request.path)))
        .collect()
}

#[derive(Debug, Default)]
struct Warnings(Mutex<Vec<String>>);

impl Sink for Warnings {
    fn event(&self, event: &Event<'_>) {
        if let Event::Warning { text } = event {
            self.0.lock().expect("no panic").push((*text).to_owned());
        }
    }
}

/// The config and the layers of an image that was pulled.
async fn parts(client: &Client, target: &Descriptor) -> (Value, Vec<Descriptor>) {
    let decoded =
        decode(client.store.as_ref(), target, Catalogue::linked()).await.expect("reads").expect("known");
    let config = decoded.child(Role::Config).expect("a config");
    assert_eq!(config.media_type, types::DOCKER_CONFIG);
    let config = read_blob(client.store.as_ref(), config, 1 << 20).await.expect("reads");
    let layers = decoded.children_of(Role::Layer).cloned().collect();
    (serde_json::from_slice(&config).expect("JSON"), layers)
}

#[tokio::test]
async fn it_becomes_an_image_of_schema_2() {
    let mut targets = Vec::new();
    for (content_type, is_signed) in [
        (types::DOCKER_SCHEMA1, true),
        (types::DOCKER_SCHEMA1_UNSIGNED, false),
        ("application/json; charset=utf-8", true),
        ("text/plain", false),
    ] {
        let old = Old { content_type, is_signed, ..Old::usual() };
        let [throwaway, blank] = [&nothing(), &gzip(&[0; 10_240])].map(|blob| Digest::sha256(blob));
        let server = old.clone().serve().await;
        let name = format!("{}/old:1", server.address());
        let (client, warnings) = (Client::new().await, Arc::new(Warnings::default()));
        let options = PullOptions::new().with_selection(Selection::all()).with_sink(warnings.clone());
        let image = client.pull(&name, options.clone()).await.expect("pulls");
        assert_eq!((image.name.as_str(), image.target.media_type.as_str()), (&*name, types::DOCKER_MANIFEST));
        assert_eq!(client.images.get(&name).await.expect("recorded").target, image.target);

        let (config, layers) = parts(&client, &image.target).await;
        let twice = gzip(&tar("b", "two"));
        let expected = [gzip(&tar("a", "one")), twice.clone(), twice, tar("c", "plain")];
        assert_eq!(
            layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect::<Vec<_>>(),
            expected.iter().map(|blob| (Digest::sha256(blob), blob.len() as u64)).collect::<Vec<_>>()
        );
        let media_types: Vec<&str> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert_eq!(media_types[..3], [types::DOCKER_LAYER_GZIP; 3]);
        assert_eq!(media_types[3], types::DOCKER_LAYER);
        assert_eq!((&config["config"]["Cmd"], &config["id"]), (&json!(["/a"]), &Value::Null));
        let empty: Vec<bool> = config["history"]
            .as_array()
            .expect("an array")
            .iter()
            .map(|told| told["empty_layer"] == json!(true))
            .collect();
        assert_eq!(empty, [false, true, false, true, false, false]);
        assert_eq!(config["history"][1]["created_by"], "ENV A=b");
        // The validator unwraps the layers by itself and compares what comes out with the config.
        let report =
            validate(client.store.clone(), &image.target, &ValidateOptions::new()).await.expect("validates");
        assert!(report.is_clean() && report.is_complete(), "{report:?}");

        let requests = asked(&server, 0);
        assert!(!requests.iter().any(|asked| asked.contains(throwaway.as_str())), "it is known to be empty");
        assert_eq!(requests.iter().filter(|asked| **asked == format!("GET {blank}")).count(), 1);
        for layer in &layers {
            let gets = requests.iter().filter(|asked| **asked == format!("GET {}", layer.digest)).count();
            assert_eq!(gets, 1, "{requests:?}");
        }
        let told = warnings.0.lock().expect("no panic").join("\n");
        assert!(
            told.contains("schema 1")
                && told.contains(old.digest().as_str())
                && told.contains(image.target.digest.as_str()),
            "{told}"
        );

        // Everything of it is held, and the next pull finds it again.
        let before = client.blobs().await.len();
        collect(client.store.as_ref(), &CollectOptions::new()).await.expect("collects");
        assert_eq!(
            client.blobs().await.len(),
            before - 1,
            "the layer that is not needed has gone, and nothing else"
        );
        assert!(client.store.info(&old.digest()).await.is_ok());
        let from = server.requests().len();
        assert_eq!(client.pull(&name, options.clone()).await.expect("pulls").target, image.target);
        let again = asked(&server, from);
        let is_telling = types::is_schema1(content_type);
        assert_eq!(again, if is_telling { vec!["HEAD 1"] } else { vec!["HEAD 1", "GET 1"] });

        // A layer that is lost is fetched again, and nothing else is.
        client.store.delete(&layers[0].digest).await.expect("deletes");
        let from = server.requests().len();
        client.pull(&name, options).await.expect("pulls");
        assert_eq!(asked(&server, from).last(), Some(&format!("GET {}", layers[0].digest)));

        record::delete_and_collect(client.store.as_ref(), client.images.as_ref(), &name, None)
            .await
            .expect("deletes");
        assert_eq!(client.blobs().await, [], "with the image all of it goes");
        targets.push(image.target);
    }
    targets.dedup();
    assert_eq!(targets.len(), 1, "the same bytes every time");
}

#[tokio::test]
async fn what_is_labelled_is_what_the_registry_has() {
    let server = Old::usual().serve().await;
    let client = Client::new().await;
    let image = client.pull(&format!("{}/old:1", server.address()), PullOptions::new()).await.expect("pulls");
    let (_, layers) = parts(&client, &image.target).await;
    let key = "containerd.io/distribution.source.127.0.0.1";
    for layer in &layers {
        assert_eq!(client.store.info(&layer.digest).await.expect("there").labels[key], "old");
    }
    let made = client.store.info(&image.target.digest).await.expect("there").labels;
    assert!(!made.contains_key(key), "nobody else has it: {made:?}");
}

#[tokio::test]
async fn a_pin_is_of_what_was_signed_or_of_all_bytes() {
    let old = Old::usual();
    let (signed, whole) = (old.digest(), Digest::sha256(old.sent().as_bytes()));
    let server = old.clone().serve().await;
    for digest in [&signed, &whole] {
        let client = Client::new().await;
        let name = format!("{}/old@{digest}", server.address());
        let image = client.pull(&name, PullOptions::new()).await.expect("pulls");
        assert_eq!(image.name, name);
        let from = server.requests().len();
        assert_eq!(client.pull(&name, PullOptions::new()).await.expect("pulls").target, image.target);
        assert_eq!(asked(&server, from), [format!("HEAD {digest}")]);
    }
    // Whether the type is told by the registry or found in what it sends.
    for content_type in [types::DOCKER_SCHEMA1, "text/plain"] {
        let server = Old { content_type, ..old.clone() }.serve().await;
        for digest in [Digest::sha256(b"another"), Digest::sha256(b"")] {
            let client = Client::new().await;
            let error = client.pull(&format!("{}/old@{digest}", server.address()), PullOptions::new()).await;
            let error = error.expect_err("another image");
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
            assert!(error.report().contains("digest mismatch"), "{}", error.report());
            assert_eq!(client.blobs().await, []);
        }
        let client = Client::new().await;
        client.pull(&format!("{}/old@{signed}", server.address()), PullOptions::new()).await.expect("pulls");
    }
}

#[tokio::test]
async fn forgeries_are_refused_and_nothing_is_recorded() {
    let layer = gzip(&tar("a", "one"));
    let good = Old::new().with(layer.clone(), json!({}));
    let digest = Digest::sha256(&layer).to_string();
    let with = |change: fn(&mut Value)| Old { change, ..good.clone() };
    let blob = |bytes: Option<&[u8]>| {
        let mut old = good.clone();
        match bytes {
            Some(bytes) => drop(old.blobs.insert(digest.clone(), bytes.to_vec())),
            None => drop(old.blobs.remove(&digest)),
        }
        old
    };
    let mut flipped = layer.clone();
    flipped[10] ^= 1;
    let many = (0..=MAX_LAYERS).fold(Old::new(), |old, _| old.with(nothing(), json!({ "throwaway": true })));
    let broken = Old::new().with(layer[..layer.len() - 9].to_vec(), json!({}));
    for (what, old, kind, fetches_layers) in [
        ("nothing", good.clone(), None, true),
        (
            "more history than layers",
            with(|it| it["fsLayers"] = json!([])),
            Some(ErrorKind::InvalidArgument),
            false,
        ),
        (
            "more layers than history",
            with(|it| it["fsLayers"] = json!([it["fsLayers"][0], it["fsLayers"][0]])),
            Some(ErrorKind::InvalidArgument),
            false,
        ),
        ("a foreign field", with(|it| it["layers"] = json!([])), Some(ErrorKind::InvalidArgument), false),
        ("an index too", with(|it| it["manifests"] = json!([])), Some(ErrorKind::InvalidArgument), false),
        (
            "a history that cannot be read",
            with(|it| it["history"] = json!([{ "v1Compatibility": "{" }])),
            Some(ErrorKind::InvalidArgument),
            false,
        ),
        ("too many layers", many, Some(ErrorKind::ResourceExhausted), false),
        ("another layer", blob(Some(&flipped)), Some(ErrorKind::FailedPrecondition), true),
        ("half a layer", blob(Some(&layer[..20])), Some(ErrorKind::FailedPrecondition), true),
        ("no layer", blob(None), Some(ErrorKind::NotFound), true),
        ("a layer whose compression ends early", broken, Some(ErrorKind::InvalidArgument), true),
    ] {
        let server = old.serve().await;
        let client = Client::new().await;
        let name = format!("{}/old:1", server.address());
        let outcome = client.pull(&name, PullOptions::new().with_selection(Selection::all())).await;
        assert_eq!(outcome.as_ref().err().map(wharf_content::Error::kind), kind, "{what}: {outcome:?}");
        let records = client.images.list(&FilterSet::all()).await.expect("lists");
        assert_eq!(records.len(), usize::from(kind.is_none()), "{what}");
        let blobs = server.requests().iter().any(|request| request.path.contains("/blobs/"));
        assert_eq!(blobs, fetches_layers, "{what}");
    }
}

#[tokio::test]
async fn sizes_are_asked_for() {
    for (what, reply, works) in [
        ("HEAD is not done", Some(Reply::new(405, &[], "")), true),
        ("HEAD is refused where it leads to", Some(Reply::new(403, &[], "")), true),
        ("an absurd length", Some(Reply::new(200, &[("Content-Length", "1099511627776")], "")), false),
        (
            "no length, which GET tells",
            Some(Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")),
            true,
        ),
        ("a usual answer", None, true),
    ] {
        let old = Old::usual();
        let server = FakeServer::start(move |request| match &reply {
            Some(reply) if request.method == "HEAD" && request.path.contains("/blobs/") => reply.clone(),
            _ => old.answer(&request.method, &request.path),
        })
        .await;
        let client = Client::new().await;
        let outcome = client.pull(&format!("{}/old:1", server.address()), PullOptions::new()).await;
        assert_eq!(outcome.is_ok(), works, "{what}: {outcome:?}");
    }
}

#[tokio::test]
async fn what_is_not_wanted_is_not_fetched() {
    let server = Old::usual().serve().await;
    let name = format!("{}/old:1", server.address());
    let arm = wharf_platforms::parse("linux/arm64").expect("a platform");
    for (options, kind, said) in [
        (PullOptions::new().without_schema1_conversion(), ErrorKind::NotImplemented, "was switched off"),
        (
            PullOptions::new().with_selection(Selection::best([&arm])),
            ErrorKind::NotFound,
            "no match for platform linux/arm64",
        ),
    ] {
        let client = Client::new().await;
        let error = client.pull(&name, options).await.expect_err("refused");
        assert_eq!(error.kind(), kind);
        assert!(error.report().contains(said) && error.report().contains("sha256:"), "{}", error.report());
        assert!(!server.requests().iter().any(|request| request.path.contains("/blobs/")));
    }
    let amd64 = wharf_platforms::parse("linux/amd64").expect("a platform");
    let client = Client::new().await;
    let options = PullOptions::new().with_selection(Selection::best([&amd64])).with_strict_types();
    client.pull(&name, options).await.expect("pulls");
}

#[tokio::test]
async fn a_conversion_that_lost_its_parts_is_made_again() {
    let server = Old::usual().serve().await;
    let name = format!("{}/old:1", server.address());
    let client = Client::new().await;
    let image = client.pull(&name, PullOptions::new()).await.expect("pulls");
    let decoded = decode(client.store.as_ref(), &image.target, Catalogue::linked()).await.expect("reads");
    let config = decoded.expect("known").child(Role::Config).expect("a config").clone();
    for lost in [&config.digest, &image.target.digest] {
        client.store.delete(lost).await.expect("deletes");
        let from = server.requests().len();
        assert_eq!(client.pull(&name, PullOptions::new()).await.expect("pulls").target, image.target);
        assert!(client.store.reader(&config).await.is_ok());
        assert_eq!(asked(&server, from), ["HEAD 1"], "what it is made of is here");
    }
}

#[tokio::test]
async fn a_repair_makes_again_what_was_made() {
    let server = Old::usual().serve().await;
    let name = format!("{}/old:1", server.address());
    let client = Client::new().await;
    let image = client.pull(&name, PullOptions::new()).await.expect("pulls");
    let (_, layers) = parts(&client, &image.target).await;
    let decoded = decode(client.store.as_ref(), &image.target, Catalogue::linked()).await.expect("reads");
    let config = decoded.expect("known").child(Role::Config).expect("a config").digest.clone();
    let (made, from) = (image.target.digest.clone(), Old::usual().digest());
    let layer = layers[0].digest.clone();
    // The old manifest by itself is needed by nobody; whoever needs it has it fetched.
    for (damaged, is_there) in [
        (vec![&made], true),
        (vec![&config], true),
        (vec![&made, &config], true),
        (vec![&from], false),
        (vec![&made], true),
        (vec![&made, &from], true),
        (vec![&config, &from], true),
        (vec![&made, &config, &from, &layer], true),
    ] {
        for digest in &damaged {
            let path = client.blob(digest);
            std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{damaged:?}: {digest}: {error}"));
            std::fs::write(&path, "damage").expect("writes");
        }
        let done = client.repair().await;
        assert!(done.failed.is_empty() && done.left.is_clean(), "{damaged:?}: {done:?}");
        assert_eq!(done.quarantined.len(), damaged.len(), "{done:?}");
        assert!(client.verify().await.is_clean());
        for digest in damaged.iter().filter(|digest| ***digest != from) {
            assert!(client.store.info(digest).await.is_ok(), "{digest} is back");
        }
        assert_eq!(client.store.info(&from).await.is_ok(), is_there, "{damaged:?}");
        // What holds the parts of the image is back as well.
        collect(client.store.as_ref(), &CollectOptions::new()).await.expect("collects");
        assert!(client.verify().await.is_clean(), "{damaged:?}");
    }
}

#[tokio::test]
async fn what_only_a_pull_reads_says_so_elsewhere() {
    for is_signed in [true, false] {
        let server = Old { is_signed, ..Old::usual() }.serve().await;
        let name = format!("{}/old:1", server.address());
        let settings = RegistrySettings::new().with_retries(0, Duration::ZERO);
        let (resolver, memory) = (RegistryResolver::new(settings), MemoryRegistry::new());
        let error = copy(&resolver, &name, &memory, "there.example/old:1", &CopyOptions::new()).await;
        let error = error.expect_err("not as it is");
        assert_eq!(error.kind(), ErrorKind::NotImplemented, "{}", error.report());
        assert!(error.report().contains("pull it"), "{}", error.report());

        let found = resolver.resolve(&name).await.expect("is there");
        let fetcher = resolver.fetcher(&name).await.expect("made");
        let lazy = LazyProvider::new(Arc::new(MemoryStore::new()), fetcher, Catalogue::linked().clone());
        let error = lazy.reader(&found.descriptor).await.expect_err("not there");
        assert_eq!(error.kind(), ErrorKind::NotImplemented, "{}", error.report());
    }
}
