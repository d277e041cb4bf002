//! The layer decoders that this crate registers: gzip, zstd, and plain tar.
//!
//! Whatever comes out is of the type `application/vnd.oci.image.layer.v1.tar`, be the layer OCI's or Docker's, distributable or not: a
//! tar stream is a tar stream. A compressed layer is compressed as its type says; only Docker's types without a suffix say nothing, so
//! that their first bytes are looked at. Encrypted layers are for others. Nothing is compressed here.

use std::io::{self, Read};

use wharf_content::{Descriptor, Error, Result};
use wharf_images::{
    layer::{LayerDecoder, LayerStream, Unwrap, read_error},
    media_types as types,
};

use crate::compression::{self, Compression, MAGIC_LEN, peek, sniff};

wharf_images::register_layer_decoder! {
    name: "gzip",
    keys: [
        types::OCI_LAYER_GZIP,
        types::OCI_LAYER_NON_DISTRIBUTABLE_GZIP,
        types::DOCKER_LAYER_GZIP,
        types::DOCKER_LAYER_FOREIGN_GZIP,
    ],
    make: Gzip
}
wharf_images::register_layer_decoder! {
    name: "zstd",
    keys: [types::OCI_LAYER_ZSTD, types::OCI_LAYER_NON_DISTRIBUTABLE_ZSTD, types::DOCKER_LAYER_ZSTD],
    make: Zstd
}
wharf_images::register_layer_decoder! {
    name: "tar", keys: [types::OCI_LAYER, types::OCI_LAYER_NON_DISTRIBUTABLE], make: Tar
}
wharf_images::register_layer_decoder! {
    name: "docker-tar", keys: [types::DOCKER_LAYER, types::DOCKER_LAYER_FOREIGN], make: DockerTar
}

/// One member after the other (RFC 1952); anything else behind a member is refused.
#[derive(Debug)]
struct Gzip;

impl LayerDecoder for Gzip {
    fn decode(&self, _: &str, _: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        Ok(Unwrap::to(types::OCI_LAYER, Decompressed { stream: compression::gzip(stream), format: "gzip" }))
    }
}

/// One frame after the other, with skippable ones among them (RFC 8878).
#[derive(Debug)]
struct Zstd;

impl LayerDecoder for Zstd {
    fn decode(&self, _: &str, layer: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        let context = |error| read_error(format!("cannot decompress layer {}", layer.digest), error);
        let (start, stream) = peek(stream, MAGIC_LEN).map_err(context)?;
        if start.is_empty() {
            return Err(malformed("zstd", "there is not a byte"));
        }
        let stream = compression::zstd(stream).map_err(context)?;
        Ok(Unwrap::to(types::OCI_LAYER, Decompressed { stream, format: "zstd" }))
    }
}

/// A tar stream as it is.
#[derive(Debug)]
struct Tar;

impl LayerDecoder for Tar {
    fn decode(&self, media_type: &str, _: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        if media_type == types::OCI_LAYER {
            return Ok(Unwrap::Plain(stream));
        }
        Ok(Unwrap::to(types::OCI_LAYER, stream))
    }
}

/// A tar stream, compressed or not.
#[derive(Debug)]
struct DockerTar;

impl LayerDecoder for DockerTar {
    fn decode(&self, _: &str, layer: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        let (start, stream) = peek(stream, MAGIC_LEN)
            .map_err(|error| read_error(format!("cannot read layer {}", layer.digest), error))?;
        let media_type = match sniff(&start) {
            Compression::Gzip => types::OCI_LAYER_GZIP,
            Compression::Zstd => types::OCI_LAYER_ZSTD,
            // What is no tar shows when it is read as one.
            Compression::Plain | Compression::Foreign(_) => types::OCI_LAYER,
        };
        Ok(Unwrap::to(media_type, stream))
    }
}

fn malformed(format: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::invalid_argument(format!("the layer is not valid {format}")).with_source(source)
}

/// Tells what the stream below failed to give from what it gave and is not of the format.
struct Decompressed {
    stream: LayerStream,
    format: &'static str,
}

