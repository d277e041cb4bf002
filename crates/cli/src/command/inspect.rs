//! `wharf inspect`: one page about an image.

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use wharf_content::{Catalogue, Descriptor, ErrorKind, Labels, Provider, Result, ResultExt, read_blob};
use wharf_images::{
    Selection,
    image::{self, MAX_CONFIG_LEN, Manifest},
};

use super::tree::Readings;
use crate::{
    args::{Format, PlatformArgs},
    context::Context,
    node::{self, Place, Said, cut},
    output::{self, escape},
    view::{LookArgs, View},
};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Looks in the store, and at the registry if the image is not there.")]
pub(crate) struct Inspect {
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    name: String,
    digest: String,
    media_type: String,
    /// Where the page comes from.
    source: &'static str,
    /// The bytes of the chosen platform: its manifest, config and layers.
    size: u64,
    platforms: Vec<String>,
    labels: Labels,
    #[serde(flatten)]
    said: Said,
    /// The manifest that was chosen; absent where none is for this platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Chosen>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Chosen {
    digest: String,
    media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(flatten)]
    said: Said,
    /// Absent where the manifest has none, as the artifact manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Part>,
    /// The config itself, where it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_content: Option<Value>,
    layers: Vec<Part>,
}

/// A config or layer with what it says of itself.
#[derive(Serialize)]
struct Part {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(flatten)]
    said: Said,
}

impl Inspect {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let asked = self.platforms.selection()?;
        let view = context.view(&self.look).await?;
        let page =
            page(context, view, asked).await.context(|| format!("cannot inspect {}", self.look.reference))?;
        match context.global.format {
            Format::Json => output::json(&page),
            Format::Text if context.global.quiet => output::line(&page.digest),
            Format::Text => output::write(text(&page).as_bytes()),
        }
    }
}

async fn page(context: &Context, view: View, asked: Option<Selection>) -> Result<Page> {
    let provider = view.provider.as_ref();
    let is_asked = asked.is_some();
    let selection = asked.unwrap_or_else(Selection::host);
    let manifest = match image::manifest(provider, &view.target, &selection, &context.catalogue).await {
        Ok(manifest) => Some(manifest),
        // An image for other machines can be looked at too; only what was asked for must be there.
        Err(error) if error.kind() == ErrorKind::NotFound && !is_asked => {
            image::manifest(provider, &view.target, &Selection::all(), &context.catalogue).await.ok()
        }
        Err(error) => return Err(error),
    };
    let platforms = image::platforms(provider, &view.target, &context.catalogue).await?;
    let chosen = match &manifest {
        Some(manifest) => Some(choose(&view, manifest, &context.catalogue).await?),
        None => None,
    };
    let (_, said) = node::read(provider, &view.target, view.place(), &context.catalogue).await?;
    let size = chosen.iter().flat_map(|chosen| chosen.layers.iter().chain(&chosen.config));
    let size = size.map(|part| part.descriptor.size).fold(0_u64, u64::saturating_add);
    let own = manifest.as_ref().map_or(view.target.size, |manifest| manifest.descriptor.size);
    Ok(Page {
        source: view.source(),
        name: view.name,
        digest: view.target.digest.to_string(),
        media_type: view.target.media_type,
        size: size.saturating_add(own),
        platforms: platforms.iter().map(wharf_platforms::format_all).collect(),
        labels: view.image.map(|image| image.labels).unwrap_or_default(),
        said,
        manifest: chosen,
    })
}

impl View {
    fn place(&self) -> Place {
        if self.image.is_some() { Place::Local } else { Place::Remote }
    }
}

async fn choose(view: &View, manifest: &Manifest, catalogue: &Catalogue) -> Result<Chosen> {
    let provider = view.provider.as_ref();
    let mut readings = Readings::new(view.place());
    let mut layers = Vec::new();
    for layer in manifest.layers() {
        layers.push(part(&mut readings, provider, layer, catalogue).await?);
    }
    let (mut config, mut config_content) = (None, None);
    if let Ok(descriptor) = manifest.config() {
        config_content = match read_blob(provider, descriptor, MAX_CONFIG_LEN).await {
            Ok(bytes) => serde_json::from_slice::<Value>(&bytes).ok(),
            Err(error) if error.kind() == ErrorKind::NotFound && view.image.is_some() => None,
            Err(error) => return Err(error),
        };
        config = Some(part(&mut readings, provider, descriptor, catalogue).await?);
    }
    let platform = match &manifest.descriptor.platform {
        Some(platform) => Some(wharf_platforms::normalize(platform)),
        None => image::config_platform(provider, manifest).await.unwrap_or_default(),
    };
    Ok(Chosen {
        digest: manifest.descriptor.digest.to_string(),
        media_type: manifest.descriptor.media_type.clone(),
        platform: platform.as_ref().map(wharf_platforms::format_all),
        artifact_type: manifest.decoded.artifact_type.clone(),
        said: Said::new(&manifest.decoded),
        config,
        config_content,
        layers,
    })
}

