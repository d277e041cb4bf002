//! Bearer tokens: what they are for, what a token server's answer says, how long a token holds, and where tokens are kept until then.
//! Fetching them is `exchange`'s.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::MAX_REMEMBERED;
use crate::credentials::{Audience, Secret};

/// How long a token holds whose maker does not say (distribution's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is renewed this long before it expires, and the last quarter of its life at most.
const MARGIN: Duration = Duration::from_secs(10);
/// No token is believed to hold longer: a day.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a token comes from and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Grant {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    /// Sorted, each once.
    pub(super) scopes: Vec<String>,
    /// Whose credentials get it.
    pub(super) audience: Audience,
}

impl Grant {
    pub(super) fn new<'a>(
        realm: &str,
        service: Option<&str>,
        scopes: impl Iterator<Item = &'a str>,
        audience: Audience,
    ) -> Self {
        let mut scopes: Vec<String> = scopes.filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
        scopes.sort();
        scopes.dedup();
        Self { realm: realm.to_owned(), service: service.map(str::to_owned), scopes, audience }
    }
}

/// A token server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) token: Secret,
    /// What gets the next token in the place of a password.
    pub(super) refresh: Option<Secret>,
    /// Until when the token is used; `None` where it has expired by its own account.
    expires_at: Option<SystemTime>,
}

/// What is wrong with an answer. Nothing of it is quoted: it may hold a token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the token server's answer is not the JSON it must be")]
    Json,
    #[error("the token server's answer has neither access_token nor token")]
    NoToken,
    #[error("the token has characters that no header may have")]
    Characters,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
    #[serde(default)]
    issued_at: Option<String>,
}

impl Answer {
    /// Reads an answer that came at `now` by our own clock, and was sent at `date` by the server's, where it says so.
    pub(super) fn parse(body: &[u8], now: SystemTime, date: Option<SystemTime>) -> Result<Self, AnswerError> {
        let wire: Wire = serde_json::from_slice(body).map_err(|_| AnswerError::Json)?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let token = given(wire.access_token).or(given(wire.token)).ok_or(AnswerError::NoToken)?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AnswerError::Characters);
        }
        let lifetime = wire.expires_in.filter(|seconds| *seconds > 0.0);
        let lifetime = lifetime.map_or(DEFAULT_LIFETIME, |seconds| {
            Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIFETIME).min(MAX_LIFETIME)
        });
        // Both by the server's clock, where it can be: a client whose clock is wrong shall not get a token for each request.
        let issued =
            wire.issued_at.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map(SystemTime::from);
        let age =
            issued.and_then(|issued| date.unwrap_or(now).duration_since(issued).ok()).unwrap_or_default();
        let expires_at = lifetime
            .checked_sub(age)
            .filter(|left| !left.is_zero())
            .and_then(|left| now.checked_add(left.saturating_sub(MARGIN.min(left / 4))));
        Ok(Self { token: token.into(), refresh: given(wire.refresh_token).map(Secret::from), expires_at })
    }
}

/// What is kept for one grant.
#[derive(Debug, Default)]
pub(super) struct Slot {
    answer: Option<Answer>,
    refresh: Option<Secret>,
}

impl Slot {
    /// The token, if it holds and is not the one that was refused.
    pub(super) fn valid(&self, now: SystemTime, refused: Option<&str>) -> Option<Secret> {
        let answer = self.answer.as_ref()?;
        let holds = answer.expires_at.is_some_and(|expires_at| expires_at > now);
        (holds && refused != Some(answer.token.reveal())).then(|| answer.token.clone())
    }

    /// Whether there is anything in it that could be used yet.
    fn is_of_use(&self, now: SystemTime) -> bool {
        self.refresh.is_some() || self.valid(now, None).is_some()
    }

    /// Takes the refresh token: one that is refused is not tried again.
    pub(super) fn take_refresh(&mut self) -> Option<Secret> {
        self.refresh.take()
    }

    /// Keeps an answer, and gives its token.
    pub(super) fn keep(&mut self, answer: Answer) -> Secret {
        let token = answer.token.clone();
        self.refresh.clone_from(&answer.refresh);
        self.answer = Some(answer);
        token
    }
}

/// The tokens of one registry. A slot's lock is held while its token is fetched.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Grant, Arc<Mutex<Slot>>>>,
}

