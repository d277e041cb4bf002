//! Artifacts of any type: what they consist of is their own business, so that media types which nobody decodes are no surprise there. What
//! has an image's config is an image, whatever it calls itself, and vouches for nothing.

use wharf_content::{Descriptor, Result};

use crate::{
    artifact::{ANY_TYPE, ArtifactDecoder, TITLE, VERSION},
    decode::{Decoded, Role},
    media_types as types,
};

crate::register_artifact_decoder! { name: "any-artifact", keys: [ANY_TYPE], make: AnyArtifact }

#[derive(Debug)]
struct AnyArtifact;

impl ArtifactDecoder for AnyArtifact {
    fn refine(&self, _: &Descriptor, mut decoded: Decoded) -> Result<Decoded> {
        let config = decoded.child(Role::Config);
        decoded.vouches |= !config.is_some_and(|config| types::is_config(&config.media_type));
        if decoded.description.is_none() {
            let mut words = vec!["artifact"];
            words.extend(decoded.artifact_type.as_deref());
            words.extend(
                [TITLE, VERSION].iter().filter_map(|key| decoded.facts.get(*key)).map(String::as_str),
            );
            decoded.description = Some(words.join(" "));
        }
        Ok(decoded)
    }
}
