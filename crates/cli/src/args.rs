//! The command line: flags that several commands share, and the list of commands. What they do is in `command`.

use std::{
    ffi::OsString,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
#[cfg(target_os = "linux")]
use wharf_images::layer::LayerOptions;
use wharf_remotes::credentials::Secret;

use crate::command;

/// Pull, push, store, list, serve and export container images without a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "wharf",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 another failure, 2 not found, 3 a mistake in the arguments, 4 unauthenticated or denied, \
5 digest, size or policy mismatch, 6 network or rate limit after retries, 7 partly done: of several things that were named some failed, \
8 local disk or input and output, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Directory of the store [default: $XDG_DATA_HOME/wharf]
    #[arg(long, global = true, env = "WHARF_ROOT", value_name = "DIR")]
    pub(crate) root: Option<String>,
    /// Directory of executable plugins, several by colons; empty for none [default: $XDG_CONFIG_HOME/wharf/plugins,
    /// /etc/wharf/plugins, /usr/lib/wharf/plugins]
    #[arg(
        long = "plugin-dir",
        global = true,
        env = "WHARF_PLUGIN_DIR",
        value_name = "DIR",
        value_delimiter = ':'
    )]
    pub(crate) plugin_dirs: Option<Vec<OsString>>,
    /// Say more on standard error, such as every request; twice for what libraries underneath say, too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print digests or names only, and no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// How progress is shown on standard error
    #[arg(long, global = true, value_enum, default_value_t, value_name = "HOW")]
    pub(crate) progress: ProgressMode,
    /// How results and errors are printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: Color,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars on a terminal, nothing elsewhere
    #[default]
    Auto,
    /// Bars
    Tty,
    /// A line for each thing that happens
    Plain,
    /// A JSON object for each thing that happens, as docs/progress.md describes them
    Json,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Which platforms of an image are meant.
#[derive(Debug, Default, Args)]
pub(crate) struct PlatformArgs {
    /// Platform as os/arch[/variant], several by commas; `local` is this machine, `all` is every one
    #[arg(long = "platform", value_name = "P", value_delimiter = ',')]
    pub(crate) platforms: Vec<String>,
    /// Every platform
    #[arg(long, conflicts_with = "platforms")]
    pub(crate) all_platforms: bool,
}

/// Which platform of an image is meant, by a command that does something with one.
#[derive(Debug, Default, Args)]
pub(crate) struct OnePlatformArgs {
    /// Platform as os/arch[/variant]; `local` is this machine
    #[arg(long = "platform", value_name = "P", value_delimiter = ',')]
    pub(crate) platforms: Vec<String>,
    /// Refused, as several platforms are, by words that say what to do
    #[arg(long, hide = true, conflicts_with = "platforms")]
    pub(crate) all_platforms: bool,
}

/// How far a layer may grow when it is unpacked.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LayerArgs {
    /// Unpack no layer that grows to more bytes
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = length)]
    max_layer_size: NonZeroU64,
    /// Unpack nothing that grows to more than N times its size, once it has given a GiB
    #[arg(long, value_name = "N", default_value = "1100", value_parser = ratio)]
    pub(crate) max_ratio: NonZeroU64,
}

#[cfg(target_os = "linux")]
impl LayerArgs {
    pub(crate) fn options(self) -> LayerOptions {
        LayerOptions::default().with_max_len(self.max_layer_size.get()).with_max_ratio(self.max_ratio.get())
    }
}

/// The flags that name a user, of which `--password-stdin` needs one: those of the sides of a copy are among them.
pub(crate) const USERS: &str = "users";