impl Tokens {
    /// The slot of a grant. Where it is a new one, those that are of no use any more go.
    pub(super) async fn slot(&self, grant: &Grant, now: SystemTime) -> Arc<Mutex<Slot>> {
        let mut slots = self.slots.lock().await;
        if let Some(slot) = slots.get(grant) {
            return Arc::clone(slot);
        }
        // Who has one at hand fetches its token at the moment.
        let is_at_hand = |slot: &Arc<Mutex<Slot>>| Arc::strong_count(slot) > 1;
        slots.retain(|_, slot| is_at_hand(slot) || slot.try_lock().map_or(true, |slot| slot.is_of_use(now)));
        if slots.len() >= MAX_REMEMBERED {
            slots.retain(|_, slot| is_at_hand(slot));
        }
        Arc::clone(slots.entry(grant.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-11-21T12:00:00Z";

    fn at(seconds: u64) -> SystemTime {
        let noon: jiff::Timestamp = NOON.parse().expect("a time");
        SystemTime::from(noon) + Duration::from_secs(seconds)
    }

    #[test]
    fn how_long_tokens_hold() {
        for (more, date, expected) in [
            ("", None, Some(50)),
            (r#","expires_in":0"#, None, Some(50)),
            (r#","expires_in":-5"#, None, Some(50)),
            (r#","expires_in":null"#, None, Some(50)),
            (r#","expires_in":300"#, None, Some(290)),
            (r#","expires_in":300.0"#, None, Some(290)),
            (r#","expires_in":8"#, None, Some(6)),
            (r#","expires_in":1e300"#, None, Some(24 * 60 * 60 - 10)),
            (r#","expires_in":300,"issued_at":"2026-11-21T11:59:00Z""#, None, Some(230)),
            (r#","expires_in":300,"issued_at":"2026-11-21T12:59:00+01:00""#, None, Some(230)),
            (r#","expires_in":300,"issued_at":"2026-11-21T11:59:00.123456789Z""#, Some(0), Some(230)),
            // Our clock is an hour ahead, or behind; that of the server counts.
            (r#","expires_in":300,"issued_at":"2026-11-21T11:00:00Z""#, None, None),
            (r#","expires_in":300,"issued_at":"2026-11-21T12:30:00Z""#, None, Some(290)),
            (r#","expires_in":300,"issued_at":"2026-11-21T12:30:00Z""#, Some(1860), Some(230)),
            (r#","expires_in":300,"issued_at":"yesterday""#, None, Some(290)),
        ] {
            let body = format!(r#"{{"token":"t"{more}}}"#);
            let answer = Answer::parse(body.as_bytes(), at(0), date.map(at)).expect(&body);
            let mut slot = Slot::default();
            assert_eq!(slot.keep(answer).reveal(), "t");
            match expected {
                Some(seconds) => {
                    assert!(slot.valid(at(seconds - 1), None).is_some(), "{body}");
                    assert_eq!(slot.valid(at(seconds + 1), None), None, "{body}");
                    assert_eq!(slot.valid(at(0), Some("t")), None, "{body}");
                    assert!(slot.valid(at(0), Some("u")).is_some(), "{body}");
                }
                None => assert_eq!(slot.valid(at(0), None), None, "{body}"),
            }
        }
    }

    #[test]
    fn answers() {
        let parse = |body: &str| Answer::parse(body.as_bytes(), at(0), None);
        let token = |body: &str| parse(body).map(|answer| answer.token.reveal().to_owned());
        assert_eq!(token(r#"{"token":"a","access_token":"b"}"#), Ok("b".into()));
        assert_eq!(token(r#"{"token":"a","access_token":""}"#), Ok("a".into()));
        for (body, error) in [
            ("{}", AnswerError::NoToken),
            (r#"{"token":""}"#, AnswerError::NoToken),
            (r#"{"token":null,"refresh_token":"r"}"#, AnswerError::NoToken),
            ("<html>", AnswerError::Json),
            (r#"{"token":["canary"]}"#, AnswerError::Json),
            (r#"{"token":"a\r\nX: y"}"#, AnswerError::Characters),
        ] {
            assert_eq!(token(body), Err(error), "{body}");
        }
        let mut slot = Slot::default();
        slot.keep(parse(r#"{"token":"canary","refresh_token":"canary"}"#).expect("an answer"));
        assert!(!format!("{slot:?}").contains("canary"));
        assert_eq!(slot.take_refresh(), Some(Secret::from("canary")));
        assert_eq!(slot.take_refresh(), None);
    }

    #[tokio::test]
    async fn tokens_of_no_use_are_forgotten_and_all_are_bounded() {
        let grant = |scope: &str| Grant::new("r", None, [scope].into_iter(), Audience::new("h"));
        let answer = |body: &str| Answer::parse(body.as_bytes(), at(0), None).expect("an answer");
        let tokens = Tokens::default();
        for (scope, body) in [
            ("short", r#"{"token":"t"}"#),
            ("long", r#"{"token":"t","expires_in":3600}"#),
            ("refreshed", r#"{"token":"t","refresh_token":"r"}"#),
        ] {
            tokens.slot(&grant(scope), at(0)).await.lock().await.keep(answer(body));
        }
        let held = tokens.slot(&grant("held"), at(0)).await;
        drop(tokens.slot(&grant("new"), at(100)).await);
        let known = async |scope: &str| tokens.slots.lock().await.contains_key(&grant(scope));
        for (scope, expected) in
            [("short", false), ("long", true), ("refreshed", true), ("held", true), ("new", true)]
        {
            assert_eq!(known(scope).await, expected, "{scope}");
        }
        {
            let mut slots = tokens.slots.lock().await;
            for number in 0..MAX_REMEMBERED {
                let mut slot = Slot::default();
                slot.keep(answer(r#"{"token":"t","expires_in":3600}"#));
                slots.insert(grant(&number.to_string()), Arc::new(Mutex::new(slot)));
            }
        }
        drop(tokens.slot(&grant("last"), at(100)).await);
        assert!(tokens.slots.lock().await.len() <= MAX_REMEMBERED);
        assert!(known("held").await && known("last").await);
        drop(held);
    }

    #[test]
    fn scopes_are_merged() {
        let wanted = "repository:b:pull  repository:a:pull,push".split(' ');
        let asked = "repository:a:pull,push repository:a:pull".split(' ');
        let grant = Grant::new("r", Some("s"), wanted.chain(asked), Audience::new("h"));
        assert_eq!(grant.scopes, ["repository:a:pull", "repository:a:pull,push", "repository:b:pull"]);
    }
}
