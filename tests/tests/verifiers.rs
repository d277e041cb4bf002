//! Verifiers that are executables: what they are given, how they decide, and what ends them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use wharf_content::{Descriptor, Error, ErrorKind, Result, filter::FilterSet};
use wharf_images::{
    external::{VerifierDirectory, VerifierOptions},
    verifier::{Verdict, Verifier},
};
use wharf_remotes::PullOptions;
use wharf_tests::{Client, ImageFixture, Layer, TestRegistry};

/// A directory of scripts after `#!/bin/sh`.
struct Scripts(tempfile::TempDir);

impl Scripts {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let scripts_in = Self(tempfile::tempdir().expect("a temporary directory"));
        chmod(scripts_in.0.path(), 0o755);
        for (name, script) in scripts {
            fs::write(scripts_in.path(name), format!("#!/bin/sh\n{script}\n")).expect("written");
            chmod(&scripts_in.path(name), 0o755);
        }
        scripts_in
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Result<VerifierDirectory> {
        VerifierDirectory::open(self.0.path(), options())
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

/// Less time than there is by default, and enough for a script of one line on a busy machine.
fn options() -> VerifierOptions {
    VerifierOptions::default().with_time_limit(Duration::from_secs(5))
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

fn image() -> Descriptor {
    Descriptor::of("application/vnd.oci.image.index.v1+json", b"image")
}

async fn verdict(scripts: &[(&str, &str)]) -> Result<Verdict> {
    Scripts::new(scripts).open()?.verify("example.org/a:1", &image()).await
}

#[tokio::test]
async fn an_image_is_pulled_if_all_accept_and_before_anything_is_fetched() {
    let registry = TestRegistry::start().await;
    let fixture = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 10_000, 1)]);
    let name = registry.put("a:1", &fixture).await.expect("puts");
    // As they are told to write: the directory is where they work.
    let write = "echo \"$@\" > seen; cat > given";
    for (scripts, accepted, said) in [
        (&[("10-a", write), ("20-b", "echo fine")][..], true, ""),
        (&[("20-b", "echo '  no signature  '; exit 3"), ("10-a", write)], false, "no signature"),
        (&[("10-a", "exit 1"), ("20-b", write)], false, "gave no reason"),
        (&[("10-a", "kill -9 $$"), ("20-b", write)], false, "signal"),
        (&[], true, ""),
    ] {
        let scripts_in = Scripts::new(scripts);
        let client = Client::new().await;
        let options = PullOptions::new().with_verifier(Arc::new(scripts_in.open().expect("opens")));
        let options = options.with_selection(wharf_images::Selection::all());
        registry.take_log();
        let outcome = client.pull(&name, options).await;
        let requests = registry.take_log().len();
        if accepted {
            outcome.expect("accepted");
        } else {
            let error = outcome.expect_err("rejected");
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
            let report = error.report();
            assert!(report.contains(said) && report.contains("0-") && report.contains(&name), "{report}");
            assert_eq!(requests, 1, "it was resolved, and nothing else");
            assert_eq!(client.blobs().await, []);
            assert!(client.images.list(&FilterSet::all()).await.expect("lists").is_empty());
        }
        let first_writes = scripts.iter().any(|(name, script)| *name == "10-a" && *script == write);
        assert_eq!(
            scripts_in.path("seen").exists(),
            first_writes,
            "the first that rejects decides: {scripts:?}"
        );
        if first_writes {
            let target = registry.image(&name).await.expect("there").target;
            assert_eq!(
                scripts_in.said("seen").trim(),
                format!(
                    "-name {name} -digest {} -stdin-media-type application/vnd.oci.descriptor.v1+json",
                    target.digest
                )
            );
            let given: Descriptor = serde_json::from_str(&scripts_in.said("given")).expect("a descriptor");
            assert_eq!(given, target);
        }
    }
}

