//! A project whose only tie to this repository is `ktstr` as a path dev-dependency.

use std::fs;
use std::path::Path;

use ktstr::host::plan::program::cargo;

const TEST: &str = r#"
use ktstr::prelude::*;

#[ktstr_test(topology = "1n1l2c1t", duration_s = 1, not_stuck)]
fn a_strangers_first_test(ctx: &Ctx) -> Result<AssertResult> {
    execute_defs(ctx, vec![CgroupDef::named("mine").workers(2)])
}

ktstr::test_main!();
"#;

#[test]
fn cargo_test_passes_from_outside() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let project = tempfile::tempdir().unwrap();
    let dir = project.path();
    let manifest = format!(
        "[package]\nname = \"stranger\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
         [dev-dependencies]\nktstr = {{ path = {:?} }}\n\n\
         [[test]]\nname = \"sched\"\nharness = false\n\n[workspace]\n",
        root.join("crates/ktstr")
    );
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::create_dir_all(dir.join("src")).unwrap();
    fs::create_dir_all(dir.join("tests")).unwrap();
    fs::write(dir.join("src/lib.rs"), "").unwrap();
    fs::write(dir.join("tests/sched.rs"), TEST).unwrap();
    // The same versions as here, so that nothing has to be fetched.
    fs::copy(root.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    // Shared with the guide's projects, as `fixture.rs` of cargo-ktstr's tests builds them: ktstr is built once for all that are
    // none of this workspace.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("strangers");
    let output = cargo()
        .args(["test", "--offline"])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("test a_strangers_first_test ... ok"),
        "{text}"
    );
}
