//! `./x doctor`: what is here, what is missing, what would be done about it.

use crate::system_packages::{For, ensure, needs};
use crate::{paths, ui};
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub struct Args {
    /// Install what is missing (Debian and Ubuntu), naming each package first
    #[arg(long)]
    install: bool,
}

pub fn run(args: &Args) -> Result<()> {
    if args.install {
        ensure(For::Checks)?;
    }
    let mut missing = 0;
    for need in needs(For::Checks) {
        match (need.check)() {
            Ok(found) => ui::verdict(true, format!("{}: {found}", need.what)),
            Err(reason) => {
                missing += 1;
                ui::verdict(false, format!("{}: {reason:#}", need.what));
                if !need.packages.is_empty() {
                    ui::note(format!("Debian 12: apt-get install {}", need.packages.join(" ")));
                }
                ui::note(format!("elsewhere: {}", need.elsewhere));
            }
        }
    }
    for dir in ["kernel", "busybox"] {
        let there = paths::cache().join("debian-arm64").join(dir).is_dir();
        let state = if there { "unpacked" } else { "not fetched yet" };
        ui::note(format!("Debian arm64 {dir}: {state}"));
    }
    if missing > 0 {
        bail!("{missing} missing; ./x doctor --install, or any other subcommand, installs them");
    }
    Ok(())
}
