//! Proxies that ask each other in a circle: found by the header `Via` (RFC 9110, 7.6.3).
//!
//! A proxy that asks its registry once for many clients passes on the request of none of them, so that no request could carry the way that
//! it went. Instead each proxy tells its registry of all proxies that it was asked by itself. As a proxy has one registry, whoever is told
//! of itself stands in a circle.
//!
//! ```text
//! a ── Via: a ──> b ── Via: a, b ──> c ── Via: a, b, c ──> a     a finds itself
//! ```

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

/// The most proxies that are told of; beyond it the one that was heard of first is forgotten.
const MAX_TOLD: usize = 32;
const PREFIX: &str = "wharf-";
/// Hexadecimal digits behind the prefix.
const DIGITS: usize = 16;

/// The name of a proxy, drawn at random, and those of the proxies that it was asked by. Clones share both.
#[derive(Clone, Debug)]
pub struct Via(Arc<Passed>);

#[derive(Debug)]
struct Passed {
    own: String,
    before: Mutex<VecDeque<String>>,
}

impl Via {
    /// Draws a name.
    pub fn random() -> Self {
        // Whoever knew it could have the proxy refused by its own registry: it is told to that one and no client.
        let own = format!("{PREFIX}{:016x}", RandomState::new().hash_one(PREFIX));
        Self(Arc::new(Passed { own, before: Mutex::default() }))
    }

    /// The value of the header that goes to the registry.
    pub fn header(&self) -> String {
        let before = self.0.before.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> =
            before.iter().chain([&self.0.own]).map(|name| format!("1.1 {name}")).collect();
        names.join(", ")
    }

    /// Takes note of the values of the header in a request, and tells whether this proxy is among those that it passed.
    pub fn has_passed<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> bool {
        let names = values.into_iter().flat_map(|value| value.split(',')).filter_map(pseudonym);
        let mut before = self.0.before.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if name == self.0.own {
                return true;
            }
            if !before.iter().any(|known| known == name) {
                if before.len() == MAX_TOLD {
                    before.pop_front();
                }
                before.push_back(name.to_owned());
            }
        }
        false
    }
}

/// The name in one element of the header, where it is one of ours.
fn pseudonym(element: &str) -> Option<&str> {
    let name = element.split_whitespace().nth(1)?;
    let digits = name.strip_prefix(PREFIX)?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == DIGITS && digits.bytes().all(is_digit)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_and_a_chain_is_none() {
        let [a, b, c] = [Via::random(), Via::random(), Via::random()];
        assert!(!b.has_passed([a.header().as_str()]));
        assert!(!c.has_passed(["1.0 squid (with a comment)", &b.header()]));
        assert!(!c.has_passed([b.header().as_str()]), "the same again is no circle");
        assert_eq!(c.header().matches(PREFIX).count(), 3);
        assert!(a.has_passed([c.header().as_str()]));
        assert!(a.clone().has_passed([a.header().as_str()]));
    }

    #[test]
    fn what_strangers_send_is_bounded() {
        let via = Via::random();
        let before = via.header();
        for odd in ["", ",", "1.1", "1.1 wharf-", "1.1 wharf-XYZ", "1.1 wharf-00", &"x".repeat(10_000)] {
            assert!(!via.has_passed([odd]));
        }
        assert_eq!(via.header(), before);
        for number in 0..1000 {
            assert!(!via.has_passed([format!("1.1 wharf-{number:016x}").as_str()]));
        }
        assert_eq!(via.header().matches(PREFIX).count(), MAX_TOLD + 1);
    }
}
