//! Layer decoders: from the stream of a layer as it is stored to the stream that is applied, one step for each wrapping.
//!
//! A layer may be wrapped more than once: encrypted, and inside that compressed. Each decoder takes off one wrapping and says of which
//! media type the rest is, until one says that nothing is left to take off. Which compressions there are is not known here: gzip, zstd
//! and plain tar are registered by wharf-archive, with the macro that a plugin uses. What is done with the tar stream (apply, list) is
//! for others as well.
//!
//! ```text
//! application/vnd.oci.image.layer.v1.tar+gzip+encrypted      a plugin
//!   -> application/vnd.oci.image.layer.v1.tar+gzip           gzip, of wharf-archive
//!     -> application/vnd.oci.image.layer.v1.tar              plain
//! ```
//!
//! Streams are synchronous, since decompressing is work and not waiting: they belong on blocking threads.

mod source;
mod unwrapped;

use std::{
    fmt::{self, Debug},
    io::Read,
    sync::Arc,
};

use tokio::runtime::Handle;
use wharf_content::{Catalogue, Descriptor, Error, Provider, Result, ResultExt, blocking, plugin::Point};

pub use source::BlobStream;
use unwrapped::{Counted, Limited, Unwrapped};

use crate::reference::excerpt;

/// A stream of a layer, wrapped or not.
pub type LayerStream = Box<dyn Read + Send>;

/// What a decoder made of a stream.
pub enum Unwrap {
    /// The stream is of another media type now, and is looked at again.
    As {
        /// The media type of the stream.
        media_type: String,
        /// The stream without the wrapping.
        stream: LayerStream,
    },
    /// Nothing was left to take off: the stream is the layer, of the media type that was asked for.
    Plain(LayerStream),
}

impl Unwrap {
    /// A stream of another media type.
    pub fn to(media_type: impl Into<String>, stream: impl Read + Send + 'static) -> Self {
        Self::As { media_type: media_type.into(), stream: Box::new(stream) }
    }
}

impl Debug for Unwrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::As { media_type, .. } => {
                f.debug_struct("As").field("media_type", media_type).finish_non_exhaustive()
            }
            Self::Plain(_) => f.write_str("Plain"),
        }
    }
}

/// Takes one wrapping off layers of some media types.
pub trait LayerDecoder: Debug + Send + Sync + 'static {
    /// Takes the wrapping off a stream of the type `media_type`. `layer` is the layer's own descriptor, whose annotations may tell more;
    /// its media type is that of the outermost wrapping.
    ///
    /// The stream that it gives ends where the inner one does: what stands behind the end of the wrapped data is refused.
    ///
    /// Called on a blocking thread, and so is the stream that it gives.
    ///
    /// # Errors
    /// Any; `InvalidArgument` for a stream that is not of the type. An error that comes up later, while the stream is read, is an
    /// [`io::Error`](std::io::Error) made with `io::Error::other` of an [`Error`], which keeps its kind.
    ///
    /// # Security
    /// The bytes come from a stranger: no panic, and no allocation by a number that they claim. How much may come out is limited by
    /// [`LayerOptions`], whoever decodes.
    fn decode(&self, media_type: &str, layer: &Descriptor, stream: LayerStream) -> Result<Unwrap>;
}

/// The extension point of layer decoders; a key is a media type.
#[derive(Debug)]
pub struct LayerDecoders;

impl Point for LayerDecoders {
    const NAME: &'static str = "layer decoder";
    const KEY: &'static str = "media type";
    type Item = dyn LayerDecoder;
}

