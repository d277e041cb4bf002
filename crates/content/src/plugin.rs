//! The catalogue: what is linked into a program or added by hand, found by extension point and key.
//!
//! This module has the machinery only. Each layer declares its own extension points beside the trait that they extend, with a
//! `register_…!` macro that adds the module's path, so that a plugin needs no dependency on `inventory`. Built-ins register in the
//! same way; there is no list of them here.
//!
//! ```
//! use std::sync::Arc;
//! use wharf_content::plugin::{Catalogue, Point, Registration};
//!
//! /// An extension point: things that greet, by language.
//! #[derive(Debug)]
//! struct Greeters;
//! trait Greeter: Send + Sync { fn greet(&self) -> String; }
//! impl Point for Greeters {
//!     const NAME: &'static str = "greeter";
//!     const KEY: &'static str = "language";
//!     type Item = dyn Greeter;
//! }
//!
//! struct German;
//! impl Greeter for German { fn greet(&self) -> String { "Moin".into() } }
//!
//! let catalogue = Catalogue::empty()
//!     .with(Registration::<Greeters>::new("german", &["de"], 0, module_path!(), || -> Arc<dyn Greeter> {
//!         Arc::new(German)
//!     }));
//! assert_eq!(catalogue.find::<Greeters>("de")?.expect("registered").greet(), "Moin");
//! # Ok::<(), wharf_content::Error>(())
//! ```

use std::{
    any::Any,
    borrow::Cow,
    fmt::{self, Debug},
    sync::{Arc, OnceLock},
};

#[doc(hidden)]
pub use inventory;

use crate::error::{Error, Result};

/// An extension point: a kind of thing that plugins make, and what its keys are.
pub trait Point: Debug + Send + Sync + 'static {
    /// The name of the point, in words.
    const NAME: &'static str;
    /// What a key is, in words: "media type", "scheme".
    const KEY: &'static str;
    /// The trait object that an entry makes.
    type Item: ?Sized + Send + Sync + 'static;
}

/// One entry of the catalogue.
pub struct Registration<P: Point> {
    facts: Facts,
    make: Make<P>,
}

#[derive(Clone, Debug)]
struct Facts {
    name: Cow<'static, str>,
    keys: Keys,
    priority: i32,
    module: Cow<'static, str>,
}

/// Keys that are known at compile time, or come from a file.
#[derive(Clone, Debug)]
enum Keys {
    Fixed(&'static [&'static str]),
    Owned(Arc<[String]>),
}

impl Keys {
    fn iter(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Fixed(keys) => Box::new(keys.iter().copied()),
            Self::Owned(keys) => Box::new(keys.iter().map(String::as_str)),
        }
    }
}

enum Make<P: Point> {
    New(fn() -> Arc<P::Item>),
    Shared(Arc<P::Item>),
}

impl<P: Point> Registration<P> {
    /// Makes an entry that can be a constant. A higher `priority` overrides a lower one for the same key; built-ins have 0.
    pub const fn new(
        name: &'static str,
        keys: &'static [&'static str],
        priority: i32,
        module: &'static str,
        make: fn() -> Arc<P::Item>,
    ) -> Self {
        let facts = Facts {
            name: Cow::Borrowed(name),
            keys: Keys::Fixed(keys),
            priority,
            module: Cow::Borrowed(module),
        };
        Self { facts, make: Make::New(make) }
    }

    /// Makes an entry at run time, around a thing that is there already.
    pub fn shared(
        name: impl Into<String>,
        keys: impl IntoIterator<Item = String>,
        priority: i32,
        module: impl Into<String>,
        item: Arc<P::Item>,
    ) -> Self {
        let facts = Facts {
            name: Cow::Owned(name.into()),
            keys: Keys::Owned(keys.into_iter().collect()),
            priority,
            module: Cow::Owned(module.into()),
        };
        Self { facts, make: Make::Shared(item) }
    }

    fn make(&self) -> Arc<P::Item> {
        match &self.make {
            Make::New(make) => make(),
            Make::Shared(item) => Arc::clone(item),
        }
    }
}

impl<P: Point> Debug for Registration<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("point", &P::NAME)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// A registration whose extension point is not known at compile time.
trait AnyRegistration: Debug + Send + Sync {
    fn point(&self) -> &'static str;
    fn key_is(&self) -> &'static str;
    fn facts(&self) -> &Facts;
    fn as_any(&self) -> &dyn Any;
}

