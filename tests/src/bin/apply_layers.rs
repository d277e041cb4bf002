//! Applies layers to directories, for who wants to look at what comes of them: one line of standard input for each, the file of the layer
//! and the directory with a tab between them, and one line of standard output with `applied` or with why not.
//!
//! `--rootless`: files belong to the user, whatever the layer says.

use std::{
    error::Error,
    io::{BufRead, Write, stdin, stdout},
};

#[cfg(target_os = "linux")]
fn apply(layer: &str, directory: &str, is_rootless: bool) -> Result<String, Box<dyn Error>> {
    use std::{fs::File, io::BufReader, path::Path};
    use wharf_archive::apply::{ApplyOptions, Ownership};

    let ownership = if is_rootless { Ownership::User } else { Ownership::Image };
    let options = ApplyOptions::new().with_ownership(ownership);
    let layer = BufReader::new(File::open(layer)?);
    Ok(match wharf_archive::apply(layer, Path::new(directory), &options) {
        Ok(_) => "applied".to_owned(),
        Err(error) => format!("refused: {}", error.report().replace('\n', "; ")),
    })
}

#[cfg(not(target_os = "linux"))]
fn apply(_: &str, _: &str, _: bool) -> Result<String, Box<dyn Error>> {
    Err("layers are applied on Linux".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut is_rootless = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--rootless" => is_rootless = true,
            _ => return Err("usage: apply_layers [--rootless] < LAYER<tab>DIRECTORY...".into()),
        }
    }
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let line = line?;
        let (layer, directory) = line.split_once('\t').ok_or("a line without a tab")?;
        writeln!(out, "{}", apply(layer, directory, is_rootless)?)?;
    }
    Ok(())
}
