//! Media types of others: a cookbook, which nobody but a plugin knows, through the stock program, through one that was built with a
//! plugin in Rust, and through the stock program with a plugin in Python.
//!
//! docker-registry takes no manifest of a type that it does not know, so the registry is wharf's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::store::{Store, Wharf};
use super::super::{Step, World, digest};
use super::serve::{SERVE, Server};
use crate::cargo::Workspace;
use crate::failure::{Context, Result, ensure, ensure_equal};
use crate::process::{Signal, Tool};
use crate::registry::http;

pub(super) const STEPS: &[Step] = &[
    ("plugins-linked", linked),
    ("plugins-executable", executable),
    ("plugins-refused", refused),
    ("plugins-served", served),
];

const COOKBOOK: &str = "application/vnd.example.cookbook.manifest.v1+json";
const RECIPE: &str = "application/vnd.example.recipe.v1+json";

/// The repository of the cookbooks.
const REPOSITORY: &str = "kitchen/book";

/// A cookbook in a registry.
#[derive(Debug)]
struct Book {
    /// Repository and tag.
    name: String,
    /// The digest of its manifest.
    digest: String,
    /// The bytes of its manifest.
    manifest: Vec<u8>,
    /// The digests of its cover and recipes.
    parts: Vec<String>,
}

impl Book {
    /// Puts a cover and two recipes into the registry, and a cookbook of them with this title.
    fn publish(server: &Server, tag: &str, title: &Value) -> Result<Self> {
        let cover = put_blob(server, "image/png", format!("the cover of {tag}").as_bytes())?;
        let mut recipes = Vec::new();
        for (name, ingredients) in [("soup", json!(["water", "salt"])), ("cake", json!(["flour"]))] {
            let text = json!({ "ingredients": ingredients, "of": tag }).to_string();
            let mut recipe = put_blob(server, RECIPE, text.as_bytes())?;
            recipe["annotations"] = json!({ "com.example.recipe.name": name });
            recipes.push(recipe);
        }
        let parts = [&cover]
            .into_iter()
            .chain(&recipes)
            .map(|part| part["digest"].as_str().unwrap_or_default().to_owned());
        let parts = parts.collect();
        let manifest = json!({ "mediaType": COOKBOOK, "title": title, "cover": cover, "recipes": recipes });
        let book = Self {
            name: format!("{REPOSITORY}:{tag}"),
            digest: digest::of(manifest.to_string().as_bytes())?,
            manifest: manifest.to_string().into_bytes(),
            parts,
        };
        let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
        let response = http::put(server.port, &path, COOKBOOK, &book.manifest)?;
        ensure_equal("the status of a cookbook that is put", &response.status, &201)?;
        book.is_served(server)?;
        Ok(book)
    }

    /// The registry has the manifest as it was made, and every part.
    fn is_served(&self, server: &Server) -> Result<()> {
        let path = |kind: &str, digest: &str| format!("/v2/{REPOSITORY}/{kind}/{digest}");
        let response = http::get(server.port, &path("manifests", &self.digest))?;
        ensure_equal("the status of the cookbook", &response.status, &200)?;
        ensure_equal("the cookbook", &response.body, &self.manifest)?;
        for part in &self.parts {
            let response = http::get(server.port, &path("blobs", part))?;
            ensure_equal("the status of a part", &response.status, &200)?;
            ensure_equal("the digest of a part", &digest::of(&response.body)?, part)?;
        }
        Ok(())
    }

    /// Its name for those who pull from the server.
    fn image(&self, server: &Server) -> String {
        format!("127.0.0.1:{}/{}", server.port, self.name)
    }

    /// The hex digests of everything that it consists of, sorted.
    fn blobs(&self) -> Vec<String> {
        let all = self.parts.iter().chain([&self.digest]);
        let mut blobs: Vec<_> = all.map(|digest| digest.replacen("sha256:", "", 1)).collect();
        blobs.sort();
        blobs
    }
}

/// Puts a blob into the registry and gives its descriptor.
fn put_blob(server: &Server, media_type: &str, body: &[u8]) -> Result<Value> {
    let digest = digest::of(body)?;
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={digest}");
    let response = http::post(server.port, &path, "application/octet-stream", body)?;
    ensure_equal("the status of a blob that is posted", &response.status, &201)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": body.len() }))
}

/// A program at work on a store, with the options that make it know cookbooks.
#[derive(Debug)]
struct Reader<'a> {
    store: Store<'a>,
    plugins: Option<PathBuf>,
}

