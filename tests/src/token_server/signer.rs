//! Tokens that other programs check: JSON Web Tokens (RFC 7519) signed by ES256, whose certificate comes along as `x5c` (RFC 7515,
//! 4.1.6) and leads to a root that is made anew each time. Debian's docker-registry takes them by its `rootcertbundle`.

use std::fmt;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SigningKey,
};
use serde_json::{Value, json};

/// A key with its certificate, and the root of that.
pub(super) struct Signer {
    key: KeyPair,
    /// The key's certificate, in DER and base64.
    certificate: String,
    root: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    pub(super) fn new() -> Self {
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, "wharf-tests root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let root = CertifiedIssuer::self_signed(root, generate()).expect("because the parameters are valid");
        let key = generate();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "wharf-tests token signer");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        let certificate = params.signed_by(&key, &root).expect("because the parameters are valid");
        Self { certificate: STANDARD.encode(certificate.der()), root: root.pem(), key }
    }

    /// The root's certificate, in PEM.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// Signs claims into a token.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.key.sign(signed.as_bytes()).expect("because the key is whole");
        let signature = fixed(&signature).expect("because that is how ECDSA signatures are encoded");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn generate() -> KeyPair {
    KeyPair::generate().expect("because there is randomness")
}

/// The two numbers of a signature with 32 bytes each (RFC 7518, 3.4), of `SEQUENCE { INTEGER, INTEGER }`.
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let [0x30, _, numbers @ ..] = der else { return None };
    let mut signature = [0; 64];
    let mut rest = numbers;
    for half in signature.chunks_exact_mut(32) {
        let [0x02, len, bytes @ ..] = rest else { return None };
        let (number, after) = bytes.split_at_checked(usize::from(*len))?;
        // A zero in front keeps a number from being negative.
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        half[32_usize.checked_sub(number.len())?..].copy_from_slice(number);
        rest = after;
    }
    rest.is_empty().then_some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        let long = [&[0x30, 70, 2, 33, 0][..], &[0xff; 32], &[2, 33, 0], &[0x80; 32]].concat();
        let signature = fixed(&long).expect("reads");
        assert_eq!((&signature[..32], &signature[32..]), (&[0xff; 32][..], &[0x80; 32][..]));
        let short = fixed(&[0x30, 7, 2, 1, 5, 2, 2, 1, 2]).expect("reads");
        assert_eq!((short[31], short[62], short[63]), (5, 1, 2));
        assert_eq!(short.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 8);
        for bad in [&[][..], &[0x31, 0], &[0x30, 3, 2, 9, 1], &[0x30, 7, 2, 1, 5, 2, 1, 1, 9], &long[..50]] {
            assert_eq!(fixed(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn tokens_have_three_parts_and_say_what_they_were_told() {
        let signer = Signer::new();
        assert!(signer.root().starts_with("-----BEGIN CERTIFICATE-----"));
        let claims = json!({ "iss": "a", "access": [] });
        let token = signer.sign(&claims);
        let parts: Vec<&str> = token.split('.').collect();
        let [_, claimed, signature] = parts[..] else { panic!("three parts: {token}") };
        let claimed = URL_SAFE_NO_PAD.decode(claimed).expect("base64");
        assert_eq!(serde_json::from_slice::<Value>(&claimed).expect("JSON"), claims);
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).expect("base64").len(), 64);
    }
}
