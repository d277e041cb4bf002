//! `wharf tree`: the graph of an image.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc};

use clap::Args;
use serde::Serialize;
use wharf_content::{Catalogue, Descriptor, Digest, Error, ErrorKind, Provider, Result};
use wharf_images::{
    Kind, Limits, Role, decode,
    decode::{Decoded, kind},
};

use crate::{
    args::Format,
    context::{Context, LookArgs},
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
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    present: bool,
    /// Whether some decoder knows the type.
    known: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<Node>,
}

impl Tree {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let view = context.view(&self.look).await?;
        let is_local = view.image.is_some();
        let mut grower = Grower {
            provider: view.provider,
            catalogue: context.catalogue.clone(),
            is_local,
            seen: HashSet::new(),
            left: Limits::default().max_nodes,
        };
        let root = grower.grow(view.target, None, 0).await?;
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
    is_local: bool,
    /// Documents whose children have been drawn.
    seen: HashSet<Digest>,
    left: usize,
}

type Growing<'a> = Pin<Box<dyn Future<Output = Result<Node>> + Send + 'a>>;

impl Grower {
    fn grow(&mut self, descriptor: Descriptor, role: Option<Role>, depth: usize) -> Growing<'_> {
        Box::pin(async move {
            self.left =
                self.left.checked_sub(1).filter(|_| depth <= Limits::DEFAULT_MAX_DEPTH).ok_or_else(|| {
                    Error::resource_exhausted(format!(
                        "the image is too large to be drawn, at {}",
                        descriptor.digest
                    ))
                })?;
            let kind = kind(&descriptor.media_type, &self.catalogue)?;
            let present = self.is_present(&descriptor, kind).await?;
            let decoded = if present {
                decode(self.provider.as_ref(), &descriptor, &self.catalogue).await?
            } else {
                None
            };
            let Decoded { description, children, .. } = decoded.unwrap_or_default();
            let mut grown = Vec::new();
            if self.seen.insert(descriptor.digest.clone()) {
                for child in children {
                    grown.push(self.grow(child.descriptor, Some(child.role), depth + 1).await?);
                }
            }
            let what = what(kind, role);
            Ok(Node { what, descriptor, description, present, known: kind.is_some(), children: grown })
        })
    }

    /// At a remote place everything is taken to be there: asking for each layer would fetch it.
    async fn is_present(&self, descriptor: &Descriptor, kind: Option<Kind>) -> Result<bool> {
        if !self.is_local {
            return Ok(kind.is_some());
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
        if let Some(description) = &node.description {
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
    for (at, child) in node.children.iter().enumerate() {
        draw(child, &indent, at + 1 == node.children.len(), quiet, text);
    }
}
