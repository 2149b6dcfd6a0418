//! What kind of image a seed takes, and who uses it.

use std::fmt;

use crate::common::random::Rng;
use crate::common::{KIB, Kind, MIB};

/// Where images are; the last two are also data pools.
pub(crate) const PLACES: [&str; 3] = ["rbdpool", "rbdpool/tenant", "rbdother"];
const DATA_POOL: &str = "rbddata";

/// Features that come and go; layering is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) exclusive_lock: bool,
    pub(crate) object_map: bool,
    pub(crate) fast_diff: bool,
    pub(crate) deep_flatten: bool,
}

/// How an image lies on its objects.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) object_size: u64,
    /// Unit in bytes, and count.
    pub(crate) striping: Option<(u64, u64)>,
    pub(crate) data_pool: bool,
    pub(crate) features: Features,
}

#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) parties: Vec<Kind>,
    pub(crate) first: Layout,
    pub(crate) size: u64,
    /// Enables the object map only after the first writes, so that it begins as invalid.
    pub(crate) map_begins_invalid: bool,
    pub(crate) clone_format: u8,
}

impl Features {
    const ALL: Self = Self { exclusive_lock: true, object_map: true, fast_diff: true, deep_flatten: true };

    fn choose(rng: &mut Rng) -> Self {
        match rng.range(0..8) {
            0 => Self { object_map: false, fast_diff: false, ..Self::ALL },
            1 => Self { fast_diff: false, ..Self::ALL },
            2 => Self { exclusive_lock: false, object_map: false, fast_diff: false, deep_flatten: false },
            3 => Self { deep_flatten: false, ..Self::ALL },
            _ => Self::ALL,
        }
    }

    /// As the options of `rbd create` and `rbd clone` take them.
    pub(crate) fn options(self) -> String {
        let named = [
            (self.exclusive_lock, "exclusive-lock"),
            (self.object_map, "object-map"),
            (self.fast_diff, "fast-diff"),
            (self.deep_flatten, "deep-flatten"),
        ];
        let names = named.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name);
        ["layering"].into_iter().chain(names).collect::<Vec<_>>().join(",")
    }
}

impl Layout {
    pub(crate) fn choose(rng: &mut Rng) -> Self {
        let order = *rng.pick(&[12, 13, 16, 16, 18, 20, 20, 22, 22, 22, 22, 25]);
        let object_size = 1_u64 << order;
        let striping = rng.one_in(4).then(|| ((object_size >> rng.range(0..4)).max(KIB), rng.range(2..6)));
        Self { object_size, striping, data_pool: rng.one_in(4), features: Features::choose(rng) }
    }

    /// As `rbd create` and `rbd clone` take it. A clone would otherwise be striped like its parent.
    pub(crate) fn options(&self) -> String {
        let (unit, count) = self.striping.unwrap_or((self.object_size, 1));
        let mut options = format!(
            "--object-size {}B --stripe-unit {unit}B --stripe-count {count} --image-feature {}",
            self.object_size,
            self.features.options()
        );
        if self.data_pool {
            options += &format!(" --data-pool {DATA_POOL}");
        }
        options
    }

    /// Where requests are cut.
    pub(crate) fn boundary(&self) -> u64 {
        self.striping.map_or(self.object_size, |(unit, _)| unit)
    }
}

impl Shape {
    pub(crate) fn choose(rng: &mut Rng, parties: Option<Vec<Kind>>) -> Self {
        let mixed = [
            [Kind::Ours, Kind::Librbd].as_slice(),
            &[Kind::Ours, Kind::Ours, Kind::Librbd],
            &[Kind::Ours, Kind::Librbd, Kind::Librbd],
        ];
        let chosen = rng.pick(&mixed).to_vec();
        let first = Layout::choose(rng);
        let size = choose_size(rng, first.object_size);
        Self {
            parties: parties.unwrap_or(chosen),
            size,
            map_begins_invalid: first.features.object_map && rng.one_in(5),
            clone_format: if rng.one_in(3) { 1 } else { 2 },
            first,
        }
    }
}

/// A size for an image with such objects: any number of sectors, every other time whole objects.
pub(crate) fn choose_size(rng: &mut Rng, object_size: u64) -> u64 {
    let objects = rng.range(2..40);
    let most = if object_size > 8 * MIB { 2 * object_size + 5 * MIB } else { 32 * MIB };
    let size = (objects * object_size).clamp(96 * KIB, most);
    if rng.one_in(2) { size } else { size - rng.range(0..size / 2) / 512 * 512 }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parties, first, size, map_begins_invalid, clone_format } = self;
        let invalid = if *map_begins_invalid { ", object map invalid at first" } else { "" };
        write!(f, "{parties:?}, {size} bytes, {}, clones of format {clone_format}{invalid}", first.options())
    }
}
