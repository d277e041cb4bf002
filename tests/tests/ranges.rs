//! Large blobs in ranges: what is asked for, what comes of it, and registries that do not do it or do it wrongly.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use wharf_content::{
    ByteStream, Descriptor, Digest, Error, ErrorKind, Info, Manager, MemoryStore, Result, filter::FilterSet,
};
use wharf_images::{
    MemoryImages, Selection,
    transport::{Fetcher, Resolver},
};
use wharf_remotes::{
    PullOptions, pull,
    registry::{RangeOptions, RegistryResolver, RegistrySettings, Split},
};
use wharf_tests::{
    FakeServer, Reply, Request, TestRegistry,
    image::{ImageFixture, Layer, noise},
};

const KIB: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(30);

/// A blob and an honest registry's answers for it.
#[derive(Clone)]
struct Blob {
    bytes: Bytes,
    descriptor: Descriptor,
}

impl Blob {
    fn new(len: u64, seed: u64) -> Self {
        let bytes = Bytes::from(noise(usize::try_from(len).expect("fits"), seed));
        let digest = Digest::sha256(&bytes);
        Self { descriptor: Descriptor::new("application/octet-stream", digest, len), bytes }
    }

    fn part(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[usize::try_from(range.start).expect("fits")..usize::try_from(range.end).expect("fits")]
    }

    fn whole(&self) -> Reply {
        Reply::new(200, &[], &self.bytes)
    }

    fn partial(&self, range: Range<u64>, body: &[u8]) -> Reply {
        let told = format!("bytes {}-{}/{}", range.start, range.end - 1, self.bytes.len());
        let len = (range.end - range.start).to_string();
        Reply::new(206, &[("Content-Range", &told), ("Content-Length", &len)], body)
    }

    fn answer(&self, request: &Request) -> Reply {
        match wanted(request, self.descriptor.size) {
            None => self.whole(),
            Some(range) => self.partial(range.clone(), self.part(range)),
        }
    }
}

/// The range that a request asks for.
fn wanted(request: &Request, size: u64) -> Option<Range<u64>> {
    let (first, last) = request.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    let end = if last.is_empty() { size } else { last.parse::<u64>().expect("a number") + 1 };
    Some(first.parse().expect("a number")..end)
}

/// Ranges of so many KiB for all that is longer.
fn always(kib: u64) -> RangeOptions {
    RangeOptions::new().with_split(Split::Always(NonZeroU64::new(kib * KIB).expect("not zero")))
}

/// Any stream is slow that does not bring 1 GiB/s over 20 ms.
fn hasty() -> RangeOptions {
    RangeOptions::new()
        .with_threshold(256 * KIB)
        .with_slow(1 << 30, Duration::from_millis(20))
        .with_len(NonZeroU64::new(64 * KIB).expect("not zero"))
}

async fn fetcher(address: &str, ranges: RangeOptions) -> Arc<dyn Fetcher> {
    let settings = RegistrySettings::new().with_retries(0, Duration::ZERO).with_ranges(ranges);
    let resolver = RegistryResolver::new(settings);
    resolver.fetcher(&format!("{address}/library/image:1")).await.expect("a fetcher")
}

/// All bytes from `offset` on.
async fn read(fetcher: &dyn Fetcher, blob: &Blob, offset: u64) -> Result<Vec<u8>> {
    tokio::time::timeout(LIMIT, async {
        let mut stream = fetcher.fetch(&blob.descriptor, offset).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes)
    })
    .await
    .expect("bounded in time")
}

/// Reads everything from a registry of the test's own, and gives the ranges that it was asked for ("" for the whole), sorted.
async fn asked(
    blob: &Blob,
    ranges: RangeOptions,
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Result<()>, Vec<String>) {
    let server = FakeServer::start(answer).await;
    let fetcher = fetcher(&server.address(), ranges).await;
    let result = read(fetcher.as_ref(), blob, 0).await;
    let result = result.map(|bytes| assert!(bytes == blob.bytes, "the bytes are in order and complete"));
    (result, asked_of(&server))
}

