//! What is said when something does not work: one sentence, and what to do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use ceph_conf::{ArgsError, ConfigError, EntityError, ImageSpec, LoadError, QemuError, SpecError};
use rados::{CommandError, ConnectError, Errno, OpError};
use rbd::{Features, OpenError, OperationError};
use thiserror::Error;

use crate::spec::UsageError;

/// Why the program ends without having done what it should.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    QemuName(#[from] QemuError),
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Option(#[from] rbd::ConfigError),
    #[error("image {image} has {size} bytes already")]
    SameSize { image: String, size: u64 },
    #[error("--pretty-format is for JSON, and --format json is not given")]
    PrettyPlain,
    #[error("--export-name is for a single image, and {count} are to be served")]
    OneNameForMany { count: usize },
    #[error("two exports would be called '{name}'")]
    SameName { name: String },
    #[error("--listen {text} is no address of the form ADDR:PORT")]
    Address {
        text: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "refusing to listen on {text}, which other hosts reach: there is no TLS yet, so whoever connects could read \
         and write the images"
    )]
    NotLoopback { text: String },

    #[error(transparent)]
    Config(#[from] LoadError),
    #[error("cannot connect to the cluster as {user}")]
    Connect { user: String, source: Box<ConnectError> },
    #[error("there is no pool {pool}")]
    NoPool { pool: String },
    #[error("pool {pool} has no namespace {namespace}")]
    NoNamespace { pool: String, namespace: String },
    #[error("cannot look up pool {pool}")]
    Pool { pool: String, source: OpError },
    #[error("cannot open {spec} as {user}")]
    Open { spec: Box<ImageSpec>, user: String, source: Box<OpenError> },
    #[error("cannot list the images of {pool} as {user}")]
    List { pool: String, user: String, source: OpError },
    #[error("cannot {doing} {what} as {user}")]
    Operation { doing: &'static str, what: String, user: String, source: Box<OperationError> },

    #[error("{option} is not set for {entity}")]
    NoGlobalConfig { entity: String, option: String },
    #[error("cannot {doing} as {user}")]
    Command { doing: &'static str, user: String, source: CommandError },
    #[error("cannot {doing}: the monitors do not answer as expected")]
    CommandOutput { doing: &'static str, source: serde_json::Error },

    #[error("requests of {io_size} bytes are impossible: they have 1 byte at least, and less than 4 GiB")]
    IoSize { io_size: u64 },
    #[error("requests of {io_size} bytes are larger than the image, which has {size}")]
    IoLargerThanImage { io_size: u64, size: u64 },
    #[error("cannot {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },

    #[error("no default place for a unix socket: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set")]
    NoRuntimeDir,
    #[error("cannot make the directory {}", path.display())]
    RuntimeDir { path: PathBuf, source: io::Error },
    #[error("the socket {} is in use by another process", path.display())]
    SocketBusy { path: PathBuf },
    #[error("{} exists and is no socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot listen on {place}")]
    Listen { place: String, source: io::Error },
    #[error("cannot run date(1)")]
    DateProgram { source: io::Error },
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
    #[error("cannot write the result")]
    Output(#[source] io::Error),
}

impl Error {
    /// The errno behind it, as the exit code of `rbd` is; 1 if there is none.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let errno = match self {
            Self::Usage(UsageError::NoLimit) => Errno(34), // ERANGE
            Self::Spec(_)
            | Self::QemuName(_)
            | Self::Usage(_)
            | Self::Option(_)
            | Self::SameSize { .. }
            | Self::PrettyPlain
            | Self::OneNameForMany { .. }
            | Self::SameName { .. }
            | Self::Address { .. }
            | Self::NotLoopback { .. } => Errno::EINVAL,
            Self::IoSize { .. } | Self::IoLargerThanImage { .. } => Errno::EINVAL,
            Self::NoPool { .. } | Self::NoNamespace { .. } | Self::NoGlobalConfig { .. } => Errno::ENOENT,
            Self::Command { source: CommandError::Refused { errno, .. }, .. } => *errno,
            Self::Command { .. } | Self::CommandOutput { .. } => Errno::EIO,
            Self::Pool { source, .. } | Self::List { source, .. } => source.errno(),
            Self::Open { source, .. } => source.errno(),
            Self::Operation { source, .. } => source.errno(),
            Self::RuntimeDir { source, .. }
            | Self::Listen { source, .. }
            | Self::File { source, .. }
            | Self::DateProgram { source }
            | Self::Output(source) => source.raw_os_error().map_or(Errno::EPERM, Errno),
            Self::SocketBusy { .. } => Errno::EBUSY,
            Self::NotASocket { .. } => Errno::EEXIST,
            Self::Config(_)
            | Self::Connect { .. }
            | Self::NoRuntimeDir
            | Self::Runtime(_)
            | Self::Signals(_) => {
                return ExitCode::FAILURE;
            }
        };
        u8::try_from(errno.0).map_or(ExitCode::FAILURE, ExitCode::from)
    }

    /// What the user can do about it, if anything.
    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::OneNameForMany { .. } => "leave it out, each image is then called as given".into(),
            Self::SameName { .. } => "name each image once".into(),
            Self::NotLoopback { .. } => {
                "use a unix socket or a loopback address, or insist with --insecure-listen on a network you trust"
                    .into()
            }
            Self::Config(LoadError::NotFound { .. }) => {
                "give the file with --conf, or `--conf /dev/null` and --mon-host for none".into()
            }
            Self::Config(LoadError::Config(ConfigError::Name(error))) => return name_help(error),
            Self::Config(LoadError::Config(ConfigError::Args(ArgsError::Name(error)))) => {
                return name_help(error);
            }
            Self::Connect { source, .. } => return source.help(),
            Self::NoPool { .. } => "see the pools with `ceph osd lspools`".into(),
            Self::NoNamespace { pool, .. } => format!("see the namespaces with `rbd namespace ls {pool}`"),
            Self::Open { spec, user, source } => return open_help(spec, user, source),
            Self::List { pool, user, source } if denied(source) => caps_help(user, pool),
            Self::Operation { what, source, .. } => placed(&source.help()?, what),
            Self::PrettyPlain => "leave --pretty-format out, or add --format json".into(),
            Self::NoRuntimeDir => "name one with --socket".into(),
            Self::RuntimeDir { .. } => "name another place with --socket".into(),
            Self::SocketBusy { .. } => "stop that process, or name another socket with --socket".into(),
            Self::NotASocket { .. } => "remove it, or name another path with --socket".into(),
            Self::Listen { source, .. } => listen_help(source.kind())?,
            _ => return None,
        })
    }
}

