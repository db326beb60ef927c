//! `cargo xtask doctor`: the book's page of what `cargo ktstr doctor` says, of this machine and of the lab.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{kernel, lab_tests, sh};

/// Where the lab leaves what was said.
const IN_LAB: &str = "/tmp/doctor.txt";

/// Writes the page.
pub(crate) fn run() -> Result<()> {
    kernel::run(&kernel::Options::default())?;
    let cargo = ["build", "--workspace", "--bin", "cargo-ktstr"];
    let program = lab_tests::program(&cargo, "cargo-ktstr")?;
    let page = page(&here(&program)?, &lab(&program)?);
    let path = sh::root().join("book/src/doctor.md");
    std::fs::write(&path, page).with_context(|| format!("failed to write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

fn page(here: &str, lab: &str) -> String {
    format!(
        "# Two hosts, examined\n\n\
         `cargo ktstr doctor` on two hosts; `cargo xtask doctor` has written this page.\n\n\
         A virtual machine of two CPUs whose /dev/kvm opens but emulates, so that tests take tcg:\n\n\
         ```text\n{}\n```\n\n\
         The lab of ktstr's own tests (`cargo xtask lab`): an emulated machine whose /dev/kvm is genuine, and that has nothing but\n\
         the program under test:\n\n\
         ```text\n{}\n```\n",
        here.trim_end(),
        lab.trim_end()
    )
}

/// Its status says whether tests can run here; both answers are worth a page.
fn here(program: &str) -> Result<String> {
    let said = Command::new(program)
        .args(["ktstr", "doctor"])
        .output()
        .with_context(|| format!("failed to run {program}"))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        text.contains("kvm"),
        "{program} says nothing of kvm: {text}{}",
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(text)
}

fn lab(program: &str) -> Result<String> {
    let line = format!("{program} ktstr doctor > {IN_LAB}; true");
    let mut options = lab_tests::options(vec![
        lab_tests::busybox()?,
        String::from("sh"),
        String::from("-c"),
        line,
    ]);
    options.files.push(program.to_owned());
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("doctor.txt");
    options.outs.push(format!("{IN_LAB}:{}", out.display()));
    lab_tests::pass("doctor-in-lab", &options)?;
    read(&out)
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("failed to read {}", path.display()))?;
    ensure!(text.contains("kvm"), "the lab says nothing of kvm: {text}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_both_hosts() {
        let page = page("one kvm\n", "two kvm\n");
        assert!(page.contains("```text\none kvm\n```"), "{page}");
        assert!(page.ends_with("```text\ntwo kvm\n```\n"), "{page}");
    }
}
