//! What holds for every input: nothing panics, specifiers survive the way there and back, matchers sort.
//!
//! Single cases are in the tables beside the code; here are the laws. The host is whatever runs the tests, so nothing
//! here depends on it.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use wharf_platforms::{
    Matcher, Platform, all, any, default_spec, format, format_all, normalize, only, only_strict, ordered,
    parse,
};

/// Words that mean something, and some that nearly do.
fn os() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["linux", "windows", "darwin", "macOS", "Linux", "freebsd"]).prop_map(String::from),
        1 => "[A-Za-z0-9_-]{1,8}",
    ]
}

fn architecture() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["amd64", "x86_64", "386", "i386", "arm", "armhf", "armel", "arm64", "aarch64"])
            .prop_map(String::from),
        1 => "[A-Za-z0-9_.-]{1,8}",
    ]
}

fn variant() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        2 => Just(None),
        4 => "v[1-9](\\.[0-9])?".prop_map(Some),
        1 => "[A-Za-z0-9_.-]{1,6}".prop_map(Some),
    ]
}

fn os_version() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        2 => Just(None),
        2 => prop::sample::select(vec!["10.0.17763", "10.0.20348", "10.0.20348.9", "10.0.25398", "10.0.26100.1"])
            .prop_map(|version| Some(version.to_owned())),
        1 => "\\PC{1,8}".prop_map(Some),
        1 => any_text(4).prop_map(Some),
    ]
}

fn any_text(length: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::char::any(), 1..=length).prop_map(String::from_iter)
}

fn os_features() -> impl Strategy<Value = Vec<String>> {
    let feature = prop_oneof![
        3 => prop::sample::select(vec!["a", "b", "win32k"]).prop_map(String::from),
        1 => any_text(4),
    ];
    prop::collection::vec(feature, 0..4)
}

/// A platform whose words a specifier can hold.
fn platform() -> impl Strategy<Value = Platform> {
    (os(), architecture(), variant(), os_version(), os_features()).prop_map(
        |(os, architecture, variant, os_version, os_features)| Platform {
            os,
            architecture,
            variant,
            os_version,
            os_features,
        },
    )
}

/// A platform as a stranger may write it into an index.
fn hostile() -> impl Strategy<Value = Platform> {
    let text = || prop_oneof![Just(String::new()), any_text(8), "[a-z0-9]{1,5}"];
    (text(), text(), prop::option::of(text()), prop::option::of(text()), prop::collection::vec(text(), 0..4))
        .prop_map(|(os, architecture, variant, os_version, os_features)| Platform {
            os,
            architecture,
            variant,
            os_version,
            os_features,
        })
}

