//! Everything that a user can turn, by name: the lists come from the macros' tables, the enums and the table of variables.
//! `tests/knobs.toml` names the test that shows each one's effect, and `cargo xtask tidy` compares the two.

use serde::Serialize;

use crate::host::plan::config::Variable;
use crate::model::checks::Assert;
use crate::model::scenario::Op;
use crate::model::work::WorkType;

/// One name that has an effect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Knob {
    /// `attribute`, `scheduler-key`, `env`, `op`, `word` (of a scenario), `work`, `check` or `flag`.
    pub kind: &'static str,
    /// As a user writes it.
    pub name: String,
}

/// All but the flags of command lines, which their commands know.
#[must_use]
pub fn knobs() -> Vec<Knob> {
    let variables: Vec<&str> = Variable::ALL
        .iter()
        .map(|variable| variable.name())
        .collect();
    let words = super::forms::names();
    let lists: [(&'static str, &[&str]); 7] = [
        ("attribute", crate::__private::ATTRIBUTES),
        ("check", Assert::NAMES),
        ("env", &variables),
        ("op", Op::NAMES),
        ("scheduler-key", crate::__private::SCHEDULER_KEYS),
        ("word", &words),
        ("work", WorkType::ALL_NAMES),
    ];
    let knob = |kind, name: &&str| Knob {
        kind,
        name: (*name).to_owned(),
    };
    lists
        .iter()
        .flat_map(|(kind, names)| names.iter().map(move |name| knob(*kind, name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_listed_and_no_name_twice() {
        let mut all = knobs();
        for (kind, name) in [
            ("attribute", "memory_mib"),
            ("attribute", "scheduler"),
            ("check", "max_gap_ms"),
            ("env", "KTSTR_CACHE_DIR"),
            ("op", "SwapCpusets"),
            ("scheduler-key", "sysctls"),
            ("word", "CgroupDef::cpu_quota_pct"),
            ("work", "Custom"),
        ] {
            let name = name.to_owned();
            assert!(all.contains(&Knob { kind, name }), "{all:?}");
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
