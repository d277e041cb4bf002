//! Small images of a few layers, for the steps that pull hundreds of times: two that share three of four layers,
//! and a second name for each, so that loops which must not see each other's names still fight over the same blobs.

use std::path::Path;

use super::fixture::{new_image, umoci};
use super::layout::{self, Layout};
use super::skopeo::Skopeo;
use super::{World, busybox};
use crate::failure::{Context, Result};
use crate::random;
use crate::registry::{Registry, http};

/// The repository of the small images.
const REPOSITORY: &str = "library/small";

/// The first image.
pub(super) const FIRST: &str = "library/small:first";

/// The first image under another name.
pub(super) const FIRST_TWIN: &str = "library/small:first-twin";

/// The second image, which has all but its last layer in common with the first.
pub(super) const SECOND: &str = "library/small:second";

/// The second image under another name.
pub(super) const SECOND_TWIN: &str = "library/small:second-twin";

/// The layers that both have, in bytes of noise.
const SHARED: &[u64] = &[100_000, 200_000, 300_000];

/// The last layer of each.
const LAST: &[(&str, &str, u64)] = &[("first", "first-twin", 400_000), ("second", "second-twin", 500_000)];

/// Makes them in a layout and puts them into the registry.
pub(super) fn build(layout: &Layout, registry: &Registry, skopeo: &Skopeo, work: &Path) -> Result<()> {
    let base = layout.image("small");
    new_image(&base, busybox::host()?.architecture)?;
    for length in SHARED {
        insert(&base, *length, work)?;
    }
    for (tag, twin, length) in LAST {
        umoci(&["tag", "--image", &base, &format!("small-{tag}")]).success()?;
        let image = layout.image(&format!("small-{tag}"));
        insert(&image, *length, work)?;
        for tag in [tag, twin] {
            let target = format!("docker://{}", registry.image(&format!("{REPOSITORY}:{tag}")));
            skopeo.copy(&format!("oci:{image}"), &target, &[])?;
        }
    }
    Ok(())
}

/// Adds a layer with one file of `length` bytes, which are other ones for each length.
fn insert(image: &str, length: u64, work: &Path) -> Result<()> {
    let file = work.join(format!("noise-{length}"));
    random::write(&file, length, length)?;
    umoci(&["insert", "--image", image]).arg(&file).arg(format!("/noise-{length}")).success().map(drop)
}

/// The bytes of an image of the registry: manifest, config and layers.
pub(super) fn bytes(world: &World, image: &str) -> Result<u64> {
    let (repository, tag) = image.rsplit_once(':').context(format_args!("{image} has no tag"))?;
    total(&http::get_manifest(world.registry.port(), repository, tag)?)
}

fn total(manifest: &[u8]) -> Result<u64> {
    let parsed = layout::parse(manifest)?;
    let layers = parsed["layers"].as_array().context("the manifest has no layers")?;
    let sizes = std::iter::once(&parsed["config"]).chain(layers).map(|blob| blob["size"].as_u64());
    let sum: Option<u64> = sizes.sum();
    Ok(sum.context("the manifest lacks a size")? + manifest.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_its_manifest_and_all_that_it_names() {
        let manifest = br#"{"config":{"size":3},"layers":[{"size":10},{"size":20}]}"#;
        assert_eq!(total(manifest).unwrap(), 33 + manifest.len() as u64);
    }

    #[test]
    fn a_manifest_without_its_sizes_is_refused() {
        for broken in [r#"{"config":{"size":3}}"#, r#"{"config":{"size":3},"layers":[{}]}"#, "{}", "x"] {
            assert!(total(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn names_are_those_that_are_built() {
        for name in [FIRST, FIRST_TWIN, SECOND, SECOND_TWIN] {
            let tag = name.strip_prefix(REPOSITORY).and_then(|rest| rest.strip_prefix(':')).unwrap();
            assert!(LAST.iter().any(|(one, twin, _)| tag == *one || tag == *twin), "{name}");
        }
    }
}
