//! Cookbooks: what a third party adds to wharf without asking anybody.
//!
//! ```text
//! application/vnd.example.cookbook.manifest.v1+json      { "title", "language", "cover", "recipes", "about" }
//!    |                  |
//!  image/png          application/vnd.example.recipe.v1+json …
//! ```
//!
//! [`manifest`] and [`recipe`] decode the two types; [`tasting`] is a handler in every pull; [`wrapped`] takes a wrapping off layers of
//! ordinary images. All of them register themselves: whoever links this crate has them.

pub mod manifest;
pub mod recipe;
pub mod tasting;
pub mod wrapped;

pub use manifest::COOKBOOK;
pub use recipe::RECIPE;
pub use wrapped::WRAPPED;
