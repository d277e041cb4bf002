//! Licences of everything the workspace and the fuzz targets resolve to, against the list in deny.toml: the same
//! list that cargo-deny reads, checked where cargo-deny is not installed. The SPDX reader knows AND, OR, WITH,
//! parentheses and the old `/` for OR.

use std::collections::BTreeSet;
use std::fs;

use cargo_metadata::Metadata;

use crate::cargo::{self, Workspace};
use crate::failure::{Context, Result};

/// A crate and what it says of its licence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Licensed {
    name: String,
    license: Option<String>,
}

pub(super) fn rule(workspace: &Workspace) -> Result<Vec<String>> {
    let file = workspace.root.join("deny.toml");
    let text = fs::read_to_string(&file).context(file.display())?;
    let allowed = allow_list(&text).context("deny.toml has no list `allow` under [licenses]")?;
    let mut packages = gather(&cargo::metadata()?);
    packages.extend(gather(&cargo::fuzz_metadata(workspace)?));
    packages.sort();
    packages.dedup();
    Ok(check(&packages, &allowed))
}

fn gather(metadata: &Metadata) -> Vec<Licensed> {
    let licensed = metadata.packages.iter().map(|package| Licensed {
        name: format!("{} {}", package.name, package.version),
        license: package.license.clone(),
    });
    licensed.collect()
}

/// The strings of `allow = [ … ]` in the section `[licenses]`, comments left out.
fn allow_list(text: &str) -> Option<Vec<String>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut section =
        lines.skip_while(|line| *line != "[licenses]").skip(1).take_while(|line| !line.starts_with('['));
    let first = section.find(|line| line.replace(' ', "").starts_with("allow=["))?;
    let mut list = first.split_once('[')?.1.to_owned();
    while !list.contains(']') {
        list.push_str(section.next()?);
    }
    let inner = list.split(']').next()?;
    Some(
        inner
            .split(',')
            .map(|name| name.trim().trim_matches('"').to_owned())
            .filter(|name| !name.is_empty())
            .collect(),
    )
}

/// Complains of a crate without an allowed licence, and of an entry of the list that nothing needs.
fn check(packages: &[Licensed], allowed: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut named = BTreeSet::new();
    for Licensed { name, license } in packages {
        let Some(license) = license else {
            complaints.push(format!("{name} does not name its licence"));
            continue;
        };
        let tokens = tokens(license);
        named.extend(tokens.iter().cloned());
        let reader = Reader { tokens: &tokens, at: 0, allowed };
        match reader.read() {
            Some(true) => {}
            Some(false) => complaints.push(format!("{name}: {license} is not allowed by deny.toml")),
            None => complaints.push(format!("{name}: {license} is not a licence expression")),
        }
    }
    let unused = allowed.iter().filter(|entry| tokens(entry).iter().any(|token| !named.contains(token)));
    complaints.extend(unused.map(|entry| format!("deny.toml allows {entry}, which no crate has")));
    complaints
}

fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// Reads an expression and says whether what is allowed satisfies it.
#[derive(Debug)]
struct Reader<'a> {
    tokens: &'a [String],
    at: usize,
    allowed: &'a [String],
}

impl Reader<'_> {
    fn read(mut self) -> Option<bool> {
        let value = self.either()?;
        (self.at == self.tokens.len()).then_some(value)
    }

    fn either(&mut self) -> Option<bool> {
        let mut value = self.both()?;
        while self.take("OR") {
            value |= self.both()?;
        }
        Some(value)
    }

    fn both(&mut self) -> Option<bool> {
        let mut value = self.one()?;
        while self.take("AND") {
            value &= self.one()?;
        }
        Some(value)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let value = self.either()?;
            return self.take(")").then_some(value);
        }
        let mut name = self.name()?;
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.name()?);
        }
        Some(self.allowed.contains(&name))
    }

    fn name(&mut self) -> Option<String> {
        let token = self.tokens.get(self.at)?;
        if ["OR", "AND", "WITH", "(", ")"].contains(&token.as_str()) {
            return None;
        }
        self.at += 1;
        Some(token.clone())
    }

    fn take(&mut self, wanted: &str) -> bool {
        let taken = self.tokens.get(self.at).is_some_and(|token| token == wanted);
        self.at += usize::from(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn satisfied(expression: &str) -> Option<bool> {
        let allowed = owned(&["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
        Reader { tokens: &tokens(expression), at: 0, allowed: &allowed }.read()
    }

    #[test]
    fn expressions_are_weighed() {
        for good in [
            "MIT",
            "Apache-2.0 OR MIT",
            "MIT/Apache-2.0",
            "MIT AND ISC",
            "GPL-3.0 AND Zlib OR MIT",
            "(GPL-3.0 OR MIT) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(satisfied(good), Some(true), "{good}");
        }
        for bad in ["Apache-2.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "MIT WITH LLVM-exception"] {
            assert_eq!(satisfied(bad), Some(false), "{bad}");
        }
        for broken in ["", "MIT OR", "(MIT", "MIT ISC", "OR MIT", "MIT)"] {
            assert_eq!(satisfied(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_list_is_read() {
        let text = "[bans]\nallow = [\"no\"]\n[licenses]\n# why\nallow = [\n  \"MIT\", # because\n  \"ISC\",\n]\n[x]\n";
        assert_eq!(allow_list(text), Some(owned(&["MIT", "ISC"])));
        assert_eq!(allow_list("[licenses]\nallow = [\"MIT\"]"), Some(owned(&["MIT"])));
        assert_eq!(allow_list("[licenses]\n[x]\nallow = [\"MIT\"]"), None);
    }

    #[test]
    fn crates_and_list_must_fit() {
        let licensed = |license: Option<&str>| {
            [Licensed { name: "a 1".to_owned(), license: license.map(str::to_owned) }]
        };
        assert_eq!(check(&licensed(Some("MIT OR GPL-3.0")), &owned(&["MIT"])), [""; 0]);
        assert_eq!(
            check(&licensed(Some("GPL-3.0")), &owned(&["MIT"])),
            ["a 1: GPL-3.0 is not allowed by deny.toml", "deny.toml allows MIT, which no crate has"]
        );
        assert_eq!(check(&licensed(None), &[]), ["a 1 does not name its licence"]);
        assert_eq!(
            check(&licensed(Some("MIT OR")), &owned(&["MIT"])),
            ["a 1: MIT OR is not a licence expression"]
        );
    }

    #[test]
    fn the_licences_are_really_gathered() {
        let all = gather(&cargo::metadata().unwrap());
        assert!(all.iter().any(|one| one.name.starts_with("serde ") && one.license.is_some()));
    }
}
