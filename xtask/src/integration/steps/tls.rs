//! docker-registry behind TLS with a certificate of a throw-away authority: who is trusted, by which of the ways to say
//! so, and that nobody else is. skopeo sees the same.

use std::path::{Path, PathBuf};

use super::super::fixture::Index;
use super::super::store::Store;
use super::super::{Step, World, digest, hosts};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::registry::certificates::Authority;
use crate::registry::{Options, Registry};

pub(super) const STEPS: &[Step] = &[
    ("tls-ca-file", ca_file),
    ("tls-hosts-toml", hosts_toml),
    ("tls-certificate-files", certificate_files),
    ("tls-untrusted", untrusted),
    ("tls-client-certificate", client_certificate),
];

/// What the options that name a file are given.
fn shown(file: &Path) -> Result<&str> {
    file.to_str().context(format_args!("{} is not text", file.display()))
}

/// An authority, and a registry with a certificate of it that has the images of the first registry.
fn secured(world: &World, name: &str) -> Result<(Authority, Registry)> {
    let authority = Authority::new(&world.dir(name)?)?;
    let options = Options::default().with_tls(&authority.server(&["127.0.0.1", "localhost"])?);
    Ok((authority, world.twin_registry(name, &options)?))
}

/// skopeo's directory of certificates, which has every `*.crt` in it as an authority.
pub(super) fn skopeo_certificates(world: &World, name: &str, authority: &Authority) -> Result<PathBuf> {
    let directory = world.scratch.dir(&format!("steps/{name}/certificates"))?;
    std::fs::copy(authority.file(), directory.join("ca.crt")).context(directory.display())?;
    Ok(directory)
}

/// Pulls from the registry and pushes to it with these options; skopeo, which trusts the authority, has the last word.
fn goes_through(
    world: &World,
    name: &str,
    registry: &Registry,
    authority: &Authority,
    options: &[&str],
) -> Result<()> {
    let index = &world.fixture.oci;
    let store = world.store(name)?;
    let source = registry.image("library/busybox:1.35");
    let pull = [&["--all-platforms"], options].concat();
    ensure_equal("the digest of the pull", &store.pull(&source, &pull)?, &index.digest)?;
    let target = registry.image(&format!("{name}/box:1"));
    let said = store.wharf(&[&["push", &source, &target], options].concat()).text()?;
    ensure_equal("what push prints", &said, &format!("{target}@{}", index.digest))?;
    seen_by_skopeo(world, name, &target, index, authority)
}

/// skopeo copies it whole, over TLS with the authority's certificate, and has the same digest.
fn seen_by_skopeo(
    world: &World,
    name: &str,
    image: &str,
    index: &Index,
    authority: &Authority,
) -> Result<()> {
    let certificates = skopeo_certificates(world, name, authority)?;
    let copy = world.dir(name)?.join("copy");
    let tool = world.skopeo.call(&["copy", "--quiet", "--all", "--preserve-digests", "--src-cert-dir"]);
    let tool = tool.arg(&certificates).arg(format!("docker://{image}"));
    tool.arg(format!("dir:{}", copy.display())).success()?;
    ensure_equal("the digest of the copy", &digest::of_file(&copy.join("manifest.json"))?, &index.digest)
}

fn ca_file(world: &World) -> Result<()> {
    let (authority, registry) = secured(world, "ca-file")?;
    let options = ["--tls-verify=true", "--ca-file", shown(authority.file())?];
    goes_through(world, "ca-file", &registry, &authority, &options)?;
    // What skopeo pushes with the authority's certificate, wharf pulls.
    let certificates = skopeo_certificates(world, "ca-file", &authority)?;
    let image = registry.image("ca-file/from-skopeo:1");
    let tool =
        world.skopeo.call(&["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false"]);
    let tool = tool.arg("--dest-cert-dir").arg(&certificates);
    tool.arg(format!("docker://{}", world.fixture.docker.image))
        .arg(format!("docker://{image}"))
        .success()?;
    let pull = [&["--all-platforms"], &options[..]].concat();
    let pulled = world.store("ca-file-back")?.pull(&image, &pull)?;
    ensure_equal("the digest of skopeo's image", &pulled, &world.fixture.docker.digest)
}

/// `ca` in hosts.toml, by a path that is relative to the file, and by an absolute one in a list.
fn hosts_toml(world: &World) -> Result<()> {
    let (authority, registry) = secured(world, "hosts-toml")?;
    let root = world.scratch.dir("steps/hosts-toml/certs.d")?;
    let text = format!("server = \"{}\"\nca = \"own.crt\"\n", registry.url(""));
    let directory = hosts::write(&root, &registry, &text)?;
    let own = directory.join("own.crt");
    std::fs::copy(authority.file(), &own).context(own.display())?;
    goes_through(world, "hosts-toml", &registry, &authority, &["--hosts-dir", shown(&root)?])?;

    std::fs::remove_file(&own).context(own.display())?;
    let absolute = shown(authority.file())?;
    let text = format!("server = \"{}\"\nca = [\"{absolute}\"]\n", registry.url(""));
    hosts::write(&root, &registry, &text)?;
    let image = registry.image("library/busybox:1.35");
    world.store("hosts-toml-list")?.pull(&image, &["--hosts-dir", shown(&root)?]).map(drop)
}

/// A directory for the host with an authority's certificate and no hosts.toml, as Docker has it.
fn certificate_files(world: &World) -> Result<()> {
    let (authority, registry) = secured(world, "certificate-files")?;
    let root = world.scratch.dir("steps/certificate-files/certs.d")?;
    let directory = root.join(registry.host());
    std::fs::create_dir(&directory).context(directory.display())?;
    std::fs::copy(authority.file(), directory.join("ca.crt")).context(directory.display())?;
    let options = ["--tls-verify=true", "--hosts-dir", shown(&root)?];
    goes_through(world, "certificate-files", &registry, &authority, &options)
}

