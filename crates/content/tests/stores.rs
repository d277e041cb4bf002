//! What every store promises, run against the local and the memory store, and what only the local one does.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use wharf_content::{
    Algorithm, ByteStream, Catalogue, CommitOptions, Descriptor, Digest, Error, ErrorKind, IngestOptions,
    Ingester, Labels, LocalStore, Manager, MemoryStore, Provider, Result, Store, copy, copying::Source,
    filter::FilterSet, open_writer, read_blob, stream_blob, url::open_store, write_blob,
};

async fn stores() -> (tempfile::TempDir, Vec<Arc<dyn Store>>) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let local = LocalStore::open(dir.path().join("store")).await.expect("opens");
    (dir, vec![Arc::new(local), Arc::new(MemoryStore::new())])
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("must fail").kind()
}

fn large() -> Bytes {
    (0..5_000_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn written_in_pieces_read_at_offsets() {
    let (_dir, stores) = stores().await;
    let content = large();
    for algorithm in Algorithm::ALL {
        let descriptor = Descriptor::new("x", algorithm.digest(&content), content.len() as u64);
        for store in &stores {
            let options = IngestOptions::new("r").with_descriptor(&descriptor);
            let mut writer = store.writer(options).await.expect("opens");
            for piece in content.chunks(70_001) {
                writer.write(Bytes::copy_from_slice(piece)).await.expect("writes");
            }
            assert_eq!(writer.status().offset, descriptor.size);
            assert_eq!(writer.digest().await.expect("hashes"), descriptor.digest);
            assert_eq!(
                kind(store.info(&descriptor.digest).await),
                ErrorKind::NotFound,
                "in progress is invisible"
            );
            let digest = writer
                .commit(Some(descriptor.size), Some(&descriptor.digest), CommitOptions::default())
                .await
                .expect("commits");
            assert_eq!(digest, descriptor.digest);
            assert!(store.list_statuses(&FilterSet::all()).await.expect("lists").is_empty());

            let reader = store.reader(&descriptor).await.expect("opens");
            assert_eq!(reader.size(), descriptor.size);
            assert_eq!(reader.read_at(4_999_990, 100).await.expect("reads"), content[4_999_990..]);
            assert!(reader.read_at(6_000_000, 100).await.expect("reads").is_empty());
            let mut streamed = Vec::new();
            let mut chunks = stream_blob(reader, 1000);
            while let Some(chunk) = chunks.next().await {
                streamed.extend_from_slice(&chunk.expect("reads"));
            }
            assert_eq!(streamed, content[1000..]);
            assert_eq!(
                kind(read_blob(store.as_ref(), &descriptor, 1000).await),
                ErrorKind::ResourceExhausted
            );
        }
    }
}

#[tokio::test]
async fn wrong_size_and_digest_are_refused_and_can_be_put_right() {
    let (_dir, stores) = stores().await;
    for store in &stores {
        let good = Descriptor::of("x", b"good");
        let mut writer = store.writer(IngestOptions::new("r").with_descriptor(&good)).await.expect("opens");
        writer.write(Bytes::from_static(b"evil")).await.expect("writes");
        let commit = writer.commit(None, None, CommitOptions::default()).await;
        assert_eq!(kind(commit), ErrorKind::FailedPrecondition, "digest of the writer's options");
        let commit = writer.commit(Some(5), Some(&Digest::sha256(b"evil")), CommitOptions::default()).await;
        assert_eq!(kind(commit), ErrorKind::FailedPrecondition, "size");
        assert_eq!(kind(writer.truncate(1).await), ErrorKind::InvalidArgument);
        writer.truncate(0).await.expect("truncates");
        writer.write(Bytes::from_static(b"good")).await.expect("writes");
        writer.commit(Some(4), Some(&good.digest), CommitOptions::default()).await.expect("commits");
        let again = writer.commit(None, None, CommitOptions::default()).await;
        assert_eq!(kind(again), ErrorKind::FailedPrecondition, "closed");
        assert_eq!(kind(writer.write(Bytes::from_static(b"x")).await), ErrorKind::FailedPrecondition);
        let refused = store.writer(IngestOptions::new("r").with_descriptor(&good)).await;
        assert_eq!(kind(refused), ErrorKind::AlreadyExists);
    }
}

#[tokio::test]
async fn one_writer_at_a_time_and_progress_is_kept() {
    let (_dir, stores) = stores().await;
    for store in &stores {
        let descriptor = Descriptor::of("x", b"0123456789");
        let options = IngestOptions::new("r").with_descriptor(&descriptor);
        let mut first = store.writer(options.clone()).await.expect("opens");
        assert_eq!(kind(store.writer(options.clone()).await), ErrorKind::Unavailable);
        assert_eq!(kind(store.abort("r").await), ErrorKind::Unavailable);
        first.write(Bytes::from_static(b"01234")).await.expect("writes");
        first.close().await.expect("closes");
        first.close().await.expect("closes again");
        assert_eq!(store.status("r").await.expect("there").offset, 5);
        assert_eq!(store.status("r").await.expect("there").total, Some(10));

        let second = store.writer(options.clone()).await.expect("opens");
        assert_eq!(second.status().offset, 5);
        drop(second);
        let mut third = open_writer(store.as_ref(), options, &|_| ()).await.expect("opens");
        third.write(Bytes::from_static(b"56789")).await.expect("writes");
        third.commit(None, None, CommitOptions::default()).await.expect("commits");

        assert_eq!(kind(store.status("r").await), ErrorKind::NotFound);
        assert_eq!(kind(store.abort("r").await), ErrorKind::NotFound);
        assert_eq!(kind(store.writer(IngestOptions::new("")).await), ErrorKind::InvalidArgument);
    }
}

#[tokio::test]
async fn what_is_synced_can_be_gone_on_with_by_the_same_writer_and_by_another() {
    let (_dir, stores) = stores().await;
    for store in &stores {
        let options = IngestOptions::new("r");
        let mut first = store.writer(options.clone()).await.expect("opens");
        assert!(first.sync().await.expect("syncs nothing"));
        let began = store.status("r").await.expect("there").started_at;
        for (piece, len) in [(&b"01"[..], 2), (b"234", 5)] {
            first.write(Bytes::from_static(piece)).await.expect("writes");
            assert!(first.sync().await.expect("syncs"));
            assert_eq!(store.status("r").await.expect("there").offset, len, "all of it is there");
            assert_eq!(
                kind(store.writer(options.clone()).await),
                ErrorKind::Unavailable,
                "it keeps the ingest"
            );
        }
        drop(first);
        let mut second = store.writer(options).await.expect("opens");
        assert_eq!((second.status().offset, second.status().started_at), (5, began));
        second.write(Bytes::from_static(b"56789")).await.expect("writes");
        second.sync().await.expect("syncs");
        let digest = Digest::sha256(b"0123456789");
        second.commit(None, Some(&digest), CommitOptions::default()).await.expect("commits");
        assert_eq!(kind(second.sync().await), ErrorKind::FailedPrecondition, "closed");
    }
}

#[tokio::test]
async fn the_algorithm_can_be_chosen_before_the_digest_is_known() {
    let (_dir, stores) = stores().await;
    for store in &stores {
        for algorithm in Algorithm::ALL {
            let mut options = IngestOptions::new("r");
            options.algorithm = algorithm;
            let mut writer = store.writer(options.clone()).await.expect("opens");
            writer.write(Bytes::from_static(b"01234")).await.expect("writes");
            writer.close().await.expect("closes");
            let mut writer = store.writer(options).await.expect("resumes");
            writer.write(Bytes::from_static(b"56789")).await.expect("writes");
            let digest = algorithm.digest(b"0123456789");
            assert_eq!(writer.digest().await.expect("hashes"), digest);
            let committed = writer.commit(None, None, CommitOptions::default()).await;
            assert_eq!(committed.expect("commits"), digest);
        }
    }
}

#[tokio::test]
async fn a_writer_that_waits_goes_on_when_the_other_is_done() {
    let (_dir, stores) = stores().await;
    for store in &stores {
        let mut first = store.writer(IngestOptions::new("r")).await.expect("opens");
        let waits = std::sync::atomic::AtomicU32::new(0);
        let count = |_: &Error| {
            waits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let second = open_writer(store.as_ref(), IngestOptions::new("r"), &count);
        let (second, ()) = tokio::join!(second, async {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            first.close().await.expect("closes");
        });
        second.expect("opens after waiting");
        assert!(waits.into_inner() >= 1);
    }
}

#[tokio::test]
async fn labels_walk_filters_delete() {
    let (_dir, stores) = stores().await;
    for store in &stores {
        let one = Descriptor::of("x", b"one");
        let labels = Labels::from([("a.b".into(), "1".into()), ("c".into(), "2".into())]);
        let options = CommitOptions::default().with_labels(labels);
        write_blob(store.as_ref(), "one", &one, "one".into(), options).await.expect("writes");
        write_blob(
            store.as_ref(),
            "two",
            &Descriptor::of("x", b"two"),
            "two".into(),
            CommitOptions::default(),
        )
        .await
        .expect("writes");
        let wanted = Labels::from([("c".into(), String::new()), ("d".into(), "4".into())]);
        let info = store.update(&one.digest, &wanted, &["labels.c", "labels.d"]).await.expect("updates");
        assert_eq!(info.labels, Labels::from([("a.b".into(), "1".into()), ("d".into(), "4".into())]));
        assert_eq!(store.info(&one.digest).await.expect("there").labels, info.labels);
        assert_eq!(kind(store.update(&one.digest, &wanted, &["size"]).await), ErrorKind::InvalidArgument);
        let absent = Digest::sha256(b"absent");
        assert_eq!(kind(store.update(&absent, &wanted, &[]).await), ErrorKind::NotFound);

        let walk = async |filters: &[&str]| {
            let mut found = Vec::new();
            let filters = FilterSet::parse(filters).expect("valid");
            let mut visit = |info: wharf_content::Info| {
                found.push(info.digest);
                Ok(())
            };
            store.walk(&filters, &mut visit).await.expect("walks");
            found.len()
        };
        assert_eq!(walk(&[]).await, 2);
        assert_eq!(walk(&["labels.\"a.b\"==1"]).await, 1);
        assert_eq!(walk(&["labels.c"]).await, 0);
        for (filters, count) in [
            (&["labels.d"][..], 1),
            (&["labels.d~=^4"], 1),
            (&["labels.d!=4"], 1),
            (&["labels.d==4,labels.\"a.b\"!=1"], 0),
            (&["labels.x", "labels.\"a.b\"==1"], 1),
            (&["labels.\"a.b\"==1", "size==3"], 2),
            (&["labels.\"a.b\"==\"1\\\"\""], 0),
        ] {
            assert_eq!(walk(filters).await, count, "{filters:?}");
        }
        let odd = Labels::from([("e\"\\".to_owned(), "\u{fc}\n\"".to_owned())]);
        store.update(&one.digest, &odd, &["labels.e\"\\"]).await.expect("updates");
        assert_eq!(walk(&["labels.\"e\\\"\\\\\"==\"\u{fc}\\n\\\"\""]).await, 1);
        let stopped = store.walk(&FilterSet::all(), &mut |_| Err(Error::conflict("enough"))).await;
        assert_eq!(kind(stopped), ErrorKind::Conflict);

        store.delete(&one.digest).await.expect("deletes");
        assert_eq!(kind(store.delete(&one.digest).await), ErrorKind::NotFound);
        assert_eq!(kind(store.reader(&one).await.map(drop)), ErrorKind::NotFound);
        let long = Labels::from([("k".into(), "v".repeat(4096))]);
        let refused =
            write_blob(store.as_ref(), "one", &one, "one".into(), CommitOptions::default().with_labels(long))
                .await;
        assert_eq!(kind(refused), ErrorKind::InvalidArgument);
    }
}

/// Gives `content` from any offset and fails after `break_at` bytes of it, once.
#[derive(Debug)]
struct Breaking {
    content: Bytes,
    break_at: std::sync::Mutex<Option<usize>>,
    opened_at: std::sync::Mutex<Vec<u64>>,
}

#[async_trait::async_trait]
impl Source for Breaking {
    async fn open(&self, offset: u64) -> Result<ByteStream> {
        self.opened_at.lock().expect("no panic").push(offset);
        let start = usize::try_from(offset).expect("small");
        Ok(match self.break_at.lock().expect("no panic").take() {
            Some(end) => {
                let piece = Ok(self.content.slice(start..end));
                Box::pin(stream::iter([piece, Err(Error::unavailable("broken"))]))
            }
            None => Box::pin(stream::iter([Ok(self.content.slice(start..))])),
        })
    }
}

#[tokio::test]
async fn a_copy_resumes_where_it_broke() {
    let (_dir, stores) = stores().await;
    let content = large();
    let descriptor = Descriptor::of("x", &content);
    for store in &stores {
        let source = Breaking {
            content: content.clone(),
            break_at: Some(3_000_000).into(),
            opened_at: std::sync::Mutex::default(),
        };
        for expected in [Some(ErrorKind::Unavailable), None] {
            let options = IngestOptions::new("r").with_descriptor(&descriptor);
            let mut writer = store.writer(options).await.expect("opens");
            let result = copy(writer.as_mut(), &source, &descriptor, CommitOptions::default()).await;
            assert_eq!(result.err().map(|error| error.kind()), expected);
        }
        assert_eq!(*source.opened_at.lock().expect("no panic"), [0, 3_000_000]);
        assert_eq!(read_blob(store.as_ref(), &descriptor, 1 << 30).await.expect("reads"), content);
    }
}

#[tokio::test]
async fn a_copy_refuses_short_long_and_wrong_content_and_leaves_no_poison() {
    let (_dir, stores) = stores().await;
    let descriptor = Descriptor::of("x", b"right");
    for store in &stores {
        for (content, expected) in [
            ("wrong", ErrorKind::FailedPrecondition),
            ("right and more", ErrorKind::FailedPrecondition),
            ("rig", ErrorKind::Unavailable),
        ] {
            let options = IngestOptions::new("r").with_descriptor(&descriptor);
            let mut writer = store.writer(options).await.expect("opens");
            let result =
                copy(writer.as_mut(), &Bytes::from(content), &descriptor, CommitOptions::default()).await;
            assert_eq!(kind(result), expected, "{content}");
        }
        // What is there now begins like the right content but for its last byte.
        let mut writer = store.writer(IngestOptions::new("r")).await.expect("opens");
        writer.truncate(0).await.expect("truncates");
        writer.write("righ!".into()).await.expect("writes");
        writer.close().await.expect("closes");
        write_blob(store.as_ref(), "r", &descriptor, "right".into(), CommitOptions::default())
            .await
            .expect("starts again by itself");
        assert_eq!(read_blob(store.as_ref(), &descriptor, 10).await.expect("reads"), "right");
    }
}

async fn local(dir: &Path) -> LocalStore {
    LocalStore::open(dir.join("store")).await.expect("opens")
}

#[tokio::test]
async fn two_handles_on_one_directory_share_locks_and_content() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (one, other) = (local(dir.path()).await, local(dir.path()).await);
    let descriptor = Descriptor::of("x", b"shared");
    let options = IngestOptions::new("r").with_descriptor(&descriptor);
    let mut writer = one.writer(options.clone()).await.expect("opens");
    assert_eq!(kind(other.writer(options.clone()).await), ErrorKind::Unavailable);
    writer.write("shared".into()).await.expect("writes");
    writer.commit(None, None, CommitOptions::default()).await.expect("commits");
    assert_eq!(kind(other.writer(options).await), ErrorKind::AlreadyExists);
    assert_eq!(read_blob(&other, &descriptor, 10).await.expect("reads"), "shared");
}

#[tokio::test]
async fn blobs_are_read_only_and_private() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = local(dir.path()).await;
    let descriptor = Descriptor::of("x", b"blob");
    write_blob(&store, "r", &descriptor, "blob".into(), CommitOptions::default()).await.expect("writes");
    let path = store.root().join("blobs/sha256").join(descriptor.digest.hex());
    assert_eq!(std::fs::metadata(path).expect("exists").permissions().mode() & 0o777, 0o444);
    assert_eq!(std::fs::read_dir(store.root().join("ingest")).expect("lists").count(), 0);
}

#[tokio::test]
async fn a_link_or_a_fifo_in_place_of_a_blob_is_damage() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = local(dir.path()).await;
    let descriptor = Descriptor::of("x", b"secret");
    let path = store.root().join("blobs/sha256").join(descriptor.digest.hex());
    let elsewhere = dir.path().join("secret");
    std::fs::write(&elsewhere, "secret").expect("writes");
    std::os::unix::fs::symlink(&elsewhere, &path).expect("links");
    assert_eq!(kind(store.reader(&descriptor).await.map(drop)), ErrorKind::DataLoss);
    assert_eq!(kind(store.info(&descriptor.digest).await), ErrorKind::DataLoss);
    std::fs::remove_file(&path).expect("removes");
    let fifo =
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0);
    fifo.expect("makes a FIFO");
    assert_eq!(kind(store.reader(&descriptor).await.map(drop)), ErrorKind::DataLoss);
}

