//! `wharf images`: the images of the store. `ls` and `rm` are here, the others in the modules below.

mod check;
mod label;
mod tag;

use clap::{Args, Subcommand};
use serde::Serialize;
use wharf_content::{Descriptor, ErrorKind, Labels, Result, filter::FilterSet, gc::CollectOptions};
use wharf_images::{
    Image, Selection,
    image::{check, present_platforms},
};

use crate::{args::Format, context::Context, exit::Failures, output};

pub(crate) use tag::Tag;

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// List images
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove images; their content stays until it is collected
    #[command(visible_alias = "remove", visible_alias = "delete")]
    Rm(Remove),
    /// Give an image of the store more names
    Tag(Tag),
    /// Set and remove labels of an image, and print those it has then
    Label(label::Label),
    /// Tell whether all parts of images are in the store
    Check(check::Check),
}

impl Images {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Ls(list) => list.run(context).await,
            Self::Rm(remove) => remove.run(context).await,
            Self::Tag(tag) => tag.run(context).await,
            Self::Label(label) => label.run(context).await,
            Self::Check(check) => check.run(context).await,
        }
    }
}

/// Arguments of `images ls`.
#[derive(Debug, Args)]
#[command(
    after_help = "A filter is `field==value`, `field!=value`, `field~=regex` or `field`, joined by commas; one of several filters must \
match.\nFields: name, target.digest, target.mediatype, labels.KEY, annotations.KEY.\n\n\
SIZE and PLATFORMS tell what of the image is in the store."
)]
pub(crate) struct List {
    /// List only what one of these matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    target: Descriptor,
    size: u64,
    platforms: Vec<String>,
    labels: Labels,
    created: String,
    updated: String,
}

impl List {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let filters = FilterSet::parse(&self.filters)?;
        let images = context.images().await?.list(&filters).await?;
        if context.global.quiet && context.global.format == Format::Text {
            return images.iter().try_for_each(|image| output::line(&output::escape(&image.name)));
        }
        let mut rows = Vec::with_capacity(images.len());
        for image in images {
            rows.push(describe(context, image).await?);
        }
        match context.global.format {
            Format::Json => output::json(&rows),
            Format::Text => output::write(table(&rows).as_bytes()),
        }
    }
}

/// An image that is damaged is still listed, with what could be found out.
async fn describe(context: &Context, image: Image) -> Result<Row> {
    let provider = context.provider().await?;
    let platforms = present_platforms(provider.as_ref(), &image.target, &context.catalogue).await;
    let size = check(provider, &image.target, &Selection::all(), &context.catalogue).await;
    let size = size.and_then(|check| check.present_size());
    if let Some(error) = platforms.as_ref().err().or(size.as_ref().err()) {
        tracing::warn!("image {}: {}", output::escape(&image.name), output::escape(&error.report()));
    }
    let time = |at| jiff::Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default();
    Ok(Row {
        name: image.name,
        target: image.target,
        size: size.unwrap_or(0),
        platforms: platforms.unwrap_or_default().iter().map(wharf_platforms::format_all).collect(),
        labels: image.labels,
        created: time(image.created_at),
        updated: time(image.updated_at),
    })
}

fn table(rows: &[Row]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let labels: Vec<String> =
                row.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let or_dash = |text: String| if text.is_empty() { "-".into() } else { text };
            vec![
                row.name.clone(),
                row.target.media_type.clone(),
                row.target.digest.to_string(),
                output::size(row.size),
                or_dash(row.platforms.join(",")),
                or_dash(labels.join(",")),
            ]
        })
        .collect();
    output::table(&["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"], &rows)
}

/// Arguments of `images rm`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the names that it removed. Exits with 7 when only some could be.\n\nExamples:\n  wharf images rm busybox\n  \
wharf images ls -q 'name~=^localhost/' | xargs -r -d '\\n' wharf images rm --sync"
)]
pub(crate) struct Remove {
    /// The images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Collect what they kept before returning, as `wharf gc` does
    #[arg(long)]
    sync: bool,
}

impl Remove {
    /// Removes what is there, and fails if one was not; nothing, where a name cannot be one.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let images = context.images().await?;
        let mut failures = Failures::new(context.global.format);
        let mut found = Vec::with_capacity(self.names.len());
        for name in &self.names {
            match context.image(name).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                image => found.extend(failures.sort(image)),
            }
        }
        let mut removed = Vec::with_capacity(found.len());
        for image in found {
            if failures.done(images.delete(&image.name, Some(&image.target)).await).is_some() {
                removed.push(image.name);
            }
        }
        failures.afterwards(output::names(context.global.format, &removed));
        if self.sync {
            failures.afterwards(context.collect(&CollectOptions::new()).await);
        }
        failures.finish(context)
    }
}
