//! A server's certificate that is itself among those that the user names.
//!
//! `openssl req -x509` makes a certificate that signs itself and says that it is an authority's. webpki refuses such a one as a server's,
//! though who names this very certificate trusts nobody else by it. The name of the server and the time are checked here; that the server
//! has the key, where the handshake's signature is. The authorities of the system are not looked for here.

use std::time::Duration;

use jiff::civil::DateTime;
use rustls::{
    CertificateError, Error as TlsError,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// Checks a certificate that is trusted for what it is: whether it is one for this server, now.
///
/// # Errors
/// Those of TLS for another name, another time, and a certificate that cannot be read.
pub(super) fn verify(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), TlsError> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let (not_before, not_after) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
    let time = seconds(now);
    if time < not_before {
        let not_before = unix_time(not_before);
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if time > not_after {
        let not_after = unix_time(not_after);
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    verify_server_name(&parsed, server_name)
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

/// From when to when a certificate is valid, in seconds since 1970 (RFC 5280, 4.1).
///
/// ```text
/// SEQUENCE { SEQUENCE { [0] version?, INTEGER serial, SEQUENCE algorithm, SEQUENCE issuer, SEQUENCE { notBefore, notAfter }, … }, … }
/// ```
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (certificate, _) = value(certificate, SEQUENCE)?;
    let (fields, _) = value(certificate, SEQUENCE)?;
    let fields = value(fields, VERSION).map_or(fields, |(_, rest)| rest);
    let (_, fields) = value(fields, INTEGER)?;
    let (_, fields) = value(fields, SEQUENCE)?;
    let (_, fields) = value(fields, SEQUENCE)?;
    let (validity, _) = value(fields, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, rest) = time(rest)?;
    rest.is_empty().then_some((not_before, not_after))
}

/// The value of this tag at the beginning, and what is behind it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0x00..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A time at the beginning, and what is behind it: `YYMMDDhhmmssZ`, which ends with 2049, or `YYYYMMDDhhmmssZ` (RFC 5280, 4.1.2.5).
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, of_year) = match (value(der, UTC_TIME), value(der, GENERALIZED_TIME)) {
        (Some((text, rest)), _) => (text, rest, 2),
        (None, Some((text, rest))) => (text, rest, 4),
        (None, None) => return None,
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != of_year + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (year, digits) = digits.split_at(of_year);
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0'));
    let year = match (of_year, number(year)) {
        (2, year @ 50..) => 1900 + year,
        (2, year) => 2000 + year,
        (_, year) => year,
    };
    let pair = |at: usize| i8::try_from(number(&digits[at..at + 2])).ok();
    let time = DateTime::new(year, pair(0)?, pair(2)?, pair(4)?, pair(6)?, pair(8)?, 0).ok()?;
    Some((time.duration_since(EPOCH).as_secs(), rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("valid");
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("signs").der().clone()
    }

    #[test]
    fn the_time_of_a_certificate_is_read_in_either_form() {
        for (from, to, expected) in [
            ((1970, 1, 1), (2000, 2, 29), (0, 951_782_400)),
            ((1950, 1, 1), (2049, 12, 31), (-631_152_000, 2_524_521_600)),
            ((2049, 12, 31), (2050, 1, 1), (2_524_521_600, 2_524_608_000)),
            ((1975, 1, 1), (4096, 1, 1), (157_766_400, 67_090_118_400)),
        ] {
            assert_eq!(validity(&certificate(from, to)), Some(expected), "{from:?} {to:?}");
        }
    }

    #[test]
    fn the_last_time_that_there_is_has_one() {
        // What says that a certificate does not end (RFC 5280, 4.1.2.5).
        let text = b"99991231235959Z";
        let der = [&[GENERALIZED_TIME, 15][..], text].concat();
        assert_eq!(time(&der), Some((253_402_300_799, &[][..])));
    }

    #[test]
    fn a_certificate_is_one_for_its_name_and_its_time() {
        let certificate = certificate((2020, 1, 1), (2020, 1, 2));
        let check = |name: &'static str, seconds| {
            let name = ServerName::try_from(name).expect("a name");
            verify(&certificate, &name, unix_time(seconds))
        };
        let (first, last) = (1_577_836_800, 1_577_923_200);
        for seconds in [first, last] {
            check("localhost", seconds).expect("its name and its time");
            let error = check("elsewhere", seconds).expect_err("another name");
            let is_name = matches!(
                error,
                TlsError::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
            );
            assert!(is_name, "{error:?}");
        }
        let error = check("localhost", first - 1).expect_err("too early");
        let expected =
            CertificateError::NotValidYetContext { time: unix_time(first - 1), not_before: unix_time(first) };
        assert_eq!(error, expected.into());
        let error = check("localhost", last + 1).expect_err("too late");
        let expected =
            CertificateError::ExpiredContext { time: unix_time(last + 1), not_after: unix_time(last) };
        assert_eq!(error, expected.into());
    }

    #[test]
    fn what_is_no_time_of_a_certificate_is_none() {
        for text in ["", "200101000000", "20010100000Z", "201301000000Z", "20010100000xZ", "20200101000000Z"]
        {
            let der = [&[UTC_TIME, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
            assert_eq!(time(&der), None, "{text}");
        }
        let whole = certificate((2020, 1, 1), (2020, 1, 2));
        for length in 0..whole.len() {
            assert_eq!(validity(&whole[..length]), None, "{length} bytes");
        }
    }
}
