//! `wharf tree`: the graph of an image.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use clap::Args;
use serde::Serialize;
use wharf_content::{Catalogue, Descriptor, Digest, Error, ErrorKind, Provider, Result};
use wharf_images::{
    Decoded, Kind, Limits, Role,
    artifact::TITLE,
    decode::{ManifestDecoders, kind},
};

use crate::{
    args::Format,
    context::Context,
    node::{self, Place, Said},
    output::{self, escape},
    view::LookArgs,
};

/// Arguments of `tree`.
#[derive(Debug, Args)]
pub(crate) struct Tree {
    #[command(flatten)]
    look: LookArgs,
}

/// One node with what is below it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    what: &'static str,
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(flatten)]
    said: Said,
    present: bool,
    /// Whether some decoder knows the type, or the parent vouches for what it is.
    known: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Node>,
}

impl Tree {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let view = context.view(&self.look).await?;
        let place = if view.image.is_some() { Place::Local } else { Place::Remote };
        let mut grower = Grower {
            provider: view.provider,
            catalogue: context.catalogue.clone(),
            readings: Readings::new(place),
            place,
            seen: HashSet::new(),
            left: Limits::default().max_nodes,
        };
        let root = grower.grow(view.target, Branch { role: None, vouched: false, depth: 0 }).await?;
        if context.global.format == Format::Json {
            return output::json(&serde_json::json!({ "name": view.name, "root": root }));
        }
        let mut text = format!("{}\n", escape(&view.name));
        draw(&root, "", true, context.global.quiet, &mut text);
        output::write(text.as_bytes())
    }
}

/// What nodes said, each of which is read once however often it is named.
pub(super) struct Readings {
    place: Place,
    known: HashMap<Key, Reading>,
}

/// What decides over how a node is read: digest, media type, size, and whether its bytes come along.
type Key = (Digest, String, u64, bool);

struct Reading {
    /// Without children, which are drawn once.
    decoded: Decoded,
    said: Said,
    /// Whether it was read, so that the title that its parent gives it can stand in for what it does not say.
    is_read: bool,
}

impl Readings {
    pub(super) fn new(place: Place) -> Self {
        Self { place, known: HashMap::new() }
    }

    /// As [`node::read`]; but what was read before gives no children again.
    pub(super) async fn read(
        &mut self,
        provider: &dyn Provider,
        descriptor: &Descriptor,
        catalogue: &Catalogue,
    ) -> Result<(Decoded, Said)> {
        let decoder = catalogue.find::<ManifestDecoders>(&descriptor.media_type)?;
        if decoder.is_none_or(|decoder| !decoder.reads_content()) {
            // There is nothing but the descriptor, of which each mention has its own.
            return node::read(provider, descriptor, self.place, catalogue).await;
        }
        let Descriptor { digest, media_type, size, .. } = descriptor;
        let key = (digest.clone(), media_type.clone(), *size, descriptor.embedded().is_some());
        let title = descriptor.annotations.get(TITLE);
        if let Some(known) = self.known.get(&key) {
            let mut decoded = known.decoded.clone();
            if known.is_read && decoded.description.is_none() && title.is_some() {
                decoded.description = title.cloned();
                let said = Said::new(&decoded);
                return Ok((decoded, said));
            }
            return Ok((decoded, known.said.clone()));
        }
        let is_leaf = !kind(media_type, catalogue)?.is_some_and(Kind::is_manifest);
        let mut untitled = descriptor.clone();
        if is_leaf {
            untitled.annotations.remove(TITLE);
        }
        let (mut decoded, mut said) = node::read(provider, &untitled, self.place, catalogue).await?;
        let children = std::mem::take(&mut decoded.children);
        // A leaf that says nothing at all may not be there, and one with a problem has nothing but that.
        let is_read = is_leaf
            && (decoded != Decoded::default()
                || (said.lines().is_empty() && (key.3 || provider.reader(descriptor).await.is_ok())));
        self.known.insert(key, Reading { decoded: decoded.clone(), said: said.clone(), is_read });
        if is_read && decoded.description.is_none() && title.is_some() {
            decoded.description = title.cloned();
            said = Said::new(&decoded);
        }
        decoded.children = children;
        Ok((decoded, said))
    }
}

