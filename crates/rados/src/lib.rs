//! A RADOS client in pure Rust: monitors, OSD maps, object operations, watch and notify