impl Reader<'_> {
    fn wharf(&self, arguments: &[&str]) -> Tool {
        let tool = self.store.wharf(arguments);
        match &self.plugins {
            Some(directory) => tool.env("WHARF_PLUGIN_DIR", directory),
            None => tool.env("WHARF_PLUGIN_DIR", ""),
        }
    }

    /// Pulls a cookbook; nothing about it is unknown but the type of its cover.
    fn pull(&self, book: &Book, server: &Server) -> Result<()> {
        let image = book.image(server);
        let said = self.wharf(&["pull", &image]).success()?;
        ensure_equal("what pull prints", &said.text()?, &format!("{image}@{}", book.digest))?;
        ensure(!said.stderr.contains("vnd.example"), || {
            format!("a type of the plugin is unknown: {}", said.stderr)
        })
    }

    /// The store has the cookbook: `tree` names its parts, a collection keeps them, nothing is damaged.
    fn has(&self, book: &Book, image: &str) -> Result<()> {
        let tree = self.wharf(&["tree", image]).text()?;
        for part in &book.parts {
            ensure(tree.contains(part), || format!("tree does not name {part}:\n{tree}"))?;
        }
        for word in ["cookbook", "soup", "cake"] {
            ensure(tree.contains(word), || format!("tree does not say {word}:\n{tree}"))?;
        }
        self.wharf(&["gc"]).success()?;
        ensure_equal("the blobs after a collection", &self.store.layout().blobs()?, &book.blobs())?;
        self.store.layout().verify()?;
        self.wharf(&["verify"]).success().map(drop)
    }

    /// Exports the cookbook, and gives the archive, which has every part of it.
    fn export(&self, book: &Book, image: &str, directory: &Path) -> Result<PathBuf> {
        let file = directory.join("book.tar");
        self.wharf(&["export", image, "--output"]).arg(&file).success()?;
        let list = Tool::new("tar").arg("-tf").arg(&file).text()?;
        for blob in book.blobs() {
            let path = format!("blobs/sha256/{blob}");
            ensure(list.lines().any(|line| line == path), || format!("the archive lacks {path}:\n{list}"))?;
        }
        Ok(file)
    }

    /// Brings the store back from an archive of the cookbook.
    fn import(&self, book: &Book, image: &str, file: &Path) -> Result<()> {
        let printed = self.wharf(&["import"]).arg(file).text()?;
        ensure(printed.contains(image) && printed.contains(&book.digest), || {
            format!("import prints:\n{printed}")
        })?;
        self.has(book, image)
    }

    /// Pushes the cookbook to a registry that has nothing of it, and is asked for every part afterwards.
    fn push(&self, book: &Book, image: &str, world: &World, name: &str) -> Result<()> {
        let empty = world.store(&format!("{name}-pushed"))?;
        let server = Server::start(world, &empty, &format!("{name}-pushed"))?;
        let target = book.image(&server);
        let printed = self.wharf(&["push", image, &target]).text()?;
        ensure_equal("what push prints", &printed, &format!("{target}@{}", book.digest))?;
        book.is_served(&server)?;
        server.daemon.stop(Signal::Terminate)
    }

    fn remove(&self, image: &str) -> Result<()> {
        self.wharf(&["images", "rm", image]).success()?;
        self.wharf(&["gc"]).success()?;
        ensure_equal("the blobs when the image is removed", &self.store.layout().blobs()?, &Vec::new())
    }

    /// Everything that can be done with an image that is pulled.
    fn does_everything(&self, book: &Book, server: &Server, world: &World, name: &str) -> Result<()> {
        let image = book.image(server);
        self.pull(book, server)?;
        self.has(book, &image)?;
        let archive = self.export(book, &image, &world.dir(name)?)?;
        self.remove(&image)?;
        self.import(book, &image, &archive)?;
        self.push(book, &image, world, name)?;
        self.remove(&image)
    }
}

/// The stock program keeps a cookbook whole, and says that nobody decodes it; one with the plugin knows its parts.
fn linked(world: &World) -> Result<()> {
    let served = world.store("plugins-linked-served")?;
    let server = Server::start(world, &served, "plugins-linked-served")?;
    let book = Book::publish(&server, "winter", &json!("Winter"))?;

    let stock = Reader { store: world.store("plugins-stock")?, plugins: None };
    let image = book.image(&server);
    stock.wharf(&["pull", &image]).success()?.expect_said(&[COOKBOOK])?;
    let strict = stock.wharf(&["pull", "--strict-types", &image]).run()?.expect_code(5)?;
    strict.expect_said(&[COOKBOOK])?;
    let tree = stock.wharf(&["tree", &image]).text()?;
    ensure(tree.contains("unknown type") && !tree.contains(&book.parts[0]), || {
        format!("the stock program draws:\n{tree}")
    })?;
    let whole = vec![book.digest.replacen("sha256:", "", 1)];
    ensure_equal("the blobs of the stock program", &stock.store.layout().blobs()?, &whole)?;

    let program = Workspace::find()?.build_cookbook_wharf()?;
    let wharf = Wharf::new(program, world.dir("plugins-home")?);
    let root = world.scratch.path().join("stores/plugins-linked");
    let reader = Reader { store: Store::new(&wharf, root), plugins: None };
    let entries = reader.wharf(&["plugins"]).text()?;
    ensure(entries.contains("wharf_plugin_cookbook::manifest"), || format!("plugins lists:\n{entries}"))?;
    reader.does_everything(&book, &server, world, "plugins-linked")?;
    server.daemon.stop(Signal::Terminate)
}