async fn part(
    readings: &mut Readings,
    provider: &dyn Provider,
    descriptor: &Descriptor,
    catalogue: &Catalogue,
) -> Result<Part> {
    let (_, said) = readings.read(provider, descriptor, catalogue).await?;
    Ok(Part { descriptor: descriptor.clone(), said })
}

/// The most characters of one value.
const MAX_VALUE: usize = 4096;

/// Lines of a key and a value, made harmless for a terminal.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            let key = format!("{key}:");
            self.0.push(format!("{key:<12} {}", escape(&cut(value, MAX_VALUE))));
        }
    }

    fn said(&mut self, said: &Said) {
        self.add("About", said.description.as_deref().unwrap_or_default());
        self.details(said);
    }

    fn details(&mut self, said: &Said) {
        self.0.extend(said.lines().iter().map(|line| format!("{:<12} {line}", "")));
    }

    fn part(&mut self, key: &str, part: &Part) {
        let Part { descriptor: Descriptor { digest, size, media_type, .. }, said } = part;
        let about = said.description.as_ref().map_or_else(String::new, |about| format!("  {about}"));
        self.add(key, &format!("{digest}  {}  {media_type}{about}", output::size(*size)));
        self.details(said);
    }
}

fn text(page: &Page) -> String {
    let mut lines = Lines::default();
    lines.add("Name", &page.name);
    lines.add("Digest", &page.digest);
    lines.add("Type", &page.media_type);
    lines.add("Source", page.source);
    lines.add("Platforms", &page.platforms.join(", "));
    for (key, value) in &page.labels {
        lines.add("Label", &format!("{key}={value}"));
    }
    if page.manifest.as_ref().is_none_or(|chosen| chosen.digest != page.digest) {
        lines.said(&page.said);
    }
    if let Some(chosen) = &page.manifest {
        lines.add("Manifest", &chosen.digest);
        lines.add("Platform", chosen.platform.as_deref().unwrap_or_default());
        lines.add("Artifact", chosen.artifact_type.as_deref().unwrap_or_default());
        lines.said(&chosen.said);
        lines.add("Size", &format!("{} ({} bytes)", output::size(page.size), page.size));
        if let Some(config) = &chosen.config {
            lines.part("Config", config);
        }
        settings(&mut lines, chosen.config_content.as_ref());
        for (at, layer) in chosen.layers.iter().enumerate() {
            lines.part(&format!("Layer {}", at + 1), layer);
        }
    }
    lines.0.join("\n") + "\n"
}

/// What a container is started with.
fn settings(lines: &mut Lines, config: Option<&Value>) {
    let settings = config.map(|config| &config["config"]);
    for (key, field) in [
        ("Entrypoint", "Entrypoint"),
        ("Command", "Cmd"),
        ("Directory", "WorkingDir"),
        ("User", "User"),
        ("Environment", "Env"),
        ("Ports", "ExposedPorts"),
        ("Volumes", "Volumes"),
        ("Labels", "Labels"),
    ] {
        match settings.map(|settings| &settings[field]) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) => lines.add(key, value),
            Some(value) => lines.add(key, &value.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use wharf_images::media_types as types;

    use super::{
        super::tree::tests::{Counting, NOTE, catalogue},
        *,
    };

    #[tokio::test]
    async fn a_layer_that_is_named_often_is_read_once() {
        let counting = Arc::new(Counting::default());
        let config = counting.put(types::OCI_CONFIG, &json!({})).await;
        let note = counting.put(NOTE, &json!([1])).await;
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": vec![&note; 1000] });
        let target = counting.put(types::OCI_MANIFEST, &manifest).await;
        let view = View {
            name: "x".into(),
            target: target.clone(),
            provider: counting.clone(),
            image: None,
            fetcher: None,
        };
        let decoded = wharf_images::decode(counting.as_ref(), &target, &catalogue()).await.expect("reads");
        let manifest = Manifest::new(target, decoded.expect("a manifest"));
        let chosen = choose(&view, &manifest, &catalogue()).await.expect("an image");
        assert_eq!(chosen.layers.len(), 1000);
        assert!(chosen.layers.iter().all(|layer| layer.said.description.as_deref() == Some("a note")));
        assert_eq!(counting.opened(&note.digest), 1);
    }
}
