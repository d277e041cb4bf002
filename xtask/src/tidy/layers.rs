//! Which crate of the workspace may use which: the house's walls. Dev-dependencies keep to them too, or a test
//! would pass that no user of the lower crate can write.

use cargo_metadata::{DependencyKind, Metadata};

use crate::cargo::{self, Workspace};
use crate::failure::Result;

/// What each crate may use of the workspace.
const ALLOWED: &[(&str, &[&str])] = &[
    ("wharf-platforms", &[]),
    ("wharf-content", &["wharf-platforms"]),
    ("wharf-images", &["wharf-content", "wharf-platforms"]),
    ("wharf-remotes", &["wharf-images", "wharf-content", "wharf-platforms"]),
    ("wharf-archive", &["wharf-images", "wharf-content", "wharf-platforms"]),
    ("wharf", &["wharf-remotes", "wharf-archive", "wharf-images", "wharf-content", "wharf-platforms"]),
    ("xtask", &[]),
];

/// What may be used besides, but only by tests. The program stands above all crates, so that the fixtures that its
/// tests share with those of the workspace go round no wall.
const DEV_ALLOWED: &[(&str, &str)] = &[("wharf", "wharf-tests")];

/// Use of one member of the workspace by another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
    dev: bool,
}

/// A member: its name, and its directory relative to the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    directory: String,
}

pub(super) fn rule(_: &Workspace) -> Result<Vec<String>> {
    let metadata = cargo::metadata()?;
    let (members, edges) = gather(&metadata);
    let mut complaints = check_edges(&edges);
    complaints.extend(check_members(&members));
    Ok(complaints)
}

fn gather(metadata: &Metadata) -> (Vec<Member>, Vec<Edge>) {
    let packages = metadata.workspace_packages();
    let members = packages.iter().map(|package| {
        let directory = package.manifest_path.parent().unwrap_or(&package.manifest_path);
        let directory = directory.strip_prefix(&metadata.workspace_root).unwrap_or(directory);
        Member { name: package.name.to_string(), directory: directory.to_string() }
    });
    let edges = packages.iter().flat_map(|package| {
        let inner = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
        inner.map(|dependency| Edge {
            from: package.name.to_string(),
            to: dependency.name.clone(),
            dev: dependency.kind == DependencyKind::Development,
        })
    });
    (members.collect(), edges.collect())
}

/// Complains of every use that is not allowed. What lives under `tests` may use everything, and nothing uses it.
fn check_edges(edges: &[Edge]) -> Vec<String> {
    let allowed = |name: &str| ALLOWED.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
    let mut complaints = Vec::new();
    for Edge { from, to, dev } in edges {
        // A crate may name itself to switch on a feature for its own tests.
        if from == to || (*dev && DEV_ALLOWED.contains(&(from.as_str(), to.as_str()))) {
            continue;
        }
        if let Some(may) = allowed(from)
            && !may.contains(&to.as_str())
        {
            complaints.push(format!("{from} must not depend on {to}"));
        }
    }
    complaints
}

/// Complains of a crate that is not part of the design, and of one that is gone.
fn check_members(members: &[Member]) -> Vec<String> {
    let mut complaints = Vec::new();
    for Member { name, directory } in members {
        let known = ALLOWED.iter().any(|(from, _)| from == name);
        if !known && directory != "tests" && !directory.starts_with("tests/") {
            complaints.push(format!("{directory}: {name} is not a crate of the design"));
        }
    }
    for (name, _) in ALLOWED {
        if !members.iter().any(|member| member.name == *name) {
            complaints.push(format!("{name} is not a member of the workspace"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(all: &[(&str, &str)]) -> Vec<Edge> {
        all.iter()
            .map(|(from, to)| Edge { from: (*from).to_owned(), to: (*to).to_owned(), dev: false })
            .collect()
    }

    fn members() -> Vec<Member> {
        let member =
            |name: &str, directory: &str| Member { name: name.to_owned(), directory: directory.to_owned() };
        let mut members: Vec<_> = ALLOWED.iter().map(|(name, _)| member(name, "crates/x")).collect();
        members.push(member("wharf-tests", "tests"));
        members.push(member("a-plugin", "tests/plugins/a"));
        members
    }

    #[test]
    fn what_the_design_allows_passes() {
        let all = edges(&[
            ("wharf-content", "wharf-platforms"),
            ("wharf-images", "wharf-content"),
            ("wharf-archive", "wharf-archive"),
            ("wharf", "wharf-remotes"),
            ("wharf-tests", "wharf"),
            ("a-plugin", "wharf-images"),
        ]);
        assert_eq!(check_edges(&all), [""; 0]);
        assert_eq!(check_members(&members()), [""; 0]);
    }

    #[test]
    fn every_wall_holds() {
        for (from, to) in [
            ("wharf-platforms", "wharf-content"),
            ("wharf-content", "wharf-images"),
            ("wharf-images", "wharf-remotes"),
            ("wharf-remotes", "wharf-archive"),
            ("wharf-archive", "wharf-remotes"),
            ("wharf-archive", "wharf"),
            ("wharf", "wharf-tests"),
            ("xtask", "wharf"),
        ] {
            assert_eq!(check_edges(&edges(&[(from, to)])), [format!("{from} must not depend on {to}")]);
        }
    }

    #[test]
    fn tests_keep_to_the_walls_too() {
        let dev = |from: &str, to: &str| [Edge { from: from.to_owned(), to: to.to_owned(), dev: true }];
        assert_eq!(check_edges(&dev("wharf", "wharf-tests")), [""; 0]);
        for (from, to) in [("wharf-remotes", "wharf-archive"), ("wharf-archive", "wharf-tests")] {
            assert_eq!(check_edges(&dev(from, to)), [format!("{from} must not depend on {to}")]);
        }
    }

    #[test]
    fn there_is_no_seventh_crate_and_none_is_missing() {
        let mut more = members();
        more.push(Member { name: "wharf-extras".to_owned(), directory: "crates/extras".to_owned() });
        assert_eq!(check_members(&more), ["crates/extras: wharf-extras is not a crate of the design"]);
        assert_eq!(check_members(&members()[1..]), ["wharf-platforms is not a member of the workspace"]);
    }

    #[test]
    fn the_data_is_really_gathered() {
        let (members, edges) = gather(&cargo::metadata().unwrap());
        assert!(members.iter().any(|member| member.name == "wharf" && member.directory == "crates/cli"));
        let edge = Edge { from: "wharf-content".to_owned(), to: "wharf-platforms".to_owned(), dev: false };
        assert!(edges.contains(&edge), "{edges:?}");
    }
}
