//! `lock`: who may write to an image.

use ceph_codec::EntityName;
use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use rbd::{LockOwner, Locks};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::dry_run::DryRun;
use crate::report::Error;
use crate::spec::{ImageOptions, Positionals, ShowArgs, UsageError};
use crate::target::Target;
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Show who holds the lock of an image.
    #[command(visible_alias = "list")]
    Ls(ShowArgs),
    /// Lock an image by hand; it stays locked until `lock rm`.
    Add(AddArgs),
    /// Take a lock away, and shut its owner out of the cluster.
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddArgs {
    /// The image, and what to call the lock
    #[arg(value_names = ["IMAGE-SPEC", "LOCK-ID"], num_args = 0..=2)]
    arguments: Vec<String>,
    #[command(flatten)]
    image: ImageOptions,
    /// Share it with all who use the same tag
    #[arg(long, value_name = "TAG")]
    shared: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    /// The image, the id of the lock and its owner, as `lock ls` shows them
    #[arg(value_names = ["IMAGE-SPEC", "LOCK-ID", "LOCKER"], num_args = 0..=3)]
    arguments: Vec<String>,
    #[command(flatten)]
    image: ImageOptions,
    #[command(flatten)]
    dry_run: DryRun,
}

pub(crate) async fn run(command: &LockCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        LockCommand::Ls(args) => {
            let locks = Cluster::inspect(&args.image.resolve(overrides)?).await?.locks;
            args.format.print(|| to_json(&locks), || to_text(&locks))
        }
        LockCommand::Add(args) => add(args, overrides).await,
        LockCommand::Rm(args) => rm(args, overrides).await,
    }
}

async fn add(args: &AddArgs, overrides: &Overrides) -> Result<(), Error> {
    let mut arguments = Positionals::new(&args.arguments);
    let target = args.image.resolve(&mut arguments, overrides)?;
    let id = arguments.required("lock id")?;
    arguments.end()?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let tag = args.shared.as_deref().filter(|tag| !tag.is_empty());
    rbd::add_lock(&pool, &target.image_ref(), id, tag)
        .await
        .map_err(|source| cluster.failed("lock", &target.spec, source))
}

async fn rm(args: &RmArgs, overrides: &Overrides) -> Result<(), Error> {
    let (target, id, owner) = args.resolve(overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let failed = |source| cluster.failed("take the lock away from", &target.spec, source);
    let image = target.image_ref();
    let blocklist = cluster.config().is_set("rbd_blocklist_on_break_lock");
    if args.dry_run.dry_run {
        let found = rbd::check_remove_lock(&pool, &image, owner, id).await.map_err(failed)?;
        let shut_out = if blocklist { " and shut it out of the cluster" } else { "" };
        return args.dry_run.would(&format!("take {} away from {found}{shut_out}", target.spec));
    }
    rbd::remove_lock(&pool, &image, owner, id, blocklist).await.map_err(failed)
}

impl RmArgs {
    fn resolve(&self, overrides: &Overrides) -> Result<(Target, &str, EntityName), Error> {
        let mut arguments = Positionals::new(&self.arguments);
        let target = self.image.resolve(&mut arguments, overrides)?;
        let id = arguments.required("lock id")?;
        let locker = arguments.required("locker")?;
        arguments.end()?;
        let owner = EntityName::from_text(locker).ok_or_else(|| UsageError::Malformed {
            what: "client",
            form: "client.NUMBER",
            spec: locker.to_owned(),
        })?;
        Ok((target, id, owner))
    }
}

/// Ceph: `do_lock_list` in `src/tools/rbd/action/Lock.cc`.
fn to_json(locks: &Locks) -> Value {
    let owner = |owner: &LockOwner| json!({ "id": owner.cookie, "locker": owner.name.to_string(), "address": text::address(owner.addr) });
    locks.owners.iter().map(owner).collect()
}

fn to_text(locks: &Locks) -> String {
    let count = locks.owners.len();
    if count == 0 {
        return String::new();
    }
    let (verb, plural) = if count == 1 { ("is", "") } else { ("are", "s") };
    let kind = if locks.exclusive { "exclusive" } else { "shared" };
    let mut text = format!("There {verb} {count} {kind} lock{plural} on this image.\n");
    if !locks.exclusive {
        text += &format!("Lock tag: {}\n", locks.tag);
    }
    let rows = locks
        .owners
        .iter()
        .map(|owner| [owner.name.to_string(), owner.cookie.clone(), text::address(owner.addr)]);
    text + &text::listing(["Locker", "ID", "Address"], rows)
}