/// How registries are spoken to.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Registry options", group = ArgGroup::new(USERS).multiple(true))]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that a user gives or not")]
pub(crate) struct RegistryArgs {
    /// Speak plain HTTP, as is done on loopback anyway; there -k, --ca-file and --cert-file try HTTPS first
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Accept any certificate
    #[arg(short = 'k', long, visible_alias = "skip-verify")]
    pub(crate) insecure_skip_verify: bool,
    /// Verify certificates: `true` demands HTTPS on loopback too, `false` is `--insecure-skip-verify`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          conflicts_with_all = ["insecure_skip_verify", "plain_http"])]
    pub(crate) tls_verify: Option<bool>,
    /// Trust the certificates in this PEM file beside the system's, authorities' or the registry's own; may be given again
    #[arg(long, visible_alias = "tlscacert", value_name = "FILE")]
    pub(crate) ca_file: Vec<PathBuf>,
    /// Show the certificate in this PEM file to the registry of the image, not to its mirrors
    #[arg(long, visible_alias = "tlscert", value_name = "FILE")]
    pub(crate) cert_file: Option<PathBuf>,
    /// The key of that certificate, if it is in a file of its own
    #[arg(long, visible_alias = "tlskey", value_name = "FILE", requires = "cert_file")]
    pub(crate) key_file: Option<PathBuf>,
    /// Directory of hosts in containerd's layout, several by colons; empty for none [default: $XDG_CONFIG_HOME/wharf/certs.d,
    /// /etc/wharf/certs.d, /etc/containerd/certs.d, /etc/docker/certs.d]
    #[arg(long = "hosts-dir", env = "WHARF_HOSTS_DIR", value_name = "DIR", value_delimiter = ':')]
    pub(crate) hosts_dirs: Option<Vec<OsString>>,
    /// How many pieces of content are moved at once
    #[arg(short = 'j', long, visible_alias = "max-concurrent-uploads", value_name = "N", value_parser = count,
          default_value_t = wharf_remotes::pull::DEFAULT_CONCURRENCY)]
    pub(crate) max_concurrent_downloads: NonZeroUsize,
    /// How often a request is sent again after a failure that may pass
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) retry_times: u32,
    /// The first wait before a request is sent again, in seconds; it doubles
    #[arg(long, value_name = "SECONDS", default_value_t = 0.25, value_parser = seconds)]
    pub(crate) retry_delay: f64,
    /// Send no more than so many requests per second to one host; may be a fraction, such as 0.5
    #[arg(long, value_name = "N", value_parser = interval)]
    pub(crate) request_rate: Option<Duration>,
    /// Break off a transfer that brings fewer bytes per second over 30 seconds, and go on over a new connection; 0 never does
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = throughput)]
    pub(crate) min_throughput: ByteSize,
    /// Show the heads of all requests and answers on standard error, without what is secret in them
    #[arg(long)]
    pub(crate) http_trace: bool,
    /// User and password for the registry that is named, and for no other one
    #[arg(short = 'u', long, visible_alias = "user", alias = "username", value_name = "USER[:PASS]", value_parser = creds,
          group = USERS)]
    pub(crate) creds: Option<Creds>,
    /// Read the password of --creds USER from standard input, when the registry asks for it
    #[arg(long, requires = USERS)]
    pub(crate) password_stdin: bool,
    /// Look for credentials in this file before those of docker and podman
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
}

impl RegistryArgs {
    /// Whether something is said of the trust between this program and a registry.
    pub(crate) fn is_told(&self) -> bool {
        let is_trusting = self.plain_http || self.insecure_skip_verify || self.tls_verify.is_some();
        let is_shown = self.cert_file.is_some() || self.creds.is_some() || self.authfile.is_some();
        is_trusting || is_shown || !self.ca_file.is_empty()
    }
}

/// What --creds says.
#[derive(Clone, Debug)]
pub(crate) struct Creds {
    /// The flag that said it, which of a copy may be that of one side.
    pub(crate) flag: &'static str,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
}

pub(crate) fn creds(text: &str) -> Result<Creds, String> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password.into())),
        None => (text, None),
    };
    if user.is_empty() {
        return Err("expected USER:PASS, or USER with --password-stdin".into());
    }
    Ok(Creds { flag: "--creds", user: user.to_owned(), password })
}

impl PlatformArgs {
    /// Whether exactly one platform was asked for.
    pub(crate) fn is_one(&self) -> bool {
        !self.all_platforms && matches!(&self.platforms[..], [one] if one != "all")
    }

    /// Whether more than one platform was asked for.
    pub(crate) fn are_many(&self) -> bool {
        !self.is_one() && (self.all_platforms || !self.platforms.is_empty())
    }
}

/// Reads a number of bytes, such as `16MiB`.
pub(crate) fn length(text: &str) -> Result<NonZeroU64, String> {
    let size = text.parse::<ByteSize>().ok().and_then(|size| NonZeroU64::new(size.as_u64()));
    size.ok_or_else(|| "expected a number of bytes greater than zero, such as 16MiB".into())
}

/// Reads a number of bytes per second; 0 is no limit.
fn throughput(text: &str) -> Result<ByteSize, String> {
    // What is more than can be counted is read as the most.
    let size = text.parse::<ByteSize>().ok().filter(|size| size.as_u64() < u64::MAX);
    size.ok_or_else(|| "expected a number of bytes, such as 64KiB, or 0".into())
}

/// How many times its size something may grow to.
#[cfg(target_os = "linux")]
fn ratio(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_| "expected a whole number from 1 on".into())
}

/// How many of something at once.
fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a number from 1 on".into())
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0 to 3600".into()),
    }
}

