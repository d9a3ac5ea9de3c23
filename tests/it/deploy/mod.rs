//! What `deploy/` holds, under the real programs that read it.

mod pm2;
mod systemd;

use std::path::{Path, PathBuf};

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}