impl Read for Decompressed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).map_err(|error| {
            let is_from_below = error.raw_os_error().is_some()
                || error.kind() == io::ErrorKind::Interrupted
                || error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).is_some();
            if is_from_below { error } else { io::Error::other(malformed(self.format, error)) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::{Compression, write::GzEncoder};
    use wharf_content::{Catalogue, ErrorKind};
    use wharf_images::layer::{LayerOptions, unwrap};

    use super::*;
    use crate::compression::WINDOW_LOG_MAX;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("writing to memory");
        encoder.finish().expect("writing to memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).expect("writing to memory")
    }

    fn read(media_type: &str, stored: &[u8], options: LayerOptions) -> Result<Vec<u8>> {
        let layer = Descriptor::of(media_type, stored);
        let stream = Cursor::new(stored.to_vec());
        let mut layer = unwrap(&layer, stream, Catalogue::linked(), &options)?;
        assert_eq!(layer.media_type, types::OCI_LAYER);
        let mut bytes = Vec::new();
        layer.stream.read_to_end(&mut bytes).map_err(|error| read_error("cannot read", error))?;
        Ok(bytes)
    }

    fn text() -> Vec<u8> {
        (0..200_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect()
    }

    #[test]
    fn every_type_of_a_layer_comes_out_as_it_went_in() {
        let (plain, gzipped, zstandard) = (text(), gzip(&text()), zstd(&text()));
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstandard].concat();
        for (media_type, stored) in [
            (types::OCI_LAYER, &plain),
            (types::OCI_LAYER_NON_DISTRIBUTABLE, &plain),
            (types::OCI_LAYER_GZIP, &gzipped),
            (types::OCI_LAYER_NON_DISTRIBUTABLE_GZIP, &gzipped),
            (types::OCI_LAYER_ZSTD, &zstandard),
            (types::OCI_LAYER_NON_DISTRIBUTABLE_ZSTD, &zstandard),
            (types::OCI_LAYER_ZSTD, &skippable),
            (types::DOCKER_LAYER_GZIP, &gzipped),
            (types::DOCKER_LAYER_FOREIGN_GZIP, &gzipped),
            (types::DOCKER_LAYER_ZSTD, &zstandard),
            (types::DOCKER_LAYER, &plain),
            (types::DOCKER_LAYER, &gzipped),
            (types::DOCKER_LAYER, &zstandard),
            (types::DOCKER_LAYER, &skippable),
            (types::DOCKER_LAYER_FOREIGN, &plain),
            (types::DOCKER_LAYER_FOREIGN, &gzipped),
        ] {
            let bytes = read(media_type, stored, LayerOptions::default()).expect(media_type);
            assert_eq!(bytes, plain, "{media_type}");
        }
        for media_type in [types::OCI_LAYER, types::DOCKER_LAYER] {
            for short in [&b""[..], b"a", b"\x1f\x8b"] {
                assert_eq!(read(media_type, short, LayerOptions::default()).expect("short"), short);
            }
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let twice = [text(), text()].concat();
        for (media_type, one) in
            [(types::OCI_LAYER_GZIP, gzip(&text())), (types::OCI_LAYER_ZSTD, zstd(&text()))]
        {
            let stored = [one.clone(), one].concat();
            assert_eq!(read(media_type, &stored, LayerOptions::default()).expect(media_type), twice);
        }
    }

    #[test]
    fn what_is_not_of_the_format_is_refused() {
        let both = [(types::OCI_LAYER_GZIP, gzip(&text())), (types::OCI_LAYER_ZSTD, zstd(&text()))];
        for (media_type, good) in both {
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 0xff;
            for (what, stored) in [
                ("nothing", Vec::new()),
                ("half a header", good[..3].to_vec()),
                ("cut short by one byte", good[..good.len() - 1].to_vec()),
                ("cut in half", good[..good.len() / 2].to_vec()),
                ("junk behind it", [&good[..], b"junk"].concat()),
                ("zeros behind it", [&good[..], &[0; 512]].concat()),
                ("half a member behind it", [&good[..], &good[..7]].concat()),
                ("plain", text()),
                ("a wrong byte", flipped),
            ] {
                // zstd may have no checksum; what a wrong byte does to it is for the digest to tell.
                if what == "a wrong byte" && media_type == types::OCI_LAYER_ZSTD {
                    continue;
                }
                let error = read(media_type, &stored, LayerOptions::default()).expect_err(what);
                assert_eq!(
                    error.kind(),
                    ErrorKind::InvalidArgument,
                    "{media_type}, {what}: {}",
                    error.report()
                );
                assert!(error.report().contains("not valid"), "{what}: {}", error.report());
            }
        }
    }

    #[test]
    fn a_window_of_more_than_128_mib_is_refused() {
        for (window_log, is_fine) in [(WINDOW_LOG_MAX, true), (WINDOW_LOG_MAX + 1, false)] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("encodes");
            encoder.window_log(window_log).expect("a window");
            encoder.write_all(&text()).expect("writing to memory");
            let stored = encoder.finish().expect("writing to memory");
            let read = read(types::OCI_LAYER_ZSTD, &stored, LayerOptions::default());
            assert_eq!(read.is_ok(), is_fine, "{window_log}");
        }
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let zeros = vec![0; 8 << 20];
        let options = LayerOptions::default().with_max_len(1 << 20);
        for (media_type, stored) in
            [(types::OCI_LAYER_GZIP, gzip(&zeros)), (types::OCI_LAYER_ZSTD, zstd(&zeros))]
        {
            let error = read(media_type, &stored, options).expect_err("a bomb");
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{media_type}");
            assert_eq!(read(media_type, &stored, LayerOptions::default()).expect("8 MiB").len(), zeros.len());
        }
    }

    #[test]
    fn what_the_stream_below_fails_with_stays() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other(Error::unavailable("busy")))
            }
        }
        for media_type in
            [types::OCI_LAYER, types::OCI_LAYER_GZIP, types::OCI_LAYER_ZSTD, types::DOCKER_LAYER]
        {
            let layer = Descriptor::of(media_type, b"x");
            let error = match unwrap(&layer, Fails, Catalogue::linked(), &LayerOptions::default()) {
                Ok(mut layer) => read_error("cannot read", layer.stream.read(&mut [0]).expect_err("fails")),
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{media_type}: {}", error.report());
        }
    }

    #[test]
    fn encrypted_layers_are_for_others() {
        for media_type in [types::OCI_LAYER_ENCRYPTED, types::OCI_LAYER_GZIP_ENCRYPTED, types::EROFS_LAYER] {
            let error = read(media_type, b"x", LayerOptions::default()).expect_err("nobody knows it");
            assert_eq!(error.kind(), ErrorKind::NotImplemented);
            assert!(error.to_string().contains(media_type), "{error}");
        }
    }
}
