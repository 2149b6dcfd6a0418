//! New images.
//!
//! ```text
//! rbd_directory       name -> id          1
//! rbd_id.NAME         id                  2
//! rbd_header.ID       size, features ...  3
//! rbd_object_map.ID   nothing exists      4
//! ```
//! An image that was not finished is undone in the opposite order; what a crash leaves behind is removed by
//! [`remove_image`](crate::remove_image) like an image.
//!
//! Ceph: `create()` in `src/librbd/internal.cc`, `src/librbd/image/CreateRequest.cc`.

use ceph_codec::{PoolId, SnapId};
use rados::{Errno, OpError, Operation};
use thiserror::Error;
use tracing::{debug, warn};

use crate::cls;
use crate::cls::directory::DirectoryState;
use crate::directory::{self, change};
use crate::names::{self, DIRECTORY};
use crate::operations::failed;
use crate::{Config, Features, Layout, ObjectStore, OperationError, header, object_map, pool};

/// Ceph: `validate_order()`.
const ORDERS: std::ops::RangeInclusive<u8> = 12..=25;
/// Ceph: `RBD_MAX_IMAGE_ID_LENGTH` in `src/include/rbd_types.h`.
const MAX_ID_LEN: usize = 14;
/// Ceph: `RBD_MAX_BLOCK_NAME_PREFIX_LENGTH`.
const MAX_PREFIX_LEN: usize = 43;
/// The least stripe unit, in bytes.
const MIN_STRIPE_UNIT: u64 = 512;

/// Features that come with other options. Ceph: `RBD_FEATURES_IMPLICIT_ENABLE` in `src/include/rbd/features.h`.
const IMPLICIT: Features = Features(
    Features::STRIPING_V2.0
        | Features::DATA_POOL.0
        | Features::FAST_DIFF.0
        | Features::OPERATIONS.0
        | Features::MIGRATING.0
        | Features::NON_PRIMARY.0
        | Features::DIRTY_CACHE.0,
);
/// Features of images that one client writes at a time. Ceph: `RBD_FEATURES_SINGLE_CLIENT`.
const SINGLE_CLIENT: Features = Features(
    Features::EXCLUSIVE_LOCK.0
        | Features::OBJECT_MAP.0
        | Features::FAST_DIFF.0
        | Features::JOURNALING.0
        | Features::DIRTY_CACHE.0,
);

/// What a new image is to be like, as far as the configuration does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateOptions {
    /// Binary logarithm of the object size; else `rbd_default_order`.
    pub order: Option<u8>,
    /// Exactly these features, and those that come with the other options; else `rbd_default_features`, as far as the
    /// OSDs know them. Object map means fast-diff, too.
    pub features: Option<Features>,
    /// For several writers at the same time: without exclusive lock and what needs it.
    pub shared: bool,
    /// Stripe unit in bytes, together with `stripe_count`; else `rbd_default_stripe_unit`.
    pub stripe_unit: Option<u64>,
    /// Stripe count; else `rbd_default_stripe_count`.
    pub stripe_count: Option<u64>,
    /// Name of the pool for the data objects; else `rbd_default_data_pool`.
    pub data_pool: Option<String>,
}

