//! Media types that the built-in parts know by name, and what can be told from a media type alone.
//!
//! Nothing here decodes anything or decides how a type is treated: decoders are registered by media type, so that
//! others can add to them. A type that no constant names is not an error. Comparison is exact, as it is in registries:
//! upper case and parameters (`; charset=…`) make another type.
//!
//! Sources: OCI image specification, `media-types.md`; Docker image manifest V2, schema 2; containerd,
//! `core/images/mediatypes.go`.

use wharf_content::{Error, Result};

use crate::reference::excerpt;

/// OCI image index: manifests by platform.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest: a config and layers, or an artifact in that form.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, compressed with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, compressed with zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// OCI layer that may not be pushed to other registries, not compressed. Deprecated by the specification, still found.
pub const OCI_LAYER_NON_DISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// OCI layer that may not be pushed to other registries, compressed with gzip.
pub const OCI_LAYER_NON_DISTRIBUTABLE_GZIP: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// OCI layer that may not be pushed to other registries, compressed with zstd.
pub const OCI_LAYER_NON_DISTRIBUTABLE_ZSTD: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
/// OCI layer, encrypted.
pub const OCI_LAYER_ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+encrypted";
/// OCI layer, compressed with gzip and then encrypted.
pub const OCI_LAYER_GZIP_ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
/// The two bytes `{}`, where a descriptor is required and there is nothing to say.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// OCI artifact manifest: blobs and a subject. Withdrawn before version 1.1 of the specification, still found.
pub const OCI_ARTIFACT_MANIFEST: &str = "application/vnd.oci.artifact.manifest.v1+json";

/// Docker manifest list: manifests by platform.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image manifest, schema 1, signed. A pull converts it.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker image manifest, schema 1, without a signature. A pull converts it.
pub const DOCKER_SCHEMA1_UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer; compressed or not, only its bytes tell.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, compressed with gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, compressed with zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker layer that may not be pushed to other registries; compressed or not, only its bytes tell.
pub const DOCKER_LAYER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Docker layer that may not be pushed to other registries, compressed with gzip.
pub const DOCKER_LAYER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// containerd: the memory and state of a checkpointed container, as CRIU writes them.
pub const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// containerd: memory written ahead of a checkpoint.
pub const CHECKPOINT_PRE_DUMP: &str = "application/vnd.containerd.container.criu.checkpoint.predump.tar";
/// containerd: resources of a checkpointed container.
pub const CHECKPOINT_RESOURCE: &str = "application/vnd.containerd.container.resource.tar";
/// containerd: the writable layer of a checkpointed container.
pub const CHECKPOINT_RW: &str = "application/vnd.containerd.container.rw.tar";
/// containerd: the configuration of a checkpointed container.
pub const CHECKPOINT_CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";
/// containerd: the options with which a checkpoint was made.
pub const CHECKPOINT_OPTIONS: &str = "application/vnd.containerd.container.checkpoint.options.v1+proto";
/// containerd: the name of the runtime of a checkpointed container.
pub const CHECKPOINT_RUNTIME_NAME: &str = "application/vnd.containerd.container.checkpoint.runtime.name";
/// containerd: the options of the runtime of a checkpointed container.
pub const CHECKPOINT_RUNTIME_OPTIONS: &str =
    "application/vnd.containerd.container.checkpoint.runtime.options+proto";

/// Layer that is an EROFS file system image.
pub const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";
/// in-toto statement: an attestation about an image, such as its provenance.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Signed envelope, as a rule of an in-toto statement.
pub const DSSE: &str = "application/vnd.dsse.envelope.v1+json";

const OCI_LAYERS: &str = "application/vnd.oci.image.layer.";
const OCI_LAYERS_NON_DISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.";
const IN_TOTO_PREDICATES: &str = "application/vnd.in-toto.";
const DOCKER_LAYERS_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.";

/// Says whether this is an image manifest, OCI's or Docker's schema 2.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Says whether this is an OCI index or a Docker manifest list.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Says whether this is a Docker manifest of schema 1, which is converted when it is pulled.
pub fn is_schema1(media_type: &str) -> bool {
    matches!(media_type, DOCKER_SCHEMA1 | DOCKER_SCHEMA1_UNSIGNED)
}

/// Says whether this is an image config, OCI's or Docker's.
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Says whether this is labelled as a config for collection: an image config, or one of containerd's for checkpoints.
pub fn is_known_config(media_type: &str) -> bool {
    is_config(media_type) || matches!(media_type, CHECKPOINT | CHECKPOINT_CONFIG)
}

