//! Durations as Go writes them (`time.ParseDuration`): `30s`, `1m30s`, `1.5h`, `0`.

use std::time::Duration;

/// Units and how many nanoseconds they have. Longer names stand before those that they begin with.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration that is not negative; `None` for anything else.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds = 0_u128;
    let mut is_empty = true;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, behind) = rest.split_at(end);
        let (unit, len) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        nanoseconds = nanoseconds.checked_add(scaled(number, *len)?)?;
        rest = &behind[unit.len()..];
        is_empty = false;
    }
    let nanoseconds = u64::try_from(nanoseconds).ok()?;
    (!is_empty).then_some(Duration::from_nanos(nanoseconds))
}

/// A decimal number of units in nanoseconds.
fn scaled(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let read = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
    // What is beyond a nanosecond of the longest unit is nothing.
    let fraction = fraction.get(..fraction.len().min(18)).filter(|digits| !digits.contains('.'))?;
    let divisor = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(read(fraction)?) * u128::from(unit) / divisor;
    Some(u128::from(read(whole)?) * u128::from(unit) + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Some(Duration::ZERO)),
            ("0s", Some(Duration::ZERO)),
            ("30s", Some(Duration::from_secs(30))),
            ("+30s", Some(Duration::from_secs(30))),
            ("1m30s", Some(Duration::from_secs(90))),
            ("1.5h", Some(Duration::from_secs(5400))),
            (".5s", Some(Duration::from_millis(500))),
            ("5.s", Some(Duration::from_secs(5))),
            ("300ms", Some(Duration::from_millis(300))),
            ("7us", Some(Duration::from_micros(7))),
            ("7µs", Some(Duration::from_micros(7))),
            ("7ns", Some(Duration::from_nanos(7))),
            ("0.3333333333333333333333h", Some(Duration::from_nanos(1_199_999_999_999))),
            ("", None),
            ("+", None),
            ("-1s", None),
            ("30", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1 s", None),
            ("1d", None),
            ("1s!", None),
            ("99999999999999999999s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
