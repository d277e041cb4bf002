//! `wharf version`.

use clap::Args;
use serde_json::json;
use wharf_content::Result;

use crate::{args::Format, context::Context, output};

#[derive(Debug, Args)]
pub(crate) struct Version {}

impl Version {
    #[expect(clippy::unused_self, reason = "every command is run by its arguments")]
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        match context.global.format {
            Format::Text => output::line(&format!("wharf {version}")),
            Format::Json => output::json(&json!({ "version": version })),
        }
    }
}
