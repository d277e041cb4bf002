//! Wrapped layers: an example of a chain of layer decoders. Inside the wrapping is gzip, and inside that tar, both of which wharf knows.
//!
//! ```text
//! application/vnd.example.layer.v1.tar+gzip+wrapped            "WRAPPED1", a mask of 16 bytes, the masked bytes
//!   -> application/vnd.oci.image.layer.v1.tar+gzip             wharf
//!     -> application/vnd.oci.image.layer.v1.tar                wharf
//! ```
//!
//! This is no encryption: the mask stands in front, and whoever has the layer has its content. One that encrypts has the same form, takes
//! its key from the layer's annotations and whoever keeps it, and authenticates what it gives.

use std::io::{self, Read};

use wharf_images::{
    Decoded, Descriptor, Error, Kind, ManifestDecoder, Result,
    layer::{LayerDecoder, LayerStream, Unwrap, read_error},
    media_types::OCI_LAYER_GZIP,
};

/// The media type of a wrapped layer.
pub const WRAPPED: &str = "application/vnd.example.layer.v1.tar+gzip+wrapped";

/// What a wrapped layer begins with.
const MAGIC: [u8; 8] = *b"WRAPPED1";

/// The length of a mask in bytes.
const MASK_LEN: usize = 16;

// Two points: what the layer is in an image, and what it is without its wrapping.
wharf_images::register_manifest_decoder! { name: "wrapped", keys: [WRAPPED], make: WrappedLeaf }
wharf_images::register_layer_decoder! { name: "unwrap", keys: [WRAPPED], make: Unwrapper }

/// Shows wrapped layers.
#[derive(Debug)]
struct WrappedLeaf;

impl ManifestDecoder for WrappedLeaf {
    fn kind(&self) -> Kind {
        Kind::Leaf
    }

    fn reads_content(&self) -> bool {
        false
    }

    fn decode(&self, _: &Descriptor, _: &[u8]) -> Result<Decoded> {
        Ok(Decoded::default().with_description("a wrapped layer"))
    }
}

/// Takes the wrapping off.
#[derive(Debug)]
struct Unwrapper;

impl LayerDecoder for Unwrapper {
    fn decode(&self, _: &str, _: &Descriptor, mut stream: LayerStream) -> Result<Unwrap> {
        let mut start = [0; MAGIC.len() + MASK_LEN];
        stream.read_exact(&mut start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::invalid_argument("the layer is too short for a wrapped one")
            }
            // What the stream itself failed with keeps its kind.
            _ => read_error("cannot read the wrapping", error),
        })?;
        let mut mask = [0; MASK_LEN];
        mask.copy_from_slice(&start[MAGIC.len()..]);
        if !start.starts_with(&MAGIC) {
            return Err(Error::invalid_argument("the layer does not begin as a wrapped one does"));
        }
        // As it streams by, whatever its length.
        Ok(Unwrap::to(OCI_LAYER_GZIP, Masked { stream, mask, at: 0 }))
    }
}

/// A stream of which each byte is masked.
struct Masked {
    stream: LayerStream,
    mask: [u8; MASK_LEN],
    at: usize,
}

impl Read for Masked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        for byte in &mut buffer[..count] {
            *byte ^= self.mask[self.at];
            self.at = (self.at + 1) % MASK_LEN;
        }
        Ok(count)
    }
}

/// Wraps a layer that is compressed with gzip.
pub fn wrap(gzipped: &[u8], mask: [u8; MASK_LEN]) -> Vec<u8> {
    let masked = gzipped.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    MAGIC.into_iter().chain(mask).chain(masked).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use wharf_images::{Catalogue, ErrorKind, layer::LayerDecoders};

    use super::*;

    fn unwrap(stored: Vec<u8>) -> Result<Vec<u8>> {
        let decoder = Catalogue::linked().find::<LayerDecoders>(WRAPPED)?.expect("registered");
        let layer = Descriptor::of(WRAPPED, &stored);
        let Unwrap::As { media_type, mut stream } =
            decoder.decode(WRAPPED, &layer, Box::new(Cursor::new(stored)))?
        else {
            panic!("there is something inside")
        };
        assert_eq!(media_type, OCI_LAYER_GZIP);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map_err(|error| read_error("cannot read", error))?;
        Ok(bytes)
    }

    #[test]
    fn what_was_wrapped_comes_out() {
        for content in [&b""[..], b"x", &[7; 10_000]] {
            let wrapped = wrap(content, *b"0123456789abcdef");
            assert_eq!(wrapped.len(), content.len() + 24);
            assert_eq!(unwrap(wrapped).expect("unwraps"), content);
        }
    }

    #[test]
    fn what_is_not_wrapped_is_refused() {
        for stored in [&b""[..], b"WRAPPED1 too short", &[0; 100]] {
            let error = unwrap(stored.to_vec()).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn what_the_stream_fails_with_stays() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other(Error::unavailable("busy")))
            }
        }
        let error = Unwrapper.decode(WRAPPED, &Descriptor::of(WRAPPED, b""), Box::new(Fails));
        assert_eq!(error.expect_err("fails").kind(), ErrorKind::Unavailable);
    }
}
