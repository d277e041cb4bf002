//! Damage to the blobs of a local store: each kind is found, moved aside and never lost, and what is whole stays.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use wharf_content::{
    Algorithm, CommitOptions, Descriptor, Digest, ErrorKind, IngestManager, IngestOptions, Ingester,
    LocalStore, Manager, MemoryStore, Provider, Store,
    filter::FilterSet,
    gc::{self, CollectOptions},
    verify::{Checked, Custodian, Damage, Stray, VerifyOptions, census, verify},
    write_blob,
};

struct Local {
    _dir: tempfile::TempDir,
    store: LocalStore,
}

impl Local {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = LocalStore::open(dir.path().join("store")).await.expect("opens");
        Self { _dir: dir, store }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.store.root().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }
}

async fn put(store: &dyn Store, algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let descriptor = Descriptor::new("x", algorithm.digest(bytes), bytes.len() as u64);
    let labels = [("a".to_owned(), "b".to_owned())].into();
    let options = CommitOptions::default().with_labels(labels);
    write_blob(store, descriptor.digest.as_str(), &descriptor, bytes.to_vec().into(), options)
        .await
        .expect("writes");
    descriptor.digest
}

async fn verified(store: &dyn Store) -> Vec<Checked> {
    let blobs = census(store).await.expect("lists").blobs;
    let mut all = Vec::new();
    let mut visit = |checked| {
        all.push(checked);
        Ok(())
    };
    verify(store, blobs, &VerifyOptions::default(), &mut visit).await.expect("verifies");
    all
}

async fn damaged(store: &dyn Store) -> Vec<(Digest, Damage)> {
    let all = verified(store).await.into_iter();
    all.filter_map(|checked| Some((checked.digest, checked.damage?))).collect()
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("reads");
    change(&mut bytes);
    fs::remove_file(path).expect("removes");
    fs::write(path, bytes).expect("writes");
}

type Harm = fn(&Path);

const KINDS: &[(&str, Harm)] = &[
    ("a bit flipped", |path| rewrite(path, |bytes| bytes[0] ^= 1)),
    ("truncated", |path| rewrite(path, |bytes| bytes.truncate(bytes.len() - 1))),
    ("emptied", |path| rewrite(path, Vec::clear)),
    ("extended", |path| {
        fs::set_permissions(path, Permissions::from_mode(0o644)).expect("changes");
        let mut file = OpenOptions::new().append(true).open(path).expect("opens");
        file.write_all(b"x").expect("writes");
    }),
    ("a symlink to the same bytes", |path| {
        let aside = path.ancestors().nth(3).expect("the root").join("aside");
        fs::rename(path, &aside).expect("moves");
        symlink(&aside, path).expect("links");
    }),
    ("a symlink to nothing", |path| {
        fs::remove_file(path).expect("removes");
        symlink("nothing", path).expect("links");
    }),
    ("a FIFO", |path| {
        fs::remove_file(path).expect("removes");
        let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success());
    }),
    ("a directory", |path| {
        fs::remove_file(path).expect("removes");
        fs::create_dir(path).expect("makes");
    }),
];

