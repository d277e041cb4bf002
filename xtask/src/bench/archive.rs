//! `cargo xtask bench export` and `bench import`: images out of a store into an archive file and back, by wharf, and by
//! skopeo from a layout and into one; and a layer of zeros, of which only the memory is of interest.

use std::fs;
use std::path::{Path, PathBuf};

use super::contest::{Arena, Contender, skopeo};
use super::figures::{Bound, Runs, Target, report};
use super::image::{self, SHAPES, Shape, TAG};
use crate::failure::{Context, Result, ensure};
use crate::process::Tool;

/// What an export is to reach.
const EXPORT: &[Target] = &[Target { than: "skopeo", bound: Bound::AtMost(0.6) }];

/// What an import is to reach.
const IMPORT: &[Target] = &[Target { than: "skopeo", bound: Bound::AtMost(0.8) }];

/// The image with the layer of zeros.
const ZEROS: &str = "1 layer of 10 GiB of zeros, compressed";

/// The repository of that image.
const ZEROS_NAME: &str = "bench/zeros";

/// An image that is moved.
#[derive(Clone, Copy, Debug)]
enum Image {
    Noise(Shape),
    Zeros,
}

impl Image {
    fn title(self) -> &'static str {
        match self {
            Self::Noise(shape) => shape.title,
            Self::Zeros => ZEROS,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Noise(shape) => shape.name,
            Self::Zeros => ZEROS_NAME,
        }
    }

    /// How it is called in a store.
    fn reference(self) -> String {
        format!("{}:{TAG}", self.name())
    }

    fn write(self, layout: &Path) -> Result<()> {
        match self {
            Self::Noise(shape) => shape.write(layout),
            Self::Zeros => image::write_zeros(layout),
        }
    }

    /// What is compared: time says little of bytes that are hardly there.
    fn targets(self, targets: &'static [Target]) -> &'static [Target] {
        match self {
            Self::Noise(_) => targets,
            Self::Zeros => &[],
        }
    }
}

/// Images whose title contains `only`; without it all that are of noise.
fn chosen(only: Option<&str>) -> Result<Vec<Image>> {
    let noise = SHAPES.iter().copied().map(Image::Noise);
    let found: Vec<Image> = match only {
        None => noise.collect(),
        Some(only) => noise.chain([Image::Zeros]).filter(|image| image.title().contains(only)).collect(),
    };
    ensure(!found.is_empty(), || {
        let titles: Vec<_> = SHAPES.iter().map(|shape| shape.title).chain([ZEROS]).collect();
        format!("there is no such image; there are: {}", titles.join("; "))
    })?;
    Ok(found)
}

/// Measures exports, and prints what came out.
pub(crate) fn export(rounds: u32, only: Option<&str>, program: Option<&Path>) -> Result<()> {
    each("export", EXPORT, rounds, only, program, |arena, layout, image| {
        let root = arena.path("store");
        let mut import = Tool::new(&arena.wharf).arg("--root").arg(&root);
        import = import.args(["import", "--base-name", image.name()]).arg(layout);
        import.success()?;
        settle()?;
        let (name, least) = (image.reference(), length(&layout.join("blobs/sha256"))?);
        // Who wrote nothing would be the fastest.
        let check = move |archive: &Path| {
            let found = fs::metadata(archive).context(archive.display())?.len();
            ensure(found > least, || format!("{} has {found} bytes", archive.display()))
        };
        let source = format!("oci:{}:{TAG}", layout.display());
        let contenders: [Contender<'_>; 2] = [
            (
                "wharf",
                Box::new(move |place| {
                    let archive = place.join("archive.tar");
                    let mut command = arena.wharf(&root);
                    command.args(["export", &name, "--output"]).arg(&archive);
                    let sample = arena.measure(command)?;
                    check(&archive)?;
                    Ok(sample)
                }),
            ),
            (
                "skopeo",
                Box::new(move |place| {
                    let archive = place.join("archive.tar");
                    let target = format!("oci-archive:{}:{TAG}", archive.display());
                    let sample = arena.measure(skopeo(place).args([&source, &target]).into_command())?;
                    check(&archive)?;
                    Ok(sample)
                }),
            ),
        ];
        arena.contest(&contenders)
    })
}

/// Measures imports, and prints what came out.
pub(crate) fn import(rounds: u32, only: Option<&str>, program: Option<&Path>) -> Result<()> {
    each("import", IMPORT, rounds, only, program, |arena, layout, image| {
        let archive = arena.dir("archive")?.join("archive.tar");
        let source = format!("oci-archive:{}:{TAG}", archive.display());
        let from = format!("oci:{}:{TAG}", layout.display());
        skopeo(&arena.dir("home")?).args([&from, &source]).success()?;
        settle()?;
        let least = length(&layout.join("blobs/sha256"))?;
        let check = move |blobs: &Path| {
            let found = length(blobs)?;
            ensure(found == least, || format!("{} has {found} bytes and not {least}", blobs.display()))
        };
        let contenders: [Contender<'_>; 2] = [
            (
                "wharf",
                Box::new(move |place| {
                    let root = place.join("root");
                    let mut command = arena.wharf(&root);
                    command.args(["import", "--base-name", image.name()]).arg(&archive);
                    let sample = arena.measure(command)?;
                    check(&root.join("blobs/sha256"))?;
                    Ok(sample)
                }),
            ),
            (
                "skopeo",
                Box::new(move |place| {
                    let copied = place.join("layout");
                    let target = format!("oci:{}:{TAG}", copied.display());
                    let sample = arena.measure(skopeo(place).args([&source, &target]).into_command())?;
                    check(&copied.join("blobs/sha256"))?;
                    Ok(sample)
                }),
            ),
        ];
        arena.contest(&contenders)
    })
}

/// Makes each image as a layout.
fn each(
    what: &str,
    targets: &'static [Target],
    rounds: u32,
    only: Option<&str>,
    program: Option<&Path>,
    measure: impl Fn(&Arena, &Path, Image) -> Result<Vec<Runs>>,
) -> Result<()> {
    let images = chosen(only)?;
    let arena = Arena::open(rounds, program)?;
    let mut text = String::new();
    for image in images {
        println!("making the image: {}", image.title());
        let layout: PathBuf = arena.path("layout");
        image.write(&layout)?;
        let runs = measure(&arena, &layout, image)?;
        text += &report(&format!("{what}: {}", image.title()), &runs, image.targets(targets));
        arena.clear()?;
    }
    print!("{text}");
    Ok(())
}

/// What is still to be written must not weigh on whoever comes first.
fn settle() -> Result<()> {
    Tool::new("sync").success().map(drop)
}

/// The bytes of all files in a directory.
fn length(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory).context(directory.display())? {
        let metadata = entry.and_then(|entry| entry.metadata()).context(directory.display())?;
        sum += metadata.len();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_moved_on_request_only() {
        assert_eq!(chosen(None).unwrap().len(), SHAPES.len());
        assert_eq!(chosen(Some("zeros")).unwrap()[0].name(), ZEROS_NAME);
        assert_eq!(chosen(Some("5 layers")).unwrap().len(), 1);
        assert!(chosen(Some("1000")).unwrap_err().to_string().contains("zeros"));
    }
}
