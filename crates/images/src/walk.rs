//! Going through a graph: depth first one after the other, or in parallel under the caller's limit.
//!
//! Both visit each digest once, so that a diamond costs no more than its nodes and a cycle ends, and both have limits on depth and
//! number of nodes (containerd: `core/images/handlers.go`, which has neither).

use std::{collections::HashSet, sync::Arc};

use tokio::{sync::Semaphore, task::JoinSet};
use wharf_content::{Algorithm, Descriptor, Digest, Error, Result};

use crate::handler::{Flow, Handler};

/// How deep and how large a graph may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most steps from a root to a node; roots have depth 0.
    pub max_depth: usize,
    /// The most nodes that are visited.
    pub max_nodes: usize,
}

impl Limits {
    /// Indexes nest in practice two or three deep.
    pub const DEFAULT_MAX_DEPTH: usize = 64;
    /// A quarter of a million nodes: sixty thousand platforms of one layer.
    pub const DEFAULT_MAX_NODES: usize = 250_000;

    /// Sets the depth.
    #[must_use]
    pub fn with_max_depth(mut self, max_depth: usize) -> Self {
        self.max_depth = max_depth;
        self
    }

    /// Sets the number of nodes.
    #[must_use]
    pub fn with_max_nodes(mut self, max_nodes: usize) -> Self {
        self.max_nodes = max_nodes;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: Self::DEFAULT_MAX_DEPTH, max_nodes: Self::DEFAULT_MAX_NODES }
    }
}

/// Which nodes were seen, and whether one more may be visited.
#[derive(Debug)]
struct Visits {
    seen: Seen,
    limits: Limits,
}

impl Visits {
    fn new(limits: Limits) -> Self {
        Self { seen: Seen::default(), limits }
    }

    /// Whether the node is new. Fails where it is too deep or one too many.
    fn enter(&mut self, descriptor: &Descriptor, depth: usize) -> Result<bool> {
        if !self.seen.insert(&descriptor.digest) {
            return Ok(false);
        }
        if depth > self.limits.max_depth {
            return Err(Error::resource_exhausted(format!(
                "the image nests deeper than {} levels, at {}",
                self.limits.max_depth, descriptor.digest
            )));
        }
        if self.seen.len() > self.limits.max_nodes {
            return Err(Error::resource_exhausted(format!(
                "the image has more than {} parts, at {}",
                self.limits.max_nodes, descriptor.digest
            )));
        }
        Ok(true)
    }
}

/// A set of digests. Those of SHA-256, which nearly all are, take 32 bytes each in one table, so that a large graph stays in the caches
/// for longer than with as many strings.
#[derive(Debug, Default)]
struct Seen {
    sha256: HashSet<[u8; 32]>,
    others: HashSet<Digest>,
}

impl Seen {
    /// Adds a digest; whether it is new.
    fn insert(&mut self, digest: &Digest) -> bool {
        match sha256_bytes(digest) {
            Some(bytes) => self.sha256.insert(bytes),
            None => self.others.insert(digest.clone()),
        }
    }

    fn len(&self) -> usize {
        self.sha256.len() + self.others.len()
    }
}

fn sha256_bytes(digest: &Digest) -> Option<[u8; 32]> {
    if digest.algorithm() != Algorithm::Sha256 {
        return None;
    }
    // A digest has lower case digits only.
    let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
    let mut bytes = [0; 32];
    let (pairs, _) = digest.hex().as_bytes().as_chunks::<2>();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high) << 4 | value(*low);
    }
    Some(bytes)
}

/// Visits the graph below `roots` depth first, one node after the other.
///
/// # Errors
/// The first error of the handler; `ResourceExhausted` beyond the limits.
///
/// # Cancellation
/// What the handler has done so far remains.
pub async fn walk(handler: &dyn Handler, roots: &[Descriptor], limits: Limits) -> Result<()> {
    walk_counting(handler, roots, limits).await.map(drop)
}

