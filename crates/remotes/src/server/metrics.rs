//! What the registry has done so far, in Prometheus' text format at `/metrics`.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry as Collectors,
    TextEncoder,
};
use wharf_content::{Error, Result};

/// The limits of the classes into which the times of requests fall, in seconds.
const CLASSES: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

/// Counts what happens. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    collectors: Collectors,
    requests: IntCounterVec,
    seconds: Histogram,
    sent: IntCounter,
    received: IntCounter,
    relayed: IntCounterVec,
    asked: IntCounterVec,
    fetched: IntCounter,
    pub(super) in_flight: IntGauge,
    pub(super) connections: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Result<Self> {
        Self::make().map_err(|error| Error::internal("metrics cannot be set up").with_source(error))
    }

    fn make() -> Result<Self, prometheus::Error> {
        let collectors = Collectors::new_custom(Some("wharf_registry".into()), None)?;
        let requests = IntCounterVec::new(
            Opts::new("requests_total", "Requests that were answered, by method, endpoint and status."),
            &["method", "endpoint", "status"],
        )?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "request_seconds",
                "Time from the head of a request to the end of its answer.",
            )
            .buckets(CLASSES.to_vec()),
        )?;
        let sent = IntCounter::new("sent_bytes_total", "Bytes of the bodies of answers.")?;
        let received = IntCounter::new("received_bytes_total", "Bytes of the bodies of requests.")?;
        let in_flight = IntGauge::new("requests_in_flight", "Requests that are being answered.")?;
        let connections = IntGauge::new("connections", "Connections that are open.")?;
        let relayed = IntCounterVec::new(
            Opts::new("proxy_requests_total", "Requests to a proxy, by endpoint and what became of them."),
            &["endpoint", "outcome"],
        )?;
        let asked = IntCounterVec::new(
            Opts::new("proxy_upstream_requests_total", "What a proxy asked its upstream for, by operation."),
            &["operation"],
        )?;
        let fetched =
            IntCounter::new("proxy_fetched_bytes_total", "Bytes of content that came from the upstream.")?;
        collectors.register(Box::new(relayed.clone()))?;
        collectors.register(Box::new(asked.clone()))?;
        collectors.register(Box::new(fetched.clone()))?;
        collectors.register(Box::new(requests.clone()))?;
        collectors.register(Box::new(seconds.clone()))?;
        collectors.register(Box::new(sent.clone()))?;
        collectors.register(Box::new(received.clone()))?;
        collectors.register(Box::new(in_flight.clone()))?;
        collectors.register(Box::new(connections.clone()))?;
        Ok(Self {
            collectors,
            requests,
            seconds,
            sent,
            received,
            relayed,
            asked,
            fetched,
            in_flight,
            connections,
        })
    }

    /// Counts a request. What is no method of the registry's counts as one, so that nobody can make up any number of them.
    pub(super) fn finished(&self, method: &str, endpoint: &str, status: u16, bytes: u64, elapsed: Duration) {
        let method = match method {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" => method,
            _ => "other",
        };
        self.requests.with_label_values(&[method, endpoint, &status.to_string()]).inc();
        self.seconds.observe(elapsed.as_secs_f64());
        self.sent.inc_by(bytes);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    /// Counts a request to a proxy: a hit was answered from the store, a miss by the upstream, and what is stale from the store for want
    /// of an answer.
    pub(super) fn relayed(&self, endpoint: &str, outcome: &str) {
        self.relayed.with_label_values(&[endpoint, outcome]).inc();
    }

    /// Counts a question to an upstream.
    pub(super) fn asked(&self, operation: &str) {
        self.asked.with_label_values(&[operation]).inc();
    }

    pub(super) fn fetched(&self, bytes: u64) {
        self.fetched.inc_by(bytes);
    }

    /// The document.
    pub(super) fn text(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.collectors.gather(), &mut text)
            .map_err(|error| Error::internal("metrics cannot be written").with_source(error))?;
        Ok(text)
    }
}

/// The endpoint of what is none.
pub(super) const NO_ENDPOINT: &str = "none";

/// The type of the document.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
