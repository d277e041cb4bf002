//! What the user decides about registries.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use wharf_images::progress::{Silent, Sink};

use super::{
    auth::Clock, hosts::RegistriesConf, limits::Limits, range_options::RangeOptions, trace::HttpTrace,
};
use crate::{credentials::Sources, via::Via};

/// How many requests one host is asked at once: room for a few blobs in several parts each beside the documents and tokens that lead to
/// them, and few enough for one user of a shared registry. A request counts until its body has been read.
pub const DEFAULT_HOST_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(16).expect("sixteen is not zero");
/// Bytes per second below which a body is broken off. Modems were faster.
pub const DEFAULT_MIN_THROUGHPUT: NonZeroU64 = NonZeroU64::new(1024).expect("it is not zero");

/// Which scheme registries are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// HTTPS, but plain HTTP on loopback with a port other than 443.
    #[default]
    Auto,
    /// Always HTTPS.
    Https,
    /// Always plain HTTP.
    Http,
}

/// A certificate that is shown to a registry which asks who the client is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// A PEM file of the certificate, with those of its authorities behind it, if any.
    pub certificate_file: PathBuf,
    /// A PEM file of its private key; `None` where that is in the same file.
    pub key_file: Option<PathBuf>,
}

impl ClientCertificate {
    /// Names a file that has the certificate and its key.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { certificate_file: file.into(), key_file: None }
    }

    /// Names another file for the key.
    #[must_use]
    pub fn with_key_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.key_file = Some(file.into());
        self
    }
}

/// The settings of the `docker` transport.
///
/// What is configured elsewhere is read only from where these say: by default no file of the user or the system is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegistrySettings {
    /// Which scheme registries are spoken to in.
    pub scheme: Scheme,
    /// Accept any certificate.
    pub skip_verify: bool,
    /// Files of PEM certificates that are trusted beside the system's: of authorities, or a registry's own.
    pub ca_files: Vec<PathBuf>,
    /// How often a request is sent again after a failure that may pass.
    pub retries: u32,
    /// The first wait before a request is sent again; it doubles.
    pub retry_delay: Duration,
    /// No wait is longer, whatever the registry asks for.
    pub max_retry_delay: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long the registry may be silent.
    pub idle_timeout: Duration,
    /// How many bytes of a blob are sent with one request; `None` for all of them, unless the registry asks for chunks.
    pub upload_chunk: Option<NonZeroU64>,
    /// Shown to the own hosts of references: not to their mirrors, nor to where these lead.
    pub client_certificates: Vec<ClientCertificate>,
    /// Directories of hosts in the layout of containerd's `certs.d`; the first that has one for a host counts for it.
    pub hosts_dirs: Vec<PathBuf>,
    /// Where podman's and skopeo's mirrors are configured. A `hosts.toml` for the host goes before, but for what is blocked.
    pub registries_conf: RegistriesConf,
    /// How long the head of an answer may take; where a connection is made first, as long as that may take if it is longer. An answer
    /// to what is uploaded may take ten times the idle time-out from its last byte on.
    pub header_timeout: Duration,
    /// How many bytes per second must come, or be taken, while the other side is waited for; `None` for any number.
    pub min_throughput: Option<NonZeroU64>,
    /// The time over which that is averaged.
    pub throughput_window: Duration,
    /// How many requests one host is asked at once, bodies included. What clones of these settings ask counts, too.
    pub host_concurrency: NonZeroUsize,
    /// The least time from one request to a host to the next; `None` for none.
    pub request_interval: Option<Duration>,
    /// Whether a host is waited for that asked to be left alone; not where another one can be asked.
    pub(super) waits_for_hosts: bool,
    pub(super) limits: Arc<Limits>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) trace: Option<Arc<dyn HttpTrace>>,
    pub(super) via: Option<Via>,
    /// Who is asked for the credentials of registries; nobody by default.
    pub credentials: Sources,
    /// By which tokens expire.
    pub clock: Clock,
    /// When and how a large blob comes in several ranges at once.
    pub ranges: RangeOptions,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            scheme: Scheme::default(),
            skip_verify: false,
            ca_files: Vec::new(),
            retries: 3,
            retry_delay: Duration::from_millis(250),
            max_retry_delay: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            upload_chunk: None,
            client_certificates: Vec::new(),
            hosts_dirs: Vec::new(),
            registries_conf: RegistriesConf::none(),
            header_timeout: Duration::from_secs(30),
            min_throughput: Some(DEFAULT_MIN_THROUGHPUT),
            throughput_window: Duration::from_secs(30),
            host_concurrency: DEFAULT_HOST_CONCURRENCY,
            request_interval: None,
            waits_for_hosts: true,
            limits: Arc::default(),
            sink: Arc::new(Silent),
            trace: None,
            via: None,
            credentials: Sources::none(),
            clock: Clock::system(),
            ranges: RangeOptions::default(),
        }
    }
}

