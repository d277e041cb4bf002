//! Strict reading of JSON documents that are identified by their digest.
//!
//! Two programs must not read one document differently. So a key that stands twice in an object is refused, and so is a top-level key
//! that is one of ours but for its case, which some parsers take for it. Depth is limited by `serde_json`.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use wharf_content::{Descriptor, Error, Result};

/// The top-level keys that decide what a document is.
const DECISIVE: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "subject",
    "artifactType",
    "blobs",
];

/// The top-level keys of a document.
pub(crate) struct Keys(Vec<String>);

impl Keys {
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|k| k == key)
    }
}

/// Reads a document into `T`, after it was found to be free of ambiguity.
pub(crate) fn read<T: DeserializeOwned>(descriptor: &Descriptor, bytes: &[u8]) -> Result<(T, Keys)> {
    let refuse = |error: serde_json::Error| {
        Error::invalid_argument(format!(
            "{} is not a valid document of type {:?}",
            descriptor.digest, descriptor.media_type
        ))
        .with_source(error)
    };
    let Document(keys) = serde_json::from_slice(bytes).map_err(refuse)?;
    for key in &keys {
        if let Some(meant) = DECISIVE.iter().find(|known| known.eq_ignore_ascii_case(key) && *known != key) {
            return Err(Error::invalid_argument(format!(
                "{} has the ambiguous field {key:?}: it differs from {meant:?} only in case",
                descriptor.digest
            )));
        }
    }
    Ok((serde_json::from_slice(bytes).map_err(refuse)?, Keys(keys)))
}

struct Document(Vec<String>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Document;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
                Ok(Document(unique_keys(map)?))
            }
        }
        deserializer.deserialize_map(Top)
    }
}

fn unique_keys<'de, A: MapAccess<'de>>(mut map: A) -> Result<Vec<String>, A::Error> {
    // Objects are small as a rule; the set is for those that are not.
    const FEW: usize = 16;
    let mut keys: Vec<String> = Vec::new();
    let mut many: HashSet<String> = HashSet::new();
    while let Some(key) = map.next_key::<String>()? {
        let seen = if many.is_empty() { keys.contains(&key) } else { many.contains(&key) };
        if seen {
            let shown: String = key.chars().take(64).collect();
            return Err(de::Error::custom(format!("duplicate field {shown:?}")));
        }
        map.next_value_seed(Unique)?;
        if many.is_empty() && keys.len() == FEW {
            many.extend(keys.iter().cloned());
        }
        if !many.is_empty() {
            many.insert(key.clone());
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Goes through any value and keeps nothing.
#[derive(Clone, Copy)]
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(self)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        unique_keys(map).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<()> {
        let descriptor = Descriptor::of("application/json", text.as_bytes());
        read::<serde_json::Value>(&descriptor, text.as_bytes()).map(drop)
    }

    #[test]
    fn ambiguity_is_refused() {
        let many: Vec<String> = (0..40).map(|i| format!("\"k{i}\":{i}")).collect();
        for (text, fine) in [
            (r#"{"layers":[],"config":{"a":1},"x":[{"a":1},{"a":2}]}"#.to_owned(), true),
            (r#"{"layers":[1],"layers":[2]}"#.to_owned(), false),
            (r#"{"x":[{"a":{"b":1,"b":1}}]}"#.to_owned(), false),
            (r#"{"a":1,"\u0061":2}"#.to_owned(), false),
            (r#"{"Layers":[]}"#.to_owned(), false),
            (r#"{"nested":{"Layers":[]}}"#.to_owned(), true),
            (format!("{{{}}}", many.join(",")), true),
            (format!("{{{},\"k3\":0}}", many.join(",")), false),
            ("[]".to_owned(), false),
            (String::new(), false),
            ("{}{}".to_owned(), false),
            ("[".repeat(100_000), false),
            (format!("{{\"a\":{}", "{\"a\":".repeat(100_000)), false),
        ] {
            assert_eq!(check(&text).is_ok(), fine, "{}", &text[..text.len().min(80)]);
        }
    }
}
