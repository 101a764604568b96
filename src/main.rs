//! The `vectorkeep` binary: reads the configuration, starts logging, binds, serves until a signal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use vectorkeep::app::App;
use vectorkeep::config::Config;
use vectorkeep::error::{Error, Result};
use vectorkeep::{api, demo, offline, probe, telemetry};

/// A vector database service that can prove its data is safe.
/// Vectors and documents are made on one thread and freed on another; the system's allocator has threads wait for
/// each other there. (A restore of 100,000 records: 5.3 s with it, 3.5 s with this one.)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT (what happens without a command).
    Serve {
        /// A TOML file whose values replace those of the built-in baseline.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Print the OpenAPI description.
    Openapi,
    /// Ask a running service for its health; exit 1 unless it passes.
    Health {
        /// Where it runs.
        #[arg(long, default_value = "http://127.0.0.1:8000")]
        url: String,
    },
    /// Look into a repository of backups, with no service running; nothing is written.
    Backups {
        #[command(subcommand)]
        command: BackupsCommand,
    },
    /// Drive a whole service over HTTP: persist, back up, restore, migrate, check.
    Demo(demo::DemoArguments),
}

/// At the end, for threads that are in the middle of a request to another machine.
const LAST_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let code = runtime.block_on(run());
            // What still waits for an object store has been told to stop; the store itself is closed.
            runtime.shutdown_timeout(LAST_WAIT);
            code
        }
        Err(error) => {
            report(&Error::internal("the runtime cannot start").because(error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> ExitCode {
    let outcome = match Arguments::parse().command {
        None => serve(None).await,
        Some(Command::Serve { config }) => serve(config).await,
        Some(Command::Openapi) => print_openapi(),
        Some(Command::Health { url }) => print_health(&url).await,
        Some(Command::Backups { command }) => backups(command).await,
        Some(Command::Demo(arguments)) => {
            // The reason stands in the demo's own output.
            return match demo::run(arguments).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the one line that says why the process ends"
)]
fn report(error: &Error) {
    match error.cause_text() {
        Some(cause) => eprintln!("vectorkeep: {error} ({cause})"),
        None => eprintln!("vectorkeep: {error}"),
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn print_openapi() -> Result<()> {
    print!("{}", api::spec_json()?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn print_health(url: &str) -> Result<()> {
    println!("{}", probe::health(url).await?);
    Ok(())
}

/// Which repository; how an object store is reached is as in the configuration's environment variables.
#[derive(clap::Args)]
struct RepositoryArguments {
    /// Its directory, or s3://, gs://, az://.
    #[arg(long)]
    repository: String,
    /// As repository.credentials_file.
    #[arg(long)]
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

#[derive(Subcommand)]
enum BackupsCommand {
    /// List backups, newest first.
    List {
        #[command(flatten)]
        place: RepositoryArguments,
    },
    /// Read a backup whole and compare it with its manifest; exit 1 unless it is sound.
    Verify {
        #[command(flatten)]
        place: RepositoryArguments,
        /// Which backup.
        #[arg(long, default_value = "latest")]
        backup: String,
        /// manifest, checksums or records.
        #[arg(long, default_value = "records")]
        level: String,
    },
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn backups(command: BackupsCommand) -> Result<()> {
    let run = move || match command {
        BackupsCommand::List { place } => {
            print!("{}", offline::list(&place.config()?, Handle::current())?);
            Ok(())
        }
        BackupsCommand::Verify {
            place,
            backup,
            level,
        } => {
            let level = offline::level(&level)?;
            let (id, outcome) =
                offline::verify(&place.config()?, &backup, level, Handle::current())?;
            outcome
                .problems
                .iter()
                .for_each(|problem| println!("{problem}"));
            println!(
                "{id}: {} packs, {} records, {} bytes looked at",
                outcome.checked_packs, outcome.checked_records, outcome.checked_bytes
            );
            if outcome.ok {
                println!("{id}: sound");
                return Ok(());
            }
            Err(Error::backup_corrupt(format!("{id} is damaged")))
        }
    };
    tokio::task::spawn_blocking(run)
        .await
        .unwrap_or_else(|error| Err(Error::internal("the command panicked").because(error)))
}

async fn serve(file: Option<PathBuf>) -> Result<()> {
    let config = Config::load(file.as_deref())?;
    telemetry::start(&config.log)?;
    let listen = config.server.listen;
    let app = tokio::task::spawn_blocking(|| App::open(config, Handle::current()))
        .await
        .unwrap_or_else(
            |error| Err(Error::internal("opening the store panicked").because(error)),
        )?;
    let listener = match bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            app.close(Duration::ZERO).await?;
            return Err(error);
        }
    };
    tracing::info!(%listen, data_dir = %app.engine().data_dir().display(), "serving");
    api::serve(app, listener, stop_signal()?).await
}

async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| {
        Error::internal(format!("server.listen {listen} cannot be bound: {error}"))
    })
}

/// Resolves at SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let fail = |error| Error::internal("signals cannot be handled").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Error::internal("signals cannot be handled").because(error))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
