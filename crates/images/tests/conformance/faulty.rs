//! Records in memory with one fault, for each promise at least one that breaks it and no other.

use std::{collections::HashMap, sync::Mutex, time::SystemTime};

use async_trait::async_trait;
use tokio::task::yield_now;
use wharf_content::{Descriptor, Error, ErrorKind, Labels, Result, filter::FilterSet, labels};
use wharf_images::{Image, ImageStore, MemoryImages};

macro_rules! faults {
    ($($fault:ident => $promise:literal,)*) => {
        /// What is wrong with a store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault { $($fault,)* }

        /// Every fault with the promise that it breaks.
        pub(crate) const FAULTS: &[(Fault, &str)] = &[$((Fault::$fault, $promise),)*];
    };
}

faults! {
    ForgetsPlatforms => "create-and-get",
    CreateOverwrites => "create-once",
    UpdateCreates => "absent-names",
    DeletesAnything => "absent-names",
    FoldsCase => "names-exact",
    StopsAtNul => "names-exact",
    NamelessImages => "nameless-refused",
    NamelessAreAbsent => "nameless-refused",
    AnyMediaType => "targets-checked",
    AnySize => "targets-checked",
    CutsLongLabels => "labels-bounded",
    BelievesTimes => "creates-dated",
    ReplaceMerges => "update-replaces",
    LabelsTouchTargets => "update-labels",
    MergesLabels => "update-labels",
    StoresEmptyLabels => "labels-by-fieldpath",
    TargetsKeepAnnotations => "update-target",
    AnnotationsTouchTargets => "update-annotations",
    EmptiesAnnotations => "annotations-by-fieldpath",
    OneFieldOnly => "fieldpaths-together",
    IgnoresOtherFields => "other-fields-refused",
    UpdatesInPart => "other-fields-refused",
    UpdatesUndated => "updates-dated",
    UpdatesRecreate => "updates-dated",
    LabelsSurvive => "delete",
    ExpectsNothing => "delete-expected",
    ExpectsEverything => "delete-expected",
    ListsBackwards => "list-sorted",
    IgnoresFilters => "list-filters",
    StaleView => "view-current",
    RacyCreates => "creates-race",
    RacyUpdates => "updates-race",
    CancelledCreateHalf => "cancelled-create",
    CancelledUpdateHalf => "cancelled-update",
    CancelledDeleteHalf => "cancelled-delete",
}

/// The store.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: MemoryImages,
    fault: Fault,
    graves: Mutex<HashMap<String, Labels>>,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { inner: MemoryImages::new(), fault, graves: Mutex::default() }
    }

    /// A name as this store understands it.
    fn name(&self, name: &str) -> String {
        match self.fault {
            Fault::FoldsCase if name.starts_with(['b', 'B']) => name.to_lowercase(),
            Fault::StopsAtNul => name.split('\0').next().unwrap_or_default().to_owned(),
            Fault::NamelessImages if name.is_empty() => "nameless".into(),
            _ => name.to_owned(),
        }
    }

    /// A record as this store takes it.
    fn given(&self, mut image: Image) -> Image {
        image.name = self.name(&image.name);
        let target = &mut image.target;
        match self.fault {
            Fault::ForgetsPlatforms => target.platform = None,
            Fault::AnyMediaType if target.media_type.is_empty() => target.media_type = "any".into(),
            Fault::AnySize if target.size == 0 => target.size = 1,
            Fault::CutsLongLabels => {
                for (key, value) in &mut image.labels {
                    value.truncate(labels::MAX_LABEL_LEN - key.len());
                }
            }
            _ => {}
        }
        image
    }

    /// A record as this store gives it.
    fn shown(&self, mut image: Image) -> Image {
        match self.fault {
            Fault::BelievesTimes => image.created_at = SystemTime::UNIX_EPOCH,
            Fault::UpdatesUndated => image.updated_at = image.created_at,
            Fault::UpdatesRecreate => image.created_at = image.updated_at,
            _ => {}
        }
        image
    }

    /// An update of a record that is there, with what this store makes of its fields.
    async fn change(&self, image: Image, fieldpaths: &[&str], before: Image) -> Result<Image> {
        let mut image = image;
        let mut paths = fieldpaths.to_vec();
        let has_unknown = |paths: &[&str]| {
            paths.iter().any(|path| {
                let (field, key) = path.split_once('.').unwrap_or((path, "x"));
                !matches!(field, "labels" | "annotations" | "target")
                    || key.is_empty()
                    || *path == "target.digest"
            })
        };
        match self.fault {
            Fault::ReplaceMerges if paths.is_empty() && image.labels.is_empty() => {
                image.labels = before.labels;
            }
            Fault::LabelsTouchTargets if paths == ["labels"] => paths.push("target"),
            Fault::MergesLabels if paths == ["labels"] => {
                image.labels = before.labels.into_iter().chain(image.labels).collect();
            }
            Fault::StoresEmptyLabels if paths == ["labels.a"] && image.labels.contains_key("a") => {
                image.labels = before.labels.into_iter().chain(image.labels).collect();
                paths = vec!["labels"];
            }
            Fault::TargetsKeepAnnotations if paths == ["target"] => {
                image.target.annotations = before.target.annotations;
            }
            Fault::AnnotationsTouchTargets if paths == ["annotations"] => paths = vec!["target"],
            Fault::EmptiesAnnotations => {
                for key in paths.iter().filter_map(|path| path.strip_prefix("annotations.")) {
                    image.target.annotations.entry(key.to_owned()).or_default();
                }
            }
            Fault::OneFieldOnly if !has_unknown(&paths) => {
                paths.sort_by_key(|path| path.starts_with("annotations."));
                paths.retain(|path| path.split('.').next() == fieldpaths[0].split('.').next());
            }
            Fault::IgnoresOtherFields if has_unknown(&paths) => return Ok(self.shown(before)),
            Fault::UpdatesInPart if has_unknown(&paths) && paths[0] == "target" => {
                self.inner.update(image.clone(), &["target"]).await?;
            }
            Fault::RacyUpdates if image.name == "raced" => {
                // Between what was read and what is written others change the labels, too.
                yield_now().await;
                image.labels = before.labels.into_iter().chain(image.labels).collect();
                paths = vec!["labels"];
            }
            Fault::CancelledUpdateHalf if image.name.starts_with("image-") => {
                self.inner.update(image.clone(), &["target"]).await?;
                yield_now().await;
            }
            _ => {}
        }
        self.inner.update(image, &paths).await
    }
}

