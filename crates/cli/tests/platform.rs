//! `wharf platform`: what it says of a specifier, and that what it says would be chosen is what a pull takes.

mod support;

use serde_json::{Value, json};
use wharf_content::Descriptor;
use wharf_images::{Image, media_types as types};
use wharf_platforms::default_spec;
use wharf_tests::{ImageFixture, Layer, TestRegistry, image::put};

use support::{Wharf, three_platforms};

fn image_of(platforms: &[&str]) -> ImageFixture {
    platforms.iter().fold(ImageFixture::new(), |image, platform| {
        image.with(platform, vec![Layer::of("platform", *platform)])
    })
}

async fn json_of(wharf: &Wharf, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--format", "json"]].concat();
    serde_json::from_str(&wharf.run(&arguments).await.succeeded()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn how_specifiers_are_read() {
    let wharf = Wharf::new();
    let page =
        wharf.run(&["platform", "Linux/x86_64/v3", "windows(10.0.20348+win32k)/arm64"]).await.succeeded();
    let expected = "\
Specifier:     Linux/x86_64/v3
Platform:      linux/amd64/v3
OS:            linux
Architecture:  amd64
Variant:       v3
Accepts:       linux/amd64/v3, linux/amd64/v2, linux/amd64, linux/386

Specifier:     windows(10.0.20348+win32k)/arm64
Platform:      windows(10.0.20348+win32k)/arm64
OS:            windows
OS version:    10.0.20348
OS features:   win32k
Architecture:  arm64
Accepts:       windows(10.0.20348+win32k)/arm64, windows(10.0.20348+win32k)/arm/v8, windows(10.0.20348+win32k)/arm/v7, \
windows(10.0.20348+win32k)/arm/v6, windows(10.0.20348+win32k)/arm/v5
";
    assert_eq!(page, expected);
    for (specifiers, expected) in [
        (&["linux/armhf,linux/aarch64/v8"][..], "linux/arm/v7\nlinux/arm64\n"),
        (&["linux(+b+a)/amd64", "macos/arm64/9.0"], "linux(+a+b)/amd64\ndarwin/arm64/v9\n"),
    ] {
        let arguments = [&["platform", "-q"], specifiers].concat();
        assert_eq!(wharf.run(&arguments).await.succeeded(), expected);
    }
    assert_eq!(
        json_of(&wharf, &["platform", "windows(10.0.20348+win32k)/386"]).await,
        json!([{
            "specifier": "windows(10.0.20348+win32k)/386",
            "canonical": "windows(10.0.20348+win32k)/386",
            "platform": {
                "architecture": "386", "os": "windows", "os.version": "10.0.20348", "os.features": ["win32k"],
            },
            "accepts": ["windows(10.0.20348+win32k)/386"],
        }])
    );
    assert!(!wharf.dir.path().join("store").exists(), "none of it makes a store");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_the_default() {
    let wharf = Wharf::new();
    let canonical = wharf_platforms::normalize(&default_spec()).to_string();
    let by_default = wharf.run(&["platform"]).await.succeeded();
    assert!(by_default.contains(&format!("Platform:      {canonical}\n")), "{by_default}");
    assert_eq!(wharf.run(&["platform", "local"]).await.succeeded(), by_default);
    let os_alone = wharf.run(&["platform", "-q", &default_spec().os]).await.succeeded();
    assert_eq!(os_alone, format!("{canonical}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_variants_are_listed_in_part() {
    let wharf = Wharf::new();
    let read = json_of(&wharf, &["platform", "linux/arm64/v9.4294967295", "linux/arm64/v9.9"]).await;
    assert_eq!(
        (read[0]["accepts"].as_array().map(Vec::len), &read[0]["acceptsMore"]),
        (Some(64), &json!(true))
    );
    assert_eq!(
        (read[1]["accepts"].as_array().map(Vec::len), &read[1]["acceptsMore"]),
        (Some(24), &Value::Null)
    );
    let page = wharf.run(&["platform", "linux/amd64/v4000000000"]).await.succeeded();
    assert!(page.ends_with(", …\n"), "{page}");
}

/// What each of an image's choices is called, and whether it matches.
fn order(reading: &Value) -> Vec<(String, bool)> {
    let choices = reading["match"]["choices"].as_array().expect("choices");
    let chosen: Vec<bool> = choices.iter().map(|choice| choice["chosen"] == true).collect();
    let first = choices.first().is_some_and(|choice| choice["matches"] == true);
    assert_eq!(chosen.iter().filter(|chosen| **chosen).count(), usize::from(first), "{reading}");
    assert_eq!(chosen.first().copied().unwrap_or_default(), first, "the first that matches is chosen");
    let platform = |choice: &Value| choice["platform"].as_str().unwrap_or("-").to_owned();
    choices.iter().map(|choice| (platform(choice), choice["matches"] == true)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_chosen_is_what_a_pull_takes() {
    let offered = [
        "linux/386",
        "linux/amd64",
        "linux/amd64/v3",
        "linux/arm/v6",
        "linux/arm/v7",
        "linux/arm64",
        "linux(+gpu)/amd64",
        "windows(10.0.17763.1)/amd64",
        "windows(10.0.20348.2)/amd64",
        "windows(10.0.20348.10)/amd64",
        "windows(10.0.26100.1)/amd64",
    ];
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &image_of(&offered)).await.expect("puts");
    for (wanted, matching) in [
        ("linux/amd64", &["linux/amd64", "linux/386"][..]),
        ("linux(+gpu)/amd64/v2", &["linux(+gpu)/amd64", "linux/amd64", "linux/386"]),
        ("linux/amd64/v4", &["linux/amd64/v3", "linux/amd64", "linux/386"]),
        ("linux/arm64/v9.1", &["linux/arm64", "linux/arm/v7", "linux/arm/v6"]),
        ("linux/arm/v6", &["linux/arm/v6"]),
        ("windows(10.0.22621)/amd64", &["windows(10.0.20348.10)/amd64", "windows(10.0.20348.2)/amd64"]),
        ("windows(10.0.17763)/amd64", &["windows(10.0.17763.1)/amd64"]),
    ] {
        let wharf = Wharf::new();
        let readings = json_of(&wharf, &["platform", wanted, "--match", &name]).await;
        let order = order(&readings[0]);
        let shown: Vec<&str> =
            order.iter().filter(|(_, matches)| *matches).map(|(platform, _)| platform.as_str()).collect();
        assert_eq!(shown, matching, "for {wanted}");
        assert_eq!(order.len(), offered.len());
        assert_eq!(readings[0]["match"]["source"], "remote");

        let digest = wharf.run(&["platform", "-q", wanted, "--match", &name]).await.succeeded();
        wharf.run(&["pull", "--platform", wanted, &name]).await.succeeded();
        let local = json_of(&wharf, &["platform", wanted, "--match", &name]).await;
        let choices = local[0]["match"]["choices"].as_array().expect("choices");
        let present: Vec<&Value> = choices.iter().filter(|choice| choice["present"] == true).collect();
        assert_eq!(present.len(), 1, "one platform was pulled");
        assert_eq!(present[0]["digest"], digest.trim_end(), "for {wanted}");
        assert_eq!((&present[0]["chosen"], &local[0]["match"]["source"]), (&json!(true), &json!("store")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_an_image_in_the_store() {
    let registry = TestRegistry::start().await;
    let name = registry
        .put("a/b:1", &image_of(&["linux/arm/v7", "linux/arm64", "linux/amd64"]))
        .await
        .expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/arm/v7", &name]).await.succeeded();
    let page = wharf.run(&["platform", "linux/arm64", "--match", &name]).await.succeeded();
    assert!(
        page.contains(&format!("Image:         {name}@sha256:")) && page.contains(" (store)\n"),
        "{page}"
    );
    let rows: Vec<Vec<&str>> = page
        .lines()
        .skip_while(|line| !line.starts_with("CHOICE"))
        .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect())
        .collect();
    let cells: Vec<_> = rows.iter().map(|row| (row[0], row[1], row[3])).collect();
    assert_eq!(
        cells,
        [
            ("CHOICE", "PLATFORM", "IN STORE"),
            ("chosen", "linux/arm64", "no"),
            ("2", "linux/arm/v7", "yes"),
            ("-", "linux/amd64", "no"),
        ]
    );
    // What reads the store takes the first that is there, as the help says.
    let inspected = json_of(&wharf, &["inspect", "--platform", "linux/arm64", &name]).await;
    assert_eq!(inspected["manifest"]["digest"], rows[2][2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_image_costs_its_index() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    registry.take_log();
    wharf.run(&["platform", "linux/amd64", "linux/arm64", "--match", &name]).await.succeeded();
    let gets: Vec<_> = registry.take_log().into_iter().filter(|record| record.method == "GET").collect();
    let manifests = gets.iter().filter(|record| record.path.contains("/manifests/")).count();
    let blobs = gets.iter().filter(|record| record.path.contains("/blobs/")).count();
    assert_eq!((manifests, blobs), (1, 0), "{gets:?}");
    assert_eq!(wharf.run(&["ls", "-q"]).await.succeeded(), "", "nothing is recorded");
}

/// `[ index of no platform [ linux/amd64, linux/arm64 ], linux/386, manifest of no platform (s390x), attestation ]`
async fn nested(registry: &TestRegistry) -> String {
    let store = registry.store();
    let inner = image_of(&["linux/amd64", "linux/arm64"]).write(store).await.expect("writes");
    let of_386 = image_of(&["linux/386"]).write(store).await.expect("writes");
    let of_386 = of_386.with_platform(wharf_platforms::parse("linux/386").expect("a platform"));
    let plain = image_of(&["linux/s390x"]).write(store).await.expect("writes");
    let attestation = image_of(&["linux/riscv64"]).write(store).await.expect("writes");
    let attestation = attestation.with_platform(wharf_platforms::Platform::new("unknown", "unknown"));
    let index = json!({
        "schemaVersion": 2, "mediaType": types::OCI_INDEX, "manifests": [inner, of_386, plain, attestation],
    });
    let index = serde_json::to_vec(&index).expect("JSON");
    let target: Descriptor = put(store, types::OCI_INDEX, index).await.expect("writes");
    let name = registry.reference("nested:1");
    registry.record(Image::new(&name, target)).await.expect("records");
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_gone_through_level_by_level() {
    let registry = TestRegistry::start().await;
    let name = nested(&registry).await;
    let wharf = Wharf::new();
    for (wanted, expected) in [
        // What says its platform is taken before one looks into what does not.
        (
            "linux/amd64",
            [("linux/386", true), ("linux/amd64", true), ("linux/arm64", false), ("linux/s390x", false)],
        ),
        (
            "linux/arm64",
            [("linux/arm64", true), ("linux/386", false), ("linux/amd64", false), ("linux/s390x", false)],
        ),
        (
            "linux/s390x",
            [("linux/s390x", true), ("linux/386", false), ("linux/amd64", false), ("linux/arm64", false)],
        ),
    ] {
        let readings = json_of(&wharf, &["platform", wanted, "--match", &name]).await;
        let order = order(&readings[0]);
        let order: Vec<_> = order.iter().map(|(platform, matches)| (platform.as_str(), *matches)).collect();
        assert_eq!(order, expected, "for {wanted}");
        let inspected = json_of(&wharf, &["inspect", "--platform", wanted, &name]).await;
        assert_eq!(
            inspected["manifest"]["digest"], readings[0]["match"]["choices"][0]["digest"],
            "for {wanted}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_pulled_may_be_anything() {
    let registry = TestRegistry::start().await;
    let name = nested(&registry).await;
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/386", &name]).await.succeeded();
    let readings = json_of(&wharf, &["platform", "linux/arm64", "--match", &name]).await;
    let choices = readings[0]["match"]["choices"].as_array().expect("choices");
    let shown: Vec<_> = choices
        .iter()
        .map(|choice| (choice["platform"].as_str(), choice["matches"] == true, choice["present"] == true))
        .collect();
    // The inner index and the manifest that tells no platform, and what is known to be another.
    assert_eq!(shown, [(None, true, false), (None, true, false), (Some("linux/386"), false, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_platform_is_judged_by_its_config() {
    let registry = TestRegistry::start().await;
    let name = registry.put("one:1", &image_of(&["linux/arm/v7"])).await.expect("puts");
    let wharf = Wharf::new();
    let readings = json_of(&wharf, &["platform", "linux/arm64", "--match", &name]).await;
    assert_eq!(order(&readings[0]), [("linux/arm/v7".to_owned(), true)]);
    let none = wharf.run(&["platform", "-q", "linux/amd64", "--match", &name]).await.failed(2);
    assert!(none.contains("linux/amd64; there is linux/arm/v7"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn among_platforms_without_an_image() {
    let wharf = Wharf::new();
    let among = ["--among", "linux/386,linux/arm64", "--among", "linux/x86_64"];
    let page = wharf.run(&[&["platform", "linux/amd64"][..], &among].concat()).await.succeeded();
    assert!(
        page.ends_with("\n\nCHOICE  PLATFORM\nchosen  linux/amd64\n2       linux/386\n-       linux/arm64\n"),
        "{page}"
    );
    let chosen = wharf.run(&[&["platform", "-q", "linux/amd64", "linux/arm64"][..], &among].concat()).await;
    assert_eq!(chosen.succeeded(), "linux/amd64\nlinux/arm64\n");
    let readings = json_of(&wharf, &[&["platform", "linux/arm64"][..], &among].concat()).await;
    assert_eq!(readings[0]["match"]["image"], Value::Null);
    assert_eq!(order(&readings[0])[0], ("linux/arm64".to_owned(), true));
    assert!(!wharf.dir.path().join("store").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn that_none_fits_is_shown_and_a_failure() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &image_of(&["linux/arm64", "linux/amd64"])).await.expect("puts");
    let wharf = Wharf::new();
    let done = wharf.run(&["platform", "linux/riscv64", "linux/amd64", "--match", &name]).await;
    assert_eq!(done.code(), 2, "{}", done.err());
    assert!(
        done.out().contains("-       linux/arm64") && done.out().contains("chosen  linux/amd64"),
        "{}",
        done.out()
    );
    assert_eq!(
        done.err(),
        format!(
            "error[not found]: no platform of {name} runs on linux/riscv64; there is linux/arm64, linux/amd64\n"
        )
    );
    let none = wharf.run(&["platform", "-q", "linux/riscv64", "--among", "linux/amd64"]).await.failed(2);
    assert!(none.contains("no platform runs on linux/riscv64; there is linux/amd64"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named() {
    let wharf = Wharf::new();
    for (arguments, expected) in [
        (&["linux/&"][..], "\"linux/&\": the architecture \"&\" is not a word"),
        (&["linux/amd64", "beos"], "\"beos\" is neither a known operating system nor a known architecture"),
        (&["linux/*"], "wildcards are not supported"),
        (&["a/b/c/d"], "more than three parts"),
        (&["windows(10.0/amd64"], "(version+feature+feature)"),
        (&[""], "it is empty"),
        (&["linux/amd64,"], "it is empty"),
        (&["linux/\u{1b}[2J"], "\\u{1b}[2J"),
        (&["all"], "\"all\" is every platform"),
        (&["--among", "linux/amd64,linux/"], "the architecture \"\" is not a word"),
        (&["--local"], "--local and --remote say where to look for the image of --match"),
        (&["--match", "x", "--among", "linux"], "cannot be used with"),
        (&["--match", "UPPER"], "UPPER"),
    ] {
        let error = wharf.run(&[&["platform"], arguments].concat()).await.failed(3);
        assert!(error.contains(expected) && !error.contains('\u{1b}'), "{arguments:?}: {error}");
    }
    let missing = wharf.run(&["platform", "--match", "nothing:1", "--local"]).await.failed(2);
    assert!(missing.contains("\"docker.io/library/nothing:1\" in the store\nhint: "), "{missing}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_with_one_platform_takes_no_more() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let (directory, file) = (wharf.path("made"), wharf.path("file"));
    let several = &["--platform", "linux/amd64,linux/arm64"][..];
    for command in [
        &["unpack", &name][..],
        &["unpack", &name, &directory],
        &["mount", &name, &directory],
        &["bundle", &name, &directory],
        &["run", "--runtime", "/bin/true", &name],
        &["cat", &name, "/etc/name"],
        &["ls-files", &name],
        &["config", &name],
        &["export", "--type", "docker", "-o", &file, &name],
    ] {
        for flags in [several, &["--platform", "all"], &["--all-platforms"]] {
            let error = wharf.run(&[command, flags].concat()).await.failed(3);
            assert!(error.contains("give one --platform"), "{command:?}, {flags:?}: {error}");
        }
    }
    assert!(!std::fs::exists(&directory).expect("looks") && !std::fs::exists(&file).expect("looks"));
    // The index is one document for all of them.
    wharf.run(&["manifest", &name, "--all-platforms"]).await.succeeded();
    wharf.run(&[&["manifest", &name], several].concat()).await.failed(3);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_was_not_pulled_is_named() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", &name]).await.succeeded();
    let directory = wharf.path("made");
    for command in [
        &["unpack", &name][..],
        &["unpack", &name, &directory],
        &["bundle", &name, &directory],
        &["cat", "--local", &name, "/etc/name"],
        &["config", "--local", &name],
    ] {
        let error = wharf.run(&[command, &["--platform", "linux/s390x"]].concat()).await.failed(2);
        let is_told = error.contains("platform linux/s390x of sha256:") && error.contains(" is not here: ");
        assert!(
            is_told && error.contains("hint: pull the image for that --platform"),
            "{command:?}: {error}"
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_with_one_platform_offers_no_other() {
    let registry = TestRegistry::start().await;
    let name = registry.put("a/b:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let directory = wharf.path("directory");
    for command in [
        &["unpack", &name, &directory][..],
        &["mount", &name, &directory],
        &["bundle", &name, &directory],
        &["run", &name],
        &["cat", &name, "/data"],
        &["ls-files", &name],
        &["config", &name],
    ] {
        let help = wharf.run(&[command[0], "--help"]).await.succeeded();
        assert!(help.contains("--platform <P>") && !help.contains("all-platforms"), "{help}");
        for many in ["--all-platforms", "--platform=all", "--platform=linux/amd64,linux/arm64"] {
            let refused = wharf.run(&[command, &[many]].concat()).await.failed(3);
            assert!(refused.contains("this is done with one platform: give one --platform"), "{refused}");
        }
    }
    let other = "--platform=linux/mips64";
    let error = wharf.run(&["config", other, &name]).await.failed(2);
    assert!(error.ends_with("hint: choose one of those with --platform\n"), "{error}");
    let error = wharf.run(&["export", other, &name, "-o", &directory]).await.failed(2);
    assert!(error.ends_with("with --platform, or take them all with --all-platforms\n"), "{error}");
}
