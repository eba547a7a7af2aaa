//! The program of composefs as its crate has it, with its service: `cargo` installs no programs of dependencies.

use clap::Parser as _;
use composefs_ctl::App;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    composefs_ctl::run_app(App::parse()).await
}
