//! References: what is read is printed and read again as the same, in every form that there is.

use wharf_images::{
    Digest, Reference,
    reference::{MAX_DOMAIN_LEN, MAX_PATH_LEN, MAX_TAG_LEN, split_transport},
};

use crate::{Outcome, Seed};

/// The transports that are known, as the program knows them.
const KNOWN: [&str; 5] = ["docker", "oci", "oci-archive", "docker-archive", "store"];

/// Reads the input as a reference, and as an argument that may name a transport.
///
/// # Panics
/// Where what was read is not what was said.
pub fn check(data: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(data) else { return Outcome::Refused };
    if let Ok(location) = split_transport(text, &KNOWN) {
        assert!(KNOWN.contains(&location.scheme), "an unknown transport: {location:?}");
        assert!(text.ends_with(location.rest), "{location:?} is not what was said");
    }
    let bare = Reference::is_bare(text);
    let read = Reference::parse(text);
    let outcome = Outcome::of(&read);
    let reference = match read {
        Ok(reference) => reference,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            // 200 characters are shown, escaped with up to ten each.
            assert!(error.to_string().len() < 3_000, "an error as long as what it is about");
            assert!(!bare, "a name that cannot be read is no bare one");
            return outcome;
        }
    };
    let (domain, path) = (reference.domain(), reference.path());
    assert!(!domain.is_empty() && domain.len() <= MAX_DOMAIN_LEN);
    assert!(!path.is_empty() && path.len() <= MAX_PATH_LEN);
    assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path:?} leads elsewhere");
    assert_eq!(format!("{domain}/{path}"), reference.repository());
    assert!(reference.tag().is_some() || reference.digest().is_some(), "a reference to nothing");
    assert!(reference.tag().is_none_or(|tag| !tag.is_empty() && tag.len() <= MAX_TAG_LEN));

    let full = reference.full();
    assert_eq!(Reference::parse(&full).as_ref(), Ok(&reference), "the full form is another one");
    assert_eq!(Reference::parse_canonical(&full).as_ref(), Ok(&reference));
    let familiar = reference.familiar();
    assert_eq!(Reference::parse(&familiar).as_ref(), Ok(&reference), "the short form is another one");
    // What is printed leaves out the tag beside a digest, and is normalised for good.
    let printed = reference.to_string();
    let again = Reference::parse_canonical(&printed).expect("what is printed is canonical");
    assert_eq!(again.to_string(), printed);
    assert_eq!((again.repository(), again.object()), (reference.repository(), reference.object()));
    let json = serde_json::to_string(&reference).expect("writes to memory");
    assert_eq!(serde_json::from_str::<Reference>(&json).expect("reads what was written"), reference);

    let pinned = reference.with_digest(Digest::sha256(data));
    assert_eq!(Reference::parse(&pinned.full()), Ok(pinned));
    let tagged = reference.with_tag("v1").expect("it is a tag");
    assert_eq!((tagged.tag(), tagged.digest()), (Some("v1"), None));
    assert_eq!(Reference::parse(&tagged.to_string()), Ok(tagged));
    if bare {
        assert_eq!((reference.tag(), reference.digest()), (Some("latest"), None), "it is said to be bare");
    }
    outcome
}

/// Names of all kinds.
pub fn seeds() -> Vec<Seed> {
    let digest = Digest::sha256(b"");
    let sha512 = format!("sha512:{}", "0a".repeat(64));
    let accepted = [
        "busybox".to_owned(),
        "busybox:1.36".to_owned(),
        "docker.io/library/busybox:latest".to_owned(),
        "index.docker.io/busybox".to_owned(),
        "docker.io/example.com/app".to_owned(),
        "localhost:5000/a__b/c-d.e:v1_2".to_owned(),
        "[::1]:5000/app".to_owned(),
        "Registry/app".to_owned(),
        format!("ghcr.io/owner/project:v1.2@{digest}"),
        format!("quay.io/app@{sha512}"),
    ];
    let refused = [
        String::new(),
        "https://ghcr.io/app".to_owned(),
        "Busybox".to_owned(),
        "a/../b".to_owned(),
        "a:b:c".to_owned(),
        "oci-archive:image.tar:v1".to_owned(),
        "busybox@sha256:0".to_owned(),
        digest.hex().to_owned(),
    ];
    let number = |kind: &str, at: usize| format!("{kind}-{at}");
    let accepted =
        accepted.into_iter().enumerate().map(|(at, text)| Seed::accepted(number("name", at), text));
    let refused =
        refused.into_iter().enumerate().map(|(at, text)| Seed::refused(number("no-name", at), text));
    accepted.chain(refused).collect()
}
