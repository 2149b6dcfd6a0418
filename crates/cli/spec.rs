//! Names of pools, images and snapshots on the command line, the way `rbd` takes them: as a positional argument, or
//! in parts as options.
//!
//! Ceph: `get_pool_generic_snapshot_names` in `src/tools/rbd/Utils.cc`.

use std::fmt;
use std::slice;

use ceph_codec::SnapId;
use ceph_conf::{ImageSpec, Overrides, QemuRbd};
use clap::Args as ClapArgs;
use rbd::SnapshotRef;
use thiserror::Error;

use crate::output::FormatArgs;
use crate::report::Error;
use crate::target::Target;

#[cfg(test)]
mod tests;

/// The pool of what is named without one.
const DEFAULT_POOL: &str = "rbd";

#[derive(Debug, Default, ClapArgs)]
pub(crate) struct PoolOptions {
    /// The pool [default: rbd]
    #[arg(short, long, value_name = "POOL")]
    pool: Option<String>,
    /// The namespace in the pool
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// `[POOL-SPEC]`, or `--pool` and `--namespace`.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct PoolArgs {
    /// The pool, and a namespace in it
    #[arg(value_name = "POOL[/NAMESPACE]")]
    spec: Option<String>,
    #[command(flatten)]
    options: PoolOptions,
}

/// `[POOL-NAME]` or `--pool`, for what has no namespace.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct PoolNameArgs {
    /// The pool [default: rbd]
    #[arg(value_name = "POOL")]
    spec: Option<String>,
    #[arg(short, long, value_name = "POOL", hide = true)]
    pool: Option<String>,
}

#[derive(Debug, Default, ClapArgs)]
pub(crate) struct ImageOptions {
    #[command(flatten)]
    pool: PoolOptions,
    /// The image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
}

#[derive(Debug, Default, ClapArgs)]
pub(crate) struct SnapOptions {
    #[command(flatten)]
    image: ImageOptions,
    /// The snapshot
    #[arg(long, value_name = "SNAP")]
    snap: Option<String>,
}

#[derive(Debug, Default, ClapArgs)]
pub(crate) struct DestOptions {
    /// Pool of the destination [default: rbd]
    #[arg(long, value_name = "POOL")]
    dest_pool: Option<String>,
    /// Namespace of the destination
    #[arg(long, value_name = "NAMESPACE")]
    dest_namespace: Option<String>,
    /// Image of the destination
    #[arg(long, value_name = "IMAGE")]
    dest: Option<String>,
}

#[derive(Debug, Default, ClapArgs)]
pub(crate) struct DestSnapOptions {
    #[command(flatten)]
    image: DestOptions,
    /// Snapshot of the destination
    #[arg(long, value_name = "SNAP")]
    dest_snap: Option<String>,
}

const IMAGE_HELP: &str = "The image, as [POOL/[NAMESPACE/]]IMAGE";
const SNAP_HELP: &str = "The snapshot, as [POOL/[NAMESPACE/]]IMAGE@SNAP";
const IMAGE_OR_SNAP_HELP: &str = "The image or snapshot, as [POOL/[NAMESPACE/]]IMAGE[@SNAP]";

/// One image.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct ImageArgs {
    #[arg(value_name = "IMAGE-SPEC", help = IMAGE_HELP)]
    spec: Option<String>,
    #[command(flatten)]
    options: ImageOptions,
}

/// One image, and how to print what is known of it.
#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// One snapshot.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct SnapArgs {
    #[arg(value_name = "SNAP-SPEC", help = SNAP_HELP)]
    spec: Option<String>,
    #[command(flatten)]
    options: SnapOptions,
}

/// One image or snapshot.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct ImageOrSnapArgs {
    #[arg(value_name = "IMAGE-OR-SNAP-SPEC", help = IMAGE_OR_SNAP_HELP)]
    spec: Option<String>,
    #[command(flatten)]
    options: SnapOptions,
}

/// The id of an image, where that names it as well.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct ImageIdOption {
    /// The image by its id instead of its name; it may be in the trash
    #[arg(long, value_name = "ID")]
    image_id: Option<String>,
}

/// The number of a snapshot, where that names it as well.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct SnapIdOption {
    /// The snapshot by its number instead of its name
    #[arg(long, value_name = "ID")]
    snap_id: Option<u64>,
}

impl SnapIdOption {
    /// The snapshot of that number, or the other, which may not be there as well.
    pub(crate) fn or(&self, named: Option<SnapshotRef>) -> Result<Option<SnapshotRef>, Error> {
        match (self.snap_id, named) {
            (Some(id), Some(_)) => Err(UsageError::SnapNameAndId { id }.into()),
            (Some(id), None) => Ok(Some(SnapshotRef::Id(SnapId(id)))),
            (None, named) => Ok(named),
        }
    }
}