/// Why an image cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// There is one of that name.
    #[error("image {image} exists already")]
    Exists {
        /// Its name.
        image: String,
    },
    /// There is no such namespace.
    #[error("pool {pool} has no namespace {namespace}")]
    NoNamespace {
        /// Name of the pool.
        pool: String,
        /// Name of the namespace.
        namespace: String,
    },
    /// These features are not known.
    #[error("features {0} are not supported")]
    UnknownFeatures(Features),
    /// Such images cannot be made here.
    #[error("images with feature {0} cannot be made here")]
    Unsupported(Features),
    /// A feature needs another one.
    #[error("feature {feature} needs feature {needs}")]
    Needs {
        /// The feature.
        feature: Features,
        /// What it needs.
        needs: Features,
    },
    /// The object size is impossible.
    #[error("objects of 2^{order} bytes are impossible, only 2^12 (4 KiB) to 2^25 (32 MiB)")]
    Order {
        /// Binary logarithm of the object size.
        order: u64,
    },
    /// Only one of stripe unit and stripe count was given.
    #[error("stripe unit and stripe count go together")]
    HalfStriped,
    /// The stripe unit does not go with the object size.
    #[error(
        "a stripe unit of {unit} bytes is impossible: it has to divide the object size of {object_size} bytes, and be at least 512"
    )]
    StripeUnit {
        /// Stripe unit in bytes.
        unit: u64,
        /// Object size in bytes.
        object_size: u64,
    },
    /// The image would have too many objects for an object map.
    #[error("an image of {size} bytes in {objects} objects is too large for an object map")]
    TooManyObjects {
        /// Its size in bytes.
        size: u64,
        /// How many objects it would have.
        objects: u64,
    },
    /// There is no such pool for the data.
    #[error("data pool {pool} does not exist")]
    NoDataPool {
        /// Its name.
        pool: String,
    },
    /// The pool is used for something else.
    #[error("pool {pool} is used for something else than images")]
    OtherUse {
        /// Its name.
        pool: String,
    },
    /// The pool cannot hold images.
    #[error("pool {pool} cannot hold images: {why}")]
    UnsuitablePool {
        /// Its name.
        pool: String,
        /// Why not.
        why: &'static str,
    },
}

