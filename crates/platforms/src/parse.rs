//! Reading a specifier, `os[(version[+feature…])] | architecture | os/architecture[/variant]`, as a [`Platform`].
//!
//! The grammar and the completion from the host are those of containerd (`platforms`, `platforms.go`). Wildcards are
//! deliberately not supported, and no regular expression is used: the grammar is checked byte by byte, in time linear in
//! the input.

use crate::error::{Error, ErrorKind};
use crate::known::{is_known_architecture, is_known_os};
use crate::normalize::{canonical_architecture, canonical_os};
use crate::{Platform, host, percent};

/// Reads a specifier.
///
/// ```text
/// specifier    = os | architecture | os "/" architecture [ "/" variant ]
/// os           = 1*( letter / digit / "_" / "-" ) [ "(" [ version ] *( "+" feature ) ")" ]
/// architecture = 1*( letter / digit / "_" / "." / "-" )        ; variant likewise
/// version      = 1*( letter / digit / "_" / "." / "-" / "%" two hexadecimal digits ) ; feature likewise
/// ```
///
/// What is left out comes from the host: a known operating system alone gets the host's architecture, a known
/// architecture alone the host's operating system. Words are normalised as by [`normalize`](crate::normalize), with two
/// differences that keep what the user wrote: `arm` without a variant stays without one, and `linux/arm64/v8` keeps its
/// `v8`. Features stay in the order in which they are written.
///
/// # Errors
///
/// The [`ErrorKind`] says which part of the grammar is violated.
///
/// ```
/// use wharf_platforms::{Platform, parse};
///
/// assert_eq!(parse("Linux/x86_64")?, Platform::new("linux", "amd64"));
/// assert_eq!(parse("linux/arm64/v8")?, Platform::new("linux", "arm64").with_variant("v8"));
/// assert_eq!(
///     parse("windows(10.0.20348+win32k)/amd64")?,
///     Platform::new("windows", "amd64").with_os_version("10.0.20348").with_os_features(["win32k"]),
/// );
/// assert_eq!(parse("arm64")?.architecture, "arm64"); // and the host's operating system
/// # Ok::<(), wharf_platforms::Error>(())
/// ```
pub fn parse(specifier: &str) -> Result<Platform, Error> {
    parse_for_host(specifier, host::detected())
}

/// Reads specifiers, all or none.
///
/// # Errors
///
/// The error is that of the first specifier that [`parse`] refuses, and names it.
///
/// ```
/// use wharf_platforms::parse_all;
///
/// let platforms = parse_all(["linux/amd64", "linux/arm64"])?;
/// assert_eq!(platforms.len(), 2);
/// # Ok::<(), wharf_platforms::Error>(())
/// ```
pub fn parse_all<I>(specifiers: I) -> Result<Vec<Platform>, Error>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    specifiers.into_iter().map(|specifier| parse(specifier.as_ref())).collect()
}

/// [`parse`] with the host that completes the specifier.
pub(crate) fn parse_for_host(specifier: &str, host: &Platform) -> Result<Platform, Error> {
    let error = |kind, part: &str| Error::new(kind, specifier, part);
    if specifier.is_empty() {
        return Err(error(ErrorKind::Empty, ""));
    }
    if specifier.contains('*') {
        return Err(error(ErrorKind::Wildcard, ""));
    }

    // Four is enough to know that there are more than three.
    let mut parts = specifier.splitn(4, '/');
    let os_part = parts.next().unwrap_or_default();
    let (architecture, variant) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(error(ErrorKind::TooManyParts, ""));
    }
    let os = parse_os(os_part).map_err(|(kind, part)| error(kind, part))?;
    if let Some(architecture) = architecture.filter(|word| !is_word(word)) {
        return Err(error(ErrorKind::InvalidArchitecture, architecture));
    }
    if let Some(variant) = variant.filter(|word| !is_word(word)) {
        return Err(error(ErrorKind::InvalidVariant, variant));
    }

    let Some(architecture) = architecture else {
        return complete(os, os_part, host).map_err(|kind| error(kind, os_part));
    };
    let keeps_variant = variant.is_some();
    let (architecture, mut variant) = canonical_architecture(architecture, variant);
    if !keeps_variant {
        variant = without_default_variant(&architecture, variant);
    } else if architecture == "arm64" && variant.is_none() {
        variant = Some("v8".to_owned());
    }
    Ok(Platform { architecture, variant, ..os })
}

