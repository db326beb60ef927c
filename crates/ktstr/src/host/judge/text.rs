//! Text of guests and schedulers, made fit to be read: no terminal codes, no line without end.

use crate::model::verdict::AssertResult;

/// Characters of a line that a message keeps.
const MAX_LINE: usize = 2000;
/// Bytes of one finding or note that message and record keep.
const MAX_FINDING: usize = 16 * 1024;

/// Without the codes that a terminal takes for colours, titles and cursors.
pub(in crate::host) fn strip_ansi(text: &str) -> String {
    let plain = anstream::adapter::strip_str(text).to_string();
    plain.replace('\r', "")
}

/// The line, or its beginning with a note on the rest.
pub(in crate::host) fn cut_line(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE) {
        None => line.to_owned(),
        Some((end, _)) => {
            let kept = line.get(..end).unwrap_or_default();
            format!("{kept}… ({} bytes of this line left out)", line.len() - end)
        }
    }
}

/// Makes findings and notes readable. What had to be cut is returned whole, for `file`, which the cut text names.
pub(in crate::host) fn make_readable(result: &mut AssertResult, file: &str) -> Option<String> {
    let mut whole = String::new();
    let details = result.details.iter_mut().map(|detail| &mut detail.message);
    for text in details.chain(&mut result.info_notes) {
        if text.contains(['\u{1b}', '\r']) {
            *text = strip_ansi(text);
        }
        if text.len() > MAX_FINDING {
            whole.push_str(text);
            whole.push('\n');
            let end = text.floor_char_boundary(MAX_FINDING);
            let left_out = text.len() - end;
            text.truncate(end);
            text.push_str(&format!("… ({left_out} bytes more are in {file})"));
        }
    }
    (!whole.is_empty()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::verdict::DetailKind;

    #[test]
    fn terminal_codes_go_and_the_text_stays() {
        let coloured = "\u{1b}[1;31mEXIT:\u{1b}[0m runtime \u{1b}]0;a title\u{7}error\r\n";
        assert_eq!(strip_ansi(coloured), "EXIT: runtime error\n");
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        assert_eq!(cut_line("short"), "short");
        let cut = cut_line(&"ü".repeat(MAX_LINE + 5));
        assert!(
            cut.ends_with("ü… (10 bytes of this line left out)"),
            "{cut}"
        );
    }

    #[test]
    fn a_finding_without_end_is_cut_and_kept_whole_for_a_file() {
        let long = "ü".repeat(1 << 20);
        let mut result = AssertResult::fail(DetailKind::Other, long.clone());
        result.note("\u{1b}[31mred");
        let whole = make_readable(&mut result, "t.findings").unwrap();
        assert_eq!(whole.trim_end(), long);
        let kept = &result.details[0].message;
        assert!(
            kept.len() < 17 * 1024 && kept.ends_with("are in t.findings)"),
            "{}",
            kept.len()
        );
        assert_eq!(result.info_notes, ["red"]);
    }
}