/// A total preorder that puts what matches first.
fn check_order(matcher: &dyn Matcher, platforms: &[Platform; 3]) -> Result<(), TestCaseError> {
    for (a, b, c) in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)] {
        let (a, b, c) = (&platforms[a], &platforms[b], &platforms[c]);
        prop_assert_eq!(matcher.compare(a, a), Ordering::Equal);
        prop_assert_eq!(matcher.compare(a, b), matcher.compare(b, a).reverse());
        if matcher.matches(a) && !matcher.matches(b) {
            prop_assert_eq!(matcher.compare(a, b), Ordering::Less);
        }
        if matcher.compare(a, b).is_le() && matcher.compare(b, c).is_le() {
            prop_assert!(matcher.compare(a, c).is_le());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn parsing_never_panics(specifier in any_text(64)) {
        let _ = parse(&specifier).map_err(|error| error.to_string());
    }

    #[test]
    fn near_misses_never_panic(specifier in "[a-z8(%+)/*.ü-]{0,24}") {
        if let Err(error) = parse(&specifier) {
            prop_assert!(!error.to_string().chars().any(char::is_control));
        }
    }

    #[test]
    fn what_parses_survives_formatting(specifier in "(linux|windows)(\\((1(\\.0)?)?(\\+[ab%2]{1,3}){0,3}\\))?(/[a-z0-9]{1,6}){0,2}") {
        if let Ok(parsed) = parse(&specifier) {
            let formatted = format_all(&parsed);
            let again = parse(&formatted).expect("because what was formatted parses");
            prop_assert_eq!(normalize(&again), normalize(&parsed));
            prop_assert_eq!(format_all(&again), formatted);
            prop_assert_eq!(parse(&format(&parsed)).expect("because the short form parses").os, parsed.os);
        }
    }

    #[test]
    fn every_platform_survives_formatting(platform in platform()) {
        let parsed = parse(&format_all(&platform)).expect("because its words fit the grammar");
        prop_assert_eq!(normalize(&parsed), normalize(&platform));
    }

    #[test]
    fn normalised_platforms_are_read_back_as_they_are(platform in platform()) {
        let normal = normalize(&platform);
        let parsed = parse(&format_all(&normal)).expect("because its words fit the grammar");
        prop_assert_eq!(parsed, normal);
    }

    #[test]
    fn normalising_twice_changes_nothing(platform in hostile()) {
        let normal = normalize(&platform);
        prop_assert_eq!(normalize(&normal), normal);
    }

    #[test]
    fn the_wire_keeps_everything(platform in hostile()) {
        let json = serde_json::to_string(&platform).expect("because strings are JSON");
        let read: Platform = serde_json::from_str(&json).expect("because it was just written");
        prop_assert_eq!(normalize(&read), normalize(&platform));
        prop_assert_eq!(serde_json::to_string(&read).expect("because strings are JSON"), json);
    }

    #[test]
    fn a_platform_matches_itself(platform in prop_oneof![platform(), hostile()]) {
        let unversioned = Platform { os_version: None, ..platform };
        prop_assert!(only_strict(&unversioned).matches(&unversioned));
        prop_assert!(only(&unversioned).matches(&unversioned));
        prop_assert!(only(&unversioned).matches(&normalize(&unversioned)));
    }

    #[test]
    fn strict_is_the_best_of_only(wanted in platform(), image in platform()) {
        if only_strict(&wanted).matches(&image) {
            prop_assert!(only(&wanted).matches(&image));
            let bare = Platform { os_features: Vec::new(), ..image.clone() };
            prop_assert!(only(&wanted).compare(&image, &bare).is_le());
        }
    }

    #[test]
    fn what_only_lists_is_what_it_matches_best_first(
        wanted in prop_oneof![platform(), hostile()],
        image in platform(),
    ) {
        let matcher = only(&wanted);
        let listed: Vec<Platform> = matcher.platforms().take(200).collect();
        prop_assert_eq!(listed.first(), Some(matcher.platform()));
        for pair in listed.windows(2) {
            prop_assert_eq!(matcher.compare(&pair[0], &pair[1]), Ordering::Less);
        }
        prop_assert!(listed.iter().all(|platform| matcher.matches(platform)));
        let image = normalize(&image);
        let is_listed = listed.iter().any(|listed| (&listed.os, &listed.architecture, &listed.variant)
            == (&image.os, &image.architecture, &image.variant));
        if matcher.matches(&image) {
            prop_assert!(is_listed || listed.len() == 200);
        }
    }

    #[test]
    fn matchers_sort(
        wanted in prop::collection::vec(platform(), 1..4),
        images in prop::array::uniform3(prop_oneof![4 => platform(), 1 => hostile()]),
    ) {
        check_order(&only(&wanted[0]), &images)?;
        check_order(&only_strict(&wanted[0]), &images)?;
        check_order(&ordered(&wanted), &images)?;
        check_order(&any(&wanted), &images)?;
        check_order(&all(), &images)?;
    }
}

#[test]
fn huge_inputs_are_refused_or_read_and_described_in_few_words() {
    const SIZE: usize = 64 * 1024;
    for unit in ["a", "/", "+", "%", "(", ")", "*", "%41", "ü", "😀", "\0", "\u{1b}", "linux/", "+a"] {
        let many = unit.repeat(SIZE / unit.len());
        for specifier in [
            many.clone(),
            format!("linux({many})/amd64"),
            format!("linux(+{many})"),
            format!("linux/{many}"),
            format!("linux/arm/{many}"),
            format!("{many}/amd64"),
        ] {
            match parse(&specifier) {
                Ok(platform) => {
                    let again = parse(&format_all(&platform)).expect("because what was formatted parses");
                    assert_eq!(normalize(&again), normalize(&platform));
                }
                Err(error) => assert!(error.to_string().len() < 4096, "{error}"),
            }
        }
    }
}

/// The time that a reading of 64 KiB may take where the machine is busy; it takes a thousandth of it.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn huge_inputs_take_no_longer_than_their_size_warrants() {
    const SIZE: usize = 64 * 1024;
    let word = "a".repeat(SIZE);
    let many =
        Platform::new("linux", "amd64").with_os_features((0..SIZE / 8).rev().map(|n| format!("f{n:07}")));
    let specifiers = [
        format_all(&many),
        format!("windows({})/amd64", "1.".repeat(SIZE / 2)),
        format!("windows({}0)/arm64/v9.{}", "9".repeat(SIZE), "9".repeat(SIZE)),
        format!("linux({})/amd64/v{}", "%41".repeat(SIZE / 3), "9".repeat(SIZE)),
        format!("linux({})/amd64", "+a".repeat(SIZE / 2)),
        format!("{word}/{word}/{word}"),
    ];
    for specifier in &specifiers {
        let begun = Instant::now();
        let platform = parse(specifier).expect("because it fits the grammar");
        assert_eq!(
            normalize(&parse(&format_all(&platform)).expect("because it was formatted")),
            normalize(&platform)
        );
        let matchers: [&dyn Matcher; 4] = [
            &only(&platform),
            &only_strict(&platform),
            &ordered([&platform, &many]),
            &any([&many, &platform]),
        ];
        for matcher in matchers {
            assert!(matcher.matches(&platform));
            assert_eq!(matcher.compare(&platform, &many), matcher.compare(&many, &platform).reverse());
        }
        assert!(only(&platform).platforms().take(3).count() >= 1);
        assert!(begun.elapsed() < PATIENCE, "{:?} for {} bytes", begun.elapsed(), specifier.len());
    }
}

#[test]
fn only_the_host_completes_a_specifier() {
    let host = default_spec();
    assert_eq!(parse(&host.os).expect("because the host is known").architecture, host.architecture);
    assert_eq!(parse(&host.architecture).expect("because the host is known").os, host.os);
}
