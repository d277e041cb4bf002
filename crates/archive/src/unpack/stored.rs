//! What is to blame where a layer cannot be used: the store, in which its blob is damaged, or who made the image.

use std::io::{self, Read};

use wharf_content::{Descriptor, Error, ErrorKind, Hasher};
use wharf_images::layer::BlobStream;

use super::ahead::Job;

/// How much of a blob is in memory while it is hashed.
const BUFFER_LEN: usize = 256 * 1024;

/// The blob of a layer that is being read.
#[derive(Debug)]
pub(crate) struct Stored {
    layer: Descriptor,
    /// `None` where somebody else verifies it, or it would have to be fetched once more.
    stream: Option<BlobStream>,
}

impl Stored {
    /// The blob that a job reads.
    pub(crate) fn of(job: &Job) -> Self {
        let is_judged = !job.is_verified && job.stream.is_of_file();
        Self { layer: job.layer.clone(), stream: is_judged.then(|| job.stream.from_start()) }
    }

    /// What the error of reading or applying the layer becomes: `DataLoss` where the blob does not have its digest. Blocks while it is hashed.
    pub(crate) fn explain(self, error: Error) -> Error {
        let Some(mut stream) = self.stream.filter(|_| may_be_of_content(&error)) else { return error };
        let mut hasher = Hasher::new(self.layer.digest.algorithm());
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => hasher.update(&buffer[..count]),
                Err(second) if second.kind() == io::ErrorKind::Interrupted => {}
                // The first error is the one to tell.
                Err(_) => return error,
            }
        }
        let found = hasher.finish();
        if found == self.layer.digest {
            return error;
        }
        let what = format!("blob {} is damaged: its bytes have the digest {found}", self.layer.digest);
        Error::data_loss(what).with_source(error)
    }
}

/// Whether other bytes of the layer might not have led to the error. What the system refuses, it refuses whatever is in the layer.
fn may_be_of_content(error: &Error) -> bool {
    let is_of_content = matches!(
        error.kind(),
        ErrorKind::InvalidArgument
            | ErrorKind::FailedPrecondition
            | ErrorKind::DataLoss
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::ResourceExhausted
    );
    is_of_content && error.find_source::<io::Error>().is_none_or(|source| source.raw_os_error().is_none())
}
