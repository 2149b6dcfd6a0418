//! `import`, `import-diff` and `copy`: images from files, and from other images.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rados::IoCtx;
use rbd::{
    CreateOptions, Features, Image, ImportOptions, ImportStream, OpenOptions, OperationError, Property,
};

use crate::cluster::Cluster;
use crate::file::FileInput;
use crate::image_options::{ImageFormatArgs, NewImageArgs};
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::size;
use crate::spec::{DestOptions, ImageOptions, Positionals, Snap, SnapOptions};
use crate::target::Target;

#[derive(Debug, ClapArgs)]
pub(crate) struct ImportArgs {
    /// The file, or - for standard input, and the image to make [default: called as the file is]
    #[arg(value_names = ["PATH", "DEST-IMAGE-SPEC"], num_args = 0..=2)]
    names: Vec<String>,
    /// The file
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    #[command(flatten)]
    dest: DestOptions,
    #[command(flatten)]
    options: NewImageArgs,
    #[command(flatten)]
    format: ImageFormatArgs,
    #[command(flatten)]
    sparse: SparseArgs,
    #[command(flatten)]
    progress: ProgressArgs,
    /// 1 for plain contents; 2 for what `export --export-format 2` writes
    #[arg(long, value_name = "1|2", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=2))]
    export_format: u8,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ImportDiffArgs {
    /// The file, or - for standard input, and the image
    #[arg(value_names = ["PATH", "IMAGE-SPEC"], num_args = 0..=2)]
    names: Vec<String>,
    /// The file
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    #[command(flatten)]
    image: ImageOptions,
    #[command(flatten)]
    sparse: SparseArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CopyArgs {
    /// The image or snapshot to copy, and the image to make
    #[arg(value_names = ["SOURCE-IMAGE-OR-SNAP-SPEC", "DEST-IMAGE-SPEC"], num_args = 0..=2)]
    names: Vec<String>,
    #[command(flatten)]
    source: SnapOptions,
    #[command(flatten)]
    dest: DestOptions,
    #[command(flatten)]
    options: NewImageArgs,
    #[command(flatten)]
    sparse: SparseArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Debug, ClapArgs)]
struct SparseArgs {
    /// Zeroes that are worth a hole: 4K to 32M
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = sparse_size)]
    sparse_size: u64,
}

impl SparseArgs {
    fn options(&self) -> ImportOptions {
        ImportOptions { sparse_size: self.sparse_size }
    }
}

fn sparse_size(text: &str) -> Result<u64, String> {
    match size::bytes(text)? {
        size if size.is_power_of_two() && (1 << 12..=1 << 25).contains(&size) => Ok(size),
        _ => Err("expected a power of two from 4K to 32M".to_owned()),
    }
}

/// Features that come with other options, or that no image is made with. Those that an image had are told by its
/// other properties.
const NOT_TAKEN_OVER: Features = Features(
    Features::STRIPING_V2.0
        | Features::DATA_POOL.0
        | Features::OPERATIONS.0
        | Features::MIGRATING.0
        | Features::NON_PRIMARY.0
        | Features::DIRTY_CACHE.0,
);

/// Ceph: `do_import` in `src/tools/rbd/action/Import.cc`.
pub(crate) async fn run(args: &ImportArgs, overrides: &Overrides) -> Result<(), Error> {
    let mut names = Positionals::new(&args.names);
    let path = match &args.path {
        Some(path) => path,
        None => names.required("path")?,
    };
    let called = path.rsplit('/').next().unwrap_or(path);
    let dest = args.dest.resolve_or(&mut names, called, overrides)?;
    names.end()?;
    let input = FileInput::open(path)?;
    let (len, options) = (input.len(), args.sparse.options());
    let mut create = args.options.to_options();
    let cluster = Cluster::connect(&dest.overrides).await?;
    let progress = args.progress.start("Importing image");
    let imported = if args.export_format == 1 {
        make(&cluster, &dest, len.unwrap_or(0), &create, async |image| {
            image.import(input, len, options, &progress).await
        })
        .await
    } else {
        let failed = |source| cluster.failed("import", &dest.spec, source);
        let mut stream = ImportStream::image(input);
        match stream.properties().await.map_err(failed) {
            Ok(properties) => {
                let metadata = take_over(properties, &mut create);
                make(&cluster, &dest, 0, &create, async |image| {
                    for (key, value) in metadata {
                        image.set_metadata(&key, value).await?;
                    }
                    image.import_all(&mut stream, options, &progress).await
                })
                .await
            }
            Err(error) => Err(error),
        }
    };
    progress.finish(imported)
}

