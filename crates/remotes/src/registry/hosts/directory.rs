//! The directory of a host: `<root>/host_port_`, `<root>/host:port` or `<root>/_default`, with a `hosts.toml` or with certificates in
//! docker's layout (containerd: `core/remotes/docker/config/hosts.go`, `config_unix.go`).
//!
//! ```text
//! certs.d/registry.example_5000_/hosts.toml
//! certs.d/registry.example/*.crt             authorities to trust
//!                         /*.cert *.key      certificates to show, each with its key
//! ```

use std::{
    fs, io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use wharf_content::{Error, Result};

use crate::registry::settings::ClientCertificate;

/// The name of the file in a host's directory.
const HOSTS_FILE: &str = "hosts.toml";

/// What the directory of a host has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A `hosts.toml`: where it is and what it says.
    Hosts(PathBuf, String),
    /// Certificates, or nothing.
    Certificates(Certificates),
}

/// Files in docker's layout.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    pub(super) ca_files: Vec<PathBuf>,
    pub(super) client: Vec<ClientCertificate>,
}

/// Looks into the directory of a host in the first root that has one. What is passed over is warned of, each time.
///
/// # Errors
/// `InvalidArgument` for what is no host and so names no directory; of the system, for what is there and cannot be read.
pub(super) fn look(roots: &[PathBuf], host: &str, warn: &dyn Fn(String)) -> Result<Found> {
    let names = names(host)?;
    for root in roots {
        for name in &names {
            let directory = root.join(name);
            match fs::metadata(&directory) {
                Ok(metadata) if metadata.is_dir() => return read(&directory, warn),
                Ok(_) => {}
                // A place of the administrator's that is closed to this user is none for this user, as with docker's clients.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    warn(format!("what {} has for hosts is passed over: {error}", root.display()));
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(cannot_read(&directory, error)),
            }
        }
    }
    Ok(Found::Certificates(Certificates::default()))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read(directory: &Path, warn: &dyn Fn(String)) -> Result<Found> {
    let file = directory.join(HOSTS_FILE);
    match fs::read_to_string(&file) {
        // An empty file is as none.
        Ok(text) if !text.is_empty() => return Ok(Found::Hosts(file, text)),
        Ok(_) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(cannot_read(&file, error)),
    }
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = match entries {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            warn(format!("the certificates in {} are passed over: {error}", directory.display()));
            return Ok(Found::Certificates(Certificates::default()));
        }
        entries => entries.map_err(|error| cannot_read(directory, error))?,
    };
    let mut files: Vec<PathBuf> =
        entries.iter().map(fs::DirEntry::path).filter(|path| path.is_file()).collect();
    files.sort();
    certificates(&files).map(Found::Certificates)
}

/// Sorts files by what they are for.
fn certificates(files: &[PathBuf]) -> Result<Certificates> {
    let mut found = Certificates::default();
    let has = |path: &PathBuf| files.contains(path);
    for file in files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.ca_files.push(file.clone()),
            Some("cert") => {
                let certificate = ClientCertificate::new(file);
                // Without one the key is in the same file.
                let key = Some(file.with_extension("key")).filter(has);
                found.client.push(key.into_iter().fold(certificate, ClientCertificate::with_key_file));
            }
            Some("key") if !has(&file.with_extension("cert")) => {
                return Err(Error::invalid_argument(format!(
                    "the key {} is of no use without its certificate {}",
                    file.display(),
                    file.with_extension("cert").display()
                )));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The names that a host's directory may have, the first first.
fn names(host: &str) -> Result<Vec<String>> {
    if !is_host(host) {
        return Err(Error::invalid_argument(format!("{host:?} is not a host with or without a port")));
    }
    let mut names = vec![host.to_owned(), "_default".to_owned()];
    if let (name, Some(port)) = split_port(host) {
        // A colon is not for every file system.
        names.insert(0, format!("{name}_{port}_"));
    }
    Ok(names)
}

/// Whether this is a name or an address with or without a port, and so nothing that leads out of a directory.
fn is_host(host: &str) -> bool {
    let (name, port) = split_port(host);
    let is_port =
        port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()));
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_label) && !name.starts_with(['-', '_']),
    };
    is_port && is_name
}