#[tokio::test]
async fn stores_open_by_scheme() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let catalogue = Catalogue::linked();
    let path = dir.path().join("with:colon").display().to_string();
    for url in [path.clone(), format!("file:{path}"), format!("file://{path}"), "memory:".into()] {
        assert_eq!(open_store(&url, catalogue).await.expect(&url).metadata().is_none(), url == "memory:");
    }
    let error = open_store("s3://bucket", catalogue).await.map(drop).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("file, memory"), "{error}");
    assert_eq!(kind(open_store("/x", &Catalogue::empty()).await.map(drop)), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_ingest_whose_commit_was_cut_short_can_be_written_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = local(dir.path()).await;
    let mut writer = store.writer(IngestOptions::new("r")).await.expect("opens");
    writer.write("da".into()).await.expect("writes");
    writer.close().await.expect("closes");
    let data = store.root().join("ingest").join(Digest::sha256(b"r").hex()).join("data");
    let mode = |path: &Path| std::fs::metadata(path).expect("exists").permissions().mode() & 0o777;
    // As a process leaves it that is killed between taking the write bits away and renaming.
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o444)).expect("changes the mode");
    let mut writer = store.writer(IngestOptions::new("r")).await.expect("opens");
    assert_eq!(mode(&data), 0o600);
    writer.write("ta".into()).await.expect("writes");
    writer.commit(None, Some(&Digest::sha256(b"data")), CommitOptions::default()).await.expect("commits");
}

