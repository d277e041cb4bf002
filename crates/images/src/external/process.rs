//! Running an executable within limits of time, output and number, in a process group of its own that is gone afterwards.
//!
//! Four threads belong to a call: one writes the input, two read the outputs, one waits for the end without reaping it. As long as the
//! process is not reaped its number belongs to nobody else, so that the group can be killed without hitting a stranger.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fmt,
    io::{self, ErrorKind, Read, Write},
    num::NonZeroUsize,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

/// How much of what an executable says on standard error is kept: the end of it.
const ERRORS_LEN: usize = 4 << 10;

/// How long the outputs may stay open when all processes of the group are gone.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// What stands for longer time limits: a year, which the clock can add up.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long to wait before a file that somebody is writing is tried again.
const BUSY: Duration = Duration::from_millis(10);

/// Where executables find others, if the user has no search path.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program<'a> {
    pub(super) executable: &'a Path,
    pub(super) arguments: &'a [OsString],
    pub(super) directory: &'a Path,
    pub(super) environment: Environment<'a>,
}

/// What is to be run with which input, and how long.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) program: Program<'a>,
    pub(super) input: Vec<u8>,
    pub(super) time_limit: Duration,
    pub(super) max_output_len: usize,
    pub(super) excess: Excess,
}

/// What an executable finds in its environment beside a search path and a locale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Environment<'a> {
    /// Nothing.
    Bare,
    /// These variables.
    Only(&'a [(OsString, OsString)]),
    /// What this program has.
    Inherited,
}

/// What becomes of output beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// It is a failure.
    Refused,
    /// It is read and forgotten.
    Dropped,
}

/// What an executable left.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) output: Vec<u8>,
    /// The end of what it said on standard error.
    pub(super) errors: String,
}

/// Why there is nothing to be had of an executable.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be started or watched.
    System(io::Error),
    /// It took too long, with what it said on standard error.
    Time(String),
    /// It wrote too much, with what it said on standard error.
    Output(String),
    /// A process that it left behind keeps its output open.
    Open,
    /// Everything was told to stop.
    Stopped,
}

/// The processes that run, of which there are only so many.
pub(super) struct Processes {
    max: NonZeroUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// Groups whose leader is not reaped.
    groups: BTreeSet<i32>,
    stopped: bool,
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").field("max", &self.max).finish_non_exhaustive()
    }
}

/// A turn; the next one may start when it is dropped.
struct Slot<'a>(&'a Processes);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.changed.notify_one();
    }
}

