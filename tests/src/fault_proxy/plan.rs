//! Which request meets which fault: decided by a seed, the method, the path and how often that was asked, never by the time. One seed
//! gives one client that asks in one order the same faults each time.

use std::time::Duration;

use super::{
    Asked,
    fault::{self, Fault, Splice},
};

/// Random numbers that are the same for the same beginning (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Begins with a seed and what is asked. The names that a server makes up for uploads are left out: they are others each time.
    pub fn of(seed: u64, asked: &Asked) -> Self {
        let path = asked.request.path.split('?').next().unwrap_or_default();
        let path = path.split_once("/uploads/").map_or(path, |(before, _)| before);
        let mut state = Self(seed);
        for byte in asked.request.method.bytes().chain(path.bytes()).chain(asked.nth.to_le_bytes()) {
            state.0 ^= u64::from(byte);
            state.draw();
        }
        state
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }
}

/// Resets each connection after `bytes` of a body, an eighth more or less, whichever way it goes.
pub fn resets_every(bytes: u64, seed: u64) -> impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static {
    move |asked| {
        let jitter = Random::of(seed, asked).below(bytes / 4 + 1);
        let at = bytes - bytes / 8 + jitter;
        Some(if asked.request.method == "GET" { Fault::ResetAnswer(at) } else { Fault::ResetRequest(at) })
    }
}

/// Faults of every kind, for about every third request.
#[derive(Clone, Debug)]
pub struct Mixed {
    seed: u64,
    /// Bodies are about so long, so that offsets within them are.
    body: u64,
    /// Where redirects lead: the same content on another origin.
    elsewhere: Option<String>,
}

impl Mixed {
    /// Faults for bodies of about `body` bytes.
    pub fn new(seed: u64, body: u64) -> Self {
        Self { seed, body, elsewhere: None }
    }

    /// Redirects to this host and port too, where the same is.
    #[must_use]
    pub fn with_elsewhere(mut self, address: &str) -> Self {
        self.elsewhere = Some(address.to_owned());
        self
    }

    /// The plan.
    pub fn plan(self) -> impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static {
        move |asked| self.fault(asked)
    }

    fn fault(&self, asked: &Asked) -> Option<Fault> {
        let mut random = Random::of(self.seed, asked);
        // What concerns parts of bodies would hardly ever meet one, were all requests alike.
        let is_blob = asked.request.method == "GET" && asked.request.path.contains("/blobs/sha256:");
        let is_part = asked.request.header("range").is_some();
        if random.below(if is_blob { 2 } else { 4 }) != 0 {
            return None;
        }
        let at = random.below(self.body);
        let form = usize::try_from(random.draw() % 1000).unwrap_or(0);
        let sends = matches!(asked.request.method.as_str(), "PUT" | "PATCH");
        let draw = match random.below(if is_blob { 32 } else { 20 }) {
            draw if is_part && draw % 4 != 0 => 9 + random.below(2),
            20.. => [0, 1, 4, 8][form % 4],
            draw => draw,
        };
        Some(match draw {
            0 | 1 if sends => Fault::ResetRequest(at),
            0 | 1 => Fault::ResetAnswer(at),
            2 => Fault::LoseAnswer,
            3 => Fault::Stall(at),
            4 => Fault::Truncate(at),
            5 => Fault::Shorten(1 + at % 7),
            6 => Fault::Lengthen(1 + at % 7),
            7 => Fault::Flip(at),
            8 => Fault::Drip(1 + usize::try_from(self.body / 4).unwrap_or(0), Duration::from_millis(2)),
            9 => Fault::IgnoreRange,
            10 => {
                let splices = [Splice::First, Splice::Last, Splice::Total, Splice::Junk, Splice::Missing];
                Fault::Splice(splices[form % splices.len()])
            }
            11 => fault::retry_after(429, form),
            12 => fault::retry_after([500, 502, 503, 504][form % 4], form / 4),
            // A burst: this one and all of the kind that come after it, up to a few.
            13 if asked.nth < 2 => fault::retry_after(503, 0),
            14 => fault::challenge(&format!(
                r#"Bearer realm="https://169.254.169.254/token",scope="repository:x{form}:pull""#
            )),
            15 => fault::challenge("Basic realm=\"nobody knows\""),
            16 => fault::redirect(["file:///etc/passwd", "http://", "//[", "ftp://127.0.0.1/x"][form % 4]),
            17 => Fault::Header("Docker-Content-Digest", Some(format!("sha256:{form:064x}"))),
            18 => Fault::Header("Location", None),
            _ => match &self.elsewhere {
                Some(elsewhere) if !sends && asked.request.method != "POST" => {
                    fault::redirect(&format!("http://{elsewhere}{}", asked.request.path))
                }
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fake::Request;

    fn asked(method: &str, path: &str, nth: u64) -> Asked {
        let head = format!("{method} {path} HTTP/1.1\r\n\r\n");
        Asked { request: Request::parse(head), nth }
    }

    #[test]
    fn one_seed_gives_one_plan() {
        let faults = |seed| {
            let plan = Mixed::new(seed, 1000).with_elsewhere("h:1").plan();
            (0..200).map(|nth| format!("{:?}", plan(&asked("GET", "/v2/x/blobs/y", nth)))).collect::<Vec<_>>()
        };
        assert_eq!(faults(1), faults(1));
        assert_ne!(faults(1), faults(2));
        let upload = |id: &str| {
            let path = format!("/v2/x/blobs/uploads/{id}?a=b");
            Random::of(1, &asked("PATCH", &path, 3)).draw()
        };
        assert_eq!(upload("one"), upload("two"));
    }

    #[test]
    fn every_kind_comes_up() {
        let plan = Mixed::new(7, 1000).with_elsewhere("h:1").plan();
        let requests = (0..4000).map(|nth| asked(["GET", "PUT"][usize::from(nth % 2 == 0)], "/v2/x", nth));
        let met: Vec<Option<Fault>> = requests.map(|asked| plan(&asked)).collect();
        let share = met.iter().flatten().count();
        assert!((800..1100).contains(&share), "{share}");
        let kinds: BTreeSet<&str> = met.iter().flatten().map(Fault::kind).collect();
        assert_eq!(kinds.len(), 13, "{kinds:?}");
    }

    #[test]
    fn resets_are_jittered_within_bounds() {
        let plan = resets_every(800, 3);
        let mut places = BTreeSet::new();
        for nth in 0..100 {
            match plan(&asked("GET", "/x", nth)) {
                Some(Fault::ResetAnswer(at)) => places.insert(at),
                other => panic!("{other:?}"),
            };
        }
        assert!(places.len() > 30 && places.iter().all(|at| (700..=900).contains(at)), "{places:?}");
        assert!(matches!(plan(&asked("PATCH", "/x", 0)), Some(Fault::ResetRequest(_))));
    }
}
