//! Showing progress on standard error: bars on a terminal, lines or JSON objects elsewhere.

use std::{
    collections::HashMap,
    fmt,
    io::{self, IsTerminal},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use wharf_content::{Descriptor, Digest};
use wharf_images::progress::{Event, Sink};

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

fn start_moving(global: &Global, direction: Direction) -> Progress {
    let mode = match global.progress {
        ProgressMode::Auto if global.quiet || !io::stderr().is_terminal() => ProgressMode::None,
        ProgressMode::Auto => ProgressMode::Tty,
        mode => mode,
    };
    let bars = (mode == ProgressMode::Tty).then(|| Bars::new(direction));
    let display = Display { mode, direction, quiet: global.quiet, moved: AtomicU64::new(0), bars };
    Progress { display: Arc::new(display), begun: Instant::now() }
}

impl Progress {
    /// Where events go.
    pub(crate) fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.display) as Arc<dyn Sink>
    }

    /// Takes the bars away, and sums up what was done.
    pub(crate) fn finish(self, is_success: bool) {
        if let Some(bars) = &self.display.bars {
            bars.clear();
        }
        if is_success && matches!(self.display.mode, ProgressMode::Tty | ProgressMode::Plain) {
            let (bytes, elapsed) = (self.display.moved.load(Ordering::Relaxed), self.begun.elapsed());
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
                }
            }
        }
        if let (Some(warning), false) = (as_warning(event), self.quiet) {
            match &self.bars {
                Some(bars) => bars.multi.suspend(|| note(&warning)),
                None => note(&warning),
            }
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
        Event::Warning { text } => json!({ "event": "warning", "text": text }),
        _ => return None,
    })
}

/// One bar for each transfer.
struct Bars {
    multi: MultiProgress,
    by_digest: Mutex<HashMap<Digest, ProgressBar>>,
    moving: &'static str,
}

impl Bars {
    fn new(direction: Direction) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let moving = if direction == Direction::In { "downloading" } else { "uploading" };
        Self { multi, by_digest: Mutex::default(), moving }
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
        let bar = self.multi.add(ProgressBar::new(descriptor.size));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix(short(&descriptor.digest));
        bars.insert(descriptor.digest.clone(), bar.clone());
        bar
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
            Event::Bytes { descriptor, count } => self.bar(descriptor).inc(*count),
            Event::Waiting { descriptor } => self.bar(descriptor).set_message("waiting"),
            Event::Retried { descriptor, .. } => self.bar(descriptor).set_message("retrying"),
            Event::Exists { descriptor } => self.end(descriptor, "exists"),
            Event::Mounted { descriptor, .. } => self.end(descriptor, "mounted"),
            Event::Done { descriptor } => self.end(descriptor, "done"),
            _ => {}
        }
    }

    fn end(&self, descriptor: &Descriptor, message: &'static str) {
        let bar = self.bar(descriptor);
        bar.set_position(descriptor.size);
        bar.finish_with_message(message);
    }

    fn clear(&self) {
        // A terminal that cannot be drawn on needs no clearing.
        drop(self.multi.clear());
    }
}
