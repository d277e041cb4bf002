//! Under which names the images of an archive are recorded.
//!
//! ```text
//! io.containerd.image.name            as it is
//! org.opencontainers.image.ref.name   a whole name as Docker reads it; a bare tag below the base name
//! neither                             the base name and the digest
//! ```
//!
//! The index of the archive itself gets a name that the user chooses, where it is wanted.
//!
//! Full names that are not of the base name are kept, or with [`FullNames::Filter`] left out with their images.
//!
//! (containerd: `client/import.go` and `core/images/archive/reference.go`, where the base name is the date if none is given; here it is
//! asked for, so that the same archive always gives the same names.)

use wharf_content::{Descriptor, Digest, Error, Result, ResultExt};
use wharf_images::{
    Image, Reference,
    sqlite::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME},
};

use crate::options::{FullNames, ImportOptions};

/// The longest name that is taken from an archive: a reference with everything has less.
const MAX_NAME_LEN: usize = 1024;

/// How many images without a name, or with one that is taken, are told.
const MAX_TOLD: usize = 4;

/// The most images of an archive: each costs a look through.
const MAX_IMAGES: usize = 10_000;

/// The images of an archive with their names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// What is to be recorded, sorted by name.
    pub(crate) images: Vec<Image>,
    /// Those that stay without a name, and why.
    pub(crate) unnamed: Vec<String>,
    /// Those whose names are not wanted.
    filtered: Vec<String>,
}

/// Checks the names that the user chose before anything is read.
///
/// # Errors
/// `InvalidArgument` where the base name is no name of a repository, or the index's is none.
pub(crate) fn check(options: &ImportOptions) -> Result<()> {
    index_name(options)?;
    match &options.base_name {
        None if options.full_names == FullNames::Filter => {
            Err(Error::invalid_argument("names can be filtered by a base name only: give one"))
        }
        Some(base) => tagged(base, "latest").map(drop).map_err(|error| {
            error.context(format!(
                "{base:?} cannot be a base name: a repository without a tag is, as in ghcr.io/owner/image"
            ))
        }),
        None => Ok(()),
    }
}

/// The name that the archive's own index is to have.
pub(crate) fn index_name(options: &ImportOptions) -> Result<Option<String>> {
    let Some(name) = &options.index_name else { return Ok(None) };
    let reference = Reference::parse(name);
    reference.map(|reference| Some(reference.to_string())).map_err(|error| {
        Error::from(error).context(format!("{name:?} cannot be the name of the archive's index"))
    })
}

/// Names the images that an archive describes.
///
/// # Errors
/// `InvalidArgument` for a name that is none, and where no image at all has one; `Conflict` for one name of two images.
pub(crate) fn name(entries: Vec<Descriptor>, options: &ImportOptions) -> Result<Named> {
    check_count(entries.len())?;
    let mut named = Named::default();
    let is_empty = entries.is_empty();
    let index_name = index_name(options)?;
    for mut target in entries {
        let own = target.annotations.remove(ANNOTATION_IMAGE_NAME);
        let reference = target.annotations.remove(ANNOTATION_REF_NAME);
        let name = one(own, reference, &target.digest, options, &mut named.unnamed)?;
        if let Some(name) = name.clone().filter(|name| index_name.as_ref() == Some(name)) {
            named.images.push(Image::new(name, target));
            continue;
        }
        if let Some(name) = name.as_ref().filter(|name| !is_wanted(name, options)) {
            named.filtered.push(format!("{name:?}"));
            continue;
        }
        if options.digests
            && let Some(repository) = repository(name.as_deref(), options)
        {
            let name = with_digest(&repository, &target.digest)?;
            named.images.push(Image::new(name, target.clone()));
        }
        named.images.extend(name.map(|name| Image::new(name, target)));
    }
    named.images.sort_by(|a, b| a.name.cmp(&b.name));
    named.images.dedup_by(|a, b| a.name == b.name && a.target.digest == b.target.digest);
    if let Some(pair) = named.images.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::conflict(format!(
            "two images of the archive have the name {:?}: {} and {}",
            pair[0].name, pair[0].target.digest, pair[1].target.digest
        )));
    }
    for image in &named.images {
        image.validate().context(|| "the archive describes an image that cannot be recorded")?;
    }
    if is_empty {
        return Err(Error::invalid_argument("there is no image in the archive"));
    }
    if named.images.is_empty() && !named.filtered.is_empty() {
        return Err(Error::not_found(format!(
            "no image of the archive has a name below {:?}: there are {}",
            options.base_name.as_deref().unwrap_or_default(),
            list(&named.filtered)
        )));
    }
    if named.images.is_empty() {
        return Err(Error::invalid_argument(format!(
            "no image of the archive has a full name: {}; give a repository for them with a base name",
            list(&named.unnamed)
        )));
    }
    Ok(named)
}