/// Nobody is trusted who was not named: by no option, by another authority's certificate, under another name. Only
/// who asks for it goes on without.
fn untrusted(world: &World) -> Result<()> {
    let (authority, registry) = secured(world, "untrusted")?;
    let image = registry.image("library/busybox:1.35");
    let store = world.store("untrusted")?;
    let other = Authority::new(&world.scratch.dir("steps/untrusted/other")?)?;
    for options in [&[][..], &["--ca-file", shown(other.file())?]] {
        refuses(&store, &image, options)?;
    }
    let misnamed = Options::default().with_tls(&other.server(&["registry.test"])?);
    let misnamed = world.twin_registry("untrusted/other", &misnamed)?;
    refuses(&store, &misnamed.image("library/busybox:1.35"), &["--ca-file", shown(other.file())?])?;
    // Plain HTTP is what loopback is spoken to without any option, and this is none.
    let plain = store.wharf(&["pull", &image, "--retry-times", "0"]).run()?;
    ensure(plain.code != 0 && plain.stdout.is_empty(), || {
        format!("`{}` says {}", plain.shown, plain.stderr)
    })?;
    plain.expect_said(&["400", &registry.host()])?;
    // What is said of certificates means that TLS is spoken, on loopback too.
    for option in ["-k", "--tls-verify=false"] {
        let said = store.wharf(&["digest", &image, option]).text()?;
        ensure_equal(option, &said, &world.fixture.oci.digest)?;
    }
    let trusted = store.wharf(&["digest", &image, "--ca-file", shown(authority.file())?]).text()?;
    ensure_equal("with --ca-file alone", &trusted, &world.fixture.oci.digest)?;
    store.fails(&["digest", &image, "--ca-file", shown(other.file())?], 6)?.expect_said(&["certificate"])?;
    // A file says so as well, and an option that anybody may speak it.
    let root = world.scratch.dir("steps/untrusted/certs.d")?;
    let hosts_dir = ["--hosts-dir", shown(&root)?];
    for server in [&registry, &misnamed] {
        hosts::write(&root, server, &format!("server = \"{}\"\n", server.url("")))?;
        let image = server.image("library/busybox:1.35");
        let pull = [&["pull", &image, "--retry-times", "0"], &hosts_dir[..]].concat();
        store.fails(&pull, 6)?.expect_said(&["certificate"])?;
        for option in ["-k", "--tls-verify=false", "--skip-verify"] {
            let digest = [&["digest", &image, option], &hosts_dir[..]].concat();
            ensure_equal(option, &store.wharf(&digest).text()?, &world.fixture.oci.digest)?;
        }
        hosts::write(&root, server, &format!("server = \"{}\"\nskip_verify = true\n", server.url("")))?;
        let digest = [&["digest", &image], &hosts_dir[..]].concat();
        ensure_equal("with skip_verify", &store.wharf(&digest).text()?, &world.fixture.oci.digest)?;
    }
    hosts::write(&root, &registry, &format!("server = \"{}\"\n", registry.url("")))?;
    let options = [&["-k"], &hosts_dir[..]].concat();
    goes_through(world, "untrusted-anyway", &registry, &authority, &options)
}

/// Says that the certificate is the reason, and where the registry was looked for.
fn refuses(store: &Store<'_>, image: &str, options: &[&str]) -> Result<()> {
    let pull = ["pull", image, "--tls-verify=true", "--retry-times", "0"];
    store.fails(&[&pull, options].concat(), 6)?.expect_said(&["certificate", "127.0.0.1"]).map(drop)
}

/// Who wants a certificate of the client gets it: by options, by hosts.toml and by files beside it.
fn client_certificate(world: &World) -> Result<()> {
    let name = "client-certificate";
    let authority = Authority::new(&world.dir(name)?)?;
    let client = authority.client("client")?;
    let server = authority.server(&["127.0.0.1"])?;
    let options = Options::default().with_tls(&server).with_clients_of(authority.file());
    let registry = world.twin_registry(name, &options)?;
    let image = registry.image("library/busybox:1.35");
    let (ca, certificate, key) = (shown(authority.file())?, shown(&client.certificate)?, shown(&client.key)?);
    let trusted = ["--tls-verify=true", "--ca-file", ca, "--retry-times", "0"];
    let store = world.store(name)?;
    store.fails(&[&["pull", &image], &trusted[..]].concat(), 6)?;
    let options = [&trusted[..], &["--cert-file", certificate, "--key-file", key]].concat();
    ensure_equal("the digest", &store.pull(&image, &options)?, &world.fixture.oci.digest)?;

    let root = world.scratch.dir(&format!("steps/{name}/certs.d"))?;
    let lines = format!("ca = \"{ca}\"\nclient = [[\"{certificate}\", \"{key}\"]]\n");
    let directory = hosts::write(&root, &registry, &format!("server = \"{}\"\n{lines}", registry.url("")))?;
    let hosts_dir = ["--hosts-dir", shown(&root)?];
    world.store("client-certificate-toml")?.pull(&image, &hosts_dir)?;

    let toml = directory.join("hosts.toml");
    std::fs::remove_file(&toml).context(toml.display())?;
    for (file, name) in
        [(authority.file(), "ca.crt"), (&*client.certificate, "client.cert"), (&*client.key, "client.key")]
    {
        std::fs::copy(file, directory.join(name)).context(name)?;
    }
    let options = [&["--tls-verify=true"], &hosts_dir[..]].concat();
    world.store("client-certificate-files")?.pull(&image, &options).map(drop)
}
