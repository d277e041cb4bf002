//! `wharf ls-files` and `wharf cat`: files of an image that is not unpacked.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_archive::files::{self, File, FileKind, FilesOptions};
use wharf_content::Result;

use crate::{
    args::{Format, LayerArgs, OnePlatformArgs},
    context::Context,
    exit::{self, Code},
    output::{self, escape, escape_json},
    view::LookArgs,
};

/// Arguments of `ls-files`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints type and mode, owner, size, time, the layer that the file is from (1 is the lowest) and the path: what `unpack` \
would write, with what upper layers hide left out. Paths are those where files end up, links on the way followed.\n\n\
Layers are verified while they are read. Those of a remote image flow by and are kept nowhere; with a PATH, only as many are read, newest \
first, as it takes to be certain.\n\n\
Examples:\n  wharf ls-files busybox\n  wharf ls-files --format json debian /etc/os-release"
)]
pub(crate) struct LsFiles {
    /// The file, or the directory with all that is below it; everything if left out
    #[arg(index = 2, value_name = "PATH")]
    path: Option<OsString>,
    /// Print one JSON object on each line, and no list
    #[arg(long)]
    jsonl: bool,
    #[command(flatten)]
    platforms: OnePlatformArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// Arguments of `cat`.
#[derive(Debug, Args)]
#[command(
    after_help = "Links are followed within the image. Layers are read newest first, each to its end and verified, until it is certain \
which file it is; those of a remote image flow by and are kept nowhere.\n\n\
A long file is printed while its layer is read again: where the exit code is not 0, what was printed is not to be used.\n\n\
Examples:\n  wharf cat debian /etc/os-release\n  wharf cat --platform linux/arm64 busybox /bin/busybox > busybox"
)]
pub(crate) struct Cat {
    /// The file
    #[arg(index = 2, value_name = "PATH")]
    path: OsString,
    #[command(flatten)]
    platforms: OnePlatformArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    look: LookArgs,
}

fn options(context: &Context, platforms: &OnePlatformArgs, layers: LayerArgs) -> Result<FilesOptions> {
    let options = FilesOptions::new().with_catalogue(context.catalogue.clone()).with_layers(layers.options());
    Ok(platforms.single()?.into_iter().fold(options, FilesOptions::with_selection))
}

impl LsFiles {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let options = options(context, &self.platforms, self.layers)?;
        let view = context.view(&self.look).await?;
        let (provider, path) = (view.streamed(&context.catalogue), self.path.as_ref());
        let style = match context.global.format {
            _ if self.jsonl => Style::Lines,
            Format::Json => Style::List,
            Format::Text if context.global.quiet => Style::Paths,
            Format::Text => Style::Text,
        };
        let printer = Arc::new(Mutex::new(Printer { style, text: String::new(), is_first: true }));
        let shared = Arc::clone(&printer);
        let visit = move |file: &File<'_>| lock(&shared).print(file);
        files::list(provider, &view.target, path.map(|path| path.as_bytes()), &options, visit).await?;
        lock(&printer).finish()
    }
}

impl Cat {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let options = options(context, &self.platforms, self.layers)?;
        let view = context.view(&self.look).await?;
        let provider = view.streamed(&context.catalogue);
        let is_over = Arc::new(AtomicBool::new(false));
        let is_left = Arc::clone(&is_over);
        let sink = move |bytes: &[u8]| {
            // Who has read enough, as `head` has, ends nothing: the layer is still verified.
            if is_left.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut out = io::stdout().lock();
            match out.write_all(bytes).and_then(|()| out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    is_left.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(exit::outside("cannot write to standard output", error)),
                Ok(()) => {}
            }
            Ok(())
        };
        files::cat(provider, &view.target, self.path.as_bytes(), &options, sink).await?;
        if is_over.load(Ordering::Relaxed) {
            context.exit_with(Code::Local as u8);
        }
        Ok(())
    }
}

fn lock(printer: &Mutex<Printer>) -> MutexGuard<'_, Printer> {
    printer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How files are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Text,
    Paths,
    List,
    Lines,
}

