//! From an error to what the user sees and the exit code.

use std::{borrow::Cow, error::Error as StdError, fmt, io, process::ExitCode};

use serde_json::json;
use wharf_content::{DigestError, Error, ErrorKind, Result};
use wharf_images::Reference;
use wharf_remotes::{RemoteError, credentials::Audience};

use crate::{
    args::Format,
    context::Context,
    output::{escape, escape_json, note},
};

/// Exit codes, which scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Other = 1,
    NotFound = 2,
    Usage = 3,
    Denied = 4,
    Mismatch = 5,
    Network = 6,
    Partly = 7,
    Local = 8,
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// A failure of a file that the user named, or of a standard stream: not of the store, so that what is said of the store does not apply.
#[derive(Debug)]
struct Outside(io::Error);

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Outside {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// As [`Error::io`], for what is not part of the store.
pub(crate) fn outside(context: impl Into<String>, source: io::Error) -> Error {
    let twin = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
    let kind = match source.kind() {
        // Somebody typed a path of which a part is a file.
        io::ErrorKind::NotADirectory => ErrorKind::InvalidArgument,
        _ => Error::io("", twin).kind(),
    };
    Error::new(kind, context).with_source(Outside(source))
}

/// An error of the libraries as one of what is not part of the store.
pub(crate) fn made_outside(error: Error) -> Error {
    let number = system_error(&error).and_then(io::Error::raw_os_error);
    match number {
        Some(number) => outside(error.to_string(), io::Error::from_raw_os_error(number)),
        None => error,
    }
}

/// Whether whoever read what is written went away.
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    error.find_source::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What went wrong with some of several things, while the others were seen to.
#[derive(Debug)]
pub(crate) struct Failures {
    format: Format,
    last: Option<Error>,
    /// How many of the things were done, and how many were not.
    done: usize,
    undone: usize,
}

impl Failures {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, last: None, done: 0, undone: 0 }
    }

    /// Tells the failure before this one; the last is told by who is given it.
    pub(crate) fn add(&mut self, error: Error) {
        self.undone += 1;
        self.push(error);
    }

    /// Adds what failed afterwards, such as to print what was done.
    pub(crate) fn afterwards<T>(&mut self, result: Result<T>) {
        if let Err(error) = result {
            self.push(error);
        }
    }

    fn push(&mut self, error: Error) {
        if let Some(before) = self.last.replace(error) {
            report(&before, self.format);
        }
    }

    /// Gives the success, or adds the failure.
    pub(crate) fn sort<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    /// Gives the success, with which one of the things is done, or adds the failure.
    pub(crate) fn done<T>(&mut self, result: Result<T>) -> Option<T> {
        self.done += usize::from(result.is_ok());
        self.sort(result)
    }

    /// Fails if anything did, and has the program exit with [`Code::Partly`] where some of the things were done and others were not.
    pub(crate) fn finish(self, context: &Context) -> Result<()> {
        match self.last {
            None => Ok(()),
            Some(error) => {
                if self.done > 0 && self.undone > 0 {
                    context.partly_done();
                }
                Err(error)
            }
        }
    }
}

/// What the error means to a script: first where it came from, then its kind.
pub(crate) fn code(error: &Error) -> Code {
    let kind = error.kind();
    if RemoteError::of(error).is_some() {
        return match kind {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Code::Denied,
            ErrorKind::FailedPrecondition => Code::Mismatch,
            ErrorKind::Unavailable | ErrorKind::ResourceExhausted => Code::Network,
            _ => Code::Other,
        };
    }
    if let Some(refused) = system_error(error) {
        let is_typed = kind == ErrorKind::InvalidArgument && refused.kind() == io::ErrorKind::NotADirectory;
        return if is_typed { Code::Usage } else { Code::Local };
    }
    // The source of a reference that was typed and cannot be read.
    if error.find_source::<DigestError>().is_some() {
        return Code::Usage;
    }
    if is_in_use(error) {
        return Code::Other;
    }
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InvalidArgument if is_of_layer(error) => Code::Mismatch,
        ErrorKind::InvalidArgument => Code::Usage,
        // A directory that was named by mistake.
        ErrorKind::FailedPrecondition if error.report().contains(" is not a wharf store: ") => Code::Usage,
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Code::Denied,
        // What has run out is what wharf allows: what the system has is told by an error of the system.
        ErrorKind::FailedPrecondition | ErrorKind::DataLoss | ErrorKind::ResourceExhausted => Code::Mismatch,
        ErrorKind::Unavailable => Code::Network,
        ErrorKind::Aborted => Code::Interrupted,
        _ => Code::Other,
    }
}

