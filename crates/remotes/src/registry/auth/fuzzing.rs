//! What fuzz targets see of [challenges](super::challenge), in plain values.

use super::challenge;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A token from `realm`.
    Bearer {
        /// Where it comes from.
        realm: String,
        /// For whom it is.
        service: Option<String>,
        /// What it is good for.
        scope: Option<String>,
    },
    /// A name and a password.
    Basic,
}

/// Chooses among the challenges of these headers.
pub fn choose_challenge(headers: &[&str]) -> Option<Challenge> {
    let chosen = challenge::choose(headers.iter().copied())?;
    Some(match chosen {
        challenge::Challenge::Bearer { realm, service, scope } => Challenge::Bearer { realm, service, scope },
        challenge::Challenge::Basic => Challenge::Basic,
    })
}
