//! What a program that serves says on standard error: a thread of its own writes it, so that nobody who is served waits for who reads it, if anybody
//! does.

use std::{
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::json;

use crate::args::Format;

/// How many lines may wait to be written; more are counted, and told of in one line.
const MAX_WAITING: usize = 4096;
/// How long the rest may take to be written.
const GRACE: Duration = Duration::from_secs(2);

/// What takes everything that the program says, where there is such a one.
static LOG: OnceLock<Log> = OnceLock::new();

/// Hands a line to the log that takes everything; `false` where there is none, or none any more.
pub(crate) fn take(line: &str) -> bool {
    LOG.get().is_some_and(|log| log.take(format!("{line}\n").into_bytes()))
}

/// Takes lines. It waits for nobody.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    sender: SyncSender<Message>,
    missed: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    /// Whole lines, with their ends.
    Lines(Vec<u8>),
    End,
}

/// The thread. What was said before this is dropped is written, unless nobody reads it.
#[derive(Debug)]
pub(crate) struct LogThread {
    log: Log,
    ended: Receiver<()>,
}

impl LogThread {
    /// Has lines written to `output`, and in this form how many were left out.
    pub(crate) fn start(output: impl Write + Send + 'static, format: Format) -> Self {
        let (sender, lines) = mpsc::sync_channel(MAX_WAITING);
        let (end, ended) = mpsc::sync_channel(1);
        let missed = Arc::new(AtomicU64::new(0));
        let left_out = Arc::clone(&missed);
        thread::spawn(move || {
            write(&lines, output, &left_out, format);
            // First: what is said after the end must not wait for who has ended.
            drop(lines);
            drop(end);
        });
        Self { log: Log { sender, missed }, ended }
    }

    /// Has everything that the program says handed to it, and gives what takes it.
    pub(crate) fn take_all(&self) -> Log {
        LOG.get_or_init(|| self.log.clone()).clone()
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        let until = std::time::Instant::now() + GRACE;
        let mut end = Message::End;
        // There may be no room for it yet.
        while let Err(TrySendError::Full(back)) = self.log.sender.try_send(end) {
            if std::time::Instant::now() >= until {
                return;
            }
            end = back;
            thread::sleep(Duration::from_millis(10));
        }
        // Nothing is sent: it is over when the other end is dropped.
        let _ = self.ended.recv_timeout(until.saturating_duration_since(std::time::Instant::now()));
    }
}

impl Log {
    /// Has lines written, or counted where there is no room for them; `false` where nobody writes any more.
    fn take(&self, lines: Vec<u8>) -> bool {
        match self.sender.try_send(Message::Lines(lines)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Takes what is written at once for whole lines.
impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.take(bytes.to_vec()) { Ok(bytes.len()) } else { io::stderr().write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes until the end. What cannot be written is lost, and nothing else.
fn write(messages: &Receiver<Message>, mut output: impl Write, missed: &AtomicU64, format: Format) {
    while let Ok(Message::Lines(lines)) = messages.recv() {
        let missed = missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            drop(writeln!(output, "{}", left_out(missed, Timestamp::now(), format)));
        }
        drop(output.write_all(&lines));
    }
}

fn left_out(missed: u64, time: Timestamp, format: Format) -> String {
    match format {
        Format::Json => json!({ "time": time.to_string(), "left_out": missed }).to_string(),
        Format::Text => {
            format!("- - - [{time:.3}] {missed} lines are left out: the log was not read fast enough")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes nothing while it is locked.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Slow {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_that_was_said_is_written_in_order() {
        let output = Slow::default();
        let thread = LogThread::start(output.clone(), Format::Text);
        let mut log = thread.log.clone();
        assert!(log.take(b"one\n".to_vec()));
        log.write_all(b"two\nthree\n").expect("waits for nobody");
        drop(thread);
        assert_eq!(output.text(), "one\ntwo\nthree\n");
        assert!(!log.take(b"four\n".to_vec()), "nobody is there any more");
    }

    #[test]
    fn who_says_more_than_is_read_waits_for_nobody() {
        for format in [Format::Text, Format::Json] {
            let output = Slow::default();
            let thread = LogThread::start(output.clone(), format);
            let log = thread.log.clone();
            let held = output.0.lock().expect("no panic");
            for number in 0..MAX_WAITING + 100 {
                assert!(log.take(format!("{number}\n").into_bytes()));
            }
            drop(held);
            // There is room again before long.
            while log.missed.load(Ordering::Relaxed) > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(log.take(b"after\n".to_vec()));
            drop(thread);
            let text = output.text();
            let numbers: Vec<usize> = text.lines().filter_map(|line| line.parse().ok()).collect();
            assert!(numbers.len() >= MAX_WAITING && numbers.is_sorted() && text.ends_with("after\n"));
            let told = match format {
                Format::Text => "are left out",
                Format::Json => "\"left_out\":",
            };
            assert_eq!(text.matches(told).count(), 1, "{}", text.len());
        }
    }

    #[test]
    fn nobody_who_reads_keeps_nobody_from_ending() {
        let output = Slow::default();
        let thread = LogThread::start(output.clone(), Format::Text);
        let held = output.0.lock().expect("no panic");
        (0..=MAX_WAITING).for_each(|_| assert!(thread.log.take(b"line\n".to_vec())));
        drop(thread);
        drop(held);
    }
}
