//! `wharf content ls`, `info` and `active`.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;
use wharf_content::{Info, Labels, Result, Status, filter::FilterSet};

use crate::{args::Format, context::Context, exit::Failures, output};

use super::{Row, find, time};

/// Arguments of `content ls`.
#[derive(Debug, Args)]
#[command(
    after_help = "A filter is `field==value`, `field!=value`, `field~=regex` or `field`, joined by commas; one of several filters must \
match.\nFields: digest, size, labels.KEY; a KEY with dots or slashes in it is quoted.\n\n\
Examples:\n  wharf content ls -q\n  wharf content ls 'digest~=^sha256:3f5a'\n  wharf content ls 'labels.\"containerd.io/gc.root\"'"
)]
pub(crate) struct List {
    /// List only what one of these matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl List {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let filters = FilterSet::parse(&self.filters)?;
        let mut infos: Vec<Info> = Vec::new();
        let mut visit = |info| {
            infos.push(info);
            Ok(())
        };
        context.store().await?.walk(&filters, &mut visit).await?;
        infos.sort_by(|a, b| a.digest.cmp(&b.digest));
        if context.global.format == Format::Json {
            return output::json(&infos.into_iter().map(Row::from).collect::<Vec<_>>());
        }
        if context.global.quiet {
            return infos.iter().try_for_each(|info| output::line(info.digest.as_str()));
        }
        let now = SystemTime::now();
        let rows: Vec<Vec<String>> = infos
            .iter()
            .map(|info| {
                vec![
                    info.digest.to_string(),
                    output::size(info.size),
                    age(info.created_at, now),
                    joined(&info.labels),
                ]
            })
            .collect();
        output::write(output::table(&["DIGEST", "SIZE", "AGE", "LABELS"], &rows).as_bytes())
    }
}

fn joined(labels: &Labels) -> String {
    if labels.is_empty() {
        return "-".into();
    }
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

/// Arguments of `content info`.
#[derive(Debug, Args)]
#[command(
    after_help = format!("{}\n\nExamples:\n  wharf content info 3f5a1c2\n  wharf content info --format json sha256:3f5a1c2", find::DIGEST_HELP)
)]
pub(crate) struct Describe {
    /// The blobs
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<String>,
}

impl Describe {
    /// Describes what is there, and fails if one was not.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let store = context.store().await?;
        let mut failures = Failures::new(context.global.format);
        let mut infos = Vec::with_capacity(self.digests.len());
        for found in find::find(store.as_ref(), &self.digests).await? {
            let info = match found {
                Ok(digest) => store.info(&digest).await,
                Err(error) => Err(error),
            };
            infos.extend(failures.done(info));
        }
        match context.global.format {
            Format::Json if !infos.is_empty() => {
                output::json(&infos.into_iter().map(Row::from).collect::<Vec<_>>())?;
            }
            Format::Json => {}
            Format::Text if context.global.quiet => {
                infos.iter().try_for_each(|info| output::line(info.digest.as_str()))?;
            }
            Format::Text => {
                let pages: Vec<String> = infos.iter().map(page).collect();
                output::write(pages.join("\n").as_bytes())?;
            }
        }
        failures.finish(context)
    }
}

fn page(info: &Info) -> String {
    let mut text = format!(
        "Digest:   {}\nSize:     {} ({} bytes)\nCreated:  {}\nUpdated:  {}\n",
        info.digest,
        output::size(info.size),
        info.size,
        time(info.created_at),
        time(info.updated_at)
    );
    for (key, value) in &info.labels {
        text.push_str(&format!("Label:    {}\n", output::escape(&format!("{key}={value}"))));
    }
    text
}

/// Arguments of `content active`.
#[derive(Debug, Args)]
#[command(
    after_help = "An ingest that no process is at work on is resumed by the next pull or `content ingest` of its name, thrown away by \
`wharf content abort`, and collected by `wharf gc` a day after it was last written.\n\n\
Examples:\n  wharf content active\n  wharf content active -q 'ref~=^layer-'"
)]
pub(crate) struct Active {
    /// List only what one of these matches, as in `ref~=regex`; the field is ref
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Active {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let filters = FilterSet::parse(&self.filters)?;
        let statuses = context.store().await?.list_statuses(&filters).await?;
        if context.global.format == Format::Json {
            let list: Vec<_> = statuses
                .iter()
                .map(|status| {
                    json!({
                        "ref": status.reference, "offset": status.offset, "total": status.total,
                        "started": time(status.started_at), "updated": time(status.updated_at),
                    })
                })
                .collect();
            return output::json(&list);
        }
        if context.global.quiet {
            return statuses.iter().try_for_each(|status| output::line(&output::escape(&status.reference)));
        }
        let now = SystemTime::now();
        let row = |status: &Status| {
            let total = status.total.map_or_else(|| "-".into(), output::size);
            vec![status.reference.clone(), output::size(status.offset), total, age(status.started_at, now)]
        };
        let rows: Vec<Vec<String>> = statuses.iter().map(row).collect();
        output::write(output::table(&["REF", "OFFSET", "TOTAL", "AGE"], &rows).as_bytes())
    }
}

/// How long ago, in the largest unit of which there is more than one. What lies ahead, by a clock that was set back, is now.
fn age(at: SystemTime, now: SystemTime) -> String {
    const UNITS: [(u64, &str); 6] = [
        (31_536_000, "years"),
        (2_592_000, "months"),
        (604_800, "weeks"),
        (86_400, "days"),
        (3_600, "hours"),
        (60, "minutes"),
    ];
    let seconds = now.duration_since(at).unwrap_or(Duration::ZERO).as_secs();
    for (length, unit) in UNITS {
        if seconds >= 2 * length {
            return format!("{} {unit}", seconds / length);
        }
    }
    match seconds {
        0 => "less than a second".into(),
        1 => "1 second".into(),
        _ => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let now = SystemTime::now();
        for (seconds, expected) in [
            (0, "less than a second"),
            (1, "1 second"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7_199, "119 minutes"),
            (7_200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (5_184_000, "2 months"),
            (94_608_000, "3 years"),
        ] {
            assert_eq!(age(now - Duration::from_secs(seconds), now), expected);
        }
        assert_eq!(age(now + Duration::from_secs(60), now), "less than a second");
    }
}