fn asked_of(server: &FakeServer) -> Vec<String> {
    let ranges = server.requests();
    let mut ranges: Vec<_> =
        ranges.iter().map(|request| request.header("range").unwrap_or_default().to_owned()).collect();
    ranges.sort_by_key(|range| {
        let first = range.trim_start_matches("bytes=").split('-').next().unwrap_or_default();
        first.parse::<u64>().map_or(0, |first| first + 1)
    });
    ranges
}

#[tokio::test]
async fn a_blob_comes_in_ranges_of_the_length_that_is_asked_for() {
    let blob = Blob::new(350 * KIB, 1);
    let twin = blob.clone();
    let (result, ranges) = asked(&blob, always(100), move |request| twin.answer(request)).await;
    result.expect("reads");
    assert_eq!(
        ranges,
        ["bytes=0-102399", "bytes=102400-204799", "bytes=204800-307199", "bytes=307200-358399"]
    );
}

#[tokio::test]
async fn what_is_no_longer_than_a_range_is_asked_for_as_a_whole() {
    let blob = Blob::new(100 * KIB, 1);
    let twin = blob.clone();
    let (result, ranges) = asked(&blob, always(100), move |request| twin.answer(request)).await;
    result.expect("reads");
    assert_eq!(ranges, [""]);
}

#[tokio::test]
async fn a_pull_from_wharfs_own_registry_in_ranges() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("noise", 100_000, 1)]);
    let name = registry.put("library/image:1", &image).await.expect("puts");
    let ten = NonZeroU64::new(10_000).expect("not zero");
    let ranges = RangeOptions::new().with_split(Split::Always(ten));
    let resolver = RegistryResolver::new(RegistrySettings::new().with_ranges(ranges));
    let (store, images) = (Arc::new(MemoryStore::new()), MemoryImages::new());
    let options = PullOptions::new().with_selection(Selection::all());
    pull(store.clone(), &images, &resolver, &name, options).await.expect("pulls and verifies");
    let mut sizes = Vec::new();
    let mut visit = |info: Info| {
        sizes.push(info.size);
        Ok(())
    };
    store.walk(&FilterSet::all(), &mut visit).await.expect("walks");
    let largest = sizes.iter().max().expect("a layer");
    let got = registry.take_log().iter().filter(|record| record.status == 206).count() as u64;
    assert_eq!(got, largest.div_ceil(10_000), "{sizes:?}");
}

#[tokio::test]
async fn an_offset_is_where_the_ranges_begin() {
    let blob = Blob::new(350 * KIB, 1);
    let twin = blob.clone();
    let server = FakeServer::start(move |request| twin.answer(request)).await;
    let fetcher = fetcher(&server.address(), always(100)).await;
    let bytes = read(fetcher.as_ref(), &blob, 50_000).await.expect("reads");
    assert!(bytes == blob.bytes[50_000..]);
    let expected =
        ["bytes=50000-152399", "bytes=152400-254799", "bytes=254800-357199", "bytes=357200-358399"];
    assert_eq!(asked_of(&server), expected);
    let beyond = fetcher.fetch(&blob.descriptor, 350 * KIB + 1).await.err().expect("there is nothing");
    assert_eq!(beyond.kind(), ErrorKind::OutOfRange);
}

#[tokio::test]
async fn a_fast_stream_is_left_alone() {
    let blob = Blob::new(8192 * KIB, 1);
    let twin = blob.clone();
    // No stream is slower than a byte in five seconds.
    let options = hasty().with_slow(1, Duration::from_secs(5));
    let (result, ranges) = asked(&blob, options, move |request| twin.answer(request)).await;
    result.expect("reads");
    assert_eq!(ranges, [""], "one GET and no more");
}