/// Completes a specifier of one part, which is an operating system or an architecture.
fn complete(os: Platform, part: &str, host: &Platform) -> Result<Platform, ErrorKind> {
    if is_known_os(&os.os) {
        let variant = match host.architecture.as_str() {
            "arm" => without_default_variant("arm", host.variant.clone()),
            _ => None,
        };
        return Ok(Platform { architecture: host.architecture.clone(), variant, ..os });
    }
    let (architecture, variant) = canonical_architecture(part, None);
    if is_known_architecture(&architecture) {
        let variant = without_default_variant(&architecture, variant);
        return Ok(Platform { os: host.os.clone(), architecture, variant, ..Platform::default() });
    }
    let word = part.split_once('(').map_or(part, |(word, _)| word);
    if is_known_architecture(&canonical_architecture(word, None).0) {
        return Err(ErrorKind::OptionsWithoutOs);
    }
    Err(ErrorKind::Unknown)
}

/// Drops the variant that `arm` means when it says none.
fn without_default_variant(architecture: &str, variant: Option<String>) -> Option<String> {
    variant.filter(|variant| !(architecture == "arm" && variant == "v7"))
}

/// Reads the first part: the operating system with its options. The error names the offending piece.
fn parse_os(part: &str) -> Result<Platform, (ErrorKind, &str)> {
    let (name, options) = match part.split_once('(') {
        Some((name, options)) => (name, Some(options)),
        None => (part, None),
    };
    if name.is_empty()
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    {
        return Err((ErrorKind::InvalidOs, name));
    }
    let mut platform = Platform { os: canonical_os(name, ""), ..Platform::default() };

    let Some(options) = options else { return Ok(platform) };
    let options = options.strip_suffix(')').ok_or((ErrorKind::InvalidOptions, part))?;
    if !options.bytes().all(|byte| percent::is_plain(byte) || matches!(byte, b'%' | b'+')) {
        return Err((ErrorKind::InvalidOptions, part));
    }
    let decode = |option| percent::decode(option).ok_or((ErrorKind::InvalidEscape, option));
    let mut options = options.split('+');
    if let Some(version) = options.next().filter(|version| !version.is_empty()) {
        platform.os_version = Some(decode(version)?);
    }
    for feature in options {
        if feature.is_empty() {
            return Err((ErrorKind::InvalidOptions, part));
        }
        platform.os_features.push(decode(feature)?);
    }
    Ok(platform)
}

