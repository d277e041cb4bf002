//! `wharf plugins`: the whole catalogue.

use clap::Args;
use wharf_content::Result;

use crate::{args::Format, context::Context, output};

#[derive(Debug, Args)]
pub(crate) struct Plugins {}

impl Plugins {
    #[expect(clippy::unused_self, reason = "every command is run by its arguments")]
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let entries = context.catalogue.entries();
        if context.global.format == Format::Json {
            return output::json(&entries);
        }
        if context.global.quiet {
            return entries.iter().try_for_each(|entry| output::line(&entry.name));
        }
        let mut rows = Vec::new();
        for entry in &entries {
            // One row for each key: media types are long, and people look for one.
            for (at, key) in entry.keys.iter().enumerate() {
                let first = |text: &str| if at == 0 { text.to_owned() } else { String::new() };
                rows.push(vec![
                    first(&entry.point),
                    first(&entry.name),
                    key.clone(),
                    first(&entry.priority.to_string()),
                    first(&entry.module),
                ]);
            }
        }
        output::write(output::table(&["POINT", "NAME", "KEY", "PRIORITY", "MODULE"], &rows).as_bytes())
    }
}
