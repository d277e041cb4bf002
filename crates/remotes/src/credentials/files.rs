//! Credentials from the files of docker and podman: where the files are, in which order they are asked, and how a file's helpers and its
//! own entries go together. Read only; `login` writes.
//!
//! ```text
//! --authfile   REGISTRY_AUTH_FILE   DOCKER_CONFIG/config.json                        named by the user: they must be readable
//! $XDG_RUNTIME_DIR/containers/auth.json   ~/.config/containers/auth.json             podman's
//! ~/.docker/config.json                                                              docker's
//! ```
//!
//! Of one file: an entry for the repository, the registry's helper, the helper for all, the entry for the registry.

use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use wharf_content::{Error, Result, ResultExt};

use super::{
    CredentialSource,
    audience::Audience,
    config_file::{ConfigFile, HelperName},
    environment::Environment,
    helper::{Helper, HelperOptions},
    secret::Credential,
};

/// The largest file that is read, in bytes.
pub(super) const MAX_LEN: u64 = 4 * 1024 * 1024;

type Observer = dyn Fn(&str) + Send + Sync;

/// The files of docker and podman as a source of credentials. They are read anew for each question.
#[derive(Clone)]
pub struct AuthFiles {
    places: Vec<Location>,
    options: HelperOptions,
    observer: Option<Arc<Observer>>,
}

/// A file, and whether the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Location {
    path: PathBuf,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// By a flag: it must be there.
    Flag,
    /// By a variable: there may be none yet, but what is there must be right.
    Variable,
    /// Nobody named it: what is wrong with it is told, and stops nothing.
    Default,
}

/// A credential, and the file that it is from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The credential.
    pub credential: Credential,
    /// The file, which has the credential or names the helper that has it.
    pub file: PathBuf,
}

impl fmt::Debug for AuthFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFiles").field("places", &self.places).finish_non_exhaustive()
    }
}

impl AuthFiles {
    /// The files that an environment leads to, and helpers on its search path.
    pub fn new(environment: &Environment) -> Self {
        let options = HelperOptions::new(environment);
        Self { places: locations(environment), options, observer: None }
    }

    /// One file alone, which must be there; helpers are on the search path of the environment.
    pub fn only(path: impl Into<PathBuf>, environment: &Environment) -> Self {
        let places = vec![Location { path: path.into(), role: Role::Flag }];
        Self { places, options: HelperOptions::new(environment), observer: None }
    }

    /// Sets the limits of helpers, and where they are.
    #[must_use]
    pub fn with_helpers(mut self, options: HelperOptions) -> Self {
        self.options = options;
        self
    }

    /// Gives warnings to `observer`, for the user to see, and not to the log.
    #[must_use]
    pub fn with_warnings(mut self, observer: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Finds a credential, and says which file has it.
    ///
    /// # Errors
    /// Those of a file that the user named and that cannot be read; `Unauthenticated` or `Unavailable` where the helper that a file
    /// names fails.
    ///
    /// # Cancellation
    /// A helper is killed.
    pub async fn find(&self, audience: &Audience) -> Result<Option<Found>> {
        for location in &self.places {
            let Some(file) = self.load(location).await? else { continue };
            let found = self.of_file(&file, audience, location).await;
            let shown = location.path.display();
            let found =
                found.context(|| format!("cannot find the credentials for {} by {shown}", audience.host()));
            if let Some(credential) = found? {
                return Ok(Some(Found { credential, file: location.path.clone() }));
            }
        }
        Ok(None)
    }

    /// Reads a file; `None` for one that is left out.
    async fn load(&self, location: &Location) -> Result<Option<ConfigFile>> {
        let cannot = |error: Error| {
            let shown = location.path.display().to_string();
            error.context(format!("cannot read the credentials in {shown}"))
        };
        let loaded = match read(&location.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound && location.role != Role::Flag => {
                return Ok(None);
            }
            // A directory of somebody else's on the way.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory && location.role == Role::Default => {
                return Ok(None);
            }
            Err(error) => Err(Error::io("the file cannot be read", error)),
            Ok(bytes) => {
                ConfigFile::parse(&bytes).map_err(|error| Error::invalid_argument(error.to_string()))
            }
        };
        match loaded {
            Ok(file) => Ok(Some(file)),
            Err(error) if location.role == Role::Default => {
                self.warn(&format!("{}; it is left out", cannot(error).report()));
                Ok(None)
            }
            Err(error) => Err(cannot(error)),
        }
    }

