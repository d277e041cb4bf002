//! Where configuration lies on a system, and reading `registries.conf` with its drop-ins (containers-registries.conf(5),
//! containers-registries.conf.d(5)).
//!
//! The environment is a parameter: nobody here asks the process for it.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use wharf_content::{Error, Result};

use super::{
    directory::cannot_read,
    registries_conf::{self, Registry},
};

/// The directories of hosts that the system has, after the user's own.
const SYSTEM: [&str; 3] = ["/etc/wharf/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"];

/// The directories of hosts of a user and of the system: `$XDG_CONFIG_HOME/wharf/certs.d`, `/etc/wharf/certs.d`,
/// `/etc/containerd/certs.d`, `/etc/docker/certs.d`.
pub fn default_hosts_dirs(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let user = user_config(&variable).map(|directory| directory.join("wharf/certs.d"));
    user.into_iter().chain(SYSTEM.map(PathBuf::from)).collect()
}

/// The directory of a user's configuration.
fn user_config(variable: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))
}

/// Where `registries.conf` is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesConf {
    named: Option<PathBuf>,
    user: Option<PathBuf>,
    system: Option<PathBuf>,
}

impl RegistriesConf {
    /// Reads nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads this file, which must exist, and no drop-ins.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { named: Some(path.into()), ..Self::default() }
    }

    /// Reads `registries.conf` and `registries.conf.d/*.conf` in the directory of a user, where there is such a file, else in that of the
    /// system, and then the drop-ins of both.
    pub fn directories(user: Option<PathBuf>, system: impl Into<PathBuf>) -> Self {
        Self { named: None, user, system: Some(system.into()) }
    }

    /// Reads what podman and skopeo read: the file that `CONTAINERS_REGISTRIES_CONF` names, and nothing where that is empty; else by
    /// [`directories`](Self::directories) `$HOME/.config/containers` and `/etc/containers`.
    pub fn standard(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        match variable("CONTAINERS_REGISTRIES_CONF") {
            Some(path) if path.is_empty() => Self::none(),
            Some(path) => Self::file(path),
            None => {
                let home = variable("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
                Self::directories(home.map(|home| home.join(".config/containers")), "/etc/containers")
            }
        }
    }

    /// Reads all there is.
    ///
    /// # Errors
    /// `InvalidArgument` that names the file, also for one that was named and is not there; `PermissionDenied`.
    pub(super) fn load(&self) -> Result<Vec<Registry>> {
        let mut registries = Vec::new();
        if let Some(file) = &self.named {
            let text = fs::read_to_string(file).map_err(|error| cannot_read(file, error))?;
            add(&mut registries, file, &text)?;
            return Ok(registries);
        }
        let user = self.user.as_ref().map(|directory| (directory, directory.join("registries.conf")));
        let own = match &user {
            Some((_, file)) => optional(file)?,
            None => None,
        };
        let mut drop_ins = Vec::new();
        if let (Some((directory, file)), Some(text)) = (&user, own) {
            add(&mut registries, file, &text)?;
            drop_ins.push(*directory);
        } else {
            if let Some(directory) = &self.system {
                let file = directory.join("registries.conf");
                if let Some(text) = optional(&file)? {
                    add(&mut registries, &file, &text)?;
                }
            }
            drop_ins.extend(&self.system);
            drop_ins.extend(&self.user);
        }
        for directory in drop_ins {
            for file in drop_in_files(&directory.join("registries.conf.d"))? {
                if let Some(text) = optional(&file)? {
                    add(&mut registries, &file, &text)?;
                }
            }
        }
        Ok(registries)
    }
}

fn add(registries: &mut Vec<Registry>, file: &Path, text: &str) -> Result<()> {
    let read = registries_conf::parse(text, file)
        .map_err(|why| Error::invalid_argument(format!("cannot use {}: {why}", file.display())))?;
    registries_conf::merge(registries, read);
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A file that need not be there.
fn optional(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(cannot_read(file, error)),
    }
}