impl Processes {
    pub(super) fn new(max: NonZeroUsize) -> Self {
        Self { max, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills what runs, and lets nothing start any more.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        for group in &state.groups {
            kill(*group);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn slot(&self) -> Result<Slot<'_>, Failure> {
        let full = |state: &mut State| !state.stopped && state.running >= self.max.get();
        let waited = self.changed.wait_while(self.lock(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return Err(Failure::Stopped);
        }
        state.running += 1;
        Ok(Slot(self))
    }

    /// Starts an executable as the leader of a group of its own, which is to be [ended](Self::end); `None` when everything was told to
    /// stop. Takes no turn.
    pub(super) fn start(&self, program: &Program<'_>, deadline: Instant) -> io::Result<Option<Child>> {
        loop {
            // Held until the group is known, so that nothing is started that a stop does not see.
            let mut state = self.lock();
            if state.stopped {
                return Ok(None);
            }
            match spawn(program) {
                // Somebody is just installing it, or a process that is just being started has the file open still.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                    drop(state);
                    thread::sleep(BUSY);
                }
                Err(error) => return Err(error),
                Ok(child) => {
                    state.groups.insert(child.id().cast_signed());
                    return Ok(Some(child));
                }
            }
        }
    }

    /// Kills what is left of a group, whose leader may be reaped from then on. Says whether everything was told to stop.
    pub(super) fn end(&self, group: i32) -> bool {
        let mut state = self.lock();
        if state.groups.remove(&group) {
            kill(group);
        }
        state.stopped
    }

    /// Kills a group, unless it has [ended](Self::end) and its number may be somebody else's.
    pub(super) fn kill(&self, group: i32) {
        let state = self.lock();
        if state.groups.contains(&group) {
            kill(group);
        }
    }

    /// Whether everything was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Runs an executable to its end, and everything that it started.
    pub(super) fn run(&self, call: Call<'_>) -> Result<Finished, Failure> {
        let _slot = self.slot()?;
        let deadline = Instant::now() + call.time_limit.min(LONGEST);
        let started = self.start(&call.program, deadline).map_err(Failure::System)?;
        let mut child = started.ok_or(Failure::Stopped)?;
        let group = child.id().cast_signed();
        let watched = watch(&mut child, call.input, call.max_output_len, call.excess);
        let mut ending = Ending::default();
        let early = match &watched {
            Ok(events) => ending.wait(events, deadline),
            Err(_) => None,
        };
        kill(group);
        if let Ok(events) = &watched {
            ending.drain(events, Instant::now() + GRACE);
        }
        let stopped = self.end(group);
        let status = reap(child, ending.exited);
        watched.map_err(Failure::System)?;
        if stopped {
            return Err(Failure::Stopped);
        }
        let errors = ending.errors();
        match (early, ending.output, status) {
            (Some(Early::Time), ..) => Err(Failure::Time(errors)),
            (Some(Early::Output), ..) | (None, Some(Output::TooLong), _) => Err(Failure::Output(errors)),
            (None, Some(Output::Whole(output)), Some(status)) => {
                Ok(Finished { status: status.map_err(Failure::System)?, output, errors })
            }
            (None, None, _) | (None, _, None) => Err(Failure::Open),
        }
    }
}

/// Kills a group whose leader is not reaped. That it has ended already is as good.
fn kill(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Takes the exit status, if there is one; a process that not even a kill ends is left to a thread.
fn reap(mut child: Child, exited: bool) -> Option<io::Result<ExitStatus>> {
    if exited {
        return Some(child.wait());
    }
    drop(thread::Builder::new().spawn(move || child.wait()));
    None
}

fn spawn(program: &Program<'_>) -> io::Result<Child> {
    let mut command = Command::new(program.executable);
    match program.environment {
        Environment::Bare => drop(command.env_clear()),
        Environment::Only(variables) => drop(command.env_clear().envs(variables.iter().cloned())),
        Environment::Inherited => {}
    }
    command
        .args(program.arguments)
        .env("PATH", search_path(env::var_os("PATH")))
        .env("LC_ALL", "C.UTF-8")
        .current_dir(program.directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// The user's search path without what would depend on the directory that one is in.
fn search_path(path: Option<OsString>) -> OsString {
    let path = path.unwrap_or_default();
    let absolute = env::split_paths(&path).filter(|directory| directory.is_absolute());
    env::join_paths(absolute).ok().filter(|path| !path.is_empty()).unwrap_or_else(|| SEARCH_PATH.into())
}

#[derive(Debug)]
enum Event {
    Exited,
    Output(Output),
    Errors(Vec<u8>),
}

/// What came of standard output.
#[derive(Debug, PartialEq, Eq)]
enum Output {
    Whole(Vec<u8>),
    TooLong,
}

/// Starts the threads of a call.
fn watch(
    child: &mut Child,
    input: Vec<u8>,
    max_output_len: usize,
    excess: Excess,
) -> io::Result<Receiver<Event>> {
    let (sender, receiver) = mpsc::channel();
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pid = Pid::from_child(child);
    run_thread(&sender, move |sender| {
        // Who is not interested in the input closes it, which is no failure.
        drop(stdin.map(|mut pipe| pipe.write_all(&input)));
        drop(sender);
    })?;
    run_thread(&sender, move |sender| {
        let output = stdout.map_or(Output::Whole(Vec::new()), |pipe| read(pipe, max_output_len, excess));
        drop(sender.send(Event::Output(output)));
    })?;
    run_thread(&sender, move |sender| {
        let errors = stderr.map(last).unwrap_or_default();
        drop(sender.send(Event::Errors(errors)));
    })?;
    run_thread(&sender, move |sender| {
        wait_for_end(pid);
        drop(sender.send(Event::Exited));
    })?;
    Ok(receiver)
}

/// Starts a thread that tells what it finds out.
pub(super) fn run_thread<E: Send + 'static>(
    sender: &Sender<E>,
    work: impl FnOnce(Sender<E>) + Send + 'static,
) -> io::Result<()> {
    let sender = sender.clone();
    thread::Builder::new().name("wharf-plugin".to_owned()).spawn(move || work(sender)).map(drop)
}

/// Waits until a process has ended, without reaping it.
pub(super) fn wait_for_end(pid: Pid) {
    let end = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), end), Err(Errno::INTR)) {}
}

/// Reads to the end, and beyond `max` only to forget it.
fn read(mut pipe: impl Read, max: usize, excess: Excess) -> Output {
    let mut bytes = Vec::new();
    // What was read before an error is as good as what a process wrote that was killed.
    let _ = pipe.by_ref().take(max as u64 + 1).read_to_end(&mut bytes);
    if bytes.len() > max {
        if excess == Excess::Refused {
            return Output::TooLong;
        }
        bytes.truncate(max);
        let _ = io::copy(&mut pipe, &mut io::sink());
    }
    Output::Whole(bytes)
}

/// Reads to the end and keeps the last of it.
pub(super) fn last(mut pipe: impl Read) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return kept,
            Ok(len) => {
                kept.extend_from_slice(&chunk[..len]);
                kept.drain(..kept.len().saturating_sub(ERRORS_LEN));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
    }
}

