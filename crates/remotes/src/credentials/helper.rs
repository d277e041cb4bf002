//! Credential helpers: programs named `docker-credential-<name>` that keep credentials for others
//! (docker/docker-credential-helpers: the protocol is in its README and in `credentials/credentials.go`).
//!
//! ```text
//! get     stdin: server                              stdout: {"ServerURL":…,"Username":…,"Secret":…}
//! store   stdin: {"ServerURL":…,"Username":…,"Secret":…}
//! erase   stdin: server
//! list    stdin: nothing                             stdout: {"<server>": "<user>", …}
//! ```
//!
//! A helper is run without a shell, in a process group of its own, which is killed when it takes too long, says too much, or nobody
//! waits for it any more. What it says is not quoted where it could be a credential.

use std::{
    collections::BTreeMap, env, ffi::OsString, io, os::unix::fs::PermissionsExt, path::PathBuf,
    process::Stdio, time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{Instant, sleep, timeout, timeout_at},
};
use wharf_content::{Error, ErrorKind, Result};

use super::{environment::Environment, secret::Credential};

/// How long a helper may take by default.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// The most bytes that are read of what a helper says, on each of its outputs.
const MAX_LEN: usize = 64 * 1024;
/// How long the outputs may stay open when the helper itself has ended.
const GRACE: Duration = Duration::from_secs(1);
/// How long to wait before a program that somebody is just writing is tried again.
const BUSY: Duration = Duration::from_millis(10);
/// The user by whom a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Limits of credential helpers, and where they are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HelperOptions {
    /// Directories that are searched, as the variable `PATH` has them; what is not absolute is left out.
    pub search_path: OsString,
    /// How long a helper may take: 30 s by default.
    pub time_limit: Duration,
}

impl Default for HelperOptions {
    fn default() -> Self {
        Self { search_path: OsString::new(), time_limit: TIME_LIMIT }
    }
}

impl HelperOptions {
    /// Searches where an environment says.
    pub fn new(environment: &Environment) -> Self {
        Self { search_path: environment.variable("PATH").unwrap_or_default(), ..Self::default() }
    }

    /// Sets how long a helper may take.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }
}

/// A helper that is there.
#[derive(Clone, Debug)]
pub struct Helper {
    name: String,
    program: PathBuf,
    time_limit: Duration,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    #[serde(default, rename = "ServerURL")]
    server: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helper {
    /// Finds the helper of a name on the search path; `None` where there is none.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is not of the characters `a-z0-9._-`.
    pub fn find(name: &str, options: &HelperOptions) -> Result<Option<Self>> {
        if !is_name(name) {
            return Err(Error::invalid_argument(format!(
                "{name:?} is no name of a credential helper: a name has the characters a-z, 0-9, '.', '_' and '-' only"
            )));
        }
        let file = format!("docker-credential-{name}");
        let mut directories = env::split_paths(&options.search_path).filter(|path| path.is_absolute());
        let program = directories.find_map(|directory| {
            let program = directory.join(&file);
            let metadata = program.metadata().ok()?;
            (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(program)
        });
        let time_limit = options.time_limit;
        Ok(program.map(|program| Self { name: name.to_owned(), program, time_limit }))
    }

    /// The credential that the helper has for a server; `None` where it has none.
    ///
    /// # Errors
    /// `Unauthenticated` where it fails, says too much or what it must not; `Unavailable` where it takes too long.
    ///
    /// # Cancellation
    /// The helper is killed.
    pub async fn get(&self, server: &str) -> Result<Option<Credential>> {
        let Some(output) = self.run("get", self.server(server)?, None).await? else { return Ok(None) };
        // What does not parse is not quoted: it may hold a secret.
        let message: Message = serde_json::from_slice(&output)
            .map_err(|_| self.refuse("its answer is not the JSON it must be"))?;
        if message.secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(if message.username == TOKEN_USER {
            Credential::identity_token(message.secret)
        } else {
            Credential::password(message.username, message.secret)
        }))
    }

    /// Gives the helper a credential to keep.
    ///
    /// # Errors
    /// As [`Helper::get`]; `InvalidArgument` for a registry token, which helpers cannot keep.
    ///
    /// # Cancellation
    /// The helper is killed; the credential may be stored or not.
    pub async fn store(&self, server: &str, credential: &Credential) -> Result<()> {
        let username = match credential {
            Credential::Password { user, .. } => user.clone(),
            Credential::IdentityToken(_) => TOKEN_USER.to_owned(),
            Credential::RegistryToken(_) => {
                return Err(Error::invalid_argument("a credential helper cannot keep a registry token"));
            }
        };
        self.server(server)?;
        let secret = credential.secret().reveal().to_owned();
        let message = Message { server: server.to_owned(), username, secret };
        let input = serde_json::to_vec(&message)
            .map_err(|_| Error::internal("a credential cannot be written as JSON"))?;
        self.run("store", input, Some(credential)).await.map(drop)
    }

    /// Makes the helper forget a server. One that it does not know is forgotten already.
    ///
    /// # Errors
    /// As [`Helper::get`].
    ///
    /// # Cancellation
    /// The helper is killed; the credential may be there or not.
    pub async fn erase(&self, server: &str) -> Result<()> {
        self.run("erase", self.server(server)?, None).await.map(drop)
    }

    /// The servers that the helper has credentials for.
    ///
    /// # Errors
    /// As [`Helper::get`].
    ///
    /// # Cancellation
    /// The helper is killed.
    pub async fn list(&self) -> Result<Vec<String>> {
        let output = self.run("list", Vec::new(), None).await?.unwrap_or_default();
        let servers: BTreeMap<String, String> = serde_json::from_slice(&output)
            .map_err(|_| self.refuse("its list is not the JSON it must be"))?;
        Ok(servers.into_keys().collect())
    }

    /// A server as a helper is told it: on one line.
    fn server(&self, server: &str) -> Result<Vec<u8>> {
        if server.is_empty() || server.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Error::invalid_argument(format!(
                "the credential helper {:?} is not asked for {server:?}, which is no host",
                self.name
            )));
        }
        Ok(server.as_bytes().to_vec())
    }

    fn refuse(&self, why: &str) -> Error {
        let what = format!("the credential helper docker-credential-{} failed: {why}", self.name);
        Error::new(ErrorKind::Unauthenticated, what)
    }

    /// Runs the helper to its end and gives what it said; `None` where it says that it has no such credentials.
    async fn run(&self, action: &str, input: Vec<u8>, sent: Option<&Credential>) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + self.time_limit;
        let cannot = |error| {
            let what = format!("the credential helper docker-credential-{} cannot be run", self.name);
            Error::new(ErrorKind::Unauthenticated, what)
                .with_source(Error::io(self.program.display().to_string(), error))
        };
        let mut group = Group(self.spawn(action, deadline).await.map_err(cannot)?);
        let child = &mut group.0;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let talking = async {
            let writing = async {
                if let Some(mut stdin) = stdin {
                    // Who is not interested in the input closes it, which is no failure.
                    drop(stdin.write_all(&input).await);
                }
                Ok(())
            };
            tokio::try_join!(writing, read(stdout, &mut output), read(stderr, &mut errors)).is_ok()
        };
        let ended = {
            tokio::pin!(talking);
            let mut whole = None;
            let watching = async {
                loop {
                    tokio::select! {
                        is_whole = &mut talking, if whole.is_none() => {
                            if !is_whole {
                                return Err(self.refuse(&format!("it says more than {MAX_LEN} bytes")));
                            }
                            whole = Some(());
                        }
                        status = child.wait() => {
                            if whole.is_none() {
                                // A process that it left behind may keep the outputs open for ever.
                                if let Ok(false) = timeout(GRACE, &mut talking).await {
                                    return Err(self.refuse(&format!("it says more than {MAX_LEN} bytes")));
                                }
                            }
                            return status.map_err(cannot);
                        }
                    }
                }
            };
            timeout_at(deadline, watching).await
        };
        let status = ended.map_err(|_| {
            Error::unavailable(format!(
                "the credential helper docker-credential-{} did not answer within {:?}",
                self.name, self.time_limit
            ))
        })??;
        if status.success() {
            return Ok(Some(output));
        }
        // Helpers say what is wrong on standard output.
        let said = String::from_utf8_lossy(if output.is_empty() { &errors } else { &output }).into_owned();
        if is_no_credentials(&said) {
            return Ok(None);
        }
        Err(self.refuse(&match quotable(&said, sent) {
            Some(said) => format!("it says {said:?} ({status})"),
            None => format!("it ended with {status}"),
        }))
    }

    async fn spawn(&self, action: &str, deadline: Instant) -> io::Result<Child> {
        loop {
            let spawned = Command::new(&self.program)
                .arg(action)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .kill_on_drop(true)
                .spawn();
            match spawned {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline =>
                {
                    sleep(BUSY).await;
                }
                spawned => return spawned,
            }
        }
    }
}

