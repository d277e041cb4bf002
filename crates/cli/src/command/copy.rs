//! `wharf copy`.

use std::num::NonZeroU64;

use clap::Args;
use serde_json::json;
use wharf_content::Result;
use wharf_images::Reference;
use wharf_remotes::CopyOptions;

use crate::{
    args::{self, Format, PlatformArgs, RegistryArgs},
    command::Remains,
    context::{ARCHIVE_SCHEMES, Context, is_stream, stored_name},
    exit::{self, Code},
    output, progress,
    sides::{self, DestinationArgs, SourceArgs},
    verifiers::VerifierArgs,
};

/// Where an archive goes to standard output.
const STANDARD_OUTPUT: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Arguments of `copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the name and the digest of what was copied. Between registries the bytes flow from one to the other and touch no disk; \
within one registry nothing is moved where it can be mounted. What is at the destination already is not moved again, so that an interrupted \
copy goes on with the next one. Documents are copied as the bytes that they are, so that every digest stays.\n\n\
A name without a prefix is at a registry; store:NAME is in the store, oci:DIR[:TAG] in an OCI image layout, oci-archive:FILE[:TAG] in \
such a layout as one tar, and docker-archive:FILE[:REF] in one that `docker load` reads, too. An archive is written when all is there; \
one that is there keeps its other images; the FILE - is standard output. Of an image with several platforms everything is copied. With one \
--platform the manifest of that platform is copied in the place of the index; with several, the index and those platforms only, which \
many registries refuse.\n\n\
With --referrers, what refers to the image goes with it: signatures, bills of materials and attestations, and what refers to those; and \
what cosign has put under tags such as sha256-….sig, three of which are asked for of the image's index and of each manifest.\n\n\
Into the store nothing is unpacked and no handler of a plugin is run: those belong to `wharf pull`.\n\n\
Options without src or dest in their name are for both sides; --creds is so only where both are one registry, or one of them is none. \
Verifiers are asked unless the image comes out of the store.\n\n\
Examples:\n  wharf copy busybox:1.37 registry.example.com/mirror/busybox:1.37\n  \
wharf copy --referrers ghcr.io/owner/image:1.2 localhost:5000/image:1.2\n  \
wharf copy --platform linux/arm64 busybox store:busybox-arm64\n  \
wharf copy store:app:1 --dest-tls-verify=false registry.test:5000/app:1\n  \
wharf copy busybox:1.37 docker-archive:busybox.tar:busybox:1.37"
)]
pub(crate) struct Copy {
    /// The image that is copied
    #[arg(value_name = "SRC")]
    source: String,
    /// Where it goes
    #[arg(value_name = "DST")]
    destination: String,
    /// Copy what refers to the image too, such as signatures
    #[arg(long)]
    referrers: bool,
    /// Copy layers that may not be distributed, too
    #[arg(long)]
    allow_non_distributable: bool,
    /// Send blobs to a registry in chunks of so many bytes, such as 16MiB [default: whole, unless the registry wants chunks]
    #[arg(long, value_name = "SIZE", value_parser = args::length)]
    chunk_size: Option<NonZeroU64>,
    #[command(flatten)]
    verifiers: VerifierArgs,
    #[command(flatten)]
    platforms: PlatformArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    from: SourceArgs,
    #[command(flatten)]
    to: DestinationArgs,
}

impl Copy {
    /// What remains where the copy is interrupted: an archive is written whole or not at all.
    pub(crate) fn remains(&self) -> Remains {
        let is_archive =
            |name: &str| name.split_once(':').is_some_and(|(scheme, _)| ARCHIVE_SCHEMES.contains(&scheme));
        match (stored_name(&self.source), stored_name(&self.destination)) {
            _ if is_archive(&self.destination) => Remains::Nothing,
            (Some(_), None) => Remains::Sent,
            _ => Remains::Kept,
        }
    }

    pub(crate) async fn run(mut self, context: &Context) -> Result<()> {
        self.destination = written_out(context, self.destination);
        let is_stdout = is_standard_output(context, &self.destination);
        if is_stdout {
            output::refuse_terminal("name a file")?;
        }
        let portion = self.platforms.portion()?;
        // What comes out of the store is here already.
        let verifier = if stored_name(&self.source).is_some() { None } else { self.verifiers.open()? };
        let unless_own =
            [(&self.source, self.from.has_password()), (&self.destination, self.to.has_password())];
        let shared = unless_own.into_iter().filter(|(_, has_own)| !has_own).map(|(name, _)| name.as_str());
        context.refuse_to_share_credentials(&self.registry, shared, "--src-creds and --dest-creds")?;
        let progress = progress::start_pushing(&context.global);
        let (from_args, to_args) = sides::of_both(&self.from, &self.to, &self.registry);
        let (source, from) = context.place(&self.source, &from_args, None, &progress).await?;
        let (destination, to) =
            context.place(&self.destination, &to_args, self.chunk_size, &progress).await?;
        let mut options = CopyOptions::new()
            .with_portion(portion)
            .with_concurrency(self.registry.max_concurrent_downloads)
            .with_catalogue(context.catalogue.clone())
            .with_sink(progress.sink());
        if self.allow_non_distributable {
            options = options.allowing_non_distributable();
        }
        if self.referrers {
            options = options.with_referrers();
        }
        if let Some(verifier) = verifier {
            options = options.with_verifier(verifier);
        }
        let outcome = wharf_remotes::copy(source.as_ref(), &from, destination.as_ref(), &to, &options).await;
        progress.finish(outcome.is_ok());
        let copied = match outcome {
            // Nobody is there to be told. What was read is no archive.
            Err(error) if is_stdout && exit::is_broken_pipe(&error) => {
                context.exit_with(Code::Local as u8);
                return Ok(());
            }
            outcome => outcome?,
        };
        let digest = &copied.target.digest;
        // Where the archive itself is the datum, nothing else goes to standard output.
        if is_stdout {
            return Ok(());
        }
        // A transport may have names of another kind.
        let is_file_like = context.is_file_like(&self.destination);
        let reference = Reference::parse(&to).ok().filter(|_| !is_file_like);
        let to = if is_file_like { self.destination } else { to };
        match context.global.format {
            Format::Json => output::json(&json!({
                "name": reference.map_or(to, |reference| reference.full()),
                "target": copied.target,
                "sent": copied.sent,
                "mounted": copied.mounted,
                "existing": copied.existing,
                "skipped": copied.skipped,
                "referrers": copied.referrers,
            })),
            Format::Text if context.global.quiet => output::line(digest.as_str()),
            Format::Text => output::line(&match reference {
                Some(reference) => reference.with_digest(digest.clone()).full(),
                None => format!("{}@{digest}", output::escape(&to)),
            }),
        }
    }
}

/// The destination with the path of standard output, where `-` stands for it.
fn written_out(context: &Context, typed: String) -> String {
    match context.location(&typed) {
        Ok(location) if is_stream(&location) => {
            format!("{}:{}{}", location.scheme, STANDARD_OUTPUT[0], &location.rest[1..])
        }
        _ => typed,
    }
}

/// Whether an archive is to be written to standard output.
fn is_standard_output(context: &Context, typed: &str) -> bool {
    let Ok(location) = context.location(typed) else { return false };
    let path = location.rest.split([':', '@']).next();
    context.is_file_like(typed) && STANDARD_OUTPUT.iter().any(|output| path == Some(*output))
}
