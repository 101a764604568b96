//! A connection that ends when its client does not take what it asked for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How fast an answer has to be taken.
#[derive(Clone, Copy)]
pub(super) struct MinimumTransferRate {
    /// So long may a client take nothing.
    pub(super) grace: Duration,
    /// And in the long run it takes at least this.
    pub(super) bytes_per_second: u64,
}

/// The connection with that bound.
pub(super) struct MinimumRateStream<S> {
    stream: S,
    minimum_rate: MinimumTransferRate,
    /// How long writes may still wait: waiting spends it, what is taken earns it, up to the grace.
    budget: Duration,
    /// Since when a write waits, and when it is given up; none while none waits.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> MinimumRateStream<S> {
    pub(super) fn new(stream: S, minimum_rate: MinimumTransferRate) -> Self {
        Self {
            stream,
            budget: minimum_rate.grace,
            minimum_rate,
            waiting: None,
        }
    }

    /// What a write came to: progress earns time, and waiting spends it.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => {
                let budget = self.budget;
                let (_, due) = self.waiting.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(sleep_until(now + budget)))
                });
                ready!(due.as_mut().poll(context));
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client does not take its answer",
                )))
            }
            Poll::Ready(Ok(bytes)) => {
                let waited = self.waiting.take().map(|(since, _)| since.elapsed());
                let rate = self.minimum_rate.bytes_per_second.max(1) as f64;
                let earned = Duration::from_secs_f64(*bytes as f64 / rate);
                let left = self.budget.saturating_sub(waited.unwrap_or_default());
                self.budget = (left + earned).min(self.minimum_rate.grace);
                written
            }
            Poll::Ready(Err(_)) => written,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MinimumRateStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MinimumRateStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn stream(grace: Duration) -> MinimumRateStream<()> {
        let bytes_per_second = 1_000;
        MinimumRateStream::new(
            (),
            MinimumTransferRate {
                grace,
                bytes_per_second,
            },
        )
    }

    /// Judges as a write would: what it came to, then whether it is given up.
    async fn judged(
        stream: &mut MinimumRateStream<()>,
        written: Option<usize>,
    ) -> Poll<io::Result<usize>> {
        std::future::poll_fn(|context| {
            let written = match written {
                Some(bytes) => Poll::Ready(Ok(bytes)),
                None => Poll::Pending,
            };
            Poll::Ready(stream.judge(context, written))
        })
        .await
    }

    #[tokio::test]
    async fn only_waiting_spends_the_time_that_a_client_has() {
        let mut stream = stream(LONG);
        assert!(judged(&mut stream, None).await.is_pending());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(judged(&mut stream, Some(1)).await.is_ready());
        let left = stream.budget;
        assert!(left < LONG, "waiting costs nothing");
        // Another answer on the same connection, later.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(judged(&mut stream, None).await.is_pending());
        let (since, due) = stream.waiting.as_ref().unwrap();
        assert_eq!(due.deadline() - *since, left);
    }

    #[tokio::test]
    async fn what_is_taken_earns_no_more_than_the_grace_and_then_it_is_over() {
        let mut stream = stream(Duration::from_millis(1));
        assert!(judged(&mut stream, Some(1 << 30)).await.is_ready());
        assert_eq!(stream.budget, Duration::from_millis(1));
        let _ = judged(&mut stream, None).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let given_up = judged(&mut stream, None).await;
        assert!(matches!(given_up, Poll::Ready(Err(_))), "{given_up:?}");
    }
}