/// A process and what it started. They are killed together, as long as the number is nobody else's: until the process is reaped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = id {
            // That it has ended already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a helper says is longer than the limit.
#[derive(Debug)]
struct TooLong;

/// Reads to the end, within the limit.
async fn read(pipe: Option<impl AsyncRead + Unpin>, bytes: &mut Vec<u8>) -> Result<(), TooLong> {
    let Some(pipe) = pipe else { return Ok(()) };
    // What was read before an error is as good as what a process wrote that was killed.
    let _ = pipe.take(MAX_LEN as u64 + 1).read_to_end(bytes).await;
    if bytes.len() <= MAX_LEN { Ok(()) } else { Err(TooLong) }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// What helpers say that have nothing (docker/docker-credential-helpers: `credentials/error.go`).
fn is_no_credentials(said: &str) -> bool {
    said.trim().starts_with("credentials not found in native keychain")
}

/// The first line of what a helper says, where it is no answer and holds nothing of what the helper was sent.
fn quotable(said: &str, sent: Option<&Credential>) -> Option<String> {
    const MOST: usize = 200;
    let line = said.trim().lines().next().unwrap_or_default();
    let is_leak = sent.is_some_and(|sent| line.contains(sent.secret().reveal()));
    if line.is_empty() || said.contains(['{', '}']) || is_leak {
        return None;
    }
    Some(line.chars().take(MOST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["desktop", "ecr-login", "osxkeychain", "a.b_c", "..", "2"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "../../evil", "a/b", "a b", "a\n", "Desktop", "a\0", "$(id)", "é", "a;b", "~"] {
            let error = Helper::find(bad, &HelperOptions::default()).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
        assert!(Helper::find("none", &HelperOptions::default()).expect("a name").is_none());
    }

    #[test]
    fn what_is_quoted_is_no_secret() {
        let sent = Credential::password("u", "canary");
        for (said, expected) in [
            ("error getting credentials\nmore", Some("error getting credentials")),
            ("", None),
            (r#"{"Secret":"canary"}"#, None),
            ("cannot store canary", None),
        ] {
            assert_eq!(quotable(said, Some(&sent)).as_deref(), expected, "{said}");
        }
        assert!(is_no_credentials("credentials not found in native keychain\n"));
        assert!(!is_no_credentials("cannot connect"));
    }
}
