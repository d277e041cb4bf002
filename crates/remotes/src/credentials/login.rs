//! Writing credentials to docker's configuration file, or to the helper that the file names, and taking them out.
//!
//! The file is replaced whole and never readable by others; who breaks off leaves the old one. Processes of this program change it one
//! after another.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use wharf_content::{Error, Result, ResultExt};

use super::{
    audience::{Audience, canonical},
    config_file::{ConfigError, ConfigFile, encode},
    edit::Document,
    environment::Environment,
    files::{default_file, read},
    helper::{Helper, HelperOptions},
    secret::Credential,
};

/// A configuration file that credentials are written to.
#[derive(Clone, Debug)]
pub struct AuthFile {
    path: PathBuf,
    options: HelperOptions,
}

impl AuthFile {
    /// A file that need not be there yet.
    pub fn new(path: impl Into<PathBuf>, environment: &Environment) -> Self {
        Self { path: path.into(), options: HelperOptions::new(environment) }
    }

    /// The file of an environment: `REGISTRY_AUTH_FILE`, `DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
    ///
    /// # Errors
    /// `InvalidArgument` where the environment leads to no file.
    pub fn of(environment: &Environment) -> Result<Self> {
        let path = default_file(environment).ok_or_else(|| {
            Error::invalid_argument(
                "there is no place for credentials: set --authfile, REGISTRY_AUTH_FILE, DOCKER_CONFIG or HOME",
            )
        })?;
        Ok(Self::new(path, environment))
    }

    /// Sets the limits of helpers, and where they are.
    #[must_use]
    pub fn with_helpers(mut self, options: HelperOptions) -> Self {
        self.options = options;
        self
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a credential for a registry, and gives the name of the helper that has it, where one has.
    ///
    /// # Errors
    /// `InvalidArgument` for a file that is no such configuration; `NotFound` where the helper that it names is not installed; those of
    /// the helper and of the file system.
    ///
    /// # Cancellation
    /// The credential is kept or not; the file is whole.
    pub async fn store(&self, registry: &str, credential: &Credential) -> Result<Option<String>> {
        let audience = Audience::new(registry);
        let config = self.config().await?;
        if let Some(name) = config.helper(&audience) {
            self.helper(name.name)?.store(audience.server(), credential).await?;
            // docker lists there what its helper for all registries has; plain text of earlier days is not left behind.
            let is_store = name.is_store;
            self.change(move |document| {
                if is_store {
                    document.set(audience.server(), &[])
                } else {
                    document.remove(audience.host()).map(drop)
                }
            })
            .await?;
            return Ok(Some(name.name.to_owned()));
        }
        let field = match credential {
            Credential::Password { user, secret } => ("auth", encode(user, secret.reveal())),
            Credential::IdentityToken(token) => ("identitytoken", token.reveal().to_owned()),
            Credential::RegistryToken(token) => ("registrytoken", token.reveal().to_owned()),
        };
        self.change(move |document| document.set(audience.server(), &[(field.0, &field.1)])).await?;
        Ok(None)
    }

    /// Forgets the credentials of a registry, and says whether there were any.
    ///
    /// # Errors
    /// As [`AuthFile::store`].
    ///
    /// # Cancellation
    /// They are forgotten or not; the file is whole.
    pub async fn erase(&self, registry: &str) -> Result<bool> {
        let audience = Audience::new(registry);
        let config = self.config().await?;
        let mut found = false;
        if let Some(name) = config.helper(&audience) {
            let helper = self.helper(name.name)?;
            found = helper.get(audience.server()).await?.is_some();
            if found {
                helper.erase(audience.server()).await?;
            }
        }
        let has_entry = self.document().await?.keys().map_err(|error| self.wrong(&error))?;
        if has_entry.iter().any(|key| canonical(key) == audience.host()) {
            self.change(move |document| document.remove(audience.host()).map(drop)).await?;
            found = true;
        }
        Ok(found)
    }

    /// Forgets all credentials of the file and of the helpers that it names, and gives the registries, sorted.
    ///
    /// # Errors
    /// As [`AuthFile::store`].
    ///
    /// # Cancellation
    /// Some are forgotten and the others not; the file is whole.
    pub async fn erase_all(&self) -> Result<Vec<String>> {
        let config = self.config().await?;
        let mut servers: Vec<String> = Vec::new();
        for (host, name) in config.helpers().filter(|(_, name)| !name.is_empty()) {
            let (helper, audience) = (self.helper(name)?, Audience::new(host));
            if helper.get(audience.server()).await?.is_some() {
                helper.erase(audience.server()).await?;
                servers.push(canonical(host));
            }
        }
        if let Some(name) = config.store() {
            let helper = self.helper(name)?;
            for server in helper.list().await? {
                helper.erase(&server).await?;
                servers.push(canonical(&server));
            }
        }
        let keys = self.document().await?.keys().map_err(|error| self.wrong(&error))?;
        if !keys.is_empty() {
            servers.extend(keys.iter().map(|key| canonical(key)));
            self.change(|document| {
                document.clear();
                Ok(())
            })
            .await?;
        }
        servers.sort();
        servers.dedup();
        Ok(servers)
    }

    fn helper(&self, name: &str) -> Result<Helper> {
        let named = || format!("{} names a credential helper that cannot be used", self.path.display());
        Helper::find(name, &self.options).context(named)?.ok_or_else(|| {
            Error::not_found(format!(
                "the credential helper docker-credential-{name}, which {} names, is not installed",
                self.path.display()
            ))
        })
    }

    fn wrong(&self, error: &ConfigError) -> Error {
        Error::invalid_argument(format!("cannot read the credentials in {}: {error}", self.path.display()))
    }

    async fn bytes(&self) -> Result<Vec<u8>> {
        match read(&self.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            bytes => bytes.context(|| format!("cannot read the credentials in {}", self.path.display())),
        }
    }

    async fn config(&self) -> Result<ConfigFile> {
        ConfigFile::parse(&self.bytes().await?).map_err(|error| self.wrong(&error))
    }

    async fn document(&self) -> Result<Document> {
        Document::parse(&self.bytes().await?).map_err(|error| self.wrong(&error))
    }

    /// Reads the file again, changes it and writes it, all under a lock.
    async fn change(
        &self,
        change: impl FnOnce(&mut Document) -> Result<(), ConfigError> + Send + 'static,
    ) -> Result<()> {
        let file = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let cannot = || format!("cannot write the credentials to {}", file.path.display());
            // Who keeps his configuration elsewhere has a link here, which stays.
            let path = fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone());
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).context(cannot)?;
            let lock = File::open(&directory).context(cannot)?;
            // Some network file systems lock no directories; the file is whole even so.
            let _ = lock.lock();
            let before = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                before => before.context(cannot)?,
            };
            let mut document = Document::parse(&before).map_err(|error| file.wrong(&error))?;
            change(&mut document).map_err(|error| file.wrong(&error))?;
            replace(&path, &directory, &document.to_bytes()).context(cannot)
        });
        work.await.unwrap_or_else(|_| Err(Error::internal("writing the credentials was given up")))
    }
}

/// Puts a file of these bytes, readable by its owner alone, in the place of another one.
fn replace(path: &Path, directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    // One of a process of this number that was killed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The name is of no use if it does not survive what the bytes survive.
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written
}