/// A stream that takes its time, and quick ranges.
fn slow_stream(blob: &Blob) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let blob = blob.clone();
    move |request| match request.header("range") {
        None => blob.whole().dripping(16 * 1024, Duration::from_millis(5)),
        Some(_) => blob.answer(request),
    }
}

#[tokio::test]
async fn a_slow_stream_is_helped_by_ranges_further_on() {
    let blob = Blob::new(1024 * KIB, 1);
    let (result, ranges) = asked(&blob, hasty(), slow_stream(&blob)).await;
    result.expect("reads");
    assert_eq!(ranges.first().map(String::as_str), Some(""), "it begins with a plain request");
    assert!(ranges.len() > 8, "{ranges:?}");
    // Nothing is asked for twice, and nothing between them is left out.
    let ends = |range: &str| {
        let (first, last) = range.strip_prefix("bytes=").expect("a range").split_once('-').expect("a range");
        (first.parse::<u64>().expect("a number"), last.parse::<u64>().expect("a number"))
    };
    for pair in ranges[1..].windows(2) {
        assert_eq!(ends(&pair[0]).1 + 1, ends(&pair[1]).0, "{ranges:?}");
    }
    assert_eq!(ranges.last().map(|last| ends(last).1), Some(1024 * KIB - 1));
}

#[tokio::test]
async fn a_stream_that_has_stopped_is_slow_too() {
    let blob = Blob::new(1024 * KIB, 1);
    let twin = blob.clone();
    let count = AtomicUsize::new(0);
    let settings = RegistrySettings::new()
        .with_retries(0, Duration::ZERO)
        .with_timeouts(LIMIT, Duration::from_millis(300))
        .with_ranges(hasty());
    let server = FakeServer::start(move |request| match request.header("range") {
        None => Reply::new(200, &[("Content-Length", "1048576")], &twin.bytes[..20_000]).stalling(),
        Some("bytes=20000-") => {
            assert!(count.load(Ordering::SeqCst) > 0, "ranges were asked for before the stream was given up");
            twin.answer(request)
        }
        Some(_) => {
            count.fetch_add(1, Ordering::SeqCst);
            twin.answer(request)
        }
    })
    .await;
    let resolver = RegistryResolver::new(settings);
    let fetcher = resolver.fetcher(&format!("{}/library/image:1", server.address())).await.expect("one");
    assert!(read(fetcher.as_ref(), &blob, 0).await.expect("reads") == blob.bytes);
}

#[tokio::test]
async fn small_blobs_and_never_are_one_stream_however_slow() {
    let small = Blob::new(256 * KIB, 1);
    let (result, ranges) = asked(&small, hasty(), slow_stream(&small)).await;
    result.expect("reads");
    assert_eq!(ranges, [""]);

    let blob = Blob::new(320 * KIB, 1);
    let (result, ranges) = asked(&blob, hasty().with_split(Split::Never), slow_stream(&blob)).await;
    result.expect("reads");
    assert_eq!(ranges, [""]);
}

/// Answers to a request for a range that are not that range.
type Wrong = fn(&Blob, Range<u64>) -> Reply;

fn wrong_answers() -> Vec<(&'static str, Wrong)> {
    fn told(blob: &Blob, range: &Range<u64>, told: &str) -> Reply {
        Reply::new(206, &[("Content-Range", told)], blob.part(range.clone()))
    }
    vec![
        ("the whole", |blob, _| blob.whole()),
        ("416", |_, _| Reply::new(416, &[("Content-Range", "bytes */1")], "")),
        ("no Content-Range", |blob, range| Reply::new(206, &[], blob.part(range))),
        ("another first byte", |blob, range| {
            told(blob, &range, &format!("bytes {}-{}/358400", range.start + 1, range.end - 1))
        }),
        ("another last byte", |blob, range| {
            told(blob, &range, &format!("bytes {}-{}/358400", range.start, range.end))
        }),
        ("another total", |blob, range| {
            told(blob, &range, &format!("bytes {}-{}/358401", range.start, range.end - 1))
        }),
        ("no total", |blob, range| told(blob, &range, &format!("bytes {}-{}/*", range.start, range.end - 1))),
        ("another length", |blob, range| {
            let told = format!("bytes {}-{}/358400", range.start, range.end - 1);
            Reply::new(206, &[("Content-Range", &told)], &blob.part(range)[1..])
        }),
    ]
}

