//! containerd's checkpoints of containers: an index whose entries are not manifests but the parts of the checkpoint themselves
//! (containerd: `client/container_checkpoint_opts.go`). All of them are leaves, and their types tell what they are.

use wharf_content::{Descriptor, Result};

use crate::{
    decode::{Decoded, Kind, ManifestDecoder},
    media_types as types,
};

crate::register_manifest_decoder! {
    name: "checkpoint-leaf",
    keys: [
        types::CHECKPOINT,
        types::CHECKPOINT_PRE_DUMP,
        types::CHECKPOINT_RESOURCE,
        types::CHECKPOINT_RW,
        types::CHECKPOINT_CONFIG,
        types::CHECKPOINT_OPTIONS,
        types::CHECKPOINT_RUNTIME_NAME,
        types::CHECKPOINT_RUNTIME_OPTIONS,
    ],
    make: Checkpoint
}

/// What each part holds.
const PARTS: [(&str, &str); 8] = [
    (types::CHECKPOINT, "memory and state of the processes"),
    (types::CHECKPOINT_PRE_DUMP, "memory that was written ahead"),
    (types::CHECKPOINT_RESOURCE, "resources of the container"),
    (types::CHECKPOINT_RW, "the writable layer"),
    (types::CHECKPOINT_CONFIG, "the container's specification"),
    (types::CHECKPOINT_OPTIONS, "how the checkpoint was made"),
    (types::CHECKPOINT_RUNTIME_NAME, "the name of the runtime"),
    (types::CHECKPOINT_RUNTIME_OPTIONS, "the options of the runtime"),
];

#[derive(Debug)]
struct Checkpoint;

impl ManifestDecoder for Checkpoint {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn decode(&self, descriptor: &Descriptor, _: &[u8]) -> Result<Decoded> {
        let part = PARTS.iter().find(|(media_type, _)| *media_type == descriptor.media_type);
        Ok(match part {
            Some((_, what)) => Decoded::default().with_description(format!("checkpoint: {what}")),
            None => Decoded::default(),
        })
    }
}
