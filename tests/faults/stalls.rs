//! How long a client was kept waiting.

use std::fmt;
use std::time::{Duration, Instant};

/// Measures the time without an answer, and the time of each request.
#[derive(Debug)]
pub(crate) struct Meter {
    last: Instant,
    waited: Waited,
}

/// What happened since the meter was last looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waited {
    /// Requests answered.
    pub(crate) requests: u64,
    /// The longest time that a request took.
    pub(crate) request: Duration,
    /// The longest time in which nothing was answered.
    pub(crate) silence: Duration,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: now, waited: Waited::default() }
    }

    /// A request that was sent at `sent` is answered.
    pub(crate) fn answered(&mut self, sent: Instant, now: Instant) {
        self.waited.requests += 1;
        self.pending(Some(sent), now);
        self.last = now;
    }

    /// The oldest request that is under way was sent at `sent`.
    fn pending(&mut self, sent: Option<Instant>, now: Instant) {
        let Some(sent) = sent else { return };
        self.waited.request = self.waited.request.max(now.duration_since(sent));
        // Nobody waits as long as nothing was sent.
        self.waited.silence = self.waited.silence.max(now.duration_since(self.last.max(sent)));
    }

    /// Everything since the last look; `oldest` is when the oldest request under way was sent.
    pub(crate) fn take(&mut self, oldest: Option<Instant>, now: Instant) -> Waited {
        self.pending(oldest, now);
        std::mem::take(&mut self.waited)
    }
}

impl Waited {
    /// Adds what happened later.
    pub(crate) fn add(&mut self, later: Self) {
        self.requests += later.requests;
        self.request = self.request.max(later.request);
        self.silence = self.silence.max(later.silence);
    }

    /// The same in columns of a table, in seconds.
    pub(crate) fn columns(&self) -> String {
        let Self { requests, request, silence } = self;
        format!("{requests:8} {:6.1} s {:6.1} s", request.as_secs_f64(), silence.as_secs_f64())
    }
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, request, silence } = self;
        write!(f, "{requests} requests, the longest of {request:.1?}, silence of {silence:.1?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_while_somebody_waits() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut meter = Meter::new(start);
        meter.answered(at(10), at(11));
        meter.answered(at(10), at(14));
        let waited = meter.take(None, at(20));
        assert_eq!((waited.requests, waited.request.as_secs(), waited.silence.as_secs()), (2, 4, 3));
        let waited = meter.take(Some(at(20)), at(25));
        assert_eq!((waited.requests, waited.request.as_secs(), waited.silence.as_secs()), (0, 5, 5));
    }
}
