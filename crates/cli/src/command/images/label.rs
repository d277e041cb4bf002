//! `wharf images label`: the labels of an image's record. Those in its config are part of its content and cannot change.

use clap::Args;
use serde_json::json;
use wharf_content::Result;
use wharf_images::Image;

use crate::{args::Format, context::Context, labels, output};

/// Arguments of `images label`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the labels that the image has then; without KEY=VALUE none is changed. `containerd.io/gc.expire=TIME` lets an \
image go at that time (RFC 3339) when it is collected.\n\n\
Examples:\n  wharf images label busybox team=storage stage=\n  wharf images ls labels.team==storage"
)]
pub(crate) struct Label {
    /// The image
    #[arg(value_name = "NAME")]
    name: String,
    /// Labels to set; an empty value removes
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Label {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let wanted = labels::parse(&self.labels)?;
        let mut image = context.image(&self.name).await?;
        // No path at all would mean everything.
        if !wanted.is_empty() {
            let paths: Vec<String> = wanted.keys().map(|key| format!("labels.{key}")).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let wanted = Image::new(image.name, image.target).with_labels(wanted);
            image = context.images().await?.update(wanted, &paths).await?;
        }
        match context.global.format {
            Format::Json => output::json(&json!({ "name": image.name, "labels": image.labels })),
            Format::Text if context.global.quiet => output::line(&output::escape(&image.name)),
            Format::Text => image
                .labels
                .iter()
                .try_for_each(|(key, value)| output::line(&output::escape(&format!("{key}={value}")))),
        }
    }
}
