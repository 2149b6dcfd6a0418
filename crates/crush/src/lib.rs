//! CRUSH: maps an input number to a list of devices, by nothing but the map that everybody shares.
//!
//! ```text
//!            rule: take default ; chooseleaf firstn 0 type host ; emit
//!
//!  x ----->  [default] --hash(x, r)--> [host b] --hash(x, r')--> osd.4
//!                      --hash(x, r)--> [host a] --hash(x, r')--> osd.1        r, r' grow on collisions
//! ```
//!
//! A [`CrushMap`] is decoded from what monitors send, and [`CrushMap::map`] executes one of its rules. The
//! result must equal that of every other client and OSD of the cluster bit for bit: an object looked for on
//! another device is an object lost. Maps are not trusted: bad ones end in an error or an empty result.
//!
//! * [`map`](CrushMap): the map and its decoder
//! * `bucket`: how each kind of bucket chooses
//! * `mapper`: classic rules, `msr`: multi-step retry rules (Ceph 20)
//! * [`hash`], `ln`: the arithmetic below

mod bucket;
pub mod hash;
mod ln;
mod map;
mod mapper;
mod msr;

pub use bucket::{Algorithm, Bucket, ChooseArg};
pub use map::{CrushMap, DeviceClasses, Mode, Rule, RuleKind, Step, Tunables};

/// No device: a position that could not be filled. Ceph: `CRUSH_ITEM_NONE` in `src/crush/crush.h`.
pub const ITEM_NONE: i32 = 0x7fff_ffff;
