//! What a store is held to after whatever happened to it: verified, and nothing in it that no image needs. What an
//! image needs is found by following its documents here, not by asking wharf.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::layout::{self, Layout};
use super::store::Store;
use crate::failure::{Context, Result, ensure, ensure_equal};

/// What a collection removed, or would remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    /// The digest of a blob, with the algorithm; of other things the kind and the name.
    pub(super) name: String,
    /// The size in bytes; 0 of what has none.
    pub(super) size: u64,
}

impl Store<'_> {
    /// Collects with these options, and gives what the command prints.
    pub(super) fn gc(&self, options: &[&str]) -> Result<Vec<Removed>> {
        removed(&self.wharf(&[&["gc"], options].concat()).text()?)
    }

    /// Fails unless `wharf verify` finds nothing wrong.
    pub(super) fn verify(&self) -> Result<()> {
        self.wharf(&["verify"]).success().map(drop)
    }

    /// Fails if a lease is left.
    pub(super) fn no_lease(&self) -> Result<()> {
        ensure_equal("`wharf lease ls`", &self.wharf(&["lease", "ls", "-q"]).text()?.as_str(), &"")
    }

    /// Fails unless the blobs are exactly those that the images of index.json need, no ingest is left, and no
    /// temporary file.
    pub(super) fn only_needed(&self) -> Result<()> {
        let found: BTreeSet<String> = self.layout().blobs()?.into_iter().collect();
        let needed = needed(self.layout())?;
        let orphans: Vec<_> = found.difference(&needed).collect();
        ensure(orphans.is_empty(), || format!("no image needs {orphans:?}"))?;
        let missing: Vec<_> = needed.difference(&found).collect();
        ensure(missing.is_empty(), || format!("an image needs {missing:?}, which is gone"))?;
        let strays = strays(&self.layout().path)?;
        ensure(strays.is_empty(), || format!("left in the store: {strays:?}"))
    }
}

/// Takes the lines apart: a digest, a blank, a size; or the kind and the name of something else.
fn removed(text: &str) -> Result<Vec<Removed>> {
    text.lines().map(|text| line(text).context(format_args!("gc prints {text:?}, not DIGEST SIZE"))).collect()
}

fn line(text: &str) -> Option<Removed> {
    let (name, size) = text.rsplit_once(' ').unwrap_or((text, "0"));
    let (kind, rest) = name.split_once([':', '/'])?;
    let is_fine = match kind {
        "sha256" | "sha384" | "sha512" => {
            rest.len() >= 64 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        _ => kind.bytes().all(|byte| byte.is_ascii_lowercase()) && !rest.is_empty(),
    };
    is_fine.then_some(Removed { name: name.to_owned(), size: size.parse().ok()? })
}

/// The hexadecimal digests of all that the names of index.json lead to. An index need not have all its platforms.
fn needed(layout: &Layout) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut left: Vec<String> = layout.names()?.into_iter().map(|(_, digest)| digest).collect();
    for digest in &left {
        found.insert(hex(digest)?);
    }
    while let Some(digest) = left.pop() {
        let document: Value = layout::parse(&layout.blob(&digest)?)?;
        for manifest in list(&document, "manifests") {
            let digest = layout::text(manifest, "digest")?;
            if layout.blobs()?.contains(&hex(&digest)?) && found.insert(hex(&digest)?) {
                left.push(digest);
            }
        }
        let config = document.get("config");
        for blob in config.into_iter().chain(list(&document, "layers")) {
            found.insert(hex(&layout::text(blob, "digest")?)?);
        }
    }
    Ok(found)
}

fn list<'a>(document: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    document[field].as_array().into_iter().flatten()
}

fn hex(digest: &str) -> Result<String> {
    let hex = digest.strip_prefix("sha256:");
    Ok(hex.context(format_args!("{digest} is no sha256 digest"))?.to_owned())
}

/// Ingests, temporary files and layers in the making below the root, by their paths. What is in an unpacked layer is the
/// image's.
fn strays(root: &Path) -> Result<Vec<String>> {
    let mut strays = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).context(directory.display())? {
            let path = entry.context(directory.display())?.path();
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if name.starts_with("ingest/")
                || path.extension().is_some_and(|end| end == "tmp")
                || name.ends_with("-journal")
                || name.starts_with("layers/.")
            {
                strays.push(name);
            } else if path.is_dir() && !name.starts_with("layers/") {
                left.push(path);
            }
        }
    }
    strays.sort();
    Ok(strays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::digest;
    use crate::scratch::Scratch;

    fn put(layout: &Layout, bytes: &str) -> String {
        let digest = digest::of(bytes.as_bytes()).unwrap();
        fs::write(layout.path.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        digest
    }

    #[test]
    fn what_gc_prints_is_taken_apart_or_refused() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let good = removed(&format!("{digest} 7\n{digest}\nleases/a\n")).unwrap();
        assert_eq!(good[0], Removed { name: digest.clone(), size: 7 });
        assert_eq!(good[1], Removed { name: digest.clone(), size: 0 });
        assert_eq!(good[2], Removed { name: "leases/a".to_owned(), size: 0 });
        assert_eq!(removed("").unwrap(), []);
        for broken in [
            format!("{digest} x\n"),
            format!("{digest}  7\n"),
            format!("{digest} -7\n"),
            "sha256:00 7\n".to_owned(),
        ] {
            assert!(removed(&broken).is_err(), "{broken:?}");
        }
        for broken in ["removed 3 blobs\n", "\n", "7\n", "leases/\n"] {
            assert!(removed(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn what_an_image_needs_is_followed_through_its_documents() {
        let scratch = Scratch::new("needed").unwrap();
        scratch.dir("blobs/sha256").unwrap();
        let layout = Layout::new(scratch.path());
        let (config, layer, orphan) = (put(&layout, "{}"), put(&layout, "layer"), put(&layout, "orphan"));
        let manifest = put(
            &layout,
            &format!(r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{layer}"}}]}}"#),
        );
        let absent = digest::of(b"another platform").unwrap();
        let index =
            put(&layout, &format!(r#"{{"manifests":[{{"digest":"{manifest}"}},{{"digest":"{absent}"}}]}}"#));
        fs::write(scratch.path().join("index.json"), format!(r#"{{"manifests":[{{"digest":"{index}"}}]}}"#))
            .unwrap();
        let found = needed(&layout).unwrap();
        let expected = [config, layer, manifest, index].map(|digest| digest[7..].to_owned());
        assert_eq!(found, BTreeSet::from(expected));
        assert!(!found.contains(&orphan[7..]));
    }

    #[test]
    fn strays_are_seen() {
        let scratch = Scratch::new("strays").unwrap();
        scratch.dir("ingest").unwrap();
        scratch.dir("blobs/sha256").unwrap();
        fs::write(scratch.path().join("index.json"), "").unwrap();
        assert_eq!(strays(scratch.path()).unwrap(), [""; 0]);
        scratch.dir("ingest/ab").unwrap();
        fs::write(scratch.path().join(".index.json.7-0.tmp"), "").unwrap();
        scratch.dir("layers/.new-7-0/fs").unwrap();
        scratch.dir("layers/sha256-00/fs/ingest").unwrap();
        fs::write(scratch.path().join("layers/sha256-00/fs/file.tmp"), "").unwrap();
        assert_eq!(strays(scratch.path()).unwrap(), [".index.json.7-0.tmp", "ingest/ab", "layers/.new-7-0"]);
    }
}