pub(crate) async fn run_diff(args: &ImportDiffArgs, overrides: &Overrides) -> Result<(), Error> {
    let mut names = Positionals::new(&args.names);
    let path = match &args.path {
        Some(path) => path,
        None => names.required("path")?,
    };
    let target = args.image.resolve(&mut names, overrides)?;
    names.end()?;
    let input = FileInput::open(path)?;
    let len = input.len();
    let mut stream = ImportStream::diff(input);
    Cluster::change(&target, "import into", async |image| {
        let progress = args.progress.start("Importing image diff");
        progress.finish(image.import_diff(&mut stream, len, args.sparse.options(), &progress).await)
    })
    .await
}

/// Ceph: `copy` in `src/librbd/internal.cc`.
pub(crate) async fn run_copy(args: &CopyArgs, overrides: &Overrides) -> Result<(), Error> {
    let mut names = Positionals::new(&args.names);
    let source = args.source.resolve(&mut names, Snap::Permitted, overrides)?;
    let dest = args.dest.resolve(&mut names, &source.overrides)?;
    names.end()?;
    let cluster = Cluster::connect(&source.overrides).await?;
    let image = cluster.open(&source, source.open_options(true)).await?;
    let info = image.info();
    let mut create = args.options.to_options();
    take_over(
        vec![
            Property::Order(info.order.into()),
            Property::Features(info.features.0),
            Property::StripeUnit(info.stripe_unit.unwrap_or(info.object_size)),
            Property::StripeCount(info.stripe_count.unwrap_or(1)),
        ],
        &mut create,
    );
    let progress = args.progress.start("Image copy");
    let copied = make(&cluster, &dest, image.size(), &create, async |copy| {
        image.copy_to(copy, args.sparse.options(), &progress).await
    })
    .await;
    image.close().await;
    progress.finish(copied)
}

/// Lets an image be made as another one was, as far as `options` do not say otherwise. Returns the metadata.
fn take_over(properties: Vec<Property>, options: &mut CreateOptions) -> Vec<(String, Vec<u8>)> {
    let mut metadata = Vec::new();
    let (mut unit, mut count) = (None, None);
    for property in properties {
        match property {
            // What is no order at all is refused when the image is made.
            Property::Order(order) => {
                options.order.get_or_insert_with(|| u8::try_from(order).unwrap_or(u8::MAX));
            }
            Property::Features(bits) => {
                options.features.get_or_insert_with(|| Features(bits).without(NOT_TAKEN_OVER));
            }
            Property::StripeUnit(bytes) => unit = Some(bytes),
            Property::StripeCount(objects) => count = Some(objects),
            Property::Metadata { key, value } => metadata.push((key, value)),
        }
    }
    if options.stripe_unit.is_none() && options.stripe_count.is_none() {
        (options.stripe_unit, options.stripe_count) = (unit, count);
    }
    metadata
}

/// Makes an image, opens it, does what fills it and closes it. It is removed if that fails.
async fn make(
    cluster: &Cluster,
    dest: &Target,
    size: u64,
    options: &CreateOptions,
    fill: impl AsyncFnOnce(&Image<IoCtx>) -> Result<(), OperationError>,
) -> Result<(), Error> {
    let failed = |source| cluster.failed("make", &dest.spec, source);
    let (pool, name, config) = (cluster.pool(&dest.spec).await?, &dest.spec.image, cluster.config());
    rbd::create_image(&pool, &config, name, size, options).await.map_err(failed)?;
    let filled = async {
        let image = Image::open(pool.clone(), OpenOptions::image(name)).await?;
        let filled = fill(&image).await;
        image.close().await;
        filled
    };
    let filled = filled.await;
    if filled.is_err()
        && let Err(error) = rbd::remove_image(&pool, &config, name, &()).await
    {
        tracing::warn!(image = %dest.spec, %error, "what was made of the image could not be removed");
    }
    filled.map_err(failed)
}
