//! `wharf lease ls`, `create` and `rm`.

use std::{
    num::{IntErrorKind, ParseIntError},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use serde_json::json;
use wharf_content::{
    Error, ErrorKind, Labels, Lease as Record, LeaseManager, LeaseOptions, Result, Store,
    filter::FilterSet,
    lease::{LABEL_EXPIRE, expiry},
};

use crate::{args::Format, context::Context, exit::Failures, labels, output};

#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    /// List leases
    #[command(visible_alias = "list")]
    Ls(List),
    /// Make a lease, which holds what is pulled under it (`wharf pull --lease ID`)
    Create(Create),
    /// Remove leases; what they held stays until it is collected
    #[command(visible_alias = "remove", visible_alias = "delete")]
    Rm(Remove),
}

/// Arguments of `lease ls`.
#[derive(Debug, Args)]
#[command(
    after_help = "A filter is `field==value`, `field!=value`, `field~=regex` or `field`, joined by commas; one of several filters must \
match.\nFields: id, labels.KEY; a KEY with dots or slashes in it is quoted.\n\n\
A lease that has expired is listed until `wharf gc` removes it; one that a process holds lasts as long as the process, too.\n\n\
Examples:\n  wharf lease ls\n  wharf lease ls -q 'labels.for==backup' | xargs -r -d '\\n' wharf lease rm"
)]
pub(crate) struct List {
    /// List only what one of these matches
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// Arguments of `lease create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the id.\n\nExamples:\n  wharf lease create --id nightly --expire 24h for=backup\n  \
lease=$(wharf lease create) && wharf pull --lease \"$lease\" busybox"
)]
pub(crate) struct Create {
    /// The id; a random one where there is none
    #[arg(long)]
    id: Option<String>,
    /// How long the lease lasts, such as 90s, 30m, 24h or 7d; for ever where there is no limit
    #[arg(long, visible_alias = "expires", value_name = "DURATION", value_parser = duration)]
    expire: Option<Duration>,
    /// Labels; `containerd.io/gc.flat=true` holds content without what it refers to
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

/// Arguments of `lease rm`.
#[derive(Debug, Args)]
#[command(after_help = "Prints what it removed.\n\nExamples:\n  wharf lease rm nightly && wharf gc")]
pub(crate) struct Remove {
    /// The leases
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with a unit: 90s, 30m, 24h or 7d".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?);
    let number: u64 = number.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "the lease lasts too long".to_owned(),
        _ => expected(),
    })?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(expected()),
    };
    let duration = number.checked_mul(seconds).map(Duration::from_secs).ok_or("the lease lasts too long")?;
    if duration.is_zero() {
        return Err(
            "the lease would have ended before it began: leave this out for one that never ends".into()
        );
    }
    Ok(duration)
}

/// The labels of a new lease. A time that cannot be read would be taken for none, and the lease would last for ever.
fn parse_labels(texts: &[String], expire: Option<Duration>) -> Result<Labels> {
    let labels = labels::parse(texts)?;
    if let Some(value) = labels.get(LABEL_EXPIRE) {
        if expire.is_some() {
            return Err(Error::invalid_argument(format!(
                "--expire and the label {LABEL_EXPIRE} both say when the lease ends: give one of them"
            )));
        }
        if expiry(&labels).is_none() {
            return Err(Error::invalid_argument(format!(
                "{value:?} is not a time for {LABEL_EXPIRE}: expected one such as 2030-01-31T12:00:00Z, or --expire DURATION"
            )));
        }
    }
    Ok(labels)
}

impl Lease {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let store = context.store().await?;
        let leases = leases(store.as_ref())?;
        match self {
            Self::Ls(list) => list.run(context, leases).await,
            Self::Create(create) => create.run(context, leases).await,
            Self::Rm(remove) => remove.run(context, leases).await,
        }
    }
}

/// The leases of a store that has them.
pub(super) fn leases(store: &dyn Store) -> Result<&dyn LeaseManager> {
    store.leases().ok_or_else(|| Error::not_implemented("this store keeps everything and has no leases"))
}

