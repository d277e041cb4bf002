//! Unpacking beside a command that brings images into the store: `pull --unpack`, `import --unpack`.

use std::sync::Arc;

use wharf_archive::{UnpackOptions, Unpacker};
use wharf_content::{Labels, LeasedStore, Result, Store};

use crate::{args::LayerArgs, command::unpack::tell_left_out, context::Context, progress::Progress};

/// What unpacks, and the lease that holds it until the images are recorded.
pub(crate) struct Unpacking {
    leased: Arc<LeasedStore>,
    unpacker: Arc<Unpacker>,
}

impl Unpacking {
    /// Begins, where it is asked for: then `layers` says what a layer may cost.
    pub(crate) async fn begin(
        layers: Option<LayerArgs>,
        context: &Context,
        store: &Arc<dyn Store>,
        progress: &Progress,
    ) -> Result<Option<Self>> {
        let Some(layers) = layers else { return Ok(None) };
        let leased = LeasedStore::hold(Arc::clone(store), Labels::new()).await?;
        let options = UnpackOptions::new()
            .with_catalogue(context.catalogue.clone())
            .with_layers(layers.options())
            .with_sink(progress.sink());
        let unpacker = Unpacker::new(Arc::clone(&leased), options)?;
        Ok(Some(Self { leased, unpacker }))
    }

    pub(crate) fn unpacker(&self) -> Arc<Unpacker> {
        Arc::clone(&self.unpacker)
    }

    /// The images' records are written by now, and their configs keep the layers; or nobody needs them.
    pub(crate) async fn end(unpacking: Option<Self>) -> Result<()> {
        let Some(unpacking) = unpacking else { return Ok(()) };
        for unpacked in unpacking.unpacker.unpacked() {
            tell_left_out(&unpacked.left_out);
        }
        unpacking.leased.release().await
    }
}
