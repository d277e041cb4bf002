//! `wharf gc`: removes what nothing keeps.

use clap::Args;
use serde_json::json;
use wharf_content::{Resource, Result, gc::CollectOptions};

use crate::{args::Format, context::Context, output};

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(
    after_help = "Images, leases and processes at work keep content; what none of them keeps is removed, with leases and images that have \
expired, and unpacked layers. Prints what went, or with --dry-run what would go: digests and sizes of content, and the rest by its kind and \
name.\n\n\
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
        if context.global.format == Format::Json {
            let list: Vec<_> = collected
                .iter()
                .map(|one| json!({ "type": one.resource.kind(), "id": one.resource.id(), "size": one.size }))
                .collect();
            return output::json(&json!({ "dryRun": self.dry_run, "bytes": bytes, "collected": list }));
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
            output::note(&format!("{verb} {} of {}", count(collected.len()), output::size(bytes)));
        }
        Ok(())
    }
}

fn count(things: usize) -> String {
    if things == 1 { "1 thing".into() } else { format!("{things} things") }
}
