//! Finding HAProxy's program.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::settings::Settings;

/// Where it usually is, and ordinary users often do not look.
const USUAL: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Finds the program: a path as it is; a name along `PATH` and where it usually is. Answers it, as a path that does not
/// depend on the working directory, and the first line that it says of itself.
///
/// # Errors
/// When it cannot be run.
pub(crate) async fn find(settings: &Settings) -> io::Result<(PathBuf, String)> {
    if settings.haproxy.components().count() > 1 {
        let program = std::path::absolute(&settings.haproxy)?;
        let version = version(&program).await?;
        return Ok((program, version));
    }
    let absence = match version(&settings.haproxy).await {
        Ok(version) => return Ok((settings.haproxy.clone(), version)),
        Err(error) => error,
    };
    for directory in USUAL {
        let program = Path::new(directory).join(&settings.haproxy);
        if let Ok(version) = version(&program).await {
            return Ok((program, version));
        }
    }
    Err(absence)
}

async fn version(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("-v").output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