#[tokio::test]
async fn a_registry_that_gives_no_exact_ranges_gives_one_stream_and_is_remembered() {
    for (what, wrong) in wrong_answers() {
        for options in [always(100), hasty()] {
            let blob = Blob::new(350 * KIB, 1);
            let (twin, slow) = (blob.clone(), slow_stream(&blob));
            let server = FakeServer::start(move |request| match wanted(request, twin.descriptor.size) {
                None => slow(request),
                Some(range) => wrong(&twin, range),
            })
            .await;
            let fetcher = fetcher(&server.address(), options.clone()).await;
            let bytes = read(fetcher.as_ref(), &blob, 0).await;
            assert!(bytes.expect(what) == blob.bytes, "{what}");
            let plain = asked_of(&server).iter().filter(|range| range.is_empty()).count();
            assert_eq!((plain, server.requests().len()), (1, 2), "{what}: a range, and one stream");
            assert!(read(fetcher.as_ref(), &blob, 0).await.expect("reads again") == blob.bytes);
            assert_eq!(server.requests().len(), 3, "{what}: it is not asked for ranges again");
        }
    }
}

#[tokio::test]
async fn ranges_that_are_refused_later_are_followed_by_one_stream() {
    for status in [200, 416, 503] {
        let blob = Blob::new(350 * KIB, 1);
        let twin = blob.clone();
        let (result, ranges) = asked(&blob, always(100), move |request| match request.header("range") {
            Some("bytes=204800-307199") if status == 200 => twin.whole(),
            Some("bytes=204800-307199") => Reply::new(status, &[], ""),
            _ => twin.answer(request),
        })
        .await;
        result.expect("reads");
        assert!(ranges.contains(&"bytes=204800-".to_owned()), "{status}: {ranges:?}");
    }
}

#[tokio::test]
async fn a_range_of_another_etag_is_not_taken() {
    // A weak validator promises nothing, and changes nothing.
    for (etag, is_taken) in [("\"other\"", false), ("\"first\"", true), ("W/\"other\"", true)] {
        let blob = Blob::new(300 * KIB, 1);
        let twin = blob.clone();
        let (result, ranges) = asked(&blob, always(100), move |request| {
            let Some(range) = wanted(request, twin.descriptor.size) else { return twin.whole() };
            let told = format!("bytes {}-{}/307200", range.start, range.end - 1);
            let etag = if range.start == 0 { "\"first\"" } else { etag };
            Reply::new(206, &[("Content-Range", &told), ("ETag", etag)], twin.part(range))
        })
        .await;
        if is_taken {
            result.expect("reads");
            assert_eq!(ranges.len(), 3, "{ranges:?}");
        } else {
            assert!(ranges.contains(&"bytes=102400-".to_owned()), "{ranges:?}");
            result.expect("one stream goes on, and the digest decides");
        }
    }
}

#[tokio::test]
async fn each_range_goes_on_where_its_connection_broke() {
    let blob = Blob::new(300 * KIB, 1);
    let twin = blob.clone();
    let (result, ranges) = asked(&blob, always(100), move |request| {
        let range = wanted(request, twin.descriptor.size).expect("a range");
        // Every connection breaks after 60,000 bytes at most.
        let end = range.end.min(range.start + 60_000);
        twin.partial(range.clone(), twin.part(range.start..end))
    })
    .await;
    result.expect("reads");
    assert_eq!(
        ranges,
        [
            "bytes=0-102399",
            "bytes=60000-102399",
            "bytes=102400-204799",
            "bytes=162400-204799",
            "bytes=204800-307199",
            "bytes=264800-307199",
        ],
        "the bytes that are missing, and no other"
    );
}

