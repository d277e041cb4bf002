//! The two messages: the request that a plugin is given, and the answer that is expected of it (`docs/plugin-request.schema.json`,
//! `docs/plugin-answer.schema.json`). Pure; who runs the plugin is [`super::decoder`].

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use wharf_content::{Descriptor, Error, Result};
use wharf_platforms::Platform;

use super::{PROTOCOL, manifest::Content};
use crate::{
    decode::{Child, Decoded, Kind, Role},
    json, sniff,
};

/// The most characters of a description: it has to fit on a line.
const MAX_DESCRIPTION_LEN: usize = 1024;

#[derive(Serialize)]
struct Request<'a> {
    protocol: u32,
    operation: &'static str,
    descriptor: &'a Descriptor,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Sent<'a>>,
}

/// The document, in the form that the plugin's manifest asks for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Sent<'a> {
    Text(&'a str),
    Base64(String),
}

/// Makes the request for a document.
///
/// # Errors
/// `InvalidArgument` for a document that is to be text and is none, or that is JSON by its media type and is none or ambiguous.
pub(super) fn request(descriptor: &Descriptor, bytes: &[u8], content: Content) -> Result<Vec<u8>> {
    let content = match content {
        Content::None => None,
        Content::Base64 => Some(Sent::Base64(STANDARD.encode(bytes))),
        Content::Text => {
            let text = std::str::from_utf8(bytes).map_err(|error| {
                Error::invalid_argument(format!(
                    "{} is described as {:?} and is not UTF-8",
                    descriptor.digest, descriptor.media_type
                ))
                .with_source(error)
            })?;
            if is_json(&descriptor.media_type) {
                json::refuse_duplicates(text).map_err(|error| {
                    Error::invalid_argument(format!(
                        "{} is not a valid document of type {:?}",
                        descriptor.digest, descriptor.media_type
                    ))
                    .with_source(error)
                })?;
            }
            Some(Sent::Text(text))
        }
    };
    let request = Request { protocol: PROTOCOL, operation: "decode", descriptor, content };
    let mut bytes = serde_json::to_vec(&request)
        .map_err(|error| Error::internal("cannot write the request").with_source(error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn is_json(media_type: &str) -> bool {
    media_type.ends_with("+json") || media_type.ends_with("/json")
}

#[derive(Deserialize)]
struct Version {
    protocol: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Answer {
    #[serde(rename = "protocol")]
    _protocol: u32,
    error: Option<Refusal>,
    #[serde(default)]
    children: Vec<AnsweredChild>,
    platform: Option<Platform>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    description: Option<String>,
    #[serde(default)]
    facts: BTreeMap<String, String>,
    #[serde(default)]
    vouches: bool,
}

/// The plugin's word that the document is no good.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    message: String,
    #[serde(default)]
    kind: RefusalKind,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum RefusalKind {
    /// The document is malformed or contradicts its media type.
    #[default]
    Invalid,
    /// The document may be fine, and the plugin cannot read it.
    Unsupported,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnsweredChild {
    descriptor: Descriptor,
    role: AnsweredRole,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AnsweredRole {
    Config,
    Layer,
    Manifest,
    Other,
}

impl From<AnsweredRole> for Role {
    fn from(role: AnsweredRole) -> Self {
        match role {
            AnsweredRole::Config => Self::Config,
            AnsweredRole::Layer => Self::Layer,
            AnsweredRole::Manifest => Self::Manifest,
            AnsweredRole::Other => Self::Other,
        }
    }
}

/// Why an answer is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The plugin says that the document is malformed.
    Refused(String),
    /// The plugin says that it does not read such a document.
    Unsupported(String),
    /// The plugin did not keep to the protocol.
    Malformed(String),
}

/// Reads an answer to the request for `descriptor`.
pub(super) fn answer(bytes: &[u8], descriptor: &Descriptor, kind: Kind) -> Result<Decoded, Bad> {
    let malformed = |error: serde_json::Error| Bad::Malformed(error.to_string());
    if bytes.trim_ascii().is_empty() {
        return Err(Bad::Malformed("it is empty".to_owned()));
    }
    let Version { protocol } = serde_json::from_slice(bytes).map_err(malformed)?;
    if protocol != PROTOCOL {
        return Err(Bad::Malformed(format!("it is of protocol {protocol}, and {PROTOCOL} was asked for")));
    }
    let answer: Answer = serde_json::from_slice(bytes).map_err(malformed)?;
    if let Some(Refusal { message, kind }) = answer.error {
        return Err(match kind {
            RefusalKind::Invalid => Bad::Refused(message),
            RefusalKind::Unsupported => Bad::Unsupported(message),
        });
    }
    check(&answer, descriptor, kind).map_err(Bad::Malformed)?;
    let children = answer.children.into_iter();
    let children = children.map(|child| Child { descriptor: child.descriptor, role: child.role.into() });
    let mut decoded = Decoded::new(children.collect());
    decoded.platform = answer.platform;
    decoded.subject = answer.subject;
    decoded.artifact_type = answer.artifact_type;
    decoded.description = answer.description;
    decoded.facts = answer.facts;
    decoded.vouches = answer.vouches;
    Ok(decoded)
}

/// What the types alone do not say. The error says what is wrong.
fn check(answer: &Answer, descriptor: &Descriptor, kind: Kind) -> Result<(), String> {
    if kind == Kind::Leaf && !answer.children.is_empty() {
        return Err("it has children, and the plugin's manifest calls the type a leaf".to_owned());
    }
    let children = answer.children.iter().enumerate();
    let parts = children.map(|(at, child)| (format!("child {at}"), &child.descriptor));
    for (what, part) in parts.chain(answer.subject.iter().map(|subject| ("the subject".to_owned(), subject)))
    {
        if !sniff::is_media_type(&part.media_type) {
            return Err(format!("{what} has {:?} for a media type", part.media_type));
        }
        if part.digest == descriptor.digest {
            return Err(format!("{what} is the document itself"));
        }
    }
    if answer
        .platform
        .as_ref()
        .is_some_and(|platform| platform.os.is_empty() || platform.architecture.is_empty())
    {
        return Err("the platform lacks os or architecture".to_owned());
    }
    let Some(description) = &answer.description else { return Ok(()) };
    if description.chars().any(char::is_control) {
        return Err("the description is not one line: it has control characters".to_owned());
    }
    if description.chars().count() > MAX_DESCRIPTION_LEN {
        return Err(format!("the description has more than {MAX_DESCRIPTION_LEN} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Descriptor {
        Descriptor::of("application/vnd.example.v1+json", b"{}")
    }

    fn good() -> Value {
        json!({
            "protocol": 1,
            "children": [{ "descriptor": Descriptor::of("text/plain", b"x"), "role": "layer" }],
            "platform": { "os": "linux", "architecture": "amd64" },
            "subject": Descriptor::of("text/plain", b"y"),
            "artifactType": "application/x",
            "description": "one line",
            "facts": { "a": "b" },
            "vouches": true,
        })
    }

    fn read(value: &Value) -> Result<Decoded, Bad> {
        answer(value.to_string().as_bytes(), &document(), Kind::Manifest)
    }

    #[test]
    fn requests_carry_the_document_as_asked() {
        let value = |bytes: &[u8], content| -> Value {
            let bytes = request(&Descriptor::of("text/plain", bytes), bytes, content).expect("valid");
            assert_eq!(bytes.iter().position(|byte| *byte == b'\n'), Some(bytes.len() - 1), "one line");
            serde_json::from_slice(&bytes).expect("JSON")
        };
        assert_eq!(value(b"a\n\"b", Content::Text)["content"], json!({ "text": "a\n\"b" }));
        assert_eq!(value(b"\xff", Content::Base64)["content"], json!({ "base64": "/w==" }));
        let plain = value(b"\xff", Content::None);
        assert_eq!((plain.get("content"), &plain["operation"]), (None, &json!("decode")));
        assert_eq!(plain["descriptor"]["size"], 1);
    }

    #[test]
    fn documents_that_are_read_in_two_ways_never_reach_a_plugin() {
        for (media_type, bytes, content, fine) in [
            ("a/b", &b"\xff"[..], Content::Text, false),
            ("a/b", b"{", Content::Text, true),
            ("a/b+json", b"{", Content::Text, false),
            ("a/json", br#"{"x":1,"x":2}"#, Content::Text, false),
            ("a/b+json", br#"{"x":1,"y":2}"#, Content::Text, true),
            ("a/b+json", b"\xff", Content::Base64, true),
        ] {
            let outcome = request(&Descriptor::of(media_type, bytes), bytes, content);
            assert_eq!(outcome.is_ok(), fine, "{media_type} {content:?}");
        }
    }

    #[test]
    fn answers_become_what_a_decoder_found() {
        let decoded = read(&good()).expect("valid");
        assert_eq!(decoded.children[0].role, Role::Layer);
        assert_eq!(decoded.children[0].descriptor, Descriptor::of("text/plain", b"x"));
        assert_eq!(decoded.platform, Some(Platform::new("linux", "amd64")));
        assert_eq!(decoded.subject, Some(Descriptor::of("text/plain", b"y")));
        assert_eq!(decoded.artifact_type.as_deref(), Some("application/x"));
        assert_eq!(decoded.description.as_deref(), Some("one line"));
        assert_eq!(decoded.facts["a"], "b");
        assert!(decoded.vouches);
        assert_eq!(read(&json!({ "protocol": 1 })), Ok(Decoded::default()));
    }

    #[test]
    fn refusals_are_told_from_mistakes() {
        let refusal = |error: Value| read(&json!({ "protocol": 1, "error": error }));
        assert_eq!(refusal(json!({ "message": "no" })), Err(Bad::Refused("no".into())));
        let unsupported = json!({ "message": "no", "kind": "unsupported" });
        assert_eq!(refusal(unsupported), Err(Bad::Unsupported("no".into())));
        assert!(matches!(refusal(json!({ "message": "no", "kind": "x" })), Err(Bad::Malformed(_))));
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_named() {
        let part = |media_type: &str| json!(Descriptor::of(media_type, b"x"));
        let child = |descriptor: Value| json!([{ "descriptor": descriptor, "role": "other" }]);
        let broken = |field: &str, value: Value| {
            let mut descriptor = part("text/plain");
            descriptor[field] = value;
            child(descriptor)
        };
        for (field, value, said) in [
            ("children", broken("digest", json!("sha256:../../x")), "digest"),
            ("children", broken("size", json!(-1)), "negative size"),
            ("children", broken("size", json!("12")), "invalid type"),
            ("children", broken("mediaType", json!("")), "child 0"),
            ("children", child(json!(document())), "the document itself"),
            ("children", json!([{ "descriptor": part("a/b"), "role": "boss" }]), "unknown variant"),
            ("children", json!([{ "descriptor": part("a/b") }]), "role"),
            ("children", json!({}), "sequence"),
            ("platform", json!({ "os": "linux" }), "architecture"),
            ("subject", part(""), "the subject"),
            ("description", json!("two\nlines"), "one line"),
            ("description", json!("x".repeat(1025)), "1024"),
            ("facts", json!({ "a": 1 }), "string"),
            ("vouches", json!("yes"), "boolean"),
            ("desciption", json!("x"), "unknown field `desciption`"),
            ("protocol", json!(2), "protocol 2"),
        ] {
            let mut bad = good();
            bad[field] = value;
            match read(&bad) {
                Err(Bad::Malformed(reason)) => assert!(reason.contains(said), "{field}: {reason}"),
                other => panic!("{field}: {other:?}"),
            }
        }
        for bytes in [&b""[..], b" \n", b"{}", b"null", b"{\"protocol\":1} x", b"Traceback", b"\xff"] {
            assert!(matches!(answer(bytes, &document(), Kind::Leaf), Err(Bad::Malformed(_))), "{bytes:?}");
        }
        let leaf = answer(good().to_string().as_bytes(), &document(), Kind::Leaf);
        assert!(matches!(leaf, Err(Bad::Malformed(reason)) if reason.contains("leaf")));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(at in 0..400_usize, byte in any::<u8>(), cut in 0..400_usize) {
            let mut bytes = good().to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = answer(&bytes, &document(), Kind::Index);
        }
    }
}
