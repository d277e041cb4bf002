//! Showing progress on standard error: bars on a terminal, lines or JSON objects elsewhere.

use std::{
    collections::HashMap,
    fmt,
    io::{self, IsTerminal},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use wharf_content::{Descriptor, Digest};
use wharf_images::progress::{Event, Sink, Skip};
use wharf_remotes::registry::{HttpEvent, HttpTrace};

use crate::{
    args::{Global, ProgressMode},
    output::{escape, note, size},
};

/// Progress that is being shown.
pub(crate) struct Progress {
    display: Arc<Display>,
    begun: Instant,
}

/// Which way content moves, for the words in which that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// Begins to show progress as the user wants it.
pub(crate) fn start(global: &Global) -> Progress {
    start_moving(global, Direction::In)
}

/// As [`start`], for content that goes somewhere else.
pub(crate) fn start_pushing(global: &Global) -> Progress {
    start_moving(global, Direction::Out)
}

/// For commands that move nothing: what must be told however progress is shown.
pub(crate) fn warnings(global: &Global) -> Progress {
    let mode = if global.progress == ProgressMode::Json { ProgressMode::Json } else { ProgressMode::None };
    start_as(global, Direction::In, mode)
}

fn start_moving(global: &Global, direction: Direction) -> Progress {
    let mode = match global.progress {
        ProgressMode::Auto if global.quiet || !io::stderr().is_terminal() => ProgressMode::None,
        ProgressMode::Auto => ProgressMode::Tty,
        mode => mode,
    };
    start_as(global, direction, mode)
}

fn start_as(global: &Global, direction: Direction, mode: ProgressMode) -> Progress {
    let bars = (mode == ProgressMode::Tty).then(|| Bars::new(direction));
    let display = Display { mode, direction, quiet: global.quiet, moved: AtomicU64::new(0), bars };
    Progress { display: Arc::new(display), begun: Instant::now() }
}

impl Progress {
    /// Where events go.
    pub(crate) fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.display) as Arc<dyn Sink>
    }

    /// Where what goes over the wire goes: among the progress, so that bars are not drawn over.
    pub(crate) fn http_trace(&self) -> Arc<dyn HttpTrace> {
        Arc::clone(&self.display) as Arc<dyn HttpTrace>
    }

    /// Takes the bars away, and sums up what was done.
    pub(crate) fn finish(self, is_success: bool) {
        if let Some(bars) = &self.display.bars {
            bars.clear();
        }
        let (bytes, elapsed) = (self.display.moved.load(Ordering::Relaxed), self.begun.elapsed());
        if self.display.mode == ProgressMode::Json {
            let (seconds, rate) = (elapsed.as_secs_f64(), rate(bytes, elapsed));
            note(&json!({ "event": "finished", "success": is_success, "bytes": bytes, "seconds": seconds, "bytesPerSecond": rate }).to_string());
        }
        if is_success && matches!(self.display.mode, ProgressMode::Tty | ProgressMode::Plain) {
            let moved = if self.display.direction == Direction::In { "received" } else { "sent" };
            note(&format!(
                "{moved} {} in {:.1} s ({}/s)",
                size(bytes),
                elapsed.as_secs_f64(),
                size(rate(bytes, elapsed))
            ));
        }
    }
}

impl Drop for Progress {
    /// Who is interrupted is told so on a line of its own.
    fn drop(&mut self) {
        if let Some(bars) = &self.display.bars {
            bars.clear();
        }
    }
}

fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let micros = elapsed.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

