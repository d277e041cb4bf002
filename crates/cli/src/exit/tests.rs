//! What errors mean to scripts, and what is advised.

use super::*;

fn hint(error: &Error) -> Option<Cow<'static, str>> {
    super::hint(error, Platforms::Several)
}

#[test]
fn a_disk_that_fails_is_no_loss_of_data() {
    let error = Error::io("cannot commit", io::Error::from_raw_os_error(5)).context("cannot pull");
    assert_eq!((error.kind().as_str(), code(&error)), ("internal", Code::Local));
    assert!(hint(&error).is_some_and(|hint| hint.contains("the disk or its file system failed")));
}

#[test]
fn who_is_refused_is_told_where_to_log_in() {
    let remote = |status| RemoteError::new("r.example:5000", "GET x").with_status(status);
    let token = RemoteError::new("auth.example", "POST x").with_status(401);
    let token = Error::new(ErrorKind::Unauthenticated, "cannot get a token for y")
        .with_source(token.for_registry("registry-1.docker.io"));
    for (error, expected) in [
        (
            remote(401).into_error("cannot resolve x"),
            "private, or there is none of that name: `wharf login r.example:5000`",
        ),
        (
            remote(401).with_refused_credentials().into_error("cannot resolve x"),
            "the user or password that r.example:5000 was shown is wrong",
        ),
        (
            RemoteError::new("r.example:5000", "DELETE x").with_status(403).into_error("x is not deleted"),
            "deleting there needs a permission: `wharf login r.example:5000`",
        ),
        (
            RemoteError::new("r.example:5000", "DELETE x")
                .with_status(401)
                .with_refused_credentials()
                .into_error("x is not deleted"),
            "the user or password that r.example:5000 was shown is wrong, or may not delete there",
        ),
        (
            remote(401).with_refused_credentials().into_error("cannot push x"),
            "the user or password that r.example:5000 was shown is wrong, or may not push there",
        ),
        (remote(403).into_error("cannot push x"), "needs a permission: `wharf login r.example:5000`"),
        (remote(401).into_error("cannot log in to x"), "r.example:5000 does not know this user"),
        (token, "private, or there is none of that name: `wharf login docker.io`"),
    ] {
        assert!(hint(&error).is_some_and(|hint| hint.contains(expected)), "{error:?}: {:?}", hint(&error));
    }
}

#[test]
fn what_a_registry_does_not_do_names_no_other_command() {
    for (request, report, expected) in [
        ("PUT https://h/v2/a/manifests/1", "cannot push a", "takes no pushes"),
        ("POST https://h/v2/a/blobs/uploads/", "cannot copy a to b", "takes no pushes"),
        ("DELETE https://h/v2/a/manifests/1", "cannot delete a", "is not set up to delete"),
    ] {
        let error = RemoteError::new("h", request).with_status(405).into_error(report);
        let hint = hint(&error).expect("there is something to do");
        assert!(hint.contains(expected) && !hint.contains("wharf "), "{request}: {hint}");
    }
}

#[test]
fn what_a_registry_explains_is_not_guessed_at() {
    let mut error =
        RemoteError::new("h", "DELETE https://h/v2/a/manifests/1").with_status(405).with_read_only();
    error.details.push(("UNSUPPORTED".into(), "this registry is a cache: delete at its upstream".into()));
    assert_eq!(hint(&error.into_error("x is not deleted")), None);
}

#[test]
fn what_was_fetched_is_spoken_of_where_something_was() {
    for (request, context, expected) in [
        ("GET https://h/v2/a/blobs/sha256:0", "cannot fetch sha256:0 (x)", true),
        ("GET https://h/v2/a/blobs/sha256:0", "cannot inspect a", false),
        ("HEAD https://h/v2/a/manifests/1", "cannot fetch x", false),
        ("GET https://h/v2/", "cannot log in to h", false),
    ] {
        let error = RemoteError::new("h", request).with_retryable().into_error(context);
        let hint = hint(&error).expect("the network is to be checked");
        assert_eq!(hint.contains("what was fetched"), expected, "{request}: {hint}");
    }
    let full = |request: &str| hint(&RemoteError::new("h", request).with_status(507).into_error("x"));
    assert!(full("PUT x").is_some_and(|hint| hint.contains("no room") && hint.contains("pushing again")));
    assert!(full("GET x").is_some_and(|hint| hint.contains("no room") && !hint.contains("pushing")));
}

