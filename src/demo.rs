//! demo
use crate::error::Result;
#[derive(clap::Args)]
pub struct DemoArguments {}
pub async fn run(_a: DemoArguments) -> Result<()> {
    Ok(())
}
pub async fn print_health(_url: &str) -> Result<()> {
    Ok(())
}
