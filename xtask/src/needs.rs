//! What this repository needs of the machine, how to see that it is there, and the packages that have it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::distro::Family;

/// One need.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) what: &'static str,
    pub(crate) met: fn() -> bool,
    packages: Packages,
    /// What to do where no package has it.
    pub(crate) instead: &'static str,
}

/// Names of packages; none where a distribution has it in no package.
#[derive(Debug)]
struct Packages {
    debian: &'static [&'static str],
    /// Where they are not Debian's.
    ubuntu: Option<&'static [&'static str]>,
    fedora: &'static [&'static str],
    arch: &'static [&'static str],
}

impl Need {
    /// Those of that distribution.
    pub(crate) fn packages(&self, family: &Family) -> &'static [&'static str] {
        let names = &self.packages;
        match family {
            Family::Debian => names.debian,
            Family::Ubuntu => names.ubuntu.unwrap_or(names.debian),
            Family::Fedora => names.fedora,
            Family::Arch => names.arch,
            Family::Other(_) => &[],
        }
    }
}

/// What every distribution has in packages, Ubuntu by Debian's names.
const fn packages(
    debian: &'static [&'static str],
    fedora: &'static [&'static str],
    arch: &'static [&'static str],
) -> Packages {
    Packages {
        debian,
        ubuntu: None,
        fedora,
        arch,
    }
}

/// For all that is done here.
pub(crate) const NEEDS: &[Need] = &[
    Need {
        what: "QEMU",
        met: || is_on_path("qemu-system-x86_64"),
        packages: packages(
            &["qemu-system-x86"],
            &["qemu-system-x86-core"],
            &["qemu-system-x86"],
        ),
        instead: "",
    },
    Need {
        what: "clang 16 or later",
        met: has_clang,
        packages: packages(&["clang-19"], &["clang"], &["clang"]),
        instead: "",
    },
    Need {
        what: "pahole",
        met: || is_on_path("pahole"),
        packages: packages(&["dwarves"], &["dwarves"], &["pahole"]),
        instead: "",
    },
    Need {
        what: "kernel source",
        met: || Path::new("/usr/src/linux-source-6.12.tar.xz").is_file(),
        packages: Packages {
            ubuntu: Some(&[]),
            ..packages(&["linux-source-6.12"], &[], &[])
        },
        instead: "`cargo xtask kernel --release 6.12.30` builds one of kernel.org's, and `--tree DIR` a tree of your own",
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
        packages: packages(
            &[
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
            &[
                "make",
                "gcc",
                "flex",
                "bison",
                "bc",
                "lz4",
                "zstd",
                "xz",
                "cpio",
                "binutils",
                "pkgconf-pkg-config",
            ],
            &["base-devel", "bc", "lz4", "zstd", "xz", "cpio"],
        ),
        instead: "",
    },
    Need {
        what: "libelf",
        met: || header("libelf.h") || header("gelf.h"),
        packages: packages(&["libelf-dev"], &["elfutils-libelf-devel"], &["libelf"]),
        instead: "",
    },
    Need {
        what: "zlib",
        met: || header("zlib.h"),
        packages: packages(&["zlib1g-dev"], &["zlib-devel"], &["zlib"]),
        instead: "",
    },
    Need {
        what: "OpenSSL headers",
        met: || header("openssl/ssl.h"),
        packages: packages(&["libssl-dev"], &["openssl-devel"], &["openssl"]),
        instead: "",
    },
    Need {
        what: "busybox",
        met: || Path::new("/bin/busybox").is_file() || is_on_path("busybox"),
        packages: packages(&["busybox-static"], &["busybox"], &["busybox"]),
        instead: "",
    },
];

/// For referees that are written in Python.
pub(crate) const VENV: Need = Need {
    what: "Python's venv, for drgn",
    met: has_venv,
    packages: packages(&["python3-venv"], &["python3"], &["python"]),
    instead: "",
};

/// A referee of the readers of BTF.
pub(crate) const BPFTOOL: Need = Need {
    what: "bpftool",
    met: || is_on_path("bpftool") || Path::new("/usr/sbin/bpftool").is_file(),
    packages: Packages {
        ubuntu: Some(&["linux-tools-common", "linux-tools-generic"]),
        ..packages(&["bpftool"], &["bpftool"], &["bpf"])
    },
    instead: "",
};

/// Referees of the tests.
pub(crate) const CHECK_NEEDS: &[Need] = &[
    VENV,
    BPFTOOL,
    Need {
        what: "lstopo",
        met: || is_on_path("lstopo-no-graphics"),
        packages: packages(&["hwloc-nox"], &["hwloc"], &["hwloc"]),
        instead: "",
    },
    Need {
        what: "libclang, for scx_utils",
        met: has_libclang,
        packages: packages(&["libclang1-19"], &["clang-libs"], &["clang"]),
        instead: "",
    },
    Need {
        what: "Chromium, for reports",
        met: || {
            ["chromium", "chromium-browser", "google-chrome"]
                .into_iter()
                .any(is_on_path)
        },
        packages: Packages {
            ubuntu: Some(&["chromium-browser"]),
            ..packages(&["chromium"], &["chromium"], &["chromium"])
        },
        instead: "",
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
        fs::read_dir(dir)
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

/// Whether a program of that name is on `PATH`.
pub(crate) fn is_on_path(program: &str) -> bool {
    ktstr::host::plan::program::on_path(program).is_some()
}

fn header(name: &str) -> bool {
    Path::new("/usr/include").join(name).is_file()
}

fn has_clang() -> bool {
    versioned_clang().is_some() || major_of("clang").is_some_and(|major| major >= 16)
}

/// The newest clang that is there with its version in its name.
pub(crate) fn versioned_clang() -> Option<String> {
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