#[test]
fn https_is_advised_where_plain_http_was_spoken() {
    for (request, expected) in [("HEAD http://r.example/v2/a", true), ("HEAD https://r.example/v2/a", false)]
    {
        let error = RemoteError::new("r.example", request).with_status(400).into_error("cannot resolve x");
        let advised = hint(&error).is_some_and(|hint| hint.contains("--tls-verify=true"));
        assert_eq!(advised, expected, "{request}");
    }
    let mut told = RemoteError::new("r.example", "DELETE http://r.example/v2/a").with_status(400);
    told.details.push(("DIGEST_INVALID".into(), "provided digest did not match".into()));
    assert_eq!(hint(&told.into_error("x is not deleted")), None, "a registry answered");
    let alert = RemoteError::new("r.example", "GET http://r.example/v2/a").with_wanted_tls();
    assert!(hint(&alert.into_error("x")).is_some_and(|hint| hint.contains("--tls-verify=true")));
}

#[test]
fn codes_follow_the_origin_and_the_kind() {
    let remote = |status| RemoteError::new("h", "GET x").with_status(status).into_error("x");
    let os = |number| Error::io("x", io::Error::from_raw_os_error(number));
    let wrapped = |error: io::Error| io::Error::new(error.kind(), format!("/a/file: {error}"));
    let malformed = |error: io::Error| Error::invalid_argument("it is not valid gzip").with_source(error);
    for (error, expected) in [
        (remote(404), Code::NotFound),
        (remote(401), Code::Denied),
        (remote(403), Code::Denied),
        (remote(429), Code::Network),
        (remote(503), Code::Network),
        (RemoteError::new("h", "GET x").with_retryable().into_error("x"), Code::Network),
        (os(28), Code::Local),
        (os(13), Code::Local),
        (os(5), Code::Local),
        (os(2), Code::Local),
        // With a path before what the system said.
        (Error::io("x", wrapped(io::Error::from_raw_os_error(28))), Code::Local),
        (Error::io("x", io::ErrorKind::TimedOut.into()), Code::Local),
        (Error::io("database", io::Error::other("disk I/O error")).context("cannot pull"), Code::Local),
        (Error::invalid_argument("x"), Code::Usage),
        // Bytes that are not of their format.
        (malformed(io::ErrorKind::UnexpectedEof.into()), Code::Usage),
        (malformed(io::Error::new(io::ErrorKind::InvalidInput, "corrupt")), Code::Usage),
        (malformed(io::Error::other("corrupt")).context("cannot unpack layer sha256:0 (x)"), Code::Mismatch),
        (
            malformed(io::ErrorKind::UnexpectedEof.into()).context("cannot read layer sha512:0"),
            Code::Mismatch,
        ),
        (os(28).context("cannot unpack layer sha256:0 (x)"), Code::Local),
        (Error::not_found("x"), Code::NotFound),
        (Error::failed_precondition("x"), Code::Mismatch),
        (Error::failed_precondition("/etc is not a wharf store: it holds x"), Code::Usage),
        (Error::data_loss("x").context("y"), Code::Mismatch),
        (Error::resource_exhausted("more than is read").context("y"), Code::Mismatch),
        (Error::resource_exhausted("x").with_source(io::Error::from_raw_os_error(28)), Code::Local),
        (Error::conflict("x"), Code::Other),
        // Locks of this machine, and what else is unavailable: content that ended too early.
        (Error::unavailable("another process is unpacking to x: wait for it").context("y"), Code::Other),
        (Error::unavailable("the database is busy: another process holds it"), Code::Other),
        (Error::unavailable("ingest \"x\" is locked: another writer is at work on it"), Code::Other),
        (Error::failed_precondition("cannot unmount x: somebody uses what is in it"), Code::Other),
        (Error::unavailable("x ended after 1 of 2 bytes"), Code::Network),
        (
            RemoteError::new("h", "GET x").with_message("another process is in the way").into_error("x"),
            Code::Network,
        ),
        (Error::not_implemented("x"), Code::Other),
        (Error::not_implemented("x").with_source(DigestError::Unsupported).context("y"), Code::Usage),
        (outside("x", io::Error::from_raw_os_error(28)), Code::Local),
        (outside("x", io::Error::from_raw_os_error(2)).context("y"), Code::Local),
        // A path through a file: in the store nobody has typed it.
        (outside("x", io::Error::from_raw_os_error(20)).context("y"), Code::Usage),
        (outside("x", io::ErrorKind::NotADirectory.into()), Code::Usage),
        (os(20), Code::Local),
        (Error::invalid_argument("x").with_source(io::Error::from_raw_os_error(13)), Code::Local),
    ] {
        assert_eq!(code(&error), expected, "{error:?}");
    }
}

