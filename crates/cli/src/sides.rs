//! Registry options of one side of a copy: `--src-…` and `--dest-…`, which go before the options that are for both.
//!
//! A flag that is added to [`RegistryArgs`] and may differ between the sides gets a line in the macro below and one in `over`.

use std::path::PathBuf;

use clap::Args;

use crate::args::{self, Creds, RegistryArgs};

macro_rules! side {
    ($(#[$doc:meta])* $side:ident, $prefix:literal, $heading:literal) => {
        $(#[$doc])*
        #[derive(Debug, Default, Args)]
        #[command(next_help_heading = $heading)]
        pub(crate) struct $side {
            /// As --plain-http, for this side only
            #[arg(id = concat!($prefix, "_plain_http"), long = concat!($prefix, "-plain-http"),
                  conflicts_with = concat!($prefix, "_tls_verify"))]
            plain_http: bool,
            /// As --tls-verify, for this side only
            #[arg(id = concat!($prefix, "_tls_verify"), long = concat!($prefix, "-tls-verify"), value_name = "BOOL",
                  num_args = 0..=1, require_equals = true, default_missing_value = "true")]
            tls_verify: Option<bool>,
            /// As --ca-file, for this side only and beside those of both
            #[arg(id = concat!($prefix, "_ca_file"), long = concat!($prefix, "-ca-file"), value_name = "FILE")]
            ca_file: Vec<PathBuf>,
            /// As --cert-file, for this side only
            #[arg(id = concat!($prefix, "_cert_file"), long = concat!($prefix, "-cert-file"), value_name = "FILE")]
            cert_file: Option<PathBuf>,
            /// As --key-file, for this side only
            #[arg(id = concat!($prefix, "_key_file"), long = concat!($prefix, "-key-file"), value_name = "FILE",
                  requires = concat!($prefix, "_cert_file"))]
            key_file: Option<PathBuf>,
            /// As --creds, for this side only
            #[arg(id = concat!($prefix, "_creds"), long = concat!($prefix, "-creds"), value_name = "USER[:PASS]",
                  value_parser = args::creds, group = args::USERS)]
            creds: Option<Creds>,
            /// As --authfile, for this side only
            #[arg(id = concat!($prefix, "_authfile"), long = concat!($prefix, "-authfile"), value_name = "FILE")]
            authfile: Option<PathBuf>,
        }

        impl $side {
            /// Whether this side has a password of its own.
            pub(crate) fn has_password(&self) -> bool {
                self.creds.as_ref().is_some_and(|creds| creds.password.is_some())
            }

            /// The options of this side, where there are none of its own those of both.
            fn over(&self, both: &RegistryArgs) -> RegistryArgs {
                let mut args = both.clone();
                if self.plain_http || self.tls_verify.is_some() {
                    args.plain_http = self.plain_http;
                    args.tls_verify = self.tls_verify;
                    args.insecure_skip_verify = false;
                }
                args.ca_file.extend(self.ca_file.iter().cloned());
                if self.cert_file.is_some() {
                    (args.cert_file, args.key_file) = (self.cert_file.clone(), self.key_file.clone());
                }
                if let Some(creds) = &self.creds {
                    args.creds = Some(Creds { flag: concat!("--", $prefix, "-creds"), ..creds.clone() });
                }
                if self.authfile.is_some() {
                    args.authfile = self.authfile.clone();
                }
                args
            }
        }
    };
}

side! {
    /// Options of where an image is copied from.
    SourceArgs, "src", "Registry options of the source"
}
side! {
    /// Options of where an image is copied to.
    DestinationArgs, "dest", "Registry options of the destination"
}

/// The options of the source and of the destination. A password on standard input is for each user who has none, and of somebody it has to be.
pub(crate) fn of_both(
    from: &SourceArgs,
    to: &DestinationArgs,
    both: &RegistryArgs,
) -> (RegistryArgs, RegistryArgs) {
    let mut sides = [from.over(both), to.over(both)];
    let lacks_password =
        |args: &RegistryArgs| args.creds.as_ref().is_some_and(|creds| creds.password.is_none());
    if sides.iter().any(lacks_password) {
        for args in &mut sides {
            args.password_stdin &= lacks_password(args);
        }
    }
    let [from, to] = sides;
    (from, to)
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        destination: DestinationArgs,
        #[command(flatten)]
        both: RegistryArgs,
    }

    /// Plain HTTP, the verification of certificates, and files of certificates, of the source and of the destination.
    fn sides(flags: &[&str]) -> [(bool, Option<bool>, usize); 2] {
        let line = ["copy"].iter().chain(flags);
        let matches = <Line as clap::CommandFactory>::command().try_get_matches_from(line).expect("parses");
        let line = Line::from_arg_matches(&matches).expect("reads");
        [line.source.over(&line.both), line.destination.over(&line.both)]
            .map(|args| (args.plain_http, args.tls_verify, args.ca_file.len()))
    }

    #[test]
    fn a_side_goes_before_both_and_leaves_the_other_alone() {
        for (flags, expected) in [
            (&[][..], [(false, None, 0), (false, None, 0)]),
            (&["--plain-http"], [(true, None, 0), (true, None, 0)]),
            (&["--src-plain-http"], [(true, None, 0), (false, None, 0)]),
            (&["--plain-http", "--dest-tls-verify"], [(true, None, 0), (false, Some(true), 0)]),
            (
                &["--tls-verify=false", "--src-tls-verify=true"],
                [(false, Some(true), 0), (false, Some(false), 0)],
            ),
            (&["--ca-file=a", "--dest-ca-file=b"], [(false, None, 1), (false, None, 2)]),
        ] {
            assert_eq!(sides(flags), expected, "{flags:?}");
        }
        let both = ["copy", "--src-plain-http", "--src-tls-verify"];
        assert!(<Line as clap::CommandFactory>::command().try_get_matches_from(both).is_err());
    }
}
