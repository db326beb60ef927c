//! Virtual time: what an emulator needs for it, and what it leaves.
//!
//! Nothing enters from the host while the guest runs: consoles go into memory files, the deadline is the plugin's, and QMP is
//! silent between `cont` and the end.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use std::process::Command;

use ktstr_plugin::{LIBRARY, Options, QEMU_VERSIONS, Report};

use super::memfd;
use crate::clock::{VirtualRun, VirtualTime};
use crate::console::{ConsoleLog, MAX_CONSOLE};
use crate::error::{BuildFault, Error, Result};
use crate::probe::Engine;
use crate::vm::Config;

/// The longest report is a line for each of 255 vCPUs.
const MAX_REPORT: u64 = 64 << 10;

/// Refuses an emulator that the plugin is not made for.
pub(crate) fn check_qemu(qemu: &Path, faults: &mut Vec<BuildFault>) {
    let output = Command::new(qemu).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let found = text.as_deref().map_or("nothing", version_of);
    if !QEMU_VERSIONS
        .iter()
        .any(|version| is_version(found, version))
    {
        let what = format!(
            "virtual time needs QEMU {}; {} --version says '{found}'. Name another one, or use host time",
            QEMU_VERSIONS.join(" or "),
            qemu.display()
        );
        faults.push(BuildFault::Engine {
            engine: Engine::Tcg,
            what,
        });
    }
}

/// `7.2.19` of "QEMU emulator version 7.2.19 (Debian …)".
fn version_of(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once("version ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .unwrap_or(line)
}

fn is_version(found: &str, wanted: &str) -> bool {
    found
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Memory files that the emulator inherits.
#[derive(Debug)]
pub(super) struct Files {
    com1: File,
    com2: File,
    report: File,
    plugin: File,
    options: Options,
}

impl Files {
    pub(super) fn new(time: &VirtualTime, config: &Config) -> Result<Self> {
        let mut plugin = memfd("ktstr-plugin.so")?;
        plugin
            .write_all(LIBRARY)
            .map_err(Error::system("write the emulator's plugin"))?;
        let report = memfd("ktstr-report")?;
        let mut options = time.options(&config.topology, config.deadline);
        options.report = path(&report);
        Ok(Self {
            com1: memfd("ktstr-com1")?,
            com2: memfd("ktstr-com2")?,
            report,
            plugin,
            options,
        })
    }

    pub(super) fn fds(&self) -> [RawFd; 4] {
        [&self.com1, &self.com2, &self.report, &self.plugin].map(|file| file.as_raw_fd())
    }

    /// The consoles as `-serial` takes them.
    pub(super) fn serials(&self) -> [String; 2] {
        [&self.com1, &self.com2].map(|file| format!("file:{}", path(file)))
    }

    /// The plugin as `-plugin` takes it.
    pub(super) fn plugin(&self) -> String {
        format!("{},{}", path(&self.plugin), self.options.to_arguments())
    }

    /// Once the emulator has ended: what the guest wrote.
    pub(super) fn consoles_into(&mut self, com1: &ConsoleLog, com2: &ConsoleLog) {
        for (file, log) in [(&mut self.com1, com1), (&mut self.com2, com2)] {
            let mut bytes = Vec::new();
            // A file of ours in memory; what cannot be read is a console that is empty.
            if file.rewind().is_ok()
                && file
                    .take(MAX_CONSOLE as u64)
                    .read_to_end(&mut bytes)
                    .is_ok()
            {
                log.push(&bytes);
            }
            log.close();
        }
    }

    /// The plugin's report; `None` when the emulator was killed.
    pub(super) fn report(&mut self) -> Option<Report> {
        let mut text = String::new();
        self.report.rewind().ok()?;
        let mut report = (&mut self.report).take(MAX_REPORT);
        report.read_to_string(&mut text).ok()?;
        Report::parse(&text)
    }

    pub(super) fn run(&self, report: &Report) -> VirtualRun {
        VirtualRun::new(&self.options, report)
    }
}

fn path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_whole_numbers() {
        let debian = "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(version_of(debian), "7.2.19");
        assert!(is_version(version_of(debian), "7.2"));
        assert!(is_version("7.2", "7.2"));
        assert!(!is_version("7.20.1", "7.2"));
        assert!(!is_version(version_of("bash 5.2"), "7.2"));
    }

    #[test]
    fn an_emulator_without_a_version_is_refused_by_name() {
        let mut faults = Vec::new();
        check_qemu(Path::new("/bin/true"), &mut faults);
        let told = faults[0].to_string();
        assert!(
            told.contains("needs QEMU 7.2") && told.contains("/bin/true"),
            "{told}"
        );
    }
}
