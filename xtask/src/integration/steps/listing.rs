//! What wharf says of a registry without pulling from it: digests, tags and referrers, as skopeo sees them.

use serde_json::json;

use super::super::layout::{self, text};
use super::super::{Step, World, digest, fixture};
use crate::failure::{Context, Result, ensure, ensure_equal};

pub(super) const STEPS: &[Step] =
    &[("listing-digests", digests), ("listing-tags", tags), ("listing-referrers", referrers)];

/// The digests are those of the bytes that skopeo is given: of the index, of each platform's manifest, and of a single image.
fn digests(world: &World) -> Result<()> {
    let store = world.store("digests")?;
    for index in [&world.fixture.oci, &world.fixture.docker] {
        let image = &index.image;
        ensure_equal(image, &store.wharf(&["digest", image]).text()?, &index.digest)?;
        let bytes = world.skopeo.manifest(&format!("docker://{image}"))?;
        ensure_equal("skopeo's index", &digest::of(&bytes)?, &index.digest)?;
        for entry in layout::parse(&bytes)?["manifests"].as_array().context("no manifests")? {
            let platform = &entry["platform"];
            let mut specifier = format!("{}/{}", text(platform, "os")?, text(platform, "architecture")?);
            if let Some(variant) = platform["variant"].as_str() {
                specifier.push_str(&format!("/{variant}"));
            }
            let found = store.wharf(&["digest", "--platform", &specifier, image]).text()?;
            ensure_equal(&specifier, &found, &text(entry, "digest")?)?;
        }
    }
    let single = &world.fixture.single;
    let seen = layout::parse(world.skopeo.inspect(&format!("docker://{single}"))?.as_bytes())?;
    let expected = text(&seen, "Digest")?;
    ensure_equal(single, &store.wharf(&["digest", single]).text()?, &expected)?;
    let full = store.wharf(&["digest", "--full-ref", single]).text()?;
    ensure_equal("the full reference", &full, &format!("{single}@{expected}"))?;
    store.fails(&["digest", &world.registry.image("library/busybox:none")], 2).map(drop)
}

/// The tags are those of `skopeo list-tags`, in the same order.
fn tags(world: &World) -> Result<()> {
    let store = world.store("tags")?;
    let repository = world.registry.image(fixture::REPOSITORY);
    let seen = layout::parse(world.skopeo.tags(&format!("docker://{repository}"))?.as_bytes())?;
    let expected = seen["Tags"].as_array().context("skopeo lists no tags")?;
    ensure(expected.len() > 5, || format!("skopeo lists too few tags: {seen}"))?;
    let found = layout::parse(&store.wharf(&["tags", "--format", "json", &repository]).success()?.stdout)?;
    ensure_equal("the tags", &found.as_array(), &Some(expected))?;
    store.fails(&["tags", &world.registry.image("library/none")], 2).map(drop)
}

/// What refers to an image is found under the fallback tag, where docker-registry keeps it for whoever puts it there.
fn referrers(world: &World) -> Result<()> {
    let store = world.store("referrers")?;
    let (image, subject) =
        (&world.fixture.single, world.skopeo.manifest(&format!("docker://{}", world.fixture.single))?);
    let subject_digest = digest::of(&subject)?;
    let manifest = layout::parse(&subject)?;
    let artifact = json!({
        "schemaVersion": 2,
        "mediaType": fixture::OCI_MANIFEST,
        "artifactType": "application/x-sbom",
        "config": manifest["config"],
        "layers": [],
        "subject": { "mediaType": fixture::OCI_MANIFEST, "digest": subject_digest, "size": subject.len() },
    });
    let artifact = artifact.to_string().into_bytes();
    let artifact_digest = digest::of(&artifact)?;
    let put = |tag: &str, media_type: &str, bytes: &[u8]| {
        world.registry.put_manifest(fixture::REPOSITORY, tag, media_type, bytes)
    };
    ensure_equal("no referrers", &store.wharf(&["referrers", "-q", image]).text()?.as_str(), &"")?;
    put(&artifact_digest, fixture::OCI_MANIFEST, &artifact)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": fixture::OCI_INDEX,
        "manifests": [{
            "mediaType": fixture::OCI_MANIFEST,
            "digest": artifact_digest,
            "size": artifact.len(),
            "artifactType": "application/x-sbom",
        }],
    });
    put(&subject_digest.replace(':', "-"), fixture::OCI_INDEX, index.to_string().as_bytes())?;
    for options in [&[][..], &["--artifact-type", "application/x-sbom"]] {
        let arguments = [&["referrers", "-q", image], options].concat();
        ensure_equal("the referrers", &store.wharf(&arguments).text()?, &artifact_digest)?;
    }
    let other = ["referrers", "-q", "--artifact-type", "application/x-other", image];
    ensure_equal("those of another type", &store.wharf(&other).text()?.as_str(), &"")?;
    // The tag of the list is one for tools.
    let repository = world.registry.image(fixture::REPOSITORY);
    let tag = subject_digest.replace(':', "-");
    let all = store.wharf(&["tags", &repository]).text()?;
    let some = store.wharf(&["tags", "--omit-digest-tags", &repository]).text()?;
    ensure(all.contains(&tag) && !some.contains(&tag), || {
        format!("{all}\nand without those of digests\n{some}")
    })
}
