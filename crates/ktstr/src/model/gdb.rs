//! How a guest that was stopped for a look is offered to gdb: what the test binary tells `cargo ktstr look --gdb`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How the line of the test binary's output begins that holds the offer, as JSON.
pub const GDB_MARK: &str = "ktstr-gdb ";

/// What a user needs to attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GdbOffer {
    /// Where gdb is awaited.
    pub socket: PathBuf,
    /// The virtual time at which the guest stands, nanoseconds since power-on.
    pub at_ns: u64,
    /// The kernel's ELF file, where there is one.
    pub vmlinux: Option<PathBuf>,
    /// How far the kernel moved itself from the addresses in that file.
    pub slide: u64,
}

impl GdbOffer {
    /// The offer in a line of the test binary's output, if it is one.
    #[must_use]
    pub fn of_line(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(GDB_MARK)?).ok()
    }

    /// The arguments with which gdb attaches.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut commands = match &self.vmlinux {
            Some(vmlinux) => vec![symbols(vmlinux, self.slide)],
            None => vec![String::from("set architecture i386:x86-64")],
        };
        commands.push(format!("target remote {}", self.socket.display()));
        commands
            .into_iter()
            .flat_map(|command| [String::from("-ex"), command])
            .collect()
    }
}

fn symbols(vmlinux: &Path, slide: u64) -> String {
    format!("symbol-file {} -o {slide:#x}", vmlinux.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(vmlinux: Option<&str>) -> GdbOffer {
        GdbOffer {
            socket: PathBuf::from("/tmp/d/gdb"),
            at_ns: 5,
            vmlinux: vmlinux.map(PathBuf::from),
            slide: 0x1000,
        }
    }

    #[test]
    fn an_offer_comes_through_its_line() {
        let told = offer(Some("/k/vmlinux"));
        let line = format!("{GDB_MARK}{}", serde_json::to_string(&told).unwrap());
        assert_eq!(GdbOffer::of_line(&line), Some(told));
        assert_eq!(GdbOffer::of_line("running 1 test"), None);
        assert_eq!(GdbOffer::of_line(&format!("{GDB_MARK}x")), None);
    }

    #[test]
    fn gdb_knows_the_kernels_symbols_where_they_are() {
        assert_eq!(
            offer(Some("/k/vmlinux")).arguments(),
            [
                "-ex",
                "symbol-file /k/vmlinux -o 0x1000",
                "-ex",
                "target remote /tmp/d/gdb"
            ]
        );
        assert_eq!(offer(None).arguments()[1], "set architecture i386:x86-64");
    }
}
