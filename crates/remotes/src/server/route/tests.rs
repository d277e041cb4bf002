//! Tests of the router: what it reads, and above all what it refuses.

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn digest() -> Digest {
    Digest::sha256(b"x")
}

fn read(method: &str, path: &str) -> Result<Call, Refusal> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    parse(&method.parse().expect("method"), path, query)
}

fn name(text: &str) -> Repository {
    Repository::parse(text).expect("valid")
}

#[test]
fn calls() {
    let tag = |text| Tag::parse(text).expect("valid");
    let id = || UploadId::parse(ID).expect("valid");
    let (digest, text) = (digest(), digest().to_string());
    let encoded = text.replace(':', "%3A");
    let upload = || Upload { repository: name("a/b"), id: id() };
    let push = |digest, tags, by_parameter| {
        Call::PutManifest(Push { repository: name("a/b"), digest, tags, by_parameter })
    };
    let manifest = |reference| Call::ReadManifest { repository: name("a/b"), reference };
    let deleted = |reference| Call::DeleteManifest { repository: name("a/b"), reference };
    let start = |start| Call::StartUpload { repository: name("a/b"), start };
    let tags = |limit, last: Option<&str>| Call::ListTags {
        repository: name("a/b"),
        page: Page { limit, last: last.map(str::to_owned) },
    };
    let referrers = |filter: Option<&str>| Call::ListReferrers {
        repository: name("a/b"),
        subject: digest.clone(),
        filter: filter.map(str::to_owned),
        last: None,
    };
    for (method, path, expected) in [
        ("GET", "/v2/".to_owned(), Call::Version),
        ("HEAD", "/v2".to_owned(), Call::Version),
        ("GET", "/v2/a/b/manifests/latest".to_owned(), manifest(Reference::Tag(tag("latest")))),
        ("HEAD", format!("/v2/a/b/manifests/{text}"), manifest(Reference::Digest(digest.clone()))),
        ("GET", format!("/v2/a/b/manifests/{encoded}"), manifest(Reference::Digest(digest.clone()))),
        ("PUT", "/v2/a/b/manifests/v1".to_owned(), push(None, vec![tag("v1")], false)),
        (
            "PUT",
            format!("/v2/a/b/manifests/v1?digest={encoded}"),
            push(Some(digest.clone()), vec![tag("v1")], false),
        ),
        ("PUT", format!("/v2/a/b/manifests/{text}"), push(Some(digest.clone()), vec![], false)),
        (
            "PUT",
            format!("/v2/a/b/manifests/{text}?tag=x&tag=y&tag=x"),
            push(Some(digest.clone()), vec![tag("x"), tag("y")], true),
        ),
        ("DELETE", "/v2/a/b/manifests/latest".to_owned(), deleted(Reference::Tag(tag("latest")))),
        ("DELETE", format!("/v2/a/b/manifests/{text}"), deleted(Reference::Digest(digest.clone()))),
        (
            "GET",
            format!("/v2/a/b/blobs/{text}"),
            Call::ReadBlob { repository: name("a/b"), digest: digest.clone() },
        ),
        (
            "DELETE",
            format!("/v2/a/b/blobs/{text}"),
            Call::DeleteBlob { repository: name("a/b"), digest: digest.clone() },
        ),
        ("POST", "/v2/a/b/blobs/uploads/".to_owned(), start(Start::Empty(Algorithm::Sha256))),
        ("POST", "/v2/a/b/blobs/uploads".to_owned(), start(Start::Empty(Algorithm::Sha256))),
        (
            "POST",
            "/v2/a/b/blobs/uploads/?digest-algorithm=sha512".to_owned(),
            start(Start::Empty(Algorithm::Sha512)),
        ),
        ("POST", format!("/v2/a/b/blobs/uploads/?digest={text}"), start(Start::Whole(digest.clone()))),
        ("POST", format!("/v2/a/b/blobs/uploads/?mount={text}&from=c"), start(Start::Mount(digest.clone()))),
        ("POST", format!("/v2/a/b/blobs/uploads/?mount={text}"), start(Start::Mount(digest.clone()))),
        ("POST", format!("/v2/a/b/blobs/uploads/?mount={text}&from=.."), start(Start::Mount(digest.clone()))),
        ("POST", "/v2/a/b/blobs/uploads/?mount=&from=c".to_owned(), start(Start::Empty(Algorithm::Sha256))),
        ("POST", "/v2/a/b/blobs/uploads/?mount=md5:00".to_owned(), start(Start::Empty(Algorithm::Sha256))),
        (
            "POST",
            format!("/v2/a/b/blobs/uploads/?mount=x&digest={text}"),
            start(Start::Whole(digest.clone())),
        ),
        ("GET", format!("/v2/a/b/blobs/uploads/{ID}"), Call::UploadStatus { upload: upload() }),
        ("PATCH", format!("/v2/a/b/blobs/uploads/{ID}"), Call::AppendUpload { upload: upload() }),
        (
            "PUT",
            format!("/v2/a/b/blobs/uploads/{ID}?digest={text}"),
            Call::FinishUpload { upload: upload(), digest: digest.clone() },
        ),
        ("DELETE", format!("/v2/a/b/blobs/uploads/{ID}"), Call::CancelUpload { upload: upload() }),
        ("GET", "/v2/a/b/tags/list".to_owned(), tags(None, None)),
        (
            "GET",
            "/v2/_catalog?n=1&last=a/b".to_owned(),
            Call::ListRepositories { page: Page { limit: Some(1), last: Some("a/b".to_owned()) } },
        ),
        ("GET", "/v2/a/b/tags/list?n=3&last=x".to_owned(), tags(Some(3), Some("x"))),
        ("GET", "/v2/a/b/tags/list?n=99999999999999999999999".to_owned(), tags(Some(usize::MAX), None)),
        ("GET", format!("/v2/a/b/referrers/{text}"), referrers(None)),
        ("GET", format!("/v2/a/b/referrers/{text}?artifactType=a/b+json"), referrers(Some("a/b+json"))),
        ("GET", format!("/v2/a/b/referrers/{text}?artifactType=a%2Fb%2Bjson"), referrers(Some("a/b+json"))),
    ] {
        assert_eq!(read(method, &path).expect(&path), expected, "{method} {path}");
    }
    // The words of the endpoints are names, too.
    for repository in ["tags/list", "manifests/x", "x/blobs/uploads", "v2", "referrers"] {
        let call = read("GET", &format!("/v2/{repository}/tags/list")).expect("valid");
        assert_eq!(call, Call::ListTags { repository: name(repository), page: Page::default() });
    }
}

