//! JUnit: written from our results, and read as far as nextest writes it.

use ktstr::model::verdict::Outcome;

use super::{Case, Other};

/// One suite per kernel.
pub(crate) fn render(cases: &[Case]) -> String {
    let mut kernels: Vec<&str> = cases.iter().map(|case| case.kernel.as_str()).collect();
    kernels.sort_unstable();
    kernels.dedup();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml.push_str(&format!(
        "<testsuites name=\"ktstr\"{}>\n",
        counts(cases.iter())
    ));
    for kernel in kernels {
        let of: Vec<&Case> = cases.iter().filter(|case| case.kernel == kernel).collect();
        xml.push_str(&format!(
            "  <testsuite name=\"{}\"{}>\n",
            escape(kernel),
            counts(of.iter().copied())
        ));
        for case in of {
            xml.push_str(&one(case));
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn counts<'a>(cases: impl Iterator<Item = &'a Case> + Clone) -> String {
    let of = |verdict: Outcome| cases.clone().filter(|case| case.verdict == verdict).count();
    let time: f64 = cases.clone().map(|case| case.seconds).sum();
    format!(
        " tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{time:.3}\"",
        cases.clone().count(),
        of(Outcome::Fail),
        of(Outcome::Inconclusive),
        of(Outcome::Skip)
    )
}

fn one(case: &Case) -> String {
    let class = case.sidecar.as_ref().map_or_else(String::new, |sidecar| {
        format!(
            "{}.{}",
            sidecar.scheduler.as_deref().unwrap_or("eevdf"),
            sidecar.topology
        )
    });
    let head = format!(
        "    <testcase name=\"{}\" classname=\"{}\" time=\"{:.3}\"",
        escape(&case.name),
        escape(&class),
        case.seconds
    );
    let element = |tag: &str, kind: &str| {
        format!(
            "      <{tag} message=\"{}\" type=\"{kind}\">{}</{tag}>\n",
            escape(&case.headline()),
            escape(&case.message)
        )
    };
    let body = match case.verdict {
        Outcome::Pass => return format!("{head}/>\n"),
        Outcome::Skip => format!("      <skipped message=\"{}\"/>\n", escape(&case.message)),
        Outcome::Fail => element("failure", "fail"),
        // A check without a signal is no failed check; JUnit's word for that is an error.
        Outcome::Inconclusive => element("error", "inconclusive"),
    };
    let mut files = String::new();
    for path in &case.artifacts {
        files.push_str(&format!("[[ATTACHMENT|{}]]\n", path.display()));
    }
    if !files.is_empty() {
        files = format!("      <system-out>{}</system-out>\n", escape(&files));
    }
    format!("{head}>\n{body}{files}    </testcase>\n")
}

/// Text as XML 1.0 can hold it: its five entities, and a mark for what it forbids.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(c),
            '\r' => {}
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The tests of a report as nextest writes it.
pub(super) fn read(xml: &str) -> Vec<Other> {
    let mut tests = Vec::new();
    for piece in xml.split("<testcase ").skip(1) {
        let (head, rest) = piece.split_once('>').unwrap_or((piece, ""));
        let body = if head.ends_with('/') {
            ""
        } else {
            rest.split("</testcase>").next().unwrap_or_default()
        };
        let failure = ["<failure", "<error"]
            .iter()
            .find_map(|tag| body.split_once(tag));
        let message = failure.map(|(_, rest)| {
            let head = rest.split('>').next().unwrap_or_default();
            attribute(head, "message")
                .or_else(|| attribute(head, "type"))
                .unwrap_or_default()
        });
        tests.push(Other {
            name: attribute(head, "name").unwrap_or_default(),
            failed: failure.is_some(),
            message: message.unwrap_or_default(),
            seconds: attribute(head, "time")
                .and_then(|time| time.parse().ok())
                .unwrap_or(0.0),
        });
    }
    tests
}

fn attribute(head: &str, name: &str) -> Option<String> {
    let head = format!(" {head}");
    let (_, rest) = head.split_once(&format!(" {name}=\""))?;
    Some(unescape(rest.split('"').next()?))
}

fn unescape(text: &str) -> String {
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#10;", "\n"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::RunDir;

    fn case(name: &str, verdict: Outcome, message: &str) -> Case {
        Case {
            name: name.to_owned(),
            kernel: String::from("6.12"),
            verdict,
            message: message.to_owned(),
            seconds: 1.5,
            artifacts: vec!["/t/a.console".into()],
            sidecar: None,
            dir: RunDir::open("/t".into()),
        }
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let cases = [
            case("good", Outcome::Pass, ""),
            case("bad", Outcome::Fail, "<&\"> \u{1b}[31m first\nsecond"),
            case("unsure", Outcome::Inconclusive, "no samples"),
            case("left", Outcome::Skip, "no SMT"),
        ];
        let xml = render(&cases);
        assert!(
            xml.contains("tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\" time=\"6.000\""),
            "{xml}"
        );
        assert!(
            !xml.contains('\u{1b}'),
            "control characters break XML readers"
        );
        let read = read(&xml);
        let failed: Vec<_> = read
            .iter()
            .map(|test| (test.name.as_str(), test.failed))
            .collect();
        assert_eq!(
            failed,
            [
                ("good", false),
                ("bad", true),
                ("unsure", true),
                ("left", false)
            ]
        );
        assert_eq!(read[1].message, "<&\"> \u{fffd}[31m first");
    }
}