/// Whether a layer turned out to be none, which nobody typed.
fn is_of_layer(error: &Error) -> bool {
    let report = error.report();
    ["layer sha256:", "layer sha512:"].iter().any(|layer| report.contains(layer))
}

/// Whether somebody on this machine is at work on the same thing, which is no matter of the network and no mismatch.
fn is_in_use(error: &Error) -> bool {
    let words: &[&str] = match error.kind() {
        ErrorKind::Unavailable => {
            &["another process ", "another writer ", "a writer is at work", "somebody else writes to "]
        }
        ErrorKind::FailedPrecondition => &["cannot unmount "],
        _ => return false,
    };
    let report = error.report();
    words.iter().any(|words| report.contains(words))
}

/// What the system said, of the store or of what is outside of it.
fn system_error(error: &Error) -> Option<&io::Error> {
    // Whoever reads bytes that are not of their format says so by another kind. The database tells of its disk by one that is nobody's.
    let is_internal = error.kind() == ErrorKind::Internal;
    let mut next = StdError::source(error);
    while let Some(source) = next {
        let found =
            source.downcast_ref().or_else(|| source.downcast_ref().map(|outside: &Outside| &outside.0));
        if let Some(found) = found.filter(|found| is_internal || is_of_system(found)) {
            return Some(found);
        }
        next = source.source();
    }
    None
}

/// Whether the system said it. What reads a format has errors of these kinds for bytes that are not of it.
fn is_of_system(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    let is_of_format = matches!(error.kind(), UnexpectedEof | InvalidData | InvalidInput | Other);
    error.raw_os_error().is_some() || !is_of_format
}

/// What can be done when the system refused something.
fn local_hint(error: &Error, refused: &io::Error) -> Option<&'static str> {
    if matches!(refused.raw_os_error(), Some(ENFILE | EMFILE)) {
        return Some("too many files are open: raise the limit, as `ulimit -n` does");
    }
    if refused.raw_os_error() == Some(EIO) {
        return Some(
            "the disk or its file system failed, as the system's log may tell; where it works again, so does the same command",
        );
    }
    if refused.raw_os_error() == Some(EFBIG) {
        return Some(
            "no file of this file system is so large: check what the image is for, or choose a place on another one",
        );
    }
    if refused.kind() == io::ErrorKind::AddrInUse {
        return Some(
            "another program has that port: choose one with --addr HOST:PORT; port 0 is one that is free",
        );
    }
    // The archive's errors are those of where it is written to or read from, the store's have a context of their own.
    let report = error.report();
    let is_read = report.starts_with("cannot read the archive");
    let is_outside =
        is_read || error.find_source::<Outside>().is_some() || report.starts_with("cannot write the archive");
    match error.kind() {
        ErrorKind::ResourceExhausted if is_read => None,
        ErrorKind::ResourceExhausted if is_outside => Some("make room where the output goes"),
        ErrorKind::ResourceExhausted => Some(
            "make room, as `wharf gc` does, and `wharf content abort` of what `wharf content active` lists as unfinished; images of the store are intact, and the same command goes on where it was",
        ),
        ErrorKind::PermissionDenied if report.starts_with("cannot serve on ") => {
            Some("choose another port with --addr HOST:PORT: those below 1024 are the administrator's")
        }
        ErrorKind::PermissionDenied if !is_of_store(&report) => None,
        ErrorKind::PermissionDenied if refused.kind() == io::ErrorKind::ReadOnlyFilesystem => Some(
            "choose another place with --root DIR or WHARF_ROOT; a store needs to be written to, also by who reads it",
        ),
        ErrorKind::PermissionDenied => {
            Some("choose another place with --root DIR or WHARF_ROOT, or change its permissions")
        }
        _ => None,
    }
}

/// Whether it is the store that was refused, by what it says of its parts. Nothing else has any of these.
fn is_of_store(report: &str) -> bool {
    const PARTS: [&str; 10] = [
        "cannot open the store ",
        "cannot open the database ",
        "cannot tidy up ",
        "cannot commit ",
        "cannot publish ",
        "cannot open blob ",
        "cannot read blob ",
        "cannot remove blob ",
        " ingest \"",
        " lease \"",
    ];
    PARTS.iter().any(|part| report.contains(part))
}