/// An image in the trash, which has nothing but an id.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct TrashedArgs {
    /// The id of the image, as [POOL/[NAMESPACE/]]ID
    #[arg(value_name = "IMAGE-ID")]
    spec: Option<String>,
    #[command(flatten)]
    pool: PoolOptions,
    /// The same, as an option
    #[arg(long, value_name = "ID", hide = true)]
    image_id: Option<String>,
}

impl TrashedArgs {
    /// Ceph: `get_pool_image_id`.
    pub(crate) fn resolve(&self, overrides: &Overrides) -> Result<Target, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let parts = Parts {
            pool: self.pool.pool.as_deref(),
            namespace: self.pool.namespace.as_deref(),
            image: self.image_id.as_deref(),
            snap: None,
        };
        let found = parts.resolve("image id", &mut names, Snap::None, overrides)?;
        names.end()?;
        Ok(Target { by_id: true, ..found })
    }
}

/// Why the command line names nothing that the command could work on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum UsageError {
    #[error("{what} was not specified")]
    Missing { what: &'static str },
    #[error("'{spec}' names no {what}: expected {form}")]
    Malformed { what: &'static str, form: &'static str, spec: String },
    #[error("'{name}' cannot be the name of {what}: '/' and '@' separate names")]
    Separator { what: &'static str, name: String },
    #[error("snapshot '{snap}' is named, but the command is about whole images")]
    SurplusSnapshot { snap: String },
    #[error("the image is named by its name and by its id, {id}")]
    NameAndId { id: String },
    #[error("the snapshot is named by its name and by its number, {id}")]
    SnapNameAndId { id: u64 },
    #[error("{what} can be renamed only within {of}")]
    OtherPlace { what: &'static str, of: &'static str },
    #[error("--limit was not specified")]
    NoLimit,
    #[error("'{text}' is no date")]
    Date { text: String },
    #[error("the date {text} has passed already")]
    PastDate { text: String },
    #[error("options are set for global, client or client.ID, not for '{entity}'")]
    ConfigEntity { entity: String },
    #[error("{option} is no option of block devices: these begin with rbd_")]
    NoRbdOption { option: String },
    #[error("the threshold {threshold} is not between 0 and 1")]
    Threshold { threshold: String },
    #[error("there is no feature '{0}'")]
    Feature(String),
    #[error("'{0}' is one argument too many")]
    Surplus(String),
}

/// Whether a snapshot may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snap {
    None,
    Permitted,
    Required,
}

/// Positional arguments, taken one by one: what an option names takes none of them.
#[derive(Debug)]
pub(crate) struct Positionals<'a>(slice::Iter<'a, String>);

impl<'a> Positionals<'a> {
    pub(crate) fn new(arguments: &'a [String]) -> Self {
        Self(arguments.iter())
    }

    /// The next one, which has to be there.
    pub(crate) fn required(&mut self, what: &'static str) -> Result<&'a str, Error> {
        Ok(self.next().ok_or(UsageError::Missing { what })?)
    }

    pub(crate) fn next(&mut self) -> Option<&'a str> {
        self.0.next().map(String::as_str)
    }

    /// Nothing is to follow.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        match self.next() {
            Some(surplus) => Err(UsageError::Surplus(surplus.to_owned()).into()),
            None => Ok(()),
        }
    }
}

/// A pool and a namespace in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSpec {
    pub(crate) pool: String,
    pub(crate) namespace: Option<String>,
}

impl fmt::Display for PoolSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}", self.pool),
            None => f.write_str(&self.pool),
        }
    }
}

impl PoolArgs {
    pub(crate) fn resolve(&self) -> Result<PoolSpec, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let found = self.options.resolve(&mut names)?;
        names.end()?;
        Ok(found)
    }
}

impl PoolOptions {
    /// Ceph: `get_pool_and_namespace_names`.
    pub(crate) fn resolve(&self, names: &mut Positionals<'_>) -> Result<PoolSpec, Error> {
        let mut namespace = self.namespace.clone();
        let pool = match (&self.pool, names) {
            (Some(pool), _) => pool.clone(),
            (None, names) => match names.next() {
                None => DEFAULT_POOL.to_owned(),
                Some(spec) => match spec.split_once('/') {
                    None => spec.to_owned(),
                    Some((pool, inside)) => {
                        namespace = Some(inside.to_owned());
                        pool.to_owned()
                    }
                },
            },
        };
        check_name("pool", &pool)?;
        namespace.as_deref().map_or(Ok(()), |name| check_name("namespace", name))?;
        Ok(PoolSpec { pool, namespace: namespace.filter(|name| !name.is_empty()) })
    }
}

impl PoolNameArgs {
    pub(crate) fn resolve(&self) -> Result<String, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let pool = self.pool.as_deref().or_else(|| names.next()).unwrap_or(DEFAULT_POOL);
        names.end()?;
        check_name("pool", pool)?;
        Ok(pool.to_owned())
    }
}

