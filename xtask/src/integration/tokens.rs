//! A docker-registry that wants tokens, and the token server of the tests that gives them.

use std::time::Duration;

use super::World;
use crate::failure::{Result, ensure};
use crate::process::{Daemon, Tool};
use crate::registry::{Options, Registry, TokenAuth};

/// How long the token server has for telling where it is.
const READY: Duration = Duration::from_secs(20);

/// What the server says before its address.
const TOLD: &str = "token server: ";

/// What registry and token server call each other.
const NAME: &str = "wharf-tests";

/// Who may do everything.
pub(super) const WRITER: (&str, &str) = ("writer", "may-write");

/// Who may pull what is in `library/`.
pub(super) const READER: (&str, &str) = ("reader", "may-read");

/// Both at work.
#[derive(Debug)]
pub(super) struct Guarded {
    /// The registry, with the images of the world's.
    pub(super) registry: Registry,
    server: Daemon,
}

/// A token that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The status of the answer.
    pub(super) status: u16,
    /// Who asked; nobody for `anonymous`.
    pub(super) user: String,
    /// The scopes that were asked for.
    pub(super) scopes: Vec<String>,
}

impl Guarded {
    /// Starts them.
    pub(super) fn start(world: &World, name: &str) -> Result<Self> {
        let program = world.workspace.build_token_server()?;
        let certificates = world.dir(name)?.join("tokens.pem");
        let ((writer, secret), (reader, open)) = (WRITER, READER);
        let tool = Tool::new(program)
            .args(["--account", &format!("{writer}:{secret}")])
            .args(["--account", &format!("{reader}:{open}:repository:library/*:pull")])
            .args(["--service", NAME, "--issuer", NAME, "--root-cert"])
            .arg(&certificates);
        let mut server = Daemon::start("token-server", tool, &world.dir(name)?)?;
        let realm = server.ready(READY, |server| {
            let said = server.stdout();
            said.lines().find_map(|line| line.strip_prefix(TOLD).map(str::to_owned))
        })?;
        let tokens = TokenAuth { realm, service: NAME.to_owned(), issuer: NAME.to_owned(), certificates };
        let registry = world.twin_registry(name, &Options::default().with_tokens(tokens))?;
        Ok(Self { registry, server })
    }

    /// What the token server was asked for so far.
    pub(super) fn asked(&self) -> Result<Vec<Asked>> {
        let said = self.server.stdout();
        let asked: Vec<_> = said.lines().filter_map(asked).collect();
        ensure(!asked.is_empty(), || format!("nobody asked the token server for anything:\n{said}"))?;
        Ok(asked)
    }
}

/// `GET|POST STATUS anonymous|basic|password|refresh_token [USER] [SCOPE …]`
fn asked(line: &str) -> Option<Asked> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let _method = words.next().filter(|method| method == "GET" || method == "POST")?;
    let status = words.next()?.parse().ok()?;
    let _kind = words.next()?;
    let (scopes, users): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with("repository:"));
    Some(Asked { status, user: users.into_iter().next().unwrap_or_default(), scopes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_server_are_read() {
        let read = |line: &str| asked(line).map(|asked| (asked.status, asked.user, asked.scopes));
        let scopes = |all: &[&str]| all.iter().map(|scope| (*scope).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            read("POST 200 password me repository:a/b:pull,push repository:c:pull"),
            Some((200, "me".to_owned(), scopes(&["repository:a/b:pull,push", "repository:c:pull"])))
        );
        assert_eq!(
            read("GET 401 anonymous repository:a:pull"),
            Some((401, String::new(), scopes(&["repository:a:pull"])))
        );
        assert_eq!(read("token server: http://127.0.0.1:1/token"), None);
    }
}
