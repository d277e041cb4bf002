//! wharf as the steps drive it: one program, a store per step, and what its output is held to.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::layout::{self, Layout, text};
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::{Finished, Tool};

/// How long one call of wharf may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What the environment may configure, and must not unless a step says so.
const CONFIGURED: &[&str] = &[
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "CONTAINERS_REGISTRIES_CONF",
    "WHARF_HOSTS_DIR",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The program that is checked.
#[derive(Debug)]
pub(super) struct Wharf {
    program: PathBuf,
    home: PathBuf,
}

impl Wharf {
    /// The program, and a home for it in which nothing is configured.
    pub(super) fn new(program: PathBuf, home: PathBuf) -> Self {
        Self { program, home }
    }

    /// The same program with another home.
    pub(super) fn at_home(&self, home: PathBuf) -> Self {
        Self::new(self.program.clone(), home)
    }

    /// The program.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Its home, where it looks for what its user has configured.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// The program in a clean environment, without arguments; `wrapper` runs it if there is one.
    pub(super) fn tool(&self, wrapper: &[OsString]) -> Tool {
        let tool = match wrapper {
            [] => Tool::new(&self.program),
            [first, rest @ ..] => Tool::new(first).args(rest).arg(&self.program),
        };
        let tool = CONFIGURED.iter().fold(tool, |tool, name| tool.without(name));
        let tool = ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"]
            .iter()
            .fold(tool, |tool, name| tool.env(name, self.home.join(name)));
        tool.env("HOME", &self.home).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1").limit(LIMIT)
    }
}

/// One image as `images ls --format json` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Its name.
    pub(super) name: String,
    /// The media type of what the name leads to.
    pub(super) media_type: String,
    /// The digest of what the name leads to.
    pub(super) digest: String,
    /// The size of what the name leads to, in bytes.
    pub(super) size: u64,
    /// The platforms that are there, sorted.
    pub(super) platforms: Vec<String>,
}

/// A store, and wharf at work on it.
#[derive(Debug)]
pub(super) struct Store<'a> {
    wharf: &'a Wharf,
    root: PathBuf,
    wrapper: Vec<OsString>,
    /// The root as this process sees it.
    layout: Layout,
}

impl<'a> Store<'a> {
    /// A store at `root`, which need not be there yet.
    pub(super) fn new(wharf: &'a Wharf, root: PathBuf) -> Self {
        Self { wharf, layout: Layout::new(&root), root, wrapper: Vec::new() }
    }

    /// A store that wharf reaches at `root` when `wrapper` runs it, and this process at `seen`.
    pub(super) fn elsewhere(wharf: &'a Wharf, root: PathBuf, wrapper: Vec<OsString>, seen: PathBuf) -> Self {
        Self { wharf, root, wrapper, layout: Layout::new(seen) }
    }

    /// Its root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The layout that its root is.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// wharf on this store.
    pub(super) fn wharf(&self, arguments: &[&str]) -> Tool {
        self.wharf.tool(&self.wrapper).arg("--root").arg(&self.root).args(arguments)
    }

    /// Pulls, and gives the digest. The name with its digest must be all that is on standard output.
    pub(super) fn pull(&self, image: &str, options: &[&str]) -> Result<String> {
        let output = self.wharf(&[&["pull", image], options].concat()).text()?;
        let digest = output.strip_prefix(image).and_then(|rest| rest.strip_prefix('@'));
        let digest = digest.filter(|digest| digest.len() == 71 && digest.starts_with("sha256:"));
        let digest = digest.context(format_args!("pull of {image} prints {output:?}"))?;
        self.layout.verify()?;
        Ok(digest.to_owned())
    }

    /// What is in the store, by `images ls --format json`.
    pub(super) fn records(&self) -> Result<Vec<Record>> {
        let list = self.wharf(&["images", "ls", "--format", "json"]).success()?;
        let list = layout::parse(&list.stdout)?;
        list.as_array().context("images ls --format json gives no array")?.iter().map(record).collect()
    }

    /// The one image that is in the store.
    pub(super) fn record(&self) -> Result<Record> {
        let mut records = self.records()?;
        ensure(records.len() == 1, || format!("not one image: {records:?}"))?;
        records.pop().context("no image")
    }

    /// The names in the store, by `images ls -q`; index.json must have the same ones.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let list = self.wharf(&["images", "ls", "-q"]).text()?;
        let mut names: Vec<String> = list.lines().map(str::to_owned).collect();
        names.sort();
        let mut shown: Vec<_> = self.layout.names()?.into_iter().map(|(name, _)| name).collect();
        shown.sort();
        ensure_equal("index.json", &shown, &names)?;
        Ok(names)
    }

    /// Runs what must fail with this exit code, say so on standard error, and write nothing to standard output.
    pub(super) fn fails(&self, arguments: &[&str], code: i32) -> Result<Finished> {
        let finished = self.wharf(arguments).run()?.expect_code(code)?;
        ensure(finished.stdout.is_empty(), || {
            format!("`{}` fails and prints {:?}", finished.shown, String::from_utf8_lossy(&finished.stdout))
        })?;
        finished.expect_said(&["error"])
    }
}

fn record(value: &Value) -> Result<Record> {
    let target = &value["target"];
    let platforms = value["platforms"].as_array().context(format_args!("no platforms in {value}"))?;
    let mut platforms: Vec<_> = platforms.iter().filter_map(Value::as_str).map(plain).collect();
    platforms.sort();
    ensure(value["labels"].is_object(), || format!("no labels in {value}"))?;
    Ok(Record {
        name: text(value, "name")?,
        media_type: text(target, "mediaType")?,
        digest: text(target, "digest")?,
        size: target["size"].as_u64().context(format_args!("no size in {value}"))?,
        platforms,
    })
}

/// arm64 has one variant that matters; it may be written or not.
fn plain(platform: &str) -> String {
    if platform == "linux/arm64/v8" { "linux/arm64".to_owned() } else { platform.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_are_read_and_incomplete_ones_refused() {
        let good = json!({
            "name": "a", "labels": {}, "platforms": ["linux/arm64/v8", "linux/amd64"],
            "target": { "mediaType": "m", "digest": "d", "size": 3 },
        });
        let read = record(&good).unwrap();
        assert_eq!((read.name.as_str(), read.size), ("a", 3));
        assert_eq!(read.platforms, ["linux/amd64", "linux/arm64"]);
        for field in ["name", "labels", "platforms", "target"] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(field);
            assert!(record(&bad).is_err(), "{field}");
        }
    }
}
