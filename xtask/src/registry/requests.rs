//! What a registry was asked, as its access log has it: the judge of what wharf sends.

/// One request and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// The status of the answer.
    pub(crate) status: u16,
}

impl Request {
    /// Whether this is the request for a blob's bytes.
    pub(crate) fn takes_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/")
    }

    /// Whether this begins an upload, or a mount in its place.
    pub(crate) fn begins_upload(&self) -> bool {
        self.method == "POST" && self.path.contains("/blobs/uploads/")
    }

    /// Whether this asked for a mount.
    pub(crate) fn asks_to_mount(&self) -> bool {
        self.begins_upload() && self.path.contains("mount=") && self.path.contains("from=")
    }

    /// Whether this changed anything, or could have.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

/// Reads a log in the combined format. Lines of other kinds are not requests.
pub(super) fn parse(log: &str) -> Vec<Request> {
    log.lines().filter_map(request).collect()
}

/// `127.0.0.1 - - [21/Nov/2026:13:20:00 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`
fn request(line: &str) -> Option<Request> {
    let mut quoted = line.splitn(3, '"');
    let _client = quoted.next().filter(|client| client.contains('['))?;
    let mut words = quoted.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let status = quoted.next()?.split_whitespace().next()?.parse().ok()?;
    Some(Request { method, path, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_the_rest_is_passed_over() {
        let log = "time=\"2026\" level=info msg=\"listening\"\n\
            127.0.0.1 - - [21/Nov/2026:13:20:00 +0000] \"GET /v2/a/blobs/sha256:0 HTTP/1.1\" 200 2 \"\" \"x\"\n\
            127.0.0.1 - - [21/Nov/2026:13:20:00 +0000] \"POST /v2/b/blobs/uploads/?from=a&mount=c HTTP/1.1\" 201 0 \"\" \"\"\n\
            127.0.0.1 - - [21/Nov";
        let [get, mount] = &parse(log)[..] else { panic!("not two: {:?}", parse(log)) };
        assert_eq!(
            (get.method.as_str(), get.path.as_str(), get.status),
            ("GET", "/v2/a/blobs/sha256:0", 200)
        );
        assert!(get.takes_blob() && !get.writes() && !get.begins_upload());
        assert!(mount.begins_upload() && mount.asks_to_mount() && mount.writes() && !mount.takes_blob());
    }
}
