//! The NBD protocol, server side, for any block device
