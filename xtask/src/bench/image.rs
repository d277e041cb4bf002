//! The images that are moved: three shapes of noise, as a layout and in a docker-registry.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::layer;
use crate::failure::{Context, Result, ensure};
use crate::process::{LIMIT, Tool};
use crate::registry::{Registry, http};

/// The tag of every image.
pub(super) const TAG: &str = "noise";

/// How many times 64 MiB 10 GiB are.
const ZEROS: u64 = 160;

/// How an image is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Its repository, too.
    pub(super) name: &'static str,
    /// How it is called in the report.
    pub(super) title: &'static str,
    /// The layers: how many, and how many bytes of noise each has.
    pub(super) layers: &'static [(u32, u64)],
}

/// One large layer.
const ONE: Shape = Shape { name: "bench/one", title: "1 layer of 1 GiB", layers: &[(1, 1 << 30)] };

/// As many programs' images are.
const FIVE: Shape = Shape {
    name: "bench/five",
    title: "5 layers, 365 MB",
    layers: &[(1, 128_000_000), (1, 96_000_000), (1, 72_000_000), (1, 48_000_000), (1, 21_000_000)],
};

/// Many small ones, where all but the bytes counts.
pub(super) const HUNDRED: Shape =
    Shape { name: "bench/hundred", title: "100 layers of 64 KiB", layers: &[(100, 64 << 10)] };

/// All shapes, the smallest first.
pub(super) const SHAPES: &[Shape] = &[HUNDRED, FIVE, ONE];

/// Shapes whose title contains `only`, if that is given.
pub(super) fn chosen(only: Option<&str>) -> Result<Vec<Shape>> {
    let found: Vec<Shape> =
        SHAPES.iter().copied().filter(|shape| only.is_none_or(|only| shape.title.contains(only))).collect();
    ensure(!found.is_empty(), || {
        let titles: Vec<_> = SHAPES.iter().map(|shape| shape.title).collect();
        format!("there is no such image; there are: {}", titles.join("; "))
    })?;
    Ok(found)
}

impl Shape {
    /// The name within a registry.
    pub(super) fn reference(&self) -> String {
        format!("{}:{TAG}", self.name)
    }

    fn lengths(&self) -> impl Iterator<Item = u64> {
        self.layers.iter().flat_map(|(count, length)| (0..*count).map(|_| *length))
    }

    /// Writes the image as a layout.
    pub(super) fn write(&self, layout: &Path) -> Result<()> {
        let lengths: Vec<u64> = self.lengths().collect();
        write_layout(layout, lengths.len(), |at, file| layer::write(file, lengths[at], at as u64 + 1))
    }

    /// The paths of the blobs at a registry, config first, as the manifest has them.
    pub(super) fn blobs(&self, registry: &Registry) -> Result<Vec<String>> {
        let manifest = http::get_manifest(registry.port(), self.name, TAG)?;
        let manifest: Value = serde_json::from_slice(&manifest).context("the manifest")?;
        let layers = manifest["layers"].as_array().context("the manifest has no layers")?;
        ensure(layers.len() == self.lengths().count(), || format!("{} layers", layers.len()))?;
        let digests = std::iter::once(&manifest["config"]).chain(layers).map(|blob| blob["digest"].as_str());
        let paths = digests.map(|digest| Some(format!("/v2/{}/blobs/{}", self.name, digest?)));
        paths.collect::<Option<_>>().context("the manifest lacks a digest")
    }
}

/// Writes an image with a layer of 10 GiB of zeros as a layout.
pub(super) fn write_zeros(layout: &Path) -> Result<()> {
    write_layout(layout, 1, |_, file| layer::write_zeros(file, ZEROS))
}

