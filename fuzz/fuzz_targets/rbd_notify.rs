//! Whatever another client sends to the watchers of an image: no panic, and what this client could have sent itself
//! says the same after being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd::NotifyMessage;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = NotifyMessage::decode(data) else { return };
    assert_eq!(NotifyMessage::decode(&message.encode()), Ok(message));
    // What follows the message does not change it: the envelope says where it ends.
    if !data.is_empty() {
        let longer = [data, b"tail"].concat();
        assert_eq!(NotifyMessage::decode(&longer), Ok(message));
    }
});
