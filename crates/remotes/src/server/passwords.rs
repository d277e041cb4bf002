//! Who may use the registry: users and hashed passwords in a file, as `htpasswd -B` writes it (RFC 7617; docker-registry's `auth.htpasswd`).

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, StatusCode, header, request::Parts};
use tokio::sync::Semaphore;
use wharf_content::{Digest, Error, Result, blocking};

use super::{
    refusal::{Code, Refusal},
    stamp::Stamp,
};

/// The most bytes of the file.
const MAX_LEN: u64 = 1024 * 1024;
/// The most bytes of a header with credentials.
const MAX_CREDENTIALS_LEN: usize = 8 * 1024;
/// How many passwords are hashed at the same time: each takes a core for a good while.
const HASHING: usize = 2;
/// The most users whose passwords are remembered as right.
const MAX_REMEMBERED: usize = 1024;
/// What is asked of who has shown nothing, or nothing right.
const CHALLENGE: &str = "Basic realm=\"wharf\", charset=\"UTF-8\"";

/// The users of a file. It is read again when it has changed.
pub struct Passwords {
    path: PathBuf,
    state: Mutex<Known>,
    hashing: Arc<Semaphore>,
    /// What remembered passwords are hashed with: drawn anew for each process.
    salt: [u8; 32],
}

/// What was read, and which of it was shown to be right.
#[derive(Clone, Default)]
struct Known {
    stamp: Option<Stamp>,
    users: Arc<HashMap<String, String>>,
    right: HashSet<Digest>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Passwords {
    /// Reads a file of lines `user:hash`, with hashes by bcrypt. Blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for a file that cannot be read, is larger than 1 MiB, or has a line that is no such one; it names the line, and never
    /// quotes a hash.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let mut salt = [0; 32];
        getrandom::fill(&mut salt)
            .map_err(|error| Error::internal("the system has no randomness").with_source(error))?;
        let state = Mutex::new(Known::read(&path)?);
        Ok(Self { path, state, hashing: Arc::new(Semaphore::new(HASHING)), salt })
    }

    /// The user whom a request shows itself to be of.
    pub(super) async fn admit(self: &Arc<Self>, head: &Parts) -> Result<String, Refusal> {
        let Some((user, password)) = head.headers.get(header::AUTHORIZATION).and_then(credentials) else {
            return Err(unauthorised("this registry wants a user and a password"));
        };
        let own = Arc::clone(self);
        let known = blocking::run(move || Ok(own.known())).await?;
        let hash = known.users.get(&user).cloned();
        let shown = [user.as_bytes(), password.as_bytes(), hash.as_deref().unwrap_or_default().as_bytes()];
        let seen = Digest::sha256(&[&self.salt[..], &shown.join(&0)].concat());
        if hash.is_some() && known.right.contains(&seen) {
            return Ok(user);
        }
        // It takes as long to say no to a user who is not there.
        let Some(against) = hash.clone().or_else(|| known.users.values().next().cloned()) else {
            return Err(unauthorised("the user or the password is wrong"));
        };
        // The semaphore is never closed. The place goes along: who asks may leave, and the hashing goes on.
        let place = Arc::clone(&self.hashing).acquire_owned().await.ok();
        let is_right = blocking::run(move || {
            let _place = place;
            Ok(bcrypt::verify(password, &against).unwrap_or(false))
        })
        .await?;
        if !is_right || hash.is_none() {
            return Err(unauthorised("the user or the password is wrong"));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.right.len() >= MAX_REMEMBERED {
            state.right.clear();
        }
        state.right.insert(seen);
        Ok(user)
    }

    /// The file as it is now. One that cannot be read any more is taken as it was.
    fn known(&self) -> Known {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path).ok();
        if stamp != state.stamp {
            match Known::read(&self.path) {
                Ok(known) => *state = known,
                Err(error) => tracing::warn!(error = %error.report(), "the users stay as they were"),
            }
            // Whatever came of it: the same file is not read, nor told of, a second time.
            state.stamp = stamp;
        }
        state.clone()
    }
}

