//! What the options for platforms select.

use wharf_content::{Error, Result};
use wharf_images::Selection;
use wharf_remotes::Portion;

use crate::args::{OnePlatformArgs, PlatformArgs};

impl PlatformArgs {
    /// The platforms that were asked for; `None` where there was nothing asked.
    ///
    /// # Errors
    /// `InvalidArgument` for a specifier that cannot be read.
    pub(crate) fn selection(&self) -> Result<Option<Selection>> {
        if self.all_platforms || self.platforms.iter().any(|platform| platform == "all") {
            return Ok(Some(Selection::all()));
        }
        if self.platforms.is_empty() {
            return Ok(None);
        }
        let platforms = self.platforms.iter().map(|platform| match platform.as_str() {
            "local" => Ok(wharf_platforms::default_spec()),
            specifier => Ok(wharf_platforms::parse(specifier)?),
        });
        let platforms: Vec<_> = platforms.collect::<Result<_>>()?;
        Ok(Some(Selection::best(&platforms)))
    }

    /// The one platform that was asked for, by a command that does something with one; `None` where there was nothing asked.
    ///
    /// # Errors
    /// `InvalidArgument` for several, and for a specifier that cannot be read.
    pub(crate) fn single(&self) -> Result<Option<Selection>> {
        if self.are_many() {
            return Err(Error::invalid_argument(
                "this is done with one platform: give one --platform, or none for that of this machine",
            ));
        }
        self.selection()
    }

    /// What of an image is pushed or copied: all, unless platforms were asked for.
    ///
    /// # Errors
    /// `InvalidArgument` for a specifier that cannot be read.
    pub(crate) fn portion(&self) -> Result<Portion> {
        Ok(match self.selection()? {
            None => Portion::Whole,
            Some(selection) if selection.is_all() => Portion::Whole,
            Some(selection) if self.is_one() => Portion::Best(selection),
            Some(selection) => Portion::Sparse(selection),
        })
    }
}

impl OnePlatformArgs {
    /// As [`PlatformArgs::single`].
    ///
    /// # Errors
    /// `InvalidArgument` for several, and for a specifier that cannot be read.
    pub(crate) fn single(&self) -> Result<Option<Selection>> {
        PlatformArgs { platforms: self.platforms.clone(), all_platforms: self.all_platforms }.single()
    }
}