#[tokio::test]
async fn a_range_that_breaks_again_and_again_is_given_up() {
    let blob = Blob::new(300 * KIB, 1);
    let twin = blob.clone();
    let (result, ranges) = asked(&blob, always(100), move |request| {
        let range = wanted(request, twin.descriptor.size).expect("a range");
        let body = if range.end == 200 * KIB { &[][..] } else { twin.part(range.clone()) };
        twin.partial(range.clone(), body)
    })
    .await;
    let error: Error = result.expect_err("gives up");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    let tries = ranges.iter().filter(|range| *range == "bytes=102400-204799").count();
    assert_eq!(tries, 4, "three breaks in a row are borne: {ranges:?}");
}

/// Waits until no more requests come.
async fn settled(server: &FakeServer) -> usize {
    let mut count = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = server.requests().len();
        if now == count {
            return now;
        }
        count = now;
    }
}

#[tokio::test]
async fn no_more_is_asked_for_than_there_is_room_for() {
    let blob = Blob::new(4096 * KIB, 1);
    let twin = blob.clone();
    let server = FakeServer::start(move |request| twin.answer(request)).await;
    let fetcher = fetcher(&server.address(), always(16).with_connections(5)).await;
    let mut one = fetcher.fetch(&blob.descriptor, 0).await.expect("fetches");
    let first = one.next().await.expect("a chunk").expect("a chunk");
    let mut other = fetcher.fetch(&blob.descriptor, 0).await.expect("fetches");
    let second = other.next().await.expect("a chunk").expect("a chunk");
    // One connection for each stream, and five between them.
    let asked = settled(&server).await;
    assert!((3..=7).contains(&asked), "{asked}");
    drop(one);
    let rest = collect(other, second).await;
    assert!(rest == blob.bytes && first == blob.bytes[..first.len()]);
}

async fn collect(mut stream: ByteStream, first: Bytes) -> Vec<u8> {
    let mut bytes = first.to_vec();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.expect("reads"));
    }
    bytes
}

#[tokio::test]
async fn long_ranges_are_read_ahead_only_as_far_as_the_buffer_goes() {
    // Longer than what sockets hold by themselves.
    let blob = Blob::new(64 << 20, 1);
    let twin = blob.clone();
    let server = FakeServer::start(move |request| twin.answer(request)).await;
    let options = always(16 << 10).with_buffer(NonZeroUsize::new(64 * 1024).expect("not zero"));
    let fetcher = fetcher(&server.address(), options).await;
    let mut stream = fetcher.fetch(&blob.descriptor, 0).await.expect("fetches");
    let first = stream.next().await.expect("a chunk").expect("a chunk");
    settled(&server).await;
    assert_eq!(server.finished(), 0, "no range was taken in whole while nobody took its bytes");
    assert!(collect(stream, first).await == blob.bytes);
}

#[tokio::test]
async fn a_stream_that_is_dropped_asks_for_nothing_more() {
    let blob = Blob::new(1024 * KIB, 1);
    let twin = blob.clone();
    let server =
        FakeServer::start(move |request| twin.answer(request).dripping(1024, Duration::from_millis(5))).await;
    let fetcher = fetcher(&server.address(), always(16)).await;
    let mut stream = fetcher.fetch(&blob.descriptor, 0).await.expect("fetches");
    stream.next().await.expect("a chunk").expect("a chunk");
    drop(stream);
    let asked = server.requests().len();
    let in_the_end = settled(&server).await;
    assert!(in_the_end <= asked + 4, "of 64 requests, those under way were the last: {asked}, {in_the_end}");
}
