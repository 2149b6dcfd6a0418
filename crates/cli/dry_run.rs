//! `--dry-run`: what would be destroyed, or why nothing would be.

use clap::Args as ClapArgs;

use crate::output;
use crate::report::Error;

#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub(crate) struct DryRun {
    /// Change nothing; only say what would be done, or refuse for the same reasons
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl DryRun {
    /// Says what would be done.
    pub(crate) fn would(self, what: &str) -> Result<(), Error> {
        output::write(&format!("would {what}\n"))
    }
}
