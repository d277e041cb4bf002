//! Strict reading of JSON documents that are identified by their digest.
//!
//! Two programs must not read one document differently. So a key that stands twice in an object is refused at any depth, and so is a
//! key that is one of ours but for its case, which some parsers take for it: at the top, in a descriptor and in a platform, the three
//! objects whose keys decide something. Depth is limited by `serde_json`, and every string is checked to be UTF-8.
//!
//! Nothing is kept but which of the top-level keys that matter were there; the typed view is read by a second pass.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use wharf_content::{Descriptor, Error, Result};

/// The top-level keys that decide what a document is.
const DOCUMENT: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "history",
    "signatures",
    "subject",
    "artifactType",
    "blobs",
];

/// The top-level keys whose values are descriptors, and those whose values are arrays of them.
const ONE: &[&str] = &["config", "subject"];
const SEVERAL: &[&str] = &["layers", "manifests", "blobs"];

/// The keys that decide what a descriptor points at.
const PART: &[&str] =
    &["mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"];

/// The keys of a platform.
const PLATFORM: &[&str] = &["architecture", "os", "os.version", "os.features", "variant"];

/// The top-level keys of a document that decide what it is.
pub(crate) struct Keys(Vec<&'static str>);

impl Keys {
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.0.contains(&key)
    }
}

/// Reads a document into `T`, after it was found to be free of ambiguity.
pub(crate) fn read<T: DeserializeOwned>(descriptor: &Descriptor, bytes: &[u8]) -> Result<(T, Keys)> {
    let Document(keys) = view(descriptor, bytes)?;
    Ok((view(descriptor, bytes)?, keys))
}

/// Fails where `text` is not JSON, or has a key twice in one object. Nothing else is asked of it: for documents of which we know no field.
pub(crate) fn refuse_duplicates(text: &str) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Value(Place::Free).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Reads what describes itself and refers to nothing, so that no ambiguity does harm.
pub(crate) fn view<'a, T: Deserialize<'a>>(descriptor: &Descriptor, bytes: &'a [u8]) -> Result<T> {
    let read = if is_object(bytes) {
        serde_json::from_slice(bytes)
    } else {
        Err(de::Error::custom("it is not a JSON object"))
    };
    read.map_err(|error: serde_json::Error| {
        let media_type = crate::reference::excerpt(&descriptor.media_type);
        Error::invalid_argument(format!("{} is not a valid document of type {media_type}", descriptor.digest))
            .with_source(error)
    })
}

/// Whether the text begins as an object does. The fields of a structure would be taken from an array, too, in their order.
pub(crate) fn is_object(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

struct Document(Keys);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Top;
        impl<'de> Visitor<'de> for Top {
            type Value = Document;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
                let mut keys = Vec::new();
                object(map, Place::Document, |key| {
                    keys.extend(DOCUMENT.iter().find(|known| **known == key));
                })?;
                Ok(Document(Keys(keys)))
            }
        }
        deserializer.deserialize_map(Top)
    }
}

/// A key, borrowed from the document unless it has escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Where in a document a value stands, by which the keys that decide something are known.
#[derive(Clone, Copy)]
enum Place {
    Document,
    Parts,
    /// A descriptor.
    Part,
    Platform,
    /// Names of the author's choice, such as annotations, and what we do not read.
    Free,
}

impl Place {
    fn decisive(self) -> &'static [&'static str] {
        match self {
            Self::Document => DOCUMENT,
            Self::Part => PART,
            Self::Platform => PLATFORM,
            Self::Parts | Self::Free => &[],
        }
    }

    /// The place of the value of `key`.
    fn below(self, key: &str) -> Self {
        match self {
            Self::Document if ONE.contains(&key) => Self::Part,
            Self::Document if SEVERAL.contains(&key) => Self::Parts,
            Self::Part if key == "platform" => Self::Platform,
            _ => Self::Free,
        }
    }
}

