//! Doing what a request asks, and not believing the device blindly.

use tracing::error;

use crate::device::{BlockDevice, DeviceError, Extent};
use crate::session::Session;
use crate::transmission::{Answer, Command};
use crate::wire::{Errno, STATE_HOLE, STATE_ZERO};

/// Extents per answer. "A server SHOULD NOT send more than 2^20"; clients ask again from where an answer ended.
pub(super) const MAX_EXTENTS: usize = 1 << 14;
/// Longest extent that 32 bits can tell, a multiple of every minimum block size.
const MAX_EXTENT_LEN: u64 = (u32::MAX - 0xffff) as u64;

impl Command {
    /// Does it on `device`, the one that `session` is about.
    pub async fn run<D: BlockDevice>(self, device: &D, session: &Session) -> Answer {
        let result = match self {
            Self::Read { offset, len: 0, dont_fragment } => {
                return Answer::Read { offset, dont_fragment, data: crate::ReadData::new() };
            }
            Self::Read { offset, len, dont_fragment } => match device.read(offset, len).await {
                Ok(data) if data.len() == u64::from(len) => {
                    return Answer::Read { offset, dont_fragment, data };
                }
                Ok(data) => {
                    error!(offset, len, got = data.len(), "device read a wrong number of bytes");
                    return Answer::from((Errno::Io, "the device read a wrong number of bytes"));
                }
                Err(error) => Err(error),
            },
            Self::Write { data, .. } if data.is_empty() => Ok(()),
            Self::Write { offset, data, fua } => device.write(offset, data, fua).await,
            Self::Flush => device.flush().await,
            Self::Trim { len: 0, .. } | Self::Cache { len: 0, .. } | Self::WriteZeroes { len: 0, .. } => {
                Ok(())
            }
            Self::Trim { offset, len, fua } => device.trim(offset, len, fua).await,
            Self::Cache { offset, len } => device.cache(offset, len).await,
            Self::WriteZeroes { offset, len, flags } => device.write_zeroes(offset, len, flags).await,
            Self::BlockStatus { offset, len, one } => {
                let max_extents = if one { 1 } else { MAX_EXTENTS };
                match device.block_status(offset, len.into(), max_extents).await {
                    Ok(extents) => {
                        let limit = if one { u64::from(len) } else { session.size() - offset };
                        return descriptors(&extents, limit, max_extents);
                    }
                    Err(error) => Err(error),
                }
            }
            Self::Refused { errno, reason } => return Answer::from((errno, reason)),
        };
        match result {
            Ok(()) => Answer::Done,
            Err(error) => Answer::from(error),
        }
    }
}

impl From<DeviceError> for Answer {
    fn from(error: DeviceError) -> Self {
        Self::Failed { errno: error.kind().errno(), message: error.message().to_owned().into() }
    }
}

/// The extents as the wire wants them: not empty, each different from the next, `limit` bytes in all at most.
fn descriptors(extents: &[Extent], limit: u64, max_extents: usize) -> Answer {
    let mut descriptors: Vec<(u32, u32)> = Vec::with_capacity(extents.len().min(max_extents));
    let mut left = limit;
    for extent in extents {
        let status = if extent.hole { STATE_HOLE } else { 0 } | if extent.zero { STATE_ZERO } else { 0 };
        let mut len = extent.len.min(left);
        left -= len;
        if let Some((last_len, last_status)) = descriptors.last_mut()
            && *last_status == status
        {
            let joined = (u64::from(*last_len) + len).min(MAX_EXTENT_LEN.max((*last_len).into()));
            len -= joined - u64::from(*last_len);
            *last_len = u32::try_from(joined).expect("bounded by MAX_EXTENT_LEN");
        }
        while len > 0 {
            if descriptors.len() == max_extents {
                return Answer::BlockStatus(descriptors);
            }
            let part = len.min(MAX_EXTENT_LEN);
            descriptors.push((u32::try_from(part).expect("bounded by MAX_EXTENT_LEN"), status));
            len -= part;
        }
    }
    if descriptors.is_empty() {
        error!("device told no block status");
        return Answer::from((Errno::Io, "the device told no block status"));
    }
    Answer::BlockStatus(descriptors)
}
