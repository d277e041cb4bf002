//! `wharf content` as a user runs it.

mod support;

use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wharf_content::{Algorithm, Digest};
use wharf_tests::{TestRegistry, image::noise};

use support::{Done, Wharf, three_platforms};

impl Wharf {
    /// Writes a file beside the store.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.dir.path().join(name), bytes).expect("writes");
        self.path(name)
    }

    /// Runs with `input` on standard input.
    fn fed(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        // It may have enough before the end.
        drop(child.stdin.take().expect("piped").write_all(input));
        Done(child.wait_with_output().expect("the program ends"))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("store/blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[arguments, &["--format", "json"]].concat()).await.succeeded();
        serde_json::from_str(&text).expect("JSON")
    }

    /// Stores a blob and gives its digest.
    fn store(&self, bytes: &[u8]) -> Digest {
        let printed = self.fed(&["content", "ingest", "stored"], bytes).succeeded();
        printed.trim().parse().expect("a digest")
    }
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let wharf = Wharf::new();
    let bytes = noise(3_000_000, 1);
    let digest = Digest::sha256(&bytes);
    let file = wharf.file("bytes", &bytes);
    assert_eq!(wharf.run(&["content", "ingest", "a", &file]).await.succeeded(), format!("{digest}\n"));
    assert_eq!(wharf.fed(&["content", "ingest", "b"], &bytes).succeeded(), format!("{digest}\n"), "again");
    assert_eq!(wharf.run(&["content", "active", "-q"]).await.succeeded(), "");

    let got = wharf.run(&["content", "get", digest.as_str()]).await;
    assert!(got.0.stdout == bytes && got.err().is_empty() && got.code() == 0);
    let part = ["content", "get", &digest.hex()[..7], "--offset", "1048570", "--length", "1100000"];
    assert!(wharf.run(&part).await.0.stdout == bytes[1_048_570..2_148_570]);
    let all = ["content", "get", digest.as_str(), "--offset", "2999999", "--length", "9"];
    assert!(wharf.run(&all).await.0.stdout == bytes[2_999_999..]);
    assert_eq!(wharf.run(&["content", "get", digest.as_str(), "--offset", "3000000"]).await.succeeded(), "");
    wharf.run(&["content", "get", digest.as_str(), "--offset", "3000001"]).await.failed(3);

    let out = wharf.path("out");
    assert_eq!(wharf.run(&["c", "get", digest.as_str(), "-o", &out]).await.succeeded(), format!("{out}\n"));
    assert!(fs::read(&out).expect("made") == bytes);
}

#[tokio::test]
async fn expectations() {
    let wharf = Wharf::new();
    let (right, wrong) = (Digest::sha256(b"right"), Digest::sha256(b"wrong"));
    for (arguments, words) in [
        (["--expected-digest", wrong.as_str()], ["digest mismatch", right.as_str()]),
        (["--expected-size", "4"], ["size mismatch", "has more"]),
        (["--expected-size", "6"], ["size mismatch", "ended after 5"]),
    ] {
        let error = wharf.fed(&[&["content", "ingest", "x"], &arguments[..]].concat(), b"right").failed(5);
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(wharf.run(&["content", "ls", "-q"]).await.succeeded(), "");
        let left = wharf.run(&["content", "active", "-q"]).await.succeeded();
        assert_eq!(left, if arguments[1] == "6" { "x\n" } else { "" }, "a wrong byte is never resumed");
    }
    let both = ["content", "ingest", "x", "--expected-digest", right.as_str(), "--expected-size", "5"];
    assert_eq!(wharf.fed(&both, b"right").succeeded(), format!("{right}\n"));
    assert_eq!(wharf.fed(&both, b"").succeeded(), format!("{right}\n"), "it is there already");
    let size = ["content", "ingest", "x", "--expected-digest", right.as_str(), "--expected-size", "6"];
    wharf.fed(&size, b"right").failed(5);

    let sha512 = Algorithm::Sha512.digest(b"right");
    let other = ["content", "ingest", "x", "--expected-digest", sha512.as_str()];
    assert_eq!(wharf.fed(&other, b"right").succeeded(), format!("{sha512}\n"));
    wharf.fed(&["content", "ingest", ""], b"x").failed(3);
    wharf.fed(&["content", "ingest", "x", "--label", "key"], b"x").failed(3);
    wharf.fed(&["content", "ingest", "x", "--expected-digest", "sha256:12"], b"x").failed(3);
    wharf.fed(&["content", "ingest", "x", "--lease", "none"], b"x").failed(2);
}

