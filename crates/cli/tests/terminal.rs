//! The program on a terminal: what is shown there and what is not, and how it is left.

#![cfg(target_os = "linux")]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::{ffi::OsStringExt, fs::OpenOptionsExt},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use wharf_tests::{FakeServer, ImageFixture, Layer, Reply, Request, TestRegistry};

use support::{Wharf, stalling};

const PASSWORD: &str = "canary-9f";
/// Of `user:canary-9f`.
const RIGHT: &str = "Basic dXNlcjpjYW5hcnktOWY=";
const LONG: Duration = Duration::from_secs(30);

/// A program whose standard input, standard error and controlling terminal are a terminal of its own. Its standard output is that too
/// where nothing else is said.
struct Session {
    child: Child,
    master: File,
    /// Kept open, so that the terminal's modes can be looked at when the program has gone.
    slave: Option<File>,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Session {
    fn start(wharf: &Wharf, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("grants");
        unlockpt(&master).expect("unlocks");
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("a size");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let mut open = File::options();
        open.read(true).write(true).custom_flags(i32::try_from(OFlags::NOCTTY.bits()).expect("a flag"));
        let slave = open.open(std::ffi::OsString::from_vec(name.into_bytes())).expect("opens");

        let inner = wharf.command(arguments);
        // A new session is given the terminal on its standard input.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("CLICOLOR");
        let twin = || slave.try_clone().expect("another descriptor");
        command.stdin(twin()).stdout(twin()).stderr(twin());
        let child = command.spawn().expect("the program runs");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, seen) =
            (File::from(master.try_clone().expect("another descriptor")), Arc::clone(&shown));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails when the last of the other side has gone.
            while let Ok(count) = from.read(&mut buffer)
                && count > 0
            {
                seen.lock().expect("no panic").extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, master: File::from(master), slave: Some(slave), shown, reader: Some(reader) }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    /// Waits until something is shown.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let began = Instant::now();
        while !self.shown().contains(text) {
            assert!(began.elapsed() < LONG, "{text:?} is not shown: {}", self.shown());
            assert!(
                self.child.try_wait().expect("asks").is_none() || began.elapsed() < Duration::from_secs(1),
                "it has ended: {}",
                self.shown()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("types");
    }

    fn echoes(&self) -> bool {
        tcgetattr(self.slave.as_ref().expect("open")).expect("modes").local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the end, and gives how it ended and all that was shown.
    fn end(mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("asks") {
                break status;
            }
            assert!(began.elapsed() < LONG, "it does not end: {}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(self.echoes(), "what is typed next is shown");
        self.slave = None;
        self.reader.take().expect("one").join().expect("no panic");
        (status, self.shown())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Of a test that failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a terminal shows in the end, as far as the sequences go that are used, and in which line and column the cursor is.
fn screen(bytes: &str) -> (Vec<String>, usize, usize) {
    let (mut lines, mut row, mut column) = (vec![Vec::<char>::new()], 0_usize, 0_usize);
    let mut input = bytes.chars();
    while let Some(char) = input.next() {
        match char {
            '\r' => column = 0,
            '\n' => row += 1,
            '\u{1b}' => {
                assert_eq!(input.next(), Some('['), "a sequence of another kind in {bytes:?}");
                let mut number = String::new();
                let end = loop {
                    match input.next().expect("an end of the sequence") {
                        digit @ ('0'..='9' | ';' | '?') => number.push(digit),
                        end => break end,
                    }
                };
                let count = number.parse().unwrap_or(1);
                match end {
                    'A' => row = row.saturating_sub(count),
                    'B' => row += count,
                    'K' => match lines.get_mut(row) {
                        Some(line) if number == "2" => line.clear(),
                        Some(line) => line.truncate(column),
                        None => {}
                    },
                    'J' => {
                        lines.truncate(row + 1);
                        if let Some(line) = lines.get_mut(row) {
                            line.truncate(column);
                        }
                    }
                    'm' | 'h' | 'l' => {}
                    other => panic!("the sequence {number}{other} in {bytes:?}"),
                }
            }
            char => {
                lines.resize(lines.len().max(row + 1), Vec::new());
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = char;
                column += 1;
            }
        }
    }
    lines.resize(lines.len().max(row + 1), Vec::new());
    let lines = lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned());
    (lines.collect(), row, column)
}

/// A registry that lets one user in.
async fn guarded() -> FakeServer {
    FakeServer::start(|request: &Request| match request.header("authorization") {
        Some(RIGHT) => Reply::new(200, &[], "{}"),
        _ => Reply::new(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], ""),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_not_shown_while_it_is_typed() {
    let registry = guarded().await;
    let (wharf, host) = (Wharf::new(), registry.address());
    let done = tokio::task::spawn_blocking(move || {
        let mut session = Session::start(&wharf, &["login", &host]);
        session.expect("User: ");
        assert!(session.echoes(), "a name is shown");
        session.type_in("user\n");
        session.expect("Password: ");
        assert!(!session.echoes());
        session.type_in(&format!("{PASSWORD}\n"));
        session.end()
    });
    let (status, shown) = done.await.expect("no panic");
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(shown.contains("User: user") && !shown.contains(PASSWORD), "{shown}");
    let (lines, row, column) = screen(&shown);
    assert!(column == 0 && lines[row].is_empty(), "{lines:?}");
    assert!(
        lines.iter().any(|line| line == "Password:"),
        "the next line begins on a line of its own: {lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_at_the_password_leaves_the_terminal_as_it_was() {
    let registry = guarded().await;
    let (wharf, host) = (Wharf::new(), registry.address());
    let done = tokio::task::spawn_blocking(move || {
        let mut session = Session::start(&wharf, &["login", "-u", "user", &host]);
        session.expect("Password: ");
        session.type_in("half of it\u{3}");
        session.end()
    });
    let (status, shown) = done.await.expect("no panic");
    assert_eq!(status.code(), Some(130), "{shown}");
    assert!(shown.contains("interrupted") && !shown.contains("half of it"), "{shown}");
    assert!(registry.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bars_are_drawn_and_taken_away() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 300_000, 1)]);
    let name = registry.put("a/b:1", &image).await.expect("puts");
    let digest = registry.image(&name).await.expect("there").target.digest;
    let wharf = Wharf::new();
    let pulled = name.clone();
    let done = tokio::task::spawn_blocking(move || {
        Session::start(&wharf, &["pull", "--platform", "linux/amd64", &pulled]).end()
    });
    let (status, shown) = done.await.expect("no panic");
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(shown.contains("downloading") && shown.contains('['), "a bar: {shown:?}");
    let (lines, row, column) = screen(&shown);
    assert!(column == 0 && lines[row].is_empty(), "{lines:?}");
    let left: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    assert!(matches!(left[..], [summary, _] if summary.starts_with("received ")), "{left:?}");
    assert_eq!(left[1], format!("{name}@{digest}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_among_bars_leaves_lines_that_can_be_read() {
    let registry = TestRegistry::start().await;
    let image = ImageFixture::new().with("linux/amd64", vec![Layer::noise("data", 300_000, 1)]);
    let name = registry.put("a/b:1", &image).await.expect("puts");
    let stalling = stalling(&registry, &registry.image(&name).await.expect("there"), 100_000).await;
    let name = format!("{}/a/b:1", stalling.address());
    let wharf = Wharf::new();
    let done = tokio::task::spawn_blocking(move || {
        let mut session = Session::start(&wharf, &["pull", "--platform", "linux/amd64", &name]);
        session.expect("downloading");
        session.type_in("\u{3}");
        session.end()
    });
    let (status, shown) = done.await.expect("no panic");
    assert_eq!(status.code(), Some(130), "{shown}");
    let (lines, row, column) = screen(&shown);
    assert!(column == 0 && lines[row].is_empty(), "{lines:?}");
    let error = lines.iter().find(|line| line.contains("interrupted")).expect("it is told");
    assert!(error.starts_with("error["), "on a line of its own: {lines:?}");
}
