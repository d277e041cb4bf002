//! A proxy in front of a server that does on the way what networks and hostile registries do: resets, stalls, wrong lengths and ranges,
//! other content, other answers. A plan decides by the request, so that one seed gives the same faults each time; a ledger counts what
//! passed.
//!
//! It speaks HTTP/1.1 to any server and opens a connection to it for each request. It does not look into bodies, passes them on as they
//! come, and knows nothing of TLS.
//!
//! ```text
//! client ── request head ──> plan ── fault? ──> server
//!        <── its bytes, or others, or none ────
//! ```

mod fault;
mod head;
mod ledger;
pub mod plan;
mod relay;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{net::TcpListener, task::JoinSet};

use self::ledger::Ledger;
pub use self::{
    fault::{Fault, RETRY_AFTER, Splice, challenge, redirect, retry_after},
    ledger::Passed,
};
use crate::fake::Request;

/// A request, and how many of its method and path there were before it. The names of uploads are no part of the path for that.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Asked {
    /// The request, without its body.
    pub request: Request,
    /// 0 for the first.
    pub nth: u64,
}

type Plan = dyn Fn(&Asked) -> Option<Fault> + Send + Sync;

pub(super) struct Shared {
    upstream: String,
    plan: Box<Plan>,
    is_calm: AtomicBool,
    ledger: Ledger,
}

/// The proxy. It and all of its connections end when this is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { upstream, ledger, .. } = &*self.shared;
        let mut shown = f.debug_struct("FaultProxy");
        shown.field("address", &self.address).field("upstream", upstream).field("ledger", ledger);
        shown.finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// Listens on a free loopback port, in front of the server at `upstream`, with the faults of `plan`.
    ///
    /// # Panics
    /// When there is no loopback.
    pub async fn start(
        upstream: &str,
        plan: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            plan: Box::new(plan),
            is_calm: AtomicBool::new(false),
            ledger: Ledger::default(),
        });
        let accepting = Arc::clone(&shared);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            // Within the task, so that they end with it.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                connections.spawn(async move { drop(relay::serve(client, &shared).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, shared, _connections: connections }
    }

    /// The address as it stands in a reference.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The reference of a repository and tag behind it.
    pub fn reference(&self, repository_and_tag: &str) -> String {
        format!("{}/{repository_and_tag}", self.address)
    }

    /// Lets every request pass that comes from now on.
    pub fn calm(&self) {
        self.shared.is_calm.store(true, Ordering::SeqCst);
    }

    /// Every request so far and what became of it, in their order.
    pub fn passed(&self) -> Vec<Passed> {
        self.shared.ledger.all()
    }

    /// The kinds of the faults that happened, in their order.
    pub fn faults(&self) -> Vec<&'static str> {
        let happened = self.passed().into_iter().filter(|passed| passed.happened);
        happened.filter_map(|passed| passed.fault.map(|fault| fault.kind())).collect()
    }

    /// How many bytes of bodies went to the client for paths that contain `part`.
    pub fn served(&self, part: &str) -> u64 {
        self.shared.ledger.sum(part, |passed| passed.served)
    }

    /// How many bytes of bodies were taken from the client for paths that contain `part`.
    pub fn taken(&self, part: &str) -> u64 {
        self.shared.ledger.sum(part, |passed| passed.taken)
    }
}
