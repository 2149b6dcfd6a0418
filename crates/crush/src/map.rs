//! The map: buckets, rules, names and tunables, as monitors send them.

use std::collections::BTreeMap;

use ceph_codec::{Decode, DecodeError, Reader};

use crate::bucket::{Algorithm, Bucket, ChooseArg};

const MAGIC: u32 = 0x0001_0000;

/// A CRUSH map: the hierarchy of a cluster's devices and the rules that choose among them. The default has none.
///
/// ```text
/// u32 magic | i32 max_buckets | u32 max_rules | i32 max_devices
/// bucket * max_buckets     u32 alg, 0 for none | i32 id | u16 type | u8 alg | u8 hash | u32 weight | items | per alg
/// rule * max_rules         u32 yes | u32 len | u8 * 4 | (u32 op, i32 arg1, i32 arg2) * len
/// names of types, items, rules
/// tunables, device classes, choose_args               each optional, in the order they came into being
/// ```
/// Ceph: `CrushWrapper::decode` in `src/crush/CrushWrapper.cc`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CrushMap {
    /// Bucket `-1 - i` at index `i`.
    pub buckets: Vec<Option<Bucket>>,
    /// Rules by number.
    pub rules: Vec<Option<Rule>>,
    /// Devices are numbered below this.
    pub max_devices: i32,
    /// Names of the levels of the hierarchy: 0 `osd`, 1 `host`, ...
    pub types: BTreeMap<i32, String>,
    /// Names of devices and buckets.
    pub item_names: BTreeMap<i32, String>,
    /// Names of rules.
    pub rule_names: BTreeMap<i32, String>,
    /// Parameters of the mapper.
    pub tunables: Tunables,
    /// Device classes.
    pub classes: DeviceClasses,
    /// Replacements for the weights and ids of straw2 buckets, by pool; -1 is for pools without their own.
    /// The inner key is the index in [`buckets`](Self::buckets).
    pub choose_args: BTreeMap<i64, BTreeMap<u32, ChooseArg>>,
}

/// How to get from an input to devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What the rule is for.
    pub kind: RuleKind,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// What a rule is for. Ceph: `crush_rule_type` in `src/crush/crush.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleKind(pub u8);

impl RuleKind {
    /// Replicated pools.
    pub const REPLICATED: Self = Self(1);
    /// Erasure-coded pools.
    pub const ERASURE: Self = Self(3);
    /// Multi-step retry, results move up over holes.
    pub const MSR_FIRSTN: Self = Self(4);
    /// Multi-step retry, results keep their places.
    pub const MSR_INDEP: Self = Self(5);
}

/// One step of a rule. Ceph: `crush_opcodes` in `src/crush/crush.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Start from this device or bucket.
    Take(i32),
    /// Choose `count` items of a level below each item so far; 0 or less counts from the size of the result.
    Choose {
        /// How many for each item.
        count: i32,
        /// The level, see [`Bucket::level`].
        level: i32,
        /// What holes do.
        mode: Mode,
        /// Descend from each to one device.
        leaf: bool,
    },
    /// Append the items so far to the result.
    Emit,
    /// Sets the number of descents for one item, if positive.
    SetChooseTries(i32),
    /// Sets the number of descents for one leaf, if positive.
    SetChooseleafTries(i32),
    /// Sets [`Tunables::choose_local_tries`], if not negative.
    SetChooseLocalTries(i32),
    /// Sets [`Tunables::choose_local_fallback_tries`], if not negative.
    SetChooseLocalFallbackTries(i32),
    /// Sets [`Tunables::chooseleaf_vary_r`], if not negative.
    SetChooseleafVaryR(i32),
    /// Sets [`Tunables::chooseleaf_stable`], if not negative.
    SetChooseleafStable(i32),
    /// Sets [`Tunables::msr_descents`].
    SetMsrDescents(i32),
    /// Sets [`Tunables::msr_collision_tries`].
    SetMsrCollisionTries(i32),
    /// Choose in a multi-step retry rule; the fields are those of [`Step::Choose`].
    ChooseMsr {
        /// How many for each item; 0 is the size of the result.
        count: i32,
        /// The level, see [`Bucket::level`].
        level: i32,
    },
    /// Does nothing, or nothing known here.
    Other(u32),
}

/// What happens to positions for which nothing is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Later items move up: replicas are alike.
    Firstn,
    /// They become [`ITEM_NONE`](crate::ITEM_NONE): shards are not alike.
    Indep,
}

