//! From what was typed to digests: whole ones, or the beginning of one.

use wharf_content::{Algorithm, Digest, DigestError, Error, Result, Store, filter::FilterSet};

/// The fewest hexadecimal digits by which a blob is found.
const MIN_PREFIX_LEN: usize = 7;

/// So many of an ambiguous prefix's candidates are named.
const MAX_NAMED: usize = 10;

/// How blobs are named, for the help of commands.
pub(super) const DIGEST_HELP: &str = "A DIGEST is sha256:HEX, or the first digits of one that is in the store: at least 7, with or without \
`sha256:`, as many as tell it from the others.";

/// Finds what each text names, each once. A whole digest need not be in the store; a prefix that nothing in the store has is an error of
/// its own, for the caller to go on with the others.
///
/// # Errors
/// `InvalidArgument` for a text that is neither, and for a prefix that several blobs have.
pub(super) async fn find(store: &dyn Store, texts: &[String]) -> Result<Vec<Result<Digest>>> {
    let wanted: Vec<Wanted> = texts.iter().map(|text| parse(text)).collect::<Result<_>>()?;
    let mut present = Vec::new();
    if wanted.iter().any(|wanted| matches!(wanted, Wanted::Prefix { .. })) {
        let mut visit = |info: wharf_content::Info| {
            present.push(info.digest);
            Ok(())
        };
        store.walk(&FilterSet::all(), &mut visit).await?;
        present.sort();
    }
    let mut found: Vec<Result<Digest>> = Vec::with_capacity(wanted.len());
    for (text, wanted) in texts.iter().zip(wanted) {
        let digest = match wanted {
            Wanted::Whole(digest) => Ok(digest),
            Wanted::Prefix { algorithm, hex } => match choose(text, algorithm, &hex, &present)? {
                Some(digest) => Ok(digest.clone()),
                None => Err(Error::not_found(format!("no content in the store begins with {text}"))),
            },
        };
        let is_new =
            digest.as_ref().map_or(true, |digest| !found.iter().flatten().any(|other| other == digest));
        if is_new {
            found.push(digest);
        }
    }
    Ok(found)
}

/// As [`find`], for one that must be there.
pub(super) async fn find_one(store: &dyn Store, text: &String) -> Result<Digest> {
    let found = find(store, std::slice::from_ref(text)).await?;
    found.into_iter().next().unwrap_or_else(|| Err(Error::internal("a name was lost")))
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole(Digest),
    Prefix { algorithm: Option<Algorithm>, hex: String },
}

fn parse(text: &str) -> Result<Wanted> {
    let (algorithm, hex) = match text.parse::<Digest>() {
        Ok(digest) => return Ok(Wanted::Whole(digest)),
        Err(error @ DigestError::Unsupported) => {
            return Err(Error::invalid_argument(format!("{text:?} names no content: {error}")));
        }
        Err(_) => match text.split_once(':') {
            Some((name, hex)) => (Algorithm::from_name(name), hex),
            None => (None, text),
        },
    };
    let longest = algorithm.map_or(usize::MAX, Algorithm::hex_len);
    if hex.is_empty()
        || hex.len() > longest
        || (algorithm.is_none() && text.contains(':'))
        || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(Error::invalid_argument(format!(
            "{text:?} is no digest: expected sha256: and 64 lower-case hexadecimal digits, or the first of them"
        )));
    }
    if hex.len() < MIN_PREFIX_LEN {
        return Err(Error::invalid_argument(format!(
            "{text:?} is too short to name content: give at least {MIN_PREFIX_LEN} hexadecimal digits"
        )));
    }
    Ok(Wanted::Prefix { algorithm, hex: hex.to_owned() })
}

fn choose<'a>(
    text: &str,
    algorithm: Option<Algorithm>,
    hex: &str,
    present: &'a [Digest],
) -> Result<Option<&'a Digest>> {
    let fits = |digest: &&Digest| {
        digest.hex().starts_with(hex) && algorithm.is_none_or(|algorithm| digest.algorithm() == algorithm)
    };
    let candidates: Vec<&Digest> = present.iter().filter(fits).collect();
    if candidates.len() < 2 {
        return Ok(candidates.first().copied());
    }
    let mut named: Vec<String> = candidates.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    if candidates.len() > MAX_NAMED {
        named.push(format!("and {} more", candidates.len() - MAX_NAMED));
    }
    Err(Error::invalid_argument(format!("{text:?} is ambiguous: it begins {}", named.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_digests_and_prefixes() {
        let whole = Digest::sha256(b"x");
        assert_eq!(parse(whole.as_str()).ok(), Some(Wanted::Whole(whole.clone())));
        let sha256 = Some(Algorithm::Sha256);
        for (text, algorithm, hex) in [
            ("abcdef0", None, "abcdef0"),
            ("sha256:abcdef0", sha256, "abcdef0"),
            ("sha512:0123456789", Some(Algorithm::Sha512), "0123456789"),
            (whole.hex(), None, whole.hex()),
        ] {
            let expected = Wanted::Prefix { algorithm, hex: hex.to_owned() };
            assert_eq!(parse(text).ok(), Some(expected), "{text}");
        }
        let long = format!("sha256:{}0", whole.hex());
        for bad in
            ["", "sha256:", "abcdef", "sha256:abcdef", "ABCDEF0", "busybox", "abcdefg", "x:abcdef0", &long]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_ambiguous_names_its_candidates() {
        let digest = |algorithm: Algorithm, start: &str| -> Digest {
            format!("{algorithm}:{start:0<width$}", width = algorithm.hex_len()).parse().expect("a digest")
        };
        let present = [
            digest(Algorithm::Sha256, "abcdef01"),
            digest(Algorithm::Sha256, "abcdef02"),
            digest(Algorithm::Sha512, "abcdef01"),
        ];
        let choose = |algorithm, hex| choose("typed", algorithm, hex, &present);
        assert_eq!(choose(None, "abcdef02").ok().flatten(), Some(&present[1]));
        assert_eq!(choose(Some(Algorithm::Sha512), "abcdef0").ok().flatten(), Some(&present[2]));
        assert_eq!(choose(None, "1234567").ok().flatten(), None);
        let error = choose(None, "abcdef01").expect_err("ambiguous").to_string();
        assert!(error.contains(present[0].as_str()) && error.contains(present[2].as_str()), "{error}");
    }
}