/// Goes through an object, and tells each of its keys.
fn object<'de, A: MapAccess<'de>>(
    mut map: A,
    place: Place,
    mut tell: impl FnMut(&str),
) -> Result<(), A::Error> {
    let mut seen = Seen::default();
    while let Some(Key(key)) = map.next_key()? {
        let confused = place.decisive().iter().find(|known| is_confusable(&key, known));
        if let Some(known) = confused {
            let shown = shorten(&key);
            return Err(de::Error::custom(format!(
                "ambiguous field {shown:?}: it differs from {known:?} only in case"
            )));
        }
        tell(&key);
        let below = place.below(&key);
        if let Some(again) = seen.insert(key) {
            return Err(de::Error::custom(format!("duplicate field {:?}", shorten(&again))));
        }
        map.next_value_seed(Value(below))?;
    }
    Ok(())
}

/// Whether a parser that ignores case takes `key` for `known`. Go's folds two letters outside of ASCII as well.
fn is_confusable(key: &str, known: &str) -> bool {
    if key.is_ascii() {
        return key.len() == known.len() && key != known && key.eq_ignore_ascii_case(known);
    }
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(known.chars().map(|letter| letter.to_ascii_lowercase()))
}

fn shorten(key: &str) -> String {
    key.chars().take(64).collect()
}

/// The keys of one object. It has few as a rule; the set is for those that have many.
#[derive(Default)]
struct Seen<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Seen<'de> {
    const FEW: usize = 16;

    /// Takes a key, and gives it back where it was there before.
    fn insert(&mut self, key: Cow<'de, str>) -> Option<Cow<'de, str>> {
        if self.few.contains(&key) || self.many.contains(&key) {
            return Some(key);
        }
        if self.few.len() < Self::FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        None
    }
}

/// Goes through any value and keeps nothing.
#[derive(Clone, Copy)]
struct Value(Place);

impl<'de> DeserializeSeed<'de> for Value {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
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
        let below = match self.0 {
            // The typed view would take the elements of an array for the fields in their order.
            Place::Document | Place::Part | Place::Platform => {
                return Err(de::Error::invalid_type(de::Unexpected::Seq, &"an object"));
            }
            Place::Parts => Place::Part,
            Place::Free => Place::Free,
        };
        while sequence.next_element_seed(Self(below))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        object(map, self.0, |_| {})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_bytes(bytes: &[u8]) -> Result<()> {
        let descriptor = Descriptor::of("application/json", bytes);
        read::<serde_json::Value>(&descriptor, bytes).map(drop)
    }

    fn check(text: &str) -> Result<()> {
        check_bytes(text.as_bytes())
    }

