//! Credentials for registries: what they are, where they come from, and the extension point by which more sources register.
//!
//! Nothing here speaks to a registry, and nothing is read before somebody asks for the credentials of a registry. What is found is shown
//! to the registry that it is for by [`crate::registry`], which binds it to that registry's origin.
//!
//! ```
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use wharf_remotes::credentials::{Audience, Credential, CredentialSource};
//!
//! /// A vault that has a password for each registry of one domain.
//! #[derive(Debug)]
//! struct Vault;
//!
//! #[async_trait]
//! impl CredentialSource for Vault {
//!     async fn credential(&self, audience: &Audience) -> wharf_content::Result<Option<Credential>> {
//!         let is_ours = audience.host().ends_with(".example.com");
//!         Ok(is_ours.then(|| Credential::password("robot", "from the vault")))
//!     }
//! }
//!
//! wharf_remotes::register_credential_source! { name: "vault", keys: ["vault"], priority: 10, make: Vault }
//! # fn main() -> wharf_content::Result<()> {
//! let sources = wharf_remotes::credentials::Sources::of(wharf_content::Catalogue::linked())?;
//! assert_eq!(sources.names(), ["vault", "auth-files"]);
//! # Ok(())
//! # }
//! ```

mod audience;
mod config_file;
mod edit;
mod environment;
mod files;
mod helper;
mod login;
mod secret;

use std::{cmp::Reverse, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use wharf_content::{Catalogue, Result, plugin::Point};

pub use audience::Audience;
pub use environment::Environment;
pub use files::{AuthFiles, Found};
pub use helper::{Helper, HelperOptions};
pub use login::AuthFile;
pub use secret::{Credential, Secret};

/// Knows credentials of registries.
#[async_trait]
pub trait CredentialSource: Debug + Send + Sync + 'static {
    /// The credential for a registry, or for a repository there; `None` where there is none, so that the next source is asked.
    ///
    /// # Errors
    /// Whatever keeps the source from telling whether there is one. The request that needs it fails.
    ///
    /// # Cancellation
    /// Nothing remains.
    async fn credential(&self, audience: &Audience) -> Result<Option<Credential>>;
}

/// The extension point of credential sources. Those with a higher priority are asked first; the files of docker and podman have 0.
#[derive(Debug)]
pub struct CredentialSources;

impl Point for CredentialSources {
    const NAME: &'static str = "credential source";
    const KEY: &'static str = "name";
    type Item = dyn CredentialSource;
}

/// Registers a [`CredentialSource`] with the catalogue: `name`, `keys` (its name), optionally `priority`, and `make`.
#[macro_export]
macro_rules! register_credential_source {
    ($($registration:tt)*) => {
        $crate::__content::__register! { $crate::credentials::CredentialSources, $($registration)* }
    };
}

crate::register_credential_source! { name: "auth-files", keys: ["auth-files"], make: AuthFiles::new(&Environment::process()) }

/// Sources in the order in which they are asked; the first that has a credential gives it.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    sources: Vec<(String, Arc<dyn CredentialSource>)>,
}

impl Sources {
    /// No source: everything is asked for anonymously.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every source of a catalogue, those of higher priority first.
    ///
    /// # Errors
    /// `Conflict` where several sources of one priority claim a name.
    pub fn of(catalogue: &Catalogue) -> Result<Self> {
        let mut entries = catalogue.entries();
        entries.retain(|entry| entry.point == CredentialSources::NAME);
        entries.sort_by_key(|entry| (Reverse(entry.priority), entry.name.clone()));
        let mut sources = Self::none();
        for key in entries.into_iter().flat_map(|entry| entry.keys) {
            let is_known = sources.sources.iter().any(|(name, _)| *name == key);
            if let Some(source) = catalogue.find::<CredentialSources>(&key)?.filter(|_| !is_known) {
                sources.sources.push((key, source));
            }
        }
        Ok(sources)
    }

    /// Asks another source after these.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, source: Arc<dyn CredentialSource>) -> Self {
        self.sources.push((name.into(), source));
        self
    }

    /// Asks the other sources after these.
    #[must_use]
    pub fn followed_by(mut self, others: Self) -> Self {
        self.sources.extend(others.sources);
        self
    }

    /// The names of the sources, in their order.
    pub fn names(&self) -> Vec<&str> {
        self.sources.iter().map(|(name, _)| name.as_str()).collect()
    }
}

#[async_trait]
impl CredentialSource for Sources {
    async fn credential(&self, audience: &Audience) -> Result<Option<Credential>> {
        for (name, source) in &self.sources {
            if let Some(credential) = source.credential(audience).await? {
                tracing::debug!(source = %name, host = audience.host(), "credentials were found");
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

/// One credential for one registry, such as that of a command's flags. Every other registry gets nothing of it.
#[derive(Clone, Debug)]
pub struct Given {
    host: String,
    credential: Credential,
}

impl Given {
    /// A credential for `host`, and for no other one.
    pub fn new(host: &str, credential: Credential) -> Self {
        Self { host: Audience::new(host).host().to_owned(), credential }
    }
}

#[async_trait]
impl CredentialSource for Given {
    async fn credential(&self, audience: &Audience) -> Result<Option<Credential>> {
        Ok((audience.host() == self.host).then(|| self.credential.clone()))
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::{ErrorKind, plugin::Registration};

    use super::*;

    fn registration(
        name: &'static str,
        priority: i32,
        host: &'static str,
    ) -> Registration<CredentialSources> {
        let source: Arc<dyn CredentialSource> = Arc::new(Given::new(host, Credential::password(name, "p")));
        Registration::shared(name, [name.to_owned()], priority, "tests", source)
    }

    #[tokio::test]
    async fn the_first_that_has_one_gives_it() {
        let catalogue = Catalogue::empty()
            .with(registration("late", -5, "a"))
            .with(registration("early", 5, "b"))
            .with(registration("b", 0, "a"))
            .with(registration("a", 0, "c"));
        let sources = Sources::of(&catalogue).expect("no conflict");
        assert_eq!(sources.names(), ["early", "a", "b", "late"]);
        let user = |host: &'static str| {
            let sources = sources.clone();
            async move {
                let found = sources.credential(&Audience::new(host)).await.expect("no source fails");
                found.and_then(|credential| credential.user().map(str::to_owned))
            }
        };
        assert_eq!(user("a").await.as_deref(), Some("b"));
        assert_eq!(user("b").await.as_deref(), Some("early"));
        assert_eq!(user("d").await, None);
        let first = Sources::none().with("flags", Arc::new(Given::new("a", Credential::password("f", "p"))));
        assert_eq!(first.followed_by(sources).names()[..2], ["flags", "early"]);

        let twice = catalogue.with(registration("a", 0, "z"));
        assert_eq!(Sources::of(&twice).expect_err("two of one name").kind(), ErrorKind::Conflict);
    }

    #[test]
    fn the_files_are_registered() {
        assert!(Sources::of(Catalogue::linked()).expect("no conflict").names().contains(&"auth-files"));
    }
}