#[tokio::test]
async fn labels_that_a_killed_deletion_left_do_not_return_with_the_blob() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = local(dir.path()).await;
    let descriptor = Descriptor::of("x", b"content");
    let path = store.root().join("blobs/sha256").join(descriptor.digest.hex());
    let labels = Labels::from([("containerd.io/gc.root".to_owned(), "1".to_owned())]);
    let write = async |labels: Labels| {
        let options = CommitOptions::default().with_labels(labels);
        write_blob(&store, "r", &descriptor, Bytes::from_static(b"content"), options).await.expect("writes");
        store.info(&descriptor.digest).await.expect("there").labels
    };
    assert_eq!(write(labels.clone()).await, labels);
    // As a deletion that was killed before it came to the labels.
    std::fs::remove_file(&path).expect("removes");
    assert_eq!(write(Labels::new()).await, Labels::new());

    // What is in quarantine has not been deleted: its labels wait for the blob that is fetched again.
    std::fs::remove_file(&path).expect("removes");
    assert_eq!(write(labels.clone()).await, labels);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permits");
    std::fs::write(&path, b"CONTENT").expect("damages");
    let custodian = store.custodian().expect("has a quarantine");
    assert!(custodian.quarantine(&descriptor.digest).await.expect("moves").is_some());
    assert_eq!(write(Labels::new()).await, labels);
}

