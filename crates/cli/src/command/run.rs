//! `wharf run`: a bundle in a directory of its own, run by an OCI runtime and removed afterwards.

mod scratch;

use std::{
    env, io,
    io::IsTerminal,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::Command,
    signal::unix::{Signal as Stream, SignalKind, signal},
};
use wharf_archive::{apply::remove_tree, bundle::Streams};
use wharf_content::{Error, ErrorKind, Result, blocking};

use self::scratch::Scratch;
use super::bundle::{self, ContainerArgs};
use crate::{context::Context, exit, runner};

/// The runtimes that are looked for, the first found is taken.
const RUNTIMES: &[&str] = &["crun", "runc", "youki"];

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Makes a bundle below $TMPDIR, runs it with crun, runc or youki, whichever is found first, passes standard streams and \
signals on, exits as the container does, and removes everything; also what a killed run left, once its container has ended.\n\n\
The container has no network but its own loopback; for who is not root it has the host's.\n\n\
Examples:\n  wharf run busybox -- echo hi\n  wharf run -e NAME=value -w /tmp --volume ./data:/data:ro debian -- ls /data"
)]
pub(crate) struct Run {
    /// The image in the store; or in a file or a directory, as oci:DIR[:TAG] and the like
    #[arg(value_name = "NAME")]
    name: String,
    /// The runtime, as a path or a name on PATH [default: crun, runc or youki]
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<PathBuf>,
    /// Give the container a terminal
    #[arg(short = 't', long)]
    tty: bool,
    #[command(flatten)]
    container: ContainerArgs,
}

impl Run {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let runtime = find(self.runtime.as_deref(), env::var_os("PATH").unwrap_or_default())?;
        if self.tty && !io::stdin().is_terminal() {
            return Err(Error::invalid_argument("standard input is no terminal: leave out --tty"));
        }
        let mut options = self.container.options(context)?;
        if self.tty {
            options = options.with_streams(Streams::Terminal);
        }
        blocking::run(|| {
            scratch::sweep(&env::temp_dir());
            Ok(())
        })
        .await?;
        let scratch = Scratch::make(&env::temp_dir())?;
        let bundle = scratch.path.join("bundle");
        let outcome = tokio::select! {
            outcome = async {
                bundle::make(context, &self.name, &bundle, &options).await?;
                Ok(())
            } => outcome,
            () = runner::signalled() => Err(Error::new(ErrorKind::Aborted, "interrupted before the container ran")),
        };
        let outcome = match outcome {
            Ok(()) => container(&runtime, &scratch).await,
            Err(error) => Err(error),
        };
        let path = scratch.path.clone();
        let removed = blocking::run(move || scratch::discard(&path)).await;
        context.exit_with(code(outcome?));
        removed
    }
}

/// Finds the runtime.
fn find(wanted: Option<&Path>, path: impl AsRef<std::ffi::OsStr>) -> Result<PathBuf> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let directories: Vec<PathBuf> = env::split_paths(&path).filter(|path| path.is_absolute()).collect();
    let on_path = |name: &Path| directories.iter().map(|directory| directory.join(name)).find(is_program);
    match wanted {
        Some(wanted) if wanted.components().count() > 1 => Some(wanted.to_owned()).filter(is_program),
        Some(wanted) => on_path(wanted),
        None => RUNTIMES.iter().find_map(|name| on_path(Path::new(name))),
    }
    .ok_or_else(|| match wanted {
        Some(wanted) => Error::not_found(format!("there is no OCI runtime {}", wanted.display())),
        None => Error::not_found(format!(
            "there is no OCI runtime on PATH: install one of {}, or name one with --runtime",
            RUNTIMES.join(", ")
        )),
    })
}

/// Runs the bundle to its end.
async fn container(runtime: &Path, scratch: &Scratch) -> Result<ExitStatus> {
    let failed = |error| exit::outside(format!("cannot run {}", runtime.display()), error);
    let mut signals = Signals::listen().map_err(failed)?;
    let state = scratch.state();
    scratch.share(runtime).map_err(failed)?;
    let mut child = Command::new(runtime)
        .arg("--root")
        .arg(&state)
        .arg("run")
        .arg("--bundle")
        .arg(scratch.path.join("bundle"))
        .arg(&scratch.name)
        .spawn()
        .map_err(failed)?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(failed)?,
            signal = signals.next() => {
                if let Some(pid) = pid {
                    // It may just have ended.
                    let _ = kill_process(pid, signal);
                }
            }
        }
    };
    if status.signal().is_some() {
        // The runtime was killed, and its container is still there.
        let mut command = Command::new(runtime);
        command.arg("--root").arg(&state).args(["delete", "--force"]).arg(&scratch.name);
        command.output().await.map_err(failed)?;
    }
    Ok(status)
}

/// Signals that are passed on.
struct Signals {
    interrupt: Stream,
    quit: Stream,
    terminate: Stream,
    hang_up: Stream,
    first: Stream,
    second: Stream,
    resized: Stream,
    /// Whether a terminal sends some of them to the runtime, too.
    has_terminal: bool,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            first: signal(SignalKind::user_defined1())?,
            second: signal(SignalKind::user_defined2())?,
            resized: signal(SignalKind::window_change())?,
            has_terminal: io::stdin().is_terminal(),
        })
    }

    async fn next(&mut self) -> Signal {
        loop {
            let (signal, is_shared) = tokio::select! {
                _ = self.interrupt.recv() => (Signal::INT, true),
                _ = self.quit.recv() => (Signal::QUIT, true),
                _ = self.resized.recv() => (Signal::WINCH, true),
                _ = self.terminate.recv() => (Signal::TERM, false),
                _ = self.hang_up.recv() => (Signal::HUP, false),
                _ = self.first.recv() => (Signal::USR1, false),
                _ = self.second.recv() => (Signal::USR2, false),
            };
            if !(is_shared && self.has_terminal) {
                return signal;
            }
        }
    }
}

/// The exit code that stands for how a program ended.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Removes a directory with all that is in it, if it is there still.
fn remove(path: &Path) -> Result<()> {
    match remove_tree(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(exit::made_outside),
    }
}
