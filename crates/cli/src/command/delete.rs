//! `wharf delete`: names and manifests, at registries, in layouts and in the store.

use clap::Args;
use wharf_content::{Result, ResultExt};

use crate::{args::RegistryArgs, context::Context, exit::Failures, output, progress};

/// Arguments of `delete`.
#[derive(Debug, Args)]
#[command(
    after_help = "REPO:TAG deletes that tag alone; many registries cannot do that, and then nothing is deleted. REPO@DIGEST deletes the manifest \
and with it every tag that it has in the repository. There is no default tag. What the manifest is made of goes when the registry cleans up, \
if it is set up to allow deletion at all.\n\n\
Of oci:DIR:TAG that name is taken away, of oci:DIR@DIGEST the manifest with all its names, and then what no other image of the layout needs. \
Nothing is deleted out of an archive file.\n\n\
Of store:NAME the record is removed, as by `wharf images rm`; its content goes with the next `wharf gc`. Prints what it deleted, and \
exits with 7 when that is not all.\n\n\
Examples:\n  wharf delete localhost:5000/image:old\n  \
wharf delete localhost:5000/image@$(wharf digest localhost:5000/image:old)\n  wharf delete oci:layout:1.37 store:busybox:1.37"
)]
pub(crate) struct Delete {
    /// What is deleted, with its tag or its digest
    #[arg(required = true, value_name = "REF")]
    references: Vec<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Delete {
    /// Deletes what can be deleted, and fails if something could not be; nothing, where one is of no place that is known.
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let progress = progress::warnings(&context.global);
        let names = self.references.iter().map(String::as_str);
        context.refuse_to_share_credentials(
            &self.registry,
            names,
            "`wharf login`, or delete at one after the other",
        )?;
        let mut places = Vec::with_capacity(self.references.len());
        for reference in &self.references {
            places.push(context.place(reference, &self.registry, None, &progress).await?);
        }
        let mut failures = Failures::new(context.global.format);
        let mut deleted = Vec::new();
        for (typed, (resolver, name)) in self.references.into_iter().zip(places) {
            let outcome = resolver.delete(&name).await.context(|| format!("{typed} is not deleted"));
            if failures.done(outcome).is_some() {
                deleted.push(typed);
            }
        }
        failures.afterwards(output::names(context.global.format, &deleted));
        failures.finish(context)
    }
}