/// Many commit the same bytes at the same time under names of their own, and each gives them a label.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_at_once_lose_no_label() {
    const WRITERS: usize = 8;
    let (_dir, stores) = stores().await;
    for store in stores {
        for round in 0..10 {
            let content: Bytes = vec![round; 100_000].into();
            let descriptor = Descriptor::of("x", &content);
            let barrier = Arc::new(tokio::sync::Barrier::new(WRITERS));
            let tasks: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let (store, content, barrier) =
                        (Arc::clone(&store), content.clone(), Arc::clone(&barrier));
                    let digest = descriptor.digest.clone();
                    tokio::spawn(async move {
                        let labels = Labels::from([(format!("l{number}"), "1".to_owned())]);
                        let options = IngestOptions::new(format!("{round}/{number}"));
                        let mut writer = store.writer(options).await.expect("opens");
                        writer.write(content).await.expect("writes");
                        barrier.wait().await;
                        let options = CommitOptions::default().with_labels(labels.clone());
                        match writer.commit(None, Some(&digest), options).await {
                            Ok(_) => true,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                                let path = format!("labels.l{number}");
                                store.update(&digest, &labels, &[path.as_str()]).await.expect("labels");
                                false
                            }
                        }
                    })
                })
                .collect();
            let mut committed = 0;
            for task in tasks {
                committed += usize::from(task.await.expect("no panic"));
            }
            assert_eq!(committed, 1, "who made the blob");
            let labels = store.info(&descriptor.digest).await.expect("there").labels;
            assert_eq!(labels.len(), WRITERS, "{labels:?}");
            assert!(store.list_statuses(&FilterSet::all()).await.expect("lists").is_empty());
        }
    }
}

