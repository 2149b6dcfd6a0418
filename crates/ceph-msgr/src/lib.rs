//! Messenger v2.1, the client's side, as a state machine without sockets