/// Says whether this is a layer of a root file system, whatever its compression and encryption.
pub fn is_layer(media_type: &str) -> bool {
    media_type.starts_with(OCI_LAYERS)
        || matches!(
            base(media_type),
            DOCKER_LAYER
                | DOCKER_LAYER_GZIP
                | DOCKER_LAYER_ZSTD
                | DOCKER_LAYER_FOREIGN
                | DOCKER_LAYER_FOREIGN_GZIP
                | EROFS_LAYER
        )
}

/// Says whether this is a layer whose licence keeps it in the registry that it comes from.
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with(OCI_LAYERS_NON_DISTRIBUTABLE) || media_type.starts_with(DOCKER_LAYERS_FOREIGN)
}

/// Says whether this is an attestation about an image: an in-toto statement, or one in a signed envelope.
pub fn is_attestation(media_type: &str) -> bool {
    matches!(media_type, IN_TOTO | DSSE)
        || media_type.strip_prefix(IN_TOTO_PREDICATES).is_some_and(|rest| rest.ends_with("+dsse"))
}

/// How a layer's tar stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// The media type does not tell; the first bytes do.
    Unknown,
    /// Not at all.
    None,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

/// Tells how a layer of this media type is compressed.
///
/// # Errors
/// `NotImplemented` for a type that is not a tar layer, a suffix that is not known, and an encrypted layer, whose bytes
/// mean nothing until it is decrypted.
pub fn compression(media_type: &str) -> Result<Compression> {
    match media_type {
        DOCKER_LAYER | DOCKER_LAYER_FOREIGN => Ok(Compression::Unknown),
        DOCKER_LAYER_GZIP | DOCKER_LAYER_FOREIGN_GZIP | OCI_LAYER_GZIP | OCI_LAYER_NON_DISTRIBUTABLE_GZIP => {
            Ok(Compression::Gzip)
        }
        DOCKER_LAYER_ZSTD | OCI_LAYER_ZSTD | OCI_LAYER_NON_DISTRIBUTABLE_ZSTD => Ok(Compression::Zstd),
        OCI_LAYER | OCI_LAYER_NON_DISTRIBUTABLE => Ok(Compression::None),
        _ => {
            let shown = excerpt(media_type);
            Err(Error::not_implemented(if !is_layer(media_type) {
                format!("media type {shown} is not that of a layer")
            } else if is_encrypted(media_type) {
                format!("a layer of media type {shown} is encrypted; only its owner can decrypt it")
            } else {
                format!(
                    "layers of media type {shown} are not supported: expected a tar stream, gzip, zstd or plain"
                )
            }))
        }
    }
}

/// Says whether this is a layer that is encrypted.
pub fn is_encrypted(media_type: &str) -> bool {
    is_layer(media_type) && media_type.split('+').skip(1).any(|suffix| suffix == "encrypted")
}

/// The media type without its suffixes.
fn base(media_type: &str) -> &str {
    media_type.split('+').next().unwrap_or(media_type)
}

