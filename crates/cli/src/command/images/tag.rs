//! `wharf images tag`: more names for an image of the store. It makes records only; content stays where it is.

use std::{collections::BTreeSet, sync::Arc};

use clap::Args;
use serde_json::json;
use wharf_content::{Error, ErrorKind, LeasedStore, Result, ResultExt};
use wharf_images::{Image, ImageStore, Reference, record, reference::split_transport};

use crate::{
    args::Format,
    context::{Context, STORE_SCHEME},
    output,
};

/// Arguments of `images tag`.
#[derive(Debug, Args)]
#[command(
    after_help = "The labels go with the image. Where one of the new names is taken, nothing is tagged, and the exit code is 1; --force \
gives the name to this image instead. Prints the names as they are in the store.\n\n\
Examples:\n  wharf images tag busybox localhost:5000/busybox:mirrored\n  wharf images tag --force app:1.2 app:1 app:latest"
)]
pub(crate) struct Tag {
    /// The image
    #[arg(value_name = "SRC")]
    source: String,
    /// Its new names, read as Docker reads them: `app` is docker.io/library/app:latest
    #[arg(required = true, value_name = "DST")]
    targets: Vec<String>,
    /// Take names away from the images that have them
    #[arg(long)]
    force: bool,
}

impl Tag {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        // What cannot be a name is found out before anything changes.
        let names: Vec<Reference> =
            self.targets.iter().map(|name| read(name, context)).collect::<Result<_>>()?;
        let images = context.images().await?;
        let found = context.image(&self.source).await?;
        let leased = LeasedStore::hold_while_at_work(context.store().await?).await?;
        let mut tagged = Vec::new();
        let outcome = self.tag(images.as_ref(), &leased, found, &names, &mut tagged).await;
        let released = leased.release().await;
        tell(context, &tagged)?;
        if outcome.is_err() && !tagged.is_empty() {
            context.partly_done();
        }
        outcome?;
        released
    }

    /// Holds the image, so that nobody who removes and collects it comes between, and makes the records.
    async fn tag(
        &self,
        images: &dyn ImageStore,
        leased: &Arc<LeasedStore>,
        mut source: Image,
        names: &[Reference],
        tagged: &mut Vec<Image>,
    ) -> Result<()> {
        loop {
            leased.add(&source.target.digest).await?;
            let now = images.get(&source.name).await?;
            if now.target.digest == source.target.digest {
                source = now;
                break;
            }
            source = now;
        }
        for name in names {
            if let Some(digest) = name.digest().filter(|digest| **digest != source.target.digest) {
                return Err(Error::invalid_argument(format!(
                    "cannot give the name {name} to {:?}: that image is {} and not {digest}",
                    source.name, source.target.digest
                )));
            }
        }
        let mut once = BTreeSet::new();
        let names: Vec<String> =
            names.iter().map(Reference::to_string).filter(|name| once.insert(name.clone())).collect();
        if !self.force {
            refuse_taken(images, &names).await?;
        }
        for name in &names {
            let image = Image::new(name, source.target.clone()).with_labels(source.labels.clone());
            let made = if self.force { record::put(images, image).await } else { images.create(image).await };
            tagged.push(made.context(|| format!("cannot tag {name}"))?);
        }
        Ok(())
    }
}

/// Reads a name as it is typed. One that means a file is refused, as no command would look for it in the store.
fn read(typed: &str, context: &Context) -> Result<Reference> {
    if context.is_file_like(typed) {
        return Err(Error::invalid_argument(format!(
            "{typed:?} is no name in the store: `wharf copy store:SRC {typed}` writes the image there, docker://{typed} is a registry's"
        )));
    }
    Ok(Reference::parse(split_transport(typed, &[STORE_SCHEME])?.rest)?)
}

async fn refuse_taken(images: &dyn ImageStore, names: &[String]) -> Result<()> {
    let mut taken = Vec::new();
    for name in names {
        match images.get(name).await {
            Ok(_) => taken.push(name.as_str()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let are_taken = match taken.len() {
        0 => return Ok(()),
        1 => "is taken already; --force takes it from the image that has it",
        _ => "are taken already; --force takes them from the images that have them",
    };
    Err(Error::already_exists(format!("nothing was tagged: {} {are_taken}", taken.join(" and "))))
}

/// Prints what was made.
fn tell(context: &Context, tagged: &[Image]) -> Result<()> {
    match context.global.format {
        Format::Json if tagged.is_empty() => Ok(()),
        Format::Json => {
            let rows: Vec<_> =
                tagged.iter().map(|image| json!({ "name": image.name, "target": image.target })).collect();
            output::json(&rows)
        }
        Format::Text => tagged.iter().try_for_each(|image| output::line(&output::escape(&image.name))),
    }
}
