//! The options of block devices, as Ceph 16.2 and later know them.

use rados::Release;

use Kind::{Bool, Count, Flags, Float, Integer, OneOf, Size, Text};

/// An option, and where it can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownOption {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    /// Whether an image can have a value of its own, and not only a pool.
    pub(super) for_images: bool,
    /// The first release with it, or any before 16.
    pub(super) since: Release,
}

impl KnownOption {
    /// Whether what an image or its pool says of it counts when the image is served, or has nothing to do with that.
    pub(super) fn is_honoured(&self) -> bool {
        const HONOURED: [&str; 8] = [
            "rbd_atime_update_interval",
            "rbd_compression_hint",
            "rbd_concurrent_management_ops",
            "rbd_discard_granularity_bytes",
            "rbd_enable_alloc_hint",
            "rbd_mtime_update_interval",
            "rbd_skip_partial_discard",
            "rbd_sparse_read_threshold_bytes",
        ];
        const ABOUT_OTHER_THINGS: [&str; 4] = ["rbd_default_", "rbd_journal_", "rbd_mirroring_", "rbd_move_"];
        HONOURED.contains(&self.name) || ABOUT_OTHER_THINGS.iter().any(|prefix| self.name.starts_with(prefix))
    }
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// A number of anything but bytes, with a decimal unit: 1K is 1000.
    Count,
    /// A number of bytes, with a binary unit: 1K is 1024.
    Size,
    Integer,
    Float,
    Text,
    OneOf(&'static [&'static str]),
    /// The sum of such numbers, or their names between commas.
    Flags(&'static [(&'static str, u64)]),
}

/// Ceph: `src/librbd/io/IoOperations.cc`.
const IO_OPERATIONS: &[(&str, u64)] =
    &[("read", 1), ("write", 2), ("discard", 4), ("write_same", 8), ("compare_and_write", 16)];

impl Kind {
    /// The value in the form in which Ceph shows it; none if it is not of this kind.
    ///
    /// Ceph: `Option::parse_value()` in `src/common/options.cc`, `strict_strtob()`, `strict_si_cast()` and
    /// `strict_iec_cast()` in `src/common/strtol.cc`.
    pub(super) fn normalize(self, text: &str) -> Option<String> {
        Some(match self {
            Bool if text.eq_ignore_ascii_case("true") => "true".to_owned(),
            Bool if text.eq_ignore_ascii_case("false") => "false".to_owned(),
            Bool => (text.parse::<i64>().ok()? != 0).to_string(),
            Count => with_unit(text, 1000)?.to_string(),
            Size => {
                with_unit(text.strip_suffix('B').or_else(|| text.strip_suffix('i')).unwrap_or(text), 1024)?
                    .to_string()
            }
            Integer => text.parse::<i64>().ok()?.to_string(),
            Float => format!("{:.6}", text.parse::<f64>().ok().filter(|number| number.is_finite())?),
            Text => text.to_owned(),
            OneOf(values) => values.iter().find(|value| value.eq_ignore_ascii_case(text))?.to_string(),
            Flags(flags) => sum_of_flags(flags, text)?.to_string(),
        })
    }

    /// What it takes, in words.
    pub(super) fn expected(self) -> String {
        match self {
            Bool => "true or false".to_owned(),
            Count | Integer => "a whole number".to_owned(),
            Size => "a number of bytes".to_owned(),
            Float => "a number".to_owned(),
            Text => "a text".to_owned(),
            OneOf(values) => format!("one of {}", values.join(", ")),
            Flags(flags) => {
                let names: Vec<_> = flags.iter().map(|(name, _)| *name).collect();
                format!("some of {}", names.join(", "))
            }
        }
    }
}

/// Ceph: `rbd_io_operations_from_string()` in `src/librbd/io/IoOperations.cc`.
fn sum_of_flags(flags: &[(&str, u64)], text: &str) -> Option<u64> {
    let all = flags.iter().fold(0, |all, (_, bit)| all | bit);
    let text = text.trim();
    if text.is_empty() {
        return Some(0);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Some(number).filter(|number| number & !all == 0);
    }
    let bit_of = |name: &str| flags.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit);
    text.split(',').try_fold(0, |sum, name| Some(sum | bit_of(name.trim())?))
}

