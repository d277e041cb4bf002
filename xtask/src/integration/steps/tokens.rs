//! docker-registry with a token server: pulls, pushes and mounts with tokens of the right scope, asked for once, and
//! who is refused one.

use super::super::tokens::{Guarded, READER, WRITER};
use super::super::{Step, World};
use super::passwords::denied;
use crate::failure::{Context, Failure, Result, ensure, ensure_equal};

pub(super) const STEPS: &[Step] =
    &[("tokens-pull", pull), ("tokens-push-and-mount", push), ("tokens-denied", refused)];

fn creds((user, password): (&str, &str)) -> String {
    format!("{user}:{password}")
}

/// One token for all of a pull, for its repository and nothing else.
fn pull(world: &World) -> Result<()> {
    let guarded = Guarded::start(world, "tokens-pull")?;
    let image = guarded.registry.image("library/busybox:1.35");
    let seen = world.skopeo.call(&["inspect", "--raw", "--tls-verify=false", "--creds", &creds(READER)]);
    let seen = seen.arg(format!("docker://{image}")).success()?.stdout;
    ensure_equal("skopeo's manifest", &seen, &world.fixture.oci.bytes)?;
    let before = guarded.asked()?.len();
    let store = world.store("tokens-pull")?;
    let options = ["--all-platforms", "-u", &creds(READER)];
    ensure_equal("the digest", &store.pull(&image, &options)?, &world.fixture.oci.digest)?;
    let asked = guarded.asked()?.split_off(before);
    let [asked] = &asked[..] else {
        return Err(Failure::new(format!("not one token: {asked:?}")));
    };
    ensure_equal("who asked", &(asked.status, asked.user.as_str()), &(200, READER.0))?;
    ensure_equal("the scopes", &asked.scopes, &vec!["repository:library/busybox:pull".to_owned()])
}

/// A push to another repository of the same registry mounts, with a token for both.
fn push(world: &World) -> Result<()> {
    let guarded = Guarded::start(world, "tokens-push")?;
    let image = guarded.registry.image("library/busybox:1.35");
    let store = world.store("tokens-push")?;
    let writer = creds(WRITER);
    store.pull(&image, &["--all-platforms", "-u", &writer])?;
    let target = guarded.registry.image("tokens/box:1");
    let work = || store.wharf(&["push", "-u", &writer, &image, &target]).text();
    let (said, requests) = guarded.registry.asked(work)?;
    ensure_equal("what push prints", &said, &format!("{target}@{}", world.fixture.oci.digest))?;
    let mounts: Vec<_> = requests.iter().filter(|request| request.asks_to_mount()).collect();
    let done = mounts.iter().filter(|request| request.status == 201).count();
    ensure_equal("mounts of six configs and six layers", &done, &12)
        .context(format_args!("the registry was asked {requests:#?}"))?;
    let both = guarded.asked()?.iter().any(|asked| {
        let has = |scope: &str| asked.scopes.iter().any(|found| found == scope);
        let pushes = has("repository:tokens/box:pull,push") || has("repository:tokens/box:push,pull");
        asked.status == 200 && pushes && has("repository:library/busybox:pull")
    });
    ensure(both, || format!("no token for both repositories: {:?}", guarded.asked()))?;
    let back = world.store("tokens-push-back")?.pull(&target, &["--all-platforms", "-u", &writer])?;
    ensure_equal("the digest of what was pushed", &back, &world.fixture.oci.digest)
}

/// Nobody, a wrong password, and somebody who may pull but not push.
fn refused(world: &World) -> Result<()> {
    let guarded = Guarded::start(world, "tokens-denied")?;
    let image = guarded.registry.image("library/busybox:1.35");
    let store = world.store("tokens-denied")?;
    denied(store.wharf(&["pull", &image]).run()?)?;
    let wrong = format!("{}:wrong", READER.0);
    denied(store.wharf(&["pull", "-u", &wrong, &image]).run()?)?;
    store.pull(&image, &["-u", &creds(READER)])?;
    let target = guarded.registry.image("tokens/denied:1");
    let push = ["push", "-u", &creds(READER), "--platform", "local", &image, &target];
    let (finished, requests) = guarded.registry.asked(|| store.wharf(&push).run())?;
    denied(finished)?;
    let taken = requests.iter().filter(|request| request.writes() && request.status < 400).count();
    ensure_equal("uploads that were taken", &taken, &0)
}
