//! Where the media type of a manifest is kept.
//!
//! A registry answers a manifest with the type that it was pushed with. Content that came into the store in other ways has no label
//! that tells it; then a record may, or the document itself (`wharf_images::sniff`).

/// Label on a manifest with the media type that it was pushed with.
pub const LABEL_MEDIA_TYPE: &str = "dev.wharf.media-type";

/// The type of what nobody can say more of.
pub(super) const OCTET_STREAM: &str = "application/octet-stream";
