//! A client that pulls: manifests by tag, what they name by digest, whole or in ranges, and every byte of it held against its digest.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use wharf_content::Digest;

use super::{Crowd, Draws, Result, visitor::Visitor};

/// From so many bytes on a blob comes in two ranges.
const RANGED: u64 = 256 * 1024;

pub(super) async fn client(crowd: &Crowd, number: u32) -> Result<()> {
    let mut visitor = Visitor::new(crowd.options.registry);
    let mut draws = Draws::of(u64::from(number) + 1);
    while crowd.goes_on() {
        let draw = draws.draw();
        let (repository, tag, expected) = crowd.any(draw);
        let bytes = pull(&mut visitor, &repository, &tag, expected.as_ref())
            .await
            .map_err(|error| format!("a pull of {repository}:{tag}: {error}"))?;
        crowd.pulls.fetch_add(1, Ordering::Relaxed);
        crowd.bytes.fetch_add(bytes, Ordering::Relaxed);
        if draw.is_multiple_of(3) {
            visitor.reconnect();
        }
    }
    Ok(())
}

/// Pulls all of an image, and gives its size.
pub(super) async fn pull(
    visitor: &mut Visitor,
    repository: &str,
    tag: &str,
    expected: Option<&Digest>,
) -> Result<u64> {
    let (mut left, mut bytes) = (vec![tag.to_owned()], 0);
    while let Some(reference) = left.pop() {
        let answer = visitor.get(&format!("/v2/{repository}/manifests/{reference}")).await?.expect(200)?;
        let digest = Digest::sha256(&answer.body);
        let told = answer.header("docker-content-digest")?;
        if told != digest.as_str() || (reference.contains(':') && reference != told) {
            return Err(format!("{reference} is {digest} and said to be {told}"));
        }
        if let Some(expected) = expected.filter(|expected| reference == tag && **expected != digest) {
            return Err(format!("it is {digest}, and {expected} was pushed"));
        }
        bytes += answer.body.len() as u64;
        let document: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("{reference} is no JSON: {error}"))?;
        for child in list(&document, "manifests") {
            left.push(child["digest"].as_str().unwrap_or_default().to_owned());
        }
        for blob in document.get("config").into_iter().chain(list(&document, "layers")) {
            bytes += self::blob(visitor, repository, blob).await?;
        }
    }
    Ok(bytes)
}

fn list<'a>(document: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    document[field].as_array().into_iter().flatten()
}

async fn blob(visitor: &mut Visitor, repository: &str, descriptor: &Value) -> Result<u64> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let size = descriptor["size"].as_u64().unwrap_or_default();
    let path = format!("/v2/{repository}/blobs/{digest}");
    let bytes = if size < RANGED {
        visitor.get(&path).await?.expect(200)?.body
    } else {
        halves(visitor, &path, size).await?
    };
    if bytes.len() as u64 != size || Digest::sha256(&bytes).as_str() != digest {
        return Err(format!("{} bytes of {digest} are not its {size}", bytes.len()));
    }
    Ok(size)
}

async fn halves(visitor: &mut Visitor, path: &str, size: u64) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    for (first, last) in [(0, size / 2 - 1), (size / 2, size - 1)] {
        let range = format!("bytes={first}-{last}");
        let answer = visitor.ask("GET", path, &[("Range", &range)], Bytes::new()).await?.expect(206)?;
        let told = answer.header("content-range")?;
        if told != format!("bytes {first}-{last}/{size}") {
            return Err(format!("{range} of {path} is said to be {told}"));
        }
        whole.extend_from_slice(&answer.body);
    }
    Ok(whole.freeze())
}
