//! Image records in memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use wharf_content::{Descriptor, Result, filter::FilterSet};

use crate::record::{Image, ImageStore, absent, present, refuse_nameless, refuse_unexpected};

/// Records that end with the process.
#[derive(Debug, Default)]
pub struct MemoryImages {
    images: Mutex<BTreeMap<String, Image>>,
}

impl MemoryImages {
    /// No records.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Image>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ImageStore for MemoryImages {
    async fn get(&self, name: &str) -> Result<Image> {
        self.lock().get(name).cloned().ok_or_else(|| absent(name))
    }

    async fn list(&self, filters: &FilterSet) -> Result<Vec<Image>> {
        Ok(self.lock().values().filter(|image| filters.matches(*image)).cloned().collect())
    }

    async fn create(&self, mut image: Image) -> Result<Image> {
        image.validate()?;
        let mut images = self.lock();
        if images.contains_key(&image.name) {
            return Err(present(&image.name));
        }
        image.created_at = SystemTime::now();
        image.updated_at = image.created_at;
        images.insert(image.name.clone(), image.clone());
        Ok(image)
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        refuse_nameless(&image.name)?;
        let mut images = self.lock();
        let current = images.get_mut(&image.name).ok_or_else(|| absent(&image.name))?;
        let mut changed = current.clone();
        changed.apply(&image, fieldpaths)?;
        changed.updated_at = SystemTime::now();
        current.clone_from(&changed);
        Ok(changed)
    }

    async fn delete(&self, name: &str, expected: Option<&Descriptor>) -> Result<()> {
        let mut images = self.lock();
        refuse_unexpected(images.get(name).ok_or_else(|| absent(name))?, expected)?;
        images.remove(name);
        Ok(())
    }
}
