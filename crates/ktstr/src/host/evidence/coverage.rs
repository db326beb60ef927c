//! Coverage counters out of the guest.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use ktstr_wire::Message;

use crate::host::evidence::artifacts::write_atomic;
use crate::host::plan::config::HostConfig;
use crate::model::names::file_stem;
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
    // Earlier runs' counters are added to, never replaced: by `coverage --keep`, and by every further kernel.
    let run = SystemTime::now().duration_since(UNIX_EPOCH);
    let run = run.map_or(0, |since| since.as_nanos());
    let process = std::process::id();
    for counters in sets {
        let name = format!(
            "guest-{}.{}-{run:x}-{process}-{found}.profraw",
            config.binary,
            file_stem(test)
        );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::watch::drain::Drain;
    use std::time::Instant;

    #[test]
    fn a_second_run_adds_its_counters_to_the_first_ones() {
        let dir = tempfile::tempdir().unwrap();
        let config = HostConfig {
            coverage_dir: Some(dir.path().to_owned()),
            ..HostConfig::from_lookup(|_| None).unwrap()
        };
        let counters = Message::Profraw(b"counters".to_vec());
        let mut drain = Drain::new(Instant::now());
        drain.push(
            &ktstr_wire::encode(&counters, 0, 7).unwrap(),
            std::time::Instant::now(),
            &mut |_| (),
        );
        let vm = VmResult {
            guest_messages: Some(drain.finish().frames),
            ..VmResult::test_fixture()
        };
        keep(&vm, &config, "t");
        keep(&vm, &config, "t");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
