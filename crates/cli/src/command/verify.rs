//! `wharf verify`: hashes everything again, says what is wrong with which image, and repairs it.

use std::{collections::BTreeSet, sync::Arc};

use clap::Args;
use serde_json::{Value, json};
use wharf_content::{
    Error, Result, Status,
    verify::{StrayKind, VerifyOptions},
};
use wharf_images::verify::{Report, verify, verify_images};
use wharf_remotes::{RepairOptions, Repaired, repair};

use crate::{
    args::{Format, RegistryArgs},
    command::Remains,
    context::Context,
    output, progress,
};

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Hashes every blob again, and checks that images have all that their pulled platforms need, that index.json says what the \
records say, and that oci-layout is what it must be. With names, only what these images consist of is looked at. What was begun and not \
finished is listed and no fault.\n\n\
--repair moves damaged blobs and broken ingests into the store's directory `quarantine`, where they stay until somebody deletes them, and \
fetches blobs again from where they came: those that images need, and those that a lease or the label containerd.io/gc.root keeps.\n\nExits with 5 when something is wrong and stays wrong."
)]
pub(crate) struct Verify {
    /// Verify these images only
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Move away what is damaged, and fetch it again
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Verify {
    /// What remains where it is interrupted: what a repair has fetched.
    pub(crate) fn remains(&self) -> Remains {
        if self.repair { Remains::Kept } else { Remains::Untold }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (store, images) = (context.store().await?, context.images().await?);
        let options = VerifyOptions::default();
        let report = if self.names.is_empty() {
            verify(Arc::clone(&store), images.as_ref(), &options, &context.catalogue).await?
        } else {
            let mut only = Vec::with_capacity(self.names.len());
            for name in &self.names {
                only.push(context.image(name).await?);
            }
            verify_images(Arc::clone(&store), images.as_ref(), only, &options, &context.catalogue).await?
        };
        let found = Found::of(&report);
        let format = context.global.format;
        let is_quiet = context.global.quiet && format == Format::Text;
        if format == Format::Text && !is_quiet {
            output::write(found.lines().as_bytes())?;
        }
        let checked = format!(
            "verified {} of {} and {}",
            count(report.blobs, "blob"),
            output::size(report.bytes),
            count(report.images.len() as u64, "image")
        );
        let repaired = if self.repair && !report.is_clean() {
            let progress = progress::start(&context.global);
            let suffering = report.faults.iter().map(|fault| fault.image.as_str());
            let instead = "`wharf verify --repair` with the NAMEs of images of one of them";
            let domain = context.refuse_to_share_credentials(&self.registry, suffering, instead)?;
            let resolver = context.registries(domain.as_deref(), &self.registry, &progress)?;
            let options = RepairOptions::new()
                .with_concurrency(self.registry.max_concurrent_downloads)
                .with_catalogue(context.catalogue.clone())
                .with_sink(progress.sink());
            let outcome = repair(store, images.as_ref(), resolver.as_ref(), report, &options).await;
            progress.finish(outcome.is_ok());
            Some(outcome?)
        } else {
            None
        };
        let left = repaired.as_ref().map(|repaired| Found::of(&repaired.left));
        let wrong = left.as_ref().unwrap_or(&found);
        match format {
            Format::Json => output::json(&json!({
                "clean": wrong.is_clean(),
                "blobs": found.blobs,
                "bytes": found.bytes,
                "images": found.images,
                "problems": found.as_json(),
                "ingests": found.ingests.iter().map(ingest).collect::<Vec<_>>(),
                "repair": repaired.as_ref().map(actions),
                "left": wrong.as_json(),
            }))?,
            Format::Text if is_quiet => output::write(wrong.names().as_bytes())?,
            Format::Text => {
                if let Some(repaired) = &repaired {
                    output::write(action_lines(repaired).as_bytes())?;
                }
            }
        }
        if !wrong.is_clean() {
            return Err(Error::data_loss(wrong.verdict(repaired.is_some())));
        }
        if !context.global.quiet && format == Format::Text {
            let verdict = if repaired.is_some() { "repaired" } else { "nothing is wrong" };
            output::note(&format!("{checked}: {verdict}"));
        }
        Ok(())
    }
}

/// One thing that is wrong.
struct Problem {
    /// What something is wrong with: a digest or a path below the root.
    subject: String,
    /// One word.
    kind: &'static str,
    image: Option<String>,
    media_type: Option<String>,
    text: String,
}

/// A report in the words of this command.
struct Found {
    blobs: u64,
    bytes: u64,
    images: usize,
    problems: Vec<Problem>,
    ingests: Vec<Status>,
}

impl Found {
    fn of(report: &Report) -> Self {
        let mut problems = Vec::new();
        for fault in &report.faults {
            problems.push(Problem {
                subject: fault.descriptor.digest.to_string(),
                kind: fault.problem.as_str(),
                image: Some(fault.image.clone()),
                media_type: Some(fault.descriptor.media_type.clone()),
                text: fault.problem.to_string(),
            });
        }
        for (digest, damage) in &report.damaged {
            if report.images_of(digest).next().is_none() {
                let text = format!("is damaged: {damage}");
                problems.push(Problem {
                    subject: digest.to_string(),
                    kind: "damaged",
                    image: None,
                    media_type: None,
                    text,
                });
            }
        }
        let stray =
            |path: String, kind, text| Problem { subject: path, kind, image: None, media_type: None, text };
        for digest in &report.lost {
            let text =
                "is missing: it was damaged and is in quarantine, and a lease or a label keeps it".into();
            problems.push(stray(digest.to_string(), "lost", text));
        }
        for found in &report.strays {
            let kind = if found.kind == StrayKind::Ingest { "ingest" } else { "stray" };
            let text = format!("is no {}: {}", found.kind.as_str(), found.reason);
            problems.push(stray(found.path.display().to_string(), kind, text));
        }
        if let Some(reason) = &report.layout {
            problems.push(stray("oci-layout".into(), "layout", format!("is wrong: {reason}")));
        }
        if let Some(reason) = &report.view {
            problems.push(stray("index.json".into(), "view", format!("is wrong: {reason}")));
        }
        Self {
            blobs: report.blobs,
            bytes: report.bytes,
            images: report.images.len(),
            problems,
            ingests: report.ingests.clone(),
        }
    }

    fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn lines(&self) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let image = problem.image.as_ref().map(|image| format!("{image}: ")).unwrap_or_default();
            let kind = problem.media_type.as_ref().map(|kind| format!(" ({kind})")).unwrap_or_default();
            let line = format!("{image}{}{kind} {}", problem.subject, problem.text);
            text.push_str(&format!("{}\n", output::escape(&line)));
        }
        for status in &self.ingests {
            let total = status.total.map(|total| format!(" of {}", output::size(total))).unwrap_or_default();
            let line = format!("unfinished: {} has {}{total}", status.reference, output::size(status.offset));
            text.push_str(&format!("{}\n", output::escape(&line)));
        }
        text
    }

    /// What is wrong, each once.
    fn subjects(&self) -> BTreeSet<&str> {
        self.problems.iter().map(|problem| problem.subject.as_str()).collect()
    }

    fn names(&self) -> String {
        lines_of(self.subjects())
    }

    fn as_json(&self) -> Vec<Value> {
        let one = |problem: &Problem| {
            json!({
                "subject": problem.subject, "problem": problem.kind, "image": problem.image,
                "mediaType": problem.media_type, "message": problem.text,
            })
        };
        self.problems.iter().map(one).collect()
    }

    fn verdict(&self, is_repaired: bool) -> String {
        let images: BTreeSet<&str> =
            self.problems.iter().filter_map(|problem| problem.image.as_deref()).collect();
        let wrong = count(self.subjects().len() as u64, "thing");
        let concerned = match images.len() {
            0 => "no image is concerned".to_owned(),
            1 => "1 image is concerned".to_owned(),
            images => format!("{images} images are concerned"),
        };
        let verb = if is_repaired { "could not be repaired wholly" } else { "is damaged" };
        format!("the store {verb}: {wrong} wrong, {concerned}")
    }
}

/// One harmless line each.
fn lines_of<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&output::escape(line));
        text.push('\n');
    }
    text
}

fn count(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn ingest(status: &Status) -> Value {
    json!({ "ref": status.reference, "offset": status.offset, "total": status.total })
}

fn actions(repaired: &Repaired) -> Value {
    let place = |path: &std::path::Path| path.display().to_string();
    let quarantined = repaired
        .quarantined
        .iter()
        .map(|(digest, path)| json!({ "digest": digest, "path": place(path) }))
        .chain(
            repaired
                .moved
                .iter()
                .map(|(stray, path)| json!({ "stray": place(&stray.path), "path": place(path) })),
        );
    let fetched = repaired.fetched.iter().map(|(digest, from)| json!({ "digest": digest, "from": from }));
    let failed = repaired.failed.iter().map(|(digest, error)| {
        json!({ "digest": digest, "kind": error.kind().as_str(), "message": error.report() })
    });
    json!({
        "quarantined": quarantined.collect::<Vec<_>>(),
        "fetched": fetched.collect::<Vec<_>>(),
        "failed": failed.collect::<Vec<_>>(),
        "indexRewritten": repaired.is_view_rewritten,
        "layoutRewritten": repaired.is_layout_rewritten,
    })
}

fn action_lines(repaired: &Repaired) -> String {
    let moved = repaired.moved.iter().map(|(stray, path)| (stray.path.display().to_string(), path));
    let quarantined = repaired.quarantined.iter().map(|(digest, path)| (digest.to_string(), path));
    let mut lines: Vec<String> =
        moved.chain(quarantined).map(|(what, path)| format!("moved {what} to {}", path.display())).collect();
    lines.extend(repaired.fetched.iter().map(|(digest, from)| format!("fetched {digest} from {from}")));
    if repaired.is_layout_rewritten {
        lines.push("rewrote oci-layout".into());
    }
    if repaired.is_view_rewritten {
        lines.push("rewrote index.json".into());
    }
    lines.extend(repaired.failed.iter().map(|(_, error)| format!("failed: {}", error.report())));
    lines_of(lines.iter().map(String::as_str))
}
