//! What the command line says of itself: completions for shells, and pages for `man`.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::Arguments;
use crate::error::{Error, Result};

/// Writes a script that completes this command line in `shell`.
///
/// # Errors
/// `Internal` when `out` is closed.
pub fn completions(shell: Shell, out: &mut impl Write) -> Result<()> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    // It panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    out.write_all(&script).map_err(closed)
}

/// Writes the manual page of the program (roff).
///
/// # Errors
/// `Internal` when `out` is closed.
pub fn manual(out: &mut impl Write) -> Result<()> {
    Man::new(Arguments::command()).render(out).map_err(closed)
}

/// Writes a page for the program and for each command into `directory`, which is made if need be.
///
/// # Errors
/// `StorageFault` when it cannot be written to.
pub fn manual_pages(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory))
        .map_err(|error| {
            let message = format!("{} cannot be written to: {error}", directory.display());
            Error::file(message, error)
        })
}

fn closed(error: io::Error) -> Error {
    Error::internal("standard output is closed").because(error)
}