fn with_unit(text: &str, base: u64) -> Option<u64> {
    const UNITS: &str = "KMGTPE";
    let last = text.chars().next_back()?;
    let (number, power) = match UNITS.find(last) {
        Some(index) => (&text[..text.len() - 1], u32::try_from(index + 1).ok()?),
        None => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(base.checked_pow(power)?)
}

const fn image(name: &'static str, kind: Kind, default: &'static str) -> KnownOption {
    KnownOption { name, kind, default, for_images: true, since: Release::UNKNOWN }
}

const fn pool(name: &'static str, kind: Kind, default: &'static str) -> KnownOption {
    KnownOption { name, kind, default, for_images: false, since: Release::UNKNOWN }
}

/// Those that a pool can have values of its own for, by name, with Ceph's defaults: what `rbd config pool ls` shows.
///
/// Ceph: `src/common/options/rbd.yaml.in`, and the exceptions of `Options` in `src/librbd/api/Config.cc`.
pub(super) const OPTIONS: &[KnownOption] = &[
    image("rbd_atime_update_interval", Count, "60"),
    image("rbd_balance_parent_reads", Bool, "false"),
    image("rbd_balance_snap_reads", Bool, "false"),
    image("rbd_blkin_trace_all", Bool, "false"),
    image("rbd_blocklist_expire_seconds", Count, "0"),
    image("rbd_blocklist_on_break_lock", Bool, "true"),
    image("rbd_cache", Bool, "true"),
    image("rbd_cache_block_writes_upfront", Bool, "false"),
    image("rbd_cache_max_dirty", Size, "25165824"),
    image("rbd_cache_max_dirty_age", Float, "1.000000"),
    image("rbd_cache_max_dirty_object", Count, "0"),
    image("rbd_cache_policy", OneOf(&["writethrough", "writeback", "writearound"]), "writearound"),
    image("rbd_cache_size", Size, "33554432"),
    image("rbd_cache_target_dirty", Size, "16777216"),
    image("rbd_cache_writethrough_until_flush", Bool, "false"),
    image("rbd_clone_copy_on_read", Bool, "false"),
    image("rbd_compression_hint", OneOf(&["none", "compressible", "incompressible"]), "none"),
    image("rbd_concurrent_management_ops", Count, "10"),
    pool("rbd_default_clone_format", OneOf(&["1", "2", "auto"]), "auto"),
    pool("rbd_default_data_pool", Text, ""),
    pool("rbd_default_features", Text, "61"),
    image("rbd_default_map_options", Text, ""),
    pool("rbd_default_order", Count, "22"),
    image("rbd_default_snapshot_quiesce_mode", OneOf(&["required", "ignore-error", "skip"]), "required"),
    pool("rbd_default_stripe_count", Count, "0"),
    pool("rbd_default_stripe_unit", Size, "0"),
    image("rbd_disable_zero_copy_writes", Bool, "true"),
    image("rbd_discard_granularity_bytes", Count, "65536"),
    image("rbd_enable_alloc_hint", Bool, "true"),
    image("rbd_invalidate_object_map_on_timeout", Bool, "true"),
    image("rbd_io_scheduler", OneOf(&["none", "simple"]), "simple"),
    image("rbd_io_scheduler_simple_max_delay", Count, "0"),
    image("rbd_journal_commit_age", Float, "5.000000"),
    image("rbd_journal_max_concurrent_object_sets", Count, "0"),
    image("rbd_journal_max_payload_bytes", Size, "16384"),
    image("rbd_journal_object_flush_age", Float, "0.000000"),
    image("rbd_journal_object_flush_bytes", Size, "1048576"),
    image("rbd_journal_object_flush_interval", Count, "0"),
    image("rbd_journal_object_max_in_flight_appends", Count, "0"),
    image("rbd_journal_object_writethrough_until_flush", Bool, "true"),
    pool("rbd_journal_order", Count, "24"),
    pool("rbd_journal_pool", Text, ""),
    pool("rbd_journal_splay_width", Count, "4"),
    image("rbd_localize_parent_reads", Bool, "false"),
    image("rbd_localize_snap_reads", Bool, "false"),
    pool("rbd_mirror_concurrent_image_deletions", Count, "1"),
    pool("rbd_mirror_concurrent_image_syncs", Count, "5"),
    pool("rbd_mirror_delete_retry_interval", Float, "30.000000"),
    pool("rbd_mirror_image_perf_stats_prio", Integer, "5"),
    pool("rbd_mirror_image_policy_migration_throttle", Count, "300"),
    pool("rbd_mirror_image_policy_rebalance_timeout", Float, "0.000000"),
    pool("rbd_mirror_image_policy_type", OneOf(&["none", "simple"]), "simple"),
    pool("rbd_mirror_image_policy_update_throttle_interval", Float, "1.000000"),
    pool("rbd_mirror_image_state_check_interval", Count, "30"),
    pool("rbd_mirror_journal_commit_age", Float, "5.000000"),
    pool("rbd_mirror_journal_poll_age", Float, "5.000000"),
    pool("rbd_mirror_leader_heartbeat_interval", Count, "5"),
    pool("rbd_mirror_leader_max_acquire_attempts_before_break", Count, "3"),
    pool("rbd_mirror_leader_max_missed_heartbeats", Count, "2"),
    pool("rbd_mirror_memory_autotune", Bool, "true"),
    pool("rbd_mirror_memory_base", Size, "805306368"),
    pool("rbd_mirror_memory_cache_autotune_interval", Float, "30.000000"),
    pool("rbd_mirror_memory_cache_min", Size, "134217728"),
    pool("rbd_mirror_memory_cache_resize_interval", Float, "5.000000"),
    pool("rbd_mirror_memory_expected_fragmentation", Float, "0.150000"),
    pool("rbd_mirror_memory_target", Size, "4294967296"),
    pool("rbd_mirror_perf_stats_prio", Integer, "5"),
    pool("rbd_mirror_sync_point_update_age", Float, "30.000000"),
    image("rbd_mirroring_delete_delay", Count, "0"),
    image("rbd_mirroring_max_mirroring_snapshots", Count, "5"),
    image("rbd_mirroring_replay_delay", Count, "0"),
    image("rbd_mirroring_resync_after_disconnect", Bool, "false"),
    image("rbd_move_parent_to_trash_on_remove", Bool, "false"),
    image("rbd_move_to_trash_on_remove", Bool, "false"),
    image("rbd_move_to_trash_on_remove_expire_seconds", Count, "0"),
    image("rbd_mtime_update_interval", Count, "60"),
    image("rbd_non_blocking_aio", Bool, "true"),
    image("rbd_parent_cache_enabled", Bool, "false"),
    image("rbd_persistent_cache_mode", OneOf(&["disabled", "rwl", "ssd"]), "disabled"),
    image("rbd_persistent_cache_path", Text, "/tmp"),
    image("rbd_persistent_cache_size", Count, "1073741824"),
    image("rbd_plugins", Text, ""),
    image("rbd_qos_bps_burst", Count, "0"),
    image("rbd_qos_bps_burst_seconds", Count, "1"),
    image("rbd_qos_bps_limit", Count, "0"),
    KnownOption { since: Release::QUINCY, ..image("rbd_qos_exclude_ops", Flags(IO_OPERATIONS), "0") },
    image("rbd_qos_iops_burst", Count, "0"),
    image("rbd_qos_iops_burst_seconds", Count, "1"),
    image("rbd_qos_iops_limit", Count, "0"),
    image("rbd_qos_read_bps_burst", Count, "0"),
    image("rbd_qos_read_bps_burst_seconds", Count, "1"),
    image("rbd_qos_read_bps_limit", Count, "0"),
    image("rbd_qos_read_iops_burst", Count, "0"),
    image("rbd_qos_read_iops_burst_seconds", Count, "1"),
    image("rbd_qos_read_iops_limit", Count, "0"),
    image("rbd_qos_schedule_tick_min", Count, "50"),
    image("rbd_qos_write_bps_burst", Count, "0"),
    image("rbd_qos_write_bps_burst_seconds", Count, "1"),
    image("rbd_qos_write_bps_limit", Count, "0"),
    image("rbd_qos_write_iops_burst", Count, "0"),
    image("rbd_qos_write_iops_burst_seconds", Count, "1"),
    image("rbd_qos_write_iops_limit", Count, "0"),
    image("rbd_quiesce_notification_attempts", Count, "10"),
    image("rbd_read_from_replica_policy", OneOf(&["default", "balance", "localize"]), "default"),
    image("rbd_readahead_disable_after_bytes", Size, "52428800"),
    image("rbd_readahead_max_bytes", Size, "524288"),
    image("rbd_readahead_trigger_requests", Count, "10"),
    image("rbd_request_timed_out_seconds", Count, "30"),
    image("rbd_skip_partial_discard", Bool, "true"),
    image("rbd_sparse_read_threshold_bytes", Size, "65536"),
];