impl Known {
    fn read(path: &Path) -> Result<Self> {
        let refuse = |why: String| {
            Error::invalid_argument(format!("cannot use the password file {}: {why}", path.display()))
        };
        let stamp = Stamp::of(path).map_err(|error| refuse(error.to_string()))?;
        if stamp.size > MAX_LEN {
            return Err(refuse(format!("it is larger than {MAX_LEN} bytes")));
        }
        let text = fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = number + 1;
            let Some((user, hash)) = line.split_once(':').filter(|(user, _)| !user.is_empty()) else {
                return Err(refuse(format!("line {place} is no user:hash")));
            };
            let is_bcrypt = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix));
            if !is_bcrypt || hash.parse::<bcrypt::HashParts>().is_err() {
                return Err(refuse(format!("line {place} has no hash by bcrypt: make it with htpasswd -B")));
            }
            if users.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(refuse(format!("line {place} has the user of a line before it")));
            }
        }
        Ok(Self { stamp: Some(stamp), users: Arc::new(users), right: HashSet::new() })
    }
}

/// Reads `Basic` credentials. The scheme is of any case.
fn credentials(value: &HeaderValue) -> Option<(String, String)> {
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_CREDENTIALS_LEN)?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn unauthorised(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message)
        .with_header(header::WWW_AUTHENTICATE, CHALLENGE)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::mpsc, task::Poll};

    use tokio::{runtime::Builder, task};

    use super::*;

    #[test]
    fn credentials_as_clients_send_them() {
        let read = |text: &str| credentials(&HeaderValue::from_str(text).expect("a header"));
        let encoded = |text: &str| STANDARD.encode(text);
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(read(&format!("Basic {}", encoded("a:b:c"))), pair("a", "b:c"));
        assert_eq!(read(&format!("BASIC {}", encoded("ä:"))), pair("ä", ""));
        for bad in
            ["Basic", "Basic !", &format!("Bearer {}", encoded("a:b")), &format!("Basic {}", encoded("a"))]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read(&format!("Basic {}", encoded(&format!("a:{}", "x".repeat(9000))))), None);
    }

    #[test]
    fn files_that_are_refused_say_where_and_quote_no_hash() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("htpasswd");
        let good = bcrypt::hash("x", 4).expect("hashes");
        for (text, told) in [
            ("nonsense", "line 1 is no user:hash"),
            (":x", "line 1 is no user:hash"),
            ("# comment\n\na:{SHA}secret", "line 3 has no hash by bcrypt"),
            ("a:$apr1$secret$x", "line 1 has no hash by bcrypt"),
            ("a:$2y$10$secret", "line 1 has no hash by bcrypt"),
            (&format!("a:{good}\na:{good}"), "line 2 has the user of a line before"),
        ] {
            fs::write(&path, text).expect("writes");
            let error = Passwords::open(&path).expect_err(text).report();
            assert!(error.contains(told) && !error.contains("secret") && !error.contains(&good), "{error}");
        }
        fs::write(&path, format!("# users\na:{good}\nb:{good}\n")).expect("writes");
        assert_eq!(Passwords::open(&path).expect("opens").known().users.len(), 2);
        assert!(Passwords::open(dir.path().join("absent")).is_err());
    }

    #[test]
    fn who_leaves_while_a_password_is_hashed_gives_no_place_to_another() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("htpasswd");
        fs::write(&path, format!("a:{}\n", bcrypt::hash("x", 4).expect("hashes"))).expect("writes");
        let passwords = Arc::new(Passwords::open(&path).expect("opens"));
        let header = format!("Basic {}", STANDARD.encode("a:wrong"));
        let request = http::Request::builder().header("authorization", header).body(());
        let head = request.expect("a request").into_parts().0;
        let places = || passwords.hashing.available_permits();
        // What blocks is done by one thread, so that nothing is hashed while that waits.
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut leaves = Box::pin(passwords.admit(&head));
            // First it looks at the file, and what waits comes behind that.
            let let_go = poll_fn(|context| {
                let looking = passwords.state.lock().expect("no panic");
                assert!(leaves.as_mut().poll(context).is_pending());
                let (let_go, waits) = mpsc::channel::<()>();
                drop(task::spawn_blocking(move || waits.recv()));
                drop(looking);
                Poll::Ready(let_go)
            });
            let let_go = let_go.await;
            while places() == HASHING {
                assert!(poll_fn(|context| Poll::Ready(leaves.as_mut().poll(context).is_pending())).await);
                task::yield_now().await;
            }
            drop(leaves);
            task::yield_now().await;
            assert_eq!(places(), HASHING - 1, "its place is that of the hashing");
            drop(let_go);
            passwords.admit(&head).await.expect_err("wrong, and told so");
            assert_eq!(places(), HASHING);
        });
    }
}
