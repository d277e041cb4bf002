//! Changing the entries of docker's configuration file, and nothing else in it: what is not understood stays as it was written, in its
//! place.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{ser::PrettyFormatter, value::RawValue};

use super::{audience::canonical, config_file::ConfigError};

/// An object whose members keep their order and, but for those that are set, their bytes.
#[derive(Default)]
struct Object(Vec<(String, Box<RawValue>)>);

/// A configuration file that is being changed.
#[derive(Default)]
pub(super) struct Document {
    members: Object,
}

impl Document {
    /// Reads a file; an empty one is an empty object.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let members = serde_json::from_slice(bytes);
        Ok(Self { members: members.map_err(|error| ConfigError::Json(error.line(), error.column()))? })
    }

    fn auths(&self) -> Result<Object, ConfigError> {
        let Some((_, value)) = self.members.0.iter().find(|(key, _)| key == AUTHS) else {
            return Ok(Object::default());
        };
        let auths = serde_json::from_str::<Option<Object>>(value.get());
        let auths = auths.map_err(|error| ConfigError::Json(error.line(), error.column()))?;
        Ok(auths.unwrap_or_default())
    }

    /// The keys of all entries.
    pub(super) fn keys(&self) -> Result<Vec<String>, ConfigError> {
        Ok(self.auths()?.0.into_iter().map(|(key, _)| key).collect())
    }

    /// Sets the entry of a registry to these fields; its other spellings are taken out, as they would be of another time.
    pub(super) fn set(&mut self, server: &str, fields: &[(&str, &str)]) -> Result<(), ConfigError> {
        let mut auths = self.auths()?;
        let fields: Vec<(&str, String)> =
            fields.iter().map(|(key, value)| (*key, serde_json::Value::from(*value).to_string())).collect();
        let entry = written(fields.iter().map(|(key, value)| (*key, value.as_str())), 2);
        match auths.0.iter_mut().find(|(key, _)| key == server) {
            Some((_, value)) => *value = entry,
            None => auths.0.push((server.to_owned(), entry)),
        }
        let host = canonical(server);
        auths.0.retain(|(key, _)| key == server || canonical(key) != host);
        self.put(&auths);
        Ok(())
    }

    /// Takes out the entries of a registry, however their keys are spelled, and says whether there were any.
    pub(super) fn remove(&mut self, host: &str) -> Result<bool, ConfigError> {
        let mut auths = self.auths()?;
        let before = auths.0.len();
        auths.0.retain(|(key, _)| canonical(key) != host);
        let found = auths.0.len() < before;
        if found {
            self.put(&auths);
        }
        Ok(found)
    }

    /// Takes out all entries.
    pub(super) fn clear(&mut self) {
        if self.members.0.iter().any(|(key, _)| key == AUTHS) {
            self.put(&Object::default());
        }
    }

    fn put(&mut self, auths: &Object) {
        let auths = written(auths.0.iter().map(|(key, value)| (key.as_str(), value.get())), 1);
        match self.members.0.iter_mut().find(|(key, _)| key == AUTHS) {
            Some((_, value)) => *value = auths,
            None => self.members.0.push((AUTHS.to_owned(), auths)),
        }
    }

    /// The file's new bytes, indented as docker does it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let formatter = PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        self.members.serialize(&mut serializer).expect("because what was JSON is JSON");
        bytes.push(b'\n');
        bytes
    }
}

const AUTHS: &str = "auths";

/// An object as it stands `depth` levels deep, its values as they are.
fn written<'a>(members: impl Iterator<Item = (&'a str, &'a str)>, depth: usize) -> Box<RawValue> {
    let indent = "\t".repeat(depth);
    let members: Vec<String> = members
        .map(|(key, value)| format!("\n{indent}\t{}: {value}", serde_json::Value::from(key)))
        .collect();
    let end = if members.is_empty() { String::new() } else { format!("\n{indent}") };
    let text = format!("{{{}{end}}}", members.join(","));
    RawValue::from_string(text).expect("because keys are quoted and values are JSON")
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(document: &Document) -> String {
        String::from_utf8(document.to_bytes()).expect("UTF-8")
    }

    #[test]
    fn what_is_not_understood_stays_as_it_is() {
        let before = "{\n\t\"psFormat\": \"x\",\n\t\"auths\": {\n\t\t\"z.example\": {\n\t\t\t\"auth\": \"eg==\",\n\t\t\t\"more\": 1e400\n\t\t}\n\t},\n\t\"big\": 123456789012345678901234567890,\n\t\"a\": [1,  2]\n}\n";
        let mut document = Document::parse(before.as_bytes()).expect("JSON");
        assert_eq!(text(&document), before);
        document.set("a.example", &[("auth", "YQ==")]).expect("auths");
        let added = "\n\t\t},\n\t\t\"a.example\": {\n\t\t\t\"auth\": \"YQ==\"\n\t\t}\n\t},\n\t\"big\"";
        assert_eq!(text(&document), before.replace("\n\t\t}\n\t},\n\t\"big\"", added));
        assert_eq!(document.keys().expect("auths"), ["z.example", "a.example"]);
        assert!(document.remove("a.example").expect("auths"));
        assert_eq!(text(&document), before);
        assert!(!document.remove("a.example").expect("auths"));
        document.clear();
        assert!(text(&document).contains("\"auths\": {},\n\t\"big\": 1234567"), "{}", text(&document));
    }

    #[test]
    fn an_entry_replaces_its_other_spellings() {
        let before = r#"{"auths":{"https://r.example/v1/":{"auth":"b2xk"},"r.example/repo":{},"r.example":{"auth":"b2xk"}}}"#;
        let mut document = Document::parse(before.as_bytes()).expect("JSON");
        document.set("r.example", &[]).expect("auths");
        assert_eq!(document.keys().expect("auths"), ["r.example/repo", "r.example"]);
        assert!(text(&document).contains("\"r.example\": {}\n"), "{}", text(&document));
        assert!(document.remove("r.example").expect("auths"));
        assert_eq!(document.keys().expect("auths"), ["r.example/repo"]);

        let mut empty = Document::parse(b"").expect("nothing");
        empty.clear();
        assert_eq!(text(&empty), "{}\n");
        empty.set("h\"h", &[("auth", "q\"\n")]).expect("auths");
        let read: serde_json::Value = serde_json::from_slice(&empty.to_bytes()).expect("JSON");
        assert_eq!(read["auths"]["h\"h"]["auth"], "q\"\n");
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        for bad in ["[]", "{", r#"{"auths":[]}"#, r#"{"auths":"canary"}"#] {
            let refused = Document::parse(bad.as_bytes()).and_then(|mut document| document.set("a", &[]));
            assert!(matches!(&refused, Err(ConfigError::Json(..))), "{bad}");
        }
    }
}
