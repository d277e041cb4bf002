//! Takes an image out of a layout: its names first, then what nothing else there needs.
//!
//! What other images of the layout have in common with it stays, and so does all of it where something beside it is too damaged to tell
//! what it needs. What refers to it without a name of its own, as signatures do, goes with it.

use std::{collections::BTreeSet, sync::Arc};

use wharf_content::{Catalogue, Descriptor, Digest, Error, Provider, Result, blocking};
use wharf_images::{Selection, decode, image};

use super::{
    directory::{Hold, Layout},
    entries::{choose, plain},
    location::{Location, Title},
    oci::{absent, document},
};

/// Removes what `location` means: by digest the manifest with all of its names, else one name.
///
/// # Errors
/// `NotFound` where there is no such thing; `InvalidArgument` where several are meant; `Unavailable` while somebody puts something there; as
/// [`Layout::entries`].
///
/// # Cancellation
/// The names are gone or not; blobs that nothing needs any more may stay.
pub(super) async fn remove(layout: &Layout, location: &Location, catalogue: &Catalogue) -> Result<()> {
    let holding = layout.clone();
    // Whoever puts something there may have found blobs that are removed here.
    let alone = blocking::run(move || holding.hold(Hold::Alone)).await?;
    let listed = layout
        .entries(catalogue)
        .await?
        .ok_or_else(|| Error::not_found(format!("{} is no OCI image layout", location.path.display())))?;
    choose(&listed, location)?;
    let (mut going, staying): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|entry| is_meant(entry, location));
    if let (true, Some(digest)) = (going.is_empty(), &location.digest) {
        going.extend(document(layout, digest).await?);
    }
    if going.is_empty() {
        return Err(absent(location));
    }
    let Removal { mut blobs, orphans } = Removal::plan(layout, &going, staying, catalogue).await;
    blobs.extend(location.digest.clone());
    let (layout, location) = (layout.clone(), location.clone());
    blocking::run(move || {
        layout.change(|index| {
            index.drop_where(|entry| {
                is_meant(entry, &location)
                    || (orphans.contains(&entry.digest) && Title::of_entry(entry).is_none())
            });
            Ok(())
        })?;
        for blob in &blobs {
            layout.remove_blob(blob)?;
        }
        drop(alone);
        Ok(())
    })
    .await
}

fn is_meant(entry: &Descriptor, location: &Location) -> bool {
    match (&location.digest, &location.title) {
        (Some(digest), _) => entry.digest == *digest,
        (None, title) => title.as_ref().is_some_and(|title| title.means(entry)),
    }
}

/// What goes beside the names.
#[derive(Debug, Default)]
struct Removal {
    blobs: BTreeSet<Digest>,
    /// What refers to what goes, and has no name.
    orphans: BTreeSet<Digest>,
}

impl Removal {
    async fn plan(
        layout: &Layout,
        going: &[Descriptor],
        staying: Vec<Descriptor>,
        catalogue: &Catalogue,
    ) -> Self {
        let mut blobs = BTreeSet::new();
        for entry in going {
            blobs.extend(
                parts(layout, entry, catalogue).await.unwrap_or_else(|| [entry.digest.clone()].into()),
            );
        }
        let mut needed = BTreeSet::new();
        let mut followers = Vec::new();
        for entry in staying {
            let is_named = Title::of_entry(&entry).is_some();
            match if is_named { None } else { subject(layout, &entry, catalogue).await } {
                Some(subject) => followers.push((entry, subject)),
                None => match parts(layout, &entry, catalogue).await {
                    Some(parts) => needed.extend(parts),
                    None => return Self::default(),
                },
            }
        }
        let mut orphans = BTreeSet::new();
        loop {
            let is_orphan =
                |(_, subject): &(Descriptor, Digest)| blobs.contains(subject) && !needed.contains(subject);
            let (found, rest): (Vec<_>, Vec<_>) = followers.into_iter().partition(is_orphan);
            followers = rest;
            if found.is_empty() {
                break;
            }
            for (entry, _) in found {
                blobs.extend(parts(layout, &entry, catalogue).await.unwrap_or_default());
                blobs.insert(entry.digest.clone());
                orphans.insert(entry.digest);
            }
        }
        for (entry, _) in followers {
            match parts(layout, &entry, catalogue).await {
                Some(parts) => needed.extend(parts),
                None => return Self::default(),
            }
        }
        blobs.retain(|digest| !needed.contains(digest));
        Self { blobs, orphans }
    }
}

