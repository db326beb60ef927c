//! `cargo ktstr export`

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ktstr::host::evidence::artifacts::write_atomic;
use ktstr::host::tools::export::{EXPORT_ENV, Export};
use liblzma::write::XzEncoder;
use tempfile::NamedTempFile;

use crate::exit::Exit;
use crate::test::{Build, cargo};
use crate::{interrupt, output};

/// The fastest level; it halves the archive, which is mostly code.
const XZ_LEVEL: u32 = 1;

/// Which test, and where to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file needs sh, tar and xz on the other machine. It refuses to run there without root, beside another \
    scheduler, or on another topology than the test's."
)]
pub(crate) struct Options {
    /// The test, by its whole name.
    test: String,
    /// The file; the test's name with `.sh` by default.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    build: Build,
}

/// Writes it and prints where.
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let mut command = cargo::find(&options.test, &options.build.selection(), None)?;
    let path = options
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.sh", options.test)));
    let here = std::env::current_dir().context("failed to find the working directory")?;
    let path = here.join(&path);
    if path.parent().is_some_and(|dir| !Path::is_dir(dir)) {
        bail!("the directory of {} does not exist", path.display());
    }
    let described = NamedTempFile::new().context("failed to create a temporary file")?;
    let status = interrupt::run(command.env(EXPORT_ENV, described.path()))?;
    if let Some(signal) = interrupt::requested() {
        return Ok(Exit::Interrupted(signal));
    }
    if !status.success() {
        bail!(
            "'{}' could not be exported; the reason is above",
            options.test
        );
    }
    let json = fs::read(described.path()).context("failed to read what the test consists of")?;
    let export: Export = serde_json::from_slice(&json)
        .context("the test binary was built with another version of ktstr than this command")?;
    let archive = pack(&export).context("failed to pack the programs")?;
    let bytes = [export.script.as_bytes(), &archive].concat();
    write_atomic(&path, &bytes)
        .with_context(|| format!("the export cannot be written to {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to make {} executable", path.display()))?;
    output::print(&format!("{}\n", path.display()))?;
    Ok(Exit::Pass)
}

fn pack(export: &Export) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(XzEncoder::new(Vec::new(), XZ_LEVEL));
    for (name, path) in &export.files {
        let mut file = fs::File::open(path)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(file.metadata()?.len());
        header.set_mode(0o755);
        archive.append_data(&mut header, name, &mut file)?;
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(export.plan.len()).unwrap_or(u64::MAX));
    header.set_mode(0o644);
    archive.append_data(&mut header, "plan.json", export.plan.as_bytes())?;
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_archive_holds_the_files_and_the_plan() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "a program").unwrap();
        let export = Export {
            script: String::new(),
            files: [(String::from("bin/test"), program.clone())].into(),
            plan: String::from("{}"),
        };
        let archive = dir.path().join("archive");
        fs::write(&archive, pack(&export).unwrap()).unwrap();
        let unpacked = Command::new("tar")
            .arg("-xJf")
            .arg(&archive)
            .arg("-C")
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(unpacked.status.success(), "{unpacked:?}");
        let test = dir.path().join("bin/test");
        assert_eq!(fs::read(&test).unwrap(), b"a program");
        assert_eq!(test.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(dir.path().join("plan.json")).unwrap(), b"{}");
        fs::remove_file(program).unwrap();
        assert!(pack(&export).is_err());
    }
}