/// A host's name and its port, where it has one. The colons within brackets are none of a port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// The system's word: as a source where it does not let this user read, which is no mistake in what was configured.
pub(super) fn cannot_read(path: &Path, error: io::Error) -> Error {
    let cannot = format!("cannot read {}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error::io(cannot, error),
        _ => Error::invalid_argument(format!("{cannot}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_refusal_is_told_apart_from_mistakes() {
        let told = |kind: io::ErrorKind| cannot_read(Path::new("/x/hosts.toml"), kind.into());
        let (refused, absent) = (told(io::ErrorKind::PermissionDenied), told(io::ErrorKind::NotFound));
        assert!(refused.find_source::<io::Error>().is_some() && absent.find_source::<io::Error>().is_none());
        for error in [refused, absent] {
            assert!(error.to_string().contains("/x/hosts.toml"), "{error}");
        }
    }

    #[test]
    fn names_of_directories() {
        for (host, expected) in [
            ("docker.io", Some(&["docker.io", "_default"][..])),
            ("registry.example:5000", Some(&["registry.example_5000_", "registry.example:5000", "_default"])),
            ("[::1]", Some(&["[::1]", "_default"])),
            ("[::1]:5000", Some(&["[::1]_5000_", "[::1]:5000", "_default"])),
            ("127.0.0.1:80", Some(&["127.0.0.1_80_", "127.0.0.1:80", "_default"])),
            ("", None),
            (".", None),
            ("..", None),
            ("../x", None),
            ("a/b", None),
            ("a\\b", None),
            ("a..b", None),
            ("_default", None),
            ("a:", None),
            ("a:b", None),
            ("a:+1", None),
            ("a:99999", None),
            (":5000", None),
            ("::1", None),
            ("[../x]", None),
            ("[::1", None),
            ("a\0", None),
            ("a b", None),
        ] {
            let found = names(host).ok();
            let found: Option<Vec<_>> =
                found.as_ref().map(|names| names.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), expected, "{host:?}");
        }
    }

    #[test]
    fn the_first_directory_that_exists() {
        let root = tempfile::tempdir().expect("temporary directory");
        let roots = [root.path().join("missing"), root.path().join("user"), root.path().join("system")];
        let make = |path: &str, text: &str| {
            let directory = root.path().join(path);
            fs::create_dir_all(&directory).expect("makes");
            fs::write(directory.join(HOSTS_FILE), text).expect("writes");
        };
        let read = |host: &str| match look(&roots, host, &|_| ()).expect("reads") {
            Found::Hosts(_, text) => text,
            Found::Certificates(certificates) => {
                assert_eq!(certificates, Certificates::default());
                String::new()
            }
        };
        assert_eq!(read("a.example:5000"), "");
        for (path, text) in [
            ("system/_default", "the system's default"),
            ("system/a.example:5000", "the system's with a colon"),
            ("system/a.example_5000_", "the system's"),
            ("user/a.example_5000_", "the user's"),
        ] {
            make(path, text);
            assert_eq!(read("a.example:5000"), text);
        }
        assert_eq!(read("a.example"), "the system's default");
        fs::write(root.path().join("user/b.example"), "a file and no directory").expect("writes");
        assert_eq!(read("b.example"), "the system's default");
    }

    #[test]
    fn certificates_in_dockers_layout() {
        let root = tempfile::tempdir().expect("temporary directory");
        let directory = root.path().join("a.example");
        fs::create_dir_all(directory.join("folder.crt")).expect("makes");
        for name in ["ca.crt", "b.crt", "one.cert", "one.key", "two.cert", "README", "hosts.toml"] {
            fs::write(directory.join(name), "").expect("writes");
        }
        let at = |name: &str| directory.join(name);
        let expected = Certificates {
            ca_files: vec![at("b.crt"), at("ca.crt")],
            client: vec![
                ClientCertificate::new(at("one.cert")).with_key_file(at("one.key")),
                ClientCertificate::new(at("two.cert")),
            ],
        };
        let roots = [root.path().to_owned()];
        assert_eq!(look(&roots, "a.example", &|_| ()).expect("reads"), Found::Certificates(expected));
        fs::write(at("three.key"), "").expect("writes");
        let error = look(&roots, "a.example", &|_| ()).expect_err("a key alone");
        assert!(error.to_string().contains("three.cert"), "{error}");
    }
}