struct Display {
    mode: ProgressMode,
    direction: Direction,
    quiet: bool,
    moved: AtomicU64,
    bars: Option<Bars>,
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Display").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Sink for Display {
    fn event(&self, event: &Event<'_>) {
        if let Event::Bytes { count, .. } = event {
            self.moved.fetch_add(*count, Ordering::Relaxed);
        }
        match self.mode {
            ProgressMode::Json => {
                if let Some(object) = as_json(event) {
                    note(&object.to_string());
                }
                return;
            }
            ProgressMode::Plain => {
                if let Some(line) = as_line(event, self.direction) {
                    note(&line);
                }
            }
            _ => {
                if let Some(bars) = &self.bars {
                    bars.event(event);
                    // There is no bar of it, and everything may stand still for a while.
                    if let (Event::Throttled { .. }, Some(line)) = (event, as_line(event, self.direction)) {
                        self.say(&line);
                    }
                }
            }
        }
        if let (Some(warning), false) = (as_warning(event), self.quiet) {
            self.say(&warning);
        }
    }
}

impl HttpTrace for Display {
    fn http(&self, event: &HttpEvent<'_>) {
        let text = event.to_string();
        if self.mode == ProgressMode::Json {
            note(&json!({ "event": "http", "text": text }).to_string());
            return;
        }
        let lines: Vec<_> = text.lines().map(escape).collect();
        self.say(&lines.join("\n"));
    }
}

impl Display {
    fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.multi.suspend(|| note(text)),
            None => note(text),
        }
    }
}

/// What must be told however progress is shown.
fn as_warning(event: &Event<'_>) -> Option<String> {
    match event {
        Event::Warning { text } => Some(format!("warning: {}", escape(text))),
        Event::UnknownType { descriptor } => Some(format!(
            "warning: nothing here knows the type {}: such content is kept whole and not looked into",
            escape(&descriptor.media_type)
        )),
        _ => None,
    }
}

fn short(digest: &Digest) -> String {
    format!("{}:{}", digest.algorithm(), &digest.hex()[..12])
}

fn as_line(event: &Event<'_>, direction: Direction) -> Option<String> {
    let part = |verb: &str, descriptor: &Descriptor| {
        Some(format!("{verb:<9} {} {}", short(&descriptor.digest), size(descriptor.size)))
    };
    match event {
        Event::Resolving { name } => Some(format!("resolving {}", escape(name))),
        Event::Resolved { descriptor, .. } => Some(format!("resolved  {}", descriptor.digest)),
        Event::Started { descriptor, offset: 0 } => {
            part(if direction == Direction::In { "fetching" } else { "sending" }, descriptor)
        }
        Event::Started { descriptor, .. } => part("resuming", descriptor),
        Event::Retried { descriptor, .. } => part("retrying", descriptor),
        Event::Waiting { descriptor } => part("waiting", descriptor),
        Event::Exists { descriptor } => part("exists", descriptor),
        Event::Mounted { descriptor, .. } => part("mounted", descriptor),
        Event::Done { descriptor } => part("done", descriptor),
        Event::Skipped { descriptor, why } => Some(format!(
            "{:<9} {} {} ({})",
            "skipped",
            short(&descriptor.digest),
            size(descriptor.size),
            why.as_str()
        )),
        Event::Throttled { host, wait } => {
            Some(format!("waiting   {} asks to be left alone for {:.1} s", escape(host), wait.as_secs_f64()))
        }
        _ => None,
    }
}

