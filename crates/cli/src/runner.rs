//! Running the program: arguments, logging, the async runtime, interruption.

use std::{ffi::OsString, io::IsTerminal, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, ValueEnum, error::ErrorKind as ClapKind};
use tracing_subscriber::EnvFilter;
use wharf_content::{Catalogue, Error, Result};
use wharf_images::external::{PluginOptions, Plugins};

use crate::{
    args::{Cli, Color, Command, Format, Global},
    command::{self, Remains},
    context::Context,
    exit::{self, Code},
    log::{Log, LogThread},
    memory, output, plugin_dirs,
};

/// Runs `wharf` with a catalogue of the builder's choice.
///
/// A program with plugins of its own names them and runs:
///
/// ```no_run
/// // use my_plugin as _;
/// fn main() -> std::process::ExitCode {
///     wharf::Runner::new().run()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Runner {
    catalogue: Catalogue,
    executables: Executables,
}

/// Whether plugins that are executables are read from their directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Executables {
    Read,
    Left,
}

impl Default for Runner {
    fn default() -> Self {
        Self::new()
    }
}

impl Runner {
    /// Uses everything that is linked into the program, and the plugins that its user has installed as executables.
    pub fn new() -> Self {
        Self { catalogue: Catalogue::linked().clone(), executables: Executables::Read }
    }

    /// Uses this catalogue instead of what is linked.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// Runs no executable plugin, whatever directories the user names: what the program can do is what it was built with.
    #[must_use]
    pub fn without_plugin_dirs(mut self) -> Self {
        self.executables = Executables::Left;
        self
    }

    /// Runs the command that the process was started with, and gives its exit code.
    pub fn run(self) -> ExitCode {
        self.run_with(std::env::args_os())
    }

    /// Runs the command of these arguments, the first of which is the program's name.
    pub fn run_with(self, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let cli = match parse(&arguments) {
            Ok(cli) => cli,
            Err(error) => return usage(&error, &arguments),
        };
        let format = cli.global.format;
        let thread = match cli.command {
            Command::Serve(_) => Some(LogThread::start(std::io::stderr(), format)),
            _ => None,
        };
        trace(&cli.global, thread.as_ref().map(LogThread::take_all));
        memory::keep_buffers();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return exit::report(&Error::io("cannot start", error), format).into(),
        };
        let plugins = match self.executables {
            Executables::Read => plugin_dirs::load(&cli.global),
            Executables::Left => Ok(Plugins::new(PluginOptions::default())),
        };
        let plugins = match plugins {
            Ok(plugins) => plugins,
            Err(error) => return exit::report(&error, format).into(),
        };
        let context = Context::new(cli.global, plugins.register(self.catalogue));
        let ends_by_itself = cli.command.ends_when_signalled();
        let (remains, platforms) = (cli.command.remains(), cli.command.platforms());
        // The futures of what moves images are large.
        let work = Box::pin(command::run(cli.command, &context));
        let outcome = runtime
            .block_on(async { if ends_by_itself { Ok(work.await) } else { interruptible(work).await } });
        // A plugin that is asked by a command that was interrupted has nobody left to answer to.
        plugins.stop();
        // Blocking threads that still write are waited for no longer: their ingests are resumed by the next run.
        runtime.shutdown_background();
        drop(thread);
        match outcome {
            Ok(Ok(())) => context.exit_code(),
            Ok(Err(error)) => context.report(&error, platforms).into(),
            Err(Interrupted) => interrupted(remains, format),
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let colour = match colour(arguments) {
        Color::Auto => clap::ColorChoice::Auto,
        Color::Always => clap::ColorChoice::Always,
        Color::Never => clap::ColorChoice::Never,
    };
    let mut command = Cli::command().color(colour);
    let matches = command.try_get_matches_from_mut(arguments).map_err(|error| {
        // Variables are no part of how the command is used, and would be shown as if they had to be given.
        let typed = without_variables(Cli::command().color(colour)).try_get_matches_from(arguments);
        typed.err().filter(|typed| typed.kind() == error.kind()).unwrap_or(error)
    })?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn without_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| argument.env(None)).mut_subcommands(without_variables)
}

