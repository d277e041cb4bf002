//! Other programs, run to their end: captured, bounded in time, and never left behind.
//!
//! What runs beside the caller is [`crate::process::Daemon`], in its own file.

mod daemon;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use daemon::{Daemon, Signal};

use crate::failure::{Context, Failure, Result};

/// How long a program may run when nobody said otherwise.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// How often a running program is looked at.
const PULSE: Duration = Duration::from_millis(5);

/// A program to be run, with a limit on its time.
#[derive(Debug)]
pub(crate) struct Tool {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
}

/// What a program left when it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The command line, for messages.
    pub(crate) shown: String,
    /// Its exit code, or 128 and the signal that ended it.
    pub(crate) code: i32,
    /// Standard output as it came.
    pub(crate) stdout: Vec<u8>,
    /// Standard error, read as text.
    pub(crate) stderr: String,
}

impl Tool {
    /// A program, found on the path when it has no slash.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), input: Vec::new(), limit: LIMIT }
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds several arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable out of its environment.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it in this directory.
    pub(crate) fn dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Gives it these bytes on standard input; it is empty otherwise.
    pub(crate) fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Kills it after this long.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Hands out the command as it stands, for a [`Daemon`].
    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end, whatever its exit code.
    pub(crate) fn run(self) -> Result<Finished> {
        let Self { mut command, input, limit } = self;
        let shown = show(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context(format_args!("cannot start `{shown}`"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends without reading its input is no failure of ours.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let status = wait_until(&mut child, Instant::now() + limit).context(&shown)?;
        let Some(status) = status else {
            child.kill().context(&shown)?;
            child.wait().context(&shown)?;
            let said = String::from_utf8_lossy(&gather(&stderr)).into_owned();
            return Err(Failure::new(format!(
                "`{shown}` was still running after {} s and was killed\n{}",
                limit.as_secs(),
                tail(&said)
            )));
        };
        let stderr = String::from_utf8_lossy(&gather(&stderr)).into_owned();
        Ok(Finished { shown, code: code(status), stdout: gather(&stdout), stderr })
    }

    /// Runs it to its end and fails unless it succeeds.
    pub(crate) fn success(self) -> Result<Finished> {
        self.run()?.expect_code(0)
    }

    /// Runs it, fails unless it succeeds, and reads its standard output as text without the last line break.
    pub(crate) fn text(self) -> Result<String> {
        self.success()?.text()
    }

    /// Runs it on the caller's own terminal without a limit and fails unless it succeeds.
    pub(crate) fn pass_through(mut self) -> Result<()> {
        let shown = show(&self.command);
        let status =
            self.command.stdin(Stdio::null()).status().context(format_args!("cannot start `{shown}`"))?;
        match code(status) {
            0 => Ok(()),
            code => Err(Failure::new(format!("`{shown}` ended with exit code {code}"))),
        }
    }
}

impl Finished {
    /// Fails unless the exit code is this one.
    pub(crate) fn expect_code(self, code: i32) -> Result<Self> {
        if self.code == code {
            return Ok(self);
        }
        Err(Failure::new(format!(
            "`{}` ended with exit code {}, not {code}\n{}",
            self.shown,
            self.code,
            tail(&self.stderr)
        )))
    }

    /// Standard output as text, without the last line break.
    pub(crate) fn text(&self) -> Result<String> {
        let text = std::str::from_utf8(&self.stdout)
            .context(format_args!("the output of `{}` is not text", self.shown))?;
        Ok(text.strip_suffix('\n').unwrap_or(text).to_owned())
    }

    /// Fails unless standard error has all of these words.
    pub(crate) fn expect_said(self, words: &[&str]) -> Result<Self> {
        match words.iter().find(|word| !self.stderr.contains(**word)) {
            None => Ok(self),
            Some(word) => Err(Failure::new(format!(
                "`{}` does not say {word:?} on standard error:\n{}",
                self.shown,
                tail(&self.stderr)
            ))),
        }
    }
}

/// Waits for the end of a program, at the latest until `deadline`.
fn wait_until(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(PULSE);
    }
}

/// Reads a pipe to its end on a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            drop(pipe.read_to_end(&mut bytes));
        }
        drop(sender.send(bytes));
    });
    receiver
}

/// Takes what [`collect`] has read. A grandchild that keeps the pipe open must not keep us waiting.
fn gather(pipe: &mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    pipe.recv_timeout(Duration::from_secs(10)).unwrap_or_default()
}

/// The exit code as a shell would tell it.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The command line as one would type it, near enough for a message.
fn show(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}

/// The last lines of what a program said, indented under the message they explain.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(20);
    lines[from..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_input_and_code_are_kept_apart() {
        let finished =
            Tool::new("sh").args(["-c", "cat; echo no >&2; exit 7"]).input(b"yes\n").run().unwrap();
        assert_eq!((finished.code, finished.text().unwrap().as_str()), (7, "yes"));
        assert_eq!(finished.stderr, "no\n");
        assert!(finished.expect_code(0).is_err());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let started = Instant::now();
        let error = Tool::new("sleep").arg("60").limit(Duration::from_millis(100)).run().unwrap_err();
        assert!(error.to_string().contains("still running"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Tool::new("/there/is/no/such/program").run().unwrap_err();
        assert!(error.to_string().contains("/there/is/no/such/program"), "{error}");
    }
}
