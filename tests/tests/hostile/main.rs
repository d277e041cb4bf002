//! Registries that misbehave: each is refused with a clear error, and its honest twin works.
//!
//! What goes wrong in this field, and the tests of it, whose modules are here unless another file is named:
//!
//! | what | refused | works |
//! |---|---|---|
//! | one body is manifest and index | `content::manifests_that_lie` | `content::the_honest_twin_works` |
//! | a pinned digest that is not looked at | `content::a_pinned_digest_wins_over_every_header` | there |
//! | a digest in a path | `content::manifests_that_lie` | there |
//! | an algorithm that is assumed, data that is embedded | `content::embedded_data_counts_only_where_it_fits` | there |
//! | sizes | `content::sizes_that_lie` | there |
//! | duplicate keys | `content::manifests_that_lie` | there |
//! | layers' `urls` | `content::nothing_is_fetched_from_urls_in_a_manifest` | there |
//! | a hostile realm, a token server that redirects | `tokens::token_servers_elsewhere`; by address: `registry/auth` in remotes | there |
//! | authorisation and redirects | `redirects::*` | `redirects::a_redirect_within_the_registry_takes_the_token_along` |
//! | an upload's `Location` | push: `locations::locations_that_lead_nowhere_are_refused` | push: `locations::*` |
//! | `Link`, endless pages | listing: `lists_that_lead_astray_are_refused`; the cap: `registry/pages.rs` in remotes | listing: `links_of_every_form_and_lists_of_none` |
//! | secrets in errors | `tokens::token_servers_that_misbehave`, `redirects::redirects_that_lead_nowhere` | |
//! | endless bodies | `endless::*` | `endless::a_large_list_and_a_long_error_are_read` |
//! | downgrade | tls: `the_wrong_scheme_is_told_either_way`; redirects: `registry/host.rs` in remotes | tls: `a_certificate_is_trusted_by_its_authority_or_not_at_all` |
//! | 401 and 429 again and again | `tokens::a_registry_that_asks_for_more_and_more_is_left`, `answers::a_long_retry_after_is_capped` | `answers::retry_after_in_every_form`, `answers::a_burst_of_failures_is_survived` |
//! | challenges | `tokens::challenges_that_cannot_be_met` | `tokens::challenges_in_careless_spelling` |
//! | a resume that splices | `bodies::a_wrong_splice_is_refused`, `bodies::content_that_changes_in_the_middle` | `bodies::a_broken_body_goes_on_where_it_broke` |
//! | truncation, slow drip | `bodies::the_last_byte_that_never_comes` | `bodies::the_last_byte_that_comes_later`, `bodies::slow_and_steady` |
//!
//! Faults by seed are in the tests `faults`; registries that demand credentials, too.

mod answers;
mod bodies;
mod content;
mod endless;
mod redirects;
mod tokens;

use std::{sync::Arc, time::Duration};

use wharf_content::{Digest, Error, MemoryStore, Result, Store, filter::FilterSet};
use wharf_images::{Image, ImageStore, MemoryImages, media_types as types};
use wharf_remotes::{
    PullOptions, pull,
    registry::{RegistryResolver, RegistrySettings},
};
use wharf_tests::{FakeServer, Reply, Request, image::noise};

/// An image of one layer, and the answers of an honest registry that has it.
#[derive(Clone)]
struct Honest {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Honest {
    fn new() -> Self {
        let config =
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
        let layer = noise(200_000, 1);
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": types::OCI_MANIFEST,
            "config": { "mediaType": types::OCI_CONFIG, "digest": Digest::sha256(&config), "size": config.len() },
            "layers": [{ "mediaType": types::OCI_LAYER, "digest": Digest::sha256(&layer), "size": layer.len() }],
        }));
        Self { manifest: manifest.expect("JSON"), config, layer }
    }

    fn with_manifest(manifest: &str) -> Self {
        Self { manifest: manifest.as_bytes().to_vec(), ..Self::new() }
    }

    fn content(&self, path: &str) -> Option<&[u8]> {
        let path = path.split('?').next()?;
        let parts = [&self.config, &self.layer];
        if path.ends_with("/manifests/1") || path.ends_with(Digest::sha256(&self.manifest).as_str()) {
            return Some(&self.manifest);
        }
        parts.into_iter().find(|part| path.ends_with(Digest::sha256(part).as_str())).map(Vec::as_slice)
    }

    /// The path of the layer ends so.
    fn layer_digest(&self) -> String {
        Digest::sha256(&self.layer).to_string()
    }

    fn answer(&self, request: &Request) -> Reply {
        let Some(content) = self.content(&request.path) else {
            return Reply::new(404, &[], r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no"}]}"#);
        };
        let is_manifest = request.path.contains("/manifests/");
        let media_type = if is_manifest { types::OCI_MANIFEST } else { "application/octet-stream" };
        let (digest, len) = (Digest::sha256(content).to_string(), content.len().to_string());
        let headers = [
            ("Content-Type", media_type),
            ("Docker-Content-Digest", digest.as_str()),
            ("Content-Length", len.as_str()),
        ];
        if request.method == "HEAD" {
            Reply::new(200, &headers, "")
        } else {
            Reply::new(200, &headers, content)
        }
    }
}

struct Pulled {
    result: Result<Image>,
    blobs: usize,
    ingests: u64,
    store: Arc<MemoryStore>,
}

impl Pulled {
    fn error(&self) -> &Error {
        self.result.as_ref().expect_err("must fail")
    }
}

fn settings() -> RegistrySettings {
    RegistrySettings::new().with_retries(2, Duration::from_millis(1))
}

async fn pull_from(server: &FakeServer, store: Arc<MemoryStore>) -> Pulled {
    pull_named(&format!("{}/library/image:1", server.address()), store).await
}

async fn pull_named(name: &str, store: Arc<MemoryStore>) -> Pulled {
    pull_with(settings(), name, store).await
}

async fn pull_with(settings: RegistrySettings, name: &str, store: Arc<MemoryStore>) -> Pulled {
    let images = MemoryImages::new();
    let resolver = RegistryResolver::new(settings);
    let dynamic: Arc<dyn Store> = store.clone();
    let work = pull(dynamic, &images, &resolver, name, PullOptions::new());
    let result = tokio::time::timeout(Duration::from_secs(30), work).await.expect("bounded in time");
    let recorded = images.list(&FilterSet::all()).await.expect("lists").len();
    assert_eq!(recorded, usize::from(result.is_ok()), "a record exactly where the pull succeeded");
    let mut blobs = 0;
    let mut visit = |_| {
        blobs += 1;
        Ok(())
    };
    wharf_content::Manager::walk(store.as_ref(), &FilterSet::all(), &mut visit).await.expect("walks");
    let statuses = wharf_content::IngestManager::list_statuses(store.as_ref(), &FilterSet::all()).await;
    let ingests = statuses.expect("lists").iter().map(|status| status.offset).sum();
    Pulled { result, blobs, ingests, store }
}

async fn pulled(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Pulled, FakeServer) {
    let server = FakeServer::start(answer).await;
    let pulled = pull_from(&server, Arc::new(MemoryStore::new())).await;
    (pulled, server)
}