fn is_word(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(percent::is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format_all;
    use crate::known::{ARCHITECTURES, OPERATING_SYSTEMS};

    fn p(os: &str, architecture: &str) -> Platform {
        Platform::new(os, architecture)
    }

    #[test]
    fn complete_specifiers() {
        let host = p("hostos", "hostarch");
        for (specifier, expected) in [
            ("linux/amd64", p("linux", "amd64")),
            ("Linux/x86_64", p("linux", "amd64")),
            ("linux/amd64/v1", p("linux", "amd64")),
            ("linux/amd64/v3", p("linux", "amd64").with_variant("v3")),
            ("linux/i386/v9", p("linux", "386")),
            ("linux/arm64", p("linux", "arm64")),
            ("linux/arm64/v8", p("linux", "arm64").with_variant("v8")),
            ("linux/aarch64/8", p("linux", "arm64").with_variant("v8")),
            ("linux/arm64/v8.0", p("linux", "arm64").with_variant("v8")),
            ("linux/arm64/v9.0", p("linux", "arm64").with_variant("v9")),
            ("linux/arm", p("linux", "arm")),
            ("linux/armhf", p("linux", "arm")),
            ("linux/armel", p("linux", "arm").with_variant("v6")),
            ("linux/arm/v7", p("linux", "arm").with_variant("v7")),
            ("linux/arm/6", p("linux", "arm").with_variant("v6")),
            ("macOS/arm64", p("darwin", "arm64")),
            ("unknown/unknown", p("unknown", "unknown")),
            ("my_os-2/My.Arch/V.1", p("my_os-2", "my.arch").with_variant("v.1")),
            ("windows()/amd64", p("windows", "amd64")),
            ("windows(10.0.17763)/amd64", p("windows", "amd64").with_os_version("10.0.17763")),
            (
                "windows(10.0.17763%2Bbuild.42+win32k)/amd64",
                p("windows", "amd64").with_os_version("10.0.17763+build.42").with_os_features(["win32k"]),
            ),
            ("linux(+simd+gpu)/arm64/v8.2", {
                p("linux", "arm64").with_variant("v8.2").with_os_features(["simd", "gpu"])
            }),
            ("linux(%2f%C3%BC)/amd64", p("linux", "amd64").with_os_version("/ü")),
        ] {
            assert_eq!(parse_for_host(specifier, &host).unwrap(), expected, "{specifier}");
        }
    }

    #[test]
    fn the_host_completes_one_part() {
        let amd64 = p("linux", "amd64");
        let arm64 = p("darwin", "arm64").with_variant("v8");
        let arm6 = p("linux", "arm").with_variant("v6");
        let arm7 = p("linux", "arm").with_variant("v7");
        for (specifier, host, expected) in [
            ("linux", &amd64, p("linux", "amd64")),
            ("linux", &arm64, p("linux", "arm64")),
            ("linux", &arm6, p("linux", "arm").with_variant("v6")),
            ("linux", &arm7, p("linux", "arm")),
            ("macos", &amd64, p("darwin", "amd64")),
            ("windows(10.0.1)", &amd64, p("windows", "amd64").with_os_version("10.0.1")),
            ("linux(+gpu)", &arm6, p("linux", "arm").with_variant("v6").with_os_features(["gpu"])),
            ("amd64", &arm64, p("darwin", "amd64")),
            ("x86-64", &amd64, p("linux", "amd64")),
            ("Aarch64", &amd64, p("linux", "arm64")),
            ("i386", &amd64, p("linux", "386")),
            ("arm", &arm6, p("linux", "arm")),
            ("armhf", &arm64, p("darwin", "arm")),
            ("armel", &amd64, p("linux", "arm").with_variant("v6")),
            ("s390x", &arm64, p("darwin", "s390x")),
        ] {
            assert_eq!(parse_for_host(specifier, host).unwrap(), expected, "{specifier} on {host}");
        }
    }

    #[test]
    fn every_known_word_stands_alone() {
        let host = p("hostos", "hostarch");
        for os in OPERATING_SYSTEMS {
            assert_eq!(parse_for_host(os, &host).unwrap(), p(os, "hostarch"));
        }
        for architecture in ARCHITECTURES {
            assert_eq!(parse_for_host(architecture, &host).unwrap(), p("hostos", architecture));
        }
    }

    #[test]
    fn what_is_refused() {
        for (specifier, kind) in [
            ("", ErrorKind::Empty),
            ("*", ErrorKind::Wildcard),
            ("linux/*", ErrorKind::Wildcard),
            ("linux(*)/amd64", ErrorKind::Wildcard),
            ("a/b/c/d", ErrorKind::TooManyParts),
            ("linux/arm/v7/", ErrorKind::TooManyParts),
            ("/", ErrorKind::InvalidOs),
            ("/linux/arm", ErrorKind::InvalidOs),
            ("linux /arm", ErrorKind::InvalidOs),
            ("li.nux/arm", ErrorKind::InvalidOs),
            ("(10.0)/amd64", ErrorKind::InvalidOs),
            ("linüx", ErrorKind::InvalidOs),
            ("windows(10.0/amd64", ErrorKind::InvalidOptions),
            ("windows(10.0)x/amd64", ErrorKind::InvalidOptions),
            ("windows((10.0))/amd64", ErrorKind::InvalidOptions),
            ("windows(a b)/amd64", ErrorKind::InvalidOptions),
            ("windows(a/b)/amd64", ErrorKind::InvalidOptions),
            ("windows(ü)/amd64", ErrorKind::InvalidOptions),
            ("windows(10.0+)/amd64", ErrorKind::InvalidOptions),
            ("windows(++a)/amd64", ErrorKind::InvalidOptions),
            ("windows(10%2)/amd64", ErrorKind::InvalidEscape),
            ("windows(+%FF)/amd64", ErrorKind::InvalidEscape),
            ("linux/&arm", ErrorKind::InvalidArchitecture),
            ("linux/", ErrorKind::InvalidArchitecture),
            ("linux//v7", ErrorKind::InvalidArchitecture),
            ("linux/amd64(1)", ErrorKind::InvalidArchitecture),
            ("linux/arm/", ErrorKind::InvalidVariant),
            ("linux/arm/v 7", ErrorKind::InvalidVariant),
            ("amd64(10.0)", ErrorKind::OptionsWithoutOs),
            ("beos", ErrorKind::Unknown),
            ("linux-amd64", ErrorKind::Unknown),
        ] {
            let error = parse_for_host(specifier, &p("linux", "amd64")).unwrap_err();
            assert_eq!(error.kind(), kind, "{specifier}");
        }
    }

    #[test]
    fn formatted_platforms_parse_to_themselves() {
        let host = p("hostos", "hostarch");
        for platform in [
            p("linux", "amd64"),
            p("linux", "arm"),
            p("linux", "arm").with_variant("v7"),
            p("linux", "arm64"),
            p("linux", "arm64").with_variant("v8"),
            p("linux", "amd64").with_os_features(["\n", "*", "a b", "ü"]),
            p("windows", "amd64").with_os_version("1+2/3(4)%5").with_os_features(["a+b", "c"]),
        ] {
            let specifier = format_all(&platform);
            assert_eq!(parse_for_host(&specifier, &host).unwrap(), platform, "{specifier}");
        }
    }

    #[test]
    fn parse_all_names_the_first_that_is_wrong() {
        assert_eq!(parse_all(Vec::<String>::new()).unwrap(), []);
        let error = parse_all(["linux/amd64", "linux/b&d", "*"]).unwrap_err();
        assert!(error.to_string().contains(r#""linux/b&d""#), "{error}");
    }
}