fn as_json(event: &Event<'_>) -> Option<Value> {
    let part = |what: &str, descriptor: &Descriptor| json!({ "event": what, "digest": descriptor.digest, "mediaType": descriptor.media_type, "size": descriptor.size });
    let with = |mut object: Value, key: &str, value: Value| {
        object[key] = value;
        object
    };
    Some(match event {
        Event::Resolving { name } => json!({ "event": "resolving", "name": name }),
        Event::Resolved { name, descriptor } => with(part("resolved", descriptor), "name", json!(name)),
        Event::Started { descriptor, offset } => with(part("started", descriptor), "offset", json!(offset)),
        Event::Bytes { descriptor, count } => {
            json!({ "event": "bytes", "digest": descriptor.digest, "count": count })
        }
        Event::Retried { descriptor, error } => {
            with(part("retried", descriptor), "error", json!(error.report()))
        }
        Event::Waiting { descriptor } => part("waiting", descriptor),
        Event::Exists { descriptor } => part("exists", descriptor),
        Event::Mounted { descriptor, from } => with(part("mounted", descriptor), "from", json!(from)),
        Event::Done { descriptor } => part("done", descriptor),
        Event::UnknownType { descriptor } => part("unknown-type", descriptor),
        Event::Skipped { descriptor, why } => with(part("skipped", descriptor), "why", json!(why.as_str())),
        Event::Extracted { descriptor, count } => {
            json!({ "event": "extracted", "digest": descriptor.digest, "count": count })
        }
        Event::Throttled { host, wait } => {
            json!({ "event": "throttled", "host": host, "seconds": wait.as_secs_f64() })
        }
        Event::Warning { text } => json!({ "event": "warning", "text": text }),
        _ => return None,
    })
}

const EXTRACTING: &str = "extracting";

/// One bar for each transfer, and below them the time, the bytes and the rate of all.
struct Bars {
    multi: MultiProgress,
    by_digest: Mutex<HashMap<Digest, ProgressBar>>,
    /// How many bytes of each were unpacked.
    extracted: Mutex<HashMap<Digest, u64>>,
    footer: OnceLock<ProgressBar>,
    moving: &'static str,
}