    #[test]
    fn keys_of_any_document_stand_once() {
        for good in [
            "{}",
            "1",
            "[null, true, -1, 1e3, \"x\"]",
            r#"{"a":{"b":1},"c":[{"b":1},{"b":1}],"config":[1]}"#,
            " {} ",
        ] {
            refuse_duplicates(good).expect(good);
        }
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"\u0062":2}}"#, r#"[{"x":1,"y":2,"x":3}]"#] {
            let error = refuse_duplicates(bad).expect_err(bad);
            assert!(error.to_string().contains("duplicate field"), "{error}");
        }
        for broken in ["", "{", "{} {}", &"[".repeat(100_000)] {
            assert!(refuse_duplicates(broken).is_err());
        }
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
            (r#"{"l\u0061yerS":[]}"#.to_owned(), false),
            ("{\"layer\u{17f}\":[]}".to_owned(), false),
            ("{\"bl\u{f6}bs\":[]}".to_owned(), true),
            (r#"{"nested":{"Layers":[]}}"#.to_owned(), true),
            (r#"{"config":{"Digest":"x"}}"#.to_owned(), false),
            (r#"{"config":["application/json","sha256:00",2]}"#.to_owned(), false),
            (r#"{"layers":[["application/json","sha256:00",2]]}"#.to_owned(), false),
            (r#"{"layers":[{"platform":["amd64","linux"]}]}"#.to_owned(), false),
            (r#"{"layers":[{"urls":["amd64","linux"]}],"subject":null}"#.to_owned(), true),
            (r#"{"subject":{"mediatype":"x"}}"#.to_owned(), false),
            (r#"{"layers":[{},{"DATA":"x"}]}"#.to_owned(), false),
            (r#"{"blobs":[{"digest":"x","digest":"y"}]}"#.to_owned(), false),
            (r#"{"manifests":[{"platform":{"OS":"x"}}]}"#.to_owned(), false),
            (r#"{"manifests":[{"platform":{"os":"x","os":"y"}}]}"#.to_owned(), false),
            (r#"{"manifests":[{"annotations":{"Digest":"x","digest":"y"}}]}"#.to_owned(), true),
            (r#"{"annotations":{"Config":"x","a":"1","A":"2"}}"#.to_owned(), true),
            (r#"{"annotations":{"a":"1","a":"2"}}"#.to_owned(), false),
            (format!("{{{}}}", many.join(",")), true),
            (format!("{{{},\"k3\":0}}", many.join(",")), false),
            (format!("{{{},\"k39\":0}}", many.join(",")), false),
            ("[]".to_owned(), false),
            (String::new(), false),
            ("{}{}".to_owned(), false),
            ("\u{feff}{}".to_owned(), false),
        ] {
            assert_eq!(check(&text).is_ok(), fine, "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn what_is_absurd_is_an_error_and_no_harm() {
        const LARGE: usize = 4 << 20;
        for text in [
            "[".repeat(LARGE),
            "{\"a\":".repeat(LARGE / 5),
            format!("{{\"layers\":{}", "[".repeat(LARGE)),
            format!("{{\"layers\":{}{}}}", "[".repeat(LARGE / 2), "]".repeat(LARGE / 2)),
            format!("{{\"a\":{}", "{\"a\":".repeat(100_000)),
            "{\"a\":1e999}".to_owned(),
            format!("{{\"a\":{}e9}}", "9".repeat(400)),
            "{\"a\":\"\0\"}".to_owned(),
            "{\"a\":\0}".to_owned(),
            "{\"a\":\"\\ud800\"}".to_owned(),
        ] {
            assert!(check(&text).is_err(), "{}", text[..60.min(text.len())].escape_debug());
        }
        for text in [
            format!("{{\"a\":{}}}", "9".repeat(300)),
            format!("{{\"a\":0.{}}}", "9".repeat(LARGE)),
            "{\"a\":\"\\u0000\",\"b\":-0,\"c\":1e-999}".to_owned(),
            format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100)),
            format!("{{\"{}\":1}}", "k".repeat(LARGE)),
        ] {
            assert!(check(&text).is_ok(), "{}", &text[..60.min(text.len())]);
        }
        for bytes in
            [&b"{\"a\":\"\xff\"}"[..], b"{\"\xc3\x28\":1}", b"{\"a\":\"\xed\xa0\x80\"}", b"\xff\xfe{}"]
        {
            assert!(check_bytes(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn as_many_keys_as_fit_take_no_longer_than_their_bytes() {
        let many: Vec<String> = (0..300_000).map(|i| format!("\"{i}\":0")).collect();
        let begun = std::time::Instant::now();
        check(&format!("{{{}}}", many.join(","))).expect("each once");
        assert!(begun.elapsed().as_secs() < 20, "quadratic: {:?}", begun.elapsed());
    }

    /// Documents of keys that collide often, at every depth.
    fn document() -> impl Strategy<Value = String> {
        let key =
            prop::sample::select(vec!["layers", "Layers", "digest", "a", "A", "\\u0061", "platform", "os"]);
        let leaf = prop::sample::select(vec!["1", "-1", "1e400", "null", "\"x\"", "\"\\u0000\"", "true"]);
        leaf.prop_map(str::to_owned).prop_recursive(6, 64, 4, move |inner| {
            let object = prop::collection::vec((key.clone(), inner.clone()), 0..4).prop_map(|fields| {
                let fields: Vec<String> =
                    fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            });
            let array = prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(",")));
            prop_oneof![object, array]
        })
    }

    proptest! {
        /// What passes is what every parser reads in the same way: writing it again loses no field.
        #[test]
        fn what_passes_has_each_key_once(text in document()) {
            if check(&text).is_ok() {
                let value: serde_json::Value = serde_json::from_str(&text).expect("it passed");
                prop_assert_eq!(value.to_string().matches("\":").count(), text.matches("\":").count());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_bytes(&bytes);
        }
    }
}
