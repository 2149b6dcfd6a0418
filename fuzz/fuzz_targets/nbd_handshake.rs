//! Whatever a client sends before the transmission phase: no panic, bounded answers, and how the stream is cut up
//! changes nothing. The first byte is the size of the cuts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd_server::handshake::{Event, Handshake};
use nbd_server::{DeviceInfo, ExportError, ExportInfo};

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = run([bytes]);
    assert_eq!(run(bytes.chunks(usize::from(cut).max(1))), whole);
    // No option is shorter than 16 bytes, and no answer of this server longer than 5 KiB.
    assert!(whole.0.len() <= 18 + (bytes.len() / 16 + 1) * 5120);
});

/// What the server sends, and how it ends.
fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, String) {
    let mut handshake = Handshake::new();
    let mut end = None;
    for piece in pieces {
        handshake.handle_bytes(piece);
        while end.is_none() {
            let step = match handshake.poll_event() {
                Ok(None) => break,
                Ok(Some(Event::Aborted)) => {
                    end = Some("aborted".to_owned());
                    continue;
                }
                Ok(Some(Event::List)) => {
                    let export = ExportInfo { name: "disk".to_owned(), description: "a disk".to_owned() };
                    handshake.answer_list(Ok(&[export]));
                    Ok(None)
                }
                Ok(Some(Event::Open { name })) if name.len() % 2 == 0 => {
                    handshake.answer_open(Ok(("disk", &DeviceInfo::new(1 << 20))))
                }
                Ok(Some(Event::Open { name })) => handshake.answer_open(Err(&ExportError::Unknown { name })),
                Err(error) => Err(error),
            };
            match step {
                Ok(session) => end = session.map(|session| format!("{session:?}")),
                Err(error) => end = Some(error.to_string()),
            }
        }
    }
    let sent = handshake.poll_transmit().unwrap_or_default();
    (sent.to_vec(), end.unwrap_or_default())
}
