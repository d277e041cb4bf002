//! What every command works with: the store, its images, the catalogue, and how to find an image by what the user typed.

use std::{
    collections::BTreeSet,
    env, io,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::sync::OnceCell;
use wharf_content::{
    Catalogue, Error, ErrorKind, Provider, Result, Store,
    gc::{CollectOptions, Collected},
    url::open_store,
};
use wharf_images::{
    Image, ImageStore, Reference, collect_with, image_store,
    reference::{DEFAULT_TRANSPORT, Location, split_transport},
    transport::{Resolver, TransportOptions, Transports},
};
use wharf_remotes::{
    StoreResolver, Via,
    credentials::Audience,
    registry::{ClientCertificate, RegistriesConf, RegistrySettings, Split, default_hosts_dirs},
    server::Upstream,
};

use crate::{
    args::{Global, RegistryArgs},
    credentials,
    exit::{self, Code, Platforms},
    progress::{self, Progress},
};

/// The scheme of names that are in the store.
pub(crate) const STORE_SCHEME: &str = "store";

/// The schemes of archives in one file.
pub(crate) const ARCHIVE_SCHEMES: [&str; 2] = ["oci-archive", "docker-archive"];

/// How many requests to the upstream of a proxy there is room for beside the blobs that are downloaded.
const PROXY_QUESTIONS: usize = 16;

/// What a command is given.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) catalogue: Catalogue,
    opened: OnceCell<Opened>,
    /// What all settings are made of, so that whatever the command does it asks a host no more than is polite.
    registries: RegistrySettings,
    /// What the program exits with when all is done, where that is not 0.
    exit: AtomicU8,
    /// Whether some of what the command is to do was done, which counts where it fails.
    is_partly_done: AtomicBool,
}

struct Opened {
    store: Arc<dyn Store>,
    images: Arc<dyn ImageStore>,
}

impl Context {
    pub(crate) fn new(global: Global, catalogue: Catalogue) -> Self {
        Self {
            global,
            catalogue,
            opened: OnceCell::new(),
            registries: RegistrySettings::new(),
            exit: AtomicU8::new(0),
            is_partly_done: AtomicBool::new(false),
        }
    }

    /// Exits with a code that is another program's, when all is done.
    pub(crate) fn exit_with(&self, code: u8) {
        self.exit.store(code, Ordering::Relaxed);
    }

    /// Exits with [`Code::Partly`] if the command fails: something of it was done.
    pub(crate) fn partly_done(&self) {
        self.is_partly_done.store(true, Ordering::Relaxed);
    }

    /// Prints the error that the command ended with, which does something with so many platforms, and says with which code to exit.
    pub(crate) fn report(&self, error: &Error, platforms: Platforms) -> Code {
        let code = match exit::code(error) {
            // Who was interrupted goes on as any other.
            Code::Interrupted => Code::Interrupted,
            _ if self.is_partly_done.load(Ordering::Relaxed) => Code::Partly,
            code => code,
        };
        exit::report_as(error, self.global.format, code, platforms)
    }

