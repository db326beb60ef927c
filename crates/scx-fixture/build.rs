//! Compiles the BPF object and generates its skeleton.

use std::path::PathBuf;
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

/// Files of `src/bpf`, without `.bpf.c`.
const OBJECTS: [&str; 2] = ["fixture", "tree"];
/// The oldest clang whose BPF backend the sched_ext headers build with.
const OLDEST: u32 = 16;

fn major(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("-dumpversion").output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .split('.')
        .next()?
        .trim()
        .parse()
        .ok()
}

fn find_clang() -> String {
    if let Ok(clang) = std::env::var("BPF_CLANG") {
        return clang;
    }
    let names = (OLDEST..30)
        .rev()
        .map(|version| format!("clang-{version}"))
        .chain([String::from("clang")]);
    let found = names
        .into_iter()
        .find(|clang| major(clang).is_some_and(|major| major >= OLDEST));
    found.unwrap_or_else(|| {
        panic!("no clang of version {OLDEST} or later was found; install one (Debian's package: clang-19), or name it in BPF_CLANG")
    })
}

fn main() {
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=BPF_CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in OBJECTS {
        let source = format!("src/bpf/{name}.bpf.c");
        let built = SkeletonBuilder::new()
            .source(&source)
            .clang(find_clang())
            .clang_args(["-Wall"])
            .build_and_generate(out.join(format!("{name}.skel.rs")));
        if let Err(error) = built {
            panic!("{source} does not build: {error:#}");
        }
    }
}