/// Parameters of the mapper. Ceph: `crush_map` in `src/crush/crush.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunables {
    /// Retries in the same bucket after a collision.
    pub choose_local_tries: u32,
    /// Retries with a permutation of the same bucket.
    pub choose_local_fallback_tries: u32,
    /// Retries of the whole descent.
    pub choose_total_tries: u32,
    /// One descent only for each leaf, the rest by the caller.
    pub chooseleaf_descend_once: bool,
    /// Feed the outer attempt into the inner choice: 0 not, else shifted right by this less one.
    pub chooseleaf_vary_r: u8,
    /// How straws were computed; matters only to those who edit the map.
    pub straw_calc_version: u8,
    /// Bucket algorithms allowed in new buckets; matters only to those who edit the map.
    pub allowed_bucket_algs: u32,
    /// Inner choices do not depend on the outer position.
    pub chooseleaf_stable: u8,
    /// Descents of a multi-step retry rule.
    pub msr_descents: u32,
    /// Retries after a collision in a multi-step retry rule.
    pub msr_collision_tries: u32,
}

/// Device classes, and the shadow hierarchies that hold one class each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceClasses {
    /// Class of each device.
    pub of_device: BTreeMap<i32, i32>,
    /// Names of the classes.
    pub names: BTreeMap<i32, String>,
    /// For each bucket and class the shadow bucket.
    pub shadow_buckets: BTreeMap<i32, BTreeMap<i32, i32>>,
}

impl CrushMap {
    /// The bucket of that number.
    #[must_use]
    pub fn bucket(&self, id: i32) -> Option<&Bucket> {
        self.buckets.get(usize::try_from(-1 - i64::from(id)).ok()?)?.as_ref()
    }

    /// The rule of that number.
    #[must_use]
    pub fn rule(&self, number: u32) -> Option<&Rule> {
        self.rules.get(usize::try_from(number).ok()?)?.as_ref()
    }

    /// The name of a device's class.
    #[must_use]
    pub fn device_class(&self, device: i32) -> Option<&str> {
        let class = self.classes.of_device.get(&device)?;
        self.classes.names.get(class).map(String::as_str)
    }
}

impl Default for Tunables {
    /// What a map means that is too old to say: those of the argonaut release.
    fn default() -> Self {
        Self {
            choose_local_tries: 2,
            choose_local_fallback_tries: 5,
            choose_total_tries: 19,
            chooseleaf_descend_once: false,
            chooseleaf_vary_r: 0,
            straw_calc_version: 0,
            allowed_bucket_algs: 1 << UNIFORM | 1 << LIST | 1 << STRAW,
            chooseleaf_stable: 0,
            msr_descents: 100,
            msr_collision_tries: 100,
        }
    }
}

impl Decode for CrushMap {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let magic = u32::decode(r)?;
        if magic != MAGIC {
            return Err(DecodeError::Invalid { what: "magic of the crush map", value: magic.into() });
        }
        let max_buckets = u32::decode(r)?;
        let max_rules = u32::decode(r)?;
        let max_devices = i32::decode(r)?;

        // The counts above come before other fields, so they bound loops (which end with the input), no allocation.
        let mut buckets = Vec::new();
        for index in 0..max_buckets {
            buckets.push(decode_bucket(r, index)?);
        }
        let mut rules = Vec::new();
        for _ in 0..max_rules {
            rules.push(if u32::decode(r)? == 0 { None } else { Some(Rule::decode(r)?) });
        }
        let types = decode_names(r)?;
        let item_names = decode_names(r)?;
        let rule_names = decode_names(r)?;

        let mut tunables = Tunables::default();
        tunables.decode_classic(r)?;
        let classes = if r.is_empty() { DeviceClasses::default() } else { DeviceClasses::decode(r)? };
        let choose_args = if r.is_empty() { BTreeMap::new() } else { decode_choose_args(r, &buckets)? };
        if !r.is_empty() {
            tunables.msr_descents = u32::decode(r)?;
            tunables.msr_collision_tries = u32::decode(r)?;
        }
        Ok(Self {
            buckets,
            rules,
            max_devices,
            types,
            item_names,
            rule_names,
            tunables,
            classes,
            choose_args,
        })
    }
}

const UNIFORM: u32 = 1;
const LIST: u32 = 2;
const TREE: u32 = 3;
const STRAW: u32 = 4;
const STRAW2: u32 = 5;

fn decode_bucket(r: &mut Reader<'_>, index: u32) -> Result<Option<Bucket>, DecodeError> {
    let kind = u32::decode(r)?;
    if kind == 0 {
        return Ok(None);
    }
    let id = i32::decode(r)?;
    if id != -1 - index.cast_signed() {
        return Err(DecodeError::Invalid { what: "id of a bucket", value: id.cast_unsigned().into() });
    }
    let level = u16::decode(r)?;
    let same_kind = u8::decode(r)?;
    if u32::from(same_kind) != kind {
        return Err(DecodeError::Invalid { what: "algorithm of a bucket", value: same_kind.into() });
    }
    let hash = u8::decode(r)?;
    let weight = u32::decode(r)?;
    let items = r.seq("items of a bucket", i32::decode)?;
    let len = items.len();
    let alg = match kind {
        UNIFORM => {
            u32::decode(r)?; // the weight that all items share
            Algorithm::Uniform
        }
        LIST => Algorithm::List { weights: exactly(r, len, Decode::decode)? },
        TREE => {
            let nodes = u8::decode(r)?;
            Algorithm::Tree { nodes: exactly(r, nodes.into(), u32::decode)? }
        }
        STRAW => Algorithm::Straw { straws: exactly(r, len, |r| Ok(<(u32, u32)>::decode(r)?.1))? },
        STRAW2 => Algorithm::Straw2 { weights: exactly(r, len, u32::decode)? },
        other => return Err(DecodeError::Invalid { what: "algorithm of a bucket", value: other.into() }),
    };
    Ok(Some(Bucket { id, level, hash, weight, items, alg }))
}

