//! Content by descriptor, from the endpoints that may have it.
//!
//! Which host is asked when is in [`failover`](super::failover). How the bytes come from one host, over one connection or several, and
//! what happens when one breaks, is in the modules below.

mod buffer;
mod content_range;
mod pace;
mod piece;
mod reader;
mod support;
mod transfer;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::stream;
use reqwest::{Method, header::CONTENT_LENGTH};
use wharf_content::{ByteStream, Catalogue, Descriptor, Digest, Error, Result};
use wharf_images::{Reference, decode, transport::Fetcher};

use self::{reader::Reader, transfer::Content};
use super::{
    answer::Answer,
    client::{Ask, Client},
    failover::{self, Open, Sources},
    failure,
    hosts::Site,
    resolver::pull_scope,
};
use crate::error::RemoteError;

pub(super) use support::Ranges;

/// Fetches the content of one repository.
#[derive(Debug)]
pub(super) struct RegistryFetcher {
    sources: Arc<Sources>,
    repository: String,
    catalogue: Catalogue,
}

impl RegistryFetcher {
    pub(super) fn new(sites: Vec<Site>, reference: &Reference, catalogue: Catalogue) -> Self {
        let repository = reference.repository().to_owned();
        Self { sources: Arc::new(Sources::new(sites)), repository, catalogue }
    }

    /// The endpoints that may have the content, the likelier first. What nobody decodes may be either.
    fn endpoints(&self, descriptor: &Descriptor) -> Result<&'static [&'static str]> {
        Ok(match decode::kind(&descriptor.media_type, &self.catalogue)? {
            Some(kind) if kind.is_manifest() => &["manifests", "blobs"],
            Some(_) => &["blobs"],
            None => &["blobs", "manifests"],
        })
    }
}

#[async_trait]
impl Fetcher for RegistryFetcher {
    async fn fetch(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        if offset > descriptor.size {
            let Descriptor { digest, size, .. } = descriptor;
            return Err(Error::out_of_range(format!(
                "offset {offset} is outside {digest}, which has {size} bytes"
            )));
        }
        if offset > 0 && offset == descriptor.size {
            // A request for no bytes is one that cannot be answered.
            return Ok(Box::pin(stream::empty()));
        }
        let endpoints = self.endpoints(descriptor)?;
        let (descriptor, digest) = (descriptor.clone(), descriptor.digest.clone());
        let open: Open = Box::new(move |client, path, offset| {
            Box::pin(open_at(client, path, endpoints, descriptor.clone(), offset))
        });
        Arc::clone(&self.sources).open(&digest, offset, open).await
    }

    async fn size(&self, digest: &Digest, _: &str) -> Result<u64> {
        failover::first(self.sources.sites(), |client, path| size_at(client, path, digest)).await
    }

    fn repository(&self) -> Option<&str> {
        Some(&self.repository)
    }

    fn refused(&self, descriptor: &Descriptor) -> bool {
        self.sources.refuse(&descriptor.digest)
    }
}

/// The size of a blob, as one host tells it.
async fn size_at(client: Arc<Client>, path: Arc<str>, digest: &Digest) -> Result<u64> {
    let blob = format!("{path}/blobs/{digest}");
    let ask = |method| Ask { accept: Some("*/*"), ..Ask::new(method, &*blob, pull_scope(&path)) };
    let length = |response: &Answer| response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    let found = match client.send(&ask(Method::HEAD)).await {
        // Some registries do not do HEAD, and some places that they lead to were told of GET only. Its body is left where it is.
        Err(error)
            if RemoteError::of(&error).is_some_and(|error| matches!(error.status, Some(403 | 405))) =>
        {
            length(&client.send(&ask(Method::GET)).await?)
        }
        // An answer to HEAD need not have the length that GET has.
        response => match length(&response?) {
            None => length(&client.send(&ask(Method::GET)).await?),
            found => found,
        },
    };
    found.ok_or_else(|| {
        let host = failure::host(client.base());
        Error::failed_precondition(format!("{host} does not tell the size of {digest}"))
    })
}

/// Opens content at one host, by the first of its endpoints that has it.
async fn open_at(
    client: Arc<Client>,
    path: Arc<str>,
    endpoints: &'static [&'static str],
    descriptor: Descriptor,
    offset: u64,
) -> Result<ByteStream> {
    let mut absent = None;
    for endpoint in endpoints {
        let content = Content {
            client: Arc::clone(&client),
            path: format!("{path}/{endpoint}/{}", descriptor.digest),
            is_manifest: *endpoint == "manifests",
            scope: pull_scope(&path),
            descriptor: descriptor.clone(),
            etag: OnceLock::new(),
        };
        match Reader::open(Arc::new(content), offset).await {
            Ok(reader) => return Ok(reader.into_stream()),
            Err(error) if RemoteError::of(&error).is_some_and(|error| error.status == Some(404)) => {
                absent = absent.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    Err(absent.unwrap_or_else(|| Error::not_found(format!("content {} was not found", descriptor.digest))))
}