fn name_help(error: &EntityError) -> Option<String> {
    error.help()
}

fn listen_help(kind: io::ErrorKind) -> Option<String> {
    Some(match kind {
        io::ErrorKind::AddrInUse => "stop the process that uses it, or choose another".into(),
        io::ErrorKind::NotFound => "make the directory first".into(),
        io::ErrorKind::PermissionDenied => "choose a place where this user may create files".into(),
        io::ErrorKind::InvalidInput => {
            "the path of a unix socket has at most 107 bytes; choose a shorter one".into()
        }
        _ => return None,
    })
}

fn open_help(spec: &ImageSpec, user: &str, error: &OpenError) -> Option<String> {
    let image = ImageSpec { snapshot: None, ..spec.clone() };
    Some(match error {
        OpenError::NoImage { .. } => match &spec.namespace {
            Some(namespace) => format!(
                "see the images with `rbd ls {0}/{namespace}`, and the namespaces with `rbd namespace ls {0}`",
                spec.pool
            ),
            None => format!("see the images with `rbd ls {}`", spec.pool),
        },
        OpenError::NoSnapshot { .. } => format!("see the snapshots with `rbd snap ls {image}`"),
        OpenError::FormatV1 { .. } => {
            format!("serve it with --read-only, or copy it to an image of format 2: `rbd cp {image} NEW`")
        }
        OpenError::Feature { features, .. } => return feature_help(&image, *features),
        OpenError::NoExclusiveLock { .. } => {
            format!("leave out --exclusive, or: `rbd feature enable {image} exclusive-lock`")
        }
        OpenError::Lock { source, .. } => return source.help(&image.to_string()),
        OpenError::Op { source, .. } if denied(source) => caps_help(user, &spec.pool),
        other => return other.help(),
    })
}

fn feature_help(image: &ImageSpec, features: Features) -> Option<String> {
    Some(if features.contains(Features::JOURNALING) {
        format!("serve it with --read-only, or drop it: `rbd feature disable {image} journaling`")
    } else if features.contains(Features::MIGRATING) {
        format!("finish the migration: `rbd migration commit {image}`, or abort it")
    } else if features.contains(Features::NON_PRIMARY) {
        format!("serve it with --read-only, or promote it: `rbd mirror image promote {image}`")
    } else if features.contains(Features::DIRTY_CACHE) {
        format!("on the host that wrote it last: `rbd persistent-cache flush {image}`")
    } else {
        return None;
    })
}