    /// What the program exits with when all is done.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.exit.load(Ordering::Relaxed).into()
    }

    async fn opened(&self) -> Result<&Opened> {
        self.opened
            .get_or_try_init(|| async {
                let store = open_store(&self.root()?, &self.catalogue).await?;
                let images = image_store(store.as_ref())?;
                Ok(Opened { store, images })
            })
            .await
    }

    /// The store, opened at its first use.
    pub(crate) async fn store(&self) -> Result<Arc<dyn Store>> {
        Ok(Arc::clone(&self.opened().await?.store))
    }

    /// The store as what reads from it.
    pub(crate) async fn provider(&self) -> Result<Arc<dyn Provider>> {
        Ok(self.store().await?)
    }

    /// The image records of the store.
    pub(crate) async fn images(&self) -> Result<Arc<dyn ImageStore>> {
        Ok(Arc::clone(&self.opened().await?.images))
    }

    /// Removes what nothing keeps, unpacked layers too.
    pub(crate) async fn collect(&self, options: &CollectOptions) -> Result<Vec<Collected>> {
        let store = self.store().await?;
        #[cfg(target_os = "linux")]
        if !options.is_dry_run {
            wharf_archive::mount::forget_ended(store.as_ref()).await?;
        }
        #[cfg(target_os = "linux")]
        match wharf_archive::LayerStore::of(store.as_ref()) {
            Ok(layers) => return collect_with(store.as_ref(), &[&layers], options).await,
            Err(error) if error.kind() == ErrorKind::NotImplemented => {}
            Err(error) => return Err(error),
        }
        collect_with(store.as_ref(), &[], options).await
    }

    /// Where the store is: as the user says, else in the user's data directory.
    fn root(&self) -> Result<String> {
        if let Some(root) = self.global.root.as_ref().filter(|root| !root.is_empty()) {
            return Ok(root.clone());
        }
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        let data = data.ok_or_else(|| {
            Error::invalid_argument(
                "there is no place for the store: set --root, WHARF_ROOT, XDG_DATA_HOME or HOME",
            )
        })?;
        Ok(data.join("wharf").display().to_string())
    }

    /// Finds an image of the store by its exact name, else by the name as Docker reads it. What a registry would have is looked for here, too.
    pub(crate) async fn image(&self, typed: &str) -> Result<Image> {
        let location = self.location(typed);
        let is_file_like = self.is_file_like(typed);
        let name = match &location {
            Ok(location) if !is_file_like => location.rest,
            _ => typed,
        };
        let images = self.images().await?;
        match images.get(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        location?;
        if is_file_like {
            return Err(Error::invalid_argument(format!(
                "{typed:?} is no image of the store, which is what is wanted here: `wharf copy {typed} store:NAME` makes it one"
            )));
        }
        let typed = name;
        let reference = Reference::parse(typed)?;
        let missing = match images.get(&reference.to_string()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => error,
            found => return found,
        };
        // A name with a digest also means the image of that name and tag, if it is of that digest.
        let Some(digest) = reference.digest() else { return Err(missing) };
        let Some(tag) = reference.tag() else { return Err(missing) };
        let image = images.get(&reference.with_tag(tag)?.to_string()).await.map_err(|_| missing)?;
        if image.target.digest == *digest {
            return Ok(image);
        }
        Err(Error::not_found(format!(
            "there is no image {typed:?} in the store: that tag is {} here",
            image.target.digest
        )))
    }

    /// The resolver for what the user typed, and the rest of it without the transport's prefix.
    pub(crate) fn resolver(
        &self,
        typed: &str,
        registry: &RegistryArgs,
    ) -> Result<(Arc<dyn Resolver>, String)> {
        self.resolver_showing(typed, registry, &progress::warnings(&self.global))
    }

    /// As [`Context::resolver`], with what happens shown among the progress of a command.
    pub(crate) fn resolver_showing(
        &self,
        typed: &str,
        registry: &RegistryArgs,
        progress: &Progress,
    ) -> Result<(Arc<dyn Resolver>, String)> {
        self.resolver_with(typed, registry, self.settings(registry, progress)?, progress)
    }

    /// As [`Context::resolver_showing`], for where something is pulled from, in ranges of so many bytes where that is asked for.
    pub(crate) fn source(
        &self,
        typed: &str,
        registry: &RegistryArgs,
        chunk: Option<NonZeroU64>,
        progress: &Progress,
    ) -> Result<(Arc<dyn Resolver>, String)> {
        let mut settings = self.settings(registry, progress)?;
        if let Some(len) = chunk {
            settings.ranges.split = Split::Always(len);
        }
        self.resolver_with(typed, registry, settings, progress)
    }

    /// As [`Context::resolver_showing`], for where something is pushed to, in chunks of so many bytes where that is asked for.
    pub(crate) fn destination(
        &self,
        typed: &str,
        registry: &RegistryArgs,
        chunk: Option<NonZeroU64>,
        progress: &Progress,
    ) -> Result<(Arc<dyn Resolver>, String)> {
        let settings = self.settings(registry, progress)?;
        let settings = chunk.into_iter().fold(settings, RegistrySettings::with_upload_chunk);
        self.resolver_with(typed, registry, settings, progress)
    }

    /// Which transport a name is of, as far as its prefix tells.
    pub(crate) fn location<'a>(&self, typed: &'a str) -> Result<Location<'a>> {
        let mut known = self.catalogue.keys::<Transports>();
        known.push(STORE_SCHEME.into());
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        split_transport(typed, &known)
    }

    fn resolver_with(
        &self,
        typed: &str,
        registry: &RegistryArgs,
        settings: RegistrySettings,
        progress: &Progress,
    ) -> Result<(Arc<dyn Resolver>, String)> {
        let location = self.location(typed)?;
        if location.scheme == STORE_SCHEME {
            return Err(Error::invalid_argument(format!("{typed:?} is in the store already")));
        }
        refuse_stream(&location)?;
        // Elsewhere names are not those of registries.
        let reference = (location.scheme == DEFAULT_TRANSPORT).then(|| Reference::parse(location.rest).ok());
        let domain = reference.flatten().map(|reference| reference.domain().to_owned());
        let settings =
            settings.with_credentials(credentials::sources(registry, domain.as_deref(), &self.catalogue)?);
        Ok((self.transport_with(location.scheme, settings, progress)?, location.rest.to_owned()))
    }

    /// Refuses --creds for several registries at once: a password is that of one of them, and the others must not be shown it. Gives the
    /// registry that is named, where it is one.
    ///
    /// # Errors
    /// `InvalidArgument` that says what to use `instead`.
    pub(crate) fn refuse_to_share_credentials<'n>(
        &self,
        registry: &RegistryArgs,
        names: impl Iterator<Item = &'n str>,
        instead: &str,
    ) -> Result<Option<String>> {
        let known = self.catalogue.keys::<Transports>();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let named = names.filter(|typed| stored_name(typed).is_none()).filter_map(|typed| {
            let location = split_transport(typed, &known).ok();
            // Files have no passwords.
            let location = location.filter(|location| location.scheme == DEFAULT_TRANSPORT)?;
            Some(Audience::new(Reference::parse(location.rest).ok()?.domain()).host().to_owned())
        });
        let registries: BTreeSet<String> = named.collect();
        let registries: Vec<String> = registries.into_iter().collect();
        if registry.creds.is_none() || registries.len() < 2 {
            return Ok(registries.into_iter().next());
        }
        Err(Error::invalid_argument(format!(
            "--creds is for one registry, and several are named: {}; use {instead}",
            registries.join(", ")
        )))
    }

    /// As [`Context::destination`], and the store is a place as well.
    pub(crate) async fn place(
        &self,
        typed: &str,
        registry: &RegistryArgs,
        chunk: Option<NonZeroU64>,
        progress: &Progress,
    ) -> Result<(Arc<dyn Resolver>, String)> {
        match stored_name(typed) {
            Some(name) => {
                let (store, images) = (self.store().await?, self.images().await?);
                let resolver = StoreResolver::new(store, images).with_catalogue(self.catalogue.clone());
                Ok((Arc::new(resolver), name.to_owned()))
            }
            None => self.destination(typed, registry, chunk, progress),
        }
    }

    /// The resolver for whatever registries content came from. What --creds says is for the one at `domain`.
    pub(crate) fn registries(
        &self,
        domain: Option<&str>,
        registry: &RegistryArgs,
        progress: &Progress,
    ) -> Result<Arc<dyn Resolver>> {
        let sources = credentials::sources(registry, domain, &self.catalogue)?;
        let settings = self.settings(registry, progress)?.with_credentials(sources);
        self.transport_with(DEFAULT_TRANSPORT, settings, progress)
    }

    /// The resolver for a registry that is named by a URL, whose scheme counts, and which is told of whom it is asked through.
    pub(crate) fn upstream(
        &self,
        upstream: &Upstream,
        via: Via,
        registry: &RegistryArgs,
        progress: &Progress,
    ) -> Result<Arc<dyn Resolver>> {
        let mut settings = self.settings(registry, progress)?.with_via(via);
        // Downloads that take their time leave room for questions.
        let wanted = registry.max_concurrent_downloads.saturating_add(PROXY_QUESTIONS);
        settings.host_concurrency = settings.host_concurrency.max(wanted);
        let settings =
            if upstream.is_plain_http() { settings.with_plain_http() } else { settings.with_https() };
        let sources = credentials::sources(registry, Some(upstream.domain()), &self.catalogue)?;
        self.transport_with(DEFAULT_TRANSPORT, settings.with_credentials(sources), progress)
    }

    fn transport_with(
        &self,
        scheme: &str,
        settings: RegistrySettings,
        progress: &Progress,
    ) -> Result<Arc<dyn Resolver>> {
        let transport = self
            .catalogue
            .find::<Transports>(scheme)?
            .ok_or_else(|| Error::invalid_argument(format!("this program has no transport {scheme:?}")))?;
        let options = TransportOptions::new()
            .with_catalogue(self.catalogue.clone())
            .with_sink(progress.sink())
            .with(settings);
        transport.resolver(&options)
    }

    /// What the flags say, without credentials. Whoever asks a registry has his settings from here.
    ///
    /// # Errors
    /// Those of directories of hosts that are named and not there.
    pub(crate) fn settings(&self, args: &RegistryArgs, progress: &Progress) -> Result<RegistrySettings> {
        check_hosts_dirs(args)?;
        let mut settings = settings(self.registries.clone(), args);
        // Room for every piece that is moved at once, also where one command reads and writes at the same host. The fields are set, as
        // the methods would count what is asked apart from what these settings' clones ask.
        let wanted = args.max_concurrent_downloads.saturating_mul(NonZeroUsize::MIN.saturating_add(1));
        settings.host_concurrency = settings.host_concurrency.max(wanted);
        settings.request_interval = args.request_rate;
        Ok(if args.http_trace { settings.with_trace(progress.http_trace()) } else { settings })
    }
}