#[tokio::test]
async fn every_kind_of_damage_is_found_and_quarantined() {
    for (kind, harm) in KINDS {
        for algorithm in Algorithm::ALL {
            let local = Local::new().await;
            let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
            let victim = put(&local.store, algorithm, &bytes).await;
            let whole = put(&local.store, algorithm, b"whole").await;
            assert_eq!(damaged(&local.store).await, [], "before");
            assert_eq!(local.store.quarantine(&victim).await.expect("looks"), None, "what is whole stays");

            harm(&local.path(&victim));
            let found = damaged(&local.store).await;
            let [(digest, damage)] = &found[..] else { panic!("{kind}: {found:?}") };
            assert_eq!(*digest, victim, "{kind}");
            let is_replaced = kind.starts_with("a symlink") || ["a FIFO", "a directory"].contains(kind);
            assert_eq!(matches!(damage, Damage::NotAFile { .. }), is_replaced, "{kind}: {damage}");
            assert_eq!(matches!(damage, Damage::Bytes { .. }), !is_replaced, "{kind}: {damage}");

            let before = fs::symlink_metadata(local.path(&victim)).expect("there");
            let moved = local.store.quarantine(&victim).await.expect("moves").expect("it is damaged");
            let name = moved.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(name.starts_with(&format!("{algorithm}-{}-", victim.hex())), "{name}");
            let after = fs::symlink_metadata(&moved).expect("kept");
            assert_eq!((before.len(), before.file_type()), (after.len(), after.file_type()), "{kind}");
            assert_eq!(
                fs::metadata(moved.parent().expect("below the root")).expect("there").mode_bits(),
                0o700
            );

            assert_eq!(damaged(&local.store).await, [], "{kind}");
            let census = census(&local.store).await.expect("lists");
            assert_eq!((census.blobs, census.strays), (vec![whole.clone()], vec![]), "{kind}");
            assert!(census.quarantined.contains(&victim));
            assert_eq!(local.store.quarantine(&victim).await.expect("looks"), None, "it has gone");

            put_bytes_again(&local.store, &victim, &bytes).await;
            assert_eq!(damaged(&local.store).await, [], "{kind}");
            let labels = local.store.info(&victim).await.expect("back").labels;
            assert_eq!(labels.get("a").map(String::as_str), Some("b"), "the labels come back with it");
        }
    }
}

trait ModeBits {
    fn mode_bits(&self) -> u32;
}

impl ModeBits for fs::Metadata {
    fn mode_bits(&self) -> u32 {
        self.permissions().mode() & 0o777
    }
}

async fn put_bytes_again(store: &dyn Store, digest: &Digest, bytes: &[u8]) {
    let descriptor = Descriptor::new("x", digest.clone(), bytes.len() as u64);
    write_blob(store, "again", &descriptor, bytes.to_vec().into(), CommitOptions::default())
        .await
        .expect("writes");
}

#[tokio::test]
async fn a_second_damage_of_one_blob_finds_another_place() {
    let local = Local::new().await;
    let mut places = Vec::new();
    for _ in 0..3 {
        let victim = put(&local.store, Algorithm::Sha256, b"victim").await;
        rewrite(&local.path(&victim), |bytes| bytes.push(b'x'));
        places.push(local.store.quarantine(&victim).await.expect("moves").expect("damaged"));
    }
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 3, "nothing was written over");
    assert!(places.iter().all(|place| fs::read(place).expect("kept") == b"victimx"));
}

#[tokio::test]
async fn what_is_no_blob_is_a_stray() {
    let local = Local::new().await;
    let whole = put(&local.store, Algorithm::Sha512, b"whole").await;
    let blobs = local.store.root().join("blobs");
    fs::write(blobs.join("sha256/README"), "x").expect("writes");
    fs::write(blobs.join(format!("sha256/{}", whole.hex())), "of another algorithm").expect("writes");
    fs::create_dir_all(blobs.join("md5/x")).expect("makes");
    fs::write(blobs.join("top\x1b]52"), "x").expect("writes");
    let found = census(&local.store).await.expect("lists");
    assert_eq!(found.blobs, [whole]);
    let paths: Vec<String> = found.strays.iter().map(|stray| stray.path.display().to_string()).collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    assert_eq!(damaged(&local.store).await, []);
    for stray in &found.strays {
        let moved = local.store.quarantine_stray(stray).await.expect("moves").expect("there");
        let name = moved.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.starts_with("stray-") && !name.contains('\x1b'), "{name}");
        assert_eq!(local.store.quarantine_stray(stray).await.expect("looks"), None);
    }
    assert_eq!(census(&local.store).await.expect("lists").strays, []);
    for outside in ["metadata.db", "blobs", "blobs/../metadata.db", "/etc/passwd"] {
        let error = local.store.quarantine_stray(&Stray::new(outside, "x")).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{outside}");
    }
    for outside in ["ingest", "ingest/a/b", "ingest/..", "blobs/sha256/x", "metadata.db"] {
        let error = local.store.quarantine_stray(&Stray::ingest(outside, "x")).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{outside}");
    }
}

fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
}

/// What breaks the ingest in a directory.
const BREAKAGES: &[(&str, Harm)] = &[
    ("a name that is no text", |dir| fs::write(dir.join("ref"), [b'a', 0xff]).expect("writes")),
    ("a name of another", |dir| fs::write(dir.join("ref"), "other").expect("writes")),
    ("a directory for a name", |dir| {
        fs::remove_file(dir.join("ref")).expect("removes");
        fs::create_dir_all(dir.join("ref/full")).expect("makes");
    }),
    ("a FIFO for a name", |dir| {
        fs::remove_file(dir.join("ref")).expect("removes");
        fifo(&dir.join("ref"));
    }),
    ("a link for data", |dir| {
        fs::remove_file(dir.join("data")).expect("removes");
        symlink("/etc/passwd", dir.join("data")).expect("links");
    }),
    ("a file for a directory", |dir| {
        fs::remove_dir_all(dir).expect("removes");
        fs::write(dir, "x").expect("writes");
    }),
    ("a FIFO for a directory", |dir| {
        fs::remove_dir_all(dir).expect("removes");
        fifo(dir);
    }),
    ("a link for a directory", |dir| {
        let aside = dir.with_file_name(format!("../{}", "aside"));
        fs::rename(dir, &aside).expect("moves");
        symlink("../aside", dir).expect("links");
    }),
];

async fn begin(store: &LocalStore, reference: &str) {
    let mut writer = store.writer(IngestOptions::new(reference)).await.expect("opens");
    writer.write("half".into()).await.expect("writes");
    writer.close().await.expect("closes");
}

async fn listed(store: &LocalStore) -> Vec<String> {
    let statuses = store.list_statuses(&FilterSet::all()).await.expect("lists");
    statuses.into_iter().map(|status| status.reference).collect()
}

#[tokio::test]
async fn a_broken_ingest_hides_no_other_and_is_quarantined() {
    for (kind, harm) in BREAKAGES {
        let local = Local::new().await;
        for reference in ["a", "b", "c"] {
            begin(&local.store, reference).await;
        }
        let hex = Digest::sha256(b"b").hex().to_owned();
        let dir = local.store.root().join("ingest").join(&hex);
        assert_eq!(census(&local.store).await.expect("lists").strays, [], "before");
        harm(&dir);
        assert_eq!(listed(&local.store).await, ["a", "c"], "{kind}");
        let error = local.store.status("b").await.expect_err("is broken");
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{kind}: {}", error.report());
        let exclusive = local.store.exclusive().await.expect("locks").expect("is collected");
        gc::collect(&exclusive, &[], &CollectOptions::new()).await.expect("goes through it");
        drop(exclusive);

        let strays = census(&local.store).await.expect("lists").strays;
        let [stray] = &strays[..] else { panic!("{kind}: {strays:?}") };
        assert_eq!((stray.path.as_path(), stray.kind.as_str()), (&*Path::new("ingest").join(&hex), "ingest"));
        let moved = local.store.quarantine_stray(stray).await.expect("moves").expect("there");
        let name = moved.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.starts_with(&format!("ingest-{hex}-")), "{kind}: {name}");
        assert!(fs::symlink_metadata(&moved).is_ok() && fs::symlink_metadata(&dir).is_err(), "{kind}");
        assert_eq!(census(&local.store).await.expect("lists").strays, [], "{kind}");
        begin(&local.store, "b").await;
        assert_eq!(listed(&local.store).await, ["a", "b", "c"], "{kind}");
        assert_eq!(local.store.quarantine_stray(stray).await.expect("looks"), None, "what is whole stays");
    }
}

