//! The configuration file of docker, `config.json`, and that of podman, `auth.json`, as far as it is about credentials. Read only.
//!
//! ```text
//! { "auths":       { "<key>": { "auth": base64("user:password") } },     or "username" and "password", "identitytoken", "registrytoken"
//!   "credHelpers": { "<host>": "<helper>" },
//!   "credsStore":  "<helper>" }
//! ```
//!
//! No message quotes the file: whatever in it is no JSON may be a password.

use std::{collections::BTreeMap, fmt};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;

use super::{
    audience::{Audience, canonical},
    secret::Credential,
};

/// What a file says.
#[derive(Default, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(default, rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigFile").field("store", &self.store).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
    #[serde(default)]
    registrytoken: Option<String>,
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("it is not the JSON that it must be, from line {0}, column {1} on")]
    Json(usize, usize),
    #[error("the auth of {0:?} is not base64 of user:password")]
    Auth(String),
    #[error("{0:?} has a user name but no password")]
    Password(String),
}

/// Who is asked for a registry's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HelperName<'a> {
    pub(super) name: &'a str,
    /// Whether it is the one for all registries that have none of their own.
    pub(super) is_store: bool,
}

impl ConfigFile {
    /// Reads a file; an empty one says nothing.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(bytes).map_err(|error| ConfigError::Json(error.line(), error.column()))
    }

    /// The helper that has the credentials of a registry: its own, else the one of all.
    pub(super) fn helper(&self, audience: &Audience) -> Option<HelperName<'_>> {
        let own = self.helpers.iter().flatten().find(|(key, _)| canonical(key) == audience.host());
        let own = own.map(|(_, name)| HelperName { name, is_store: false });
        let store = self.store.as_deref().map(|name| HelperName { name, is_store: true });
        own.or(store).filter(|helper| !helper.name.is_empty())
    }

    /// The helper for all registries.
    pub(super) fn store(&self) -> Option<&str> {
        self.store.as_deref().filter(|name| !name.is_empty())
    }

    /// The registries that have a helper of their own, with its name.
    pub(super) fn helpers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.helpers.iter().flatten().map(|(host, name)| (host.as_str(), name.as_str()))
    }

    /// What the file itself has for a repository, or what is above it, but not for the registry.
    pub(super) fn of_repository(&self, audience: &Audience) -> Result<Option<Credential>, ConfigError> {
        audience.repository_keys().iter().find_map(|key| self.under(key).transpose()).transpose()
    }

    /// What the file itself has for a registry.
    pub(super) fn of_registry(&self, audience: &Audience) -> Result<Option<Credential>, ConfigError> {
        self.under(audience.host())
    }

    /// What is under a key however it is written; as it is written here goes before the others.
    fn under(&self, wanted: &str) -> Result<Option<Credential>, ConfigError> {
        let auths = self.auths.iter().flatten();
        let mut found: Vec<_> = auths.filter(|(key, _)| canonical(key) == wanted).collect();
        found.sort_by_key(|(key, _)| key.as_str() != wanted);
        found.into_iter().find_map(|(key, entry)| entry.as_ref()?.credential(key).transpose()).transpose()
    }
}

impl Entry {
    /// docker leaves an entry without anything for a registry whose credentials a helper has.
    fn credential(&self, key: &str) -> Result<Option<Credential>, ConfigError> {
        let given = |field: &Option<String>| field.clone().filter(|value| !value.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(Credential::registry_token(token)));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credential::identity_token(token)));
        }
        if let Some(auth) = given(&self.auth) {
            return decode(&auth).map(Some).ok_or_else(|| ConfigError::Auth(key.to_owned()));
        }
        match (given(&self.username), given(&self.password)) {
            (user, Some(password)) => Ok(Some(Credential::password(user.unwrap_or_default(), password))),
            (Some(_), None) => Err(ConfigError::Password(key.to_owned())),
            (None, None) => Ok(None),
        }
    }
}

fn decode(auth: &str) -> Option<Credential> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text = String::from_utf8(ENGINE.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // docker's own reader takes them off (docker/cli: `cli/config/configfile/file.go`).
    Some(Credential::password(user, password.trim_end_matches('\0')))
}