/// Fails unless there is such a lease and it holds what is added to it: told before any work is done for it.
pub(super) async fn demand(store: &dyn Store, id: &str) -> Result<()> {
    let leases = leases(store)?;
    let found = leases.list_leases(&FilterSet::all()).await?.into_iter().find(|lease| lease.id == id);
    let lease = found.ok_or_else(|| Error::not_found(format!("there is no lease {id:?}")))?;
    match lease.expires_at() {
        Some(at) if at <= SystemTime::now() && !leases.is_held(id).await? => Err(Error::not_found(format!(
            "the lease {id:?} has expired at {} and holds nothing: make another one",
            time(at)
        ))),
        _ => Ok(()),
    }
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default()
}

impl List {
    async fn run(self, context: &Context, leases: &dyn LeaseManager) -> Result<()> {
        let found = leases.list_leases(&FilterSet::parse(&self.filters)?).await?;
        if context.global.quiet && context.global.format == Format::Text {
            return found.iter().try_for_each(|lease| output::line(&output::escape(&lease.id)));
        }
        let mut described = Vec::with_capacity(found.len());
        for lease in found {
            // Released between the listing and now.
            let resources = match leases.resources(&lease.id).await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                resources => resources?,
            };
            let is_held = leases.is_held(&lease.id).await?;
            described.push((lease, resources.len(), is_held));
        }
        if context.global.format == Format::Json {
            let list: Vec<_> = described
                .iter()
                .map(|(lease, resources, is_held)| {
                    json!({
                        "id": lease.id, "created": time(lease.created_at), "expires": lease.expires_at().map(time),
                        "labels": lease.labels, "resources": resources, "held": is_held,
                    })
                })
                .collect();
            return output::json(&list);
        }
        let rows: Vec<Vec<String>> =
            described.iter().map(|(lease, count, held)| row(lease, *count, *held)).collect();
        let header = ["ID", "CREATED", "EXPIRES", "HELD", "RESOURCES", "LABELS"];
        output::write(output::table(&header, &rows).as_bytes())
    }
}

fn row(lease: &Record, resources: usize, is_held: bool) -> Vec<String> {
    // The time has a column of its own, unless it cannot be read.
    let is_shown = |key: &str| key != LABEL_EXPIRE || lease.expires_at().is_none();
    let labels = lease.labels.iter().filter(|(key, _)| is_shown(key));
    let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        lease.id.clone(),
        time(lease.created_at),
        lease.expires_at().map_or_else(|| "never".into(), time),
        if is_held { "by a process".into() } else { "-".into() },
        resources.to_string(),
        if labels.is_empty() { "-".into() } else { labels.join(",") },
    ]
}

impl Create {
    async fn run(self, context: &Context, leases: &dyn LeaseManager) -> Result<()> {
        let mut options = LeaseOptions::new().with_labels(parse_labels(&self.labels, self.expire)?);
        if let Some(id) = self.id {
            options = options.with_id(id);
        }
        if let Some(duration) = self.expire {
            options = options.lasting(duration);
        }
        let lease = leases.create_lease(options).await?;
        let told = match context.global.format {
            Format::Json => output::json(&json!({
                "id": lease.id, "created": time(lease.created_at), "expires": lease.expires_at().map(time),
                "labels": lease.labels,
            })),
            Format::Text => output::line(&output::escape(&lease.id)),
        };
        if told.is_err() {
            // Nobody knows its id, and it may be there for ever.
            leases.delete_lease(&lease.id).await?;
        }
        told
    }
}

impl Remove {
    /// Removes what is there, and fails if one was not.
    async fn run(self, context: &Context, leases: &dyn LeaseManager) -> Result<()> {
        let mut failures = Failures::new(context.global.format);
        let mut removed = Vec::new();
        for id in self.ids {
            if failures.done(leases.delete_lease(&id).await).is_some() {
                removed.push(id);
            }
        }
        failures.afterwards(output::names(context.global.format, &removed));
        failures.finish(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604_800), ("1s", 1)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(expected)), "{text}");
        }
        for bad in
            ["", "5", "h", "5w", "-5s", "1.5h", "0s", "0d", "99999999999999999999s", "9999999999999999999d"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
