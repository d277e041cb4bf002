//! Referrers that nobody pushed here: they came with their subject, or are in the index that is tagged as the referrers tag schema has it.

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_content::{
    CommitOptions, Descriptor, Digest, MemoryStore, Result, plugin::Registration, write_blob,
};
use wharf_images::{
    Catalogue, Image, Kind, ManifestDecoder,
    decode::{Decoded, ManifestDecoders},
    labels::{ANNOTATION_SUBJECT, hold_children},
    media_types,
    referrers::fallback_tag,
};
use wharf_remotes::server::{LABEL_MEDIA_TYPE, RegistryOptions};

use crate::{
    ABSENT,
    site::{CONFIG, Site, each, index, local, manifest},
};

/// Puts content into the store as a pull does: nothing is written beside it.
async fn store(site: &Site, media_type: &str, bytes: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(media_type, bytes);
    let (store, content) = (site.store.as_ref(), bytes.to_vec().into());
    write_blob(store, "pull", &descriptor, content, CommitOptions::default()).await.expect("stored");
    descriptor
}

/// An artifact about `subject`, by a number that makes it another one.
fn artifact(subject: &Descriptor, number: usize) -> Vec<u8> {
    let empty = Descriptor::of(media_types::OCI_EMPTY, b"{}");
    let document = json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_MANIFEST, "artifactType": "application/x-sbom",
        "config": empty, "layers": [empty], "subject": subject, "annotations": { "number": number.to_string() },
    });
    document.to_string().into_bytes()
}

/// Labels a subject with its referrers as a pull does.
async fn hold(site: &Site, subject: &Descriptor, referrers: &[Descriptor]) {
    let held: Vec<Descriptor> = referrers
        .iter()
        .map(|referrer| referrer.clone().with_annotation(ANNOTATION_SUBJECT, subject.digest.as_str()))
        .collect();
    hold_children(site.store.as_ref(), subject, &held).await.expect("labelled");
}

/// Records an index of these under the tag of the referrers tag schema.
async fn tag(site: &Site, repository: &str, subject: &Descriptor, listed: &[Descriptor]) -> Descriptor {
    let target = store(site, media_types::OCI_INDEX, &index(listed)).await;
    let name = format!("quay.io/{repository}:{}", fallback_tag(&subject.digest));
    site.images.create(Image::new(name, target.clone())).await.expect("recorded");
    target
}

/// The pages of a list, and what is on them in the order in which it is.
async fn listed(site: &Site, repository: &str, subject: &Descriptor, query: &str) -> (usize, Vec<Value>) {
    let mut path = format!("/v2/{repository}/referrers/{}{query}", subject.digest);
    let (mut pages, mut all) = (0, Vec::new());
    loop {
        let answer = site.get(&path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(media_types::OCI_INDEX)));
        all.extend(answer.json()["manifests"].as_array().expect("an array").clone());
        pages += 1;
        let Some(link) = answer.header("link") else { return (pages, all) };
        link.trim_start_matches('<').split_once('>').expect("a target").0.clone_into(&mut path);
    }
}

async fn digests(site: &Site, repository: &str, subject: &Descriptor) -> Vec<String> {
    let (_, all) = listed(site, repository, subject, "").await;
    all.iter().map(|found| found["digest"].as_str().expect("a digest").to_owned()).collect()
}

fn sorted(expected: &[&Descriptor]) -> Vec<String> {
    let mut digests: Vec<String> = expected.iter().map(|found| found.digest.to_string()).collect();
    digests.sort();
    digests
}

#[tokio::test]
async fn what_was_pulled_with_its_subject_is_listed() {
    each(async |site: &Site| {
        let subject = store(site, media_types::OCI_MANIFEST, &manifest(&[])).await;
        let other = Descriptor::of(media_types::OCI_MANIFEST, b"another one");
        let bytes = artifact(&subject, 1);
        let one = store(site, media_types::OCI_MANIFEST, &bytes).await;
        let two = store(site, media_types::OCI_MANIFEST, &artifact(&subject, 2)).await;
        // What is held like one and is none: about something else, of another kind, gone.
        let astray = store(site, media_types::OCI_MANIFEST, &artifact(&other, 3)).await;
        let config = store(site, media_types::OCI_CONFIG, CONFIG).await;
        let layer = store(site, media_types::OCI_LAYER, b"layer").await;
        let absent = Descriptor::new(media_types::OCI_MANIFEST, ABSENT.parse().expect("a digest"), 7);
        hold(site, &subject, &[one.clone(), two.clone(), astray, config, layer, absent]).await;

        assert_eq!(digests(site, "a", &subject).await, sorted(&[&one, &two]));
        let (_, all) = listed(site, "a", &subject, "?artifactType=application/x-sbom").await;
        let expected = json!({
            "mediaType": media_types::OCI_MANIFEST, "digest": one.digest.as_str(), "size": bytes.len(),
            "artifactType": "application/x-sbom", "annotations": { "number": "1" },
        });
        assert!(all.len() == 2 && all.contains(&expected), "{all:?}");
        assert_eq!(listed(site, "a", &subject, "?artifactType=a/b").await, (1, vec![]));
        assert_eq!(digests(site, "a", &other).await, Vec::<String>::new(), "nothing leads to it");

        // A client that pushes one of them all the same makes no second one of it, and a deletion is one in its repository.
        let path = format!("/v2/a/manifests/{}", one.digest);
        assert_eq!(site.put_manifest(&path, media_types::OCI_MANIFEST, &bytes).await.status, 201);
        assert_eq!(digests(site, "a", &subject).await, sorted(&[&one, &two]));
        for gone in [&one, &two] {
            let path = format!("/v2/a/manifests/{}", gone.digest);
            assert_eq!(site.send("DELETE", &path, &[], b"").await.status, 202);
        }
        assert_eq!(digests(site, "a", &subject).await, Vec::<String>::new());
        assert_eq!(digests(site, "b", &subject).await, sorted(&[&one, &two]));
    })
    .await;
}

