//! Where the program looks for plugins that are executables.
//!
//! What the user names has to be there and to work. What lies in a default directory and cannot be used is left out with a warning, so
//! that a file of somebody else's never stops a command that has nothing to do with it.

use std::{
    env,
    path::{Path, PathBuf},
};

use wharf_content::{ErrorKind, Result};
use wharf_images::external::{PluginOptions, Plugins};

use crate::{args::Global, exit::made_outside, output::escape};

/// The directories of the system, after the user's own: what the administrator and what packages install.
const SYSTEM: [&str; 2] = ["/etc/wharf/plugins", "/usr/lib/wharf/plugins"];

/// Reads the plugins of the directories that the user names, else of the default ones.
///
/// # Errors
/// Of a directory that the user names: `NotFound`, `PermissionDenied`, and that of the first plugin in it that cannot be loaded.
pub(crate) fn load(global: &Global) -> Result<Plugins> {
    let mut plugins = Plugins::new(PluginOptions::default());
    match &global.plugin_dirs {
        Some(named) => {
            for directory in named.iter().filter(|directory| !directory.is_empty()) {
                if let Some(problem) =
                    plugins.load(Path::new(directory)).map_err(made_outside)?.into_iter().next()
                {
                    return Err(problem);
                }
            }
        }
        None => {
            for directory in defaults(|name| env::var_os(name).map(PathBuf::from)) {
                look_into(&directory, &mut plugins);
            }
        }
    }
    Ok(plugins)
}

fn look_into(directory: &Path, plugins: &mut Plugins) {
    match plugins.load(directory) {
        Ok(problems) => {
            for problem in problems {
                tracing::warn!("{}", escape(&problem.report()));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("{}", escape(&error.report())),
    }
}

/// The default directories; the first one that has a plugin of some name wins.
fn defaults(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let user = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let user = user.map(|directory| directory.join("wharf/plugins"));
    user.into_iter().chain(SYSTEM.map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_s_directory_comes_first() {
        let shown = |pairs: &[(&str, &str)]| {
            let found = defaults(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            });
            found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        let system = "/etc/wharf/plugins /usr/lib/wharf/plugins";
        assert_eq!(shown(&[]), system);
        assert_eq!(shown(&[("HOME", "/h")]), format!("/h/.config/wharf/plugins {system}"));
        assert_eq!(shown(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]), format!("/x/wharf/plugins {system}"));
        // The specification wants relative paths to be ignored.
        assert_eq!(
            shown(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "x")]),
            format!("/h/.config/wharf/plugins {system}")
        );
    }
}
