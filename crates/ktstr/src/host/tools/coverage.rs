//! Coverage counters out of the guest.

use std::path::PathBuf;

use ktstr_wire::Message;

use crate::host::evidence::artifacts::write_atomic;
use crate::host::plan::config::HostConfig;
use crate::model::result::VmResult;

/// Writes each set of counters that `vm` sent to the directory for them; without one, they are left. A loss is told and
/// changes no verdict.
pub(in crate::host) fn keep(vm: &VmResult, config: &HostConfig, test: &str) {
    let Some(dir) = &config.coverage_dir else {
        return;
    };
    let frames = vm
        .guest_messages
        .iter()
        .flat_map(|frames| frames.messages());
    let sets = frames.filter_map(|(_, message)| match message {
        Message::Profraw(counters) => Some(counters),
        _ => None,
    });
    let mut found = 0;
    for counters in sets {
        let name = format!("guest-{}.{test}-{found}.profraw", config.binary);
        let path: PathBuf = dir.join(name);
        found += 1;
        if let Err(error) = write_atomic(&path, &counters) {
            tracing::warn!(%error, source = %error.source, "coverage counters are lost");
        }
    }
    if found == 0 {
        tracing::warn!(test, "the guest sent no coverage counters");
    }
}
