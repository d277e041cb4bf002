//! The token server of the tests as a program, for registries that are programs too: docker-registry takes its tokens by
//! `REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE`.
//!
//! Tells its realm on the first line and every request, without secrets, on a line of its own. Ends with its standard input.

use std::{
    error::Error,
    io::{Read, Write, stdout},
    path::PathBuf,
    time::Duration,
};

use tokio::net::TcpListener;
use wharf_tests::token_server::{Scope, TokenOptions, TokenRequest, TokenServer};

const USAGE: &str = "usage: token_server --account USER:PASSWORD[:SCOPE]... --root-cert FILE [--service NAME] [--issuer NAME] \
                     [--expires-in SECONDS] [--anonymous SCOPE]... [--without-oauth STATUS] [--listen ADDRESS:PORT]";

struct Arguments {
    options: TokenOptions,
    listen: String,
    root_certificate: Option<PathBuf>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn Error>> {
    let mut options = TokenOptions::new();
    let (mut listen, mut root_certificate) = ("127.0.0.1:0".to_owned(), None);
    let mut anonymous: Vec<Scope> = Vec::new();
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} wants a value; {USAGE}"))?;
        match flag.as_str() {
            "--account" => {
                let (user, rest) =
                    value.split_once(':').ok_or("an account is USER:PASSWORD or USER:PASSWORD:SCOPE")?;
                let (password, allowed) = match rest.split_once(':') {
                    Some((password, scope)) => (password, vec![scope.parse()?]),
                    None => (rest, Vec::new()),
                };
                options = options.with_account(user, password, &allowed);
            }
            "--anonymous" => anonymous.push(value.parse()?),
            "--root-cert" => root_certificate = Some(PathBuf::from(value)),
            "--service" => options.service = value,
            "--issuer" => options.issuer = value,
            "--expires-in" => {
                let seconds = value.parse()?;
                options = options.with_lifetime(Some(seconds), Duration::from_secs(seconds));
            }
            "--without-oauth" => options = options.without_oauth(value.parse()?),
            "--listen" => listen = value,
            _ => return Err(format!("{flag} is not known; {USAGE}").into()),
        }
    }
    if !anonymous.is_empty() {
        options = options.with_anonymous(&anonymous);
    }
    Ok(Arguments { options, listen, root_certificate })
}

/// Prints a line at once. Nobody may be reading any more.
fn say(line: &str) {
    let mut out = stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

fn tell(request: &TokenRequest) {
    let TokenRequest { method, grant, user, scopes, status, .. } = request;
    let words = user.iter().chain(scopes).map(|word| word.escape_debug().to_string()).collect::<Vec<_>>();
    say(&format!("{method} {status} {} {}", grant.as_str(), words.join(" ")));
}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { options, listen, root_certificate } = parse(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _server = runtime.block_on(async {
        let listener = TcpListener::bind(&listen)
            .await
            .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
        let server = TokenServer::serve(listener, options, tell);
        if let Some(path) = root_certificate {
            std::fs::write(&path, server.root_certificate())
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        say(&format!("token server: {}", server.realm()));
        Ok::<_, Box<dyn Error>>(server)
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
