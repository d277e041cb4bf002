//! The parser against a second reading of the same grammar: the regular expressions of distribution/reference (`regexp.go`), put together
//! here from the rules, with the normalisation (`normalize.go`) in its plainest form. The parser itself has no regular expressions.
//!
//! Which error it is for what is refused is the matter of `tests.rs`; here it is whether, and what the parts are.

use std::sync::LazyLock;

use proptest::prelude::*;
use regex::Regex;

use super::*;

/// `(domain)/(path)`, `:(tag)`, `@(digest)`.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
    let host = format!(r"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])");
    let component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    let algorithm = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*";
    let grammar = format!(
        "^({host}(?::[0-9]+)?)/({component}(?:/{component})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?\
         (?:@({algorithm}:[0-9a-fA-F]{{32,}}))?$"
    );
    Regex::new(&grammar).expect("a regular expression")
});

/// Domain, path, tag and digest.
type Parts = (String, String, Option<String>, Option<String>);

/// Reads a reference by the rules of `references.md` one after the other; `None` where one of them is broken.
fn read(text: &str) -> Option<Parts> {
    let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if text.len() == 64 && text.chars().all(is_hex) {
        return None;
    }
    let (domain, rest) = match text.find('/') {
        Some(at) => {
            let first = &text[..at];
            let is_domain =
                first == "localhost" || first.contains(['.', ':']) || first.to_lowercase() != first;
            if is_domain { (first, &text[at + 1..]) } else { ("docker.io", text) }
        }
        None => ("docker.io", text),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let library = if domain == "docker.io" && !rest.contains('/') { "library/" } else { "" };
    let whole = format!("{domain}/{library}{rest}");
    let found = GRAMMAR.captures(&whole)?;
    let part = |at: usize| found.get(at).map(|part| part.as_str().to_owned());
    let (domain, path, mut tag, digest) = (part(1)?, part(2)?, part(3), part(4));
    if path.len() > 255 || digest.as_ref().is_some_and(|digest| digest.parse::<Digest>().is_err()) {
        return None;
    }
    if tag.is_none() && digest.is_none() {
        tag = Some("latest".into());
    }
    Some((domain, path, tag, digest))
}

fn parts(text: &str) -> Option<Parts> {
    let reference = Reference::parse(text).ok()?;
    Some((
        reference.domain().to_owned(),
        reference.path().to_owned(),
        reference.tag().map(str::to_owned),
        reference.digest().map(Digest::to_string),
    ))
}

const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

#[test]
fn both_read_alike() {
    let mut accepted = 0;
    let rows = [
        "a",
        "a:b",
        "a:5000/b",
        "a:5000/b:c",
        "a.b/c",
        "A/b",
        "a/B",
        "a/b/c:d",
        "a.b:5/c/d:e",
        "[::1]/a",
        "[::1]:5000/a:b",
        "[1:2]:x/a",
        "[::1]",
        "[]/a",
        "[g]/a",
        "::1/a",
        "a..b/c",
        "-a.b/c",
        "a-.b/c",
        "a_b.c/d",
        "a--b.c/d",
        "a.b./c",
        ".a/b",
        "1.2.3.4/a",
        "1.2.3.4:5/a:6",
        "localhost",
        "localhost/a",
        "localhost:1/a",
        "Localhost/a",
        "LOCALHOST:1/a",
        "docker.io/a",
        "docker.io/a/b",
        "docker.io:1/a",
        "index.docker.io/a",
        "index.docker.io/a/b",
        "Docker.io/a",
        "docker.io/library/a",
        "library/a",
        "a/library",
        "a__b",
        "a___b",
        "a._b",
        "a-b",
        "a---b",
        "a-_b",
        "a_b_c",
        "a.b.c",
        "_a",
        "a_",
        "a.",
        "a-",
        "a/",
        "/a",
        "a//b",
        "a/-b",
        "a:",
        "a:_",
        "a:.",
        "a:-",
        "a:B.c-d_e",
        "a:b:c",
        "a:b/c",
        "a@",
        "a:@",
        "a@b",
        "a:b@c",
        "@",
        ":",
        "/",
        "",
        "a/b:c/d",
        "a b",
        "a\t",
        "a\n",
        "\na",
        "a\0",
        "é",
        "a/é",
        "a:é",
        "É/a",
        "é.b/c",
        "a%2fb",
        "a+b",
        "a:b+c",
        "xn--7o8h.com/a:xn--7o8h.com",
        "a.b/c@d:e",
        "a//",
        "...",
        "../a",
        "a/..",
        "a/./b",
        "~/a",
        "$a",
        "{a}",
    ];
    for row in rows.map(str::to_owned).into_iter().chain(digested()) {
        assert_eq!(parts(&row), read(&row), "{row:?}");
        accepted += usize::from(read(&row).is_some());
    }
    // Neither reading refuses everything.
    assert!(accepted > 40, "{accepted} rows are references");
}

/// Rows with digests and with lengths at their limits.
fn digested() -> Vec<String> {
    let mut rows = Vec::new();
    let sha512 = "a".repeat(128);
    for digest in [
        format!("sha256:{HEX}"),
        format!("sha256:{}", HEX.to_uppercase()),
        format!("SHA256:{HEX}"),
        format!("sha256:{}", &HEX[..63]),
        format!("sha256:{HEX}0"),
        format!("sha512:{sha512}"),
        format!("sha512:{HEX}"),
        format!("sha384:{}", "b".repeat(96)),
        format!("md5:{}", "c".repeat(32)),
        format!("a+b.c:{HEX}"),
        format!("a+:{HEX}"),
        format!("1a:{HEX}"),
        format!(":{HEX}"),
        "sha256:".into(),
        format!("sha256:{}", &HEX[..31]),
        format!("sha256:{HEX}@sha256:{HEX}"),
        format!("sha256:{HEX}:tag"),
        format!("sha256:{HEX}/x"),
    ] {
        for name in ["", "a", "a:b", "a.b/c", "a.b:1/c:d", "[::1]:5/a", HEX] {
            rows.push(format!("{name}@{digest}"));
        }
    }
    for name in
        [HEX.to_owned(), format!("{HEX}:a"), format!("a/{HEX}"), HEX.to_uppercase(), format!("{HEX}0")]
    {
        rows.push(name);
    }
    for len in [127, 128, 129] {
        rows.push(format!("a:{}", "b".repeat(len)));
    }
    for len in [246, 247, 248, 254, 255, 256] {
        let path = "p".repeat(len);
        rows.extend([
            path.clone(),
            format!("{path}:t"),
            format!("localhost/{path}"),
            format!("index.docker.io/{path}"),
        ]);
    }
    rows
}

/// Where the readings differ on purpose: a domain is bounded here, and nowhere in the grammar.
#[test]
fn differs_where_it_means_to() {
    let domain = format!("{}a", "a.".repeat(130));
    let text = format!("{domain}/a:b");
    assert_eq!(read(&text).map(|parts| parts.0), Some(domain));
    assert!(matches!(Reference::parse(&text), Err(ReferenceError::NameTooLong { part: "domain", .. })));
}

fn token() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec![
            "a", "b1", "B", "0", "docker.io", "index.docker.io", "localhost", "library", "::1", "[::1]", "5000",
            "latest", "sha256", "example.com",
        ]).prop_map(str::to_owned),
        8 => prop::sample::select(vec!["/", ":", "@", ".", "_", "__", "-", "--", "[", "]", "+"])
            .prop_map(str::to_owned),
        1 => Just(format!("@sha256:{HEX}")),
        1 => Just(HEX.to_owned()),
        1 => any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn any_text_is_read_alike(tokens in prop::collection::vec(token(), 0..12)) {
        let text = tokens.concat();
        // Several long tokens make a domain that only the bound refuses.
        let expected = read(&text).filter(|parts| parts.0.len() <= MAX_DOMAIN_LEN);
        prop_assert_eq!(parts(&text), expected, "{:?}", text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn texts_of_64_kib_neither_panic_nor_grow(
        before in prop::collection::vec(token(), 0..4),
        unit in prop::collection::vec(token(), 1..4),
        after in prop::collection::vec(token(), 0..4),
    ) {
        const LEN: usize = 64 * 1024;
        let unit = unit.concat();
        let text = [before.concat(), unit.repeat(LEN / unit.len()), after.concat()].concat();
        let text: String = text.chars().take(LEN).collect();
        // A domain can be long in the grammar; nothing else that is so long is a reference.
        let error = Reference::parse(&text).expect_err("too long");
        prop_assert!(error.to_string().len() < 4096 && !error.to_string().contains(char::is_control));
        if let Err(error) = split_transport(&text, &["oci", "store"]) {
            prop_assert!(error.to_string().len() < 8192);
        }
    }
}
