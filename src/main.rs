//! The `vectorkeep` binary: reads the configuration, starts logging, binds, serves until a signal.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use vectorkeep::access::{Role, new_key};
use vectorkeep::app::App;
use vectorkeep::config::Config;
use vectorkeep::error::{Error, Result};
use vectorkeep::{api, demo, offline, probe, telemetry};

/// Vectors and documents are made on one thread and freed on another; the system's allocator has threads wait for
/// each other there. (A restore of 100,000 records: 5.3 s with it, 3.5 s with this one.)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A vector database service that can prove its data is safe.
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
    /// Make an access key: prints it once to standard error, and its table for the file of keys to standard output.
    Key {
        /// Who gets it; stands in the log.
        name: String,
        /// reader, writer, operator or admin.
        #[arg(long)]
        role: String,
        /// Only this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only this database of the tenant; may be repeated.
        #[arg(long, requires = "tenant")]
        database: Vec<String>,
    },
    /// Ask a running service for its health; exit 1 where it fails or does not answer.
    Health {
        /// Where it runs; without, where one with this configuration (environment, built-in values) listens.
        #[arg(long)]
        url: Option<String>,
        /// A certificate in PEM that is trusted beside the system's.
        #[arg(long)]
        ca_file: Option<PathBuf>,
    },
    /// Look into a repository of backups, with no service running; nothing is written.
    Backups {
        #[command(subcommand)]
        command: BackupsCommand,
    },
    /// Drive a whole service over HTTP: persist, back up, restore, migrate, check.
    Demo(demo::DemoArguments),
}

/// Open files that are not connections: the store's, the repository's, requests to other machines.
const OTHER_FILES: u64 = 1_024;
/// Threads for blocking calls: of requests (server.max_threads), of the repository (repository.max_requests), of jobs, and
/// what runs beside them.
const BLOCKING_THREADS: usize = 1_024;
/// At the end, for threads that are in the middle of a request to another machine.
const LAST_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build();
    match runtime {
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
        Some(Command::Key {
            name,
            role,
            tenant,
            database,
        }) => print_key(&name, &role, tenant, database),
        Some(Command::Health { url, ca_file }) => print_health(url, ca_file.as_deref()).await,
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
async fn print_health(url: Option<String>, ca_file: Option<&Path>) -> Result<()> {
    let url = match url {
        Some(url) => url,
        None => probe::own_url(&Config::load(None)?),
    };
    println!("{}", probe::health(&url, ca_file).await?);
    Ok(())
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command's output"
)]
fn print_key(name: &str, role: &str, tenant: Option<String>, databases: Vec<String>) -> Result<()> {
    let role = Role::parse(role)?;
    let databases = (!databases.is_empty()).then(|| databases.into_iter().collect());
    let key = new_key(name, role, tenant, databases)?;
    eprintln!("{}", key.secret);
    print!("{}", key.entry);
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
    config.check_exposure()?;
    telemetry::start(&config.log)?;
    allow_connections(config.server.max_connections);
    // Before the store is opened, which may take its time: a signal that comes meanwhile is obeyed after it.
    let stop = stop_signal()?;
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
    api::serve(app, listener, stop).await
}

/// Raises the limit on open files as far as connections need it and the system allows.
fn allow_connections(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::try_from(connections).unwrap_or(u64::MAX);
    let needed = needed.saturating_add(OTHER_FILES);
    let allowed = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    if limit.current.is_some_and(|current| current < allowed) {
        let raised = Rlimit {
            current: Some(allowed),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit on open files stays as it is");
        }
    }
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "fewer files may be open than server.max_connections needs"
        );
    }
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
