//! The manifest of a plugin: a small JSON file that says what it decodes and how it is run (`docs/plugin-manifest.schema.json`).

use std::{fs::File, io::Read, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use rustix::fs::OFlags;
use serde::Deserialize;
use wharf_content::{Error, Result, ResultExt};

use super::PROTOCOL;
use crate::{decode::Kind, sniff};

/// The most bytes of a manifest.
const MAX_LEN: u64 = 64 << 10;

/// The most characters of a name.
const MAX_NAME_LEN: usize = 64;

/// The shortest and the longest time limit, in seconds.
const TIME_LIMITS: std::ops::RangeInclusive<f64> = 0.1..=300.0;

/// What a plugin is given of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Content {
    /// Nothing: the descriptor is enough.
    None,
    /// Text; a document that is not UTF-8 is refused.
    Text,
    /// The bytes in base64.
    Base64,
}

/// A manifest that holds what it must.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manifest {
    pub(super) name: String,
    pub(super) task: Task,
    pub(super) media_types: Vec<String>,
    pub(super) executable: String,
    pub(super) priority: i32,
    pub(super) time_limit: Option<Duration>,
}

/// What a plugin does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Task {
    /// Says what is in documents of a kind.
    Document { kind: Kind, content: Content },
    /// Takes a wrapping off layers.
    Layer(LayerTask),
}

/// How a wrapping is taken off.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LayerTask {
    /// The media type of what comes out.
    pub(super) returns: String,
    pub(super) arguments: Vec<String>,
    /// The names of variables that are handed on.
    pub(super) environment: Vec<String>,
}

#[derive(Deserialize)]
struct Version {
    protocol: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    #[serde(rename = "$schema")]
    _schema: Option<String>,
    #[serde(rename = "protocol")]
    _protocol: u32,
    name: String,
    kind: WireKind,
    media_types: Vec<String>,
    executable: String,
    #[serde(default)]
    priority: i32,
    time_limit: Option<f64>,
    content: Option<Content>,
    returns: Option<String>,
    arguments: Option<Vec<String>>,
    environment: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireKind {
    Index,
    Manifest,
    Leaf,
    Layer,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let doing = || format!("cannot read {}", path.display());
        // Opening a pipe would wait for somebody who writes into it.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path).context(doing)?;
        if !file.metadata().context(doing)?.is_file() {
            return Err(Error::invalid_argument(
                "this is not a regular file, as the manifest of a plugin is; remove it, or give it another name",
            ));
        }
        let mut bytes = Vec::new();
        file.take(MAX_LEN + 1).read_to_end(&mut bytes).context(doing)?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(Error::resource_exhausted(format!("the manifest is longer than {MAX_LEN} bytes")));
        }
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let refuse = |error: serde_json::Error| {
            Error::invalid_argument("this is not the manifest of a plugin").with_source(error)
        };
        // The version first: what else another version has is nothing to complain of.
        let Version { protocol } = serde_json::from_slice(bytes).map_err(refuse)?;
        if protocol != PROTOCOL {
            return Err(Error::not_implemented(format!(
                "the plugin speaks protocol {protocol}, and this program speaks {PROTOCOL}"
            )));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(refuse)?;
        wire.check()
    }
}

impl Wire {
    fn check(self) -> Result<Manifest> {
        if !is_name(&self.name) {
            return Err(Error::invalid_argument(format!(
                "the name {:?} is not one of a plugin: it has 1 to {MAX_NAME_LEN} of a-z, 0-9, '.', '_' and '-', and begins \
                 with a letter or digit",
                self.name
            )));
        }
        if self.media_types.is_empty() {
            return Err(Error::invalid_argument(
                "mediaTypes is empty: there is nothing that the plugin decodes",
            ));
        }
        for (at, media_type) in self.media_types.iter().enumerate() {
            if !sniff::is_media_type(media_type) {
                return Err(Error::invalid_argument(format!("{media_type:?} is not a media type")));
            }
            if self.media_types[..at].contains(media_type) {
                return Err(Error::invalid_argument(format!("mediaTypes has {media_type:?} twice")));
            }
        }
        if self.executable.contains(['/', '\0']) || matches!(self.executable.as_str(), "" | "." | "..") {
            return Err(Error::invalid_argument(format!(
                "the executable {:?} is not the name of a file beside the manifest",
                self.executable
            )));
        }
        if let Some(seconds) = self.time_limit.filter(|seconds| !TIME_LIMITS.contains(seconds)) {
            return Err(Error::invalid_argument(format!(
                "the timeLimit {seconds} is not a number of seconds from {} to {}",
                TIME_LIMITS.start(),
                TIME_LIMITS.end()
            )));
        }
        let task = self.task()?;
        Ok(Manifest {
            name: self.name,
            task,
            media_types: self.media_types,
            executable: self.executable,
            priority: self.priority,
            time_limit: self.time_limit.map(Duration::from_secs_f64),
        })
    }