#[tokio::test]
async fn output_is_capped_and_does_not_decide() {
    let flood = "head -c 10000000 /dev/zero | tr '\\0' x";
    let Verdict::Accepted(reason) = verdict(&[("a", flood)]).await.expect("ends") else {
        panic!("it accepts")
    };
    assert!(reason.len() < 2000, "{}", reason.len());
    let errors = format!("({flood}) >&2; exit 0");
    assert!(matches!(verdict(&[("a", &errors)]).await, Ok(Verdict::Accepted(_))));
    let Verdict::Rejected(reason) = verdict(&[("a", &format!("{flood}; exit 1"))]).await.expect("ends")
    else {
        panic!("it rejects")
    };
    assert!(reason.len() < 2000, "{}", reason.len());
    // Who does not read what it is given has its own say.
    assert!(matches!(verdict(&[("a", "exec <&-; exit 0")]).await, Ok(Verdict::Accepted(_))));
}

#[tokio::test]
async fn who_takes_too_long_is_ended_with_all_that_it_started() {
    let scripts = Scripts::new(&[("slow", "sleep 1000 & echo $! > child; wait")]);
    let options = VerifierOptions::default().with_time_limit(Duration::from_millis(1500));
    let verifier = VerifierDirectory::open(scripts.0.path(), options).expect("opens");
    let begun = Instant::now();
    let error = verifier.verify("a", &image()).await.expect_err("no verdict");
    assert!(begun.elapsed() < Duration::from_secs(60), "it is not waited for");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("slow gave no answer within 1.5 s"), "{error}");
    gone(&scripts.said("child")).await;
}

#[tokio::test]
async fn who_gives_up_leaves_nothing_running() {
    let scripts = Scripts::new(&[("slow", "sleep 1000 & echo $! > child.new; mv child.new child; wait")]);
    let verifier = VerifierDirectory::open(scripts.0.path(), VerifierOptions::default()).expect("opens");
    let image = image();
    let asking = verifier.verify("a", &image);
    tokio::select! {
        verdict = asking => panic!("it sleeps: {verdict:?}"),
        () = async {
            for _ in 0..800 {
                if scripts.path("child").exists() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("it did not start");
        } => {}
    }
    gone(&scripts.said("child")).await;
}

/// Waits until a process has ended.
async fn gone(pid: &str) {
    let status = format!("/proc/{}/stat", pid.trim());
    for _ in 0..500 {
        // Nobody may have reaped it yet, who adopts it being slow.
        match fs::read_to_string(&status) {
            Ok(stat) if !stat.contains(") Z ") => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => return,
        }
    }
    panic!("process {pid} goes on");
}

#[test]
fn what_somebody_else_could_have_changed_or_cannot_be_run_is_refused() {
    type Prepare = fn(&Scripts);
    let cases: [(&str, Prepare, Option<ErrorKind>); 9] = [
        ("as it should be", |_| (), None),
        ("a hidden file", |it| fs::write(it.path(".keep"), "").expect("written"), None),
        ("a link to one that is ours", |it| symlink("/bin/true", it.path("link")).expect("links"), None),
        ("a file for everybody", |it| chmod(&it.path("a"), 0o777), Some(ErrorKind::PermissionDenied)),
        ("a directory for everybody", |it| chmod(it.0.path(), 0o777), Some(ErrorKind::PermissionDenied)),
        ("a file that cannot be run", |it| chmod(&it.path("a"), 0o644), Some(ErrorKind::PermissionDenied)),
        (
            "a directory in it",
            |it| fs::create_dir(it.path("b")).expect("made"),
            Some(ErrorKind::PermissionDenied),
        ),
        (
            "a link to nowhere",
            |it| symlink("/nowhere", it.path("b")).expect("links"),
            Some(ErrorKind::NotFound),
        ),
        (
            "eleven",
            |it| (0..10).for_each(|at| symlink("/bin/true", it.path(&at.to_string())).expect("links")),
            Some(ErrorKind::ResourceExhausted),
        ),
    ];
    for (what, prepare, kind) in cases {
        let scripts = Scripts::new(&[("a", "exit 0")]);
        prepare(&scripts);
        let opened = scripts.open();
        assert_eq!(opened.as_ref().err().map(Error::kind), kind, "{what}: {opened:?}");
    }
    let missing = VerifierDirectory::open(Path::new("/nowhere/at/all"), options()).expect_err("not there");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}
