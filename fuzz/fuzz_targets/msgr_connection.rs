//! Whatever a peer sends: no panic, and how TCP cuts it up changes neither events nor the error.
//!
//! The first byte is how it is cut, the rest is the peer's stream. It runs once as it is and once with its
//! checksums repaired, else hardly anything would get past them. It can get past the signatures, because with
//! an empty session key they are zeros.

#![no_main]

use std::io::IoSlice;

use ceph_codec::{EntityAddr, EntityAddrVec, EntityType, GlobalId, Utime, crc32c};
use ceph_msgr::{ClientIdent, ConMode, Connection, ConnectionConfig, Event, Message, MsgrError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, stream)) = data.split_first() else { return };
    let size = usize::from(cut).max(1);
    assert_eq!(run(stream, usize::MAX), run(stream, size));
    let mut repaired = stream.to_vec();
    repair(&mut repaired);
    assert_eq!(run(&repaired, usize::MAX), run(&repaired, size));
});

fn run(stream: &[u8], size: usize) -> (Vec<Event>, Option<MsgrError>) {
    let target = EntityAddr::msgr2("127.0.0.1:6800".parse().expect("an address"));
    let modes = vec![ConMode::Secure, ConMode::Crc];
    let mut c = Connection::new(ConnectionConfig::new(EntityType::OSD, target, modes));
    let mut events = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let buf = c.read_buf();
        let n = rest.len().min(size).min(buf.capacity() - buf.len());
        assert_ne!(n, 0, "there is always room");
        buf.extend_from_slice(&rest[..n]);
        rest = &rest[n..];
        loop {
            match c.poll_event() {
                Ok(Some(event)) => {
                    if let Err(error) = answer(&mut c, &event) {
                        return (events, Some(error));
                    }
                    events.push(event);
                }
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        write(&mut c);
    }
    (events, None)
}

fn answer(c: &mut Connection, event: &Event) -> Result<(), MsgrError> {
    match event {
        Event::Hello { .. } | Event::AuthBadMethod { .. } => c.start_auth(2, b"ticket"),
        Event::AuthMore(question) => c.continue_auth(question),
        Event::AuthDone { .. } => {
            let ident =
                ClientIdent { addrs: EntityAddrVec::default(), global_id: GlobalId(1), global_seq: 1 };
            c.finish_auth(b"", &[7; 64], ident)
        }
        Event::Ready(_) => {
            c.keepalive(Utime::default());
            Ok(())
        }
        Event::Message(message) => c.send(&Message { tid: message.tid, ..message.clone() }),
        _ => Ok(()),
    }
}

fn write(c: &mut Connection) {
    while c.wants_write() {
        let mut slices = [IoSlice::new(&[]); 4];
        let n = c.fill_io_slices(&mut slices);
        let len = slices[..n].iter().map(|slice| slice.len()).sum();
        c.advance_write(len);
    }
}

/// Fills in the checksums of the frames behind the banner, as far as they can be told apart.
fn repair(stream: &mut [u8]) {
    const BANNER: usize = 26;
    let mut rest = stream.get_mut(BANNER..).unwrap_or_default();
    while let Some((preamble, behind)) = rest.split_at_mut_checked(32) {
        let crc = crc32c(0, &preamble[..28]);
        preamble[28..].copy_from_slice(&crc.to_le_bytes());
        let count = usize::from(preamble[1]);
        let len = |i: usize| -> usize {
            let field = &preamble[2 + 6 * i..][..4];
            u32::from_le_bytes(field.try_into().expect("four bytes")) as usize
        };
        rest = behind;
        let Some(next) = segment(rest, len(0), if len(0) > 0 { 4 } else { 0 }) else { return };
        rest = next;
        if !(2..=4).contains(&count) {
            continue;
        }
        let total: usize = (1..count).map(len).sum();
        let Some((segments, behind)) = rest.split_at_mut_checked(total) else { return };
        let Some((epilogue, behind)) = behind.split_at_mut_checked(13) else { return };
        let mut at = 0;
        for i in 1..count {
            let crc = crc32c(u32::MAX, &segments[at..at + len(i)]);
            epilogue[4 * i - 3..][..4].copy_from_slice(&crc.to_le_bytes());
            at += len(i);
        }
        rest = behind;
    }
}

/// Fills in the checksum behind the first `len` bytes and returns what comes after it.
fn segment(bytes: &mut [u8], len: usize, crc_len: usize) -> Option<&mut [u8]> {
    let (segment, behind) = bytes.split_at_mut_checked(len)?;
    let (slot, behind) = behind.split_at_mut_checked(crc_len)?;
    slot.copy_from_slice(&crc32c(u32::MAX, segment).to_le_bytes()[..crc_len]);
    Some(behind)
}
