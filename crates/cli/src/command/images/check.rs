//! `wharf images check`: whether all of an image is in the store. Contents are not hashed; that is `wharf verify`.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use wharf_content::{Descriptor, Digest, Error, Provider, Result, ResultExt, filter::FilterSet};
use wharf_images::{
    Image, Kind, Selection,
    decode::kind,
    image::{self, check_platform, manifests},
};

use crate::{
    args::{Format, PlatformArgs},
    context::Context,
    exit, output,
};

/// Arguments of `images check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without names all images are checked. Without --platform an image has to have all of the platforms that were pulled: \
those of which the manifest is in the store.\n\n\
STATUS is complete, incomplete or unavailable, with how many parts are there and how many the image has; unavailable is one whose own \
document is not there, error one that cannot be read. SIZE tells the same in bytes. A `+` stands where a document is missing that would \
tell of more parts. UNPACKED tells whether the layers of the host's platform, or of the one that is asked for, are unpacked in the \
store, by `wharf unpack NAME` or `wharf pull --unpack`. The blobs of such layers may be missing: what is unpacked already is not fetched.\n\n\
-q prints the names of the images that are complete. Exits with 5 when one is not, with 7 when only some of the names were found; `wharf pull` and `wharf verify --repair` fetch what is missing.\n\n\
Examples:\n  wharf images check\n  wharf images check --all-platforms busybox\n  wharf images check -q | xargs -r wharf export -o all.tar"
)]
pub(crate) struct Check {
    /// Check these images only
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    platforms: PlatformArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Complete,
    Incomplete,
    /// The image's own document is not there, so that nobody knows what else it has.
    Unavailable,
    /// What is there cannot be read, or has not the platform that was asked for.
    Error,
}

/// An image and what of it is in the store.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    target: Descriptor,
    status: Status,
    present: usize,
    /// Absent where it is not known.
    required: Option<usize>,
    present_bytes: u64,
    required_bytes: Option<u64>,
    /// Whether a document is missing that would tell of more that is required.
    at_least: bool,
    missing: Vec<Descriptor>,
    unpacked: bool,
}

impl Check {
    /// Checks what there is, and fails if one is not complete, not there, or cannot be read.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let selection = self.platforms.selection()?;
        let (images, mut failed) = self.images(context).await?;
        let unknown = failed.len();
        let mut rows = Vec::with_capacity(images.len());
        for image in images {
            let row = Row::of(context, &image, selection.as_ref()).await;
            rows.push(row.unwrap_or_else(|error| {
                failed.push(error.context(format!("cannot check image {:?}", image.name)));
                Row::unreadable(image)
            }));
        }
        let format = context.global.format;
        match format {
            Format::Json => output::json(&rows)?,
            Format::Text if context.global.quiet => rows
                .iter()
                .filter(|row| row.status == Status::Complete)
                .try_for_each(|row| output::line(&output::escape(&row.name)))?,
            // Nothing but names that are not there leaves nothing to tell.
            Format::Text if rows.is_empty() && !failed.is_empty() => {}
            Format::Text => output::write(table(&rows).as_bytes())?,
        }
        let verdict = verdict(&rows);
        if verdict.is_none() && failed.len() == unknown && !rows.is_empty() {
            // All that is there was found to be good.
            context.partly_done();
        }
        failed.extend(verdict);
        let Some(last) = failed.pop() else { return Ok(()) };
        for error in failed {
            exit::report(&error, format);
        }
        Err(last)
    }

    /// The images that are meant, and why some of them are not there.
    async fn images(&self, context: &Context) -> Result<(Vec<Image>, Vec<Error>)> {
        if self.names.is_empty() {
            return Ok((context.images().await?.list(&FilterSet::all()).await?, Vec::new()));
        }
        // A store that cannot be opened is not the fault of a name.
        context.images().await?;
        let (mut images, mut failed) = (Vec::new(), Vec::new());
        for name in &self.names {
            match context.image(name).await {
                Ok(image) => images.push(image),
                Err(error) => failed.push(error),
            }
        }
        Ok((images, failed))
    }
}