impl RegistrySettings {
    /// HTTPS with the system's roots, plain HTTP on loopback, three retries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Speaks plain HTTP with every registry.
    #[must_use]
    pub fn with_plain_http(mut self) -> Self {
        self.scheme = Scheme::Http;
        self
    }

    /// Speaks HTTPS with every registry, on loopback too.
    #[must_use]
    pub fn with_https(mut self) -> Self {
        self.scheme = Scheme::Https;
        self
    }

    /// Accepts any certificate.
    ///
    /// # Security
    /// Whoever is on the way can answer in the registry's place. Content pinned by a digest is still verified.
    #[must_use]
    pub fn with_skip_verify(mut self) -> Self {
        self.skip_verify = true;
        self
    }

    /// Trusts the certificates in a PEM file beside the system's.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_files.push(path.into());
        self
    }

    /// Sets how often a request is sent again, and the first wait.
    #[must_use]
    pub fn with_retries(mut self, retries: u32, delay: Duration) -> Self {
        self.retries = retries;
        self.retry_delay = delay;
        self
    }

    /// Sets how long connecting may take and how long the registry may be silent, before its answer as well as within.
    #[must_use]
    pub fn with_timeouts(mut self, connect: Duration, idle: Duration) -> Self {
        self.connect_timeout = connect;
        self.idle_timeout = idle;
        self.header_timeout = idle;
        self
    }

    /// Sets how long the head of an answer may take.
    #[must_use]
    pub fn with_header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// Breaks bodies off, in both directions, where fewer bytes per second than this flow over so long a time, and goes on over a new
    /// connection; `None` lets them take any time.
    #[must_use]
    pub fn with_min_throughput(mut self, bytes_per_second: Option<NonZeroU64>, window: Duration) -> Self {
        self.min_throughput = bytes_per_second;
        self.throughput_window = window;
        self
    }

    /// Asks one host so many requests at once, from now on counted apart from those of the settings that these were cloned of.
    #[must_use]
    pub fn with_host_concurrency(mut self, requests: NonZeroUsize) -> Self {
        self.host_concurrency = requests;
        self.limits = Arc::default();
        self
    }

    /// Waits at least so long from one request to a host to the next, from now on counted apart from those of the settings that these
    /// were cloned of.
    #[must_use]
    pub fn with_request_interval(mut self, interval: Duration) -> Self {
        self.request_interval = Some(interval);
        self.limits = Arc::default();
        self
    }

    /// Tells what happens on the way: transfers that are taken up again, hosts that want to be left alone, and their warnings.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = sink;
        self
    }

    /// Tells of all that goes over the wire, with secrets left out.
    #[must_use]
    pub fn with_trace(mut self, trace: Arc<dyn HttpTrace>) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Tells the own origins of registries by which proxies they are asked.
    #[must_use]
    pub fn with_via(mut self, via: Via) -> Self {
        self.via = Some(via);
        self
    }

    /// Sends blobs in chunks of so many bytes, or more where the registry demands it.
    #[must_use]
    pub fn with_upload_chunk(mut self, bytes: NonZeroU64) -> Self {
        self.upload_chunk = Some(bytes);
        self
    }

    /// Shows a certificate to the own hosts of references that ask for one.
    #[must_use]
    pub fn with_client_certificate(mut self, certificate: ClientCertificate) -> Self {
        self.client_certificates.push(certificate);
        self
    }

    /// Reads the configuration of hosts from these directories (`<dir>/<host>/hosts.toml`).
    #[must_use]
    pub fn with_hosts_dirs(mut self, directories: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        self.hosts_dirs = directories.into_iter().map(Into::into).collect();
        self
    }

    /// Reads `registries.conf` from there.
    #[must_use]
    pub fn with_registries_conf(mut self, registries_conf: RegistriesConf) -> Self {
        self.registries_conf = registries_conf;
        self
    }

    /// Asks these sources for the credentials of registries, each by the host that is contacted.
    ///
    /// # Security
    /// What they give is shown to the registry of that host and to the token server that it names, and to nobody else.
    #[must_use]
    pub fn with_credentials(mut self, sources: Sources) -> Self {
        self.credentials = sources;
        self
    }

    /// Tells by another clock when tokens expire.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets when and how a large blob comes in several ranges at once.
    #[must_use]
    pub fn with_ranges(mut self, ranges: RangeOptions) -> Self {
        self.ranges = ranges;
        self
    }
}
