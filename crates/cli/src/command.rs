//! The commands, one module each.

#[cfg(target_os = "linux")]
pub(crate) mod bundle;
pub(crate) mod completion;
pub(crate) mod content;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod digest;
pub(crate) mod export;
#[cfg(target_os = "linux")]
pub(crate) mod files;
pub(crate) mod gc;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod lease;
pub(crate) mod login;
pub(crate) mod logout;
#[cfg(target_os = "linux")]
pub(crate) mod mount;
pub(crate) mod platform;
pub(crate) mod plugins;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod raw;
pub(crate) mod referrers;
#[cfg(target_os = "linux")]
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod tags;
pub(crate) mod tree;
#[cfg(target_os = "linux")]
pub(crate) mod unpack;
#[cfg(target_os = "linux")]
pub(crate) mod unpacking;
pub(crate) mod verify;
pub(crate) mod version;

use wharf_content::Result;

use crate::{args::Command, context::Context, exit::Platforms};

impl Command {
    /// Whether the command takes a signal for the order to finish, and is not simply dropped.
    pub(crate) fn ends_when_signalled(&self) -> bool {
        #[cfg(target_os = "linux")]
        if matches!(self, Self::Run(_)) {
            return true;
        }
        matches!(self, Self::Serve(_))
    }

    /// With how many platforms of an image at once the command does something, if it is told to.
    pub(crate) fn platforms(&self) -> Platforms {
        match self {
            Self::Pull(_) | Self::Push(_) | Self::Copy(_) | Self::Export(_) | Self::Import(_) => {
                Platforms::Several
            }
            Self::Images(_) | Self::Inspect(_) => Platforms::Several,
            _ => Platforms::One,
        }
    }

    /// What remains of the command when it is interrupted.
    pub(crate) fn remains(&self) -> Remains {
        match self {
            Self::Pull(_) | Self::Import(_) | Self::Content(content::Content::Ingest(_)) => Remains::Kept,
            Self::Push(_) => Remains::Sent,
            Self::Copy(copy) => copy.remains(),
            Self::Verify(verify) => verify.remains(),
            Self::Export(_) => Remains::Nothing,
            #[cfg(target_os = "linux")]
            Self::Unpack(unpack) => unpack.remains(),
            #[cfg(target_os = "linux")]
            Self::Mount(_) => Remains::Kept,
            #[cfg(target_os = "linux")]
            Self::Bundle(_) => Remains::Nothing,
            _ => Remains::Untold,
        }
    }
}

/// What is there of a command that was interrupted, for the one that is run after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// What came into the store.
    Kept,
    /// What has arrived elsewhere.
    Sent,
    /// Nothing that would be of use.
    Nothing,
    /// The command moves nothing that there would be something to be said of.
    Untold,
}

impl Remains {
    pub(crate) fn told(self) -> &'static str {
        match self {
            Self::Kept => "interrupted; what was moved is kept, and the same command goes on there",
            Self::Sent => "interrupted; what was sent stays there, and the same command sends the rest",
            Self::Nothing => "interrupted; nothing was finished, and the same command begins anew",
            Self::Untold => "interrupted",
        }
    }
}

/// Runs one command to its end.
pub(crate) async fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Pull(command) => command.run(context).await,
        Command::Push(command) => command.run(context).await,
        Command::Copy(command) => command.run(context).await,
        Command::Delete(command) => command.run(context).await,
        Command::Images(command) => command.run(context).await,
        Command::Ls(command) => command.run(context).await,
        Command::Rm(command) => command.run(context).await,
        Command::Tag(command) => command.run(context).await,
        Command::Inspect(command) => command.run(context).await,
        Command::Tree(command) => command.run(context).await,
        Command::Manifest(command) => command.run(context).await,
        Command::Config(command) => command.run(context).await,
        Command::Digest(command) => command.run(context).await,
        Command::Tags(command) => command.run(context).await,
        Command::Referrers(command) => command.run(context).await,
        Command::Login(command) => command.run(context).await,
        Command::Logout(command) => command.run(context).await,
        Command::Export(command) => command.run(context).await,
        Command::Import(command) => command.run(context).await,
        #[cfg(target_os = "linux")]
        Command::Unpack(command) => Box::pin(command.run(context)).await,
        #[cfg(target_os = "linux")]
        Command::Mount(command) => Box::pin(command.run(context)).await,
        #[cfg(target_os = "linux")]
        Command::Unmount(command) => command.run(context).await,
        #[cfg(target_os = "linux")]
        Command::Bundle(command) => Box::pin(command.run(context)).await,
        #[cfg(target_os = "linux")]
        Command::Run(command) => Box::pin(command.run(context)).await,
        #[cfg(target_os = "linux")]
        Command::LsFiles(command) => Box::pin(command.run(context)).await,
        #[cfg(target_os = "linux")]
        Command::Cat(command) => Box::pin(command.run(context)).await,
        Command::Content(command) => command.run(context).await,
        Command::Serve(command) => command.run(context).await,
        Command::Gc(command) => command.run(context).await,
        Command::Lease(command) => command.run(context).await,
        Command::Verify(command) => command.run(context).await,
        Command::Platform(command) => command.run(context).await,
        Command::Plugins(command) => command.run(context),
        Command::Completion(command) => command.run(),
        Command::Version(command) => command.run(context),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn what_remains_is_what_the_next_one_finds() {
        for (arguments, expected) in [
            (&["pull", "a"][..], Remains::Kept),
            (&["import", "a.tar"], Remains::Kept),
            (&["content", "ingest", "-"], Remains::Kept),
            (&["content", "ls"], Remains::Untold),
            (&["verify"], Remains::Untold),
            (&["verify", "--repair"], Remains::Kept),
            (&["push", "a"], Remains::Sent),
            (&["copy", "a", "b"], Remains::Kept),
            (&["copy", "a", "store:b"], Remains::Kept),
            (&["copy", "store:a", "store:b"], Remains::Kept),
            (&["copy", "store:a", "b"], Remains::Sent),
            (&["copy", "store:a", "oci:b"], Remains::Sent),
            (&["copy", "a", "docker-archive:b.tar"], Remains::Nothing),
            (&["export", "a"], Remains::Nothing),
            (&["gc"], Remains::Untold),
        ] {
            let cli = Cli::try_parse_from(["wharf"].iter().chain(arguments)).expect("parses");
            assert_eq!(cli.command.remains(), expected, "{arguments:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn layers_of_the_store_remain_and_a_directory_does_not() {
        for (arguments, expected) in [
            (&["unpack", "a"][..], Remains::Kept),
            (&["mount", "a", "b"], Remains::Kept),
            (&["unpack", "a", "b"], Remains::Nothing),
            (&["bundle", "a", "b"], Remains::Nothing),
        ] {
            let cli = Cli::try_parse_from(["wharf"].iter().chain(arguments)).expect("parses");
            assert_eq!(cli.command.remains(), expected, "{arguments:?}");
        }
    }
}