/// What is said of a flag that a mistake of usage obeys as well.
fn said<'a>(arguments: &'a [OsString], flag: &str) -> Option<&'a str> {
    let arguments = || arguments.iter().map(|argument| argument.to_str().unwrap_or_default());
    let apart =
        arguments().zip(arguments().skip(1)).filter(|(before, _)| *before == flag).map(|(_, value)| value);
    let joined = arguments().filter_map(|argument| argument.strip_prefix(flag)?.strip_prefix('='));
    apart.chain(joined).last()
}

fn colour(arguments: &[OsString]) -> Color {
    said(arguments, "--color").and_then(|when| Color::from_str(when, false).ok()).unwrap_or_default()
}

/// Help and version go to standard output and are a success; anything else is a mistake of usage, told as it was asked for.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) {
        // Whether it could be printed makes no difference to the exit code.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    if said(arguments, "--format") == Some("json") {
        let text = text.trim_end().trim_start_matches("error: ");
        return exit::report(&Error::invalid_argument(text), Format::Json).into();
    }
    if !text.starts_with("error: ") {
        // Help, for want of a command.
        drop(error.print());
        return Code::Usage.into();
    }
    let text = if use_colour(colour(arguments)) { error.render().ansi().to_string() } else { text };
    output::note(text.replacen("error:", "error[invalid argument]:", 1).trim_end());
    Code::Usage.into()
}

/// Has warnings, and what was asked for, written to standard error; by a log where the program runs for days, and with the time.
fn trace(global: &Global, log: Option<Log>) {
    let level = match global.verbose {
        0 => "warn",
        1 => {
            "wharf=debug,wharf_content=debug,wharf_images=debug,wharf_remotes=debug,wharf_archive=debug,warn"
        }
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("WHARF_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A line that cannot be written is lost, and nothing else: it would be told of by a panic.
        .log_internal_errors(false)
        .with_ansi(use_colour(global.color));
    match log {
        Some(log) => subscriber.with_writer(move || log.clone()).init(),
        None => subscriber.with_writer(std::io::stderr).without_time().init(),
    }
}

fn use_colour(colour: Color) -> bool {
    match colour {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    }
}

struct Interrupted;

/// Runs until the work is done or the user interrupts. Dropping the work keeps what can be resumed.
async fn interruptible<T>(work: impl Future<Output = T>) -> Result<T, Interrupted> {
    // Before anything is begun that has to be undone, such as a terminal that does not show what is typed.
    let signalled = signalled();
    tokio::select! {
        outcome = work => Ok(outcome),
        () = signalled => Err(Interrupted),
    }
}

/// Ends at the first SIGINT or SIGTERM from the call on. For within a runtime.
pub(crate) fn signalled() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return std::future::pending().await };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

fn interrupted(remains: Remains, format: Format) -> ExitCode {
    let error = Error::new(wharf_content::ErrorKind::Aborted, remains.told());
    exit::report(&error, format);
    Code::Interrupted.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_among_arguments_that_make_no_sense() {
        let of = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            (colour(&arguments), said(&arguments, "--format").map(str::to_owned))
        };
        for (arguments, color, format) in [
            (&["wharf", "pull"][..], Color::Auto, None),
            (&["wharf", "--color", "never", "--nonsense"], Color::Never, None),
            (&["wharf", "--color=always", "--format=json"], Color::Always, Some("json")),
            (&["wharf", "--format", "json", "pull", "--color"], Color::Auto, Some("json")),
            (&["wharf", "--color", "nonsense"], Color::Auto, None),
        ] {
            assert_eq!(of(arguments), (color, format.map(str::to_owned)), "{arguments:?}");
        }
    }
}