impl CreateError {
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Exists { .. } => Errno::EEXIST,
            Self::NoNamespace { .. } | Self::NoDataPool { .. } => Errno::ENOENT,
            Self::UnknownFeatures(_) => Errno(38), // ENOSYS
            Self::OtherUse { .. } => Errno::EPERM,
            Self::Order { .. } => Errno(33), // EDOM
            Self::Unsupported(_) => Errno::EOPNOTSUPP,
            Self::Needs { .. }
            | Self::HalfStriped
            | Self::StripeUnit { .. }
            | Self::TooManyObjects { .. }
            | Self::UnsuitablePool { .. } => Errno::EINVAL,
        }
    }

    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoNamespace { pool, namespace } => {
                format!("make it: rbd namespace create --pool {pool} --namespace {namespace}")
            }
            Self::Unsupported(features) if features.contains(Features::JOURNALING) => {
                "make it without, then: rbd feature enable IMAGE journaling".to_owned()
            }
            Self::TooManyObjects { .. } => "use larger objects: --object-size 32M".to_owned(),
            Self::OtherUse { pool } => format!("use it for both: rbd pool init --force {pool}"),
            Self::UnsuitablePool { .. } => {
                "an erasure coded pool can hold the data: --data-pool POOL, after \
                 `ceph osd pool set POOL allow_ec_overwrites true`"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

/// Makes an image of `size` bytes and returns its id.
///
/// # Errors
/// [`CreateError`] in [`OperationError::Create`] if it cannot be made; else [`OperationError::Op`]. What was made of
/// it is removed again then.
pub async fn create_image<S: ObjectStore>(
    store: &S,
    config: &Config,
    name: &str,
    size: u64,
    options: &CreateOptions,
) -> Result<String, OperationError> {
    let doing = "look whether the image exists";
    let exists = header::exists(store, &names::v1_header_object(name)).await.map_err(failed(doing))?
        || header::exists(store, &names::id_object(name)).await.map_err(failed(doing))?;
    if exists {
        return Err(CreateError::Exists { image: name.to_owned() }.into());
    }
    make_image(store, &config.of_pool(store).await, name, size, options).await
}

/// Makes an image where the configuration is that of the pool. Ceph: `CreateRequest`.
pub(crate) async fn make_image<S: ObjectStore>(
    store: &S,
    config: &Config,
    name: &str,
    size: u64,
    options: &CreateOptions,
) -> Result<String, OperationError> {
    let plan = Plan::new(store, config, size, options)?;
    if config.validates_pools() {
        pool::validate(&plan.data_pool_store(store)?).await?;
    }
    plan.make(store, name).await
}

/// What is going to be made.
struct Plan {
    size: u64,
    order: u8,
    features: Features,
    /// Whether features that the OSDs do not know are left out.
    negotiable: bool,
    /// 0 for none.
    stripe_unit: u64,
    stripe_count: u64,
    layout: Layout,
    data_pool: Option<PoolId>,
}

impl Plan {
    /// Ceph: the constructor of `CreateRequest`, `validate_features()`, `validate_order()`, `validate_striping()`,
    /// `validate_layout()`.
    fn new<S: ObjectStore>(
        store: &S,
        config: &Config,
        size: u64,
        options: &CreateOptions,
    ) -> Result<Self, CreateError> {
        let or_default = |value: Option<u64>, name| match value {
            None | Some(0) => config.number(name),
            Some(value) => value,
        };
        let order = or_default(options.order.map(u64::from), "rbd_default_order");
        let order = u8::try_from(order)
            .ok()
            .filter(|order| ORDERS.contains(order))
            .ok_or(CreateError::Order { order })?;
        let object_size = 1u64 << order;
        let stripe_unit = or_default(options.stripe_unit, "rbd_default_stripe_unit");
        let stripe_count = or_default(options.stripe_count, "rbd_default_stripe_count");
        let data_pool = options.data_pool.as_deref().unwrap_or_else(|| config.get("rbd_default_data_pool"));
        let data_pool = Some(data_pool).filter(|pool| !pool.is_empty() && *pool != store.pool_name());

        let mut features = requested_features(config, options)?;
        if (stripe_unit != 0 && stripe_unit != object_size) || (stripe_count != 0 && stripe_count != 1) {
            features = features.union(Features::STRIPING_V2);
        }
        if data_pool.is_some() {
            features = features.union(Features::DATA_POOL);
        }
        for feature in [Features::OBJECT_MAP, Features::JOURNALING] {
            if features.contains(feature) && !features.contains(Features::EXCLUSIVE_LOCK) {
                return Err(CreateError::Needs { feature, needs: Features::EXCLUSIVE_LOCK });
            }
        }
        if features.contains(Features::JOURNALING) {
            return Err(CreateError::Unsupported(Features::JOURNALING));
        }

        if (stripe_unit == 0) != (stripe_count == 0) {
            return Err(CreateError::HalfStriped);
        }
        let unsuitable = CreateError::StripeUnit { unit: stripe_unit, object_size };
        if stripe_unit != 0 && stripe_unit < MIN_STRIPE_UNIT {
            return Err(unsuitable);
        }
        let layout = if stripe_unit == 0 {
            Layout::simple(order)
        } else {
            Layout::new(order, stripe_unit, stripe_count)
        };
        let layout = layout.map_err(|_| unsuitable)?;
        let objects = layout.object_count(size);
        if features.contains(Features::OBJECT_MAP) && objects > object_map::MAX_OBJECTS {
            return Err(CreateError::TooManyObjects { size, objects });
        }
        let by_name = |wanted: &str| {
            let pool = store.pools().into_iter().find(|(_, name)| name == wanted);
            pool.map(|(id, _)| id).ok_or_else(|| CreateError::NoDataPool { pool: wanted.to_owned() })
        };
        let data_pool = data_pool.map(by_name).transpose()?;
        let negotiable = options.features.is_none();
        Ok(Self { size, order, features, negotiable, stripe_unit, stripe_count, layout, data_pool })
    }

    fn is_striped(&self) -> bool {
        self.stripe_unit != 0 && (self.stripe_count != 1 || self.stripe_unit != 1 << self.order)
    }

    fn data_pool_store<S: ObjectStore>(&self, store: &S) -> Result<S, OperationError> {
        let Some(pool) = self.data_pool else { return Ok(store.clone()) };
        store.with_pool(pool, store.namespace()).map_err(failed("find the data pool"))
    }

    /// Makes it, or nothing.
    async fn make<S: ObjectStore>(&self, store: &S, name: &str) -> Result<String, OperationError> {
        let id = image_id(store);
        self.add_to_directory(store, name, &id).await?;
        let header = names::header_object(&id);
        let mut made = Vec::new();
        match self.make_objects(store, name, &id, &mut made).await {
            Ok(()) => {
                debug!(name, id, size = self.size, features = %self.features, "image made");
                Ok(id)
            }
            // Another image has that id: its header is not ours to remove.
            Err(error) if made.len() == 1 && error.errno() == Errno::EEXIST => {
                unmake(store, name, &id, &made).await;
                Err(OperationError::Op { doing: "make the header", source: OpError::Errno(Errno(9)) }) // EBADF
            }
            Err(error) => {
                warn!(name, header, %error, "the image is undone");
                unmake(store, name, &id, &made).await;
                Err(error)
            }
        }
    }

    async fn add_to_directory<S: ObjectStore>(
        &self,
        store: &S,
        name: &str,
        id: &str,
    ) -> Result<(), OperationError> {
        let namespace = store.namespace();
        let mut operation = Operation::new();
        if !namespace.is_empty() {
            operation = cls::directory::dir_state_assert(operation, DirectoryState::Ready);
        }
        let operation = cls::directory::dir_add_image(operation, name, id);
        match change(store, DIRECTORY, operation).await {
            Ok(()) => Ok(()),
            Err(error) if error.is(Errno::EEXIST) => {
                Err(CreateError::Exists { image: name.to_owned() }.into())
            }
            Err(error) if !namespace.is_empty() && error.is(Errno::ENOENT) => {
                let (pool, namespace) = (store.pool_name(), namespace.to_owned());
                Err(CreateError::NoNamespace { pool, namespace }.into())
            }
            Err(error) => Err(failed("add the image to the directory")(error)),
        }
    }

    /// `made` tells which objects there are, if not all.
    async fn make_objects<S: ObjectStore>(
        &self,
        store: &S,
        name: &str,
        id: &str,
        made: &mut Vec<String>,
    ) -> Result<(), OperationError> {
        let operation = cls::directory::set_id(Operation::new().create(true), id);
        match change(store, &names::id_object(name), operation).await {
            Err(error) if error.is(Errno::EEXIST) => {
                return Err(CreateError::Exists { image: name.to_owned() }.into());
            }
            result => result.map_err(failed("make the image's id"))?,
        }
        made.push(names::id_object(name));

        let features = if self.negotiable { self.known_features(store).await } else { self.features };
        let header = names::header_object(id);
        let prefix = self
            .data_pool
            .map_or_else(|| format!("rbd_data.{id}"), |_| format!("rbd_data.{}.{id}", store.pool()));
        debug_assert!(
            prefix.len() <= MAX_PREFIX_LEN,
            "ids have at most {MAX_ID_LEN} digits, pools at most 19"
        );
        let operation = Operation::new().create(true);
        let operation =
            cls::create::create(operation, self.size, self.order, features, &prefix, self.data_pool);
        change(store, &header, operation).await.map_err(failed("make the header"))?;
        made.push(header.clone());

        if self.is_striped() {
            let (unit, count) = (self.stripe_unit, self.stripe_count);
            let operation = cls::create::set_stripe_unit_count(Operation::new(), unit, count);
            change(store, &header, operation).await.map_err(failed("set the striping"))?;
        }
        if features.contains(Features::OBJECT_MAP) {
            let objects = self.layout.object_count(self.size);
            let operation = cls::create::object_map_create(Operation::new(), objects);
            let map = object_map::object_name(id, SnapId::HEAD);
            change(store, &map, operation).await.map_err(failed("make the object map"))?;
            made.push(map);
        }
        Ok(())
    }

    /// The features without those that the OSDs do not know.
    async fn known_features<S: ObjectStore>(&self, store: &S) -> Features {
        match directory::call(store, DIRECTORY, cls::create::get_all_features()).await {
            Ok(known) => self.features.common(known),
            Err(error) => {
                debug!(%error, "the OSD does not tell which features it knows");
                self.features
            }
        }
    }
}

/// Removes what there is of an image that could not be made: those objects, the last first, and the name.
pub(crate) async fn unmake<S: ObjectStore>(store: &S, name: &str, id: &str, objects: &[String]) {
    for object in objects.iter().rev() {
        if let Err(error) = directory::remove(store, object).await {
            warn!(object, %error, "could not remove what there is of an image");
        }
    }
    let operation = cls::directory::dir_remove_image(Operation::new(), name, id);
    if let Err(error) = change(store, DIRECTORY, operation).await {
        warn!(name, id, %error, "could not remove an image from the directory again");
    }
}

fn requested_features(config: &Config, options: &CreateOptions) -> Result<Features, CreateError> {
    let default = || default_features(config.get("rbd_default_features"));
    let mut features = options.features.unwrap_or_else(default);
    if options.shared {
        features = features.without(SINGLE_CLIENT);
    }
    let unknown = features.without(Features::KNOWN);
    if !unknown.is_empty() {
        return Err(CreateError::UnknownFeatures(unknown));
    }
    features = features.without(IMPLICIT);
    if features.contains(Features::OBJECT_MAP) {
        features = features.union(Features::FAST_DIFF);
    }
    Ok(features)
}

/// `rbd_default_features`: a number, or names. What is not known is left out.
///
/// Ceph: `rbd_features_from_string()` in `src/librbd/Features.cc`.
fn default_features(text: &str) -> Features {
    const INTERNAL: Features = Features(
        Features::OPERATIONS.0 | Features::MIGRATING.0 | Features::NON_PRIMARY.0 | Features::DIRTY_CACHE.0,
    );
    let text = text.trim();
    if text.is_empty() {
        return Features(61);
    }
    if let Ok(number) = text.parse() {
        return Features(number).common(Features::KNOWN).without(INTERNAL);
    }
    let names = text.split(',').filter_map(|name| Features::named(name.trim()));
    names.fold(Features::default(), Features::union)
}

/// An id that no other image has: the number of the client instance, which is never given out again, and some chance.
///
/// Ceph: `generate_image_id()` in `src/librbd/Utils.cc`.
fn image_id<S: ObjectStore>(store: &S) -> String {
    let (instance, _) = store.identity();
    let id = format!("{:x}{:x}", instance.0, store.random());
    id[id.len().saturating_sub(MAX_ID_LEN)..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, MemStore, OpenOptions, list_images};

    async fn make(store: &MemStore, options: &CreateOptions) -> Result<String, OperationError> {
        create_image(store, &Config::default(), "disk", 10 << 20, options).await
    }

    async fn features(options: CreateOptions) -> Result<Features, OperationError> {
        let store = MemStore::new();
        make(&store, &options).await?;
        Ok(Image::inspect(&store, &OpenOptions::image("disk")).await?.info.features)
    }

    #[tokio::test]
    async fn a_new_image_can_be_written_and_read() {
        let store = MemStore::new();
        let id = make(&store, &CreateOptions::default()).await.unwrap();
        let image = Image::open(store.clone(), OpenOptions::image("disk")).await.unwrap();
        image.write(5 << 20, "hello".into()).await.unwrap();
        assert_eq!(image.read(5 << 20, 5).await.unwrap().to_vec(), b"hello");
        assert_eq!((image.id(), image.size(), image.features()), (id.as_str(), 10 << 20, Features(61)));
        image.close().await;
        assert_eq!(store.object_map(&id), Some(vec![0, 1, 0]));
        assert!(id.len() <= MAX_ID_LEN);
    }

    #[tokio::test]
    async fn features_follow_from_options_as_in_librbd() {
        let chosen = |bits| CreateOptions { features: Some(Features(bits)), ..CreateOptions::default() };
        assert_eq!(
            features(CreateOptions { shared: true, ..Default::default() }).await.unwrap(),
            Features(33)
        );
        assert_eq!(features(CreateOptions { shared: true, ..chosen(61) }).await.unwrap(), Features(33));
        assert_eq!(
            features(chosen(1 | 4 | 8)).await.unwrap(),
            Features(1 | 4 | 8 | 16),
            "fast-diff comes along"
        );
        assert_eq!(features(chosen(1 | 16)).await.unwrap(), Features(1), "fast-diff alone is nothing");
        let striped = CreateOptions { stripe_unit: Some(65536), stripe_count: Some(4), ..chosen(1) };
        assert_eq!(features(striped).await.unwrap(), Features(3));
        let plain = CreateOptions { stripe_unit: Some(4 << 20), stripe_count: Some(1), ..chosen(1) };
        assert_eq!(features(plain).await.unwrap(), Features(1));
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_with_the_errno_of_librbd() {
        let bits = |bits| CreateOptions { features: Some(Features(bits)), ..CreateOptions::default() };
        let striped =
            |unit, count| CreateOptions { stripe_unit: unit, stripe_count: count, ..Default::default() };
        for (options, errno) in [
            (bits(1 << 40), 38),
            (bits(1 | 8), 22),
            (bits(1 | 4 | 64), 95),
            (CreateOptions { order: Some(26), ..Default::default() }, 33),
            (CreateOptions { order: Some(11), ..Default::default() }, 33),
            (striped(Some(65536), None), 22),
            (striped(None, Some(4)), 22),
            (striped(Some(256), Some(4)), 22),
            (striped(Some(65537), Some(4)), 22),
            (striped(Some(8 << 20), Some(4)), 22),
            (CreateOptions { data_pool: Some("none".into()), ..Default::default() }, 2),
        ] {
            let error = features(options.clone()).await.unwrap_err();
            assert_eq!(error.errno(), Errno(errno), "{options:?}: {error}");
        }
        let store = MemStore::new();
        let options = CreateOptions { order: Some(12), ..Default::default() };
        let error = create_image(&store, &Config::default(), "disk", 1 << 40, &options).await.unwrap_err();
        assert!(matches!(error, OperationError::Create(CreateError::TooManyObjects { .. })), "{error}");
        assert_eq!(store.objects(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn data_go_to_the_pool_that_was_asked_for() {
        let store = MemStore::new();
        let pool = store.create_pool("data");
        let options = CreateOptions { data_pool: Some("data".into()), ..Default::default() };
        let id = make(&store, &options).await.unwrap();
        let image = Image::open(store.clone(), OpenOptions::image("disk")).await.unwrap();
        image.write(0, "x".into()).await.unwrap();
        let data = store.with_pool(pool, "").unwrap();
        assert_eq!(data.objects(), [format!("rbd_data.1.{id}.0000000000000000"), "rbd_info".into()]);
        image.close().await;
    }

    #[tokio::test]
    async fn a_name_is_given_once() {
        let store = MemStore::new();
        make(&store, &CreateOptions::default()).await.unwrap();
        let objects = store.objects();
        let error = make(&store, &CreateOptions::default()).await.unwrap_err();
        assert_eq!((error.errno(), error.to_string().as_str()), (Errno::EEXIST, "image disk exists already"));
        assert_eq!(store.objects(), objects);
    }

    #[tokio::test]
    async fn whatever_step_fails_nothing_is_left() {
        let options = CreateOptions { stripe_unit: Some(65536), stripe_count: Some(2), ..Default::default() };
        for step in 0.. {
            let store = MemStore::new();
            let mut writes = 0;
            store.set_fault(move |_, operation| {
                writes += u32::from(operation.is_write());
                (operation.is_write() && writes == step + 1).then_some(OpError::Errno(Errno::EIO))
            });
            if make(&store, &options).await.is_ok() {
                assert!(step > 5, "there are more steps than {step}");
                break;
            }
            let left: Vec<_> = store.objects();
            assert!(
                left.iter().all(|name| name == "rbd_directory" || name == "rbd_info"),
                "{step}: {left:?}"
            );
            assert_eq!(list_images(&store).await.unwrap(), [], "{step}");
            store.clear_fault();
            make(&store, &options).await.unwrap();
        }
    }
}
