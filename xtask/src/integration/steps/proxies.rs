//! Proxies from the environment. The names of the registries end in `.test`, which nobody but the proxy can resolve, so
//! that what arrives came through it.

use super::super::{Step, World};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::Tool;
use crate::registry::certificates::Authority;
use crate::registry::forward::Forward;
use crate::registry::{Options, free_port};

pub(super) const STEPS: &[Step] = &[
    ("proxy-http", http),
    ("proxy-https", https),
    ("proxy-not-for-all", exceptions),
    ("proxy-that-is-gone", gone),
];

/// Without what the steps otherwise say of proxies.
fn unproxied(tool: Tool) -> Tool {
    tool.without("NO_PROXY").without("no_proxy")
}

/// Plain HTTP goes to the proxy with the whole URL, for a pull and for a push.
fn http(world: &World) -> Result<()> {
    let registry = world.twin_registry("proxy-http", &Options::default())?;
    let host = format!("registry.test:{}", registry.port());
    let image = format!("{host}/library/busybox:1.35");
    for (number, variable) in ["HTTP_PROXY", "http_proxy"].into_iter().enumerate() {
        let proxy = Forward::start()?;
        let store = world.store(&format!("proxy-{variable}"))?;
        let pull = ["pull", "--plain-http", "--all-platforms", &image];
        let said = unproxied(store.wharf(&pull)).env(variable, proxy.url()).text()?;
        ensure_equal("what is printed", &said, &format!("{image}@{}", world.fixture.oci.digest))?;
        store.layout().verify()?;
        let asked = proxy.asked();
        let line = format!("GET {host}");
        ensure(asked.contains(&line), || format!("{variable}: the proxy was asked {asked:?}"))?;
        ensure(asked.iter().all(|line| line.ends_with(&host)), || {
            format!("asked for others too: {asked:?}")
        })?;
        let target = format!("{host}/proxied/box-{number}:1");
        let push = ["push", "--plain-http", &image, &target];
        let said = unproxied(store.wharf(&push)).env(variable, proxy.url()).text()?;
        ensure_equal("what push prints", &said, &format!("{target}@{}", world.fixture.oci.digest))?;
        ensure(proxy.asked().contains(&format!("PUT {host}")), || "no PUT came to the proxy".to_owned())?;
    }
    Ok(())
}

/// TLS goes through a tunnel, and the certificate is the registry's own, which is checked as without a proxy.
fn https(world: &World) -> Result<()> {
    let authority = Authority::new(&world.dir("proxy-https")?)?;
    let options = Options::default().with_tls(&authority.server(&["registry.test"])?);
    let registry = world.twin_registry("proxy-https", &options)?;
    let host = format!("registry.test:{}", registry.port());
    let image = format!("{host}/library/busybox:1.35");
    let ca = authority.file().to_str().context("a path that is no text")?;
    let proxy = Forward::start()?;
    let store = world.store("proxy-https")?;
    let pull = ["pull", "--ca-file", ca, &image];
    let said = unproxied(store.wharf(&pull)).env("HTTPS_PROXY", proxy.url()).text()?;
    ensure_equal("what is printed", &said, &format!("{image}@{}", world.fixture.oci.digest))?;
    for (options, code) in [(&["--retry-times", "0"][..], 6), (&["-k"], 0)] {
        let digest = [&["digest", &image], options].concat();
        unproxied(store.wharf(&digest)).env("HTTPS_PROXY", proxy.url()).run()?.expect_code(code)?;
    }
    let asked = proxy.asked();
    let tunnel = format!("CONNECT {host}");
    ensure(!asked.is_empty() && asked.iter().all(|line| *line == tunnel), || {
        format!("the proxy was asked {asked:?}, not for tunnels alone")
    })
}

/// What `NO_PROXY` names is asked without the proxy, and so is not found where only that knows the way; and what is on
/// loopback is reached without.
fn exceptions(world: &World) -> Result<()> {
    let registry = world.twin_registry("proxy-exceptions", &Options::default())?;
    let image = format!("registry.test:{}/library/busybox:1.35", registry.port());
    let proxy = Forward::start()?;
    let store = world.store("proxy-exceptions")?;
    for exception in ["registry.test", ".test", "example.com,registry.test", "*"] {
        let digest = ["digest", "--plain-http", "--retry-times", "0", &image];
        let tool = unproxied(store.wharf(&digest)).env("HTTP_PROXY", proxy.url()).env("NO_PROXY", exception);
        let finished = tool.run()?;
        finished.expect_code(6)?.expect_said(&["registry.test"]).context(exception)?;
        ensure(proxy.asked().is_empty(), || format!("{exception}: the proxy was asked {:?}", proxy.asked()))?;
    }
    for exception in ["127.0.0.1", "127.0.0.0/8"] {
        let digest = ["digest", &registry.image("library/busybox:1.35")];
        let tool = unproxied(store.wharf(&digest)).env("HTTP_PROXY", proxy.url()).env("NO_PROXY", exception);
        ensure_equal(exception, &tool.text()?, &world.fixture.oci.digest)?;
        ensure(proxy.asked().is_empty(), || format!("{exception}: the proxy was asked {:?}", proxy.asked()))?;
    }
    Ok(())
}

/// A proxy that does not answer is a network's failure, and named.
fn gone(world: &World) -> Result<()> {
    let store = world.store("proxy-gone")?;
    let port = free_port()?;
    let proxy = format!("http://127.0.0.1:{port}");
    let digest = ["digest", "--plain-http", "--retry-times", "0", "registry.test/library/busybox:1.35"];
    let finished = unproxied(store.wharf(&digest)).env("HTTP_PROXY", &proxy).run()?.expect_code(6)?;
    finished.expect_said(&["registry.test"]).map(drop)
}