impl Bars {
    fn new(direction: Direction) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let moving = if direction == Direction::In { "downloading" } else { "uploading" };
        let (by_digest, extracted) = (Mutex::default(), Mutex::default());
        Self { multi, by_digest, extracted, footer: OnceLock::new(), moving }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, ProgressBar>> {
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bar(&self, descriptor: &Descriptor) -> ProgressBar {
        let mut bars = self.lock();
        if let Some(bar) = bars.get(&descriptor.digest) {
            return bar.clone();
        }
        let style = ProgressStyle::with_template(
            "{prefix} {msg:11} [{bar:30}] {decimal_bytes:>10}/{decimal_total_bytes:<10} {decimal_bytes_per_sec:>12}",
        );
        let bar = self.multi.insert_before(self.footer(), ProgressBar::new(descriptor.size));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix(short(&descriptor.digest));
        bars.insert(descriptor.digest.clone(), bar.clone());
        bar
    }

    /// Where nothing is moved there is none.
    fn footer(&self) -> &ProgressBar {
        self.footer.get_or_init(|| {
            let style =
                ProgressStyle::with_template("{elapsed_precise} {decimal_bytes} {decimal_bytes_per_sec}");
            let footer = self.multi.add(ProgressBar::no_length());
            footer.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            footer.enable_steady_tick(Duration::from_millis(250));
            footer
        })
    }

    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Started { descriptor, offset } => {
                let bar = self.bar(descriptor);
                bar.set_message(self.moving);
                bar.set_position(*offset);
                // The rate is that of this run.
                bar.reset_eta();
            }
            Event::Bytes { descriptor, count } => {
                let bar = self.bar(descriptor);
                // It may have been retrying.
                bar.set_message(self.moving);
                bar.inc(*count);
                self.footer().inc(*count);
            }
            Event::Extracted { descriptor, count } => self.extracted(descriptor, *count),
            // Of what is for other platforms there is often much, and nobody asked for it.
            Event::Skipped { why: Skip::OtherPlatform, .. } => {}
            Event::Skipped { descriptor, .. } => self.end(descriptor, "skipped"),
            Event::Waiting { descriptor } => self.bar(descriptor).set_message("waiting"),
            Event::Retried { descriptor, .. } => self.bar(descriptor).set_message("retrying"),
            Event::Exists { descriptor } => self.end(descriptor, "exists"),
            Event::Mounted { descriptor, .. } => self.end(descriptor, "mounted"),
            Event::Done { descriptor } => self.end(descriptor, "done"),
            _ => {}
        }
    }

    /// A layer may be unpacked while it arrives; the bar shows how far it has arrived, and from then on how far it is unpacked.
    fn extracted(&self, descriptor: &Descriptor, count: u64) {
        let sum = {
            let mut extracted = self.extracted.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = extracted.entry(descriptor.digest.clone()).or_default();
            *sum = sum.saturating_add(count).min(descriptor.size);
            *sum
        };
        let bar = self.bar(descriptor);
        if bar.message() != EXTRACTING {
            if !bar.is_finished() && !bar.message().is_empty() {
                return;
            }
            bar.set_message(EXTRACTING);
            bar.reset();
        }
        bar.set_position(sum);
    }

    fn end(&self, descriptor: &Descriptor, message: &'static str) {
        let bar = self.bar(descriptor);
        bar.set_position(descriptor.size);
        bar.finish_with_message(message);
    }

    fn clear(&self) {
        if let Some(footer) = self.footer.get() {
            footer.finish_and_clear();
        }
        // A terminal that cannot be drawn on needs no clearing.
        drop(self.multi.clear());
        // What is told later, by a task that has not ended yet, draws nothing.
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::Error;

    use super::*;

    #[test]
    fn every_event_has_its_line_and_its_object() {
        let descriptor = &Descriptor::of("application/x-\u{1b}", b"content");
        let (error, name) = (&Error::not_found("lost"), "r.example/a:1");
        let digest = short(&descriptor.digest);
        let wait = Duration::from_millis(1500);
        for (event, line, what, more) in [
            (
                Event::Resolving { name },
                Some("resolving r.example/a:1"),
                "resolving",
                json!({ "name": name }),
            ),
            (
                Event::Started { descriptor, offset: 0 },
                Some("fetching  # 7 B"),
                "started",
                json!({ "offset": 0 }),
            ),
            (
                Event::Started { descriptor, offset: 3 },
                Some("resuming  # 7 B"),
                "started",
                json!({ "offset": 3 }),
            ),
            (Event::Bytes { descriptor, count: 2 }, None, "bytes", json!({ "count": 2 })),
            (
                Event::Retried { descriptor, error },
                Some("retrying  # 7 B"),
                "retried",
                json!({ "error": "lost" }),
            ),
            (Event::Waiting { descriptor }, Some("waiting   # 7 B"), "waiting", json!({ "size": 7 })),
            (Event::Exists { descriptor }, Some("exists    # 7 B"), "exists", json!({})),
            (
                Event::Mounted { descriptor, from: "a" },
                Some("mounted   # 7 B"),
                "mounted",
                json!({ "from": "a" }),
            ),
            (Event::Done { descriptor }, Some("done      # 7 B"), "done", json!({})),
            (
                Event::Skipped { descriptor, why: Skip::NotDistributable },
                Some("skipped   # 7 B (not-distributable)"),
                "skipped",
                json!({ "why": "not-distributable" }),
            ),
            (Event::Extracted { descriptor, count: 2 }, None, "extracted", json!({ "count": 2 })),
            (
                Event::Throttled { host: "r.example", wait },
                Some("waiting   r.example asks to be left alone for 1.5 s"),
                "throttled",
                json!({ "host": "r.example", "seconds": 1.5 }),
            ),
            (Event::UnknownType { descriptor }, None, "unknown-type", json!({ "size": 7 })),
            (Event::Warning { text: "x" }, None, "warning", json!({ "text": "x" })),
        ] {
            assert_eq!(
                as_line(&event, Direction::In),
                line.map(|line| line.replace('#', &digest)),
                "{event:?}"
            );
            let object = as_json(&event).expect("an object");
            assert_eq!(object["event"], what);
            for (key, value) in more.as_object().expect("an object") {
                assert_eq!(&object[key], value, "{object}");
            }
            assert!(!object.to_string().contains('\u{1b}'), "{object}");
        }
    }
}
