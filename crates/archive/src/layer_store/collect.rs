//! Unpacked layers in a collection: what is there, what it stands on, and how it goes.

use std::time::SystemTime;

use async_trait::async_trait;
use wharf_content::{
    Resource, Result, blocking,
    gc::{Source, Vertex},
};

use super::{LayerStore, NAME, staging};

#[async_trait]
impl Source for LayerStore {
    async fn vertices(&self, _: SystemTime) -> Result<Vec<Vertex>> {
        let layers = self.clone();
        blocking::run(move || {
            if layers.directory.exists() {
                staging::sweep(&layers.directory)?;
            }
            let mut vertices = Vec::new();
            for chain_id in layers.list()? {
                // One that cannot be read is no use to anybody, and goes unless somebody needs it.
                let parent = layers.record(&chain_id).ok().flatten().and_then(|record| record.parent);
                let below = parent.iter().map(Self::resource);
                vertices.push(Vertex::new(Self::resource(&chain_id), false).with_edges(below));
            }
            Ok(vertices)
        })
        .await
    }

    async fn remove(&self, resource: &Resource) -> Result<()> {
        let Resource::Snapshot(id) = resource else { return Ok(()) };
        let chain_id = id.strip_prefix(NAME).and_then(|id| id.strip_prefix('/')?.parse().ok());
        let Some(chain_id) = chain_id else { return Ok(()) };
        let layers = self.clone();
        blocking::run(move || staging::discard(&layers.directory, &layers.place(&chain_id))).await
    }
}
