//! The command line: what it takes, and what its exit status means. Serving itself is in `main.rs`; what the commands do
//! besides is in `offline`, `probe` and `demo`.

mod manual;
mod print;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use manual::{completions, manual, manual_pages};
pub use print::{health, key, list_backups, openapi, verify_backup};

use crate::config::Config;
use crate::demo::DemoArguments;
use crate::error::{Error, Kind, Result};
use crate::probe::Probe;

/// How a command ended, as its exit status says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything is as it should be.
    Fine = 0,
    /// It could not be done.
    Failed = 1,
    /// The command, a setting or a value of one is wrong: trying again cannot help.
    Usage = 2,
    /// It works, and somebody should look at it.
    Warn = 3,
    /// A backup is damaged.
    Damaged = 4,
    /// A service, a repository or another machine does not answer.
    Unreachable = 5,
    /// The service was told to stop, and ended although something still waited for the disk.
    Stuck = 6,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.kind() {
            Kind::InvalidArgument | Kind::Unprocessable => Self::Usage,
            Kind::BackupCorrupt => Self::Damaged,
            Kind::RemoteUnavailable | Kind::Timeout => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

/// Shown by `--help` and in the manual.
const EXIT_STATUS: &str = "\
Exit status:
  0  fine
  1  failed: it could not be done, or the service is not well
  2  usage: the command, a setting or a value is wrong
  3  warn: it works, and somebody should look at it
  4  damaged: a backup is not what its manifest says
  5  unreachable: a service or a repository does not answer
  6  stuck: told to stop, the service ended although calls still waited for the disk";

/// A vector database service that can prove its data is safe.
#[derive(Debug, Parser)]
#[command(name = "vectorkeep", version, about, after_help = EXIT_STATUS)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

impl Arguments {
    /// What is asked for; without a command, to serve.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve { config: None })
    }
}

/// What the program can be asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT (what happens without a command)
    Serve {
        /// A TOML file whose values replace those of the built-in baseline
        #[arg(long, value_hint = clap::ValueHint::FilePath)]
        config: Option<PathBuf>,
    },
    /// Print the OpenAPI description
    Openapi,
    /// Make an access key: the key goes to standard error, its table for the file of keys to standard output
    Key(KeyArguments),
    /// Ask a running service for its health, and say why it is not well
    Health(HealthArguments),
    /// Look into a repository of backups, with no service running; nothing is written
    Backups {
        /// What to do with it
        #[command(subcommand)]
        command: BackupsCommand,
    },
    /// Drive a whole service over HTTP: persist, back up, restore, migrate, check
    Demo(DemoArguments),
    /// Print a script that completes this command line
    Completions {
        /// The shell that reads it
        shell: Shell,
    },
    /// Print the manual page, or write one for each command into a directory
    Man {
        /// Where the pages go; without, the first one goes to standard output
        #[arg(long, value_hint = clap::ValueHint::DirPath)]
        directory: Option<PathBuf>,
    },
}

/// Who gets a key, and what it may do.
#[derive(Debug, Args)]
pub struct KeyArguments {
    /// Who gets it; stands in the log
    name: String,
    /// What it may do; each role may do what those before it may
    #[arg(long, value_parser = ["reader", "writer", "operator", "admin"])]
    role: String,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this database of the tenant; may be repeated
    #[arg(long, requires = "tenant")]
    database: Vec<String>,
    /// Print one JSON object, with the key in it, on standard output
    #[arg(long)]
    json: bool,
}

/// Which service is asked, and for what.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Where it runs; without, where one with this configuration (environment, built-in values) listens
    #[arg(long, value_hint = clap::ValueHint::Url)]
    url: Option<String>,
    /// A certificate in PEM that is trusted beside the system's
    #[arg(long, value_hint = clap::ValueHint::FilePath)]
    ca_file: Option<PathBuf>,
    /// A file that holds a key; where keys are configured, strangers see no reasons
    #[arg(long, value_hint = clap::ValueHint::FilePath)]
    key_file: Option<PathBuf>,
    /// Only whether it is alive
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Only whether it is ready to be used
    #[arg(long)]
    ready: bool,
    /// Print the service's answer as it is
    #[arg(long)]
    json: bool,
}

impl HealthArguments {
    fn probe(&self) -> Probe {
        match (self.live, self.ready) {
            (true, _) => Probe::Live,
            (_, true) => Probe::Ready,
            _ => Probe::Overview,
        }
    }
}

/// What to do with a repository.
#[derive(Debug, Subcommand)]
pub enum BackupsCommand {
    /// List backups, newest first
    List {
        /// Which one
        #[command(flatten)]
        place: RepositoryArguments,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read a backup whole and compare it with its manifest
    Verify {
        /// Which one
        #[command(flatten)]
        place: RepositoryArguments,
        /// Which backup: an id, latest (the newest restorable one), or before: and an RFC 3339 time
        #[arg(long, default_value = "latest")]
        backup: String,
        /// How deep to look
        #[arg(long, default_value = "records", value_parser = ["manifest", "checksums", "records"])]
        level: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Which repository; how an object store is reached is as in the configuration's environment variables.
#[derive(Debug, Args)]
pub struct RepositoryArguments {
    /// Its directory, or s3://, gs://, az://
    #[arg(long, value_hint = clap::ValueHint::DirPath)]
    repository: String,
    /// As repository.credentials_file
    #[arg(long, value_hint = clap::ValueHint::FilePath)]
    credentials_file: Option<PathBuf>,
}

impl RepositoryArguments {
    fn config(self) -> Result<Config> {
        let mut config = Config::load(None)?;
        config.repository.url = self.repository;
        if self.credentials_file.is_some() {
            config.repository.credentials_file = self.credentials_file;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        let asked = Arguments::parse_from(["vectorkeep"]).into_command();
        assert!(matches!(asked, Command::Serve { config: None }));
    }
}
