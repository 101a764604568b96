//! What the demo prints, and how long what it did took.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Prints, and remembers times for the end.
pub(super) struct Teller<'a> {
    out: &'a mut dyn Write,
    began: Instant,
    times: Vec<(String, Duration)>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self {
            out,
            began: Instant::now(),
            times: Vec::new(),
        }
    }

    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.out, "{line}")
            .map_err(|error| Error::internal("standard output is closed").because(error))
    }

    /// Does something, and remembers how long it took.
    pub(super) async fn time<T>(
        &mut self,
        what: &str,
        doing: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let began = Instant::now();
        let done = doing.await?;
        self.times.push((what.to_owned(), began.elapsed()));
        Ok(done)
    }

    /// All times, one a line. They are those of this machine, and of a client that waits for the answer.
    pub(super) fn summary(&mut self) -> Result<()> {
        self.say("\n=== Summary ===")?;
        let width = self.times.iter().map(|(what, _)| what.len()).max();
        let width = width.unwrap_or_default().max("everything".len());
        let mut times = std::mem::take(&mut self.times);
        times.push(("everything".to_owned(), self.began.elapsed()));
        for (what, time) in times {
            self.say(&format!("{what:<width$} {:>9.3} s", time.as_secs_f64()))?;
        }
        Ok(())
    }
}