/// What the file has for a user and a password.
pub(super) fn encode(user: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(json: &str, host: &str, repository: &str) -> Result<Option<Credential>, ConfigError> {
        let file = ConfigFile::parse(json.as_bytes())?;
        let audience = Audience::new(host).with_repository(repository);
        match file.of_repository(&audience)? {
            Some(credential) => Ok(Some(credential)),
            None => file.of_registry(&audience),
        }
    }

    #[test]
    fn entries_in_every_form() {
        let user = |user: &str| Some(Credential::password(user, "p:w"));
        let auth = |user: &str| encode(user, "p:w");
        for (entry, expected) in [
            (format!(r#"{{"auth":"{}"}}"#, auth("u")), user("u")),
            (format!(r#"{{"auth":"{}"}}"#, auth("u").trim_end_matches('=')), user("u")),
            (format!(r#"{{"auth":"{}"}}"#, encode("u", "p:w\0")), user("u")),
            (format!(r#"{{"auth":"{}","username":"v","password":"x"}}"#, auth("u")), user("u")),
            (r#"{"username":"u","password":"p:w"}"#.into(), user("u")),
            (r#"{"auth":"","username":"u","password":"p:w","email":"e","more":{}}"#.into(), user("u")),
            (r#"{"identitytoken":"t","auth":"dTo="}"#.into(), Some(Credential::identity_token("t"))),
            (r#"{"registrytoken":"t","identitytoken":"i"}"#.into(), Some(Credential::registry_token("t"))),
            ("{}".into(), None),
            ("null".into(), None),
        ] {
            let json = format!(r#"{{"auths":{{"r.example":{entry}}},"psFormat":"x"}}"#);
            assert_eq!(found(&json, "r.example", "a"), Ok(expected), "{entry}");
        }
        for (entry, error) in [
            (r#"{"auth":"Y2FuYXJ5"}"#, ConfigError::Auth("r.example".into())),
            (r#"{"auth":"***"}"#, ConfigError::Auth("r.example".into())),
            (r#"{"username":"u"}"#, ConfigError::Password("r.example".into())),
            (r#""canary""#, ConfigError::Json(1, 30)),
        ] {
            let json = format!(r#"{{"auths":{{"r.example":{entry}}}}}"#);
            assert_eq!(found(&json, "r.example", "a"), Err(error), "{entry}");
        }
        for empty in ["", " \n", "{}", r#"{"auths":null,"credHelpers":null}"#] {
            assert_eq!(found(empty, "r.example", "a"), Ok(None), "{empty:?}");
        }
    }

    #[test]
    fn keys_are_matched_as_docker_and_podman_write_them() {
        let keys = [
            "https://index.docker.io/v1/",
            "quay.io",
            "quay.io/owner",
            "quay.io/owner/image",
            "https://two.example/v1/",
            "two.example",
        ];
        let auths: Vec<String> =
            keys.iter().map(|key| format!(r#""{key}":{{"auth":"{}"}}"#, encode(key, "p"))).collect();
        let json = format!(r#"{{"auths":{{{}}}}}"#, auths.join(","));
        for (host, repository, expected) in [
            ("docker.io", "library/x", Some("https")),
            ("registry-1.docker.io", "", Some("https")),
            ("quay.io", "owner/image", Some("quay.io/owner/image")),
            ("quay.io", "owner/image/below", Some("quay.io/owner/image")),
            ("quay.io", "owner/other", Some("quay.io/owner")),
            ("quay.io", "owner2/image", Some("quay.io")),
            ("quay.io:5000", "owner/image", None),
            ("evil-quay.io", "owner/image", None),
            ("two.example", "a", Some("two.example")),
        ] {
            let credential = found(&json, host, repository).expect("a good file");
            let user = credential.as_ref().and_then(Credential::user);
            assert_eq!(user, expected, "{host} {repository}");
        }
    }

    #[test]
    fn helpers_of_registries_and_of_all() {
        let json = r#"{"credHelpers":{"gcr.io":"gcloud","https://index.docker.io/v1/":"hub","no.example":""},"credsStore":"desktop"}"#;
        let file = ConfigFile::parse(json.as_bytes()).expect("a good file");
        let helper = |host: &str| {
            file.helper(&Audience::new(host)).map(|helper| (helper.name.to_owned(), helper.is_store))
        };
        assert_eq!(helper("gcr.io"), Some(("gcloud".into(), false)));
        assert_eq!(helper("docker.io"), Some(("hub".into(), false)));
        assert_eq!(helper("eu.gcr.io"), Some(("desktop".into(), true)));
        assert_eq!(helper("no.example"), None);
        assert_eq!(ConfigFile::default().helper(&Audience::new("gcr.io")), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in any::<Vec<u8>>(), auth in "[A-Za-z0-9+/=*]{0,12}") {
            drop(ConfigFile::parse(&bytes));
            let json = format!(r#"{{"auths":{{"h":{{"auth":"{auth}"}}}}}}"#);
            drop(found(&json, "h", "a"));
        }
    }
}
