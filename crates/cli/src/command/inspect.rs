//! `wharf inspect`: one page about an image.

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use wharf_content::{Descriptor, ErrorKind, Labels, Result, ResultExt, read_blob};
use wharf_images::{
    Selection,
    image::{self, MAX_CONFIG_LEN, Manifest},
};

use crate::{
    args::{Format, PlatformArgs},
    context::{Context, LookArgs, View},
    output::{self, escape},
};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Looks in the store, and at the registry if the image is not there.")]
pub(crate) struct Inspect {
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    platforms: PlatformArgs,
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
    config: Descriptor,
    /// The config itself, where it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    config_content: Option<Value>,
    layers: Vec<Descriptor>,
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
        Some(manifest) => Some(choose(&view, manifest).await?),
        None => None,
    };
    let size = chosen.iter().flat_map(|chosen| chosen.layers.iter().chain([&chosen.config]));
    let size = size.map(|part| part.size).fold(0_u64, u64::saturating_add);
    let own = manifest.as_ref().map_or(view.target.size, |manifest| manifest.descriptor.size);
    Ok(Page {
        name: view.name,
        digest: view.target.digest.to_string(),
        media_type: view.target.media_type,
        source: if view.image.is_some() { "store" } else { "remote" },
        size: size.saturating_add(own),
        platforms: platforms.iter().map(wharf_platforms::format_all).collect(),
        labels: view.image.map(|image| image.labels).unwrap_or_default(),
        manifest: chosen,
    })
}

async fn choose(view: &View, manifest: &Manifest) -> Result<Chosen> {
    let config = manifest.config()?;
    let content = match read_blob(view.provider.as_ref(), config, MAX_CONFIG_LEN).await {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes).ok(),
        Err(error) if error.kind() == ErrorKind::NotFound && view.image.is_some() => None,
        Err(error) => return Err(error),
    };
    let platform = match &manifest.descriptor.platform {
        Some(platform) => Some(wharf_platforms::normalize(platform)),
        None => image::config_platform(view.provider.as_ref(), manifest).await.unwrap_or_default(),
    };
    Ok(Chosen {
        digest: manifest.descriptor.digest.to_string(),
        media_type: manifest.descriptor.media_type.clone(),
        platform: platform.as_ref().map(wharf_platforms::format_all),
        artifact_type: manifest.decoded.artifact_type.clone(),
        config: config.clone(),
        config_content: content,
        layers: manifest.layers().cloned().collect(),
    })
}

fn text(page: &Page) -> String {
    let mut lines = Vec::new();
    let mut line = |key: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{:<12} {}", format!("{key}:"), escape(value)));
        }
    };
    line("Name", &page.name);
    line("Digest", &page.digest);
    line("Type", &page.media_type);
    line("Source", page.source);
    line("Platforms", &page.platforms.join(", "));
    for (key, value) in &page.labels {
        line("Label", &format!("{key}={value}"));
    }
    let Some(chosen) = &page.manifest else { return lines.join("\n") + "\n" };
    line("Manifest", &chosen.digest);
    line("Platform", chosen.platform.as_deref().unwrap_or_default());
    line("Artifact", chosen.artifact_type.as_deref().unwrap_or_default());
    line("Size", &format!("{} ({} bytes)", output::size(page.size), page.size));
    line("Config", &format!("{}  {}", chosen.config.digest, chosen.config.media_type));
    for (key, field) in [("Created", "created"), ("Author", "author")] {
        line(
            key,
            chosen.config_content.as_ref().and_then(|config| config[field].as_str()).unwrap_or_default(),
        );
    }
    let settings = chosen.config_content.as_ref().map(|config| &config["config"]);
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
            Some(Value::String(value)) => line(key, value),
            Some(value) => line(key, &value.to_string()),
        }
    }
    for (at, layer) in chosen.layers.iter().enumerate() {
        let key = format!("Layer {}", at + 1);
        line(&key, &format!("{}  {}  {}", layer.digest, output::size(layer.size), layer.media_type));
    }
    lines.join("\n") + "\n"
}
