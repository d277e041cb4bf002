//! docker-registry as a pull-through mirror of another one, behind hosts.toml and behind registries.conf: the mirror
//! serves, the server is asked when it does not.

use std::fs;
use std::path::PathBuf;

use super::super::layout::{self, text};
use super::super::small::{FIRST, SECOND};
use super::super::store::Store;
use super::super::{Step, World, hosts};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;
use crate::registry::{Options, Registry, http};

pub(super) const STEPS: &[Step] = &[
    ("mirror-hosts-toml", |world| mirrored(world, "mirror-toml", hosts_toml)),
    ("mirror-registries-conf", |world| mirrored(world, "mirror-conf", registries_conf)),
    ("mirror-blocked", blocked),
];

/// A server, a mirror of it, and how wharf and skopeo are told so.
struct Mirrored {
    server: Registry,
    mirror: Registry,
}

/// How wharf is told of a mirror; what must be added to a call of it.
type Told = fn(&World, &str, &Mirrored) -> Result<Configured>;

/// What names a configuration to wharf.
enum Configured {
    HostsDir(PathBuf),
    RegistriesConf(PathBuf),
}

impl Configured {
    fn on(&self, tool: Tool) -> Tool {
        match self {
            Self::HostsDir(directory) => tool.arg("--hosts-dir").arg(directory),
            Self::RegistriesConf(file) => tool.env(hosts::REGISTRIES_CONF, file),
        }
    }
}

fn start(world: &World, name: &str) -> Result<Mirrored> {
    let server = world.twin_registry(name, &Options::default())?;
    let options = Options::default().with_mirror_of(&server.url(""));
    let mirror = world.empty_registry(&format!("{name}/mirror"), &options)?;
    Ok(Mirrored { server, mirror })
}

fn hosts_toml(world: &World, name: &str, both: &Mirrored) -> Result<Configured> {
    let root = world.scratch.dir(&format!("steps/{name}/certs.d"))?;
    hosts::write(&root, &both.server, &hosts::with_mirror(&both.server, &both.mirror))?;
    Ok(Configured::HostsDir(root))
}

fn registries_conf(world: &World, name: &str, both: &Mirrored) -> Result<Configured> {
    let file = world.dir(name)?.join("registries.conf");
    fs::write(&file, hosts::registries_conf(&both.server, &both.mirror)).context(file.display())?;
    // The same file, read by the program that it was made for.
    let copy = world.dir(name)?.join("skopeo");
    let tool = world.skopeo.call(&["--registries-conf"]).arg(&file).args(["copy", "--quiet"]);
    let tool = tool.arg(format!("docker://{}", both.server.image(SECOND)));
    let (_, requests) = both.mirror.asked(|| tool.arg(format!("dir:{}", copy.display())).success())?;
    ensure(!requests.is_empty(), || "skopeo does not read registries.conf as it is written".to_owned())?;
    Ok(Configured::RegistriesConf(file))
}

/// A pull by this configuration. What is printed names the server, whoever served.
fn pull(store: &Store<'_>, configured: &Configured, image: &str) -> Result<String> {
    let said = configured.on(store.wharf(&["pull", image])).text()?;
    let digest = said.strip_prefix(image).and_then(|rest| rest.strip_prefix('@'));
    store.layout().verify()?;
    ensure_equal("names", &store.names()?, &vec![image.to_owned()])?;
    Ok(digest.context(format_args!("pull of {image} prints {said:?}"))?.to_owned())
}

fn mirrored(world: &World, name: &str, told: Told) -> Result<()> {
    let both = start(world, name)?;
    let configured = told(world, name, &both)?;
    let Mirrored { server, mirror } = both;
    let image = server.image(FIRST);
    let (repository, tag) = FIRST.rsplit_once(':').context("no tag")?;
    let manifest = http::get_manifest(server.port(), repository, tag)?;
    let expected = super::super::digest::of(&manifest)?;

    // The first pull fills the mirror, and comes from it: the server gives nothing to wharf itself.
    let work = || pull(&world.store(name)?, &configured, &image);
    let (digest, asked) = mirror.asked(work)?;
    ensure_equal("the digest", &digest, &expected)?;
    let blobs = blobs(&manifest)?;
    let served = asked.iter().filter(|request| request.takes_blob() && request.status < 300).count();
    ensure(served >= blobs.len(), || format!("the mirror served {served} blobs: {asked:#?}"))?;
    for digest in &blobs {
        let path = mirror.blob_path(digest)?;
        mirror.settles("a blob that it keeps", |_| path.exists())?;
    }
    // The second one costs the server no blob.
    let work = || pull(&world.store(&format!("{name}-again"))?, &configured, &image);
    let ((digest, _), upstream) = server.asked(|| mirror.asked(work))?;
    ensure_equal("the digest of the second pull", &digest, &expected)?;
    let taken: Vec<_> = upstream.iter().filter(|request| request.takes_blob()).collect();
    ensure(taken.is_empty(), || format!("the server was asked for blobs again: {taken:#?}"))?;

    // A push goes to the server: the mirror takes none.
    let target = server.image(&format!("{name}/pushed:1"));
    let store = world.store(&format!("{name}-push"))?;
    pull(&store, &configured, &image)?;
    let push = configured.on(store.wharf(&["push", &image, &target]));
    let (said, asked) = server.asked(|| push.text())?;
    ensure_equal("what push prints", &said, &format!("{target}@{expected}"))?;
    ensure(asked.iter().any(|request| request.method == "PUT"), || "the server got no PUT".to_owned())?;

    // A mirror that is gone is passed over.
    drop(mirror);
    let work = || pull(&world.store(&format!("{name}-down"))?, &configured, &image);
    let (digest, asked) = server.asked(work)?;
    ensure_equal("the digest from the server", &digest, &expected)?;
    let served = asked.iter().filter(|request| request.takes_blob() && request.status < 300).count();
    ensure(served >= blobs.len(), || format!("the server served {served} blobs: {asked:#?}"))
}

/// The digests of config and layers.
fn blobs(manifest: &[u8]) -> Result<Vec<String>> {
    let manifest = layout::parse(manifest)?;
    let layers = manifest["layers"].as_array().context("no layers")?;
    std::iter::once(&manifest["config"]).chain(layers).map(|blob| text(blob, "digest")).collect()
}

/// A registry that registries.conf forbids is not asked, and that is said.
fn blocked(world: &World) -> Result<()> {
    let server = world.twin_registry("mirror-blocked", &Options::default())?;
    let file = world.dir("mirror-blocked")?.join("registries.conf");
    let write = |blocked: bool| {
        let text = format!("[[registry]]\nlocation = \"{}\"\nblocked = {blocked}\n", server.host());
        fs::write(&file, text).context(file.display())
    };
    let store = world.store("mirror-blocked")?;
    let ask = || store.wharf(&["digest", &server.image(FIRST)]).env(hosts::REGISTRIES_CONF, &file).run();
    write(true)?;
    let (finished, asked) = server.asked(ask)?;
    ensure(finished.code != 0 && finished.stdout.is_empty(), || "a blocked registry was used".to_owned())?;
    ensure(asked.is_empty(), || format!("a blocked registry was asked {asked:#?}"))?;
    finished.expect_said(&["blocked", &server.host()])?;
    write(false)?;
    ask()?.expect_code(0).map(drop)
}