/// How much is printed at once.
const TEXT_LEN: usize = 64 * 1024;

/// Prints files as they come.
struct Printer {
    style: Style,
    text: String,
    is_first: bool,
}

impl Printer {
    fn print(&mut self, file: &File<'_>) -> Result<()> {
        let path = format!("/{}", String::from_utf8_lossy(file.path));
        match self.style {
            Style::Text => self.text.push_str(&row(file, &path)),
            Style::Paths => self.text.push_str(&format!("{}\n", escape(&path))),
            Style::Lines => {
                self.text.push_str(&format!("{}\n", escape_json(&object(file, &path).to_string())));
            }
            Style::List => {
                let before = if self.is_first { "[\n" } else { ",\n" };
                self.text.push_str(&format!("{before}  {}", escape_json(&object(file, &path).to_string())));
            }
        }
        self.is_first = false;
        if self.text.len() >= TEXT_LEN { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        output::write(std::mem::take(&mut self.text).as_bytes())
    }

    fn finish(&mut self) -> Result<()> {
        if self.style == Style::List {
            self.text.push_str(if self.is_first { "[]\n" } else { "\n]\n" });
        }
        self.flush()
    }
}

fn time(file: &File<'_>) -> Option<String> {
    let (seconds, nanoseconds) = file.mtime?;
    let time = Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?);
    Some(time.map_or_else(|_| format!("@{seconds}"), |time| time.to_string()))
}

/// A file as `ls -l` shows it.
fn row(file: &File<'_>, path: &str) -> String {
    let time = time(file).unwrap_or_else(|| "-".into());
    let size = match &file.kind {
        FileKind::CharDevice(major, minor) | FileKind::BlockDevice(major, minor) => {
            format!("{major},{minor}")
        }
        _ => file.size.to_string(),
    };
    let owner = format!("{}:{}", file.uid, file.gid);
    let mut row =
        format!("{} {owner:>9} {size:>10} {time:<20} {:>3} {}", mode(file), file.layer + 1, escape(path));
    if let FileKind::Symlink(target) = &file.kind {
        row.push_str(&format!(" -> {}", escape(&String::from_utf8_lossy(target))));
    }
    row.push('\n');
    row
}

/// Type and permissions in ten letters.
fn mode(file: &File<'_>) -> String {
    let mut text = String::from(match file.kind {
        FileKind::Directory => 'd',
        FileKind::Symlink(_) => 'l',
        FileKind::CharDevice(..) => 'c',
        FileKind::BlockDevice(..) => 'b',
        FileKind::Fifo => 'p',
        _ => '-',
    });
    for (shift, special, with, without) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = file.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, file.mode & special != 0) {
            (true, true) => with,
            (false, true) => without,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn object(file: &File<'_>, path: &str) -> Value {
    let kind = match file.kind {
        FileKind::Directory => "directory",
        FileKind::Symlink(_) => "symlink",
        FileKind::CharDevice(..) => "charDevice",
        FileKind::BlockDevice(..) => "blockDevice",
        FileKind::Fifo => "fifo",
        _ => "file",
    };
    let mut object = json!({
        "path": path,
        "type": kind,
        "mode": format!("{:04o}", file.mode),
        "uid": file.uid,
        "gid": file.gid,
        "size": file.size,
        "mtime": time(file),
        "links": file.links,
        "layer": { "number": file.layer + 1, "digest": file.digest },
    });
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    if std::str::from_utf8(file.path).is_err() {
        object["pathHex"] = json!(hex(file.path));
    }
    match &file.kind {
        FileKind::Symlink(target) => {
            object["target"] = json!(String::from_utf8_lossy(target));
            if std::str::from_utf8(target).is_err() {
                object["targetHex"] = json!(hex(target));
            }
        }
        FileKind::CharDevice(major, minor) | FileKind::BlockDevice(major, minor) => {
            object["device"] = json!([major, minor]);
        }
        _ => {}
    }
    object
}
