//! The words of a scenario, in which cgroups, work, steps and results are written: a table made from the code's own
//! documentation, for readers and for a comparison with the tests.

/// All of them, as Markdown.
const TABLE: &str = include_str!("../../../docs/forms.md");

/// Their names, `Type::function`.
pub(super) fn names() -> Vec<&'static str> {
    let cell = |line: &'static str| line.strip_prefix("| `")?.split_once('`');
    let rows = TABLE.lines().filter_map(cell);
    rows.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the words are declared, and of which types.
    const SOURCES: [(&str, &[&str]); 20] = [
        (
            include_str!("../../model/scenario/cgroup.rs"),
            &["CgroupDef"],
        ),
        (
            include_str!("../../model/scenario/condition.rs"),
            &["Cond", "TaskCond", "CgroupCond", "RqCond"],
        ),
        (
            include_str!("../../model/scenario/cpuset_spec.rs"),
            &["CpusetSpec"],
        ),
        (
            include_str!("../../model/scenario/step.rs"),
            &["HoldSpec", "Setup", "Step"],
        ),
        (
            include_str!("../../model/scenario/op.rs"),
            &["Op", "SpawnPlacement"],
        ),
        (
            include_str!("../../model/kernel_memory.rs"),
            &["KernelTarget", "KernelValue", "KernelValueWidth"],
        ),
        (
            include_str!("../../model/scenario/backdrop.rs"),
            &["Backdrop"],
        ),
        (
            include_str!("../../model/work/spec.rs"),
            &[
                "WorkSpec",
                "SchedPolicy",
                "SchedClass",
                "AffinityIntent",
                "MemPolicy",
                "MpolFlags",
            ],
        ),
        (include_str!("../../model/work/forms.rs"), &["WorkType"]),
        (
            include_str!("../../model/work/custom.rs"),
            &["WorkerCtx", "CustomCfg"],
        ),
        (
            include_str!("../../model/work/benchmark.rs"),
            &["SchbenchConfig", "TaobenchConfig"],
        ),
        (include_str!("../../model/phase.rs"), &["Phase"]),
        (
            include_str!("../../model/stats.rs"),
            &["ScenarioStats", "CgroupStats", "PhaseCgroupStats"],
        ),
        (
            include_str!("../../model/metrics.rs"),
            &[
                "PhaseCgroupStats",
                "PhaseBucket",
                "ScenarioStats",
                "VmResult",
                "Better",
            ],
        ),
        (
            include_str!("../../model/bpf_map.rs"),
            &["BpfMapWrite", "WatchBpfMap"],
        ),
        (
            include_str!("../../model/payload/metric.rs"),
            &["MetricCheck"],
        ),
        (include_str!("../../model/claim.rs"), &["Verdict"]),
        (include_str!("../../model/comparison.rs"), &["Claimed"]),
        (include_str!("../../model/snapshot/view.rs"), &["Snapshot"]),
        (include_str!("../../model/scenario/of_ctx.rs"), &["Ctx"]),
    ];

    const HEAD: &str = "<!-- Made from the code's documentation; mend with\n\
        KTSTR_BLESS=1 cargo test -p ktstr --lib the_table_of_words_follows_the_code -->\n\n\
        | word | means |\n|---|---|\n";

    /// The type whose functions follow, if a line begins such: `impl Op {`, or a macro for one type.
    fn type_of(line: &str) -> Option<&str> {
        let of_macro = match line {
            "of_cgroup! {" => Some("Op"),
            "slots! {" => Some("CustomCfg"),
            _ => line
                .strip_prefix("setters! { ")
                .map(|rest| rest.trim_end_matches(':')),
        };
        let plain = || {
            let rest = line.strip_prefix("impl")?.strip_suffix(" {")?;
            let of = match rest.strip_prefix('<') {
                // The parameters of the `impl` itself.
                Some(generic) => generic.rsplit_once("> ")?.1,
                None => rest.strip_prefix(' ')?,
            };
            let name = of.split('<').next()?;
            (!of.contains(" for ")).then_some(name)
        };
        of_macro.or_else(plain)
    }

    /// The first sentence of a documentation's first paragraph, as a cell: links are their texts.
    fn sentence(about: &str) -> String {
        let mut plain = String::new();
        let mut rest = about;
        while let Some((before, link)) = rest.split_once("[`") {
            let Some((text, after)) = link.split_once("`]") else {
                break;
            };
            plain.push_str(&format!("{before}`{text}`"));
            let target = after.strip_prefix('(').and_then(|it| it.split_once(')'));
            rest = target.map_or(after, |(_, after)| after);
        }
        plain.push_str(rest);
        let first = plain.split(". ").next().unwrap_or_default();
        first.trim_end_matches('.').replace('|', "\\|")
    }

    /// The function that a line declares, in the code or in the list of a macro.
    fn function_of(line: &str) -> Option<&str> {
        let line = line.strip_prefix("    ")?;
        let plain = line
            .strip_prefix("pub fn ")
            .or(line.strip_prefix("pub const fn "));
        let name = match plain {
            Some(rest) => rest.split(['(', '<']).next()?,
            None if line.ends_with(';') && !line.starts_with("pub ") => {
                line.split([' ', ',', ':']).next()?
            }
            None => return None,
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (!name.is_empty() && name.chars().all(good)).then_some(name)
    }

    /// Rows of one file: of each public function the first sentence of its documentation.
    fn rows(source: &str, types: &[&str]) -> Vec<String> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let (mut rows, mut of, mut about) = (Vec::new(), None, String::new());
        // The first paragraph is over.
        let mut whole = false;
        for line in code.lines() {
            if let Some(name) = type_of(line) {
                of = types.iter().find(|wanted| **wanted == name);
                about.clear();
                whole = false;
            } else if line == "}" {
                of = None;
            } else if let Some(text) = line.strip_prefix("    /// ") {
                if whole {
                    continue;
                }
                if !about.is_empty() {
                    about.push(' ');
                }
                about.push_str(text);
            } else if line == "    ///" {
                whole = true;
            } else if let (Some(of), Some(name)) = (of, function_of(line)) {
                rows.push(format!("| `{of}::{name}` | {} |", sentence(&about)));
                about.clear();
                whole = false;
            } else if !line.trim_start().starts_with("#[") {
                about.clear();
                whole = false;
            }
        }
        rows
    }

    /// Rows of the functions that the table of work types makes.
    fn made_of_fields() -> impl Iterator<Item = String> {
        let forms = crate::model::work::WorkType::FORMS.iter();
        forms.map(|(function, name)| format!("| `WorkType::{function}` | `WorkType::{name}` |"))
    }

    #[test]
    fn a_row_is_the_first_sentence_without_links() {
        let source = "impl<'v, V: Into<A> + B> Claimed<'v, V> {\n    /// What [`A::b`](super::A::b) was\n    /// given, as `exact([1, 2])`. \
            More of [`C`].\n    ///\n    /// # Errors\n    /// Never.\n    #[must_use]\n    pub fn cfg(self) {}\n\n    \
            /// Next.\n    pub const fn next<T>(self) {}\n}\n\nimpl Drop for Claimed<'_> {\n    pub fn no(&self) {}\n}\n";
        let expected = [
            "| `Claimed::cfg` | What `A::b` was given, as `exact([1, 2])` |",
            "| `Claimed::next` | Next |",
        ];
        assert_eq!(rows(source, &["Claimed"]), expected);
    }

    /// `docs/forms.md` follows the code; `KTSTR_BLESS=1` writes it anew.
    #[test]
    fn the_table_of_words_follows_the_code() {
        let mut wanted = HEAD.to_owned();
        for (source, types) in SOURCES {
            let mut rows = rows(source, types);
            if types == ["WorkType"] {
                rows.splice(0..0, made_of_fields());
            }
            for of in types {
                let head = format!("| `{of}::");
                assert!(
                    rows.iter().any(|row| row.starts_with(&head)),
                    "none of {of}"
                );
            }
            for row in rows {
                assert!(!row.ends_with("|  |"), "without documentation: {row}");
                wanted.push_str(&row);
                wanted.push('\n');
            }
        }
        if std::env::var_os("KTSTR_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/forms.md");
            std::fs::write(path, &wanted).unwrap();
            return;
        }
        assert_eq!(TABLE, wanted, "docs/forms.md is old");
        assert!(names().contains(&"CgroupDef::workers"), "{:?}", names());
    }
}
