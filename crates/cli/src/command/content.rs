//! `wharf content`: the blobs and ingests of the store themselves, whatever images are made of them. What each does is in the modules
//! below; here are their names, and what they have in common.

mod change;
mod find;
mod ingest;
mod listing;
mod reading;

use std::time::SystemTime;

use clap::Subcommand;
use serde::Serialize;
use wharf_content::{Info, Labels, Result};

use crate::context::Context;

#[derive(Debug, Subcommand)]
pub(crate) enum Content {
    /// List blobs
    #[command(visible_alias = "list")]
    Ls(listing::List),
    /// Write the bytes of a blob to standard output or a file
    Get(reading::Get),
    /// Describe blobs
    Info(listing::Describe),
    /// Set and remove labels of a blob, and print those it has then
    Label(change::Label),
    /// Store a blob from standard input or a file, and print its digest
    Ingest(ingest::Ingest),
    /// List ingests: what was begun and not finished
    Active(listing::Active),
    /// Throw ingests away
    Abort(change::Abort),
    /// Remove blobs, whatever needs them
    #[command(visible_alias = "remove", visible_alias = "delete")]
    Rm(change::Remove),
}

impl Content {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Ls(command) => command.run(context).await,
            Self::Get(command) => command.run(context).await,
            Self::Info(command) => command.run(context).await,
            Self::Label(command) => command.run(context).await,
            Self::Ingest(command) => command.run(context).await,
            Self::Active(command) => command.run(context).await,
            Self::Abort(command) => command.run(context).await,
            Self::Rm(command) => command.run(context).await,
        }
    }
}

/// A blob as it stands in JSON.
#[derive(Serialize)]
struct Row {
    digest: String,
    size: u64,
    created: String,
    updated: String,
    labels: Labels,
}

impl From<Info> for Row {
    fn from(info: Info) -> Self {
        Self {
            digest: info.digest.to_string(),
            size: info.size,
            created: time(info.created_at),
            updated: time(info.updated_at),
            labels: info.labels,
        }
    }
}

/// RFC 3339.
fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default()
}