/// All that an entry is made of, itself too; `None` where that cannot be told.
async fn parts(layout: &Layout, entry: &Descriptor, catalogue: &Catalogue) -> Option<BTreeSet<Digest>> {
    let provider: Arc<dyn Provider> = Arc::new(layout.clone());
    match image::check(provider, &plain(entry), &Selection::all(), catalogue).await {
        Ok(check) => {
            for part in &check.missing {
                // A part that is there in another size is damaged, and may need anything.
                if !layout.size(&part.digest).await.is_ok_and(|size| size.is_none()) {
                    return None;
                }
            }
            Some(check.required.into_iter().map(|part| part.digest).collect())
        }
        Err(error) => {
            let digest = &entry.digest;
            tracing::warn!(%digest, error = %error.report(), "what an image of a layout needs cannot be told");
            None
        }
    }
}

/// What an entry refers to.
async fn subject(layout: &Layout, entry: &Descriptor, catalogue: &Catalogue) -> Option<Digest> {
    Some(decode(layout, &plain(entry), catalogue).await.ok()??.subject?.digest)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, TryLockError},
        io::Write,
        path::Path,
    };

    use serde_json::json;
    use wharf_content::ErrorKind;
    use wharf_images::{
        media_types as types,
        transport::{Delivery, Place, Pusher, Resolver, Shipment},
    };

    use super::{super::location::Words, *};
    use crate::transport::LayoutResolver;

    fn blob(layout: &Layout, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        let mut pending = layout.begin_blob(&descriptor.digest).expect("begins");
        pending.file().write_all(bytes).expect("writes");
        pending.publish().expect("publishes");
        descriptor
    }

    /// A manifest of an empty config and layers of these texts.
    fn manifest(layout: &Layout, layers: &[&str], subject: Option<&Descriptor>) -> Descriptor {
        let config = blob(layout, types::OCI_EMPTY, b"{}");
        let layers: Vec<_> =
            layers.iter().map(|text| blob(layout, types::OCI_LAYER, text.as_bytes())).collect();
        let mut text = json!({
            "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": layers,
        });
        if let Some(subject) = subject {
            text["subject"] = json!(subject);
        }
        blob(layout, types::OCI_MANIFEST, text.to_string().as_bytes())
    }

    fn list(layout: &Layout, target: &Descriptor, tag: Option<&str>) {
        let typed = tag.map(|tag| Location::parse(&format!("x:{tag}"), Words::Tags).expect("a tag"));
        let title = typed.and_then(|location| location.title);
        layout
            .change(|index| {
                index.put(target, title.as_ref());
                Ok(())
            })
            .expect("lists");
    }

    /// The digests of all blobs that are there.
    fn there(root: &Path) -> BTreeSet<String> {
        let names = fs::read_dir(root.join("blobs/sha256")).expect("lists");
        names.map(|name| format!("sha256:{}", name.expect("one").file_name().to_string_lossy())).collect()
    }

    async fn delete(root: &Path, what: &str) -> Result<()> {
        LayoutResolver::new().delete(&format!("{}{what}", root.display())).await
    }

    async fn listed(layout: &Layout) -> Vec<Digest> {
        let entries = layout.entries(Catalogue::linked()).await.expect("reads").expect("a layout");
        entries.into_iter().map(|entry| entry.digest).collect()
    }

    #[tokio::test]
    async fn what_others_need_stays_and_what_nobody_needs_goes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("layout");
        let layout = Layout::new(&root);
        let one = manifest(&layout, &["shared", "one"], None);
        let two = manifest(&layout, &["shared", "two"], None);
        for (target, tag) in [(&one, "1"), (&one, "again"), (&two, "2")] {
            list(&layout, target, Some(tag));
        }
        // Nothing in index.json leads to it, so that it is nobody's business.
        let stray = blob(&layout, types::OCI_LAYER, b"stray");
        let all = there(&root);
        delete(&root, ":1").await.expect("one name");
        assert_eq!(there(&root), all, "it has another name");
        delete(&root, ":again").await.expect("the last name");
        let gone: Vec<_> = all.difference(&there(&root)).cloned().collect();
        let mut expected = [Digest::sha256(b"one").to_string(), one.digest.to_string()];
        expected.sort();
        assert_eq!(gone, expected);
        assert_eq!(listed(&layout).await, std::slice::from_ref(&two.digest));
        for absent in [":1", ":again", &format!("@{}", one.digest), &format!("@{}", stray.digest)] {
            let error = delete(&root, absent).await.expect_err("is not there");
            assert_eq!(error.kind(), ErrorKind::NotFound, "{absent}");
        }
        delete(&root, ":2").await.expect("the last image");
        assert_eq!(there(&root), [stray.digest.to_string()].into());
        assert!(listed(&layout).await.is_empty());
    }

    #[tokio::test]
    async fn what_refers_to_an_image_goes_with_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("layout");
        let layout = Layout::new(&root);
        let (one, two) = (manifest(&layout, &["one"], None), manifest(&layout, &["two"], None));
        let signature = manifest(&layout, &["signature of one"], Some(&one));
        let about = manifest(&layout, &["about the signature"], Some(&signature));
        let named = manifest(&layout, &["bill of one"], Some(&one));
        let other = manifest(&layout, &["signature of two"], Some(&two));
        list(&layout, &one, Some("1"));
        list(&layout, &two, Some("2"));
        for referrer in [&about, &signature, &other] {
            list(&layout, referrer, None);
        }
        list(&layout, &named, Some("bill"));
        delete(&root, ":1").await.expect("deletes");
        assert_eq!(listed(&layout).await, [&two, &other, &named].map(|left| left.digest.clone()));
        let left = there(&root);
        for gone in ["one", "signature of one", "about the signature"] {
            assert!(!left.contains(Digest::sha256(gone.as_bytes()).as_str()), "{gone}");
        }
        for stays in ["two", "signature of two", "bill of one", "{}"] {
            assert!(left.contains(Digest::sha256(stays.as_bytes()).as_str()), "{stays}");
        }
    }

    #[tokio::test]
    async fn a_manifest_goes_by_digest_and_an_index_that_names_it_stays() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("layout");
        let layout = Layout::new(&root);
        let (one, two) = (manifest(&layout, &["one"], None), manifest(&layout, &["two"], None));
        let text = json!({ "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": [one, two] });
        let index = blob(&layout, types::OCI_INDEX, text.to_string().as_bytes());
        list(&layout, &index, Some("both"));
        delete(&root, &format!("@{}", one.digest)).await.expect("a child");
        assert!(!there(&root).contains(one.digest.as_str()));
        assert_eq!(listed(&layout).await, [index.digest]);
        delete(&root, ":both").await.expect("the index");
        // What only the lost manifest named is named by nothing any more, and nobody knows whose it is.
        assert_eq!(there(&root), [Digest::sha256(b"one").to_string()].into());
    }

    #[tokio::test]
    async fn where_a_neighbour_is_damaged_only_names_go() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("layout");
        let layout = Layout::new(&root);
        let (one, two) = (manifest(&layout, &["one"], None), manifest(&layout, &["two"], None));
        list(&layout, &one, Some("1"));
        list(&layout, &two, Some("2"));
        fs::write(root.join("blobs/sha256").join(two.digest.hex()), "damaged").expect("writes");
        let all = there(&root);
        delete(&root, ":1").await.expect("deletes");
        assert_eq!((listed(&layout).await, there(&root)), (vec![two.digest], all));
        // Damage of its own is no reason to stay.
        delete(&root, ":2").await.expect("deletes");
        assert!(listed(&layout).await.is_empty());
    }

    #[tokio::test]
    async fn nothing_is_removed_while_somebody_pushes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("layout");
        let resolver = LayoutResolver::new();
        let pusher: Arc<dyn Pusher> =
            resolver.pusher(&format!("{}:1", root.display())).await.expect("a pusher");
        let bytes = bytes::Bytes::from_static(b"a layer");
        let layer = Descriptor::of(types::OCI_LAYER, &bytes);
        let shipment = Shipment::new(layer, Place::Blob, Arc::new(bytes));
        assert_eq!(pusher.push(&shipment).await.expect("pushes"), Delivery::Sent);
        let blobs = fs::File::open(root.join("blobs")).expect("opens");
        assert!(matches!(blobs.try_lock(), Err(TryLockError::WouldBlock)), "who removes waits");
        blobs.try_lock_shared().expect("who pushes does not");
        blobs.unlock().expect("lets go");
        pusher.finish().await.expect("finishes");
        blobs.try_lock().expect("it is over");
    }
}