/// The time between two requests, of how many there are per second.
fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(Duration::from_secs_f64(rate.recip())),
        _ => Err("expected a number of requests per second from 0.001 to 100000".into()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull an image from a registry into the store
    Pull(command::pull::Pull),
    /// Push an image of the store to a registry
    Push(command::push::Push),
    /// Copy an image from one place to another
    #[command(visible_alias = "cp")]
    Copy(Box<command::copy::Copy>),
    /// Delete tags and manifests at a registry, or names in the store
    Delete(command::delete::Delete),
    /// List, remove, tag, label and check images of the store
    #[command(subcommand, visible_alias = "image", visible_alias = "i")]
    Images(command::images::Images),
    /// List images of the store (`images ls`)
    #[command(visible_alias = "list")]
    Ls(command::images::List),
    /// Remove images from the store (`images rm`)
    Rm(command::images::Remove),
    /// Give an image of the store more names (`images tag`)
    Tag(command::images::Tag),
    /// Describe an image on one page
    Inspect(command::inspect::Inspect),
    /// Show what an image consists of
    Tree(command::tree::Tree),
    /// Print an image's manifest or index as it is stored
    Manifest(command::raw::Manifest),
    /// Print an image's config as it is stored
    Config(command::raw::Config),
    /// Print the digest that a reference means
    #[command(visible_alias = "resolve")]
    Digest(command::digest::Digest),
    /// List the tags of a repository
    #[command(visible_alias = "list-tags")]
    Tags(command::tags::Tags),
    /// List what refers to an image, such as signatures and bills of materials
    Referrers(command::referrers::Referrers),
    /// Keep credentials for a registry
    Login(command::login::LogIn),
    /// Forget the credentials for a registry
    Logout(command::logout::LogOut),
    /// Write images to an archive
    Export(command::export::Export),
    /// Take in the images of an archive
    Import(command::import::Import),
    /// Unpack an image into the store's layers, or into a directory
    #[cfg(target_os = "linux")]
    Unpack(command::unpack::Unpack),
    /// Mount an image on a directory
    #[cfg(target_os = "linux")]
    Mount(command::mount::Mount),
    /// End a mount of an image
    #[cfg(target_os = "linux")]
    #[command(visible_alias = "umount")]
    Unmount(command::mount::Unmount),
    /// Make a bundle of an image, for an OCI runtime
    #[cfg(target_os = "linux")]
    Bundle(command::bundle::Bundle),
    /// Run an image in a container, by an OCI runtime
    #[cfg(target_os = "linux")]
    Run(command::run::Run),
    /// List the files of an image, with the layer that each is from
    #[cfg(target_os = "linux")]
    LsFiles(command::files::LsFiles),
    /// Print a file of an image
    #[cfg(target_os = "linux")]
    Cat(command::files::Cat),
    /// Look after the store's blobs and ingests themselves
    #[command(subcommand, visible_alias = "c")]
    Content(command::content::Content),
    /// Serve the store as a registry
    Serve(Box<command::serve::Serve>),
    /// Remove what nothing keeps
    Gc(command::gc::Gc),
    /// List, make and remove leases, which keep content that no image names
    #[command(subcommand, visible_alias = "leases")]
    Lease(command::lease::Lease),
    /// Hash everything again, say what is wrong with which image, and repair it
    Verify(command::verify::Verify),
    /// Explain platforms, and in which order those of an image would be chosen
    Platform(command::platform::Platform),
    /// List everything that is registered: built in or by plugins
    Plugins(command::plugins::Plugins),
    /// Print a script that completes commands and flags in a shell
    Completion(command::completion::Completion),
    /// Print the version
    Version(command::version::Version),
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_limits_that_help_shows_are_those_of_the_library() {
        #[derive(Debug, Parser)]
        struct Limits {
            #[command(flatten)]
            layers: LayerArgs,
        }
        assert_eq!(Limits::parse_from(["wharf"]).layers.options(), LayerOptions::default());
        let set = Limits::parse_from(["wharf", "--max-layer-size", "2GiB", "--max-ratio", "7"]);
        let expected = LayerOptions::default().with_max_len(2 << 30).with_max_ratio(7);
        assert_eq!(set.layers.options(), expected);
        assert!(Limits::try_parse_from(["wharf", "--max-layer-size", "0"]).is_err());
        let refused =
            Limits::try_parse_from(["wharf", "--max-ratio", "0"]).expect_err("nothing could be unpacked");
        assert!(refused.to_string().contains("expected a whole number from 1 on"), "{refused}");
    }

    #[test]
    fn the_throughput_that_help_shows_is_that_of_the_library() {
        #[derive(Debug, Parser)]
        struct Line {
            #[command(flatten)]
            registry: RegistryArgs,
        }
        let parse = |flags: &[&str]| Line::try_parse_from(["wharf"].iter().chain(flags));
        let default = parse(&[]).expect("parses").registry.min_throughput;
        assert_eq!(default.as_u64(), wharf_remotes::registry::DEFAULT_MIN_THROUGHPUT.get());
        for bad in ["99999999999999999999", "99999999999999999999EiB", "", "fast"] {
            let refused = parse(&["--min-throughput", bad]).expect_err(bad).to_string();
            assert!(refused.contains("expected a number of bytes, such as 64KiB"), "{refused}");
        }
    }

    #[test]
    fn help_has_everything_below_its_heading() {
        fn check(command: &clap::Command, registry: &[String]) {
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                let id = argument.get_id().to_string();
                let is_below = argument.get_help_heading() == Some("Registry options");
                assert!(!is_below || registry.contains(&id), "{id} of {}", command.get_name());
            }
            command.get_subcommands().for_each(|command| check(command, registry));
        }
        #[derive(Debug, Parser)]
        struct Line {
            #[command(flatten)]
            registry: RegistryArgs,
        }
        let line = <Line as clap::CommandFactory>::command();
        let registry: Vec<String> =
            line.get_arguments().map(|argument| argument.get_id().to_string()).collect();
        check(&<Cli as clap::CommandFactory>::command(), &registry);
    }
}