/// As [`walk`], and an error when no handler ever gave a child.
///
/// # Errors
/// As [`walk`], and `NotFound` for an empty walk.
pub async fn walk_not_empty(handler: &dyn Handler, roots: &[Descriptor], limits: Limits) -> Result<()> {
    if walk_counting(handler, roots, limits).await? == 0 {
        return Err(Error::not_found("empty walk: no part of the image was chosen"));
    }
    Ok(())
}

async fn walk_counting(handler: &dyn Handler, roots: &[Descriptor], limits: Limits) -> Result<usize> {
    let mut visits = Visits::new(limits);
    let mut children_seen = 0;
    let mut stack: Vec<(Descriptor, usize)> = roots.iter().rev().map(|root| (root.clone(), 0)).collect();
    while let Some((descriptor, depth)) = stack.pop() {
        if !visits.enter(&descriptor, depth)? {
            continue;
        }
        if let Flow::Children(children) = handler.handle(&descriptor).await? {
            children_seen += children.len();
            stack.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
        }
    }
    Ok(children_seen)
}

/// Visits the graph below `roots`, siblings in parallel.
///
/// A slot of `limiter` is held during a handler's call only and never over the subtree, so that no depth can exhaust it.
///
/// # Errors
/// The first error of the handler, after the other calls were cancelled and have ended; `ResourceExhausted` beyond the limits.
///
/// # Cancellation
/// The calls under way are cancelled; what the handler has done so far remains.
pub async fn dispatch(
    handler: Arc<dyn Handler>,
    roots: Vec<Descriptor>,
    limiter: Option<Arc<Semaphore>>,
    limits: Limits,
) -> Result<()> {
    let mut visits = Visits::new(limits);
    let mut tasks = JoinSet::new();
    let mut outcome = start(&mut tasks, &mut visits, &handler, limiter.as_ref(), roots, 0);
    while outcome.is_ok() {
        let Some(joined) = tasks.join_next().await else { break };
        let result: Result<(Flow, usize)> = joined
            .unwrap_or_else(|error| Err(Error::internal("a handler's task ended early").with_source(error)));
        outcome = match result {
            Ok((Flow::Children(children), depth)) => {
                start(&mut tasks, &mut visits, &handler, limiter.as_ref(), children, depth + 1)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
    }
    tasks.shutdown().await;
    outcome
}

fn start(
    tasks: &mut JoinSet<Result<(Flow, usize)>>,
    visits: &mut Visits,
    handler: &Arc<dyn Handler>,
    limiter: Option<&Arc<Semaphore>>,
    nodes: Vec<Descriptor>,
    depth: usize,
) -> Result<()> {
    for descriptor in nodes {
        if !visits.enter(&descriptor, depth)? {
            continue;
        }
        let (handler, limiter) = (Arc::clone(handler), limiter.cloned());
        tasks.spawn(async move {
            let _slot = match limiter {
                Some(limiter) => Some(
                    limiter
                        .acquire_owned()
                        .await
                        .map_err(|error| Error::internal("the limiter was closed").with_source(error))?,
                ),
                None => None,
            };
            Ok((handler.handle(&descriptor).await?, depth))
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use wharf_content::ErrorKind;

    use super::*;

    #[test]
    fn digests_are_seen_once_each() {
        let mut seen = Seen::default();
        for text in 0..1000_u32 {
            for algorithm in Algorithm::ALL {
                let digest = algorithm.digest(&text.to_le_bytes());
                assert!(seen.insert(&digest), "{digest}");
                assert!(!seen.insert(&digest), "{digest}");
            }
        }
        assert_eq!(seen.len(), 1000 * Algorithm::ALL.len());
        let digest = Digest::sha256(b"");
        let bytes = sha256_bytes(&digest).expect("SHA-256");
        assert_eq!((bytes[0], bytes[1], bytes[31]), (0xe3, 0xb0, 0x55));
    }
    use crate::handler::handler_fn;

    fn node(name: &str) -> Descriptor {
        Descriptor::of("x", name.as_bytes())
    }

    #[derive(Debug)]
    struct Graph {
        edges: HashMap<Digest, Vec<Descriptor>>,
        visited: Mutex<Vec<Digest>>,
    }

    impl Graph {
        fn new(edges: &[(&str, &[&str])]) -> Arc<Self> {
            let edges = edges
                .iter()
                .map(|(from, to)| (node(from).digest, to.iter().map(|name| node(name)).collect()))
                .collect();
            Arc::new(Self { edges, visited: Mutex::default() })
        }

        fn visited(&self) -> Vec<Digest> {
            std::mem::take(&mut self.visited.lock().expect("no panic"))
        }
    }

    #[async_trait::async_trait]
    impl Handler for Graph {
        async fn handle(&self, descriptor: &Descriptor) -> Result<Flow> {
            self.visited.lock().expect("no panic").push(descriptor.digest.clone());
            if *descriptor == node("skip") {
                return Ok(Flow::Skip);
            }
            Ok(Flow::Children(self.edges.get(&descriptor.digest).cloned().unwrap_or_default()))
        }
    }

    fn names(names: &[&str]) -> Vec<Digest> {
        names.iter().map(|name| node(name).digest).collect()
    }

    #[tokio::test]
    async fn depth_first_each_node_once_and_cycles_end() {
        let graph = Graph::new(&[
            ("r", &["a", "skip", "b"]),
            ("a", &["c"]),
            ("b", &["c", "r"]),
            ("skip", &["never"]),
        ]);
        walk(&graph, &[node("r")], Limits::default()).await.expect("walks");
        assert_eq!(graph.visited(), names(&["r", "a", "c", "skip", "b"]));
        dispatch(graph.clone(), vec![node("r")], None, Limits::default()).await.expect("dispatches");
        let mut visited = graph.visited();
        visited.sort();
        let mut expected = names(&["r", "a", "c", "skip", "b"]);
        expected.sort();
        assert_eq!(visited, expected);
    }

    #[tokio::test]
    async fn a_diamond_of_two_to_the_forty_paths_ends_at_once() {
        let names: Vec<String> = (0..=40).map(|level| level.to_string()).collect();
        let mut edges = HashMap::new();
        for pair in names.windows(2) {
            edges.insert(node(&pair[0]).digest, vec![node(&pair[1]), node(&pair[1])]);
        }
        let graph = Arc::new(Graph { edges, visited: Mutex::default() });
        walk(&graph, &[node("0")], Limits::default()).await.expect("walks");
        assert_eq!(graph.visited().len(), 41);
        dispatch(graph.clone(), vec![node("0")], None, Limits::default()).await.expect("dispatches");
        assert_eq!(graph.visited().len(), 41);
    }

    #[tokio::test]
    async fn limits_are_clear_errors() {
        let endless = handler_fn(|descriptor: Descriptor| async move {
            Ok(Flow::Children(vec![node(&format!("below {}", descriptor.digest))]))
        });
        let endless: Arc<dyn Handler> = Arc::new(endless);
        let wide =
            handler_fn(|_| async { Ok(Flow::Children((0..100).map(|i| node(&i.to_string())).collect())) });
        let wide: Arc<dyn Handler> = Arc::new(wide);
        for (handler, limits) in [
            (endless.clone(), Limits::default()),
            (endless, Limits::default().with_max_depth(10_000).with_max_nodes(500)),
            (wide, Limits::default().with_max_nodes(50)),
        ] {
            let walked = walk(&handler, &[node("r")], limits).await.expect_err("limited");
            assert_eq!(walked.kind(), ErrorKind::ResourceExhausted);
            let dispatched = dispatch(handler, vec![node("r")], None, limits).await.expect_err("limited");
            assert_eq!(dispatched.kind(), ErrorKind::ResourceExhausted);
        }
    }

    #[tokio::test]
    async fn an_empty_walk_is_told() {
        let leaf = handler_fn(|_| async { Ok(Flow::leaf()) });
        let error = walk_not_empty(&leaf, &[node("r")], Limits::default()).await.expect_err("empty");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn one_slot_is_enough_for_any_depth_and_never_exceeded() {
        let graph = Graph::new(&[("r", &["a", "b"]), ("a", &["c", "d"]), ("c", &["e"])]);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (inner, in_running, in_most) = (graph.clone(), running.clone(), most.clone());
        let counting = handler_fn(move |descriptor: Descriptor| {
            let (graph, running, most) = (inner.clone(), in_running.clone(), in_most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
                let flow = graph.handle(&descriptor).await;
                running.fetch_sub(1, Ordering::SeqCst);
                flow
            }
        });
        let limiter = Some(Arc::new(Semaphore::new(1)));
        dispatch(Arc::new(counting), vec![node("r")], limiter, Limits::default()).await.expect("dispatches");
        assert_eq!((graph.visited().len(), most.load(Ordering::SeqCst)), (6, 1));
    }

    #[tokio::test]
    async fn the_first_error_cancels_the_rest_and_joins_them() {
        #[derive(Debug)]
        struct OnDrop(Arc<AtomicUsize>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let ended = Arc::new(AtomicUsize::new(0));
        let counter = ended.clone();
        let handler = handler_fn(move |descriptor: Descriptor| {
            let guard = OnDrop(counter.clone());
            async move {
                let _guard = guard;
                if descriptor == node("fails") {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    return Err(Error::conflict("this one"));
                }
                if descriptor != node("r") {
                    std::future::pending::<()>().await;
                }
                Ok(Flow::Children(vec![node("waits"), node("fails"), node("waits too")]))
            }
        });
        let error = dispatch(Arc::new(handler), vec![node("r")], None, Limits::default()).await;
        assert_eq!(error.expect_err("fails").to_string(), "this one");
        assert_eq!(ended.load(Ordering::SeqCst), 4);
    }

    /// Counts the calls that are under way.
    #[derive(Debug)]
    struct UnderWay(Arc<AtomicUsize>);

    impl UnderWay {
        fn begin(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(count))
        }
    }

    impl Drop for UnderWay {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Gives the children `waits` and `panics`, and does at each what its name says.
    fn eventful(count: &Arc<AtomicUsize>) -> Arc<dyn Handler> {
        let count = Arc::clone(count);
        Arc::new(handler_fn(move |descriptor: Descriptor| {
            let call = UnderWay::begin(&count);
            async move {
                let _call = call;
                if descriptor == node("r") {
                    return Ok(Flow::Children(vec![node("waits"), node("panics")]));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(descriptor != node("panics"), "as its name says");
                std::future::pending().await
            }
        }))
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_cancels_the_rest() {
        let count = Arc::new(AtomicUsize::new(0));
        let error = dispatch(eventful(&count), vec![node("r")], None, Limits::default()).await;
        assert_eq!(error.expect_err("it panicked").kind(), ErrorKind::Internal);
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_dispatch_that_is_dropped_leaves_nothing_under_way() {
        let count = Arc::new(AtomicUsize::new(0));
        let roots = vec![node("waits"), node("waits too")];
        let dispatched = dispatch(eventful(&count), roots, None, Limits::default());
        assert!(tokio::time::timeout(Duration::from_millis(20), dispatched).await.is_err());
        let ended = async {
            while count.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("all calls end");
    }

    #[tokio::test]
    async fn a_limiter_that_is_closed_is_an_error() {
        let limiter = Arc::new(Semaphore::new(1));
        limiter.close();
        let graph = Graph::new(&[]);
        let error = dispatch(graph.clone(), vec![node("r")], Some(limiter), Limits::default()).await;
        assert_eq!(error.expect_err("closed").kind(), ErrorKind::Internal);
        assert_eq!(graph.visited(), []);
    }

    /// For what the handlers give of a root and its child: whether that is an empty walk.
    #[tokio::test]
    async fn any_child_makes_a_walk_not_empty() {
        for (root, is_empty) in [("r", false), ("skip", true), ("leaf", true), ("to itself", false)] {
            let graph = Graph::new(&[("r", &["leaf"]), ("to itself", &["to itself"])]);
            let walked = walk_not_empty(&graph, &[node(root)], Limits::default()).await;
            assert_eq!(walked.is_err(), is_empty, "{root}");
            if let Err(error) = walked {
                assert!(error.to_string().starts_with("empty walk"), "{error}");
            }
        }
    }
}