/// Registers a [`LayerDecoder`] with the catalogue: `name`, `keys` (media types), optionally `priority`, and `make`, an expression for the
/// decoder.
///
/// ```
/// use std::io::{Cursor, Read};
/// use wharf_content::{Catalogue, Descriptor, Result};
/// use wharf_images::layer::{LayerDecoder, LayerOptions, LayerStream, Unwrap, unwrap};
///
/// /// Layers whose every byte is turned round, to show the form.
/// #[derive(Debug)]
/// struct Inverted;
///
/// struct Invert(LayerStream);
///
/// impl Read for Invert {
///     fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
///         let count = self.0.read(buffer)?;
///         buffer[..count].iter_mut().for_each(|byte| *byte = !*byte);
///         Ok(count)
///     }
/// }
///
/// impl LayerDecoder for Inverted {
///     fn decode(&self, media_type: &str, _: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
///         match media_type.strip_suffix("+inverted") {
///             Some(inner) => Ok(Unwrap::to(inner, Invert(stream))),
///             None => Ok(Unwrap::Plain(stream)),
///         }
///     }
/// }
///
/// wharf_images::register_layer_decoder! {
///     name: "inverted",
///     keys: ["application/x-layer+inverted", "application/x-layer"],
///     make: Inverted
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stored = [!b'h', !b'i'];
/// let layer = Descriptor::of("application/x-layer+inverted", &stored);
/// let stream = Box::new(Cursor::new(stored));
/// let mut layer = unwrap(&layer, stream, Catalogue::linked(), &LayerOptions::default())?;
/// let mut text = String::new();
/// layer.stream.read_to_string(&mut text)?;
/// assert_eq!((text.as_str(), layer.media_type.as_str()), ("hi", "application/x-layer"));
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! register_layer_decoder {
    ($($registration:tt)*) => {
        $crate::content::__register! { $crate::layer::LayerDecoders, $($registration)* }
    };
}

/// What a layer may cost to unwrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerOptions {
    /// The most wrappings.
    pub max_wrappings: usize,
    /// The most bytes that may come out, of each wrapping.
    pub max_len: u64,
    /// How many times the bytes that went in may come out, of each wrapping, above [`LayerOptions::FREE_LEN`].
    pub max_ratio: u64,
}

impl LayerOptions {
    /// Encrypted, compressed and plain make three.
    pub const DEFAULT_MAX_WRAPPINGS: usize = 8;
    /// 64 GiB: the largest layers that are published have some ten.
    pub const DEFAULT_MAX_LEN: u64 = 64 << 30;
    /// What gzip can do at most is 1032 (RFC 1951: 258 bytes by two bits), so that a layer of zeros is one like any other up to
    /// [`DEFAULT_MAX_LEN`](Self::DEFAULT_MAX_LEN). Formats that can do more, such as zstd, and several of them, one around the other, end
    /// here. File systems shrink to a third.
    pub const DEFAULT_MAX_RATIO: u64 = 1100;
    /// 1 GiB may come out whatever went in: a sparse file is no attack.
    pub const FREE_LEN: u64 = 1 << 30;

    /// Sets the most wrappings.
    #[must_use]
    pub fn with_max_wrappings(mut self, max_wrappings: usize) -> Self {
        self.max_wrappings = max_wrappings;
        self
    }

    /// Sets the most bytes that may come out.
    #[must_use]
    pub fn with_max_len(mut self, max_len: u64) -> Self {
        self.max_len = max_len;
        self
    }

    /// Sets the largest ratio, above the first [`LayerOptions::FREE_LEN`] bytes.
    #[must_use]
    pub fn with_max_ratio(mut self, max_ratio: u64) -> Self {
        self.max_ratio = max_ratio;
        self
    }
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self {
            max_wrappings: Self::DEFAULT_MAX_WRAPPINGS,
            max_len: Self::DEFAULT_MAX_LEN,
            max_ratio: Self::DEFAULT_MAX_RATIO,
        }
    }
}

/// A layer without its wrappings.
#[non_exhaustive]
pub struct Layer {
    /// What the stream is: `application/vnd.oci.image.layer.v1.tar` for every tar stream that wharf-archive unwraps.
    pub media_type: String,
    /// The stream. It fails where more comes out than [`LayerOptions`] allows, and at its end where the stored bytes were not used up or
    /// are not as many as the descriptor says; turn its errors into an [`Error`] by [`read_error`].
    pub stream: LayerStream,
}