struct Grower {
    provider: Arc<dyn Provider>,
    catalogue: Catalogue,
    readings: Readings,
    place: Place,
    /// Documents whose children have been drawn.
    seen: HashSet<Digest>,
    left: usize,
}

/// How a node hangs on its parent.
#[derive(Clone, Copy)]
struct Branch {
    role: Option<Role>,
    /// Whether the parent vouches for what nobody decodes.
    vouched: bool,
    depth: usize,
}

type Growing<'a> = Pin<Box<dyn Future<Output = Result<Node>> + Send + 'a>>;

impl Grower {
    fn grow(&mut self, mut descriptor: Descriptor, branch: Branch) -> Growing<'_> {
        Box::pin(async move {
            let fits = branch.depth <= Limits::DEFAULT_MAX_DEPTH;
            self.left = self.left.checked_sub(1).filter(|_| fits).ok_or_else(|| {
                Error::resource_exhausted(format!(
                    "the image is too large to be drawn, at {}",
                    descriptor.digest
                ))
            })?;
            let kind = kind(&descriptor.media_type, &self.catalogue)?;
            let present = self.is_present(&descriptor).await?;
            let (decoded, said) = if present {
                self.readings.read(self.provider.as_ref(), &descriptor, &self.catalogue).await?
            } else {
                Default::default()
            };
            let mut grown = Vec::new();
            if self.seen.insert(descriptor.digest.clone()) {
                for child in decoded.children {
                    let depth = branch.depth + 1;
                    let branch = Branch { role: Some(child.role), vouched: decoded.vouches, depth };
                    grown.push(self.grow(child.descriptor, branch).await?);
                }
            }
            descriptor.platform = descriptor.platform.or(decoded.platform);
            let known = kind.is_some() || branch.vouched;
            Ok(Node { what: what(kind, branch.role), descriptor, said, present, known, children: grown })
        })
    }

    /// At a remote place everything is taken to be there: asking for each layer would fetch it.
    async fn is_present(&self, descriptor: &Descriptor) -> Result<bool> {
        if self.place == Place::Remote {
            return Ok(true);
        }
        match self.provider.reader(descriptor).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn what(kind: Option<Kind>, role: Option<Role>) -> &'static str {
    match (kind, role) {
        (Some(Kind::Index), _) => "index",
        (Some(Kind::Manifest), _) => "manifest",
        (_, Some(Role::Config)) => "config",
        (_, Some(Role::Layer)) => "layer",
        _ => "blob",
    }
}

