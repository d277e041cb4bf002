//! `wharf gc`: removes what nothing keeps.

use clap::Args;
use serde_json::json;
use wharf_content::{
    Resource, Result,
    filter::FilterSet,
    gc::{CollectOptions, Collected},
};

use crate::{args::Format, context::Context, output};

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(
    after_help = "Images, leases and processes at work keep content; what none of them keeps is removed, with leases and images that have \
expired, and unpacked layers. Prints what went, or with --dry-run what would go: digests and sizes of content, and the rest by its kind and \
name.\n\n\
Ingests, of which something was fetched or pushed and is not finished, are kept for a day after the last byte, and as long as a lease has \
them, so that they can be gone on with; how many they are is told. `wharf content active` lists them, `wharf content abort` throws them away.\n\n\
Examples:\n  wharf gc --dry-run\n  wharf gc -q | wc -l"
)]
pub(crate) struct Gc {
    /// Remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Gc {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut options = CollectOptions::new();
        if self.dry_run {
            options = options.dry_run();
        }
        let collected = context.collect(&options).await?;
        let bytes: u64 = collected.iter().map(|one| one.size).sum();
        let (ingests, ingest_bytes) = unfinished(context, &collected).await?;
        if context.global.format == Format::Json {
            let list: Vec<_> = collected
                .iter()
                .map(|one| json!({ "type": one.resource.kind(), "id": one.resource.id(), "size": one.size }))
                .collect();
            return output::json(&json!({
                "dryRun": self.dry_run, "bytes": bytes, "collected": list,
                "ingestsKept": { "count": ingests, "bytes": ingest_bytes },
            }));
        }
        let mut text = String::new();
        for one in &collected {
            let resource = match &one.resource {
                Resource::Content(digest) => digest.to_string(),
                other => output::escape(&other.to_string()).into_owned(),
            };
            if context.global.quiet || one.size == 0 {
                text.push_str(&format!("{resource}\n"));
            } else {
                text.push_str(&format!("{resource} {}\n", one.size));
            }
        }
        output::write(text.as_bytes())?;
        if !context.global.quiet && !collected.is_empty() {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            output::note(&format!("{verb} {} of {}", count(collected.len(), "thing"), output::size(bytes)));
        }
        if !context.global.quiet && ingests > 0 {
            output::note(&format!(
                "kept {} of {}: `wharf content active` lists what is unfinished, `wharf content abort` throws it away",
                count(ingests, "ingest"),
                output::size(ingest_bytes)
            ));
        }
        Ok(())
    }
}

/// How many ingests are there and do not go, and how many bytes they have.
async fn unfinished(context: &Context, collected: &[Collected]) -> Result<(usize, u64)> {
    let goes = |reference: &str| {
        collected.iter().any(|one| matches!(&one.resource, Resource::Ingest(gone) if gone == reference))
    };
    let statuses = context.store().await?.list_statuses(&FilterSet::all()).await?;
    let kept = statuses.iter().filter(|status| status.offset > 0 && !goes(&status.reference));
    Ok(kept.fold((0, 0), |(count, bytes), status| (count + 1, bytes + status.offset)))
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