/// Numbers of errors for which the standard library has no stable kind; equal on Linux, macOS and the BSDs.
const EIO: i32 = 5;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const EFBIG: i32 = 27;

/// What can be done, where there is something, with a command that does something with so many platforms.
fn hint(error: &Error, platforms: Platforms) -> Option<Cow<'static, str>> {
    if platforms == Platforms::One && is_unmatched(error) {
        return Some("choose one of those with --platform".into());
    }
    let hint = denied_hint(error).or_else(|| absent_hint(error));
    hint.map(Cow::Owned).or_else(|| fixed_hint(error).map(Cow::Borrowed))
}

/// With how many platforms of an image at once a command does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Platforms {
    One,
    Several,
}

/// Whether the image has other platforms than what was asked for.
fn is_unmatched(error: &Error) -> bool {
    error.report().contains("no match for platform")
}

/// What can be done where the store lacks an image whose name could be a registry's.
fn absent_hint(error: &Error) -> Option<String> {
    let text = error.to_string();
    let name = text.strip_prefix("there is no image \"")?.split('"').next()?;
    Reference::parse(name).ok()?;
    Some(format!("`wharf pull {name}` fetches it, `wharf images ls` lists those that are there"))
}

/// What can be done where a registry refuses.
fn denied_hint(error: &Error) -> Option<String> {
    let remote = RemoteError::of(error)?;
    let is_denied = matches!(remote.status, Some(401 | 403)) || error.kind() == ErrorKind::Unauthenticated;
    if !is_denied {
        return None;
    }
    let registry = Audience::new(remote.registry());
    let host = registry.host();
    if error.report().starts_with("cannot log in to ") {
        return Some(format!(
            "{host} does not know this user and password; many registries want an access token for a password"
        ));
    }
    let (needed, may) = if is_deletion(remote) {
        (Some("deleting"), "delete there")
    } else if is_write(remote, error) {
        (Some("pushing"), "push there")
    } else {
        (None, "see this")
    };
    // Whoever is not known has to be known before a permission is of any use.
    Some(match needed {
        _ if remote.has_refused_credentials() => format!(
            "the user or password that {host} was shown is wrong, or may not {may}: check --creds, or `wharf login {host}` as somebody who may"
        ),
        Some(needed) => {
            format!("{needed} there needs a permission: `wharf login {host}` as somebody who has it")
        }
        None => format!(
            "the image is private, or there is none of that name: `wharf login {host}` if you may see it"
        ),
    })
}

/// Whether something was to be deleted at the registry.
fn is_deletion(remote: &RemoteError) -> bool {
    remote.request.starts_with("DELETE ")
}

/// Whether something was to be written to the registry. A push asks before it sends.
fn is_write(remote: &RemoteError, error: &Error) -> bool {
    let report = error.report();
    // Tokens are asked for by POST, too.
    let is_of_registry = !report.contains("cannot get a token for");
    report.starts_with("cannot push ")
        || (is_of_registry
            && ["POST ", "PUT ", "PATCH "].iter().any(|method| remote.request.starts_with(method)))
}

/// Whether content was to be fetched, of which the store keeps what has come.
fn is_of_content(remote: &RemoteError, error: &Error) -> bool {
    remote.request.contains("/blobs/") && error.report().contains("cannot fetch ")
}

