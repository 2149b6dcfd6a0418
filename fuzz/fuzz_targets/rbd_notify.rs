//! Whatever another client sends to the watchers of an image: no panic, and what this client could have sent itself
//! says the same after being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbd::NotifyMessage;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = NotifyMessage::decode(data) else { return };
    let again = NotifyMessage::decode(&message.encode()).expect("what is written here can be read");
    // Old clients give some requests no number; written anew they have one.
    if !matches!(message, NotifyMessage::Maintenance { id: None, .. }) {
        assert_eq!(again, message);
    }
    assert_eq!(NotifyMessage::decode(&again.encode()).as_ref(), Ok(&again));
    // What follows the message does not change it: the envelope says where it ends.
    if !data.is_empty() {
        let longer = [data, b"tail"].concat();
        assert_eq!(NotifyMessage::decode(&longer).as_ref(), Ok(&message));
    }
});