/// Tells the first few of many.
pub(crate) fn list(many: &[String]) -> String {
    let told = many[..many.len().min(MAX_TOLD)].join(", ");
    match many.len().saturating_sub(MAX_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// The error of names that other images have here.
pub(crate) fn taken(taken: &[String]) -> Error {
    Error::already_exists(format!("names of the archive are taken: {}", list(taken)))
}

/// Refuses more images than an archive has.
pub(crate) fn check_count(count: usize) -> Result<()> {
    if count <= MAX_IMAGES {
        return Ok(());
    }
    Err(Error::resource_exhausted(format!("the archive describes more than {MAX_IMAGES} images")))
}

/// The name of one image; what has none is told in `unnamed`.
fn one(
    own: Option<String>,
    reference: Option<String>,
    digest: &Digest,
    options: &ImportOptions,
    unnamed: &mut Vec<String>,
) -> Result<Option<String>> {
    if let Some(own) = own.filter(|own| !own.is_empty()) {
        if own.len() > MAX_NAME_LEN || own.contains(char::is_control) {
            return Err(Error::invalid_argument(format!(
                "the archive gives {digest} a name that is too long or has control characters"
            )));
        }
        return Ok(Some(own));
    }
    let reference =
        reference.filter(|reference| !reference.is_empty() && reference.parse::<Digest>().is_err());
    if let Some(full) = reference.as_deref().filter(|reference| reference.contains(['/', ':', '@'])) {
        let parsed = Reference::parse(full).map_err(|error| {
            Error::from(error).context(format!("the archive gives {digest} a name that is none"))
        })?;
        return Ok(Some(parsed.to_string()));
    }
    match (&options.base_name, reference) {
        (Some(base), Some(tag)) => tagged(base, &tag)
            .map(Some)
            .map_err(|error| error.context(format!("the archive gives {digest} a tag that is none"))),
        (Some(base), None) => with_digest(base, digest).map(Some),
        (None, Some(tag)) => {
            let tag: String = tag.chars().take(128).collect();
            unnamed.push(format!("{digest} is only tagged {tag:?}"));
            Ok(None)
        }
        (None, None) => {
            unnamed.push(format!("{digest} has no name at all"));
            Ok(None)
        }
    }
}

/// Whether a name is of the base name's repository or one below it, where that is asked for.
fn is_wanted(name: &str, options: &ImportOptions) -> bool {
    let (FullNames::Filter, Some(base)) = (options.full_names, &options.base_name) else { return true };
    let Ok(base) = Reference::parse(base) else { return false };
    name.strip_prefix(base.repository()).is_some_and(|rest| rest.starts_with(['/', ':', '@']))
}

fn tagged(base: &str, tag: &str) -> Result<String> {
    Ok(Reference::parse(&format!("{base}:{tag}"))?.to_string())
}

fn with_digest(repository: &str, digest: &Digest) -> Result<String> {
    Ok(Reference::parse(&format!("{repository}@{digest}"))?.to_string())
}

/// Where a name by digest belongs: to the base name, else to the repository of the image's own name.
fn repository(name: Option<&str>, options: &ImportOptions) -> Option<String> {
    match &options.base_name {
        Some(base) => Some(base.clone()),
        None => Some(Reference::parse(name?).ok()?.repository().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use wharf_content::ErrorKind;

    use super::*;

    fn entry(text: &str, own: Option<&str>, reference: Option<&str>) -> Descriptor {
        let mut entry = Descriptor::of("m", text.as_bytes());
        for (key, value) in [(ANNOTATION_IMAGE_NAME, own), (ANNOTATION_REF_NAME, reference)] {
            if let Some(value) = value {
                entry = entry.with_annotation(key, value);
            }
        }
        entry
    }

    fn names(entries: &[Descriptor], options: &ImportOptions) -> Result<Vec<String>> {
        Ok(name(entries.to_vec(), options)?.images.into_iter().map(|image| image.name).collect())
    }

    #[test]
    fn every_way_to_have_a_name() {
        let plain = ImportOptions::new();
        let based = ImportOptions::new().with_base_name("ghcr.io/a/b");
        let digest = Digest::sha256(b"x");
        for (own, reference, without, with) in [
            (
                Some("docker.io/library/a:1"),
                Some("1"),
                Some("docker.io/library/a:1"),
                "docker.io/library/a:1",
            ),
            (Some("not a reference"), None, Some("not a reference"), "not a reference"),
            (None, Some("busybox:1"), Some("docker.io/library/busybox:1"), "docker.io/library/busybox:1"),
            (None, Some("q.io/c:2"), Some("q.io/c:2"), "q.io/c:2"),
            (None, Some("1.36"), None, "ghcr.io/a/b:1.36"),
            (Some(""), Some("1.36"), None, "ghcr.io/a/b:1.36"),
            (None, None, None, &format!("ghcr.io/a/b@{digest}")),
            (None, Some(""), None, &format!("ghcr.io/a/b@{digest}")),
            (None, Some(digest.as_str()), None, &format!("ghcr.io/a/b@{digest}")),
        ] {
            let entry = [entry("x", own, reference)];
            let found = names(&entry, &plain);
            match without {
                Some(name) => assert_eq!(found.expect("named"), [name]),
                None => assert_eq!(found.expect_err("no name").kind(), ErrorKind::InvalidArgument),
            }
            assert_eq!(names(&entry, &based).expect("named"), [with]);
        }
    }

    #[test]
    fn digests_are_names_too() {
        let entries = [entry("x", Some("q.io/a:1"), None), entry("y", None, Some("2"))];
        let (x, y) = (Digest::sha256(b"x"), Digest::sha256(b"y"));
        let plain = ImportOptions::new().with_digests();
        assert_eq!(names(&entries, &plain).expect("named"), ["q.io/a:1".to_owned(), format!("q.io/a@{x}")]);
        let based = plain.with_base_name("b");
        let mut expected = vec![
            "docker.io/library/b:2".to_owned(),
            format!("docker.io/library/b@{x}"),
            format!("docker.io/library/b@{y}"),
            "q.io/a:1".to_owned(),
        ];
        expected.sort();
        assert_eq!(names(&entries, &based).expect("named"), expected);
    }

    #[test]
    fn full_names_of_other_repositories_are_left_out_on_request() {
        let entries = [
            entry("a", Some("ghcr.io/a/b:1"), None),
            entry("b", None, Some("ghcr.io/a/b/c:1")),
            entry("c", Some("ghcr.io/a/bc:1"), None),
            entry("d", None, Some("busybox:1")),
            entry("e", Some("not a reference"), None),
            entry("f", None, Some("2")),
        ];
        let options = ImportOptions::new().with_base_name("ghcr.io/a/b");
        assert_eq!(names(&entries, &options).expect("kept").len(), entries.len());
        let options = options.filtering_names();
        let wanted = ["ghcr.io/a/b/c:1", "ghcr.io/a/b:1", "ghcr.io/a/b:2"];
        assert_eq!(names(&entries, &options).expect("filtered"), wanted);
        let library = ImportOptions::new().with_base_name("busybox").filtering_names().with_digests();
        let digest = Digest::sha256(b"d");
        let found = names(&entries[2..5], &library).expect("one");
        assert_eq!(
            found,
            ["docker.io/library/busybox:1".into(), format!("docker.io/library/busybox@{digest}")]
        );
        let error = names(&entries[2..5], &options).expect_err("none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("\"ghcr.io/a/bc:1\""), "{error}");
        assert!(check(&ImportOptions::new().filtering_names()).is_err());
    }

    #[test]
    fn what_has_no_name_is_told_and_what_has_two_meanings_is_refused() {
        let options = ImportOptions::new();
        let found = name(vec![entry("x", Some("q.io/a:1"), None), entry("y", None, Some("2"))], &options);
        assert_eq!(
            found.expect("one has").unnamed,
            [format!("{} is only tagged \"2\"", Digest::sha256(b"y"))]
        );
        let twice = [entry("x", Some("q.io/a:1"), None), entry("x", Some("q.io/a:1"), Some("1"))];
        assert_eq!(names(&twice, &options).expect("the same"), ["q.io/a:1"]);
        let both = [entry("x", Some("q.io/a:1"), None), entry("y", Some("q.io/a:1"), None)];
        assert_eq!(names(&both, &options).expect_err("which?").kind(), ErrorKind::Conflict);
        for (own, reference) in [
            (Some("a\u{1b}[2J"), None),
            (Some(&*"a".repeat(1025)), None),
            (None, Some("A/B:1")),
            (None, Some("a b")),
        ] {
            let options = ImportOptions::new().with_base_name("b");
            let error = names(&[entry("x", own, reference)], &options).expect_err("no name");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        assert!(names(&[], &options).expect_err("empty").to_string().contains("no image"));
    }

    #[test]
    fn the_index_has_the_name_that_the_user_chose() {
        let digest = Digest::sha256(b"x");
        let options = ImportOptions::new().with_index_name("all").with_digests();
        let entries =
            [entry("x", Some("q.io/a:1"), None), entry("i", Some("docker.io/library/all:latest"), None)];
        let expected = ["docker.io/library/all:latest".into(), "q.io/a:1".into(), format!("q.io/a@{digest}")];
        assert_eq!(names(&entries, &options).expect("named"), expected);
        let filtered = options.with_base_name("q.io/b").filtering_names();
        assert_eq!(names(&entries, &filtered).expect("the index"), ["docker.io/library/all:latest"]);
        for (name, is_fine) in [("q.io/all:1", true), ("A", false), ("", false)] {
            assert_eq!(check(&ImportOptions::new().with_index_name(name)).is_ok(), is_fine, "{name}");
        }
    }

    #[test]
    fn base_names_are_repositories() {
        for (base, is_fine) in [
            ("busybox", true),
            ("localhost:5000/a/b", true),
            ("ghcr.io/a/b", true),
            ("busybox:1", false),
            ("a@sha256:00", false),
            ("a/B", false),
            ("", false),
        ] {
            let options = ImportOptions::new().with_base_name(base);
            assert_eq!(check(&options).is_ok(), is_fine, "{base}");
        }
    }
}
