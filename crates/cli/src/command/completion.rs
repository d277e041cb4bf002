//! `wharf completion`: a script by which a shell completes commands and flags.
//!
//! It is made of the same definitions as the help, so that it never says anything else. What is in a store is not completed.

use std::{env, path::Path};

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use wharf_content::Result;

use crate::{args::Cli, output};

/// Arguments of `completion`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the script; the shell has to read it.\n\nExamples:\n  source <(wharf completion bash)\n  \
wharf completion zsh > \"${fpath[1]}/_wharf\"\n  wharf completion fish > ~/.config/fish/completions/wharf.fish"
)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), program_name(), &mut script);
        output::write(&script)
    }
}

/// What the program was called as: one that was built with plugins may have a name of its own.
fn program_name() -> String {
    let called = env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "wharf".into())
}
