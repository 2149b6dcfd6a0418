//! What a new image is to be like: the options that `create`, `clone`, `copy` and `import` share.

use clap::Args as ClapArgs;
use rbd::{CreateOptions, Features};

use crate::size;

/// Ceph: `add_create_image_options` in `src/tools/rbd/ArgumentTypes.cc`.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct NewImageArgs {
    /// Binary logarithm of the object size, 12 to 25
    #[arg(long, value_name = "N", hide = true)]
    order: Option<u8>,
    /// Size of the objects: 4K to 32M
    #[arg(long, value_name = "SIZE", value_parser = size::bytes)]
    object_size: Option<u64>,
    /// Features: layering, striping, exclusive-lock, object-map, fast-diff, deep-flatten, journaling
    #[arg(long, value_name = "FEATURE,...", value_delimiter = ',', value_parser = feature)]
    image_feature: Vec<Features>,
    /// For several writers at a time: without exclusive lock and what needs it
    #[arg(long)]
    image_shared: bool,
    /// Bytes that go to one object before the next one's turn
    #[arg(long, value_name = "SIZE", value_parser = size::bytes)]
    stripe_unit: Option<u64>,
    /// Objects that a stripe goes over
    #[arg(long, value_name = "N")]
    stripe_count: Option<u64>,
    /// Pool for the data
    #[arg(long, value_name = "POOL")]
    data_pool: Option<String>,
    #[arg(long, hide = true, value_parser = mirror_image_mode)]
    mirror_image_mode: Option<String>,
    #[command(flatten)]
    journal: JournalArgs,
}

/// What journals are to be like. Images with journals are not made here, and others have no use for it.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct JournalArgs {
    #[arg(long, hide = true)]
    journal_splay_width: Option<u64>,
    #[arg(long, hide = true, value_parser = size::bytes)]
    journal_object_size: Option<u64>,
    #[arg(long, hide = true)]
    journal_pool: Option<String>,
}

/// The format of a new image, of which there is only one.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct ImageFormatArgs {
    /// Format of the image; 2 is the only one that can be made
    #[arg(long, value_name = "N", hide = true, value_parser = image_format)]
    image_format: Option<u32>,
    #[arg(long, hide = true)]
    new_format: bool,
}

impl NewImageArgs {
    /// Ceph: `get_image_options` in `src/tools/rbd/Utils.cc`.
    pub(crate) fn to_options(&self) -> CreateOptions {
        let order = match (self.order, self.object_size) {
            (Some(order), _) => Some(order),
            (None, Some(size)) => Some(nearest_order(size)),
            (None, None) => None,
        };
        // None of them is as much a choice as some are.
        let features = self.image_feature.iter().fold(Features::default(), |all, one| all.union(*one));
        CreateOptions {
            order,
            features: (!self.image_feature.is_empty()).then_some(features),
            shared: self.image_shared,
            stripe_unit: self.stripe_unit,
            stripe_count: self.stripe_count,
            data_pool: self.data_pool.clone(),
        }
    }
}

/// The power of two that is nearest, on a logarithmic scale.
fn nearest_order(size: u64) -> u8 {
    let floor = size.max(1).ilog2();
    // Closer to the next power if it is above the geometric mean of both.
    let up = u128::from(size).pow(2) > 1u128 << (2 * floor + 1);
    u8::try_from(floor + u32::from(up)).unwrap_or(u8::MAX)
}

pub(crate) fn feature(name: &str) -> Result<Features, String> {
    Features::named(name).ok_or_else(|| format!("there is no feature '{name}'"))
}

fn mirror_image_mode(_: &str) -> Result<String, String> {
    Err("images are not mirrored here; make it, then: rbd mirror image enable IMAGE MODE".to_owned())
}

fn image_format(text: &str) -> Result<u32, String> {
    match text {
        "2" => Ok(2),
        "1" => Err("images of format 1 are not made any more".to_owned()),
        _ => Err("expected 2".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_sizes_are_rounded_to_powers_of_two() {
        for (size, order) in
            [(4096, 12), (4 << 20, 22), (5 << 20, 22), (6 << 20, 23), (0, 0), (1, 0), (u64::MAX, 64)]
        {
            assert_eq!(nearest_order(size), order, "{size}");
        }
    }

    #[test]
    fn features_are_named_one_by_one_or_in_a_list() {
        let features = ["layering", "exclusive-lock"].map(|name| feature(name).unwrap()).to_vec();
        let args = NewImageArgs { image_feature: features, ..NewImageArgs::default() };
        let options = args.to_options();
        assert_eq!(options.features, Some(Features::LAYERING.union(Features::EXCLUSIVE_LOCK)));
        assert_eq!(NewImageArgs::default().to_options(), CreateOptions::default());
        assert!(feature("layers").is_err());
    }
}
