//! Wall-clock time and durations on the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Decode, DecodeError, Encode, Reader};

/// Seconds and nanoseconds since 1970, or a duration. Ceph: `utime_t` in `src/include/utime.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Utime {
    /// Whole seconds.
    pub sec: u32,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl Utime {
    /// The duration that this is, or the time since 1970.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::new(self.sec.into(), self.nsec)
    }

    /// A duration; one of more than 136 years is cut to that.
    #[must_use]
    pub fn from_duration(d: Duration) -> Self {
        Self { sec: u32::try_from(d.as_secs()).unwrap_or(u32::MAX), nsec: d.subsec_nanos() }
    }

    /// The point in time that this is.
    #[must_use]
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + self.as_duration()
    }

    /// A point in time; one before 1970 becomes 1970.
    #[must_use]
    pub fn from_system_time(t: SystemTime) -> Self {
        Self::from_duration(t.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl Decode for Utime {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (sec, nsec) = (u32::decode(r)?, u32::decode(r)?);
        if nsec >= 1_000_000_000 {
            return Err(DecodeError::Invalid { what: "nanoseconds of utime_t", value: nsec.into() });
        }
        Ok(Self { sec, nsec })
    }
}

impl Encode for Utime {
    fn encode(&self, out: &mut Vec<u8>) {
        self.sec.encode(out);
        self.nsec.encode(out);
    }
}
