//! The images that the steps pull, made with the tools of others and put into docker-registry: busybox for six
//! platforms, once under an OCI index and once under a Docker manifest list, a big one, one of schema 1, and small
//! ones (in a file of their own).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::busybox::{self, PLATFORMS, Platform};
use super::digest;
use super::layout::Layout;
use super::skopeo::Skopeo;
use super::small;
use crate::failure::{Context, Result, ensure_equal};
use crate::process::Tool;
use crate::random;
use crate::registry::Registry;

/// Media types, by the family of the index.
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Bytes in the only layer of the big image. They do not compress.
pub(super) const BIG: u64 = 100_000_000;

/// The repository of the busybox images.
pub(super) const REPOSITORY: &str = "library/busybox";

/// An image with several platforms in the registry.
#[derive(Clone, Debug)]
pub(super) struct Index {
    /// Its full name.
    pub(super) image: String,
    /// Its media type.
    pub(super) media_type: &'static str,
    /// The bytes that were put into the registry.
    pub(super) bytes: Vec<u8>,
    /// Their digest.
    pub(super) digest: String,
}

/// What is in the registry.
#[derive(Clone, Debug)]
pub(super) struct Fixture {
    /// busybox under an OCI index.
    pub(super) oci: Index,
    /// busybox under a Docker manifest list.
    pub(super) docker: Index,
    /// busybox of this host's platform alone, without an index.
    pub(super) single: String,
    /// One layer of [`BIG`] bytes; only the path, for it is pulled through a proxy too.
    pub(super) big: &'static str,
    /// An image of schema 1.
    pub(super) schema1: String,
}

/// Builds all of them and puts them into the registry.
pub(super) fn build(cache: &Path, registry: &Registry, skopeo: &Skopeo, work: &Path) -> Result<Fixture> {
    busybox::fetch(cache)?;
    let layout = Layout::new(work.join("layout"));
    umoci(&["init", "--layout"]).arg(&layout.path).success()?;
    for platform in PLATFORMS {
        busybox_image(cache, *platform, &layout, work)?;
        push(registry, skopeo, &layout, *platform)?;
    }
    let oci =
        put_index(registry, skopeo, "1.35", Family { index: OCI_INDEX, manifest: OCI_MANIFEST, tag: "oci" })?;
    let docker = put_index(
        registry,
        skopeo,
        "docker",
        Family { index: DOCKER_LIST, manifest: DOCKER_MANIFEST, tag: "docker" },
    )?;
    let host = busybox::host()?;
    let schema1 = registry.image("library/old:1");
    let source = format!("oci:{}", layout.image(host.debian));
    skopeo.copy(&source, &format!("docker://{schema1}"), &["--format", "v2s1"])?;
    small::build(&layout, registry, skopeo, work)?;
    big_image(&layout, work)?;
    let big = "library/big:1";
    skopeo.copy(
        &format!("oci:{}", layout.image("big")),
        &format!("docker://{}", registry.image(big)),
        &[],
    )?;
    let single = registry.image(&tagged("oci", host));
    Ok(Fixture { oci, docker, single, big, schema1 })
}

/// umoci on an image layout.
pub(super) fn umoci(arguments: &[&str]) -> Tool {
    Tool::new("umoci").args(arguments)
}

/// A single-layer image of one platform: busybox, a few of its applets, and a file in /etc.
fn busybox_image(cache: &Path, platform: Platform, layout: &Layout, work: &Path) -> Result<()> {
    let program = busybox::unpack(cache, platform, &work.join("packages").join(platform.debian))?;
    let root = work.join("roots").join(platform.debian);
    for directory in ["bin", "etc"] {
        let directory = root.join(directory);
        fs::create_dir_all(&directory).context(directory.display())?;
    }
    let target = root.join("bin/busybox");
    fs::copy(&program, &target).context(target.display())?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).context(target.display())?;
    for applet in ["sh", "ls", "cat"] {
        symlink("busybox", root.join("bin").join(applet)).context(applet)?;
    }
    let file = root.join("etc/platform");
    fs::write(&file, format!("{}\n", platform.name)).context(file.display())?;

    let image = layout.image(platform.debian);
    new_image(&image, platform.architecture)?;
    umoci(&["insert", "--image", &image]).arg(&root).arg("/").success()?;
    match platform.variant {
        Some(variant) if platform.config_variant => layout.set_variant(platform.debian, variant),
        _ => Ok(()),
    }
}

