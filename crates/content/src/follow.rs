//! Reading blobs that are still being written.
//!
//! A [`Writer`](crate::store::Writer) may give a reader of the bytes that it has written so far, which waits for those that are still to
//! come. Who wants to use content before it is complete, as an unpacking pull does, is a [`Follower`]. What is followed is verified when
//! it is committed and not before: what was made of it counts only after that.

use std::{fmt::Debug, sync::Arc};

use crate::{descriptor::Descriptor, store::BlobReader};

/// Wants to read content while it arrives.
pub trait Follower: Debug + Send + Sync + 'static {
    /// Content has begun to arrive. Called by whoever brings it, so that it should return soon.
    ///
    /// The reader is that of [`Writer::follow`](crate::store::Writer::follow): nothing that it gives is verified.
    fn begun(&self, descriptor: &Descriptor, reader: Arc<dyn BlobReader>);
}
