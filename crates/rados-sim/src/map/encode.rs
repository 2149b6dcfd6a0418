//! Encodes maps as monitors of Ceph 16 do. Ceph: `OSDMap::encode`, `OSDMap::Incremental::encode` in
//! `src/osd/OSDMap.cc`, `pg_pool_t::encode` in `src/osd/osd_types.cc`, `CrushWrapper::encode`.

use std::collections::BTreeMap;

use ceph_codec::{
    Encode, EntityAddr, EntityAddrVec, OsdId, PgId, PoolId, SnapId, Utime, crc32c, encode_bytes, encode_seq,
    versioned,
};

use super::{ClusterMap, MapOsd, MapPool};

const EXISTS: u32 = 1;
const UP: u32 = 2;
/// Pacific.
const RELEASE: u8 = 16;

fn len(n: usize) -> u32 {
    u32::try_from(n).expect("a simulated cluster is small")
}

fn list<T>(items: impl ExactSizeIterator<Item = T>, out: &mut Vec<u8>, one: impl Fn(T, &mut Vec<u8>)) {
    len(items.len()).encode(out);
    items.for_each(|item| one(item, out));
}

fn none(out: &mut Vec<u8>) {
    0u32.encode(out);
}

impl ClusterMap {
    /// The full map on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        enveloped(
            |out| {
                versioned(out, 9, 1, |out| self.encode_client_section(out));
                let version = if self.range_blocklist.is_empty() { 9 } else { 11 };
                versioned(out, version, 1, |out| self.encode_osd_section(out));
            },
            None,
        )
    }

    fn encode_client_section(&self, out: &mut Vec<u8>) {
        self.fsid.encode(out);
        self.epoch.encode(out);
        Utime { sec: 1, nsec: 0 }.encode(out); // created
        self.modified.encode(out);
        list(self.pools.iter(), out, |(id, pool), out| {
            id.encode(out);
            pool.encode(out);
        });
        list(self.pools.iter(), out, |(id, pool), out| {
            id.encode(out);
            pool.name.encode(out);
        });
        self.pool_max.encode(out);
        self.flags.encode(out);
        len(self.osds.len()).encode(out);
        list(self.osds.iter(), out, |osd, out| (EXISTS | if osd.up { UP } else { 0 }).encode(out));
        list(self.osds.iter(), out, |osd, out| osd.weight.encode(out));
        list(self.osds.iter(), out, |osd, out| EntityAddrVec::from(osd.addr).encode(out));
        list(self.pg_temp.iter(), out, |(pg, osds), out| {
            pg.encode(out);
            encode_seq(osds.iter(), out);
        });
        self.primary_temp.encode(out);
        list(self.osds.iter(), out, |osd, out| osd.primary_affinity.encode(out));
        encode_bytes(&self.encode_crush(), out);
        none(out); // erasure_code_profiles
        none(out); // pg_upmap
        list(self.pg_upmap_items.iter(), out, |(pg, items), out| {
            pg.encode(out);
            encode_seq(items.iter(), out);
        });
        self.crush_version.encode(out);
        encode_snaps(&self.new_removed_snaps, out);
        none(out); // new_purged_snaps
        Utime::default().encode(out); // last_up_change
        Utime::default().encode(out); // last_in_change
    }

    fn encode_osd_section(&self, out: &mut Vec<u8>) {
        let addrs = |out: &mut Vec<u8>| {
            list(self.osds.iter(), out, |osd, out| EntityAddrVec::from(osd.addr).encode(out));
        };
        addrs(out); // hb_back_addrs
        list(self.osds.iter(), out, |_, out| {
            1u8.encode(out);
            out.extend_from_slice(&[0; 24]);
        });
        self.blocklist.encode(out);
        addrs(out); // cluster_addrs
        0u32.encode(out); // cluster_snapshot_epoch
        "".encode(out); // cluster_snapshot
        list(self.osds.iter(), out, |_, out| out.extend_from_slice(&[7; 16])); // osd_uuid
        list(self.osds.iter(), out, |_, out| encode_xinfo(out));
        addrs(out); // hb_front_addrs
        for ratio in [0.85f32, 0.95, 0.9] {
            ratio.to_bits().encode(out);
        }
        0u8.encode(out); // require_min_compat_client
        RELEASE.encode(out);
        none(out); // removed_snaps_queue
        none(out); // crush_node_flags
        none(out); // device_class_flags
        if !self.range_blocklist.is_empty() {
            out.extend_from_slice(&[0; 17]); // stretch mode
            self.range_blocklist.encode(out);
        }
    }

    /// One root with all OSDs, and a rule that takes them from there.
    fn encode_crush(&self) -> Vec<u8> {
        const ROOT: i32 = -1;
        const ROOT_TYPE: u16 = 11;
        const STRAW2: u8 = 5;
        let out = &mut Vec::new();
        for n in [0x0001_0000, 1, 1, len(self.osds.len())] {
            n.encode(out); // magic, max_buckets, max_rules, max_devices
        }
        u32::from(STRAW2).encode(out);
        ROOT.encode(out);
        ROOT_TYPE.encode(out);
        STRAW2.encode(out);
        0u8.encode(out); // rjenkins
        self.crush_weights.iter().sum::<u32>().encode(out);
        list(0..self.osds.len(), out, |osd, out| len(osd).encode(out));
        self.crush_weights.iter().for_each(|weight| weight.encode(out));

        1u32.encode(out);
        3u32.encode(out);
        out.extend_from_slice(&[0, 1, 1, 100]); // ruleset, replicated, min_size, max_size
        for (op, arg1, arg2) in [(1, ROOT, 0), (2, 0, 0), (4, 0, 0)] {
            (op, (arg1, arg2)).encode(out); // take, choose firstn 0 osd, emit
        }
        BTreeMap::from([(0i32, "osd"), (ROOT_TYPE.into(), "root")]).encode(out);
        let mut names = BTreeMap::from([(ROOT, "default".to_owned())]);
        names.extend((0i32..).zip(&self.osds).map(|(i, _)| (i, format!("osd.{i}"))));
        names.encode(out);
        BTreeMap::from([(0i32, "replicated_rule")]).encode(out);

        for tunable in [0u32, 0, 50, 1] {
            tunable.encode(out);
        }
        out.extend_from_slice(&[1, 1]); // chooseleaf_vary_r, straw_calc_version
        54u32.encode(out); // allowed_bucket_algs
        1u8.encode(out); // chooseleaf_stable
        (0..3).for_each(|_| none(out)); // device classes
        none(out); // choose_args
        std::mem::take(out)
    }

    /// What leads from `before` to this map, which must be the next epoch.
    #[must_use]
    pub fn encode_incremental(&self, before: &Self) -> Vec<u8> {
        let full = self.encode();
        let full_crc = *full.last_chunk().expect("a map is longer");
        enveloped(
            |out| {
                versioned(out, 8, 1, |out| self.encode_changes(before, out));
                let ranges = self.range_blocklist != before.range_blocklist;
                versioned(out, if ranges { 11 } else { 9 }, 1, |out| {
                    self.encode_osd_changes(before, ranges, out);
                });
            },
            Some(full_crc),
        )
    }

    fn encode_changes(&self, before: &Self, out: &mut Vec<u8>) {
        self.fsid.encode(out);
        self.epoch.encode(out);
        self.modified.encode(out);
        let pool_max = if self.pool_max == before.pool_max { -1 } else { i64::from(self.pool_max) };
        pool_max.encode(out);
        let flags = if self.flags == before.flags { -1 } else { self.flags.cast_signed() };
        flags.encode(out);
        encode_bytes(&[], out); // full map
        let crush_changed = self.crush_weights != before.crush_weights;
        encode_bytes(&if crush_changed { self.encode_crush() } else { Vec::new() }, out);
        let max_osd =
            if self.osds.len() == before.osds.len() { -1 } else { len(self.osds.len()).cast_signed() };
        max_osd.encode(out);
        let pools: Vec<_> =
            self.pools.iter().filter(|(id, pool)| before.pools.get(id) != Some(pool)).collect();
        list(pools.iter(), out, |(id, pool), out| {
            id.encode(out);
            pool.encode(out);
        });
        let renamed =
            |id: &PoolId, pool: &MapPool| before.pools.get(id).map(|old| &old.name) != Some(&pool.name);
        let names: Vec<_> = pools.iter().filter(|(id, pool)| renamed(id, pool)).collect();
        list(names.iter(), out, |(id, pool), out| {
            id.encode(out);
            pool.name.encode(out);
        });
        let gone: Vec<PoolId> =
            before.pools.keys().filter(|id| !self.pools.contains_key(id)).copied().collect();
        encode_seq(gone.iter(), out);
        self.encode_osd_states(before, out);
        let mut temps: BTreeMap<PgId, &[OsdId]> = BTreeMap::new();
        temps.extend(
            before.pg_temp.keys().filter(|pg| !self.pg_temp.contains_key(pg)).map(|pg| (*pg, &[][..])),
        );
        temps.extend(
            self.pg_temp
                .iter()
                .filter(|(pg, osds)| before.pg_temp.get(pg) != Some(osds))
                .map(|(pg, osds)| (*pg, &osds[..])),
        );
        list(temps.iter(), out, |(pg, osds), out| {
            pg.encode(out);
            encode_seq(osds.iter(), out);
        });
        changes(&before.primary_temp, &self.primary_temp, OsdId(-1)).encode(out);
        self.osd_changes(before, |osd| osd.primary_affinity).encode(out);
        none(out); // new_erasure_code_profiles
        none(out); // old_erasure_code_profiles
        none(out); // new_pg_upmap
        none(out); // old_pg_upmap
        let items: Vec<_> = (self.pg_upmap_items.iter())
            .filter(|(pg, items)| before.pg_upmap_items.get(pg) != Some(items))
            .collect();
        list(items.iter(), out, |(pg, items), out| {
            pg.encode(out);
            encode_seq(items.iter(), out);
        });
        let gone: Vec<PgId> = before
            .pg_upmap_items
            .keys()
            .filter(|pg| !self.pg_upmap_items.contains_key(pg))
            .copied()
            .collect();
        encode_seq(gone.iter(), out);
        encode_snaps(&self.new_removed_snaps, out);
        none(out); // new_purged_snaps
        Utime::default().encode(out); // new_last_up_change
        Utime::default().encode(out); // new_last_in_change
    }

    /// `new_up_client`, `new_state` and `new_weight`.
    fn encode_osd_states(&self, before: &Self, out: &mut Vec<u8>) {
        let mut up = BTreeMap::new();
        let mut flipped = BTreeMap::new();
        for (id, osd) in (0i32..).zip(&self.osds) {
            let old = before.osds.get(usize::try_from(id).unwrap_or(0));
            let was_up = old.is_some_and(|old| old.up);
            let came_up = osd.up && old.is_none_or(|old| !old.up || old.addr != osd.addr);
            if came_up {
                up.insert(OsdId(id), EntityAddrVec::from(osd.addr));
            }
            // One that is back at another address went down in between.
            if was_up && (came_up || !osd.up) {
                flipped.insert(OsdId(id), UP);
            }
            if old.is_none() && !osd.up {
                flipped.insert(OsdId(id), EXISTS);
            }
        }
        up.encode(out);
        flipped.encode(out);
        self.osd_changes(before, |osd| osd.weight).encode(out);
    }

    fn osd_changes(&self, before: &Self, of: impl Fn(&MapOsd) -> u32) -> BTreeMap<OsdId, u32> {
        let numbered = (0i32..).map(OsdId).zip(&self.osds).enumerate();
        numbered
            .filter(|(i, (_, osd))| before.osds.get(*i).map(&of) != Some(of(osd)))
            .map(|(_, (id, osd))| (id, of(osd)))
            .collect()
    }

    fn encode_osd_changes(&self, before: &Self, ranges: bool, out: &mut Vec<u8>) {
        // new_hb_back_up, new_up_thru, new_last_clean_interval, new_lost
        (0..4).for_each(|_| none(out));
        encode_list_changes(&before.blocklist, &self.blocklist, out);
        none(out); // new_up_cluster
        "".encode(out); // cluster_snapshot
        none(out); // new_uuid
        none(out); // new_xinfo
        none(out); // new_hb_front_up
        0u64.encode(out); // encode_features
        for _ in 0..3 {
            (-1f32).to_bits().encode(out); // ratios
        }
        out.extend_from_slice(&[0xff, 0xff]); // new_require_min_compat_client, new_require_osd_release
        none(out); // new_crush_node_flags
        none(out); // new_device_class_flags
        if ranges {
            out.extend_from_slice(&[0; 18]); // stretch mode
            encode_list_changes(&before.range_blocklist, &self.range_blocklist, out);
        }
    }
}

