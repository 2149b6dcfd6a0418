//! Whatever is to be imported: no panic, and how it is cut into pieces changes nothing. The first byte says which kind of
//! stream it is, the second one into which pieces it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd::{FormatError, Part, StreamDecoder};

fuzz_target!(|data: &[u8]| {
    let [kind, size, stream @ ..] = data else { return };
    let decoder = if kind % 2 == 0 { StreamDecoder::diff } else { StreamDecoder::image };
    let size = usize::from(*size).max(1);
    assert_eq!(parts(decoder(), stream, size), parts(decoder(), stream, stream.len().max(1)));
});

/// All parts; consecutive data as one.
fn parts(mut decoder: StreamDecoder, stream: &[u8], size: usize) -> Result<Vec<Part>, FormatError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut pieces = stream.chunks(size);
    loop {
        match decoder.next_part()? {
            Some(Part::End) => return Ok(parts),
            Some(Part::Data(data)) => match parts.last_mut() {
                Some(Part::Data(before)) => *before = [before.clone(), data].concat().into(),
                _ => parts.push(Part::Data(data)),
            },
            Some(part) => parts.push(part),
            None => match pieces.next() {
                Some(piece) => decoder.push(piece),
                None => return Err(decoder.truncated()),
            },
        }
    }
}