#[tokio::test]
async fn an_ingest_is_read_while_it_is_written() {
    let (_dir, stores) = stores().await;
    let (content, store) = (large(), &stores[0]);
    let descriptor = Descriptor::of("x", &content);
    let begin = || store.writer(IngestOptions::new("r").with_descriptor(&descriptor));
    let mut writer = begin().await.expect("opens");
    let reader = writer.follow().expect("the local store can");
    assert_eq!(reader.size(), descriptor.size);
    for piece in content[..3_000_000].chunks(100_000) {
        writer.write(Bytes::copy_from_slice(piece)).await.expect("writes");
    }
    // What is there is read, without a commit; what is not there is waited for.
    assert_eq!(reader.read_at(10, 900_000).await.expect("reads"), content[10..900_010]);
    assert!(reader.read_at(descriptor.size, 1).await.expect("reads").is_empty());
    let end = tokio::spawn({
        let reader = Arc::clone(&reader);
        async move { reader.read_at(2_500_000, 5_000_000).await }
    });
    writer.write(content.slice(3_000_000..)).await.expect("writes");
    writer
        .commit(Some(descriptor.size), Some(&descriptor.digest), CommitOptions::default())
        .await
        .expect("commits");
    assert_eq!(end.await.expect("ends").expect("reads"), content[2_500_000..]);
    drop(writer);
    assert_eq!(reader.read_at(0, 5_000_000).await.expect("reads"), content);
}