fn denied(error: &OpError) -> bool {
    error.is(Errno::EPERM) || error.is(Errno::EACCES)
}

fn caps_help(user: &str, pool: &str) -> String {
    format!(
        "grant {user} the caps mon 'profile rbd' osd 'profile rbd pool={pool}' (rbd-read-only is enough for --read-only)"
    )
}

/// Advice with pool and namespace before the name of the image: the library knows it by its name alone.
fn placed(help: &str, spec: &str) -> String {
    let Some((place, name)) = spec.rsplit_once('/') else { return help.to_owned() };
    let image = name.split('@').next().unwrap_or(name);
    let placed = |word: &str| match word.strip_prefix(image) {
        Some(rest) if rest.is_empty() || rest.starts_with(['@', '`', ',']) => format!("{place}/{word}"),
        _ => word.to_owned(),
    };
    help.split(' ').map(placed).collect::<Vec<_>>().join(" ")
}

/// Prints an error to standard error.
pub(crate) fn print(error: &Error) {
    eprintln!("rbd-nbd-rs: {}", sentence(error));
    if let Some(help) = error.help() {
        eprintln!("help: {}", one_line(&help));
    }
}

/// An error and its causes as one line.
pub(crate) fn sentence(error: &dyn StdError) -> String {
    let mut text = one_line(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = one_line(&error.to_string());
        // Some errors already say what caused them.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ImageSpec {
        text.parse().unwrap()
    }

    #[test]
    fn an_error_is_a_sentence_with_its_causes() {
        let source = Box::new(OpenError::Op {
            image: "image".into(),
            action: "read the header",
            source: OpError::Errno(Errno::EPERM),
        });
        let error = Error::Open { spec: Box::new(spec("p/n/image@s")), user: "client.qemu".into(), source };
        assert_eq!(
            sentence(&error),
            format!(
                "cannot open p/n/image@s as client.qemu: cannot read the header of image image: {}",
                Errno::EPERM
            )
        );
        let help = error.help().unwrap();
        assert!(help.contains("client.qemu") && help.contains("pool=p'"), "{help}");
    }

    #[test]
    fn advice_can_be_pasted() {
        let feature =
            OpenError::Feature { image: "i".into(), features: Features::JOURNALING, read_only: false };
        let help = open_help(&spec("p/n/i"), "client.a", &feature).unwrap();
        assert!(help.contains("`rbd feature disable p/n/i journaling`"), "{help}");
        let missing = OpenError::NoSnapshot { image: "i".into(), snapshot: "s".into() };
        let help = open_help(&spec("p/i@s"), "client.a", &missing).unwrap();
        assert!(help.contains("`rbd snap ls p/i`"), "{help}");
    }

    #[test]
    fn a_user_without_type_is_explained() {
        let error = Error::Config(LoadError::Config(ConfigError::Name(EntityError { name: "qemu".into() })));
        assert!(sentence(&error).contains("'qemu' is not of the form TYPE.ID"), "{}", sentence(&error));
        assert_eq!(error.help().as_deref(), Some("use --id qemu or --name client.qemu"));
    }

    #[test]
    fn what_a_user_got_wrong_in_the_command_is_told_apart_from_what_failed() {
        let usage = Error::OneNameForMany { count: 2 };
        assert_eq!(usage.exit_code(), ExitCode::from(22));
        assert_eq!(Error::NoRuntimeDir.exit_code(), ExitCode::FAILURE);
    }

    #[test]
    fn advice_names_the_pool_of_an_image() {
        for (help, shown) in [
            ("first: rbd snap purge i", "first: rbd snap purge p/n/i"),
            ("`rbd snap rm i@s`", "`rbd snap rm p/n/i@s`"),
            ("see `rbd lock ls i`, in it", "see `rbd lock ls p/n/i`, in it"),
        ] {
            assert_eq!(placed(help, "p/n/i@t"), shown);
        }
    }

    #[test]
    fn causes_are_not_repeated() {
        #[derive(Debug, Error)]
        #[error("a: {0}")]
        struct Outer(#[source] Inner);
        #[derive(Debug, Error)]
        #[error("b\nc")]
        struct Inner;
        assert_eq!(sentence(&Outer(Inner)), "a: b c");
    }
}
