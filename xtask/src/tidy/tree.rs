//! What the resolved dependency trees may hold: no HTTP in the crates that have nothing to do with a network, one
//! TLS stack, and one version of each crate that the network side stands on.

use std::collections::{BTreeMap, BTreeSet};

use crate::cargo::Workspace;
use crate::failure::{Result, ensure};

/// HTTP clients and servers, and the TLS below them.
const NETWORK: &[&str] = &[
    "actix-web",
    "attohttpc",
    "awc",
    "axum",
    "curl",
    "h2",
    "h3",
    "hyper",
    "hyper-util",
    "isahc",
    "reqwest",
    "rocket",
    "rustls",
    "surf",
    "tiny_http",
    "tokio-rustls",
    "tower-http",
    "ureq",
    "warp",
];

/// TLS stacks other than rustls.
const OTHER_TLS: &[&str] = &[
    "boring",
    "boring-sys",
    "mbedtls",
    "native-tls",
    "openssl",
    "openssl-sys",
    "s2n-tls",
    "tokio-native-tls",
    "tokio-openssl",
    "wolfssl",
];

/// Crates of which there is one version or none: two would be two pools, two stacks or two runtimes.
const SINGLE: &[&str] = &["bytes", "h2", "http", "hyper", "reqwest", "rustls", "rustls-webpki", "tokio"];

/// The trees without a network: a package and how it is built.
const OFFLINE: &[(&str, &[&str])] = &[
    ("wharf-platforms", &["--all-features"]),
    ("wharf-content", &["--all-features"]),
    ("wharf-images", &["--all-features"]),
    ("wharf-archive", &["--all-features"]),
    ("wharf-remotes", &["--no-default-features"]),
];

/// One crate in a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    name: String,
    version: String,
}

pub(super) fn rule(workspace: &Workspace) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for (package, features) in OFFLINE {
        let nodes = tree(workspace, "normal,build", &[&["--package", package], *features].concat())?;
        let found = banned(&nodes, NETWORK);
        complaints.extend(found.iter().map(|name| format!("{package} ({}) uses {name}", features.join(" "))));
    }
    // The same question where the answer is known to be yes, or nobody would notice that it is never asked.
    let online = tree(workspace, "normal,build", &["--package", "wharf-remotes"])?;
    ensure(!banned(&online, NETWORK).is_empty(), || {
        "wharf-remotes as it is has no HTTP client that this rule knows, so the rule checks nothing"
            .to_owned()
    })?;
    let everything = tree(workspace, "normal,build,dev", &["--workspace", "--all-features"])?;
    complaints
        .extend(banned(&everything, OTHER_TLS).iter().map(|name| format!("{name} is a second TLS stack")));
    complaints.extend(several(&everything, SINGLE));
    Ok(complaints)
}

fn tree(workspace: &Workspace, edges: &str, selection: &[&str]) -> Result<BTreeSet<Node>> {
    let listing = workspace
        .cargo()
        .args([
            "tree", "--locked", "--target", "all", "--prefix", "none", "--format", "{p}", "--edges", edges,
        ])
        .args(selection)
        .text()?;
    let nodes = parse(&listing);
    ensure(!nodes.is_empty(), || format!("cargo tree {} lists nothing", selection.join(" ")))?;
    Ok(nodes)
}

/// Reads lines such as `hyper v1.12.0 (*)`.
fn parse(listing: &str) -> BTreeSet<Node> {
    let lines = listing.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(" v")?;
        let version = rest.split_whitespace().next()?;
        Some(Node { name: name.to_owned(), version: version.to_owned() })
    });
    lines.collect()
}

/// Those crates of the tree that are on the list.
fn banned(nodes: &BTreeSet<Node>, list: &[&str]) -> Vec<String> {
    let found = nodes.iter().filter(|node| list.contains(&node.name.as_str()));
    found.map(|node| format!("{} {}", node.name, node.version)).collect()
}

/// Complains of a crate on the list that is there in more than one version.
fn several(nodes: &BTreeSet<Node>, list: &[&str]) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| list.contains(&node.name.as_str())) {
        versions.entry(&node.name).or_default().push(&node.version);
    }
    let several = versions.iter().filter(|(_, versions)| versions.len() > 1);
    several
        .map(|(name, versions)| format!("{name} is there in several versions: {}", versions.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
        wharf-content v0.1.0 (/some/where/crates/content)\n\
        bytes v1.12.0\n\
        serde v1.0.228\n\
        serde_derive v1.0.228 (proc-macro)\n\
        bytes v1.12.0 (*)\n";

    #[test]
    fn listings_are_read() {
        let nodes = parse(LISTING);
        assert_eq!(nodes.len(), 4);
        assert!(nodes.contains(&Node { name: "serde_derive".to_owned(), version: "1.0.228".to_owned() }));
    }

    #[test]
    fn a_clean_tree_passes() {
        let nodes = parse(LISTING);
        assert_eq!(banned(&nodes, NETWORK), [""; 0]);
        assert_eq!(banned(&nodes, OTHER_TLS), [""; 0]);
        assert_eq!(several(&nodes, SINGLE), [""; 0]);
    }

    #[test]
    fn a_client_anywhere_below_is_found() {
        let nodes = parse(&format!("{LISTING}some-helper v0.1.0\nhyper v1.12.0\n"));
        assert_eq!(banned(&nodes, NETWORK), ["hyper 1.12.0"]);
    }

    #[test]
    fn a_second_tls_stack_is_found() {
        let nodes = parse(&format!("{LISTING}openssl-sys v0.9.1\n"));
        assert_eq!(banned(&nodes, OTHER_TLS), ["openssl-sys 0.9.1"]);
    }

    #[test]
    fn a_second_version_is_found() {
        let nodes = parse(&format!("{LISTING}bytes v2.0.0\nserde v2.0.0\n"));
        assert_eq!(several(&nodes, SINGLE), ["bytes is there in several versions: 1.12.0, 2.0.0"]);
    }
}