#[tokio::test]
async fn what_the_referrers_tag_schema_lists_is_listed() {
    each(async |site: &Site| {
        // The subject need not be there.
        let subject = Descriptor::of(media_types::OCI_MANIFEST, b"subject");
        let other = Descriptor::of(media_types::OCI_MANIFEST, b"another one");
        let one = store(site, media_types::OCI_MANIFEST, &artifact(&subject, 1)).await;
        let astray = store(site, media_types::OCI_MANIFEST, &artifact(&other, 2)).await;
        let absent = Descriptor::of(media_types::OCI_MANIFEST, &artifact(&subject, 3));
        let target = tag(site, "o/p", &subject, &[one.clone(), one.clone(), astray, absent]).await;
        assert_eq!(digests(site, "o/p", &subject).await, sorted(&[&one]));
        assert_eq!(digests(site, "o/other", &subject).await, Vec::<String>::new());

        // A tag that is no index, or whose index is not there, lists nothing, and pushed ones stay listed.
        let (repository, name) = ("o/p", format!("quay.io/o/p:{}", fallback_tag(&subject.digest)));
        let pushed = artifact(&subject, 4);
        let path = format!("/v2/{repository}/manifests/{}", Digest::sha256(&pushed));
        assert_eq!(site.put_manifest(&path, media_types::OCI_MANIFEST, &pushed).await.status, 201);
        let pushed = Descriptor::of(media_types::OCI_MANIFEST, &pushed);
        assert_eq!(digests(site, repository, &subject).await, sorted(&[&one, &pushed]));
        let layer = store(site, media_types::OCI_INDEX, b"no document").await;
        let gone = Descriptor::new(media_types::OCI_INDEX, ABSENT.parse().expect("a digest"), 7);
        let large = Descriptor::new(media_types::OCI_INDEX, target.digest.clone(), 1 << 40);
        for odd in [one.clone(), layer, gone, large] {
            site.images.update(Image::new(&*name, odd.clone()), &["target"]).await.expect("moved");
            assert_eq!(digests(site, repository, &subject).await, sorted(&[&pushed]), "{odd:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_registry_that_is_read_only_lists_them_and_writes_nothing() {
    let root = tempfile::tempdir().expect("temporary directory");
    let site = Site::start(local(&root).await, RegistryOptions::default().with_read_only()).await;
    let subject = store(&site, media_types::OCI_MANIFEST, &manifest(&[])).await;
    let [one, two] = [1, 2].map(|number| artifact(&subject, number));
    let one = store(&site, media_types::OCI_MANIFEST, &one).await;
    let two = store(&site, media_types::OCI_MANIFEST, &two).await;
    hold(&site, &subject, std::slice::from_ref(&one)).await;
    tag(&site, "a", &subject, std::slice::from_ref(&two)).await;
    let before = site.store.info(&one.digest).await.expect("stored");
    assert_eq!(digests(&site, "a", &subject).await, sorted(&[&one, &two]));
    let after = site.store.info(&one.digest).await.expect("stored");
    assert_eq!((after.labels, after.updated_at), (before.labels, before.updated_at));
    site.stop().await;
}

#[tokio::test]
async fn an_index_of_all_that_there_is_costs_no_more_than_a_page_at_a_time() {
    let site = Site::memory(RegistryOptions::default()).await;
    let subject = store(&site, media_types::OCI_MANIFEST, &manifest(&[])).await;
    let mut listed_there: Vec<Descriptor> = (0..20_000)
        .map(|number: usize| Descriptor::of(media_types::OCI_MANIFEST, &number.to_be_bytes()))
        .collect();
    let mut expected = Vec::new();
    for number in 0..20 {
        expected.push(store(&site, media_types::OCI_MANIFEST, &artifact(&subject, number)).await);
    }
    listed_there.extend(expected.iter().cloned());
    tag(&site, "a", &subject, &listed_there).await;
    let (pages, all) = listed(&site, "a", &subject, "").await;
    let found: Vec<String> =
        all.iter().map(|found| found["digest"].as_str().expect("a digest").to_owned()).collect();
    assert_eq!(found, sorted(&expected.iter().collect::<Vec<_>>()), "all of them, once and in order");
    assert_eq!(pages, 2, "of 20020 candidates 16384 are looked at for one page");

    // Large blobs that are no referrers count by what is read of them.
    let other = Descriptor::of(media_types::OCI_MANIFEST, b"another one");
    let mut large = Vec::new();
    for number in 0..40_u8 {
        large.push(store(&site, media_types::OCI_MANIFEST, &vec![number; 4 << 20]).await);
    }
    tag(&site, "a", &other, &large).await;
    assert_eq!(listed(&site, "a", &other, "").await, (3, vec![]), "160 MiB, 64 MiB for one page");
    site.stop().await;
}

#[tokio::test]
async fn a_page_has_as_many_bytes_as_it_may() {
    let site = Site::memory(RegistryOptions::default()).await;
    let subject = store(&site, media_types::OCI_MANIFEST, &manifest(&[])).await;
    let mut expected = Vec::new();
    // Two of them fill a page, and one is too large for any.
    for (number, len) in [900_000, 900_000, 3_000_000, 900_000, 900_000, 900_000].into_iter().enumerate() {
        let mut artifact: Value = serde_json::from_slice(&artifact(&subject, number)).expect("JSON");
        artifact["annotations"]["long"] = "x".repeat(len).into();
        expected.push(store(&site, media_types::OCI_MANIFEST, artifact.to_string().as_bytes()).await);
    }
    hold(&site, &subject, &expected).await;
    let (mut path, mut lens) = (format!("/v2/a/referrers/{}", subject.digest), Vec::new());
    let mut found = Vec::new();
    loop {
        let page = site.get(&path).await;
        lens.push(page.body.len());
        let listed = page.json();
        let listed = listed["manifests"].as_array().expect("a list");
        assert!(listed.len() == 1 || page.body.len() <= (2 << 20) + 200, "{}", page.body.len());
        found.extend(listed.iter().map(|one| one["digest"].as_str().expect("a digest").to_owned()));
        let Some(link) = page.header("link") else { break };
        path = link.split(['<', '>']).nth(1).expect("a link").to_owned();
    }
    assert_eq!(found, sorted(&expected.iter().collect::<Vec<_>>()));
    assert!((4..=5).contains(&lens.len()), "{lens:?}");
    site.stop().await;
}

/// A manifest of somebody else's, which names its subject in its own way.
#[derive(Debug)]
struct About;

impl ManifestDecoder for About {
    fn kind(&self) -> Kind {
        Kind::Manifest
    }

    fn blocks(&self) -> bool {
        true
    }

    fn decode(&self, _: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let mut decoded = Decoded::default();
        decoded.subject = serde_json::from_value(document["about"].clone()).ok();
        Ok(decoded)
    }
}

#[tokio::test]
async fn what_refers_is_told_by_the_decoder_of_its_type() {
    let media_type = "application/vnd.example.note+json";
    let about = Registration::<ManifestDecoders>::shared(
        "about",
        [media_type.to_owned()],
        0,
        "test",
        Arc::new(About) as Arc<dyn ManifestDecoder>,
    );
    let options = RegistryOptions::default().with_catalogue(Catalogue::linked().clone().with(about));
    let site = Site::start(Arc::new(MemoryStore::new()), options).await;
    let subject = store(&site, media_types::OCI_MANIFEST, &manifest(&[])).await;
    let note = json!({ "mediaType": media_type, "about": subject }).to_string();
    let note = store(&site, media_type, note.as_bytes()).await;
    // One that says its type only by the label of its push, which no decoder knew.
    let bare = json!({ "about": subject }).to_string();
    let bare = store(&site, media_type, bare.as_bytes()).await;
    let labels = [(LABEL_MEDIA_TYPE.to_owned(), media_type.to_owned())].into();
    let path = format!("labels.{LABEL_MEDIA_TYPE}");
    site.store.update(&bare.digest, &labels, &[&path]).await.expect("labelled");
    hold(&site, &subject, &[note.clone(), bare.clone()]).await;
    let (_, all) = listed(&site, "a", &subject, "").await;
    assert!(all.len() == 2 && all.iter().all(|found| found["mediaType"] == media_type), "{all:?}");
    assert_eq!(digests(&site, "a", &subject).await, sorted(&[&note, &bare]));

    // A decoder that may be a program of its own is called so often for one page, and not more often.
    let mut notes = Vec::new();
    for number in 0..70 {
        let note = json!({ "mediaType": media_type, "about": subject, "number": number }).to_string();
        notes.push(store(&site, media_type, note.as_bytes()).await);
    }
    tag(&site, "a", &subject, &notes).await;
    let (pages, all) = listed(&site, "a", &subject, "").await;
    assert_eq!((pages, all.len()), (2, 72), "64 on the first page");
    site.stop().await;
}
