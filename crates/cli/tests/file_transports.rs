//! Layouts and archives, as a user types them: `oci:`, `oci-archive:`, `docker-archive:`, and the options of `export` and `import`.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Done, Wharf, three_platforms};
use wharf_content::Descriptor;
use wharf_images::media_types as types;
use wharf_tests::TestRegistry;

#[tokio::test]
async fn commands_take_files_and_directories() {
    let registry = TestRegistry::start().await;
    let from = registry.put("team/image:1", &three_platforms()).await.expect("puts");
    let digest = registry.image(&from).await.expect("there").target.digest;
    let wharf = Wharf::new();
    for (scheme, file, name) in [
        ("oci", "layout", "ghcr.io/owner/image:1"),
        ("oci-archive", "oci.tar", "ghcr.io/owner/image:1"),
        ("docker-archive", "docker.tar", "ghcr.io/owner/image:1"),
    ] {
        let place = format!("{scheme}:{}", wharf.path(file));
        let full = format!("{place}:{name}");
        let out = wharf.run(&["copy", &from, &full]).await.succeeded();
        assert_eq!(out, format!("{full}@{digest}\n"));
        for typed in [&place, &full, &format!("{place}@{digest}"), &format!("{full}@{digest}")] {
            assert_eq!(wharf.run(&["digest", typed]).await.succeeded(), format!("{digest}\n"), "{typed}");
        }
        assert_eq!(wharf.run(&["tags", &place]).await.succeeded(), "1\n", "{place}");
        let page = wharf.run(&["inspect", "--format", "json", &full]).await.succeeded();
        let page: Value = serde_json::from_str(&page).expect("JSON");
        assert_eq!(page["digest"], digest.as_str(), "{place}");
        assert_eq!(page["source"], "file", "{place}");
        assert!(wharf.run(&["manifest", &full]).await.succeeded().contains("manifests"), "{place}");
        wharf.run(&["tree", &full]).await.succeeded();
        assert_eq!(wharf.run(&["referrers", "-q", &full]).await.succeeded(), "");
        wharf.run(&["copy", &full, &format!("store:{file}:1")]).await.succeeded();
        let out = wharf.run(&["-q", "pull", &full]).await.succeeded();
        assert_eq!(out, format!("{digest}\n"));
        assert!(wharf.run(&["ls", "-q"]).await.succeeded().contains(name), "{place}");
        wharf.run(&["images", "rm", name]).await.succeeded();
        let root = wharf.path(&format!("{file}.root"));
        wharf.run(&["unpack", &full, &root]).await.succeeded();
        assert!(fs::read_dir(&root).expect("lists").count() > 0, "{place}");
        let missing = wharf.run(&["digest", &format!("{place}:none")]).await;
        assert_ne!(missing.code(), 0, "{place}");
        assert!(missing.err().contains("none"), "{}", missing.err());
    }
    let plugins = wharf.run(&["plugins"]).await.succeeded();
    for scheme in ["oci", "oci-archive", "docker-archive"] {
        assert!(plugins.lines().any(|line| line.contains("transport") && line.contains(scheme)), "{plugins}");
    }
    let gone = format!("oci:{}:ghcr.io/owner/image:1", wharf.path("layout"));
    wharf.run(&["delete", &gone]).await.succeeded();
    assert_ne!(wharf.run(&["digest", &gone]).await.code(), 0);
}