impl ImageArgs {
    pub(crate) fn resolve(&self, overrides: &Overrides) -> Result<Target, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let found = self.options.resolve(&mut names, overrides)?;
        names.end()?;
        Ok(found)
    }

    /// The same, or the image that has an id.
    pub(crate) fn resolve_or_id(&self, id: &ImageIdOption, overrides: &Overrides) -> Result<Target, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let found = self.options.parts().resolve_or_id(id, &mut names, Snap::None, overrides)?;
        names.end()?;
        Ok(found)
    }
}

impl SnapArgs {
    pub(crate) fn resolve(&self, overrides: &Overrides) -> Result<Target, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let found = self.options.resolve(&mut names, Snap::Required, overrides)?;
        names.end()?;
        Ok(found)
    }

    /// The same, or the image that has an id; then a snapshot need not be named.
    pub(crate) fn resolve_or_id(
        &self,
        id: &ImageIdOption,
        snap: Snap,
        overrides: &Overrides,
    ) -> Result<Target, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let found = self.options.parts().resolve_or_id(id, &mut names, snap, overrides)?;
        names.end()?;
        Ok(found)
    }
}

impl ImageOrSnapArgs {
    pub(crate) fn resolve(&self, overrides: &Overrides) -> Result<Target, Error> {
        self.resolve_or_id(&ImageIdOption::default(), overrides)
    }

    /// The same, or the image that has an id.
    pub(crate) fn resolve_or_id(&self, id: &ImageIdOption, overrides: &Overrides) -> Result<Target, Error> {
        let mut names = Positionals::new(self.spec.as_slice());
        let found = self.options.parts().resolve_or_id(id, &mut names, Snap::Permitted, overrides)?;
        names.end()?;
        Ok(found)
    }
}

impl ImageOrSnapArgs {
    /// The same, or, where no image is `required`, none: then all images of the pool are meant.
    pub(crate) fn resolve_optional(
        &self,
        required: bool,
        overrides: &Overrides,
    ) -> Result<(PoolSpec, Option<Target>), Error> {
        if self.spec.is_none() && self.options.image.image.is_none() && !required {
            let pool = self.options.image.pool.resolve(&mut Positionals::new(&[]))?;
            return Ok((pool, None));
        }
        let target = self.resolve(overrides)?;
        let pool = PoolSpec { pool: target.spec.pool.clone(), namespace: target.spec.namespace.clone() };
        Ok((pool, Some(target)))
    }
}

impl ImageOptions {
    /// An image, from the options and as many of `names` as needed.
    pub(crate) fn resolve(
        &self,
        names: &mut Positionals<'_>,
        overrides: &Overrides,
    ) -> Result<Target, Error> {
        self.parts().resolve("image name", names, Snap::None, overrides)
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            pool: self.pool.pool.as_deref(),
            namespace: self.pool.namespace.as_deref(),
            image: self.image.as_deref(),
            snap: None,
        }
    }
}

impl SnapOptions {
    /// An image or a snapshot, from the options and as many of `names` as needed.
    pub(crate) fn resolve(
        &self,
        names: &mut Positionals<'_>,
        snap: Snap,
        overrides: &Overrides,
    ) -> Result<Target, Error> {
        self.parts().resolve("image name", names, snap, overrides)
    }

    fn parts(&self) -> Parts<'_> {
        Parts { snap: self.snap.as_deref(), ..self.image.parts() }
    }
}

impl DestOptions {
    /// As [`resolve`](Self::resolve), but called as `source` is if no name is given.
    pub(crate) fn resolve_or(
        &self,
        names: &mut Positionals<'_>,
        source: &str,
        overrides: &Overrides,
    ) -> Result<Target, Error> {
        if self.dest.is_some() || !names.0.as_slice().is_empty() {
            return self.resolve(names, overrides);
        }
        let parts = Parts { image: Some(source), ..self.parts() };
        parts.resolve(DESTINATION, names, Snap::None, overrides)?.checked()
    }

    /// An image that may be new, from the options and as many of `names` as needed. What is not said of its place is
    /// the default, not the source's.
    pub(crate) fn resolve(
        &self,
        names: &mut Positionals<'_>,
        overrides: &Overrides,
    ) -> Result<Target, Error> {
        self.parts().resolve(DESTINATION, names, Snap::None, overrides)?.checked()
    }

    /// A new name for `source`, which stays in its place.
    pub(crate) fn resolve_beside(
        &self,
        names: &mut Positionals<'_>,
        source: &Target,
    ) -> Result<Target, Error> {
        self.parts().or_place_of(source).resolve(DESTINATION, names, Snap::None, &source.overrides)?.checked()
    }