#[async_trait]
impl ImageStore for Faulty {
    async fn get(&self, name: &str) -> Result<Image> {
        self.inner.get(&self.name(name)).await.map(|image| self.shown(image))
    }

    async fn list(&self, filters: &FilterSet) -> Result<Vec<Image>> {
        let all = FilterSet::all();
        let filters = if self.fault == Fault::IgnoresFilters { &all } else { filters };
        let mut images: Vec<Image> =
            self.inner.list(filters).await?.into_iter().map(|image| self.shown(image)).collect();
        if self.fault == Fault::ListsBackwards && images.len() > 10 {
            images.reverse();
        }
        Ok(images)
    }

    async fn create(&self, image: Image) -> Result<Image> {
        let mut image = self.given(image);
        match self.fault {
            Fault::RacyCreates if self.inner.get(&image.name).await.is_err() => {
                yield_now().await;
                drop(self.inner.delete(&image.name, None).await);
            }
            Fault::LabelsSurvive => {
                let grave = self.graves.lock().expect("no panic").remove(&image.name);
                image.labels.extend(grave.unwrap_or_default());
            }
            Fault::CancelledCreateHalf if image.name.starts_with("image-") => {
                let bare = Image::new(&image.name, image.target.clone());
                self.inner.create(bare).await?;
                yield_now().await;
                return self.inner.update(image, &["labels"]).await;
            }
            _ => {}
        }
        let made = self.inner.create(image.clone()).await;
        if self.fault == Fault::CreateOverwrites && made.is_err() {
            drop(self.inner.update(image, &[]).await);
        }
        made.map(|image| self.shown(image))
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        if self.fault == Fault::NamelessAreAbsent && image.name.is_empty() {
            return Err(Error::not_found("there is no image of no name"));
        }
        let image = self.given(image);
        let before = match self.inner.get(&image.name).await {
            Err(error) if error.kind() == ErrorKind::NotFound && self.fault == Fault::UpdateCreates => {
                return self.inner.create(image).await;
            }
            // What is wrong with the name is for the inner store to tell.
            Err(_) => return self.inner.update(image, fieldpaths).await,
            Ok(before) => before,
        };
        self.change(image, fieldpaths, before).await.map(|image| self.shown(image))
    }

    async fn delete(&self, name: &str, expected: Option<&Descriptor>) -> Result<()> {
        let name = self.name(name);
        let found = self.inner.get(&name).await;
        match (self.fault, found) {
            (Fault::DeletesAnything, Err(error))
                if error.kind() == ErrorKind::NotFound && name == "absent" =>
            {
                return Ok(());
            }
            (Fault::ExpectsNothing, Ok(_)) => return self.inner.delete(&name, None).await,
            (Fault::ExpectsEverything, Ok(image))
                if expected.is_some_and(|expected| *expected != image.target) =>
            {
                return Err(Error::not_found("the target has changed"));
            }
            (Fault::LabelsSurvive, Ok(image)) => {
                self.graves.lock().expect("no panic").insert(name.clone(), image.labels);
            }
            (Fault::CancelledDeleteHalf, Ok(image)) if name.starts_with("image-") => {
                self.inner.update(Image::new(&name, image.target), &["labels"]).await?;
                yield_now().await;
            }
            _ => {}
        }
        self.inner.delete(&name, expected).await
    }

    async fn stale_view(&self) -> Result<Option<String>> {
        Ok((self.fault == Fault::StaleView).then(|| "it is as it was before".into()))
    }
}
