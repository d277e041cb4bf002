//! OCI image layouts as files on disk: read for the checks, and edited in the one place where umoci cannot say
//! what an image needs (the variant of a processor in the config).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::digest;
use crate::failure::{Context, Result, ensure};

/// The annotation by which an entry of index.json is found.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A directory with an image layout in it.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Where it is.
    pub(super) path: PathBuf,
}

impl Layout {
    /// The layout at `path`.
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// How skopeo and umoci name an image in it.
    pub(super) fn image(&self, tag: &str) -> String {
        format!("{}:{tag}", self.path.display())
    }

    /// index.json.
    pub(super) fn index(&self) -> Result<Value> {
        read_json(&self.path.join("index.json"))
    }

    /// The names that index.json gives, each with the digest it leads to.
    pub(super) fn names(&self) -> Result<Vec<(String, String)>> {
        let index = self.index()?;
        let entries = index["manifests"].as_array().context("index.json has no manifests")?;
        let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().unwrap_or_default().to_owned();
        entries.iter().map(|entry| Ok((name(entry), text(entry, "digest")?))).collect()
    }

    /// The hexadecimal digests of all blobs that are there, sorted.
    pub(super) fn blobs(&self) -> Result<Vec<String>> {
        let directory = self.path.join("blobs/sha256");
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).context(directory.display())? {
            names.push(entry.context(directory.display())?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The bytes of a blob.
    pub(super) fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        fs::read(&path).context(path.display())
    }

    /// Fails unless this is a valid layout: marked as one, with an index that leads to blobs of the size it says,
    /// and every blob is what its name says.
    pub(super) fn verify(&self) -> Result<()> {
        let marker = read_json(&self.path.join("oci-layout"))?;
        ensure(marker["imageLayoutVersion"] == "1.0.0", || format!("oci-layout is {marker}"))?;
        let index = self.index()?;
        ensure(index["schemaVersion"] == 2, || "index.json has no schemaVersion 2".to_owned())?;
        for entry in index["manifests"].as_array().context("index.json has no manifests")? {
            let path = self.blob_path(&text(entry, "digest")?);
            let length = fs::metadata(&path).context(path.display())?.len();
            ensure(entry["size"] == length, || {
                format!("{} has {length} bytes, not {}", path.display(), entry["size"])
            })?;
        }
        let names = self.blobs()?;
        let files: Vec<_> = names.iter().map(|name| self.path.join("blobs/sha256").join(name)).collect();
        for (name, found) in names.iter().zip(digest::of_files(&files)?) {
            ensure(*name == found, || format!("the blob {name} has the digest {found}"))?;
        }
        Ok(())
    }

    /// Writes the variant of a processor into the config that a tag leads to.
    pub(super) fn set_variant(&self, tag: &str, variant: &str) -> Result<()> {
        let mut index = self.index()?;
        let entries = index["manifests"].as_array_mut().context("index.json has no manifests")?;
        let entry = entries.iter_mut().find(|entry| entry["annotations"][REF_NAME] == tag).context(tag)?;
        let mut manifest: Value = parse(&self.blob(&text(entry, "digest")?)?)?;
        let mut config: Value = parse(&self.blob(&text(&manifest["config"], "digest")?)?)?;
        config["variant"] = variant.into();
        self.write(&config, &mut manifest["config"])?;
        self.write(&manifest, entry)?;
        let path = self.path.join("index.json");
        fs::write(&path, index.to_string()).context(path.display())
    }

    /// Writes a blob, and its digest and size into the descriptor of it.
    fn write(&self, blob: &Value, descriptor: &mut Value) -> Result<()> {
        let bytes = blob.to_string();
        let digest = digest::of(bytes.as_bytes())?;
        let path = self.blob_path(&digest);
        fs::write(&path, &bytes).context(path.display())?;
        descriptor["size"] = bytes.len().into();
        descriptor["digest"] = digest.into();
        Ok(())
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest.replacen(':', "/", 1))
    }
}

/// Reads JSON.
pub(super) fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).context(format_args!("not JSON: {:?}", String::from_utf8_lossy(bytes)))
}

/// A field that is text.
pub(super) fn text(value: &Value, field: &str) -> Result<String> {
    let found = value.get(field).and_then(Value::as_str).map(str::to_owned);
    found.context(format_args!("no text {field:?} in {value}"))
}

fn read_json(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).context(path.display())?;
    parse(&bytes).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    /// A layout with one image of nothing, called `a`.
    fn layout(scratch: &Scratch) -> Layout {
        let layout = Layout::new(scratch.path());
        scratch.dir("blobs/sha256").unwrap();
        let mut config = serde_json::json!({ "mediaType": "application/vnd.oci.image.config.v1+json" });
        layout.write(&serde_json::json!({ "os": "linux", "architecture": "arm" }), &mut config).unwrap();
        let mut entry = serde_json::json!({ "annotations": { REF_NAME: "a" } });
        layout.write(&serde_json::json!({ "schemaVersion": 2, "config": config }), &mut entry).unwrap();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(scratch.path().join("index.json"), index.to_string()).unwrap();
        fs::write(scratch.path().join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
        layout
    }

    #[test]
    fn a_variant_is_written_all_the_way_up() {
        let scratch = Scratch::new("layout-variant").unwrap();
        let layout = layout(&scratch);
        layout.verify().unwrap();
        layout.set_variant("a", "v7").unwrap();
        layout.verify().unwrap();
        let (name, digest) = layout.names().unwrap().remove(0);
        assert_eq!(name, "a");
        let manifest = parse(&layout.blob(&digest).unwrap()).unwrap();
        let config = layout.blob(&text(&manifest["config"], "digest").unwrap()).unwrap();
        assert_eq!(parse(&config).unwrap()["variant"], "v7");
        assert!(layout.set_variant("b", "v7").is_err());
    }

    #[test]
    fn a_broken_layout_is_refused() {
        type Tamper = fn(&Layout);
        let tampered: &[(&str, Tamper)] = &[
            ("marker", |layout| fs::write(layout.path.join("oci-layout"), "{}").unwrap()),
            ("no index", |layout| fs::remove_file(layout.path.join("index.json")).unwrap()),
            ("index", |layout| fs::write(layout.path.join("index.json"), "{\"schemaVersion\":2}").unwrap()),
            ("blob", |layout| {
                let name = layout.blobs().unwrap().remove(0);
                fs::write(layout.path.join("blobs/sha256").join(name), "other").unwrap();
            }),
            ("blob that is gone", |layout| {
                let (_, digest) = layout.names().unwrap().remove(0);
                fs::remove_file(layout.blob_path(&digest)).unwrap();
            }),
        ];
        for (what, tamper) in tampered {
            let scratch = Scratch::new("layout-tampered").unwrap();
            let layout = layout(&scratch);
            tamper(&layout);
            assert!(layout.verify().is_err(), "{what}");
        }
    }
}