/// Whether the file of an archive is a standard stream, which `-` stands for.
pub(crate) fn is_stream(location: &Location<'_>) -> bool {
    let is_dash = |rest: &str| rest.is_empty() || rest.starts_with([':', '@']);
    ARCHIVE_SCHEMES.contains(&location.scheme) && location.rest.strip_prefix('-').is_some_and(is_dash)
}

/// Refuses standard input as an archive that is looked into.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn refuse_stream(location: &Location<'_>) -> Result<()> {
    if is_stream(location) {
        return Err(Error::invalid_argument(
            "an archive that flows by is not looked into: `wharf import -` takes in the one on standard input; a file of that name is ./-",
        ));
    }
    Ok(())
}

/// The name in the store, where the prefix says that it is one.
pub(crate) fn stored_name(typed: &str) -> Option<&str> {
    let name = typed.strip_prefix(STORE_SCHEME)?.strip_prefix(':')?;
    Some(name.strip_prefix("//").unwrap_or(name))
}

/// Sees that the directories of hosts are there that the user names: what they say, such as that a host is to be asked by way of another one,
/// is not to be missed for a slip. Those that are looked into by default need not be there.
fn check_hosts_dirs(args: &RegistryArgs) -> Result<()> {
    let named = args.hosts_dirs.iter().flatten().map(Path::new);
    for directory in named.filter(|directory| !directory.as_os_str().is_empty()) {
        let cannot = || format!("there is no directory of hosts {}", directory.display());
        match directory.metadata() {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(exit::outside(cannot(), io::ErrorKind::NotADirectory.into()));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(exit::outside(cannot(), error));
            }
            // One that is closed to this user is passed over, with a warning.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn settings(settings: RegistrySettings, args: &RegistryArgs) -> RegistrySettings {
    let mut settings = settings.with_retries(args.retry_times, Duration::from_secs_f64(args.retry_delay));
    settings.min_throughput = NonZeroU64::new(args.min_throughput.as_u64());
    if args.plain_http {
        settings = settings.with_plain_http();
    }
    if args.tls_verify == Some(true) {
        settings = settings.with_https();
    }
    if args.insecure_skip_verify || args.tls_verify == Some(false) {
        settings = settings.with_skip_verify();
    }
    if let Some(file) = &args.cert_file {
        let certificate = ClientCertificate::new(file);
        let certificate = args.key_file.iter().fold(certificate, ClientCertificate::with_key_file);
        settings = settings.with_client_certificate(certificate);
    }
    let variable = |name: &str| env::var_os(name);
    let directories = match &args.hosts_dirs {
        Some(named) => named.iter().filter(|directory| !directory.is_empty()).map(PathBuf::from).collect(),
        None => default_hosts_dirs(variable),
    };
    let settings =
        settings.with_hosts_dirs(directories).with_registries_conf(RegistriesConf::standard(variable));
    args.ca_file.iter().fold(settings, RegistrySettings::with_ca_file)
}