/// An image without layers.
pub(super) fn new_image(image: &str, architecture: &str) -> Result<()> {
    umoci(&["new", "--image", image]).success()?;
    umoci(&["config", "--no-history", "--image", image, "--os", "linux", "--architecture", architecture])
        .args(["--config.cmd", "/bin/sh", "--config.env", "PATH=/bin"])
        .success()
        .map(drop)
}

/// An image for this host with one layer that takes its time.
fn big_image(layout: &Layout, work: &Path) -> Result<()> {
    let file = work.join("noise");
    random::write(&file, BIG, 1)?;
    let image = layout.image("big");
    new_image(&image, busybox::host()?.architecture)?;
    umoci(&["insert", "--image", &image]).arg(&file).arg("/noise").success()?;
    fs::remove_file(&file).context(file.display())
}

/// Repository and tag of one platform's image.
fn tagged(family: &str, platform: Platform) -> String {
    format!("{REPOSITORY}:{family}-{}", platform.debian)
}

fn push(registry: &Registry, skopeo: &Skopeo, layout: &Layout, platform: Platform) -> Result<()> {
    let source = format!("oci:{}", layout.image(platform.debian));
    for (family, format) in [("oci", "oci"), ("docker", "v2s2")] {
        let image = registry.image(&tagged(family, platform));
        skopeo.copy(&source, &format!("docker://{image}"), &["--format", format])?;
    }
    Ok(())
}

/// One of the two families of media types, and the prefix of its tags.
#[derive(Clone, Copy, Debug)]
struct Family {
    index: &'static str,
    manifest: &'static str,
    tag: &'static str,
}

/// Puts an index of the six platforms into the registry.
fn put_index(registry: &Registry, skopeo: &Skopeo, tag: &str, family: Family) -> Result<Index> {
    let mut entries = Vec::new();
    for platform in PLATFORMS {
        let image = registry.image(&tagged(family.tag, *platform));
        let manifest = skopeo.manifest(&format!("docker://{image}"))?;
        entries.push(entry(*platform, family.manifest, &digest::of(&manifest)?, manifest.len()));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": family.index, "manifests": entries });
    let bytes = serde_json::to_vec_pretty(&index).context("an index")?;
    registry.put_manifest(REPOSITORY, tag, family.index, &bytes)?;
    let image = registry.image(&format!("{REPOSITORY}:{tag}"));
    let found = skopeo.manifest(&format!("docker://{image}"))?;
    ensure_equal("what docker-registry gives back", &found, &bytes)?;
    Ok(Index { image, media_type: family.index, digest: digest::of(&bytes)?, bytes })
}

/// The descriptor of one platform's manifest.
fn entry(platform: Platform, media_type: &str, digest: &str, size: usize) -> Value {
    let mut entry = json!({
        "mediaType": media_type,
        "digest": digest,
        "size": size,
        "platform": { "os": "linux", "architecture": platform.architecture },
    });
    if let Some(variant) = platform.variant {
        entry["platform"]["variant"] = variant.into();
    }
    entry
}

/// A fresh directory for what umoci unpacks an image into.
pub(super) fn umoci_unpack(image: &str, bundle: &Path) -> Result<PathBuf> {
    umoci(&["unpack", "--image", image]).arg(bundle).success()?;
    Ok(bundle.join("rootfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_carry_the_platform() {
        let arm = PLATFORMS[1];
        let entry = entry(arm, OCI_MANIFEST, "sha256:00", 7);
        assert_eq!(
            entry,
            json!({
                "mediaType": OCI_MANIFEST, "digest": "sha256:00", "size": 7,
                "platform": { "os": "linux", "architecture": "arm", "variant": "v7" },
            })
        );
    }
}