#[tokio::test]
async fn who_reads_an_ingest_is_told_when_it_ends_or_begins_anew() {
    let (_dir, stores) = stores().await;
    let (content, store) = (large(), &stores[0]);
    let wrong = Descriptor::new("x", Digest::sha256(b"other"), content.len() as u64);
    let options = || IngestOptions::new("r").with_descriptor(&wrong);
    let mut writer = store.writer(options()).await.expect("opens");
    let reader = writer.follow().expect("the local store can");
    let waits = tokio::spawn(async move { reader.read_at(0, 10).await });
    writer.close().await.expect("closes");
    assert_eq!(kind(waits.await.expect("ends")), ErrorKind::Aborted);

    let mut writer = store.writer(options()).await.expect("opens");
    let reader = writer.follow().expect("the local store can");
    writer.write(content.clone()).await.expect("writes");
    let commit = writer.commit(Some(wrong.size), Some(&wrong.digest), CommitOptions::default()).await;
    assert_eq!(kind(commit), ErrorKind::FailedPrecondition);
    writer.truncate(0).await.expect("truncates");
    let again = writer.follow().expect("the local store can");
    writer.write(content.slice(..2_000_000)).await.expect("writes");
    writer.digest().await.expect("hashes");
    assert_eq!(again.read_at(0, 2_000_000).await.expect("reads"), content[..2_000_000]);
    drop(writer);
    assert_eq!(kind(again.read_at(0, 3_000_000).await), ErrorKind::Aborted);
    // However far the one was that is gone: what is there now are other bytes.
    assert_eq!(kind(reader.read_at(0, 1_000_000).await), ErrorKind::Aborted);
    assert_eq!(kind(again.read_at(0, 1_000_000).await), ErrorKind::Aborted);

    // How long it will be has to be known.
    let writer = store.writer(IngestOptions::new("s")).await.expect("opens");
    assert!(writer.follow().is_none());
}