/// Writes an image as a layout; `write` makes the file of each of its layers, which are tar archives in gzip's form.
pub(super) fn write_layout(
    layout: &Path,
    count: usize,
    write: impl Fn(usize, &Path) -> Result<()>,
) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).context(blobs.display())?;
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for at in 0..count {
        let file = blobs.join("new");
        write(at, &file)?;
        // A tool of its own unpacks it again, and so checks it.
        diff_ids.push(format!("sha256:{}", sum("gzip -dc \"$1\" | sha256sum", &file)?));
        layers.push(keep(&blobs, "application/vnd.oci.image.layer.v1.tar+gzip", &file)?);
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(&blobs, "application/vnd.oci.image.config.v1+json", &config)?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
    let mut root = put(&blobs, media_type, &manifest)?;
    root["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
    let index = json!({ "schemaVersion": 2, "manifests": [root] });
    fs::write(layout.join("index.json"), index.to_string()).context(layout.display())?;
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(layout.join("oci-layout"), version.to_string()).context(layout.display())
}

/// The files of a layout's layers, lowest first.
pub(super) fn layers(layout: &Path, tag: &str) -> Result<Vec<PathBuf>> {
    let read = |path: &Path| -> Result<Value> {
        serde_json::from_slice(&fs::read(path).context(path.display())?).context(path.display())
    };
    let blob = |described: &Value| {
        let digest = described["digest"].as_str()?.strip_prefix("sha256:")?;
        Some(layout.join("blobs/sha256").join(digest))
    };
    let index = read(&layout.join("index.json"))?;
    let mut manifests = index["manifests"].as_array().into_iter().flatten();
    let named = manifests
        .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str() == Some(tag));
    let manifest = named.and_then(blob).context(format_args!("{} has no {tag}", layout.display()))?;
    let manifest = read(&manifest)?;
    let layers = manifest["layers"].as_array().context("the manifest has no layers")?;
    layers.iter().map(blob).collect::<Option<_>>().context("a layer has no digest")
}

/// What a line of shell prints for a file, up to the first space.
fn sum(line: &str, file: &Path) -> Result<String> {
    let said = Tool::new("sh").args(["-ec", line, "sh"]).arg(file).limit(LIMIT).text()?;
    let digest = said.split_whitespace().next().unwrap_or_default().to_owned();
    ensure(digest.len() == 64, || format!("sha256sum says {said:?}"))?;
    Ok(digest)
}

fn put(blobs: &Path, media_type: &str, document: &Value) -> Result<Value> {
    let file = blobs.join("new");
    fs::write(&file, document.to_string()).context(file.display())?;
    keep(blobs, media_type, &file)
}

/// Gives a file the name that a blob has, and describes it.
fn keep(blobs: &Path, media_type: &str, file: &Path) -> Result<Value> {
    let digest = sum("sha256sum < \"$1\"", file)?;
    let described = descriptor(media_type, &digest, file)?;
    fs::rename(file, blobs.join(digest)).context(file.display())?;
    Ok(described)
}

fn descriptor(media_type: &str, digest: &str, file: &Path) -> Result<Value> {
    let size = fs::metadata(file).context(file.display())?.len();
    Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_layout_is_whole() {
        let scratch = Scratch::new("image").unwrap();
        let shape = Shape { name: "a/b", title: "", layers: &[(2, 1000), (1, 10)] };
        shape.write(scratch.path()).unwrap();
        let blobs: Vec<_> = fs::read_dir(scratch.path().join("blobs/sha256")).unwrap().collect();
        assert_eq!(blobs.len(), 3 + 2);
        let index = fs::read_to_string(scratch.path().join("index.json")).unwrap();
        assert!(index.contains("sha256:") && index.contains(TAG), "{index}");
    }

    #[test]
    fn shapes_are_found_by_a_part_of_their_title() {
        assert_eq!(chosen(None).unwrap().len(), 3);
        assert_eq!(chosen(Some("100")).unwrap()[0].name, HUNDRED.name);
        assert!(chosen(Some("1000")).unwrap_err().to_string().contains("5 layers"));
    }
}
