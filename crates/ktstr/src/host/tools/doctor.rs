//! What this host gives to tests, and what makes it better: the first thing that a report of a failure contains.

use std::path::PathBuf;

use ktstr_kernel::{Cache, Kernel, KernelError, Metadata};
pub use ktstr_vmm::{Finding, Health};

use crate::host::plan::admission::admission_dir;
use crate::host::plan::config::Variable;
use crate::host::plan::kernel::{default_cache, resolve_test_kernel};

/// What builds a kernel.
const BUILD: &str = "cargo ktstr kernel build";

/// Looks at the host, at the kernels in the cache, and at what the environment chooses. Starts VMs of a few instructions.
#[must_use]
pub fn doctor() -> Vec<Finding> {
    let qemu = Variable::Qemu.value().map(PathBuf::from);
    let mut findings = ktstr_vmm::doctor(qemu.as_deref());
    findings.push(kernel(&resolve_test_kernel()));
    findings.extend(cache(&default_cache()));
    findings.push(locks());
    findings.extend(environment());
    findings
}

/// The kernel that the next run takes.
fn kernel(found: &Result<Kernel, KernelError>) -> Finding {
    match found {
        Ok(kernel) => {
            let release = kernel.release().unwrap_or_else(|| String::from("a kernel"));
            let image = kernel.image.display();
            Finding::new("kernel", Health::Good, format!("{release} ({image})"))
        }
        Err(_) => {
            let found = "no kernel that the next run could take";
            Finding::new("kernel", Health::Bad, found).mend(BUILD)
        }
    }
}

/// All kernels of the cache in one line, and each damaged one.
fn cache(cache: &Cache) -> Vec<Finding> {
    let (mut good, mut damaged) = (Vec::new(), Vec::new());
    for key in cache.all_keys() {
        match cache.inspect(&key) {
            Ok(metadata) => good.push(described(metadata)),
            Err(why) => {
                let why = why.replace('\n', " ");
                let finding = Finding::new(
                    "kernel cache",
                    Health::Less,
                    format!("{key} is damaged: {why}"),
                );
                damaged.push(finding.mend("cargo ktstr kernel clean"));
            }
        }
    }
    let root = cache.root().display();
    let summary = match good.as_slice() {
        [] => Finding::new("kernel cache", Health::Less, format!("{root} is empty")).mend(BUILD),
        releases => {
            let found = format!("{} in {root}", releases.join(", "));
            Finding::new("kernel cache", Health::Good, found)
        }
    };
    damaged.insert(0, summary);
    damaged
}

/// The release, and what the source was changed with: tests take such a kernel only by its name.
fn described(kernel: Metadata) -> String {
    match kernel.changes.as_slice() {
        [] => kernel.release,
        changes => format!("{} with {}", kernel.release, changes.join(" and ")),
    }
}

/// Whether VMs of this host can see each other.
fn locks() -> Finding {
    let dir = admission_dir();
    let place = dir.display();
    let usable = std::fs::create_dir_all(&dir).and_then(|()| tempfile::tempfile_in(&dir));
    match usable {
        Ok(_) => Finding::new("locks", Health::Good, format!("{place} can be written")),
        Err(error) => Finding::new(
            "locks",
            Health::Less,
            format!("{place} cannot be written: {error}"),
        )
        .mend("name a directory of your own in KTSTR_LOCK_DIR"),
    }
}

/// What the environment sets.
fn environment() -> Option<Finding> {
    let set: Vec<String> = Variable::ALL
        .iter()
        .filter_map(|variable| {
            let value = variable.value()?;
            Some(format!("{}={}", variable.name(), value.to_string_lossy()))
        })
        .collect();
    let found = set.join(" ").replace('\n', " ");
    (!set.is_empty()).then(|| Finding::new("environment", Health::Good, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_kernel_is_told_with_its_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cached = Cache::at(dir.path().join("kernels"));
        let files = dir.path().join("files");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::create_dir_all(cached.root()).unwrap();
        for (key, changes) in [("a", &[][..]), ("b", &["late.edit", "fix.patch"][..])] {
            for name in ["bzImage", "vmlinux"] {
                std::fs::write(files.join(name), name).unwrap();
            }
            let metadata = Metadata {
                source: "test".into(),
                release: "6.12.117".into(),
                compiler: "gcc 12".into(),
                image_bytes: 0,
                vmlinux_bytes: 0,
                image_sha256: String::new(),
                changes: changes.iter().copied().map(String::from).collect(),
            };
            cached.publish(key, &files, metadata).unwrap();
            std::fs::create_dir_all(&files).unwrap();
        }
        let found = &cache(&cached)[0].found;
        assert!(
            found.starts_with("6.12.117, 6.12.117 with late.edit and fix.patch in "),
            "{found}"
        );
    }

    #[test]
    fn an_empty_cache_is_told_with_what_fills_it() {
        let dir = tempfile::tempdir().unwrap();
        let findings = cache(&Cache::at(dir.path().into()));
        let [only] = &findings[..] else {
            panic!("{findings:?}")
        };
        assert_eq!(only.mend.as_deref(), Some(BUILD));
        std::fs::create_dir_all(dir.path().join("broken")).unwrap();
        let findings = cache(&Cache::at(dir.path().into()));
        assert!(
            findings
                .iter()
                .any(|finding| finding.found.contains("broken is damaged")),
            "{findings:?}"
        );
        let none = kernel(&ktstr_kernel::find(&Cache::at(dir.path().join("x")), None));
        assert_eq!(
            (none.health, none.mend.as_deref()),
            (Health::Bad, Some(BUILD))
        );
    }
}