fn draw(node: &Node, indent: &str, is_last: bool, quiet: bool, text: &mut String) {
    let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    let Descriptor { digest, size, media_type, platform, .. } = &node.descriptor;
    let mut line =
        if quiet { digest.to_string() } else { format!("{} {digest} {}", node.what, output::size(*size)) };
    if !quiet {
        if let Some(platform) = platform {
            line.push_str(&format!("  {}", escape(&wharf_platforms::format_all(platform))));
        }
        line.push_str(&format!("  {}", escape(media_type)));
        if let Some(description) = &node.said.description {
            line.push_str(&format!("  {}", escape(description)));
        }
        if !node.known {
            line.push_str("  (unknown type, kept whole)");
        } else if !node.present {
            line.push_str("  (not in the store)");
        }
    }
    text.push_str(&format!("{indent}{branch}{line}\n"));
    let indent = format!("{indent}{below}");
    if !quiet {
        let stem = if node.children.is_empty() { " " } else { "│" };
        for line in node.said.lines() {
            text.push_str(&format!("{indent}{stem}  {line}\n"));
        }
    }
    for (at, child) in node.children.iter().enumerate() {
        draw(child, &indent, at + 1 == node.children.len(), quiet, text);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use serde_json::{Value, json};
    use wharf_content::{BlobReader, CommitOptions, MemoryStore, plugin::Registration, write_blob};
    use wharf_images::{ManifestDecoder, async_trait, media_types as types};

    use super::*;

    /// A store that counts how often each of its blobs is opened.
    #[derive(Debug, Default)]
    pub(in crate::command) struct Counting {
        store: MemoryStore,
        opened: Mutex<HashMap<Digest, usize>>,
    }

    impl Counting {
        pub(in crate::command) async fn put(&self, media_type: &str, document: &Value) -> Descriptor {
            let bytes = document.to_string().into_bytes();
            let descriptor = Descriptor::of(media_type, &bytes);
            let options = CommitOptions::default();
            let name = descriptor.digest.as_str();
            write_blob(&self.store, name, &descriptor, bytes.into(), options).await.expect("writes");
            descriptor
        }

        pub(in crate::command) fn opened(&self, digest: &Digest) -> usize {
            self.opened.lock().expect("no panic").get(digest).copied().unwrap_or_default()
        }
    }

    #[async_trait]
    impl Provider for Counting {
        async fn reader(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobReader>> {
            *self.opened.lock().expect("no panic").entry(descriptor.digest.clone()).or_default() += 1;
            self.store.reader(descriptor).await
        }
    }

    /// A leaf that says something of itself once it is read, unless it is empty.
    #[derive(Debug)]
    struct Note;

    pub(in crate::command) const NOTE: &str = "application/vnd.example.note";

    impl ManifestDecoder for Note {
        fn kind(&self) -> Kind {
            Kind::Leaf
        }

        fn reads_content(&self) -> bool {
            true
        }

        fn decode(&self, _: &Descriptor, bytes: &[u8]) -> Result<Decoded> {
            match bytes {
                b"{}" => Ok(Decoded::default()),
                b"null" => Err(Error::invalid_argument("no note")),
                _ => Ok(Decoded::default().with_description("a note")),
            }
        }
    }

    pub(in crate::command) fn catalogue() -> Catalogue {
        let keys = [NOTE.to_owned()];
        let entry = Registration::<ManifestDecoders>::shared("note", keys, 0, module_path!(), Arc::new(Note));
        Catalogue::linked().clone().with(entry)
    }

    #[tokio::test]
    async fn what_is_named_often_is_read_once() {
        let counting = Arc::new(Counting::default());
        let config = counting.put(types::OCI_CONFIG, &json!({})).await;
        let note = counting.put(NOTE, &json!([1])).await;
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": vec![&note; 1000] });
        let manifest = counting.put(types::OCI_MANIFEST, &manifest).await;
        let index = json!({ "schemaVersion": 2, "manifests": vec![&manifest; 1000] });
        let index = counting.put(types::OCI_INDEX, &index).await;
        let mut grower = Grower {
            provider: counting.clone(),
            catalogue: catalogue(),
            readings: Readings::new(Place::Remote),
            place: Place::Remote,
            seen: HashSet::new(),
            left: Limits::default().max_nodes,
        };
        let root = grower.grow(index.clone(), Branch { role: None, vouched: false, depth: 0 }).await;
        let root = root.expect("grows");
        assert_eq!(root.children.len(), 1000);
        assert_eq!(root.children[0].children.len(), 1001);
        assert!(root.children[1..].iter().all(|again| again.children.is_empty()));
        let said = |node: &Node| node.said.description.clone();
        assert!(root.children[0].children[1..].iter().all(|note| said(note).as_deref() == Some("a note")));
        assert!(root.children.iter().all(|again| said(again) == said(&root.children[0])));
        for document in [&index, &manifest, &note] {
            assert_eq!(counting.opened(&document.digest), 1, "{}", document.media_type);
        }
    }

    #[tokio::test]
    async fn each_mention_has_its_own_title() {
        let counting = Counting::default();
        let (silent, broken) = (counting.put(NOTE, &json!({})).await, counting.put(NOTE, &json!(null)).await);
        let absent = Descriptor::of(NOTE, b"absent");
        let mut readings = Readings::new(Place::Local);
        for title in ["one", "two", "three"] {
            for (leaf, expected) in [(&silent, Some(title)), (&broken, None), (&absent, None)] {
                let titled = leaf.clone().with_annotation(TITLE, title);
                let (_, said) = readings.read(&counting, &titled, &catalogue()).await.expect("said");
                let (_, direct) =
                    node::read(&counting.store, &titled, Place::Local, &catalogue()).await.expect("said");
                assert_eq!(said.description.as_deref(), expected);
                assert_eq!(
                    (said.description.as_ref(), said.lines()),
                    (direct.description.as_ref(), direct.lines())
                );
            }
        }
        assert_eq!(counting.opened(&broken.digest), 1);
    }
}