/// The drop-ins of a directory, in the order of their names.
fn drop_in_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        entries => entries.map_err(|error| cannot_read(directory, error))?,
    };
    let paths = entries.iter().map(fs::DirEntry::path);
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use wharf_content::ErrorKind;

    use super::*;

    fn environment<'a>(pairs: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    }

    #[test]
    fn the_places_of_hosts() {
        for (environment_pairs, first) in [
            (&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")][..], Some("/x/wharf/certs.d")),
            (&[("HOME", "/h")], Some("/h/.config/wharf/certs.d")),
            (&[("XDG_CONFIG_HOME", "relative"), ("HOME", "/h")], Some("/h/.config/wharf/certs.d")),
            (&[], None),
        ] {
            let expected: Vec<PathBuf> = first.into_iter().chain(SYSTEM).map(PathBuf::from).collect();
            assert_eq!(default_hosts_dirs(environment(environment_pairs)), expected);
        }
    }

    #[test]
    fn the_place_of_registries_conf() {
        let standard = |pairs: &[(&str, &str)]| RegistriesConf::standard(environment(pairs));
        assert_eq!(
            standard(&[("CONTAINERS_REGISTRIES_CONF", "/a.conf"), ("HOME", "/h")]),
            RegistriesConf::file("/a.conf")
        );
        assert_eq!(standard(&[("CONTAINERS_REGISTRIES_CONF", ""), ("HOME", "/h")]), RegistriesConf::none());
        assert_eq!(
            standard(&[("HOME", "/h")]),
            RegistriesConf::directories(Some("/h/.config/containers".into()), "/etc/containers")
        );
        assert_eq!(standard(&[]), RegistriesConf::directories(None, "/etc/containers"));
    }

    #[test]
    fn files_and_drop_ins_in_order() {
        let root = tempfile::tempdir().expect("temporary directory");
        let (user, system) = (root.path().join("user"), root.path().join("system"));
        let conf = RegistriesConf::directories(Some(user), &system);
        assert_eq!(conf.load().expect("nothing is there"), []);
        let write = |path: &str, prefix: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("makes");
            fs::write(path, format!("[[registry]]\nprefix = '{prefix}'\n")).expect("writes");
        };
        let loaded = || -> Vec<(String, String)> {
            let registries = conf.load().expect("reads");
            let name = |registry: &Registry| {
                let file = registry.file.strip_prefix(root.path()).expect("within");
                (registry.prefix.clone(), file.display().to_string())
            };
            registries.iter().map(name).collect()
        };
        let pair = |prefix: &str, file: &str| (prefix.to_owned(), file.to_owned());
        write("system/registries.conf", "a.example");
        write("system/registries.conf.d/20.conf", "b.example");
        write("system/registries.conf.d/10.conf", "a.example");
        write("system/registries.conf.d/30.txt", "not.example");
        write("user/registries.conf.d/00.conf", "c.example");
        assert_eq!(
            loaded(),
            [
                pair("a.example", "system/registries.conf.d/10.conf"),
                pair("b.example", "system/registries.conf.d/20.conf"),
                pair("c.example", "user/registries.conf.d/00.conf"),
            ]
        );
        write("user/registries.conf", "d.example");
        assert_eq!(
            loaded(),
            [pair("d.example", "user/registries.conf"), pair("c.example", "user/registries.conf.d/00.conf")]
        );
    }

    #[test]
    fn errors_name_the_file() {
        let root = tempfile::tempdir().expect("temporary directory");
        let file = root.path().join("registries.conf");
        let error = RegistriesConf::file(&file).load().expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("registries.conf"), "{error}");
        fs::write(&file, "[registries.block]\nregistries = []").expect("writes");
        for conf in [RegistriesConf::file(&file), RegistriesConf::directories(None, root.path())] {
            let error = conf.load().expect_err("version 1");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        }
    }
}