    async fn of_file(
        &self,
        file: &ConfigFile,
        audience: &Audience,
        location: &Location,
    ) -> Result<Option<Credential>> {
        let wrong = |error: super::config_file::ConfigError| Error::invalid_argument(error.to_string());
        if let Some(credential) = file.of_repository(audience).map_err(wrong)? {
            return Ok(Some(credential));
        }
        if let Some(HelperName { name, .. }) = file.helper(audience) {
            match Helper::find(name, &self.options)? {
                Some(helper) => {
                    if let Some(credential) = helper.get(audience.server()).await? {
                        return Ok(Some(credential));
                    }
                }
                None => self.warn(&format!(
                    "the credential helper docker-credential-{name}, which {} names, is not installed: {} is asked without its credentials",
                    location.path.display(),
                    audience.host()
                )),
            }
        }
        file.of_registry(audience).map_err(wrong)
    }

    fn warn(&self, warning: &str) {
        if let Some(observer) = &self.observer {
            observer(warning);
        } else {
            tracing::warn!("{}", warning.escape_debug());
        }
    }
}

#[async_trait]
impl CredentialSource for AuthFiles {
    async fn credential(&self, audience: &Audience) -> Result<Option<Credential>> {
        Ok(self.find(audience).await?.map(|found| found.credential))
    }
}

/// The files in their order.
fn locations(environment: &Environment) -> Vec<Location> {
    let named = |path| Location { path, role: Role::Variable };
    let default = |path| Location { path, role: Role::Default };
    let home = environment.directory("HOME");
    let config = environment.directory("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let podman = [environment.directory("XDG_RUNTIME_DIR"), config];
    let podman =
        podman.into_iter().flatten().map(|directory| default(directory.join("containers/auth.json")));
    let mut found: Vec<Location> = environment.path("REGISTRY_AUTH_FILE").map(named).into_iter().collect();
    found.extend(environment.path("DOCKER_CONFIG").map(|directory| named(directory.join("config.json"))));
    found.extend(podman);
    found.extend(home.map(|home| default(home.join(".docker/config.json"))));
    found
}

/// Where credentials are written that nobody names a file for: where docker has them.
pub(super) fn default_file(environment: &Environment) -> Option<PathBuf> {
    let of_docker = environment.path("DOCKER_CONFIG").map(|directory| directory.join("config.json"));
    let named = environment.path("REGISTRY_AUTH_FILE").or(of_docker);
    named.or_else(|| Some(environment.directory("HOME")?.join(".docker/config.json")))
}

/// Reads a file on a thread where that may take long.
pub(super) async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MAX_LEN + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(io::Error::other(format!("it has more than {MAX_LEN} bytes")));
        }
        Ok(bytes)
    });
    work.await.unwrap_or_else(|_| Err(io::Error::other("reading was given up")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(variables: &[(&str, &str)]) -> String {
        let found = locations(&Environment::of(variables.iter().copied()));
        found.iter().map(|location| location.path.display().to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_order_of_the_files() {
        assert_eq!(shown(&[]), "");
        assert_eq!(shown(&[("HOME", "/h")]), "/h/.config/containers/auth.json /h/.docker/config.json");
        let all = [
            ("HOME", "/h"),
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_RUNTIME_DIR", "/r"),
            ("DOCKER_CONFIG", "/d"),
            ("REGISTRY_AUTH_FILE", "a.json"),
        ];
        assert_eq!(
            shown(&all),
            "a.json /d/config.json /r/containers/auth.json /c/containers/auth.json /h/.docker/config.json"
        );
        let written = |variables: &[(&str, &str)]| default_file(&Environment::of(variables.iter().copied()));
        assert_eq!(written(&all), Some("a.json".into()));
        assert_eq!(written(&all[..4]), Some("/d/config.json".into()));
        assert_eq!(written(&all[..3]), Some("/h/.docker/config.json".into()));
        assert_eq!(written(&[("HOME", "h")]), None);
    }
}