    fn parts(&self) -> Parts<'_> {
        Parts {
            pool: self.dest_pool.as_deref(),
            namespace: self.dest_namespace.as_deref(),
            image: self.dest.as_deref(),
            snap: None,
        }
    }
}

impl DestSnapOptions {
    /// A new name for the snapshot `source`, which stays in its image.
    pub(crate) fn resolve_beside(
        &self,
        names: &mut Positionals<'_>,
        source: &Target,
    ) -> Result<Target, Error> {
        Parts { snap: self.dest_snap.as_deref(), ..self.image.parts() }
            .or_place_of(source)
            .resolve(DESTINATION, names, Snap::Required, &source.overrides)?
            .checked()
    }
}

const DESTINATION: &str = "destination image name";

/// What options name of an image.
#[derive(Debug, Clone, Copy, Default)]
struct Parts<'a> {
    pool: Option<&'a str>,
    namespace: Option<&'a str>,
    image: Option<&'a str>,
    snap: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// In the pool and namespace of another image, unless something else is said.
    fn or_place_of(self, other: &'a Target) -> Self {
        let other_namespace = other.spec.namespace.as_deref().filter(|_| self.pool.is_none());
        let (pool, namespace) = (self.pool.or(Some(&other.spec.pool)), self.namespace.or(other_namespace));
        Self { pool, namespace, ..self }
    }

    fn resolve(
        self,
        what: &'static str,
        names: &mut Positionals<'_>,
        snap: Snap,
        overrides: &Overrides,
    ) -> Result<Target, Error> {
        let spec = match self.image {
            Some(image) => image,
            None => names.required(what)?,
        };
        if QemuRbd::is_qemu_name(spec) {
            let target = Target::parse(spec, overrides)?;
            check_snap(target.spec.snapshot.as_deref(), snap)?;
            return Ok(target);
        }
        let mut found = parse(spec)?;
        // What the spec says goes before the options.
        found.pool = found.pool.or(self.pool);
        found.namespace = found.namespace.or(self.namespace).filter(|name| !name.is_empty());
        found.snap = found.snap.or(self.snap);
        check_snap(found.snap, snap)?;
        found.namespace.map_or(Ok(()), |name| check_name("a namespace", name))?;
        let spec = ImageSpec {
            pool: found.pool.unwrap_or(DEFAULT_POOL).to_owned(),
            namespace: found.namespace.map(str::to_owned),
            image: found.image.unwrap_or_default().to_owned(),
            snapshot: found.snap.map(str::to_owned),
        };
        Ok(Target { name: spec.to_string(), spec, by_id: false, overrides: overrides.clone() })
    }

    fn resolve_or_id(
        self,
        id: &ImageIdOption,
        names: &mut Positionals<'_>,
        snap: Snap,
        overrides: &Overrides,
    ) -> Result<Target, Error> {
        let Some(id) = &id.image_id else { return self.resolve("image name", names, snap, overrides) };
        if self.image.is_some() || names.next().is_some() {
            return Err(UsageError::NameAndId { id: id.clone() }.into());
        }
        let target = Parts { image: Some(id), ..self }.resolve("image id", names, snap, overrides)?;
        Ok(Target { by_id: true, ..target })
    }
}

fn check_snap(name: Option<&str>, snap: Snap) -> Result<(), UsageError> {
    match (name, snap) {
        (Some(name), Snap::None) => Err(UsageError::SurplusSnapshot { snap: name.to_owned() }),
        (None, Snap::Required) => Err(UsageError::Missing { what: "snapshot name" }),
        _ => Ok(()),
    }
}

/// Splits `[POOL/[NAMESPACE/]]IMAGE[@SNAP]`. Ceph: `extract_spec`, with `SPEC_VALIDATION_NONE`: names that cannot
/// be given any more may exist, and can be used.
fn parse(spec: &str) -> Result<Parts<'_>, UsageError> {
    let malformed = || UsageError::Malformed {
        what: "image",
        form: "[POOL/[NAMESPACE/]]IMAGE[@SNAP]",
        spec: spec.to_owned(),
    };
    let (path, snap) = match spec.split_once('@') {
        Some((path, snap)) => (path, Some(snap)),
        None => (spec, None),
    };
    let mut parts = path.splitn(3, '/');
    let found = match (parts.next(), parts.next(), parts.next()) {
        (image, None, _) => Parts { image, ..Parts::default() },
        (pool, image, None) => Parts { pool, image, ..Parts::default() },
        (pool, namespace, image) => Parts { pool, namespace, image, snap: None },
    };
    let found = Parts { snap, ..found };
    let empty = [found.pool, found.namespace, found.image, found.snap].contains(&Some(""));
    if empty { Err(malformed()) } else { Ok(found) }
}

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), UsageError> {
    if name.contains(['/', '@']) {
        return Err(UsageError::Separator { what, name: name.to_owned() });
    }
    Ok(())
}
