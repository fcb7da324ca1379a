//! Being written.
#[derive(Debug, clap::Args)]
pub struct ReadArgs {}
pub fn run(_: &ReadArgs) -> anyhow::Result<()> { anyhow::bail!("not yet") }
