//! `wharf platform`: how a specifier is read, what it accepts, and what of an image would be chosen for it.
//!
//! It explains what the other commands do with `--platform`; it changes nothing, and without `--match` it opens no store.

mod choice;

use clap::Args;
use serde::Serialize;
use wharf_content::{Error, Result, ResultExt};
use wharf_platforms::{Only, format_all};

use crate::{
    args::Format,
    context::Context,
    output::{self, escape},
    view::{PlaceArgs, View},
};
use choice::Choice;

/// How many accepted platforms are listed. No processor that exists accepts as many.
const MOST_LISTED: usize = 64;

/// Arguments of `platform`.
#[derive(Debug, Args)]
#[command(
    after_help = "A platform is written os/arch[/variant], or just one of os and arch, and the host has the other. Version and features \
stand behind the operating system: windows(10.0.20348+win32k)/amd64. `local` is this machine.\n\n\
What is accepted is listed best first. An image may also demand fewer features, and for Windows another version that runs there.\n\n\
--match looks in the store, and at the registry if the image is not there. The platform marked as chosen is the one that a pull takes; \
commands that read the store take the first that is in it. Where none fits, the exit code is 2.\n\n\
-q prints the canonical spelling; with --match the digest, with --among the platform that is chosen."
)]
pub(crate) struct Platform {
    /// Platforms to explain, several by commas [default: local]
    #[arg(value_name = "P", value_delimiter = ',')]
    specifiers: Vec<String>,
    /// Show in which order the platforms of this image would be chosen
    #[arg(long = "match", value_name = "REF")]
    image: Option<String>,
    /// Show in which order these platforms would be chosen, several by commas
    #[arg(long, value_name = "P", value_delimiter = ',', conflicts_with = "image")]
    among: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// What there is to say about one specifier.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reading {
    specifier: String,
    /// The canonical spelling of all that it says.
    canonical: String,
    platform: wharf_platforms::Platform,
    /// What it accepts, best first.
    accepts: Vec<String>,
    /// Whether it accepts more than is listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    accepts_more: bool,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matched: Option<Matched>,
    #[serde(skip)]
    matcher: Only,
}

/// What would be chosen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Matched {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    image: Option<Origin>,
    /// The platforms that match, best first, and then the others.
    choices: Vec<Choice>,
}

/// The image that the platforms are of.
#[derive(Clone, Debug, Serialize)]
struct Origin {
    image: String,
    digest: String,
    source: &'static str,
}

impl Platform {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.image.is_none() && self.place.is_given() {
            return Err(Error::invalid_argument(
                "--local and --remote say where to look for the image of --match, and there is none",
            ));
        }
        let local = ["local".to_owned()];
        let specifiers = if self.specifiers.is_empty() { &local[..] } else { &self.specifiers[..] };
        let mut readings: Vec<Reading> =
            specifiers.iter().map(|specifier| Reading::new(specifier)).collect::<Result<_>>()?;

        if let Some(typed) = &self.image {
            let view = context.view_at(typed, &self.place).await?;
            for reading in &mut readings {
                let choices = choice::of_image(&view, &reading.matcher, &context.catalogue)
                    .await
                    .context(|| format!("cannot tell the platforms of {typed}"))?;
                reading.matched = Some(Matched { image: Some(Origin::of(&view)), choices });
            }
        } else if !self.among.is_empty() {
            let offered = self.among.iter().map(|specifier| read(specifier)).collect::<Result<Vec<_>>>()?;
            for reading in &mut readings {
                let choices = choice::of_platforms(&offered, &reading.matcher);
                reading.matched = Some(Matched { image: None, choices });
            }
        }
        print(&readings, context)?;
        nothing_chosen(&readings)
    }
}

impl Reading {
    fn new(specifier: &str) -> Result<Self> {
        let matcher = wharf_platforms::only(&read(specifier)?);
        let platform = matcher.platform().clone();
        let mut accepted = matcher.platforms();
        let accepts = accepted.by_ref().take(MOST_LISTED).map(|platform| format_all(&platform)).collect();
        let accepts_more = accepted.next().is_some();
        drop(accepted);
        Ok(Self {
            specifier: specifier.to_owned(),
            canonical: format_all(&platform),
            platform,
            accepts,
            accepts_more,
            matched: None,
            matcher,
        })
    }

    fn chosen(&self) -> Option<&Choice> {
        self.matched.as_ref()?.choices.iter().find(|choice| choice.chosen)
    }
}

impl Origin {
    fn of(view: &View) -> Self {
        Self { image: view.name.clone(), digest: view.target.digest.to_string(), source: view.source() }
    }
}

/// Reads what `--platform` takes for one platform.
fn read(specifier: &str) -> Result<wharf_platforms::Platform> {
    match specifier {
        "local" => Ok(wharf_platforms::default_spec()),
        "all" => Err(Error::invalid_argument(
            "\"all\" is every platform and has no order; name platforms, as in \"linux/amd64\"",
        )),
        specifier => Ok(wharf_platforms::parse(specifier)?),
    }
}

fn print(readings: &[Reading], context: &Context) -> Result<()> {
    match context.global.format {
        Format::Json => output::json(&readings),
        Format::Text if context.global.quiet => {
            readings.iter().try_for_each(|reading| match (&reading.matched, reading.chosen()) {
                (None, _) => output::line(&escape(&reading.canonical)),
                (Some(_), Some(chosen)) => output::line(&escape(chosen.name())),
                (Some(_), None) => Ok(()),
            })
        }
        Format::Text => {
            let blocks: Vec<String> = readings.iter().map(text).collect();
            output::write(blocks.join("\n").as_bytes())
        }
    }
}

fn text(reading: &Reading) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{:<14} {}\n", format!("{key}:"), escape(value)));
        }
    };
    let wharf_platforms::Platform { os, architecture, variant, os_version, os_features } = &reading.platform;
    line("Specifier", &reading.specifier);
    line("Platform", &reading.canonical);
    line("OS", os);
    line("OS version", os_version.as_deref().unwrap_or_default());
    line("OS features", &os_features.join(", "));
    line("Architecture", architecture);
    line("Variant", variant.as_deref().unwrap_or_default());
    line("Accepts", &(reading.accepts.join(", ") + if reading.accepts_more { ", …" } else { "" }));
    let Some(matched) = &reading.matched else { return text };
    if let Some(Origin { image, digest, source }) = &matched.image {
        let digest = if image.contains('@') { String::new() } else { format!("@{digest}") };
        line("Image", &format!("{image}{digest} ({source})"));
    }
    text.push('\n');
    text.push_str(&choice::table(&matched.choices));
    text
}

/// That nothing fits is an answer, which has been printed, and a failure to scripts.
fn nothing_chosen(readings: &[Reading]) -> Result<()> {
    let lacking: Vec<&Reading> =
        readings.iter().filter(|reading| reading.matched.is_some() && reading.chosen().is_none()).collect();
    let Some(Matched { image, choices }) = lacking.first().and_then(|reading| reading.matched.as_ref())
    else {
        return Ok(());
    };
    let wanted: Vec<&str> = lacking.iter().map(|reading| reading.canonical.as_str()).collect();
    let there: Vec<&str> = choices.iter().filter_map(|choice| choice.platform.as_deref()).collect();
    let there = if there.is_empty() { "no platform at all".to_owned() } else { there.join(", ") };
    let of = image.as_ref().map(|origin| format!(" of {}", origin.image)).unwrap_or_default();
    Err(Error::not_found(format!("no platform{of} runs on {}; there is {there}", wanted.join(" or "))))
}