#[tokio::test]
async fn files_and_directories_are_told_apart() {
    let registry = TestRegistry::start().await;
    let from = registry.put("team/image:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let [layout, archive] = ["layout", "oci.tar"].map(|name| wharf.path(name));
    wharf.run(&["copy", &from, &format!("oci:{layout}:1")]).await.succeeded();
    wharf.run(&["copy", &from, &format!("oci-archive:{archive}:1")]).await.succeeded();
    for (place, said) in [
        (format!("oci:{archive}:1"), format!("say oci-archive:{archive}")),
        (format!("oci-archive:{layout}:1"), format!("say oci:{layout}")),
        (format!("docker-archive:{layout}"), format!("say oci:{layout}")),
    ] {
        for arguments in
            [vec!["inspect", &place], vec!["copy", &from, &place], vec!["copy", &place, "store:x"]]
        {
            let error = wharf.run(&arguments).await.failed(3);
            assert!(error.contains(&said), "{arguments:?}: {error}");
        }
    }
    let error = wharf.run(&["delete", &format!("oci:{archive}:1")]).await.failed(3);
    assert!(error.contains("say oci-archive:"), "{error}");
}

#[tokio::test]
async fn archives_go_to_standard_output() {
    let registry = TestRegistry::start().await;
    let from = registry.put("team/image:1", &three_platforms()).await.expect("puts");
    let target = registry.image(&from).await.expect("there").target;
    let wharf = Wharf::new();
    let root = wharf.path("root");
    for scheme in ["oci-archive", "docker-archive"] {
        let file = wharf.path("file.tar");
        wharf.run(&["copy", &from, &format!("{scheme}:{file}:{from}")]).await.succeeded();
        let expected = fs::read(&file).expect("reads");
        let mut command = wharf.command(&["copy", &from, &format!("{scheme}:-:{from}")]);
        command.current_dir(wharf.dir.path());
        let piped = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let piped = Done(piped.expect("runs"));
        assert_eq!(piped.code(), 0, "{}", piped.err());
        assert!(piped.0.stdout == expected, "{scheme}: the same bytes");
        // A file behind it is empty, or has what was written before.
        for place in ["-", "/dev/stdout"] {
            let path = wharf.path("redirected.tar");
            let mut command = wharf.command(&["copy", &from, &format!("{scheme}:{place}:{from}")]);
            command.current_dir(wharf.dir.path()).stdout(fs::File::create(&path).expect("makes"));
            let done = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
            let done = Done(done.expect("runs"));
            assert_eq!(done.code(), 0, "{scheme}:{place}: {}", done.err());
            assert!(fs::read(&path).expect("reads") == expected, "{scheme}:{place}");
        }
        let found = wharf.run(&["digest", &format!("{scheme}:{file}")]).await.succeeded();
        assert_eq!(found, format!("{}\n", target.digest));
        fs::remove_file(&file).expect("removes");
        for arguments in [vec!["copy", "-:1", "store:x"], vec!["inspect", "-"], vec!["unpack", "-", &root]] {
            let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            arguments[1] = format!("{scheme}:{}", arguments[1]);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let error = wharf.run(&arguments).await.failed(3);
            assert!(error.contains("`wharf import -`"), "{arguments:?}: {error}");
        }
    }
    assert!(!fs::exists(wharf.path("-")).expect("looks"), "no file has that name");
}

#[tokio::test]
async fn a_directory_is_imported() {
    let registry = TestRegistry::start().await;
    let from = registry.put("team/image:1", &three_platforms()).await.expect("puts");
    let digest = registry.image(&from).await.expect("there").target.digest;
    let wharf = Wharf::new();
    let layout = wharf.path("layout");
    wharf.run(&["copy", &from, &format!("oci:{layout}:1")]).await.succeeded();
    let error = wharf.run(&["import", &layout]).await;
    assert_ne!(error.code(), 0, "it has only a tag");
    let out = wharf.run(&["import", "--base-name", "ghcr.io/owner/image", &layout]).await.succeeded();
    assert_eq!(out, format!("ghcr.io/owner/image:1@{digest}\n"));
    let checked = wharf.run(&["images", "check", "ghcr.io/owner/image:1"]).await.succeeded();
    assert!(checked.contains("complete") && !checked.contains("incomplete"), "{checked}");
    fs::create_dir(wharf.path("empty")).expect("makes");
    let error = wharf.run(&["import", &wharf.path("empty")]).await;
    assert!(error.err().contains("no OCI image layout"), "{}", error.err());
}

#[tokio::test]
async fn exports_are_compressed_or_for_docker_alone_or_without_what_is_missing() {
    let registry = TestRegistry::start().await;
    let from = registry.put("team/image:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    wharf.run(&["pull", "--platform", "linux/amd64", &from]).await.succeeded();
    for (how, magic) in [("none", &b"blobs/"[..]), ("gzip", b"\x1f\x8b"), ("zstd", b"\x28\xb5\x2f\xfd")] {
        let file = wharf.path(how);
        let arguments = ["export", "--platform", "linux/amd64", "--compress", how, &from, "-o", &file];
        wharf.run(&arguments).await.succeeded();
        assert!(fs::read(&file).expect("reads").starts_with(magic), "{how}");
        let other = Wharf::new();
        other.run(&["import", &file]).await.succeeded();
        other.run(&["digest", &format!("oci-archive:{file}")]).await.succeeded();
    }
    let docker = wharf.path("docker.tar");
    let arguments = ["export", "--type", "docker", "--platform", "linux/amd64", &from, "-o", &docker];
    wharf.run(&arguments).await.succeeded();
    let bytes = fs::read(&docker).expect("reads");
    let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    assert!(has(b"manifest.json") && !has(b"index.json") && !has(b"oci-layout"));
    wharf.run(&["inspect", &format!("docker-archive:{docker}")]).await.succeeded();
    let refused = wharf.run(&["inspect", &format!("oci-archive:{docker}")]).await;
    assert!(refused.err().contains("docker-archive:"), "{}", refused.err());

    let both = wharf.path("both.tar");
    let twice = ["export", "--format", "json", "--platform", "linux/amd64", &from, &from, "-o", &both];
    let page: Value = serde_json::from_str(&wharf.run(&twice).await.succeeded()).expect("JSON");
    assert_eq!(page["images"], json!([from]), "each once");
    let all = wharf.path("all.tar");
    let lacking = wharf.run(&["export", "--all-platforms", &from, "-o", &all]).await;
    assert_ne!(lacking.code(), 0);
    assert!(lacking.err().contains("lacks parts"), "{}", lacking.err());
    let done = wharf.run(&["export", "--all-platforms", "--skip-missing", &from, "-o", &all]).await;
    assert_eq!(done.code(), 0, "{}", done.err());
    assert!(done.err().contains("left out"), "{}", done.err());
    Wharf::new().run(&["import", &all]).await.succeeded();
}

/// Puts a bill about `subject` into the store, and gives its digest.
async fn bill(wharf: &Wharf, subject: &Descriptor) -> String {
    let config = Descriptor::of(types::OCI_EMPTY, b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types::OCI_MANIFEST, "config": config, "layers": [],
        "artifactType": "application/x-bill", "subject": subject,
    });
    let manifest = manifest.to_string().into_bytes();
    for bytes in [b"{}".as_slice(), &manifest] {
        let path = wharf.path("document");
        fs::write(&path, bytes).expect("writes");
        let mut command = wharf.command(&["content", "ingest", "document"]);
        command.stdin(fs::File::open(&path).expect("opens"));
        let done = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        Done(done.expect("runs")).succeeded();
    }
    Descriptor::of(types::OCI_MANIFEST, &manifest).digest.to_string()
}

#[tokio::test]
async fn exports_take_referrers_along_and_imports_bring_them_back() {
    let registry = TestRegistry::start().await;
    let name = registry.put("team/image:1", &three_platforms()).await.expect("puts");
    let target = registry.image(&name).await.expect("there").target;
    let wharf = Wharf::new();
    wharf.run(&["pull", "--all-platforms", &name]).await.succeeded();
    let bill = bill(&wharf, &target).await;
    let file = wharf.path("a.tar");
    for (flags, expected) in [(&[][..], String::new()), (&["--referrers"], format!("{bill}\n"))] {
        let arguments = [&["export", "--all-platforms", &name, "-o", &file], flags].concat();
        wharf.run(&arguments).await.succeeded();
        let into = Wharf::new();
        into.run(&["import", &file]).await.succeeded();
        into.run(&["gc"]).await.succeeded();
        assert_eq!(into.run(&["referrers", "--local", "-q", &name]).await.succeeded(), expected);
        let place = format!("oci-archive:{file}");
        assert_eq!(wharf.run(&["referrers", "-q", &place]).await.succeeded(), expected);
    }
    // A copy writes the same list.
    let copied = wharf.path("b.tar");
    let place = format!("oci-archive:{copied}:{name}");
    wharf.run(&["copy", "--referrers", &format!("store:{name}"), &place]).await.succeeded();
    let other = wharf.path("c.tar");
    wharf
        .run(&["export", "--all-platforms", "--referrers", "--type", "oci", &name, "-o", &other])
        .await
        .succeeded();
    assert!(fs::read(&copied).expect("reads") == fs::read(&other).expect("reads"), "the same to the byte");
    let error = wharf.run(&["export", "--referrers", "--type", "docker", &name, "-o", &file]).await.failed(3);
    assert!(error.contains("--type oci"), "{error}");
    wharf
        .run(&["export", "--all-platforms", "--skip-non-distributable", &name, "-o", &file])
        .await
        .succeeded();
}

#[tokio::test]
async fn images_are_deleted_out_of_layouts_with_what_only_they_need() {
    let registry = TestRegistry::start().await;
    let from = registry.put("team/image:1", &three_platforms()).await.expect("puts");
    let wharf = Wharf::new();
    let layout = wharf.path("layout");
    let blobs = || {
        let names = fs::read_dir(wharf.path("layout/blobs/sha256")).expect("lists");
        let mut names: Vec<_> = names.map(|name| name.expect("one").file_name()).collect();
        names.sort();
        names
    };
    wharf.run(&["copy", "--platform", "linux/amd64", &from, &format!("oci:{layout}:one")]).await.succeeded();
    let one = blobs();
    wharf.run(&["copy", &from, &format!("oci:{layout}:all")]).await.succeeded();
    let all = format!("oci:{layout}:all");
    assert_eq!(wharf.run(&["delete", &all]).await.succeeded(), format!("{all}\n"));
    assert_eq!(blobs(), one, "what both have stays");
    wharf.run(&["digest", &format!("oci:{layout}:one")]).await.succeeded();
    let error = wharf.run(&["delete", &all]).await.failed(2);
    assert!(error.contains("\"all\""), "{error}");
    let error = wharf.run(&["delete", &format!("oci:{layout}")]).await.failed(3);
    assert!(error.contains("DIR:TAG"), "{error}");
    wharf.run(&["delete", &format!("oci:{layout}:one")]).await.succeeded();
    assert!(blobs().is_empty());
    let archive = format!("oci-archive:{}:1", wharf.path("a.tar"));
    wharf.run(&["copy", &from, &archive]).await.succeeded();
    let error = wharf.run(&["delete", &archive]).await.failed(1);
    assert!(error.contains("wharf copy oci-archive:"), "{error}");
    wharf.run(&["digest", &archive]).await.succeeded();
}

#[tokio::test]
async fn names_of_other_repositories_are_left_out_on_request() {
    let registry = TestRegistry::start().await;
    let names = ["team/image:1", "team/image/more:1", "team/images:1"].map(|name| registry.reference(name));
    let wharf = Wharf::new();
    for name in ["team/image:1", "team/image/more:1", "team/images:1"] {
        let name = registry.put(name, &three_platforms()).await.expect("puts");
        wharf.run(&["pull", &name]).await.succeeded();
    }
    let file = wharf.path("a.tar");
    wharf.run(&["export", &names[0], &names[1], &names[2], "-o", &file]).await.succeeded();
    let base = registry.reference("team/image");
    let into = Wharf::new();
    into.run(&["import", "--base-name", &base, "--filter-names", &file]).await.succeeded();
    let mut expected = names[..2].to_vec();
    expected.sort();
    let listed = into.run(&["ls", "-q"]).await.succeeded();
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    let elsewhere = ["import", "--base-name", "quay.io/a", "--filter-names", &file];
    let error = into.run(&elsewhere).await.failed(2);
    assert!(error.contains("quay.io/a") && error.contains("team/images"), "{error}");
    into.run(&["import", "--filter-names", &file]).await.failed(3);
}