#[tokio::test]
async fn a_writer_takes_a_broken_ingest_over_and_is_not_disturbed() {
    for (kind, harm) in &BREAKAGES[..5] {
        let local = Local::new().await;
        begin(&local.store, "b").await;
        let dir = local.store.root().join("ingest").join(Digest::sha256(b"b").hex());
        harm(&dir);
        let before = fs::read("/etc/passwd").expect("reads");
        let mut writer = local.store.writer(IngestOptions::new("b")).await.expect("begins anew");
        assert_eq!(writer.status().offset, 0, "{kind}");
        writer.write("whole".into()).await.expect("writes");
        // Broken again under its feet.
        fs::write(dir.join("ref"), "other").expect("writes");
        let strays = census(&local.store).await.expect("lists").strays;
        let error = local.store.quarantine_stray(&strays[0]).await.expect_err("is at work");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{kind}");
        let digest = writer.commit(None, None, CommitOptions::default()).await.expect("commits");
        assert_eq!(digest, Digest::sha256(b"whole"), "{kind}");
        assert_eq!(fs::read("/etc/passwd").expect("reads"), before);
    }
}

#[tokio::test]
async fn what_a_kill_leaves_of_an_ingest_is_no_stray() {
    let local = Local::new().await;
    let ingests = local.store.root().join("ingest");
    for (at, files) in [&[][..], &["ref"], &["data"], &["ref.tmp", "updatedat"]].into_iter().enumerate() {
        let dir = ingests.join(at.to_string().repeat(64));
        fs::create_dir(&dir).expect("makes");
        for file in files {
            fs::write(dir.join(file), "").expect("writes");
        }
    }
    assert_eq!(census(&local.store).await.expect("lists").strays, []);
    assert_eq!(listed(&local.store).await, [""; 0]);
    let exclusive = local.store.exclusive().await.expect("locks").expect("is collected");
    gc::collect(&exclusive, &[], &CollectOptions::new()).await.expect("collects");
    assert_eq!(fs::read_dir(ingests).expect("lists").count(), 0);
}

#[tokio::test]
async fn the_labels_of_what_is_lost_stay_until_they_are_forgotten() {
    let local = Local::new().await;
    let [lost, gone, whole] = ["lost", "gone", "whole"].map(str::as_bytes);
    let lost = put(&local.store, Algorithm::Sha256, lost).await;
    let gone = put(&local.store, Algorithm::Sha512, gone).await;
    let whole = put(&local.store, Algorithm::Sha256, whole).await;
    assert_eq!(local.store.lost().await.expect("lists"), []);
    rewrite(&local.path(&lost), |bytes| bytes.push(b'x'));
    local.store.quarantine(&lost).await.expect("moves").expect("damaged");
    fs::remove_file(local.path(&gone)).expect("removes");
    let mut found: Vec<(Digest, bool)> = Vec::new();
    for one in local.store.lost().await.expect("lists") {
        assert_eq!(one.labels.get("a").map(String::as_str), Some("b"));
        found.push((one.digest, one.is_quarantined));
    }
    found.sort();
    let mut expected = vec![(lost.clone(), true), (gone.clone(), false)];
    expected.sort();
    assert_eq!(found, expected);
    for digest in [&lost, &gone, &whole] {
        local.store.forget(digest).await.expect("forgets");
    }
    assert_eq!(local.store.lost().await.expect("lists"), []);
    assert_eq!(local.store.info(&whole).await.expect("there").labels.len(), 1, "it is there");
}

#[tokio::test]
async fn a_store_in_memory_is_verified_too() {
    let store = MemoryStore::new();
    let digest = put(&store, Algorithm::Sha384, b"bytes").await;
    let all = verified(&store).await;
    assert_eq!((all.len(), &all[0].digest, all[0].size, &all[0].damage), (1, &digest, 5, &None));
    assert!(store.custodian().is_none());
}

#[tokio::test]
async fn a_blob_that_has_gone_is_no_damage() {
    let local = Local::new().await;
    let digest = put(&local.store, Algorithm::Sha256, b"bytes").await;
    let blobs = census(&local.store).await.expect("lists").blobs;
    local.store.delete(&digest).await.expect("removes");
    let mut visit = |checked: Checked| panic!("{checked:?}");
    verify(&local.store, blobs, &VerifyOptions::default(), &mut visit).await.expect("verifies");
    assert!(local.store.reader(&Descriptor::new("", digest, 0)).await.is_err());
}
