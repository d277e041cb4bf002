//! Running an executable as a filter: a stream goes in at its standard input, and what it writes is read as it comes.
//!
//! ```text
//! source ─> [thread] ─> standard input   executable   standard output ─> whoever reads
//!                                             └─ standard error ─> [thread] ─> the last of it
//!                                             └─ its end        ─> [thread] ─> its group is killed, it is reaped
//! ```
//!
//! There is no limit of time for the whole, since layers may be of any length, and so may pauses of whoever reads. Limited is how long
//! somebody waits while the executable neither takes nor gives anything, though it could.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::{ChildStdin, ChildStdout, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal},
};

use super::process::{GRACE, Processes, Program, last, run_thread, wait_for_end};
use crate::layer::LayerStream;

/// How many bytes are handed on at a time: as many as a pipe holds.
const BUFFER_LEN: usize = 64 * 1024;

/// Why there is nothing more to be had of an executable.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It could not be started or read.
    System(io::Error),
    /// What was to be its input failed.
    Source(io::Error),
    /// It did nothing for too long, with what it said on standard error.
    Stalled(String),
    /// It ended and told a failure, with what it said on standard error.
    Failed(ExitStatus, String),
    /// A process that it left behind keeps its output open.
    Open,
    /// Everything was told to stop.
    Stopped,
}

/// A running executable, and what it writes. Dropping it kills its group.
pub(super) struct Filter {
    processes: Arc<Processes>,
    group: i32,
    output: ChildStdout,
    feeding: Arc<Feeding>,
    events: Receiver<Event>,
    patience: Duration,
    end: End,
}

/// How far the input is.
#[derive(Debug, Default)]
struct Feeding {
    /// Bytes that the executable was given.
    given: AtomicU64,
    /// Whether the executable would have to wait for the source.
    is_waiting: AtomicBool,
    /// Whether nobody reads the output any more.
    is_abandoned: AtomicBool,
}

#[derive(Debug)]
enum Event {
    Exited(io::Result<ExitStatus>),
    Errors(Vec<u8>),
    Fed(io::Result<()>),
}

/// What is known of the end.
#[derive(Debug, Default)]
struct End {
    status: Option<io::Result<ExitStatus>>,
    errors: Option<Vec<u8>>,
    fed: Option<io::Result<()>>,
    is_told: bool,
}

impl End {
    fn take(&mut self, event: Event) {
        match event {
            Event::Exited(status) => self.status = Some(status),
            Event::Errors(errors) => self.errors = Some(errors),
            Event::Fed(fed) => self.fed = Some(fed),
        }
    }
}

