//! A program that runs beside the caller: started, asked to stop, and gone when its guard is dropped.
//!
//! Daemons stay in the caller's process group and are killed by the kernel when the caller dies
//! (`setpriv --pdeathsig`), so that a killed run leaves none of them behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Tool, code, show, tail, wait_until};
use crate::failure::{Context, Failure, Result, ensure};
use crate::programs;

/// How long a daemon has for ending by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A signal by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// What Ctrl-C sends.
    Interrupt,
    /// What a service manager sends.
    Terminate,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
        }
    }
}

/// Sends a signal to one process. The shell's own `kill` is there even where the program is not.
fn send(signal: Signal, process: u32) -> Result<()> {
    let process = process.to_string();
    Tool::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal.name(), &process]).success().map(drop)
}

/// A running program, ended on every path by its own handle.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    /// Starts a program whose output goes to `NAME.out` and `NAME.err` in `logs`.
    pub(crate) fn start(name: &str, tool: Tool, logs: &Path) -> Result<Self> {
        let inner = tool.into_command();
        let shown = show(&inner);
        let mut command = bound_to_us(&inner);
        for (variable, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        if let Some(directory) = inner.get_current_dir() {
            command.current_dir(directory);
        }
        let stdout = logs.join(format!("{name}.out"));
        let stderr = logs.join(format!("{name}.err"));
        // Nothing is written to it; some programs end when their input does, and it does so with the guard.
        command.stdin(Stdio::piped());
        command.stdout(File::create(&stdout).context(stdout.display())?);
        command.stderr(File::create(&stderr).context(stderr.display())?);
        let child = command.spawn().context(format_args!("cannot start `{shown}`"))?;
        Ok(Self { child, shown, stdout, stderr })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// What it wrote to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until `ready` gives something; fails when the program ends before, or when `limit` is over.
    pub(crate) fn ready<T>(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            let ended = self.child.try_wait().context(&self.shown)?.map(code);
            if let Some(code) = ended {
                return Err(self.failure(&format!("ended with exit code {code} before it was ready")));
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!("was not ready after {} s", limit.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        send(signal, self.id())
    }

    /// Kills it on the spot.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context(&self.shown)
    }

    /// Waits for its end and gives its exit code.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<i32> {
        match wait_until(&mut self.child, Instant::now() + limit).context(&self.shown)? {
            Some(status) => Ok(code(status)),
            None => Err(self.failure(&format!("was still running after {} s", limit.as_secs()))),
        }
    }

    /// Asks it to stop and fails unless it does so in time with exit code 0.
    pub(crate) fn stop(mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let code = self.wait(GRACE)?;
        ensure(code == 0, || {
            format!("`{}` ended with exit code {code} after SIG{}", self.shown, signal.name())
        })
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::new(format!("`{}` {what}\n{}", self.shown, tail(&self.stderr())))
    }
}

/// The same call, such that the kernel kills the program when we die. Where there is no setpriv the guard has to do.
fn bound_to_us(inner: &Command) -> Command {
    let mut command = if programs::find("setpriv").is_some() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(inner.get_program());
        command
    } else {
        Command::new(inner.get_program())
    };
    command.args(inner.get_args());
    command
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        // Each of these can only fail because the program has ended in the meantime.
        drop(self.signal(Signal::Terminate));
        if let Ok(Some(_)) = wait_until(&mut self.child, Instant::now() + GRACE) {
            return;
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn alive(process: u32) -> bool {
        Path::new(&format!("/proc/{process}")).exists()
    }

    #[test]
    fn dropping_the_guard_ends_the_program() {
        let logs = Scratch::new("daemon-drop").unwrap();
        let mut daemon = Daemon::start("sleeper", Tool::new("sleep").arg("60"), logs.path()).unwrap();
        let id = daemon.ready(Duration::from_secs(5), |daemon| Some(daemon.id())).unwrap();
        assert!(alive(id));
        drop(daemon);
        assert!(!alive(id));
    }

    #[test]
    fn a_program_that_ends_early_is_reported_with_what_it_said() {
        let logs = Scratch::new("daemon-early").unwrap();
        let tool = Tool::new("sh").args(["-c", "echo out of order >&2; exit 3"]);
        let mut daemon = Daemon::start("broken", tool, logs.path()).unwrap();
        let error = daemon.ready(Duration::from_secs(5), |_| None::<()>).unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("out of order"), "{error}");
    }

    #[test]
    fn an_interrupt_is_seen_as_one() {
        let logs = Scratch::new("daemon-interrupt").unwrap();
        let tool = Tool::new("sh").args(["-c", "trap 'exit 130' INT; echo up; while :; do sleep 0.05; done"]);
        let mut daemon = Daemon::start("loop", tool, logs.path()).unwrap();
        daemon.ready(Duration::from_secs(5), |daemon| daemon.stdout().contains("up").then_some(())).unwrap();
        daemon.signal(Signal::Interrupt).unwrap();
        assert_eq!(daemon.wait(Duration::from_secs(5)).unwrap(), 130);
    }
}
