//! Writes what makes one directory of another as a layer: `diff LOWER UPPER FILE`, where `-` for LOWER is nothing. No time in it is
//! later than `SOURCE_DATE_EPOCH` says.

#[cfg(target_os = "linux")]
fn main() -> wharf_content::Result<()> {
    use std::{fs::File, path::Path};

    use wharf_archive::Diff;
    use wharf_content::{Error, ResultExt};

    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [lower, upper, file] = &arguments[..] else {
        return Err(Error::invalid_argument("usage: diff LOWER UPPER FILE"));
    };
    let lower = (lower != "-").then(|| Path::new(lower));
    let mut diff = Diff::between(lower, Path::new(upper));
    if let Ok(seconds) = std::env::var("SOURCE_DATE_EPOCH") {
        let seconds = seconds
            .parse()
            .map_err(|_| Error::invalid_argument("SOURCE_DATE_EPOCH is no number of seconds"))?;
        diff = diff.with_max_mtime(seconds);
    }
    let written = diff.write(File::create(file).context(|| "cannot make the file")?)?;
    #[expect(clippy::print_stdout, reason = "this is what the example is for")]
    {
        println!(
            "{} entries, {} of them whiteouts, {} bytes; {} sockets left out",
            written.entries, written.whiteouts, written.len, written.sockets
        );
    }
    Ok(())
}

/// Layers are made on Linux.
#[cfg(not(target_os = "linux"))]
fn main() {}
