//! Password files as docker-registry reads them: lines of a name and a bcrypt hash. The hash is the system's crypt(3),
//! asked through perl, which every Debian has.

use std::fs;
use std::path::Path;

use crate::failure::{Context, Result, ensure};
use crate::process::Tool;

/// How crypt(3) is told to use bcrypt with the least work; these passwords guard nothing.
const SALT: &str = "$2y$04$wharfwharfwharfwharfwe";

/// Writes a file with one user in it.
pub(crate) fn write(file: &Path, user: &str, password: &str) -> Result<()> {
    let line = format!("{user}:{}\n", bcrypt(password)?);
    fs::write(file, line).context(file.display())
}

fn bcrypt(password: &str) -> Result<String> {
    // The password goes through the environment, for it is not to be in anything that is shown.
    let script = "print crypt($ENV{PASSWORD}, $ENV{SALT})";
    let tool = Tool::new("perl").args(["-e", script]).env("PASSWORD", password).env("SALT", SALT);
    let hash = tool.text()?;
    ensure(hash.len() == 60 && hash.starts_with("$2y$04$"), || {
        "crypt(3) of this system knows no bcrypt".to_owned()
    })?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn lines_are_those_of_bcrypt() {
        let scratch = Scratch::new("passwords").unwrap();
        let file = scratch.path().join("htpasswd");
        write(&file, "me", "one").unwrap();
        let one = fs::read_to_string(&file).unwrap();
        write(&file, "me", "other").unwrap();
        let other = fs::read_to_string(&file).unwrap();
        assert!(one.starts_with("me:$2y$04$") && one.len() == 64, "{one:?}");
        assert_ne!(one, other);
    }
}
