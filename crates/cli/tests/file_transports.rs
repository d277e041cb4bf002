//! Layouts and archives, as a user types them: `oci:`, `oci-archive:`, `docker-archive:`, and the options of `export`.

mod support;

use std::fs;

use serde_json::Value;
use support::{Wharf, three_platforms};
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

    let all = wharf.path("all.tar");
    let lacking = wharf.run(&["export", "--all-platforms", &from, "-o", &all]).await;
    assert_ne!(lacking.code(), 0);
    assert!(lacking.err().contains("lacks parts"), "{}", lacking.err());
    let done = wharf.run(&["export", "--all-platforms", "--skip-missing", &from, "-o", &all]).await;
    assert_eq!(done.code(), 0, "{}", done.err());
    assert!(done.err().contains("left out"), "{}", done.err());
    Wharf::new().run(&["import", &all]).await.succeeded();
}