    fn task(&self) -> Result<Task> {
        let kind = match self.kind {
            WireKind::Index => Kind::Index,
            WireKind::Manifest => Kind::Manifest,
            WireKind::Leaf => Kind::Leaf,
            WireKind::Layer => return self.layer().map(Task::Layer),
        };
        let members = [
            ("returns", self.returns.is_some()),
            ("arguments", self.arguments.is_some()),
            ("environment", self.environment.is_some()),
        ];
        if let Some((member, _)) = members.iter().find(|(_, is_there)| *is_there) {
            return Err(Error::invalid_argument(format!(
                "{member} is for plugins of the kind \"layer\" alone"
            )));
        }
        let content = self.content.unwrap_or(if kind.is_manifest() { Content::Text } else { Content::None });
        if kind.is_manifest() && content == Content::None {
            return Err(Error::invalid_argument(
                "content is \"none\", but the children of an index or manifest are in its content",
            ));
        }
        Ok(Task::Document { kind, content })
    }

    fn layer(&self) -> Result<LayerTask> {
        if self.content.is_some() {
            return Err(Error::invalid_argument(
                "content is not for the kind \"layer\": the executable is given the layer itself",
            ));
        }
        let returns = self.returns.clone().ok_or_else(|| {
            Error::invalid_argument("returns is missing: the media type of the layer without the wrapping")
        })?;
        if !sniff::is_media_type(&returns) {
            return Err(Error::invalid_argument(format!(
                "{returns:?}, which it returns, is not a media type"
            )));
        }
        if self.media_types.contains(&returns) {
            return Err(Error::invalid_argument(format!(
                "it returns {returns:?}, which is one of its own mediaTypes: that would never end"
            )));
        }
        let arguments = self.arguments.clone().unwrap_or_default();
        if let Some(argument) = arguments.iter().find(|argument| argument.contains('\0')) {
            return Err(Error::invalid_argument(format!("the argument {argument:?} has a NUL in it")));
        }
        let environment = self.environment.clone().unwrap_or_default();
        for (at, name) in environment.iter().enumerate() {
            if !is_variable(name) {
                return Err(Error::invalid_argument(format!(
                    "the environment {name:?} is not the name of a variable: letters, digits and '_', no digit first"
                )));
            }
            if environment[..at].contains(name) {
                return Err(Error::invalid_argument(format!("environment has {name:?} twice")));
            }
        }
        Ok(LayerTask { returns, arguments, environment })
    }
}