impl Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("media_type", &self.media_type).finish_non_exhaustive()
    }
}

/// Takes all wrappings off a stream of a layer's stored bytes, wherever they come from: a store, or a download that is still under way.
///
/// Decoders may read ahead to see what they have, so that this blocks. The stored bytes are not hashed.
///
/// # Errors
/// `NotImplemented` for a media type that nobody decodes, naming it; `ResourceExhausted` beyond [`LayerOptions::max_wrappings`];
/// `Conflict` for decoders that lead from a media type back to it, naming the way; those of the decoders and the stream.
pub fn unwrap(
    layer: &Descriptor,
    stream: impl Read + Send + 'static,
    catalogue: &Catalogue,
    options: &LayerOptions,
) -> Result<Layer> {
    let (source, consumed) = Counted::new(stream);
    let mut stream: LayerStream = Box::new(source);
    let mut media_type = layer.media_type.clone();
    let mut before: Vec<String> = Vec::new();
    for _ in 0..=options.max_wrappings {
        let decoder =
            catalogue.find::<LayerDecoders>(&media_type)?.ok_or_else(|| unknown(layer, &media_type))?;
        let unwrapped = decoder
            .decode(&media_type, layer, stream)
            .context(|| format!("cannot unwrap layer {} ({})", layer.digest, excerpt(&media_type)))?;
        match unwrapped {
            Unwrap::Plain(rest) => {
                let limited = Limited::new(rest, consumed, layer, *options);
                return Ok(Layer { media_type, stream: Box::new(Unwrapped::new(limited, layer)) });
            }
            Unwrap::As { media_type: inner, stream: rest } => {
                before.push(std::mem::replace(&mut media_type, inner));
                if before.contains(&media_type) {
                    return Err(circle(layer, &before, &media_type));
                }
                // What comes out of all of them may be little, or nothing at all.
                stream = Box::new(Limited::new(rest, Arc::clone(&consumed), layer, *options));
            }
        }
    }
    Err(Error::resource_exhausted(format!(
        "layer {} is wrapped more than {} times: the last wrapping is {}",
        layer.digest,
        options.max_wrappings,
        excerpt(&media_type)
    )))
}

fn circle(layer: &Descriptor, before: &[String], media_type: &str) -> Error {
    let way: Vec<_> = before.iter().map(|media_type| excerpt(media_type)).collect();
    Error::conflict(format!(
        "layer decoders lead in a circle at layer {}: {} -> {}; one of them gives a wrong media type",
        layer.digest,
        way.join(" -> "),
        excerpt(media_type)
    ))
}

fn unknown(layer: &Descriptor, media_type: &str) -> Error {
    let within = if media_type == layer.media_type {
        ""
    } else {
        &format!(", found in {}", excerpt(&layer.media_type))
    };
    Error::not_implemented(format!(
        "layer {} has the media type {}{within}, which no layer decoder knows: link or register one for it",
        layer.digest,
        excerpt(media_type)
    ))
}

/// Opens a layer in a store and takes off its wrappings. The stream is to be read on a blocking thread.
///
/// # Errors
/// `NotFound` when the layer is not there; as [`unwrap`].
///
/// # Cancellation
/// Nothing remains.
pub async fn open(
    provider: &dyn Provider,
    layer: &Descriptor,
    catalogue: &Catalogue,
    options: &LayerOptions,
) -> Result<Layer> {
    let stream = BlobStream::new(provider.reader(layer).await?, Handle::current());
    let (layer, catalogue, options) = (layer.clone(), catalogue.clone(), *options);
    blocking::run(move || unwrap(&layer, stream, &catalogue, &options)).await
}

/// Makes an [`Error`] of one that came up while a layer was read: the kind that a decoder or the store gave it, else the system's.
pub fn read_error(context: impl Into<String>, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error.context(context),
        Err(error) => Error::io(context, error),
    }
}

#[cfg(test)]
mod tests;
