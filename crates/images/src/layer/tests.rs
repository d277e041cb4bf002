//! Chains of decoders, without any compression: what a decoder may do wrong is done by some of these.

use std::io::{self, Cursor};

use wharf_content::{ErrorKind, plugin::Registration};

use super::*;

/// Takes off the last suffix and the last byte. `+loop` is wrapped in itself, `+short` stops reading early, `+fails` fails while it is
/// read, and `+bomb` never ends.
#[derive(Debug)]
struct Peel;

struct Short(LayerStream, bool);

impl Read for Short {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.1, true) { Ok(0) } else { self.0.read(&mut buffer[..1]) }
    }
}

/// Reads on and on, and gives nothing.
struct Swallows(LayerStream);

impl Read for Swallows {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        io::copy(&mut self.0, &mut io::sink()).map(|_| 0)
    }
}

struct Fails;

impl Read for Fails {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(Error::invalid_argument("not a peel")))
    }
}

impl LayerDecoder for Peel {
    fn decode(&self, media_type: &str, layer: &Descriptor, stream: LayerStream) -> Result<Unwrap> {
        assert!(media_type.len() <= layer.media_type.len());
        let Some((inner, suffix)) = media_type.rsplit_once('+') else { return Ok(Unwrap::Plain(stream)) };
        Ok(match suffix {
            "loop" => Unwrap::to(media_type, stream),
            "there" => Unwrap::to("x+back", stream),
            "back" => Unwrap::to("x+there", stream),
            "none" => Unwrap::to(inner, Swallows(stream)),
            "short" => Unwrap::to(inner, Short(stream, false)),
            "fails" => Unwrap::to(inner, Fails),
            "bomb" => Unwrap::to(inner, io::repeat(0)),
            "refused" => return Err(Error::invalid_argument("not for me")),
            _ => Unwrap::to(inner, stream),
        })
    }
}

fn catalogue() -> Catalogue {
    let keys =
        ["x", "x+a", "x+b+a", "x+unknown", "x+loop", "x+short", "x+fails", "x+bomb", "x+refused", "y+a"];
    let keys: Vec<String> =
        keys.iter().filter(|key| !key.ends_with("unknown")).map(ToString::to_string).collect();
    let decoder: std::sync::Arc<dyn LayerDecoder> = std::sync::Arc::new(Peel);
    let more = ["x+b", "x+unknown+a", "x+there", "x+back", "x+none", "x+none+bomb"];
    let keys = keys.into_iter().chain(more.map(str::to_owned));
    Catalogue::empty().with(Registration::<LayerDecoders>::shared("peel", keys, 0, module_path!(), decoder))
}

fn read(media_type: &str, stored: &'static [u8], options: LayerOptions) -> Result<(String, Vec<u8>)> {
    let layer = Descriptor::of(media_type, stored);
    let mut layer = unwrap(&layer, Cursor::new(stored), &catalogue(), &options)?;
    let mut bytes = Vec::new();
    layer.stream.read_to_end(&mut bytes).map_err(|error| read_error("cannot read", error))?;
    Ok((layer.media_type, bytes))
}

#[test]
fn chains_are_walked_until_nothing_is_left_to_take_off() {
    for media_type in ["x", "x+a", "x+b+a"] {
        let (found, bytes) = read(media_type, b"layer", LayerOptions::default()).expect("unwraps");
        assert_eq!((found.as_str(), bytes.as_slice()), ("x", &b"layer"[..]), "{media_type}");
    }
}

#[test]
fn what_goes_wrong_is_told() {
    let defaults = LayerOptions::default();
    for (media_type, options, kind, words) in [
        ("x+unknown", defaults, ErrorKind::NotImplemented, &["\"x+unknown\"", "register"][..]),
        ("x+unknown+a", defaults, ErrorKind::NotImplemented, &["\"x+unknown\", found in \"x+unknown+a\""]),
        ("y+a", defaults, ErrorKind::NotImplemented, &["\"y\", found in \"y+a\""]),
        ("x+loop", defaults, ErrorKind::Conflict, &["in a circle", "\"x+loop\" -> \"x+loop\""]),
        ("x+there", defaults, ErrorKind::Conflict, &["\"x+there\" -> \"x+back\" -> \"x+there\""]),
        ("x+b+a", defaults.with_max_wrappings(1), ErrorKind::ResourceExhausted, &["more than 1 times"]),
        ("x+none+bomb", defaults.with_max_len(70_000), ErrorKind::ResourceExhausted, &["70000 bytes"]),
        ("x+a", defaults.with_max_wrappings(0), ErrorKind::ResourceExhausted, &["more than 0 times"]),
        ("x+short", defaults, ErrorKind::FailedPrecondition, &["ends after 1 of its bytes", "with 5"]),
        ("x+fails", defaults, ErrorKind::InvalidArgument, &["cannot read: not a peel"]),
        ("x+refused", defaults, ErrorKind::InvalidArgument, &["cannot unwrap layer sha256:", "not for me"]),
        ("x+bomb", defaults.with_max_len(70_000), ErrorKind::ResourceExhausted, &["70000 bytes"]),
        ("x", defaults.with_max_len(4), ErrorKind::ResourceExhausted, &["more than 4 bytes"]),
    ] {
        let error = read(media_type, b"layer", options).expect_err(media_type);
        let report = error.report();
        assert_eq!(error.kind(), kind, "{media_type}: {report}");
        assert!(words.iter().all(|word| report.contains(word)), "{media_type}: {report}");
    }
    assert!(read("x+a", b"layer", defaults.with_max_wrappings(1).with_max_len(5)).is_ok(), "at the limits");
}

#[test]
fn a_ratio_counts_from_the_free_length_on() {
    let layer = Descriptor::of("x+bomb", b"layer");
    let mut layer =
        unwrap(&layer, Cursor::new(b"layer"), &catalogue(), &LayerOptions::default()).expect("opens");
    let copied = io::copy(&mut layer.stream.by_ref().take(LayerOptions::FREE_LEN), &mut io::sink());
    assert_eq!(copied.expect("free"), LayerOptions::FREE_LEN);
    let error = read_error("", layer.stream.read(&mut [0]).expect_err("too much"));
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}