#[test]
fn all_platforms_are_no_advice_where_one_is_wanted() {
    let error = Error::not_found("no match for platform linux/s390x in x; the image has y");
    for (platforms, expected) in [
        (Platforms::One, "choose one of those with --platform"),
        (Platforms::Several, "choose one of those with --platform, or take them all with --all-platforms"),
    ] {
        assert_eq!(super::hint(&error, platforms).as_deref(), Some(expected));
    }
    let other = Error::not_found("there is no image \"q.io/a:1\" in the store");
    assert_eq!(super::hint(&other, Platforms::One), hint(&other));
}

#[test]
fn what_is_not_there_is_pulled_by_its_name() {
    for (text, expected) in [
        ("there is no image \"q.io/a:1\" in the store", Some("`wharf pull q.io/a:1` ")),
        ("there is no image \"q.io/a:1\" in the store: that tag is x here", Some("`wharf pull q.io/a:1` ")),
        // No shell and no registry is given this.
        ("there is no image \"$(x)\" in the store", Some("`wharf pull` fetches one")),
        ("there is no file", None),
    ] {
        let hint = hint(&Error::not_found(text));
        let is_right =
            expected.is_none_or(|expected| hint.as_ref().is_some_and(|hint| hint.contains(expected)));
        assert!(is_right && hint.is_some() == expected.is_some(), "{text}: {hint:?}");
    }
}

#[test]
fn hints_are_of_what_failed() {
    let store = |number| Error::io("cannot open the store x", io::Error::from_raw_os_error(number));
    let out = |number| outside("x", io::Error::from_raw_os_error(number));
    let archive = |number| Error::io("cannot write the archive y", io::Error::from_raw_os_error(number));
    let read = |number| Error::io("cannot read the archive y", io::Error::from_raw_os_error(number));
    for (error, expected) in [
        (store(28), Some("the same command goes on")),
        (store(28), Some("`wharf content abort` of what `wharf content active` lists")),
        (out(28), Some("where the output goes")),
        (archive(28), Some("where the output goes")),
        (store(24), Some("ulimit")),
        (out(24), Some("ulimit")),
        (store(13), Some("change its permissions")),
        (store(30), Some("needs to be written to")),
        (
            Error::io("cannot write ingest \"x\"", io::Error::from_raw_os_error(13)),
            Some("change its permissions"),
        ),
        // Places that are the user's own: an address, a directory, a layout.
        (
            Error::io("cannot serve on 127.0.0.1:80", io::Error::from_raw_os_error(13)),
            Some("choose another port"),
        ),
        (
            Error::new(ErrorKind::Unavailable, "cannot serve on x")
                .with_source(io::Error::from(io::ErrorKind::AddrInUse)),
            Some("another program has that port"),
        ),
        (Error::io("cannot open the directory /root", io::Error::from_raw_os_error(13)), None),
        (Error::io("cannot find x", io::Error::from_raw_os_error(30)), None),
        (out(13), None),
        (archive(13), None),
        (read(13), None),
        (read(28), None),
        (read(24), Some("ulimit")),
        (read(5), Some("the disk or its file system failed")),
        (store(5), Some("the disk or its file system failed")),
        (out(5), Some("the disk or its file system failed")),
        (store(20), None),
        (Error::resource_exhausted("x, as a decompression bomb does").context("y"), Some("--max-ratio N")),
        (Error::resource_exhausted("x, the most that a layer may have here"), Some("--max-layer-size")),
        (Error::resource_exhausted("x, the most that an archive may have here"), Some("--max-size")),
        (Error::resource_exhausted("x"), None),
    ] {
        let found = hint(&error);
        let is_right = match expected {
            Some(words) => found.as_ref().is_some_and(|hint| hint.contains(words)),
            None => found.is_none(),
        };
        assert!(is_right, "{error:?}: {found:?}");
    }
    let report = out(28).report();
    assert_eq!(report.matches("No space").count(), 1, "{report}");
    assert_eq!(out(24).kind(), store(24).kind());
    assert_eq!((out(20).kind(), store(20).kind()), (ErrorKind::InvalidArgument, ErrorKind::Internal));
}
