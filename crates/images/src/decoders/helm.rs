//! Helm charts in registries: name and version come from the config, which is the chart's `Chart.yaml` as JSON.
//!
//! Source: Helm, HIP 6 and HIP 17 (media types). The chart's archive is not looked into.

use serde::Deserialize;
use wharf_content::{Descriptor, Result};

use super::{leaf::Leaf, said};
use crate::{
    artifact::{ArtifactDecoder, TITLE, VERSION},
    decode::{Decoded, Kind, ManifestDecoder},
    json,
};

/// The config, and by it the type of the artifact.
const CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
/// The chart as `helm package` makes it.
const CONTENT: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
/// Its detached signature.
const PROVENANCE: &str = "application/vnd.cncf.helm.chart.provenance.v1.prov";
/// The chart in the years when this was an experiment.
const OLD_CONTENT: &str = "application/tar+gzip";

crate::register_manifest_decoder! { name: "helm-config", keys: [CONFIG], make: Config }
crate::register_manifest_decoder! { name: "helm-leaf", keys: [CONTENT, PROVENANCE, OLD_CONTENT], make: Leaf }
crate::register_artifact_decoder! { name: "helm", keys: [CONFIG], make: Chart }

#[derive(Debug)]
struct Config;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    app_version: Option<String>,
    #[serde(default)]
    kube_version: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    home: Option<String>,
    #[serde(default)]
    deprecated: bool,
}

impl ManifestDecoder for Config {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let view: View = json::view(descriptor, bytes)?;
        let description = describe(view.name.as_deref(), view.version.as_deref());
        let mut decoded = Decoded::default().with_description(description);
        decoded.facts = [
            ("appVersion", view.app_version),
            ("deprecated", view.deprecated.then(|| "true".to_owned())),
            ("description", view.description),
            ("home", view.home),
            ("kubeVersion", view.kube_version),
            ("name", view.name),
            ("type", view.kind),
            ("version", view.version),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), said(value)?)))
        .collect();
        Ok(decoded)
    }
}

/// The manifest of a chart. Helm repeats name and version in its annotations.
#[derive(Debug)]
struct Chart;

impl ArtifactDecoder for Chart {
    fn refine(&self, _: &Descriptor, mut decoded: Decoded) -> Result<Decoded> {
        let annotation = |key: &str| decoded.facts.get(key).map(String::as_str);
        decoded.description = Some(describe(annotation(TITLE), annotation(VERSION)));
        Ok(decoded)
    }
}

fn describe(name: Option<&str>, version: Option<&str>) -> String {
    let words = ["Helm chart", name.unwrap_or_default(), version.unwrap_or_default()];
    words.map(str::trim).into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