impl Filter {
    /// Starts an executable.
    ///
    /// # Errors
    /// Those of the system; what was started is ended.
    pub(super) fn start(
        processes: Arc<Processes>,
        program: &Program<'_>,
        source: LayerStream,
        patience: Duration,
    ) -> Result<Self, Trouble> {
        let started = processes.start(program, Instant::now() + patience).map_err(Trouble::System)?;
        let mut child = started.ok_or(Trouble::Stopped)?;
        let (group, pid) = (child.id().cast_signed(), Pid::from_child(&child));
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sender, events) = mpsc::channel();
        let waiting = Arc::clone(&processes);
        let started = run_thread(&sender, move |sender| {
            wait_for_end(pid);
            waiting.end(group);
            drop(sender.send(Event::Exited(child.wait())));
        });
        if let Err(error) = started {
            // The child is lost with the thread: whoever ends this program reaps it.
            processes.end(group);
            return Err(Trouble::System(error));
        }
        let feeding = Arc::new(Feeding::default());
        let (Some(output), Some(input), Some(errors)) = (output, input, errors) else {
            processes.kill(group);
            return Err(Trouble::System(io::Error::other("a pipe is missing")));
        };
        let filter = Self { processes, group, output, feeding, events, patience, end: End::default() };
        run_thread(&sender, move |sender| drop(sender.send(Event::Errors(last(errors)))))
            .map_err(Trouble::System)?;
        let (feeding, processes) = (Arc::clone(&filter.feeding), Arc::clone(&filter.processes));
        run_thread(&sender, move |sender| {
            let fed = feed(source, input, &feeding);
            if fed.is_err() {
                // What it makes of half a stream is of no use.
                processes.kill(group);
            }
            drop(sender.send(Event::Fed(fed)));
        })
        .map_err(Trouble::System)?;
        Ok(filter)
    }

    /// Reads what the executable writes; 0 when it has ended well, and its input with it.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        if buffer.is_empty() || self.end.is_told {
            return Ok(0);
        }
        loop {
            self.wait_for_output()?;
            match self.output.read(buffer) {
                Ok(0) => {
                    self.end.is_told = true;
                    return self.finish().map(|()| 0);
                }
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Trouble::System(error)),
            }
        }
    }

    /// Waits until there is something to read, or the end.
    fn wait_for_output(&mut self) -> Result<(), Trouble> {
        let mut given = self.feeding.given.load(Ordering::Relaxed);
        let mut deadline = Instant::now() + self.patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut polled = [PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN)];
            match poll(&mut polled, Some(&timeout)) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(Trouble::System(error.into())),
                Ok(0) if self.is_at_work(&mut given) => deadline = Instant::now() + self.patience,
                Ok(0) => return Err(self.give_up()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Whether the executable took something since `given` bytes, or has nothing to take.
    fn is_at_work(&self, given: &mut u64) -> bool {
        let now = self.feeding.given.load(Ordering::Relaxed);
        std::mem::replace(given, now) != now || self.feeding.is_waiting.load(Ordering::Relaxed)
    }

    /// Ends an executable that does nothing.
    fn give_up(&mut self) -> Trouble {
        self.processes.kill(self.group);
        let has_exited = self.take_events();
        self.end.is_told = true;
        if self.processes.is_stopped() {
            return Trouble::Stopped;
        }
        match self.end.fed.take() {
            Some(Err(error)) => Trouble::Source(error),
            // It had ended by itself, and was not killed.
            _ if has_exited => Trouble::Open,
            _ => Trouble::Stalled(self.errors()),
        }
    }

    /// Takes what there is of events, a little later too. Says whether the executable had ended before.
    fn take_events(&mut self) -> bool {
        let deadline = Instant::now() + GRACE;
        while self.end.status.is_none() || self.end.errors.is_none() {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.end.take(event),
                Err(_) => break,
            }
        }
        matches!(&self.end.status, Some(Ok(status)) if status.signal() != Some(Signal::KILL.as_raw()))
    }

    /// Waits for the end of the executable, whose output has ended, and of its input.
    fn finish(&mut self) -> Result<(), Trouble> {
        let mut given = self.feeding.given.load(Ordering::Relaxed);
        while self.end.status.is_none() {
            match self.events.recv_timeout(self.patience) {
                Ok(event) => self.end.take(event),
                Err(RecvTimeoutError::Timeout) if self.is_at_work(&mut given) => {}
                Err(_) => return Err(self.give_up()),
            }
        }
        self.take_events();
        while self.end.fed.is_none() {
            // The source has limits of its own.
            match self.events.recv() {
                Ok(event) => self.end.take(event),
                Err(_) => break,
            }
        }
        if self.processes.is_stopped() {
            return Err(Trouble::Stopped);
        }
        if let Some(Err(error)) = self.end.fed.take() {
            return Err(Trouble::Source(error));
        }
        match self.end.status.take() {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(Trouble::Failed(status, self.errors())),
            Some(Err(error)) => Err(Trouble::System(error)),
            None => Err(Trouble::Open),
        }
    }

    /// The end of what was said on standard error.
    pub(super) fn errors(&mut self) -> String {
        String::from_utf8_lossy(self.end.errors.as_deref().unwrap_or_default()).trim().to_owned()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.feeding.is_abandoned.store(true, Ordering::Relaxed);
        self.processes.kill(self.group);
    }
}

/// Gives an executable its input. What it does not want to have is read all the same, since the stream is verified by its reader.
fn feed(mut source: LayerStream, input: ChildStdin, feeding: &Feeding) -> io::Result<()> {
    let mut input = Some(input);
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        feeding.is_waiting.store(true, Ordering::Relaxed);
        let read = source.read(&mut buffer);
        feeding.is_waiting.store(false, Ordering::Relaxed);
        let count = match read {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if feeding.is_abandoned.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(pipe) = &mut input else { continue };
        match give(pipe, &buffer[..count], feeding) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => input = None,
            given => given?,
        }
    }
}

fn give(pipe: &mut ChildStdin, mut bytes: &[u8], feeding: &Feeding) -> io::Result<()> {
    while !bytes.is_empty() {
        match pipe.write(bytes) {
            Ok(count) => {
                feeding.given.fetch_add(count as u64, Ordering::Relaxed);
                bytes = &bytes[count..];
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
