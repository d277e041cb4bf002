//! Puts content into a store as fast as it takes it: the part of `cargo xtask bench store` that has to use the library.
//!
//! It measures nothing but its own commits, and compares nothing; that is xtask's.
//!
//! ```text
//! bench_store small ROOT COUNT SIZE WRITERS full|none    commits COUNT blobs of SIZE bytes, prints the seconds
//! bench_store large ROOT FILE full|none                  commits one file, prints the seconds
//! bench_store fill ROOT COUNT SIZE                       makes a store in which nothing can be collected
//! ```
#![expect(clippy::print_stdout, reason = "the seconds are what it is run for")]

use std::{
    error::Error,
    fs::File,
    io::Read,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use wharf_content::{
    CommitOptions, Descriptor, Digest, IngestOptions, Ingester, Labels, LocalStore,
    local::{Durability, LocalOptions},
    write_blob,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How many bytes of a large file are handed over at once.
const CHUNK: usize = 1024 * 1024;

/// A filled store has groups of this many blobs: one that stays by itself and refers to the rest.
const GROUP: u64 = 100;

/// How many writers fill a store.
const FILLERS: u64 = 4;

const USAGE: &str = "usage: bench_store small ROOT COUNT SIZE WRITERS full|none | large ROOT FILE full|none | fill ROOT COUNT SIZE";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["small", root, count, size, writers, durability] => {
            let store = open(root, durability).await?;
            let begun = Instant::now();
            small(&store, count.parse()?, size.parse()?, writers.parse()?).await?;
            println!("{:.6}", begun.elapsed().as_secs_f64());
        }
        ["large", root, file, durability] => {
            let store = open(root, durability).await?;
            let begun = Instant::now();
            large(&store, Path::new(file)).await?;
            println!("{:.6}", begun.elapsed().as_secs_f64());
        }
        ["fill", root, count, size] => {
            fill(&open(root, "none").await?, count.parse()?, size.parse()?).await?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

async fn open(root: &str, durability: &str) -> Result<LocalStore> {
    let durability = match durability {
        "full" => Durability::Full,
        "none" => Durability::None,
        _ => return Err(USAGE.into()),
    };
    Ok(LocalStore::open_with(root, LocalOptions::default().with_durability(durability)).await?)
}

/// Bytes of which no two blobs have the same.
fn content(number: u64, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    let head = number.to_le_bytes();
    let length = head.len().min(size);
    bytes[..length].copy_from_slice(&head[..length]);
    bytes.into()
}

async fn commit(store: &LocalStore, bytes: Bytes, options: CommitOptions) -> Result<Digest> {
    let descriptor = Descriptor::of("application/octet-stream", &bytes);
    write_blob(store, descriptor.digest.as_str(), &descriptor, bytes, options).await?;
    Ok(descriptor.digest)
}

/// Every writer takes the next number until there is none.
async fn small(store: &LocalStore, count: u64, size: usize, writers: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok(());
                    }
                    commit(&store, content(number, size), CommitOptions::default()).await?;
                }
            })
        })
        .collect();
    joined(tasks).await
}

/// The file is read beside the writer, as bytes come from a network.
async fn large(store: &LocalStore, path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let (sender, mut chunks) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(2);
    let reader = tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = file.read(&mut chunk);
            let is_end = !matches!(read, Ok(1..));
            let chunk = read.map(|length| {
                chunk.truncate(length);
                Bytes::from(chunk)
            });
            if sender.blocking_send(chunk).is_err() || is_end {
                return;
            }
        }
    });
    let mut writer = store.writer(IngestOptions::new("large")).await?;
    while let Some(chunk) = chunks.recv().await {
        writer.write(chunk?).await?;
    }
    writer.commit(Some(size), None, CommitOptions::default()).await?;
    Ok(reader.await?)
}

/// The blobs of each group hang by labels on its last one, which is a root.
async fn fill(store: &LocalStore, count: u64, size: usize) -> Result<()> {
    let groups = count / GROUP;
    let tasks: Vec<_> = (0..FILLERS)
        .map(|filler| {
            let store = store.clone();
            tokio::spawn(async move {
                for group in (filler..groups).step_by(usize::try_from(FILLERS)?) {
                    fill_group(&store, group * GROUP, size).await?;
                }
                Ok(())
            })
        })
        .collect();
    joined(tasks).await
}

async fn fill_group(store: &LocalStore, first: u64, size: usize) -> Result<()> {
    let mut labels = Labels::new();
    for number in first..first + GROUP - 1 {
        let digest = commit(store, content(number, size), CommitOptions::default()).await?;
        labels.insert(format!("containerd.io/gc.ref.content.{}", number - first), digest.to_string());
    }
    labels.insert("containerd.io/gc.root".into(), "bench".into());
    let options = CommitOptions::default().with_labels(labels);
    commit(store, content(first + GROUP - 1, size), options).await.map(drop)
}

async fn joined(tasks: Vec<tokio::task::JoinHandle<Result<()>>>) -> Result<()> {
    for task in tasks {
        task.await??;
    }
    Ok(())
}
