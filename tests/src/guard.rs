//! A guard in front of a registry: who brings no token of a token server, or not a user's name and password, is answered 401 and told
//! where to get one. The registry behind it asks nobody for anything.

use std::sync::Arc;

use crate::{
    fake::{Reply, Request},
    fault_proxy::{Asked, Fault, FaultProxy, Passed},
    token_server::{Authority, Scope, TokenServer, basic},
};

/// What is demanded of a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Demand {
    /// A token for what the request does.
    Bearer {
        /// Where tokens are given.
        realm: String,
        /// Who gave them.
        authority: Arc<Authority>,
    },
    /// This user and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
}

impl Demand {
    /// Tokens of a server.
    pub fn bearer(tokens: &TokenServer) -> Self {
        Self::Bearer { realm: tokens.realm(), authority: tokens.authority() }
    }

    /// One user's name and password.
    pub fn basic(user: &str, password: &str) -> Self {
        Self::Basic { user: user.to_owned(), password: password.to_owned() }
    }

    /// The answer to a request that is not let through.
    pub fn refusal(&self, request: &Request) -> Option<Reply> {
        let authorization = request.header("authorization").unwrap_or_default();
        let challenge = match self {
            Self::Basic { user, password } => {
                let given = basic(authorization);
                if given.is_some_and(|given| (&given.0, &given.1) == (user, password)) {
                    return None;
                }
                r#"Basic realm="wharf-tests""#.to_owned()
            }
            Self::Bearer { realm, authority } => {
                let needed = needed(request);
                let token = authorization.strip_prefix("Bearer ");
                if token.is_some_and(|token| authority.allows(token, &needed)) {
                    return None;
                }
                let scopes: Vec<String> = needed.iter().map(Scope::to_string).collect();
                let mut challenge = format!(r#"Bearer realm="{realm}",service="{}""#, authority.service());
                if !scopes.is_empty() {
                    challenge.push_str(&format!(r#",scope="{}""#, scopes.join(" ")));
                }
                if token.is_some() {
                    challenge.push_str(r#",error="insufficient_scope""#);
                }
                challenge
            }
        };
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        let body = if request.method == "HEAD" { "" } else { body };
        Some(Reply::new(401, &[("WWW-Authenticate", &challenge)], body))
    }
}

/// What a request must be allowed to do.
pub fn needed(request: &Request) -> Vec<Scope> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let Some(path) = path.strip_prefix("/v2/") else { return Vec::new() };
    if path == "_catalog" {
        return "registry:catalog:*".parse().into_iter().collect();
    }
    let ends = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    let Some(end) = ends.into_iter().filter_map(|end| path.rfind(end)).max() else { return Vec::new() };
    // An upload may have any of these words in its name, and a repository too: the last one ends the repository.
    let end = path.find("/blobs/uploads/").unwrap_or(end);
    let actions: &[&str] = match request.method.as_str() {
        // Whoever asks how far an upload is may write.
        _ if path.contains("/blobs/uploads/") => &["pull", "push"],
        "GET" | "HEAD" => &["pull"],
        "DELETE" => &["delete"],
        _ => &["pull", "push"],
    };
    let mut needed = vec![Scope::repository(&path[..end], actions)];
    let from = query.split('&').find_map(|pair| pair.strip_prefix("from="));
    if let Some(from) = from {
        let from = percent_encoding::percent_decode_str(from).decode_utf8_lossy();
        needed.push(Scope::repository(&from, &["pull"]));
    }
    needed
}

/// The guard, which may have faults of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Guard {
    /// The proxy that it is: its address, and what passed.
    pub proxy: FaultProxy,
}

impl Guard {
    /// Stands in front of the registry at `upstream`.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start(upstream: &str, demand: Demand) -> Self {
        Self::start_with(upstream, demand, |_| None).await
    }

    /// As [`Guard::start`]; what is let through meets the faults of `plan`.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start_with(
        upstream: &str,
        demand: Demand,
        plan: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let plan = move |asked: &Asked| match demand.refusal(&asked.request) {
            Some(refusal) => Some(Fault::Answer(refusal)),
            None => plan(asked),
        };
        Self { proxy: FaultProxy::start(upstream, plan).await }
    }

    /// The address as it stands in a reference.
    pub fn address(&self) -> String {
        self.proxy.address()
    }

    /// The reference of a repository and tag behind it.
    pub fn reference(&self, repository_and_tag: &str) -> String {
        self.proxy.reference(repository_and_tag)
    }

    /// The requests that were let through.
    pub fn admitted(&self) -> Vec<Passed> {
        self.proxy.passed().into_iter().filter(|passed| passed.status != Some(401)).collect()
    }

    /// How many requests were refused.
    pub fn refused(&self) -> usize {
        self.proxy.passed().iter().filter(|passed| passed.status == Some(401)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_must_be_allowed() {
        for (method, path, expected) in [
            ("GET", "/v2/", ""),
            ("GET", "/v2/_catalog?n=3", "registry:catalog:*"),
            ("HEAD", "/v2/a/b/manifests/1", "repository:a/b:pull"),
            ("GET", "/v2/blobs/manifests/x/blobs/sha256:0", "repository:blobs/manifests/x:pull"),
            ("GET", "/v2/a/tags/list?n=1", "repository:a:pull"),
            ("GET", "/v2/a/referrers/sha256:0", "repository:a:pull"),
            ("PUT", "/v2/a/manifests/1", "repository:a:pull,push"),
            ("PATCH", "/v2/a/blobs/uploads/tags/x", "repository:a:pull,push"),
            ("GET", "/v2/a/blobs/uploads/1", "repository:a:pull,push"),
            ("DELETE", "/v2/a/manifests/1", "repository:a:delete"),
            (
                "POST",
                "/v2/a/blobs/uploads/?mount=x&from=team%2Fb",
                "repository:a:pull,push repository:team/b:pull",
            ),
        ] {
            let request = Request::parse(format!("{method} {path} HTTP/1.1\r\n\r\n"));
            let texts: Vec<String> = needed(&request).iter().map(Scope::to_string).collect();
            assert_eq!(texts.join(" "), expected, "{method} {path}");
        }
    }
}