#[tokio::test]
async fn a_collection_tells_of_what_is_unfinished() {
    let wharf = Wharf::new();
    let quiet = wharf.run(&["gc"]).await;
    assert_eq!(quiet.err(), "");
    for (count, reference) in [(1, "one"), (2, "two")] {
        let begin = ["content", "ingest", reference, "--expected-size", "4000000"];
        wharf.fed(&begin, &noise(2_500_000, count)).failed(5);
        for command in [&["gc"][..], &["gc", "--dry-run"]] {
            let done = wharf.run(command).await;
            let expected =
                if count == 1 { "kept 1 ingest of 2.5 MB: " } else { "kept 2 ingests of 5.0 MB: " };
            assert!(done.err().starts_with(expected), "{}", done.err());
            assert!(done.err().contains("`wharf content abort`"), "{}", done.err());
            assert_eq!(done.succeeded(), "", "nothing goes");
        }
        let kept = wharf.json(&["gc"]).await["ingestsKept"].clone();
        assert_eq!(kept, json!({ "count": count, "bytes": count * 2_500_000 }));
    }
    assert_eq!(wharf.run(&["gc", "-q"]).await.err(), "");
    wharf.run(&["content", "abort", "one", "two"]).await.succeeded();
    assert_eq!(wharf.run(&["gc"]).await.err(), "");
}

#[tokio::test]
async fn an_ingest_goes_on_where_it_was_only_with_the_same_bytes() {
    let wharf = Wharf::new();
    let bytes = noise(4_000_000, 2);
    let begin = || {
        let begun =
            wharf.fed(&["content", "ingest", "part", "--expected-size", "4000000"], &bytes[..2_500_000]);
        assert!(begun.failed(5).contains("kept as ingest \"part\""));
    };
    let whole = ["content", "ingest", "part", "--expected-size", "4000000"];

    begin();
    let active = wharf.json(&["content", "active"]).await;
    let (one, started) = (&active[0], active[0]["started"].clone());
    assert_eq!(
        (&one["ref"], &one["offset"], &one["total"]),
        (&"part".into(), &2_500_000.into(), &4_000_000.into())
    );
    let table = wharf.run(&["content", "active"]).await.succeeded();
    assert!(table.starts_with("REF ") && table.contains("2.5 MB") && table.contains("4.0 MB"), "{table}");
    // The same bytes once more: what is there stays.
    begin();
    assert_eq!(wharf.json(&["content", "active", "ref==part"]).await[0]["started"], started);
    let file = wharf.file("whole", &bytes);
    let digest = wharf.run(&[&whole[..], &[&file]].concat()).await.succeeded();
    assert_eq!(digest.trim(), Digest::sha256(&bytes).as_str(), "from a file");

    let other = noise(4_000_000, 3);
    let file = wharf.file("other", &other);
    begin();
    let digest = wharf.run(&[&whole[..], &[&file]].concat()).await.succeeded();
    assert_eq!(digest.trim(), Digest::sha256(&other).as_str(), "from another file");
    begin();
    let digest = wharf.run(&["content", "ingest", "part", &wharf.file("short", b"short")]).await.succeeded();
    assert_eq!(digest.trim(), Digest::sha256(b"short").as_str(), "from a shorter file");

    begin();
    let mut third = bytes.clone();
    third[0] ^= 1;
    let digest = wharf.fed(&whole, &third).succeeded();
    assert_eq!(digest.trim(), Digest::sha256(&third).as_str(), "from a pipe");
    assert_eq!(wharf.run(&["content", "active", "-q"]).await.succeeded(), "");
}

