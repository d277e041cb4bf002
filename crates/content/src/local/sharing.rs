//! Files that share their blocks: a copy that moves nothing, where the file system has such (btrfs, XFS, bcachefs, and others by options).
//!
//! Only whole files are shared. Within an archive a blob begins wherever its header ended, and blocks are shared at their borders only. Where
//! nothing can be shared, reading, hashing and writing is what is fastest: a copy within the kernel spares nothing to who has to read
//! the bytes for their digest, and takes longer than the write that it replaces (measured on ext4, by copy_file_range and sendfile).

use std::fs::File;

/// What is shorter is not worth being asked for.
pub const MIN_LEN: u64 = 128 * 1024;

/// Makes `target`, which is empty, share all blocks of `source`, and tells whether it does. If not it is empty still. What is written to
/// either of them later changes the other one in no way. Blocks.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn share(source: &File, target: &File) -> bool {
    let Err(error) = rustix::fs::ioctl_ficlone(target, source) else { return true };
    tracing::trace!(%error, "sharing the blocks of a file");
    // A file system may have come to where its room ended.
    if target.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        drop(target.set_len(0));
    }
    false
}

/// Other systems are asked for nothing.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn share(_: &File, _: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Seek, Write},
        sync::Arc,
    };

    use super::*;
    use crate::{
        CommitOptions, Descriptor, ErrorKind, IngestOptions, Ingester, LocalStore, Provider, copy,
        copying::Source,
        reading::{BlobSource, read_blob},
    };

    fn noise() -> Vec<u8> {
        (0..300_000_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
    }

    #[test]
    fn all_is_shared_or_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let [mut source, mut target] = ["source", "target"].map(|name| {
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .create_new(true)
                .open(directory.path().join(name))
                .expect("creates")
        });
        source.write_all(&noise()).expect("writes");
        let is_shared = share(&source, &target);
        source.rewind().expect("seeks");
        source.write_all(b"something else").expect("writes");
        let mut found = Vec::new();
        target.read_to_end(&mut found).expect("reads");
        assert!(found == if is_shared { noise() } else { Vec::new() });
    }

    #[tokio::test]
    async fn a_copy_from_store_to_store_is_verified_in_any_case() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let from = LocalStore::open(directory.path().join("from")).await.expect("opens");
        let into = LocalStore::open(directory.path().join("into")).await.expect("opens");
        let (bytes, other) = (noise(), vec![7; noise().len()]);
        let (good, wrong) = (Descriptor::of("x", &bytes), Descriptor::of("x", &other));
        crate::write_blob(&from, "x", &good, bytes.clone().into(), CommitOptions::default())
            .await
            .expect("writes");
        let source = BlobSource::new(from.reader(&good).await.expect("opens"));
        assert!(source.local().await.is_some_and(|reader| reader.file().is_some()), "it is a file");
        for (descriptor, is_fine) in [(&wrong, false), (&good, true)] {
            let options = IngestOptions::new("copy").with_descriptor(descriptor);
            let mut writer = into.writer(options).await.expect("opens");
            match copy(writer.as_mut(), &source, descriptor, CommitOptions::default()).await {
                Ok(()) => assert!(is_fine),
                Err(error) => assert_eq!((is_fine, error.kind()), (false, ErrorKind::FailedPrecondition)),
            }
        }
        assert!(read_blob(&into, &good, u64::MAX).await.expect("reads") == bytes);
        assert_eq!(into.reader(&wrong).await.expect_err("is none").kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_ingest_takes_over_all_of_a_file_or_none_of_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = LocalStore::open(directory.path().join("store")).await.expect("opens");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(directory.path().join("file"))
            .expect("creates");
        file.write_all(&noise()).expect("writes");
        let descriptor = Descriptor::of("x", &noise());
        let mut writer = store.writer(IngestOptions::new("a")).await.expect("opens");
        let is_shared = writer.share(&file).await.expect("works in any case");
        assert_eq!(writer.status().offset, if is_shared { descriptor.size } else { 0 });
        assert!(!is_shared || !writer.share(&file).await.expect("no more"), "there are bytes already");
        // What the file has now is nobody's business any more.
        file.set_len(0).expect("empties");
        if !is_shared {
            writer.write(noise().into()).await.expect("writes");
        }
        writer
            .commit(Some(descriptor.size), Some(&descriptor.digest), CommitOptions::default())
            .await
            .expect("commits");
        let found = Arc::new(store).reader(&descriptor).await.expect("is there");
        assert!(found.read_at(0, usize::MAX).await.expect("reads") == noise());
        assert_eq!(writer.share(&file).await.expect_err("is closed").kind(), ErrorKind::FailedPrecondition);
    }
}