impl Row {
    async fn of(context: &Context, image: &Image, asked: Option<&Selection>) -> Result<Self> {
        let (provider, catalogue) = (context.provider().await?, &context.catalogue);
        let all = Selection::all();
        let selection = asked.unwrap_or(&all);
        check_platform(provider.as_ref(), &image.target, selection, catalogue).await?;
        let mut check = image::check(Arc::clone(&provider), &image.target, selection, catalogue).await?;
        let is_unavailable = check.missing.iter().any(|part| part.digest == image.target.digest);
        if asked.is_none() && !is_unavailable {
            let never_pulled = never_pulled(context, provider.as_ref(), image).await?;
            for parts in [&mut check.required, &mut check.missing] {
                parts.retain(|part| !never_pulled.contains(&part.digest));
            }
        }
        let mut at_least = false;
        for part in &check.missing {
            at_least |= kind(&part.media_type, catalogue)?.is_some_and(Kind::is_manifest);
        }
        Ok(Self {
            name: image.name.clone(),
            target: image.target.clone(),
            status: match check.is_complete() {
                true => Status::Complete,
                false if is_unavailable => Status::Unavailable,
                false => Status::Incomplete,
            },
            present: check.present.len(),
            required: (!is_unavailable).then_some(check.required.len()),
            present_bytes: check.present_size()?,
            required_bytes: if is_unavailable { None } else { Some(check.required_size()?) },
            at_least,
            missing: check.missing,
            unpacked: is_unpacked(context, image, asked).await,
        })
    }

    fn unreadable(image: Image) -> Self {
        Self {
            name: image.name,
            target: image.target,
            status: Status::Error,
            present: 0,
            required: None,
            present_bytes: 0,
            required_bytes: None,
            at_least: false,
            missing: Vec::new(),
            unpacked: false,
        }
    }

    fn cells(&self) -> Vec<String> {
        let more = if self.at_least && self.required.is_some() { "+" } else { "" };
        let status = match self.status {
            Status::Complete => "complete",
            Status::Incomplete => "incomplete",
            Status::Unavailable => "unavailable",
            Status::Error => "error",
        };
        let is_read = self.status != Status::Error;
        let required = self.required.map_or_else(|| "?".into(), |required| required.to_string());
        let bytes = self.required_bytes.map_or_else(|| "?".into(), output::size);
        vec![
            self.name.clone(),
            self.target.media_type.clone(),
            self.target.digest.to_string(),
            if is_read { format!("{status} ({}/{required}{more})", self.present) } else { status.into() },
            if is_read { format!("{}/{bytes}{more}", output::size(self.present_bytes)) } else { "-".into() },
            if self.unpacked { "yes" } else { "no" }.into(),
        ]
    }
}

/// Whether the layers are unpacked of the platform that is asked for, or the host's. What cannot be told is not.
#[cfg(target_os = "linux")]
async fn is_unpacked(context: &Context, image: &Image, asked: Option<&Selection>) -> bool {
    let host = Selection::host();
    let selection = asked.filter(|asked| !asked.is_all()).unwrap_or(&host);
    let found = async {
        let store = context.store().await?;
        let layers = wharf_archive::LayerStore::of(store.as_ref())?;
        layers.has_image(store.as_ref(), &image.target, selection, &context.catalogue).await
    };
    found.await.unwrap_or(false)
}

/// Nothing is unpacked here.
#[cfg(not(target_os = "linux"))]
async fn is_unpacked(_: &Context, _: &Image, _: Option<&Selection>) -> bool {
    false
}

/// The documents that the image lists and nobody pulled: those that are not here beside some that are. Where none is, all are missed.
async fn never_pulled(context: &Context, provider: &dyn Provider, image: &Image) -> Result<Vec<Digest>> {
    let named = manifests(provider, &image.target, &context.catalogue)
        .await
        .context(|| "cannot read what it lists")?;
    if named.iter().all(|named| !named.present) {
        return Ok(Vec::new());
    }
    Ok(named.into_iter().filter(|named| !named.present).map(|named| named.descriptor.digest).collect())
}

fn table(rows: &[Row]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
    output::table(&["REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED"], &rows)
}

/// The failure of what is not complete; what cannot be read has told so itself.
fn verdict(rows: &[Row]) -> Option<Error> {
    let is_wanting = |row: &&Row| matches!(row.status, Status::Incomplete | Status::Unavailable);
    let wanting = rows.iter().filter(is_wanting).count();
    let is = if wanting == 1 { "is" } else { "are" };
    let images = if rows.len() == 1 { "image" } else { "images" };
    (wanting > 0).then(|| {
        Error::failed_precondition(format!(
            "{wanting} of {} {images} {is} not complete: `wharf pull` and `wharf verify --repair` fetch what is missing",
            rows.len()
        ))
    })
}
