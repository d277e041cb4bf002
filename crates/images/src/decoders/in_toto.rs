//! in-toto attestations: a statement, as BuildKit attaches it to an image, or one in a signed DSSE envelope. Signatures are counted and
//! not verified.
//!
//! Sources: in-toto attestation framework, `spec/v1/statement.md` and `envelope.md`; BuildKit, `docs/attestations`.

use std::collections::BTreeMap;

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, de::IgnoredAny};
use wharf_content::{Descriptor, Digest, Error, Result};

use super::{list, said};
use crate::{
    decode::{Decoded, Kind, ManifestDecoder, Role},
    json, media_types as types,
};

crate::register_manifest_decoder! {
    name: "in-toto",
    keys: [
        types::IN_TOTO,
        types::DSSE,
        "application/vnd.in-toto.provenance+dsse",
        "application/vnd.in-toto.spdx+dsse",
        "application/vnd.in-toto.cyclonedx+dsse",
        "application/vnd.in-toto.vsa+dsse",
        "application/vnd.in-toto.vuln+dsse",
    ],
    make: InToto
}

/// With which BuildKit names the image that an attestation manifest is about.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

const BASE64: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// Says of a manifest, all of whose layers are attestations, that it is one.
pub(super) fn describe_manifest(descriptor: &Descriptor, decoded: &Decoded) -> Option<String> {
    let mut layers = decoded.children_of(Role::Layer).peekable();
    layers.peek()?;
    if !layers.all(|layer| types::is_attestation(&layer.media_type)) {
        return None;
    }
    let about = descriptor.annotations.get(REFERENCE_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
    let about = about.or_else(|| decoded.subject.as_ref().map(|subject| subject.digest.clone()));
    Some(about.map_or_else(|| "attestation".to_owned(), |about| format!("attestation about {about}")))
}

#[derive(Debug)]
struct InToto;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(default)]
    predicate_type: Option<String>,
    #[serde(default)]
    subject: Option<Vec<Subject>>,
    /// Of an envelope: the statement in base64.
    #[serde(default)]
    payload: Option<String>,
    #[serde(default)]
    payload_type: Option<String>,
    #[serde(default)]
    signatures: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    digest: Option<BTreeMap<String, String>>,
}

impl ManifestDecoder for InToto {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn reads_content(&self) -> bool {
        true
    }

    fn decode(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
        let mut decoded = Decoded::default();
        let mut tell = |name: &str, value: Option<String>| {
            if let Some(value) = said(value) {
                decoded.facts.insert(name.to_owned(), value);
            }
        };
        let outer: Statement = json::view(descriptor, bytes)?;
        let statement = match outer.payload {
            None => outer,
            Some(payload) => {
                let signatures = outer.signatures.map_or(0, |all| all.len());
                tell("signatures", Some(format!("{signatures}, not verified")));
                match outer.payload_type.as_deref() {
                    Some(types::IN_TOTO) | None => json::view(descriptor, &unpacked(descriptor, &payload)?)?,
                    other => {
                        tell("payloadType", other.map(str::to_owned));
                        decoded.description = Some("signed envelope of something else".to_owned());
                        return Ok(decoded);
                    }
                }
            }
        };
        let names: Vec<String> =
            statement.subject.unwrap_or_default().into_iter().filter_map(Subject::name).collect();
        tell("subject", Some(list(&names)));
        tell("predicateType", statement.predicate_type.clone());
        decoded.description = Some(match said(statement.predicate_type) {
            Some(predicate) => format!("attestation {predicate}"),
            None => "attestation".to_owned(),
        });
        Ok(decoded)
    }
}

impl Subject {
    /// Its name, else one of its digests.
    fn name(self) -> Option<String> {
        let digest = || {
            let (algorithm, value) = self.digest?.into_iter().next()?;
            Some(format!("{algorithm}:{value}"))
        };
        said(self.name).or_else(digest)
    }
}

/// The payload of an envelope, in either of base64's alphabets (DSSE, `protocol.md`).
fn unpacked(descriptor: &Descriptor, payload: &str) -> Result<Vec<u8>> {
    let decode = |alphabet| GeneralPurpose::new(alphabet, BASE64).decode(payload);
    decode(&STANDARD).or_else(|_| decode(&URL_SAFE)).map_err(|error| {
        Error::invalid_argument(format!("the payload of the envelope {} is not base64", descriptor.digest))
            .with_source(error)
    })
}
