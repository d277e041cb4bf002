//! Asking the user, on the terminal: a line, and a password, which the terminal does not show. A password can come by standard input too.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use wharf_content::{Error, Result};
use wharf_remotes::credentials::Secret;

use crate::exit;

/// The longest password, in bytes.
const MAX_LEN: u64 = 64 * 1024;

/// Whether there is somebody to ask.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Reads all of standard input but a line break at its end.
///
/// # Errors
/// `InvalidArgument` for an empty password or one that is no text; those of standard input.
///
/// # Cancellation
/// What is read until then is lost.
pub(crate) async fn password_from_stdin() -> Result<Secret> {
    let text = on_a_thread(|| {
        let mut text = String::new();
        io::stdin().lock().take(MAX_LEN + 1).read_to_string(&mut text).map(|_| text)
    });
    let text =
        text.await.map_err(|error| exit::outside("cannot read the password from standard input", error))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || text.len() as u64 > MAX_LEN {
        return Err(Error::invalid_argument(format!(
            "standard input must have the password, of 1 to {MAX_LEN} bytes"
        )));
    }
    Ok(Secret::from(password))
}

/// Asks for a line.
///
/// # Errors
/// `InvalidArgument` for an empty line; those of the terminal.
///
/// # Cancellation
/// The terminal is as it was.
pub(crate) async fn line(question: &str) -> Result<String> {
    ask(question).await.and_then(|line| given(question, &line))
}

/// Asks for what nobody may see.
///
/// # Errors
/// As [`line`].
///
/// # Cancellation
/// The terminal is as it was.
pub(crate) async fn password(question: &str) -> Result<Secret> {
    let terminal = terminal().map_err(cannot)?;
    // Restored when this is dropped, which an interruption does too.
    let quiet = Quiet::new(terminal).map_err(cannot)?;
    let line = ask(question).await;
    drop(quiet);
    // The line break that the user typed was not shown either.
    drop(writeln!(io::stderr()));
    Ok(Secret::from(given(question, &line?)?))
}

async fn ask(question: &str) -> Result<String> {
    let terminal = terminal().map_err(cannot)?;
    drop(write!(io::stderr().lock(), "{question}: "));
    let read = move || {
        let mut line = String::new();
        BufReader::new(terminal.take(MAX_LEN)).read_line(&mut line).map(|_| line)
    };
    on_a_thread(read).await.map_err(cannot)
}

fn given(question: &str, line: &str) -> Result<String> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(Error::invalid_argument(format!("no {} was given", question.to_lowercase())));
    }
    Ok(line.to_owned())
}

fn cannot(error: io::Error) -> Error {
    exit::outside("cannot ask on the terminal", error)
}

fn terminal() -> io::Result<File> {
    File::open("/dev/tty")
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("reading was given up")))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // There is nobody left to tell where the terminal has gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