/// Reads elements as many as something already read; such a count may size an allocation.
fn exactly<'a, T>(
    r: &mut Reader<'a>,
    count: usize,
    mut element: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(element(r)?);
    }
    Ok(out)
}

impl Decode for Rule {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = u32::decode(r)?;
        // ruleset, type, min_size, max_size: all but the type are retired
        let [_, kind, _, _] = r.array("header of a rule")?;
        let mut steps = Vec::new();
        for _ in 0..len {
            steps.push(Step::decode(r)?);
        }
        Ok(Self { kind: RuleKind(kind), steps })
    }
}

impl Decode for Step {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let op = u32::decode(r)?;
        let (arg1, arg2) = <(i32, i32)>::decode(r)?;
        let choose = |mode, leaf| Self::Choose { count: arg1, level: arg2, mode, leaf };
        Ok(match op {
            1 => Self::Take(arg1),
            2 => choose(Mode::Firstn, false),
            3 => choose(Mode::Indep, false),
            4 => Self::Emit,
            6 => choose(Mode::Firstn, true),
            7 => choose(Mode::Indep, true),
            8 => Self::SetChooseTries(arg1),
            9 => Self::SetChooseleafTries(arg1),
            10 => Self::SetChooseLocalTries(arg1),
            11 => Self::SetChooseLocalFallbackTries(arg1),
            12 => Self::SetChooseleafVaryR(arg1),
            13 => Self::SetChooseleafStable(arg1),
            14 => Self::SetMsrDescents(arg1),
            15 => Self::SetMsrCollisionTries(arg1),
            16 => Self::ChooseMsr { count: arg1, level: arg2 },
            other => Self::Other(other),
        })
    }
}

/// Names are never empty: where the length is 0, the key was written in 64 bits and this is its upper half.
fn decode_names(r: &mut Reader<'_>) -> Result<BTreeMap<i32, String>, DecodeError> {
    r.map("names in the crush map", |r| {
        let mut name = r.bytes("name in the crush map")?;
        if name.is_empty() {
            name = r.bytes("name in the crush map")?;
        }
        Ok(String::from_utf8_lossy(name).into_owned())
    })
}

impl Tunables {
    fn decode_classic(&mut self, r: &mut Reader<'_>) -> Result<(), DecodeError> {
        if !r.is_empty() {
            self.choose_local_tries = u32::decode(r)?;
            self.choose_local_fallback_tries = u32::decode(r)?;
            self.choose_total_tries = u32::decode(r)?;
        }
        if !r.is_empty() {
            self.chooseleaf_descend_once = u32::decode(r)? != 0;
        }
        if !r.is_empty() {
            self.chooseleaf_vary_r = u8::decode(r)?;
        }
        if !r.is_empty() {
            self.straw_calc_version = u8::decode(r)?;
        }
        if !r.is_empty() {
            self.allowed_bucket_algs = u32::decode(r)?;
        }
        if !r.is_empty() {
            self.chooseleaf_stable = u8::decode(r)?;
        }
        Ok(())
    }
}

impl Decode for DeviceClasses {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            of_device: BTreeMap::decode(r)?,
            names: r.map("device classes", |r| {
                Ok(String::from_utf8_lossy(r.bytes("device class")?).into_owned())
            })?,
            shadow_buckets: BTreeMap::decode(r)?,
        })
    }
}

fn decode_choose_args(
    r: &mut Reader<'_>,
    buckets: &[Option<Bucket>],
) -> Result<BTreeMap<i64, BTreeMap<u32, ChooseArg>>, DecodeError> {
    r.map("choose_args", |r| {
        let count = r.count("buckets of choose_args", 12)?;
        let mut args = BTreeMap::new();
        for _ in 0..count {
            let index = u32::decode(r)?;
            let weight_sets = r.seq("weight sets", |r| r.seq("weight set", u32::decode))?;
            let ids = r.seq("ids of choose_args", i32::decode)?;
            let Some(bucket) = buckets.get(index as usize) else {
                return Err(DecodeError::Invalid { what: "bucket of choose_args", value: index.into() });
            };
            // Maps edited by old monitors may keep arguments of buckets that were removed.
            let Some(bucket) = bucket else { continue };
            if !ids.is_empty() && ids.len() != bucket.items.len() {
                return Err(DecodeError::Invalid { what: "ids of choose_args", value: ids.len() as u64 });
            }
            args.insert(index, ChooseArg { weight_sets, ids });
        }
        Ok(args)
    })
}
