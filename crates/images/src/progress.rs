//! Progress: what the libraries tell while they work, to whoever wants to show it.

use std::{fmt::Debug, time::Duration};

use wharf_content::{Descriptor, Error};

/// Takes events. Called often and from many tasks: it must not block.
pub trait Sink: Debug + Send + Sync + 'static {
    /// Takes one event.
    fn event(&self, event: &Event<'_>);
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A name is being looked up.
    Resolving {
        /// The name.
        name: &'a str,
    },
    /// A name was found to be this.
    Resolved {
        /// The name.
        name: &'a str,
        /// What it names.
        descriptor: &'a Descriptor,
    },
    /// A transfer begins, or goes on where an earlier one ended.
    Started {
        /// What is moved.
        descriptor: &'a Descriptor,
        /// How many of its bytes are there already.
        offset: u64,
    },
    /// Bytes of a transfer arrived, or were sent.
    Bytes {
        /// What is moved.
        descriptor: &'a Descriptor,
        /// How many bytes, since the last event of this kind.
        count: u64,
    },
    /// A transfer broke and is taken up again.
    Retried {
        /// What is moved.
        descriptor: &'a Descriptor,
        /// Why.
        error: &'a Error,
    },
    /// Another writer, often another process, is at work on the same content.
    Waiting {
        /// What is waited for.
        descriptor: &'a Descriptor,
    },
    /// The content was there already.
    Exists {
        /// What is there.
        descriptor: &'a Descriptor,
    },
    /// The content was taken over from another repository of the same registry, and not moved.
    Mounted {
        /// What is there now.
        descriptor: &'a Descriptor,
        /// The repository that had it.
        from: &'a str,
    },
    /// The content is complete and verified.
    Done {
        /// What is complete.
        descriptor: &'a Descriptor,
    },
    /// No decoder knows this media type: the content is kept whole and not looked into. Told once per type.
    UnknownType {
        /// The content.
        descriptor: &'a Descriptor,
    },
    /// A piece of content is left out.
    Skipped {
        /// What is left out.
        descriptor: &'a Descriptor,
        /// Why.
        why: Skip,
    },
    /// Bytes of a layer were unpacked.
    Extracted {
        /// The layer.
        descriptor: &'a Descriptor,
        /// How many of its bytes, as they are stored, since the last event of this kind.
        count: u64,
    },
    /// A place asks to be left alone for a while, and is.
    Throttled {
        /// The place.
        host: &'a str,
        /// For how long.
        wait: Duration,
    },
    /// Something that a person should know.
    Warning {
        /// What it is. It may come from a stranger: escape it before it reaches a terminal.
        text: &'a str,
    },
}

/// Why a piece of content is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Skip {
    /// It may not be distributed.
    NotDistributable,
    /// It is for another platform than those that were asked for.
    OtherPlatform,
    /// It is unpacked already.
    Unpacked,
}

impl Skip {
    /// A word for it, as events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotDistributable => "not-distributable",
            Self::OtherPlatform => "other-platform",
            Self::Unpacked => "unpacked",
        }
    }
}

/// Ignores every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Sink for Silent {
    fn event(&self, _: &Event<'_>) {}
}