/// What can be done about everything else.
fn fixed_hint(error: &Error) -> Option<&'static str> {
    if let Some(remote) = RemoteError::of(error) {
        if remote.speaks_no_tls() {
            return Some("the registry seems to speak plain HTTP: try --plain-http");
        }
        if remote.is_tls {
            return Some(
                "trust its certificate with --ca-file FILE, or accept any with --insecure-skip-verify",
            );
        }
        if remote.seems_to_want_tls() {
            return Some(
                "if the registry speaks HTTPS: --tls-verify=true, or =false for any certificate, and no --plain-http",
            );
        }
        let writes = is_write(remote, error);
        return match (remote.status, error.kind()) {
            // Such a registry says what may be done instead.
            (Some(405 | 501), _) if is_deletion(remote) && remote.is_read_only() => None,
            (Some(405 | 501), _) if is_deletion(remote) => {
                Some("the registry is not set up to delete, or deletes no tag alone: then REPO@DIGEST may do")
            }
            (Some(405 | 501), _) if writes => {
                Some("the registry takes no pushes: choose another destination")
            }
            (Some(413), _) if writes => Some("send less at once: --chunk-size 5MiB"),
            (Some(507), _) if writes => Some(
                "the registry has no room: whoever runs it can make some, and pushing again sends the rest",
            ),
            (Some(507), _) => Some("the registry has no room: whoever runs it can make some"),
            (Some(404), _) => Some("check the name and the tag"),
            (Some(429), _) => {
                Some("the registry limits requests: wait, or raise --retry-times and --retry-delay")
            }
            (None, ErrorKind::Unavailable) if writes => Some(
                "check the host, the port and the network; what is at the registry stays, and pushing again sends the rest",
            ),
            (None, ErrorKind::Unavailable) if is_of_content(remote, error) => Some(
                "check the host, the port and the network; what was fetched is kept, and pulling again goes on there",
            ),
            (None, ErrorKind::Unavailable) => Some("check the host, the port and the network"),
            _ => None,
        };
    }
    if let Some(refused) = system_error(error) {
        return local_hint(error, refused);
    }
    match (code(error), error.kind()) {
        (Code::NotFound, _) if is_unmatched(error) => {
            Some("choose one of those with --platform, or take them all with --all-platforms")
        }
        (Code::NotFound, _) if error.report().contains(" is not here: ") => {
            Some("pull the image for that --platform, or with --all-platforms")
        }
        (Code::NotFound, _) if error.report().contains(" of the image is not there as a whole: ") => {
            Some("choose another --platform, or leave it out for those that are whole")
        }
        (Code::NotFound, _) if error.report().contains("not every platform of the image is there: ") => {
            Some("leave out --all-platforms for those that are whole")
        }
        (Code::Mismatch, _) if error.report().contains("strict types were asked for") => Some(
            "without --strict-types such content is kept whole and not looked into; a plugin can teach wharf the type",
        ),
        (Code::Mismatch, _) if error.report().contains(" is damaged: ") => {
            Some("`wharf verify --repair` moves damaged content of the store away and fetches it again")
        }
        (Code::Mismatch, _) if error.report().contains(" has changes of another image, ") => {
            Some("`wharf unmount --rm DIR` throws them away")
        }
        (Code::Usage, _) if error.to_string().starts_with("no image of the archive has a full name") => {
            Some("`--base-name REPOSITORY` names them, as in `--base-name ghcr.io/owner/image`")
        }
        (_, ErrorKind::AlreadyExists) if error.to_string().starts_with("names of the archive are taken") => {
            Some("--force gives these names to the images of the archive")
        }
        (_, ErrorKind::ResourceExhausted) if error.report().contains("as a decompression bomb does") => {
            Some("--max-ratio N allows more, if it is meant to grow so")
        }
        (_, ErrorKind::ResourceExhausted)
            if error.report().contains("the most that a layer may have here") =>
        {
            Some("--max-layer-size SIZE allows more, if it is meant to be so large")
        }
        (_, ErrorKind::ResourceExhausted)
            if error.report().contains("the most that an archive may have here") =>
        {
            Some("--max-size SIZE allows more, if it is meant to be so large")
        }
        (Code::NotFound, _) if is_unmounted(&error.to_string()) => {
            Some("`wharf unmount --rm DIR` removes what was left of an earlier mount")
        }
        (Code::NotFound, _) if error.to_string().starts_with("there is no image") => {
            Some("`wharf images ls` lists the images, `wharf pull` fetches one")
        }
        _ => None,
    }
}

/// Whether nothing is mounted on what was to be unmounted, and nobody has looked yet for what an earlier mount has left.
fn is_unmounted(text: &str) -> bool {
    text.ends_with(": nothing is mounted there")
        || (text.starts_with("no image of this store is mounted on ")
            && !text.contains("no changes are kept"))
}

/// Prints the error, and says with which code to exit.
pub(crate) fn report(error: &Error, format: Format) -> Code {
    report_as(error, format, code(error), Platforms::Several)
}

/// As [`report`], of an error that means something else to a script than it does by itself, and of a command that is known.
pub(crate) fn report_as(error: &Error, format: Format, code: Code, platforms: Platforms) -> Code {
    let (report, hint) = (error.report(), hint(error, platforms));
    match format {
        Format::Text => {
            let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
            note(&format!("error[{}]: {}{hint}", error.kind(), escape(&report)));
        }
        Format::Json => {
            let object = json!({
                "error": { "kind": error.kind().as_str(), "message": report, "hint": hint, "exit": code as u8 }
            });
            note(&escape_json(&object.to_string()));
        }
    }
    code
}

#[cfg(test)]
mod tests;
