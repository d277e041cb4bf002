//! Transfers over bad connections: a layer of 1 GiB over one that is reset again and again, a registry that says to come
//! back later, and a process that is killed. What flows is counted.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::super::fixture::OCI_MANIFEST;
use super::super::small::{self, FIRST};
use super::super::{Step, World, busybox, digest};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::random::Noise;
use crate::registry::Registry;
use crate::registry::proxy::{Options, Proxy};

pub(super) const STEPS: &[Step] =
    &[("transfer-with-resets", resets), ("transfer-told-to-wait", told_to_wait)];

/// Bytes of the layer.
const LAYER: u64 = 1 << 30;

/// Bytes after which every connection is reset.
const EVERY: u64 = 16 << 20;

/// A layer of 1 GiB arrives over connections that carry 16 MiB each, and costs no more than a twentieth more.
fn resets(world: &World) -> Result<()> {
    let registry = world.empty_registry("resets", &crate::registry::Options::default())?;
    let (layer, manifest) = large(&registry, &world.dir("resets")?)?;
    let proxy = Proxy::start_with(registry.port(), Options::default().with_resets(EVERY))?;
    let image = format!("127.0.0.1:{}/team/large:1", proxy.port());
    let store = world.store("resets")?;
    let said = store.wharf(&["pull", &image]).limit(Duration::from_secs(300)).text()?;
    ensure_equal("what is printed", &said, &format!("{image}@{manifest}"))?;
    let (sent, resets) = (proxy.sent(), proxy.resets());
    ensure(resets >= LAYER / EVERY - 1, || format!("{resets} connections only were reset"))?;
    ensure(sent <= LAYER / 100 * 105, || {
        format!("{sent} bytes were taken of {LAYER}, with {resets} resets")
    })?;
    ensure(sent >= LAYER, || format!("{sent} bytes were taken of {LAYER}"))?;
    let hex = layer.trim_start_matches("sha256:");
    let file = store.root().join("blobs/sha256").join(hex);
    ensure_equal("the digest of the layer", &digest::of_file(&file)?, &layer)?;
    // Nobody else wants two times 1 GiB.
    drop(registry);
    for directory in [store.root(), &world.dir("resets")?.join("data")] {
        fs::remove_dir_all(directory).context(directory.display())?;
    }
    Ok(())
}

/// An image with one large layer, and the digests of the layer and of the manifest.
fn large(registry: &Registry, work: &Path) -> Result<(String, String)> {
    let file = work.join("noise");
    noise(&file)?;
    let layer = digest::of_file(&file)?;
    registry.adopt("team/large", &layer, &file)?;
    let config = json!({
        "architecture": busybox::host()?.architecture, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    });
    let config = config.to_string();
    let config_digest = digest::of(config.as_bytes())?;
    let config_file = work.join("config");
    fs::write(&config_file, &config).context(config_file.display())?;
    registry.adopt("team/large", &config_digest, &config_file)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest, "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": LAYER,
        }],
    });
    let manifest = manifest.to_string();
    registry.put_manifest("team/large", "1", OCI_MANIFEST, manifest.as_bytes())?;
    Ok((layer, digest::of(manifest.as_bytes())?))
}

/// [`LAYER`] bytes of which no two MiB are the same, so that a splice in the wrong place shows. Made from one MiB of
/// noise, for that is as quick as the disk.
fn noise(path: &Path) -> Result<()> {
    let mut block = Vec::with_capacity(1 << 20);
    let mut noise = Noise::new(LAYER);
    while block.len() < 1 << 20 {
        block.extend_from_slice(&noise.word().to_le_bytes());
    }
    let mut file = File::create(path).context(path.display())?;
    for number in 0..LAYER >> 20 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).context(path.display())?;
    }
    Ok(())
}

/// Connections that the registry turns away before it serves.
const TURNED_AWAY: u64 = 2;

/// A registry that says 429 is not asked again before the time that it names, and then everything comes.
fn told_to_wait(world: &World) -> Result<()> {
    let options = Options::default().with_turned_away(TURNED_AWAY);
    let proxy = Proxy::start_with(world.registry.port(), options)?;
    let image = format!("127.0.0.1:{}/{FIRST}", proxy.port());
    let store = world.store("told-to-wait")?;
    // The own first wait is shorter by far: what is waited is what the registry says.
    store.pull(&image, &["--retry-delay", "0.01", "-j", "1"])?;
    let accepted = proxy.accepted();
    let first = accepted.windows(2).take(2).map(|pair| pair[1] - pair[0]);
    let waits: Vec<_> = first.collect();
    ensure(waits.len() == 2 && waits.iter().all(|wait| *wait >= Duration::from_millis(990)), || {
        format!("`Retry-After: 1` was followed by another request after {waits:?}")
    })?;
    ensure_equal("names", &store.names()?, std::slice::from_ref(&image).to_vec().as_ref())?;
    let expected = small::bytes(world, FIRST)?;
    ensure(proxy.sent() >= expected, || format!("{} bytes of {expected}", proxy.sent()))?;
    // Who may not ask again says so.
    let proxy = Proxy::start_with(world.registry.port(), Options::default().with_turned_away(TURNED_AWAY))?;
    let image = format!("127.0.0.1:{}/{FIRST}", proxy.port());
    let other = world.store("told-to-wait-once")?;
    other.fails(&["pull", "--retry-times", "0", &image], 6)?.expect_said(&["429"]).map(drop)
}