/// The stock program with the plugin in Python.
fn executable(world: &World) -> Result<()> {
    let served = world.store("plugins-executable-served")?;
    let server = Server::start(world, &served, "plugins-executable-served")?;
    let book = Book::publish(&server, "summer", &json!("Summer"))?;
    let directory = world.dir("plugins-executable")?;
    let reader = Reader { store: world.store("plugins-executable")?, plugins: Some(install(&directory)?) };
    let entries = reader.wharf(&["plugins"]).text()?;
    for name in ["cookbook-py", "recipe-py", "cookbook.json", "recipe.json"] {
        ensure(entries.contains(name), || format!("plugins does not list {name}:\n{entries}"))?;
    }
    reader.does_everything(&book, &server, world, "plugins-executable")?;
    server.daemon.stop(Signal::Terminate)
}

/// What the plugin in Python does not take for a cookbook is an error of usage that names it, and nothing is recorded.
fn refused(world: &World) -> Result<()> {
    let served = world.store("plugins-refused-served")?;
    let server = Server::start(world, &served, "plugins-refused-served")?;
    let book = Book::publish(&server, "untitled", &json!(7))?;
    let plugins = install(&world.dir("plugins-refused")?)?;
    let reader = Reader { store: world.store("plugins-refused")?, plugins: Some(plugins) };
    let pull = reader.wharf(&["pull", &book.image(&server)]).run()?.expect_code(3)?;
    pull.expect_said(&["cookbook-py", "it has no title", &book.digest])?;
    ensure_equal("what is recorded", &reader.store.names()?, &Vec::new())?;
    server.daemon.stop(Signal::Terminate)
}

/// A server with the plugin knows what a cookbook is made of: one that wants manifests to be complete takes none whose parts are missing.
fn served(world: &World) -> Result<()> {
    let directory = world.dir("plugins-served")?;
    let reader = Reader { store: world.store("plugins-served-with")?, plugins: Some(install(&directory)?) };
    let serve = [SERVE, &["--complete-manifests"]].concat();
    let server = Server::run(world, reader.wharf(&serve), "plugins-served")?;
    let missing = json!({ "mediaType": RECIPE, "digest": digest::of(b"nowhere")?, "size": 7 });
    let manifest = json!({ "mediaType": COOKBOOK, "title": "Empty", "recipes": [missing] }).to_string();
    let path = format!("/v2/{REPOSITORY}/manifests/empty");
    let response = http::put(server.port, &path, COOKBOOK, manifest.as_bytes())?;
    let said = String::from_utf8_lossy(&response.body).into_owned();
    ensure(response.status == 404 && said.contains("MANIFEST_BLOB_UNKNOWN"), || {
        format!("a cookbook without its recipes is answered with {} {said}", response.status)
    })?;
    let book = Book::publish(&server, "whole", &json!("Whole"))?;
    let image = book.image(&server);
    server.daemon.stop(Signal::Terminate)?;
    reader.has(&book, &image)
}

/// Copies the plugin in Python into a directory of plugins, as a user would.
fn install(directory: &Path) -> Result<PathBuf> {
    let source = Workspace::find()?.root.join("tests/plugins/executable");
    let target = directory.join("plugins");
    fs::create_dir_all(&target).context(target.display())?;
    for (name, mode) in [("cookbook.json", 0o644), ("recipe.json", 0o644), ("cookbook.py", 0o755)] {
        let file = target.join(name);
        fs::copy(source.join(name), &file).context(file.display())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).context(file.display())?;
    }
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).context(target.display())?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_is_installed_is_all_that_lies_there() {
        let scratch = Scratch::new("plugins").unwrap();
        let target = install(scratch.path()).unwrap();
        let source = Workspace::find().unwrap().root.join("tests/plugins/executable");
        let names = |directory: &Path| {
            let entries = fs::read_dir(directory).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&target), names(&source));
        let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("cookbook.json"), mode("cookbook.py")), (0o644, 0o755));
    }

    #[test]
    fn blobs_are_sorted_and_have_no_algorithm() {
        let digests = ["sha256:b", "sha256:c"].map(str::to_owned).to_vec();
        let book =
            Book { name: String::new(), digest: "sha256:a".to_owned(), manifest: Vec::new(), parts: digests };
        assert_eq!(book.blobs(), ["a", "b", "c"]);
    }
}
