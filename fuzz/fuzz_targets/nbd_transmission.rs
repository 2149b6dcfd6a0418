//! Whatever a client sends in the transmission phase: no panic, no request outside of the export, bounded memory, and
//! how the stream is cut up changes nothing. The first byte is the size of the cuts, the second the kind of session.
#![no_main]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use nbd_server::transmission::{Command, Incoming, ReplyQueue, RequestReader};
use nbd_server::{BlockSize, DeviceInfo, MemDevice, Session};

const SIZE: u64 = 2 << 20;

fuzz_target!(|data: &[u8]| {
    let &[cut, kind, ref bytes @ ..] = data else { return };
    let info = DeviceInfo {
        read_only: kind & 1 != 0,
        fast_zero: kind & 2 != 0,
        block_size: BlockSize::new(if kind & 4 != 0 { 512 } else { 1 }, 4096).expect("valid"),
        ..DeviceInfo::new(SIZE)
    };
    let session = Session::new(&info, kind & 8 != 0, kind & 16 != 0);
    let whole = run(&info, &session, bytes, bytes.len());
    assert!(whole == run(&info, &session, bytes, usize::from(cut).max(1)));
});

/// What the server sends, and how it ends.
fn run(info: &DeviceInfo, session: &Session, bytes: &[u8], cut: usize) -> (Vec<u8>, String) {
    let device = MemDevice::with_info(info.clone());
    let mut reader = RequestReader::new(session.clone(), BytesMut::new());
    let mut replies = ReplyQueue::new(session.structured_replies());
    let mut sent = Vec::new();
    for mut piece in bytes.chunks(cut.max(1)) {
        while !piece.is_empty() {
            let mut space = reader.space();
            let len = space.remaining_mut().min(piece.len());
            assert!(len > 0, "the reader takes bytes");
            space.put_slice(&piece[..len]);
            piece = &piece[len..];
            loop {
                match reader.next_request(|_| true) {
                    Ok(None) => break,
                    Ok(Some(Incoming::Disconnect)) => return (sent, "disconnect".to_owned()),
                    Ok(Some(Incoming::Request(request))) => {
                        check(&request.command);
                        let mut answer = pin!(request.command.run(&device, session));
                        let Poll::Ready(answer) =
                            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                        else {
                            panic!("a device in memory does not wait")
                        };
                        replies.push(request.cookie, answer);
                        // The beginning of a long reply is witness enough.
                        let len = replies.remaining();
                        sent.put((&mut replies).take(len.min(4096)));
                        replies.advance(replies.remaining());
                    }
                    Err(error) => return (sent, error.to_string()),
                }
            }
        }
    }
    (sent, String::new())
}

fn check(command: &Command) {
    let (offset, len) = match command {
        Command::Read { offset, len, .. } | Command::BlockStatus { offset, len, .. } => {
            (*offset, u64::from(*len))
        }
        Command::Write { offset, data, .. } => (*offset, data.len() as u64),
        Command::Trim { offset, len, .. }
        | Command::Cache { offset, len }
        | Command::WriteZeroes { offset, len, .. } => (*offset, *len),
        Command::Flush | Command::Refused { .. } => (0, 0),
    };
    assert!(offset <= SIZE && len <= SIZE - offset, "{command:?}");
}