impl<P: Point> AnyRegistration for Registration<P> {
    fn point(&self) -> &'static str {
        P::NAME
    }
    fn key_is(&self) -> &'static str {
        P::KEY
    }
    fn facts(&self) -> &Facts {
        &self.facts
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What the `register_…!` macros submit. Not for direct use.
#[doc(hidden)]
#[derive(Debug)]
pub struct Linked(&'static dyn AnyRegistration);

impl Linked {
    /// Wraps a registration of any point.
    pub const fn new<P: Point>(registration: &'static Registration<P>) -> Self {
        Self(registration)
    }
}

inventory::collect!(Linked);

/// Submits a registration to [`Catalogue::linked`]; `make` is an expression that is evaluated for each use. The layers'
/// `register_…!` macros call it.
#[doc(hidden)]
#[macro_export]
macro_rules! __register {
    ($point:ty, name: $name:expr, keys: [$($key:expr),* $(,)?], priority: $priority:expr, make: $make:expr $(,)?) => {
        const _: () = {
            static ENTRY: $crate::plugin::Registration<$point> =
                $crate::plugin::Registration::new($name, &[$($key),*], $priority, module_path!(), make);
            fn make() -> ::std::sync::Arc<<$point as $crate::plugin::Point>::Item> {
                ::std::sync::Arc::new($make)
            }
            $crate::plugin::inventory::submit! { $crate::plugin::Linked::new(&ENTRY) }
        };
    };
    ($point:ty, name: $name:expr, keys: [$($key:expr),* $(,)?], make: $make:expr $(,)?) => {
        $crate::__register! { $point, name: $name, keys: [$($key),*], priority: 0, make: $make }
    };
}

#[derive(Clone, Debug)]
enum Held {
    Linked(&'static dyn AnyRegistration),
    Added(Arc<dyn AnyRegistration>),
}

impl Held {
    fn registration(&self) -> &dyn AnyRegistration {
        match self {
            Self::Linked(registration) => *registration,
            Self::Added(registration) => registration.as_ref(),
        }
    }
}

/// One entry as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// The extension point.
    pub point: String,
    /// The entry's name, unique within its point.
    pub name: String,
    /// What a key of this point is.
    pub key_is: String,
    /// The keys, in the order of registration.
    pub keys: Vec<String>,
    /// The priority; the highest wins a key.
    pub priority: i32,
    /// The path of the module that registered it, or of the file that it was read from.
    pub module: String,
}

/// A set of registrations. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    entries: Arc<Vec<Held>>,
}

impl Catalogue {
    /// Everything that is linked into the program.
    ///
    /// A crate that is named only in Cargo.toml is not linked; `use my_plugin as _;` links it. Static libraries, WebAssembly and
    /// libraries loaded at run time may collect nothing: build a catalogue by hand there.
    pub fn linked() -> &'static Self {
        static LINKED: OnceLock<Catalogue> = OnceLock::new();
        LINKED.get_or_init(|| {
            let mut entries: Vec<Held> =
                inventory::iter::<Linked>.into_iter().map(|linked| Held::Linked(linked.0)).collect();
            entries.sort_by(|a, b| order(a.registration()).cmp(&order(b.registration())));
            Self { entries: Arc::new(entries) }
        })
    }

    /// A catalogue with nothing in it, not even built-ins.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds an entry.
    #[must_use]
    pub fn with<P: Point>(mut self, registration: Registration<P>) -> Self {
        Arc::make_mut(&mut self.entries).push(Held::Added(Arc::new(registration)));
        self
    }

    /// Leaves out the entry of this name.
    #[must_use]
    pub fn without<P: Point>(mut self, name: &str) -> Self {
        Arc::make_mut(&mut self.entries).retain(|held| {
            let registration = held.registration();
            registration.point() != P::NAME || registration.facts().name != name
        });
        self
    }

    /// Makes the thing registered for `key`, or gives `None` where there is none.
    ///
    /// # Errors
    /// `Conflict` names the modules when several entries of the highest priority claim the key.
    pub fn find<P: Point>(&self, key: &str) -> Result<Option<Arc<P::Item>>> {
        let mut best: Vec<&Registration<P>> = Vec::new();
        for registration in
            self.of::<P>().filter(|registration| registration.facts.keys.iter().any(|k| k == key))
        {
            let top = best.first().map_or(i32::MIN, |first| first.facts.priority);
            if registration.facts.priority > top {
                best.clear();
            }
            if registration.facts.priority >= top {
                best.push(registration);
            }
        }
        match best[..] {
            [] => Ok(None),
            [one] => Ok(Some(one.make())),
            _ => {
                best.sort_by(|a, b| (&a.facts.module, &a.facts.name).cmp(&(&b.facts.module, &b.facts.name)));
                let claims: Vec<String> =
                    best.iter().map(|one| format!("{} ({})", one.facts.name, one.facts.module)).collect();
                Err(Error::conflict(format!(
                    "the {} {key:?} is registered more than once as a {} with priority {}: {}; \
                     raise the priority of the one to use or leave the others out",
                    P::KEY,
                    P::NAME,
                    best[0].facts.priority,
                    claims.join(", ")
                )))
            }
        }
    }

    /// Makes everything of a point with its name, sorted by key, priority (highest first) and name.
    pub fn every<P: Point>(&self) -> Vec<(String, Arc<P::Item>)> {
        let mut found: Vec<_> = self.of::<P>().collect();
        found.sort_by(|a, b| order(*a).cmp(&order(*b)));
        found
            .into_iter()
            .map(|registration| (registration.facts.name.to_string(), registration.make()))
            .collect()
    }

    /// All keys of a point, sorted, each once.
    pub fn keys<P: Point>(&self) -> Vec<String> {
        let mut keys: Vec<String> = self
            .of::<P>()
            .flat_map(|registration| registration.facts.keys.iter().map(str::to_owned))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Describes every entry, sorted by point, key, priority (highest first) and name.
    pub fn entries(&self) -> Vec<Entry> {
        let mut held: Vec<&dyn AnyRegistration> = self.entries.iter().map(Held::registration).collect();
        held.sort_by(|a, b| order(*a).cmp(&order(*b)));
        held.into_iter()
            .map(|registration| {
                let facts = registration.facts();
                Entry {
                    point: registration.point().to_owned(),
                    name: facts.name.to_string(),
                    key_is: registration.key_is().to_owned(),
                    keys: facts.keys.iter().map(str::to_owned).collect(),
                    priority: facts.priority,
                    module: facts.module.to_string(),
                }
            })
            .collect()
    }

    fn of<P: Point>(&self) -> impl Iterator<Item = &Registration<P>> {
        self.entries.iter().filter_map(|held| held.registration().as_any().downcast_ref())
    }
}

/// Sorting makes what is linked independent of the order in which the linker laid it out.
fn order(registration: &dyn AnyRegistration) -> impl Ord + '_ {
    let facts = registration.facts();
    let first_key = facts.keys.iter().min().unwrap_or("").to_owned();
    (
        registration.point(),
        first_key,
        std::cmp::Reverse(facts.priority),
        facts.name.clone(),
        facts.module.clone(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[derive(Debug)]
    struct Colours;
    trait Colour: Send + Sync {
        fn name(&self) -> &'static str;
    }
    impl Point for Colours {
        const NAME: &'static str = "colour";
        const KEY: &'static str = "code";
        type Item = dyn Colour;
    }
    struct Is(&'static str);
    impl Colour for Is {
        fn name(&self) -> &'static str {
            self.0
        }
    }

    crate::__register! { Colours, name: "red", keys: ["r", "red"], make: Is("red") }
    crate::__register! { Colours, name: "rust", keys: ["r"], priority: 5, make: Is("rust") }

    fn entry(name: &'static str, keys: &'static [&'static str], priority: i32) -> Registration<Colours> {
        Registration::shared(
            name,
            keys.iter().map(|key| (*key).to_owned()),
            priority,
            format!("module::{name}"),
            Arc::new(Is(name)) as Arc<dyn Colour>,
        )
    }

    #[test]
    fn linked_entries_are_found_and_the_higher_priority_wins() {
        let catalogue = Catalogue::linked();
        let find =
            |key: &str| catalogue.find::<Colours>(key).expect("no conflict").map(|colour| colour.name());
        assert_eq!(find("red"), Some("red"));
        assert_eq!(find("r"), Some("rust"));
        assert_eq!(find("blue"), None);
        let without = catalogue.clone().without::<Colours>("rust");
        assert_eq!(
            without.find::<Colours>("r").expect("no conflict").map(|colour| colour.name()),
            Some("red")
        );
    }

    #[test]
    fn equal_priorities_conflict_and_name_both_modules() {
        let catalogue = Catalogue::empty().with(entry("a", &["k"], 1)).with(entry("b", &["k", "other"], 1));
        let error = catalogue.find::<Colours>("k").err().expect("conflict");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(
            error.to_string().contains("module::a") && error.to_string().contains("module::b"),
            "{error}"
        );
        assert!(catalogue.find::<Colours>("other").is_ok());
        assert!(catalogue.with(entry("c", &["k"], 2)).find::<Colours>("k").is_ok());
    }

    #[test]
    fn order_is_key_priority_name_whatever_the_order_of_adding() {
        let names = |catalogue: &Catalogue| {
            catalogue.entries().into_iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        let one = Catalogue::empty()
            .with(entry("z", &["a"], 0))
            .with(entry("y", &["b"], 0))
            .with(entry("x", &["b"], 9))
            .with(entry("w", &["b"], 0));
        let other = Catalogue::empty()
            .with(entry("w", &["b"], 0))
            .with(entry("x", &["b"], 9))
            .with(entry("y", &["b"], 0))
            .with(entry("z", &["a"], 0));
        assert_eq!(names(&one), ["z", "x", "w", "y"]);
        assert_eq!(names(&one), names(&other));
        assert_eq!(one.keys::<Colours>(), ["a", "b"]);
        assert_eq!(one.every::<Colours>().len(), 4);
    }
}
