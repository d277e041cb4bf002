//! Which records a name stands for, and what a repository lists.

use std::time::Duration;

use serde_json::json;
use wharf_content::{CommitOptions, Descriptor};
use wharf_images::{Image, media_types};
use wharf_remotes::server::RegistryOptions;

use crate::site::{Site, each, index};

#[tokio::test]
async fn names_find_records() {
    let site = Site::memory(RegistryOptions::default()).await;
    let record = async |name: &str| {
        let bytes =
            index(&[]).into_iter().chain(name.bytes().map(|_| b' ')).chain(*b"\n").collect::<Vec<_>>();
        let bytes = [bytes, vec![b' '; usize::from(name.as_bytes()[0])]].concat();
        let descriptor = Descriptor::of(media_types::OCI_INDEX, &bytes);
        wharf_content::write_blob(
            site.store.as_ref(),
            "t",
            &descriptor,
            bytes.into(),
            CommitOptions::default(),
        )
        .await
        .expect("stored");
        site.images.create(Image::new(name, descriptor.clone())).await.expect("recorded");
        descriptor.digest.to_string()
    };
    let find = async |host: &str, path: &str| {
        let (repository, tag) = path.split_once(':').expect("a tag");
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = site.send("GET", &path, &[("Host", host)], b"").await;
        answer.header("docker-content-digest").unwrap_or_default().to_owned()
    };
    let docker = record("docker.io/library/nginx:1").await;
    assert_eq!(find("a.example", "nginx:1").await, docker);
    assert_eq!(find("a.example", "library/nginx:1").await, docker);
    assert_eq!(find("a.example", "docker.io/nginx:1").await, docker);
    assert_eq!(find("a.example", "index.docker.io/library/nginx:1").await, docker);
    let hosted = record("a.example/nginx:1").await;
    assert_eq!(find("A.EXAMPLE", "nginx:1").await, hosted);
    assert_eq!(find("b.example", "nginx:1").await, docker);
    assert_eq!(find("b.example", "a.example/nginx:1").await, hosted);
    // Any other, the most recent one.
    let older = record("one.example:5000/o/p:1").await;
    assert_eq!(find("a.example", "o/p:1").await, older);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let newer = record("three.example/o/p:1").await;
    assert_eq!(find("a.example", "o/p:1").await, newer);
    assert_eq!(find("a.example", "o/p:2").await, "");

    // Pushes are named after the host, or after themselves.
    for (host, repository, name) in [
        ("reg.example:443", "x/y", "reg.example:443/x/y:t"),
        ("registry", "x/y", "localhost/x/y:t"),
        ("reg.example", "ghcr.io/x/y", "ghcr.io/x/y:t"),
        ("../../etc", "x/z", "localhost/x/z:t"),
    ] {
        let path = format!("/v2/{repository}/manifests/t");
        let headers = [("Host", host), ("Content-Type", media_types::OCI_INDEX)];
        let answer = site.send("PUT", &path, &headers, &index(&[])).await;
        if answer.status == 201 {
            assert!(site.images.get(name).await.is_ok(), "{name}");
        } else {
            // The HTTP library may refuse such a host itself.
            assert_eq!(answer.status, 400, "{host}");
        }
    }
    site.stop().await;
}

#[tokio::test]
async fn tags_in_pages() {
    each(async |site: &Site| {
        site.get("/v2/a/tags/list").await.refuses(404, "NAME_UNKNOWN");
        for tag in ["b", "a", "d", "c", "e"] {
            let path = format!("/v2/a/manifests/{tag}");
            assert_eq!(site.put_manifest(&path, media_types::OCI_INDEX, &index(&[])).await.status, 201);
        }
        let target = site.images.get(&format!("{}/a:a", site.address)).await.expect("recorded").target;
        site.images.create(Image::new("docker.io/library/a:from-docker", target)).await.expect("recorded");
        let all = json!({ "name": "a", "tags": ["a", "b", "c", "d", "e", "from-docker"] });
        assert_eq!(site.get("/v2/a/tags/list").await.json(), all);

        let mut path = "/v2/a/tags/list?n=4".to_owned();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let answer = site.get(&path).await;
            seen.extend(answer.json()["tags"].as_array().expect("tags").clone());
            let Some(link) = answer.header("link") else { break };
            path = link
                .strip_prefix('<')
                .and_then(|link| link.strip_suffix(">; rel=\"next\""))
                .expect("a link")
                .into();
        }
        assert_eq!(json!(seen), all["tags"]);
        assert!(site.get(&path).await.header("link").is_none());
        assert_eq!(site.get("/v2/a/tags/list?last=d").await.json()["tags"], json!(["e", "from-docker"]));
        let none = site.get("/v2/a/tags/list?n=0").await;
        assert_eq!((&none.json()["tags"], none.header("link")), (&json!([]), None));
        site.get("/v2/a/tags/list?n=x").await.refuses(400, "UNSUPPORTED");
    })
    .await;
}

#[tokio::test]
async fn repositories_in_pages() {
    each(async |site: &Site| {
        assert_eq!(site.get("/v2/_catalog").await.json(), json!({ "repositories": [] }));
        for path in ["b/c", "a", "quay.io/q/r"] {
            for tag in ["1", "2"] {
                let path = format!("/v2/{path}/manifests/{tag}");
                assert_eq!(site.put_manifest(&path, media_types::OCI_INDEX, &index(&[])).await.status, 201);
            }
        }
        let target = site.images.get(&format!("{}/a:1", site.address)).await.expect("recorded").target;
        for name in ["docker.io/library/busybox:1", "docker.io/b/c:3", "no reference"] {
            site.images.create(Image::new(name, target.clone())).await.expect("recorded");
        }
        // Each can be asked for by that name.
        let all = ["a", "b/c", "library/busybox", "q/r"];
        assert_eq!(site.get("/v2/_catalog").await.json(), json!({ "repositories": all }));
        for repository in all {
            assert_eq!(site.get(&format!("/v2/{repository}/tags/list")).await.status, 200, "{repository}");
        }
        let page = site.get("/v2/_catalog?n=2").await;
        assert_eq!(page.json()["repositories"], json!(["a", "b/c"]));
        assert_eq!(page.header("link"), Some("</v2/_catalog?n=2&last=b/c>; rel=\"next\""));
        let page = site.get("/v2/_catalog?n=2&last=b/c").await;
        assert_eq!(page.json()["repositories"], json!(["library/busybox", "q/r"]));
        assert_eq!(page.header("link"), None);
    })
    .await;
}