fn is_variable(name: &str) -> bool {
    name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_name(name: &str) -> bool {
    let ordinary = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_NAME_LEN
        && name.bytes().next().is_some_and(ordinary)
        && name.bytes().all(|byte| ordinary(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wharf_content::ErrorKind;

    use super::*;

    fn good() -> Value {
        json!({
            "protocol": 1, "name": "cookbook", "kind": "manifest", "executable": "cookbook.py",
            "mediaTypes": ["application/vnd.example.cookbook.manifest.v1+json"],
        })
    }

    fn parse(value: &Value) -> Result<Manifest> {
        Manifest::parse(value.to_string().as_bytes())
    }

    #[test]
    fn defaults_follow_the_kind() {
        let manifest = parse(&good()).expect("valid");
        assert_eq!(manifest.task, Task::Document { kind: Kind::Manifest, content: Content::Text });
        assert_eq!((manifest.priority, manifest.time_limit), (0, None));
        let mut leaf = good();
        leaf["kind"] = "leaf".into();
        leaf["timeLimit"] = 2.5.into();
        leaf["priority"] = (-3).into();
        let manifest = parse(&leaf).expect("valid");
        assert_eq!(manifest.task, Task::Document { kind: Kind::Leaf, content: Content::None });
        assert_eq!((manifest.priority, manifest.time_limit), (-3, Some(Duration::from_millis(2500))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (field, value, said) in [
            ("name", json!("Cook"), "\"Cook\""),
            ("name", json!("../x"), "\"../x\""),
            ("name", json!(""), "1 to 64"),
            ("name", json!("x".repeat(65)), "1 to 64"),
            ("mediaTypes", json!([]), "nothing that the plugin decodes"),
            ("mediaTypes", json!(["no type"]), "\"no type\""),
            ("mediaTypes", json!(["a/b", "a/b"]), "twice"),
            ("executable", json!("../x"), "beside the manifest"),
            ("executable", json!("/bin/sh"), "beside the manifest"),
            ("executable", json!(""), "beside the manifest"),
            ("executable", json!(".."), "beside the manifest"),
            ("timeLimit", json!(0), "seconds"),
            ("timeLimit", json!(301), "seconds"),
            ("content", json!("none"), "in its content"),
            ("kind", json!("layer"), "returns is missing"),
            ("kind", json!("blob"), "unknown variant"),
            ("returns", json!("a/b"), "returns is for plugins of the kind \"layer\""),
            ("arguments", json!(["-d"]), "arguments is for plugins of the kind \"layer\""),
            ("environment", json!(["HOME"]), "environment is for plugins of the kind \"layer\""),
            ("typo", json!(1), "unknown field `typo`"),
            ("priority", json!("high"), "expected i32"),
            ("protocol", json!(2), "speaks protocol 2"),
        ] {
            let mut bad = good();
            bad[field] = value;
            let error = parse(&bad).expect_err(field);
            assert!(error.report().contains(said), "{field}: {}", error.report());
        }
        for field in ["name", "mediaTypes", "executable", "kind", "protocol"] {
            let mut bad = good();
            bad.as_object_mut().expect("an object").remove(field);
            let error = parse(&bad).expect_err(field);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.report().contains(field), "{field}: {}", error.report());
        }
    }

    #[test]
    fn layers_are_unwrapped_to_something_else() {
        let layer = |field: &str, value: Value| {
            let mut layer = json!({
                "protocol": 1, "name": "unmask", "kind": "layer", "executable": "unmask",
                "mediaTypes": ["a/b+masked"], "returns": "a/b",
            });
            layer[field] = value;
            layer
        };
        let plain = parse(&layer("priority", json!(0))).expect("valid");
        let task = |arguments: &[&str], environment: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            let (arguments, environment) = (owned(arguments), owned(environment));
            Task::Layer(LayerTask { returns: "a/b".to_owned(), arguments, environment })
        };
        assert_eq!(plain.task, task(&[], &[]));
        assert_eq!(
            parse(&layer("arguments", json!(["-d", ""]))).expect("valid").task,
            task(&["-d", ""], &[])
        );
        assert_eq!(
            parse(&layer("environment", json!(["HOME", "_X1"]))).expect("valid").task,
            task(&[], &["HOME", "_X1"])
        );
        for (field, value, said) in [
            ("returns", json!("no type"), "\"no type\""),
            ("returns", json!("a/b+masked"), "never end"),
            ("returns", Value::Null, "returns is missing"),
            ("content", json!("text"), "the layer itself"),
            ("arguments", json!(["a\0b"]), "NUL"),
            ("arguments", json!("-d"), "sequence"),
            ("environment", json!(["A=B"]), "\"A=B\""),
            ("environment", json!(["1A"]), "no digit first"),
            ("environment", json!([""]), "name of a variable"),
            ("environment", json!(["A", "A"]), "twice"),
        ] {
            let error = parse(&layer(field, value)).expect_err(field);
            assert!(error.report().contains(said), "{field}: {}", error.report());
        }
    }
}