#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;
    use wharf_content::ErrorKind;

    use super::*;

    #[test]
    fn constants_equal_those_of_oci_spec() {
        for (ours, theirs) in [
            (OCI_INDEX, MediaType::ImageIndex),
            (OCI_MANIFEST, MediaType::ImageManifest),
            (OCI_CONFIG, MediaType::ImageConfig),
            (OCI_LAYER, MediaType::ImageLayer),
            (OCI_LAYER_GZIP, MediaType::ImageLayerGzip),
            (OCI_LAYER_ZSTD, MediaType::ImageLayerZstd),
            (OCI_LAYER_NON_DISTRIBUTABLE, MediaType::ImageLayerNonDistributable),
            (OCI_LAYER_NON_DISTRIBUTABLE_GZIP, MediaType::ImageLayerNonDistributableGzip),
            (OCI_LAYER_NON_DISTRIBUTABLE_ZSTD, MediaType::ImageLayerNonDistributableZstd),
            (OCI_EMPTY, MediaType::EmptyJSON),
            (OCI_ARTIFACT_MANIFEST, MediaType::ArtifactManifest),
        ] {
            assert_eq!(ours, theirs.as_ref());
        }
    }

    /// For every constant: kind, whether it is non-distributable, compression of a layer.
    #[test]
    fn table() {
        use Compression::{Gzip, None as Plain, Unknown, Zstd};
        for (media_type, kind, non_distributable, expected) in [
            (OCI_INDEX, "index", false, None),
            (OCI_MANIFEST, "manifest", false, None),
            (OCI_CONFIG, "config", false, None),
            (OCI_LAYER, "layer", false, Some(Plain)),
            (OCI_LAYER_GZIP, "layer", false, Some(Gzip)),
            (OCI_LAYER_ZSTD, "layer", false, Some(Zstd)),
            (OCI_LAYER_NON_DISTRIBUTABLE, "layer", true, Some(Plain)),
            (OCI_LAYER_NON_DISTRIBUTABLE_GZIP, "layer", true, Some(Gzip)),
            (OCI_LAYER_NON_DISTRIBUTABLE_ZSTD, "layer", true, Some(Zstd)),
            (OCI_LAYER_ENCRYPTED, "encrypted", false, None),
            (OCI_LAYER_GZIP_ENCRYPTED, "encrypted", false, None),
            (OCI_EMPTY, "", false, None),
            (OCI_ARTIFACT_MANIFEST, "", false, None),
            (DOCKER_LIST, "index", false, None),
            (DOCKER_MANIFEST, "manifest", false, None),
            (DOCKER_SCHEMA1, "schema1", false, None),
            (DOCKER_SCHEMA1_UNSIGNED, "schema1", false, None),
            (DOCKER_CONFIG, "config", false, None),
            (DOCKER_LAYER, "layer", false, Some(Unknown)),
            (DOCKER_LAYER_GZIP, "layer", false, Some(Gzip)),
            (DOCKER_LAYER_ZSTD, "layer", false, Some(Zstd)),
            (DOCKER_LAYER_FOREIGN, "layer", true, Some(Unknown)),
            (DOCKER_LAYER_FOREIGN_GZIP, "layer", true, Some(Gzip)),
            (CHECKPOINT, "checkpoint config", false, None),
            (CHECKPOINT_PRE_DUMP, "", false, None),
            (CHECKPOINT_RESOURCE, "", false, None),
            (CHECKPOINT_RW, "", false, None),
            (CHECKPOINT_CONFIG, "checkpoint config", false, None),
            (CHECKPOINT_OPTIONS, "", false, None),
            (CHECKPOINT_RUNTIME_NAME, "", false, None),
            (CHECKPOINT_RUNTIME_OPTIONS, "", false, None),
            (EROFS_LAYER, "layer", false, None),
            (IN_TOTO, "attestation", false, None),
            (DSSE, "attestation", false, None),
            // Types that no constant names.
            ("application/vnd.in-toto.spdx+dsse", "attestation", false, None),
            ("application/vnd.in-toto.spdx+json", "", false, None),
            ("application/vnd.oci.image.layer.v1.tar+lz4", "layer", false, None),
            ("application/vnd.oci.image.layer.v2.other", "layer", false, None),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip+encrypted",
                "encrypted",
                true,
                None,
            ),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", "encrypted", false, None),
            ("application/vnd.docker.image.rootfs.diff.tar.xz", "", false, None),
            ("application/vnd.erofs.layer.v1+zstd", "layer", false, None),
            ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", "", false, None),
            ("Application/vnd.oci.image.manifest.v1+json", "", false, None),
            ("application/vnd.oci.image.layer", "", false, None),
            ("application/x+encrypted", "", false, None),
            ("application/json", "", false, None),
            ("+", "", false, None),
            ("", "", false, None),
        ] {
            let answers = [
                (is_index(media_type), kind == "index"),
                (is_manifest(media_type), kind == "manifest"),
                (is_schema1(media_type), kind == "schema1"),
                (is_config(media_type), kind == "config"),
                (is_known_config(media_type), kind.ends_with("config")),
                (is_layer(media_type), matches!(kind, "layer" | "encrypted")),
                (is_encrypted(media_type), kind == "encrypted"),
                (is_attestation(media_type), kind == "attestation"),
                (is_non_distributable(media_type), non_distributable),
            ];
            assert!(answers.iter().all(|(answer, expected)| answer == expected), "{media_type}: {answers:?}");
            assert_eq!(compression(media_type).ok(), expected, "{media_type}");
        }
    }

    #[test]
    fn compression_errors_say_why() {
        for (media_type, expected) in [
            (OCI_CONFIG, "is not that of a layer"),
            (OCI_LAYER_ENCRYPTED, "is encrypted"),
            ("application/vnd.oci.image.layer.v1.tar+lz4", "not supported"),
            (EROFS_LAYER, "not supported"),
            ("\u{1b}[2J", "\"\\u{1b}[2J\""),
        ] {
            let error = compression(media_type).expect_err(media_type);
            assert_eq!(error.kind(), ErrorKind::NotImplemented, "{media_type}");
            assert!(error.to_string().contains(expected), "{media_type}: {error}");
        }
    }
}