/// New and changed entries, and `removed` for those that are gone.
fn changes<K: Ord + Copy, V: PartialEq + Copy>(
    before: &BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    removed: V,
) -> BTreeMap<K, V> {
    let gone = before.keys().filter(|key| !now.contains_key(key)).map(|key| (*key, removed));
    let new =
        now.iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(key, value)| (*key, *value));
    gone.chain(new).collect()
}

fn encode_list_changes(
    before: &BTreeMap<EntityAddr, Utime>,
    now: &BTreeMap<EntityAddr, Utime>,
    out: &mut Vec<u8>,
) {
    let new: BTreeMap<_, _> = now.iter().filter(|(addr, _)| !before.contains_key(addr)).collect();
    new.encode(out);
    let gone: Vec<&EntityAddr> = before.keys().filter(|addr| !now.contains_key(addr)).collect();
    encode_seq(gone.iter(), out);
}

fn encode_snaps(snaps: &BTreeMap<PoolId, Vec<(SnapId, u64)>>, out: &mut Vec<u8>) {
    list(snaps.iter(), out, |(pool, intervals), out| {
        pool.encode(out);
        encode_seq(intervals.iter(), out);
    });
}

fn encode_xinfo(out: &mut Vec<u8>) {
    versioned(out, 4, 1, |out| {
        Utime::default().encode(out); // down_stamp
        (0u32, 0u32).encode(out); // laggy_probability, laggy_interval
        0u64.encode(out); // features
        0u32.encode(out); // old_weight
        Utime::default().encode(out); // last_purged_snaps_scrub
        0u32.encode(out); // dead_epoch
    });
}

