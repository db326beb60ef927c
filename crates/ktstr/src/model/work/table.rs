//! The table of work types, made from the code.

use super::WorkType;

/// All work types as a Markdown table: name, group, what it exercises, iteration, wake latency.
pub fn markdown() -> String {
    let mut text = String::from(
        "| work type | group | exercises | one iteration | wake latency |\n|---|---|---|---|---|\n",
    );
    for work in WorkType::all() {
        let info = work.info();
        let latency = info
            .wake_latency
            .unwrap_or("none: it never sleeps for others");
        text.push_str(&format!(
            "| {} | {} | {} | {} | {latency} |\n",
            info.name, info.group_size, info.exercises, info.iteration
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/work-types.md` follows the code; `KTSTR_BLESS=1` writes it anew.
    #[test]
    fn the_document_follows_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/work-types.md");
        let head = "# Work types\n\nMade from the code (`WorkType::info`); mend with\n\
                    `KTSTR_BLESS=1 cargo test -p ktstr --lib the_document_follows_the_code`.\n\
                    A worker count is a multiple of the group.\n\n";
        let wanted = format!("{head}{}", markdown());
        if std::env::var_os("KTSTR_BLESS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(found, wanted, "docs/work-types.md is old");
    }
}
