//! What the configuration says about an open image.
//!
//! Options have Ceph's defaults, unless the client's configuration says otherwise, unless the pool does, unless the
//! image does.

use crate::Config;

/// The most steps of maintenance at the same time, whatever the configuration says.
const MAX_MANAGEMENT_OPS: u64 = 1000;

/// Ceph: `LIBRADOS_ALLOC_HINT_FLAG_COMPRESSIBLE` and the one after it, in `src/include/rados/librados.h`.
const COMPRESSIBLE: u32 = 256;
const INCOMPRESSIBLE: u32 = 512;

/// Values of the options that requests and maintenance look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageOptions {
    /// Parts of objects that are not whole multiples of so many bytes keep their contents when they are discarded.
    pub(crate) discard_granularity: u64,
    /// From so many bytes on, reads ask only for what is allocated.
    pub(crate) sparse_read_threshold: u64,
    /// What new objects are going to be like; none if OSDs are not told.
    pub(crate) alloc_hint: Option<u32>,
    /// Seconds between two notes that the image was read; 0 for none at all.
    pub(crate) access_interval: u64,
    /// The same for changes.
    pub(crate) modify_interval: u64,
    /// How many steps of maintenance go on at the same time.
    pub(crate) management_ops: usize,
}

impl ImageOptions {
    /// Those of an image whose configuration this is.
    pub(crate) fn of(config: &Config) -> Self {
        let management_ops = config.number("rbd_concurrent_management_ops").clamp(1, MAX_MANAGEMENT_OPS);
        let hint = match config.get("rbd_compression_hint") {
            "compressible" => COMPRESSIBLE,
            "incompressible" => INCOMPRESSIBLE,
            _ => 0,
        };
        Self {
            discard_granularity: discard_granularity(config),
            sparse_read_threshold: config.number("rbd_sparse_read_threshold_bytes"),
            alloc_hint: config.is_set("rbd_enable_alloc_hint").then_some(hint),
            access_interval: config.number("rbd_atime_update_interval"),
            modify_interval: config.number("rbd_mtime_update_interval"),
            management_ops: usize::try_from(management_ops).unwrap_or(1),
        }
    }
}

fn discard_granularity(config: &Config) -> u64 {
    const NAME: &str = "rbd_discard_granularity_bytes";
    match (config.is_set("rbd_skip_partial_discard"), config.number(NAME)) {
        (false, _) => 1,
        (true, granularity) if granularity.is_power_of_two() => granularity,
        // Alignment needs a power of two.
        (true, _) => Config::default().number(NAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> ImageOptions {
        let mut config = Config::default();
        for (name, value) in pairs {
            config.set(name, value).unwrap();
        }
        ImageOptions::of(&config)
    }

    #[test]
    fn what_is_not_set_is_as_with_ceph() {
        let expected = ImageOptions {
            discard_granularity: 64 << 10,
            sparse_read_threshold: 64 << 10,
            alloc_hint: Some(0),
            access_interval: 60,
            modify_interval: 60,
            management_ops: 10,
        };
        assert_eq!(options(&[]), expected);
    }

    #[test]
    fn discards_are_exact_or_of_powers_of_two() {
        let granularity = |skip, bytes| {
            options(&[("rbd_skip_partial_discard", skip), ("rbd_discard_granularity_bytes", bytes)])
                .discard_granularity
        };
        assert_eq!(granularity("true", "8192"), 8192);
        assert_eq!(granularity("false", "65536"), 1);
        assert_eq!(granularity("true", "1000"), 64 << 10, "no power of two");
        assert_eq!(granularity("true", "0"), 64 << 10);
    }

    #[test]
    fn the_osds_are_told_what_the_data_are_like() {
        assert_eq!(options(&[("rbd_compression_hint", "incompressible")]).alloc_hint, Some(512));
        assert_eq!(options(&[("rbd_enable_alloc_hint", "false")]).alloc_hint, None);
    }

    #[test]
    fn maintenance_goes_on_with_at_least_one_step_at_a_time() {
        for (set, used) in [("0", 1), ("3", 3), ("1000000", 1000)] {
            assert_eq!(options(&[("rbd_concurrent_management_ops", set)]).management_ops, used);
        }
    }
}
