//! Virtual time: what an emulator needs for it, and what it leaves.
//!
//! Nothing enters from the host while the guest runs: consoles go into memory files, the deadline is the plugin's, and QMP is
//! silent between `cont` and the end.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use std::thread::{self, JoinHandle};

use ktstr_plugin::{LIBRARY, Options, QEMU_VERSIONS, Report};

use super::args::{VirtualArguments, normalised};
use super::gate::Ends;
use super::{memfd, version};
use crate::clock::{VirtualRun, VirtualTime};
use crate::config::Config;
use crate::console::{ConsoleLog, MAX_CONSOLE};
use crate::error::{BuildFault, Error, Result};
use crate::identity::{Identity, Part};
use crate::initrd::Initrd;
use crate::probe::Engine;
use crate::saved::Saved;

/// The longest report is a line for each of 255 vCPUs.
const MAX_REPORT: u64 = 64 << 10;

/// Refuses an emulator that the plugin is not made for.
pub(crate) fn check_qemu(qemu: &Path, faults: &mut Vec<BuildFault>) {
    let found = version::ask(qemu);
    let found = found.as_deref().unwrap_or("nothing");
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
    /// Being taken.
    identity: Option<JoinHandle<io::Result<Identity>>>,
}

impl Files {
    pub(super) fn new(time: &VirtualTime, config: &Config, saved: Option<&Saved>) -> Result<Self> {
        let mut plugin = memfd("ktstr-plugin.so")?;
        plugin
            .write_all(LIBRARY)
            .map_err(Error::system("write the emulator's plugin"))?;
        let report = memfd("ktstr-report")?;
        let mut options = time.options(&config.topology, config.deadline);
        options.report = path(&report);
        options.forked = saved.is_some();
        Ok(Self {
            com1: memfd("ktstr-com1")?,
            com2: memfd("ktstr-com2")?,
            report,
            plugin,
            options,
            identity: Some(identify(time, config, saved)?),
        })
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn fds(&self) -> [RawFd; 4] {
        [&self.com1, &self.com2, &self.report, &self.plugin].map(|file| file.as_raw_fd())
    }

    /// What differs on the command line.
    pub(super) fn arguments(&self, gate: Option<&Ends>) -> VirtualArguments {
        VirtualArguments {
            serials: self.serials(),
            plugin: self.plugin(gate),
            mailbox: gate.map(|ends| ends.mailbox.as_raw_fd()),
            forked: self.options.forked,
        }
    }

    /// The consoles as `-serial` takes them.
    fn serials(&self) -> [String; 2] {
        [&self.com1, &self.com2].map(|file| format!("file:{}", path(file)))
    }

    /// The plugin as `-plugin` takes it.
    fn plugin(&self, gate: Option<&Ends>) -> String {
        let options = Options {
            gate: gate.map(|ends| ends.plugin.as_raw_fd()),
            ..self.options.clone()
        };
        format!("{},{}", path(&self.plugin), options.to_arguments())
    }

    /// The files of both consoles, which grow while the guest runs.
    pub(super) fn consoles(&self) -> std::io::Result<[File; 2]> {
        Ok([self.com1.try_clone()?, self.com2.try_clone()?])
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

    pub(super) fn run(&mut self, report: &Report) -> VirtualRun {
        let identity = self.identity.take().and_then(|taken| taken.join().ok());
        let identity = identity.and_then(io::Result::ok);
        VirtualRun::new(&self.options, identity, report)
    }
}

/// What decides a run of this VM, which boots or is a copy; taken beside that, since there are files to be read.
fn identify(
    time: &VirtualTime,
    config: &Config,
    saved: Option<&Saved>,
) -> Result<JoinHandle<io::Result<Identity>>> {
    let arguments = normalised(config, time.gate);
    let clock = Options {
        seed: 0,
        ..time.options(&config.topology, config.deadline)
    };
    let (emulator, kernel) = (config.qemu.clone(), config.kernel.clone());
    let initrd = config.initrd.as_ref().map(Initrd::open).transpose();
    let initrd = initrd.map_err(Error::system("open the initrd"))?;
    // A copy's files are in the memory that it was saved with.
    let start = saved.map_or_else(|| b"boot".to_vec(), Saved::content);
    let take = move || {
        let mut identity = Identity::default();
        identity.set(Part::Plugin, LIBRARY);
        identity.set(Part::Arguments, &arguments);
        identity.set(Part::Clock, clock.to_arguments().as_bytes());
        identity.set(Part::Start, &start);
        identity.set_file(Part::Emulator, &File::open(emulator)?)?;
        identity.set_file(Part::Kernel, &File::open(kernel)?)?;
        if let Some(initrd) = initrd {
            identity.set_file(Part::Archive, &initrd)?;
        }
        Ok(identity)
    };
    let builder = thread::Builder::new().name(String::from("ktstr-identity"));
    builder.spawn(take).map_err(Error::system("start a thread"))
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
        assert!(is_version(version::version_of(debian), "7.2"));
        assert!(is_version("7.2", "7.2"));
        assert!(!is_version("7.20.1", "7.2"));
        assert!(!is_version(version::version_of("bash 5.2"), "7.2"));
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