/// Why a process is ended before it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    Time,
    Output,
}

/// What is known of the end of a process so far.
#[derive(Debug, Default)]
struct Ending {
    exited: bool,
    output: Option<Output>,
    errors: Option<Vec<u8>>,
}

impl Ending {
    fn take(&mut self, event: Event) {
        match event {
            Event::Exited => self.exited = true,
            Event::Output(output) => self.output = Some(output),
            Event::Errors(errors) => self.errors = Some(errors),
        }
    }

    /// Waits until the process ends, or has to be ended.
    fn wait(&mut self, events: &Receiver<Event>, deadline: Instant) -> Option<Early> {
        while !self.exited {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => return Some(Early::Time),
                // Every thread has sent what it had.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if self.output == Some(Output::TooLong) {
                return Some(Early::Output);
            }
        }
        None
    }

    /// Takes what is still under way when the group is gone.
    fn drain(&mut self, events: &Receiver<Event>, deadline: Instant) {
        while !(self.exited && self.output.is_some() && self.errors.is_some()) {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(_) => return,
            }
        }
    }

    fn errors(&mut self) -> String {
        String::from_utf8_lossy(&self.errors.take().unwrap_or_default()).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_searched_where_one_happens_to_be() {
        let path = |text: &str| search_path(Some(text.into())).into_string().expect("text");
        assert_eq!(path("/a:.:b:/c d::/e"), "/a:/c d:/e");
        assert_eq!(path("."), SEARCH_PATH);
        assert_eq!(search_path(None), SEARCH_PATH);
    }

    #[test]
    fn the_end_of_what_was_said_is_kept() {
        let text = [vec![b'x'; 100_000], b"end".to_vec()].concat();
        let kept = last(text.as_slice());
        assert!(kept.len() == ERRORS_LEN && kept.ends_with(b"xend"));
        assert_eq!(read(&b"1234"[..], 4, Excess::Refused), Output::Whole(b"1234".to_vec()));
        assert_eq!(read(&b"12345"[..], 4, Excess::Refused), Output::TooLong);
        assert_eq!(read(&b"12345"[..], 4, Excess::Dropped), Output::Whole(b"1234".to_vec()));
    }
}