#[tokio::test]
async fn interrupted_and_aborted() {
    let wharf = Wharf::new();
    let mut child = wharf
        .command(&["content", "ingest", "slow"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(&noise(4 << 20, 4)).expect("it reads");
    let begun = Instant::now();
    while !wharf.run(&["content", "active", "-q"]).await.succeeded().contains("slow") {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never begins");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let busy = wharf.run(&["content", "abort", "slow"]).await.failed(1);
    assert!(busy.contains("another writer is at work"), "{busy}");

    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("waits");
    assert_eq!(status.code(), Some(130), "while it waits for input");
    drop(input);

    let missing = wharf.run(&["content", "abort", "nothing", "slow", "neither"]).await;
    assert_eq!((missing.code(), missing.out()), (7, "slow\n".into()));
    assert!(
        missing.err().contains("\"nothing\"") && missing.err().contains("\"neither\""),
        "{}",
        missing.err()
    );
    assert_eq!(wharf.run(&["content", "active", "-q"]).await.succeeded(), "");
}

#[tokio::test]
async fn listed_described_and_labelled() {
    let wharf = Wharf::new();
    let (one, two) = (wharf.store(b"one"), wharf.store(b"two and more"));
    let listed = wharf.run(&["content", "ls"]).await.succeeded();
    assert!(
        listed.starts_with("DIGEST ") && listed.contains("12 B") && listed.lines().count() == 3,
        "{listed}"
    );
    let mut digests = [one.to_string(), two.to_string()];
    digests.sort();
    assert_eq!(wharf.run(&["content", "ls", "-q"]).await.succeeded(), digests.join("\n") + "\n");

    let label = ["content", "label", one.hex(), "a=1", "containerd.io/gc.root=yes", "b="];
    assert_eq!(wharf.run(&label).await.succeeded(), "a=1\ncontainerd.io/gc.root=yes\n");
    assert_eq!(
        wharf.run(&["content", "label", one.hex(), "a="]).await.succeeded(),
        "containerd.io/gc.root=yes\n"
    );
    let only = ["content", "ls", "-q", "labels.\"containerd.io/gc.root\"==yes"];
    assert_eq!(wharf.run(&only).await.succeeded(), format!("{one}\n"));
    wharf.run(&["content", "ls", "size="]).await.failed(3);
    wharf.run(&["content", "label", one.hex(), "=x"]).await.failed(3);
    let long = format!("k={}", "v".repeat(4096));
    wharf.run(&["content", "label", one.hex(), &long]).await.failed(3);
    wharf.run(&["content", "label", Digest::sha256(b"none").as_str(), "a=1"]).await.failed(2);

    let rows = wharf.json(&["content", "ls", "size==3"]).await;
    assert_eq!(rows.as_array().map(Vec::len), Some(1));
    assert_eq!(rows[0]["labels"], serde_json::json!({ "containerd.io/gc.root": "yes" }));
    let described = wharf.run(&["content", "info", one.hex(), "0123456", two.as_str()]).await;
    assert_eq!(described.code(), 7, "partly done");
    let (text, error) = (described.out(), described.err());
    assert!(text.contains("3 B (3 bytes)") && text.contains("Label:    containerd.io/gc.root=yes"), "{text}");
    assert!(text.contains(two.as_str()) && error.contains("0123456"), "{text}{error}");
    let info = wharf.json(&["content", "info", two.as_str()]).await;
    assert_eq!((&info[0]["digest"], &info[0]["size"]), (&two.as_str().into(), &12.into()));

    // Labels that are there already stay, those that are given are set: in the store before, or new.
    let again =
        wharf.fed(&["content", "ingest", "x", "--label", "c=3", "--format", "json"], b"one").succeeded();
    let again: Value = serde_json::from_str(&again).expect("JSON");
    assert_eq!(again["new"], false);
    assert_eq!(again["labels"], serde_json::json!({ "c": "3", "containerd.io/gc.root": "yes" }));
    wharf.fed(&["content", "ingest", "x", "--label", "containerd.io/gc.root=yes"], b"kept").succeeded();
    let gone = wharf.run(&["gc", "-q"]).await.succeeded();
    assert_eq!(gone, format!("{two}\n"), "roots stay");
}

#[tokio::test]
async fn a_prefix_names_content_if_it_names_one() {
    let wharf = Wharf::new();
    let sha256 = wharf.store(b"x");
    // The names alone are compared.
    let twin = format!("{}{}", &sha256.hex()[..10], "0".repeat(54));
    fs::write(wharf.blob(&format!("sha256:{twin}").parse().expect("a digest")), "y").expect("writes");
    for prefix in [&sha256.hex()[..7], &format!("sha256:{}", &sha256.hex()[..10])] {
        let error = wharf.run(&["content", "get", prefix]).await.failed(3);
        assert!(
            error.contains("ambiguous") && error.contains(sha256.as_str()) && error.contains(&twin),
            "{error}"
        );
        wharf.run(&["content", "rm", prefix]).await.failed(3);
    }
    assert_eq!(wharf.run(&["content", "get", &sha256.hex()[..11]]).await.succeeded(), "x");
    wharf.run(&["content", "get", &sha256.hex()[..6]]).await.failed(3);
    wharf.run(&["content", "get", "busybox"]).await.failed(3);
    wharf.run(&["content", "get", "sha512:0123456"]).await.failed(2);
}

#[tokio::test]
async fn damage_is_told() {
    let wharf = Wharf::new();
    let bytes = noise(2_000_000, 5);
    let digest = wharf.store(&bytes);
    let path = wharf.blob(&digest);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
    let mut flipped = bytes.clone();
    flipped[1_999_999] ^= 1;
    let cases: [(&str, &[u8]); 4] = [
        ("flipped", &flipped),
        ("truncated", &bytes[..1_000_000]),
        ("extended", &[&bytes[..], b"x"].concat()),
        ("empty", b""),
    ];
    for (how, damaged) in cases {
        fs::write(&path, damaged).expect("writes");
        for arguments in
            [&["content", "get", digest.as_str()][..], &["content", "get", digest.hex(), "--length", "1"]]
        {
            let got = wharf.run(arguments).await;
            assert_eq!(got.code(), 5, "{how}");
            assert!(got.err().contains("is damaged") && got.err().contains(digest.as_str()), "{}", got.err());
        }
        let out = wharf.file("out", b"what was there");
        wharf.run(&["content", "get", digest.as_str(), "-o", &out]).await.failed(5);
        assert_eq!(fs::read(&out).expect("there"), b"what was there", "{how}");
        assert_eq!(fs::read_dir(wharf.dir.path()).expect("lists").count(), 2, "no temporary file stays");
    }
    fs::write(&path, &bytes).expect("writes");
    assert_eq!(wharf.run(&["content", "get", digest.as_str()]).await.code(), 0, "the twin without damage");
    fs::remove_file(&path).expect("ours");
    std::os::unix::fs::symlink("/etc/passwd", &path).expect("links");
    wharf.run(&["content", "get", digest.as_str()]).await.failed(5);
    assert_eq!(wharf.run(&["content", "rm", digest.as_str()]).await.succeeded(), format!("{digest}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_needs_goes_with_a_warning() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    let free = wharf.store(b"nobody needs this");
    let page = wharf.json(&["inspect", "--local", "--platform", "linux/amd64", &name]).await;
    let of = |value: &Value| value.as_str().expect("a digest").to_owned();
    let (index, layer) = (of(&page["digest"]), of(&page["manifest"]["layers"][0]["digest"]));

    let missing = Digest::sha256(b"never there").to_string();
    let removed =
        wharf.run(&["content", "rm", &missing, &index, &layer, free.as_str(), "0123456", &layer]).await;
    assert_eq!((removed.code(), removed.out()), (7, format!("{index}\n{layer}\n{free}\n")));
    let error = removed.err();
    for digest in [&index, &layer] {
        assert!(error.contains(&format!("warning: image {name} needs {digest}")), "{error}");
    }
    assert!(
        !error.contains(free.as_str()) && error.contains(&missing) && error.contains("0123456"),
        "{error}"
    );
    assert_eq!(error.matches("error[not found]").count(), 2, "{error}");
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    assert_eq!(wharf.run(&["content", "info", "-q", &layer]).await.succeeded(), format!("{layer}\n"));
}

#[tokio::test]
async fn a_reader_that_goes_away_has_not_got_all() {
    let wharf = Wharf::new();
    let digest = wharf.store(&noise(4 << 20, 6));
    let mut child = wharf
        .command(&["content", "get", digest.as_str()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let done = child.wait_with_output().expect("ends");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(8), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_collected_from_under_an_ingest() {
    let wharf = Wharf::new();
    // What is stored is held until the answer is given, not a moment less.
    let mut child = wharf
        .command(&["content", "ingest", "slow"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let begun = Instant::now();
    loop {
        let leases = wharf.json(&["lease", "ls"]).await;
        if leases[0]["held"] == true {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it holds nothing: {leases}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(child.stdin.take());
    assert!(
        tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("waits").success()
    );
    assert_eq!(wharf.run(&["lease", "ls", "-q"]).await.succeeded(), "", "and then let go");

    let collecting = async {
        for _ in 0..40 {
            wharf.run(&["gc", "-q"]).await.succeeded();
        }
    };
    let file = wharf.file("bytes", &noise(1 << 20, 7));
    let ingesting = async {
        for _ in 0..40 {
            wharf.run(&["content", "ingest", "x", &file, "--label", "a=1"]).await.succeeded();
        }
    };
    tokio::join!(collecting, ingesting);

    wharf.run(&["lease", "create", "--id", "mine"]).await.succeeded();
    let kept = wharf.fed(&["content", "ingest", "y", "--lease", "mine"], b"kept").succeeded();
    wharf.run(&["gc"]).await.succeeded();
    assert_eq!(wharf.run(&["content", "ls", "-q"]).await.succeeded(), kept);
    assert_eq!(wharf.json(&["lease", "ls"]).await[0]["resources"], 1);
    // Also by the lease, what another one keeps already.
    wharf.run(&["lease", "create", "--id", "other"]).await.succeeded();
    wharf.fed(&["content", "ingest", "y", "--lease", "other"], b"kept").succeeded();
    wharf.run(&["lease", "rm", "mine"]).await.succeeded();
    assert_eq!(wharf.run(&["gc"]).await.succeeded(), "");
}
