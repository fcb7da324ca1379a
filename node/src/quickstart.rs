//! placeholder
use crate::cli::QuickstartArgs;
/// placeholder
pub fn run(_: &QuickstartArgs) -> anyhow::Result<()> {
    Ok(())
}