#[test]
fn refusals() {
    let text = digest().to_string();
    for (method, path, status, code) in [
        ("GET", "/".to_owned(), 404, Code::Unsupported),
        ("GET", "/v1/".to_owned(), 404, Code::Unsupported),
        ("GET", "/v2/_catalogue".to_owned(), 404, Code::Unsupported),
        ("GET", "/v2/a".to_owned(), 404, Code::Unsupported),
        ("GET", "//v2/".to_owned(), 404, Code::Unsupported),
        ("GET", "*".to_owned(), 404, Code::Unsupported),
        ("DELETE", "/v2/".to_owned(), 405, Code::Unsupported),
        ("POST", "/v2/a/tags/list".to_owned(), 405, Code::Unsupported),
        ("POST", "/v2/a/manifests/x".to_owned(), 405, Code::Unsupported),
        ("PUT", format!("/v2/a/blobs/{text}"), 405, Code::Unsupported),
        ("DELETE", "/v2/a/manifests/.x".to_owned(), 404, Code::ManifestUnknown),
        ("DELETE", "/v2/a/blobs/x".to_owned(), 400, Code::DigestInvalid),
        ("DELETE", "/v2/A/manifests/x".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/a/blobs/uploads/".to_owned(), 405, Code::Unsupported),
        ("GET", "/v2/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2//tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/A/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/../a/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/%2e%2e/a/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/a%2fb/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/a/%00/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/a/%ff/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/a//b/tags/list".to_owned(), 400, Code::NameInvalid),
        ("GET", "/v2/a/tags/list?n=-1".to_owned(), 400, Code::Unsupported),
        ("GET", "/v2/a/manifests/".to_owned(), 404, Code::ManifestUnknown),
        ("GET", "/v2/a/manifests/.INVALID".to_owned(), 404, Code::ManifestUnknown),
        ("GET", "/v2/a/manifests/%2e%2e".to_owned(), 404, Code::ManifestUnknown),
        ("PUT", "/v2/a/manifests/..".to_owned(), 400, Code::ManifestInvalid),
        ("PUT", format!("/v2/a/manifests/{text}?tag=.."), 400, Code::ManifestInvalid),
        ("PUT", format!("/v2/a/manifests/{text}?digest={}", Digest::sha256(b"y")), 400, Code::DigestInvalid),
        ("GET", "/v2/a/manifests/sha256:../../x".to_owned(), 404, Code::Unsupported),
        ("GET", "/v2/a/manifests/sha256:..%2f..%2fx".to_owned(), 400, Code::DigestInvalid),
        ("GET", "/v2/a/blobs/sha256:".to_owned(), 400, Code::DigestInvalid),
        ("GET", "/v2/a/blobs/".to_owned(), 400, Code::DigestInvalid),
        ("GET", format!("/v2/a/blobs/{}", text.to_uppercase()), 400, Code::DigestInvalid),
        ("GET", format!("/v2/a/blobs/md5:{}", "0".repeat(32)), 400, Code::DigestInvalid),
        ("GET", "/v2/a/blobs/uploads/..".to_owned(), 404, Code::BlobUploadUnknown),
        ("GET", "/v2/a/blobs/uploads/%2e%2e%2fx".to_owned(), 404, Code::BlobUploadUnknown),
        ("PATCH", format!("/v2/a/blobs/uploads/{}", ID.to_uppercase()), 404, Code::BlobUploadUnknown),
        ("PUT", format!("/v2/a/blobs/uploads/{ID}"), 400, Code::DigestInvalid),
        ("PUT", format!("/v2/a/blobs/uploads/{ID}?digest=sha256:x"), 400, Code::DigestInvalid),
        ("POST", "/v2/a/blobs/uploads/?digest=sha256:x".to_owned(), 400, Code::DigestInvalid),
        ("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5".to_owned(), 400, Code::DigestInvalid),
        ("POST", "/v2/a/../blobs/uploads/".to_owned(), 400, Code::NameInvalid),
        ("POST", format!("/v2/{}/blobs/uploads/", "a".repeat(256)), 400, Code::NameInvalid),
        ("PUT", format!("/v2/a/blobs/uploads/{ID}%00?digest={text}"), 404, Code::BlobUploadUnknown),
        ("PATCH", format!("/v2/a/blobs/uploads/%252e%252e%252f{ID}"), 404, Code::BlobUploadUnknown),
        ("DELETE", format!("/v2/a/blobs/uploads/..%2f{ID}"), 404, Code::BlobUploadUnknown),
        ("GET", format!("/v2/a/blobs/uploads/{}", "0".repeat(60_000)), 404, Code::BlobUploadUnknown),
        ("OPTIONS", format!("/v2/a/blobs/uploads/{ID}"), 405, Code::Unsupported),
        ("GET", "/v2/%252e%252e/a/tags/list".to_owned(), 400, Code::NameInvalid),
        ("DELETE", "/v2/a%00/manifests/x".to_owned(), 400, Code::NameInvalid),
        ("PUT", "/v2/a/manifests/x%00y".to_owned(), 400, Code::ManifestInvalid),
        ("PUT", "/v2/a/manifests/sha256:baddigeststring".to_owned(), 400, Code::DigestInvalid),
        ("PUT", format!("/v2/a/manifests/{}", "x".repeat(129)), 400, Code::ManifestInvalid),
        ("GET", format!("/v2/a/referrers/{text}?last=x"), 400, Code::DigestInvalid),
        ("GET", "/v2/a/referrers/x".to_owned(), 400, Code::DigestInvalid),
    ] {
        let refusal = read(method, &path).expect_err(&path);
        assert_eq!(refusal.parts(), (status, code), "{method} {path}");
    }
    let many: Vec<String> = (0..65).map(|n| format!("tag=t{n}")).collect();
    let path = format!("/v2/a/manifests/{text}?{}", many.join("&"));
    assert_eq!(read("PUT", &path).expect_err("too many").parts().0, 414);
}
