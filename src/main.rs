//! The `vectorkeep` binary: carries out one command. To serve, it reads the configuration, starts logging, opens the
//! store, binds, and serves until a signal.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use vectorkeep::app::App;
use vectorkeep::cli::{self, Arguments, BackupsCommand, Command, Exit};
use vectorkeep::config::{Config, ListenAddress};
use vectorkeep::engine::Calls;
use vectorkeep::error::{Error, Result};
use vectorkeep::{api, demo, telemetry};

/// Vectors and documents are made on one thread and freed on another; the system's allocator has threads wait for
/// each other there. (A restore of 100,000 records: 5.3 s with it, 3.5 s with this one.)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    match execute(Arguments::parse().into_command()).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            report(&error);
            Exit::from(&error).into()
        }
    }
}

async fn execute(command: Command) -> Result<Exit> {
    match command {
        Command::Serve { config } => serve(config).await,
        Command::Openapi => cli::openapi(),
        Command::Key(arguments) => cli::key(arguments),
        Command::Health(arguments) => cli::health(arguments).await,
        Command::Backups { command } => match command {
            BackupsCommand::List { place, json } => cli::list_backups(place, json).await,
            BackupsCommand::Verify {
                place,
                backup,
                level,
                json,
            } => cli::verify_backup(place, backup, level, json).await,
        },
        // The reason stands in the demo's own output.
        Command::Demo(arguments) => Ok(match demo::run(arguments).await {
            Ok(()) => Exit::Fine,
            Err(_) => Exit::Failed,
        }),
        Command::Completions { shell } => {
            cli::completions(shell, &mut io::stdout()).map(|()| Exit::Fine)
        }
        Command::Man { directory: None } => cli::manual(&mut io::stdout()).map(|()| Exit::Fine),
        Command::Man {
            directory: Some(directory),
        } => cli::manual_pages(&directory).map(|()| Exit::Fine),
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

async fn serve(file: Option<PathBuf>) -> Result<Exit> {
    let config = Config::load(file.as_deref())?;
    let addresses = config.server.listen.resolve()?;
    config.check_exposure(&addresses)?;
    telemetry::start(&config.log)?;
    allow_connections(config.server.max_connections);
    // Before the store is opened, which may take its time: a signal that comes meanwhile is obeyed after it.
    let calls = Arc::new(OnceLock::new());
    let stop = stopping(stop_signal()?, end_limit(&config), Arc::clone(&calls));
    let listen = config.server.listen.clone();
    let app = tokio::task::spawn_blocking(|| App::open(config, Handle::current()))
        .await
        .unwrap_or_else(
            |error| Err(Error::internal("opening the store panicked").because(error)),
        )?;
    let under_way = calls.get_or_init(|| app.engine().calls());
    let hung = app.engine().hung();
    let listener = match bind(&listen, &addresses).await {
        Ok(listener) => listener,
        Err(error) => {
            app.close(Duration::ZERO).await?;
            return Err(error);
        }
    };
    tokio::spawn(app.clone().log_start(listener.local_addr()));
    let served = api::serve(app, listener, stop).await;
    match served {
        Ok(()) => Ok(Exit::Fine),
        // sled's own threads would be waited for while the store is let go.
        Err(error) if *hung.borrow() || !under_way.under_way().is_empty() => {
            report(&error);
            end_regardless(under_way)
        }
        Err(error) => Err(error),
    }
}

/// From the signal on: what the configuration gives to a stop, and a little more.
fn end_limit(config: &Config) -> Duration {
    let server = &config.server;
    [
        server.drain_delay_ms,
        server.shutdown_grace_ms,
        config.storage.close_timeout_ms,
    ]
    .into_iter()
    .map(Duration::from_millis)
    .fold(LAST_WAIT, Duration::saturating_add)
}

/// Resolves when `stop` does. From then on the process ends after `limit` whatever waits: a thread of its own sees to it,
/// as those of the runtime may all hang.
fn stopping(
    stop: impl Future<Output = ()> + Send + 'static,
    limit: Duration,
    calls: Arc<OnceLock<Arc<Calls>>>,
) -> impl Future<Output = ()> + Send + 'static {
    let (told, mut stopped) = watch::channel(false);
    tokio::spawn(async move {
        stop.await;
        let last = std::thread::Builder::new().name("last-resort".to_owned());
        let ending = last.spawn(move || {
            std::thread::sleep(limit);
            end_regardless(calls.get().unwrap_or(&Arc::default()))
        });
        if let Err(error) = ending {
            tracing::warn!(%error, "nothing bounds the time that stopping takes");
        }
        told.send_replace(true);
    });
    async move {
        // An error: the runtime ends.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Ends the process although something waits. What was acknowledged is on the disk.
fn end_regardless(calls: &Calls) -> ! {
    tracing::error!(
        waiting = ?calls.under_way(),
        "the service ends although something still waits; calls into the store that do are named"
    );
    std::process::exit(Exit::Stuck as i32)
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

async fn bind(listen: &ListenAddress, addresses: &[SocketAddr]) -> Result<TcpListener> {
    TcpListener::bind(addresses).await.map_err(|error| {
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
