//! `wharf tree`: the graph of an image.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc};

use clap::Args;
use serde::Serialize;
use wharf_content::{Catalogue, Descriptor, Digest, Error, ErrorKind, Provider, Result};
use wharf_images::{Kind, Limits, Role, decode::kind};

use crate::{
    args::Format,
    context::{Context, LookArgs},
    node::{self, Place, Said},
    output::{self, escape},
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

struct Grower {
    provider: Arc<dyn Provider>,
    catalogue: Catalogue,
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
                node::read(self.provider.as_ref(), &descriptor, self.place, &self.catalogue).await?
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