impl Encode for MapPool {
    fn encode(&self, out: &mut Vec<u8>) {
        let no_tier = PoolId(-1);
        versioned(out, 29, 5, |out| {
            out.extend_from_slice(&[1, self.size, 0, 2]); // replicated, size, crush_rule, rjenkins
            (self.pg_num, self.pgp_num).encode(out);
            (0u32, 0u32).encode(out); // lpg_num, lpgp_num
            self.last_change.encode(out);
            SnapId(0).encode(out); // snap_seq
            0u32.encode(out); // snap_epoch
            none(out); // snaps
            none(out); // removed_snaps
            0u64.encode(out); // auid
            self.flags.encode(out);
            0u32.encode(out); // crash_replay_interval
            self.min_size.encode(out);
            (self.quota_max_bytes, 0u64).encode(out);
            none(out); // tiers
            no_tier.encode(out); // tier_of
            0u8.encode(out); // cache_mode
            self.read_tier.encode(out);
            self.write_tier.encode(out);
            none(out); // properties
            versioned(out, 1, 1, |out| 0u8.encode(out)); // hit_set_params
            out.extend_from_slice(&[0; 8]); // hit_set_period, hit_set_count
            0u32.encode(out); // stripe_width
            out.extend_from_slice(&[0; 32]); // cache tier targets
            "".encode(out); // erasure_code_profile
            self.last_force_op_resend.encode(out); // preluminous
            out.extend_from_slice(&[0; 22]); // min_read_recency_for_promote to fast_read
            out.extend_from_slice(&[0; 8]); // hit_set_grade_decay_rate, hit_set_search_last_n
            versioned(out, 1, 1, none); // opts
            self.last_force_op_resend.encode(out); // prenautilus
            none(out); // application_metadata
            Utime::default().encode(out); // create_time
            (self.pg_num, self.pgp_num).encode(out); // targets
            self.pg_num_pending.encode(out);
            out.extend_from_slice(&[0; 8]); // epochs of the last merge
            self.last_force_op_resend.encode(out);
            0u8.encode(out); // pg_autoscale_mode
            versioned(out, 1, 1, |out| {
                PgId { pool: no_tier, seed: 0 }.encode(out);
                out.extend_from_slice(&[0; 3 * 4 + 2 * 12]); // epochs and versions of the last merge
            });
        });
    }
}

/// The envelope with its checksum. `full_crc` follows it in incrementals.
fn enveloped(sections: impl FnOnce(&mut Vec<u8>), full_crc: Option<[u8; 4]>) -> Vec<u8> {
    let mut crc_at = 0;
    let mut out = Vec::new();
    versioned(&mut out, 8, 7, |out| {
        sections(out);
        crc_at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend(full_crc.into_iter().flatten());
    });
    let crc = crc32c(crc32c(u32::MAX, &out[..crc_at]), &out[crc_at + 4..]);
    out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    out
}
