//! KTAP, the kernel's test protocol, version 1.

use ktstr::model::verdict::Outcome;

use super::{Case, Finished};

/// One plan; with more than one kernel, one subtest per kernel. What kept tests from running is a line that is not ok.
pub(crate) fn render(finished: &Finished) -> String {
    let cases = &finished.cases;
    let mut kernels: Vec<&str> = cases.iter().map(|case| case.kernel.as_str()).collect();
    kernels.sort_unstable();
    kernels.dedup();
    let broken = finished.broken.as_slice();
    if kernels.len() < 2 {
        let all: Vec<&Case> = cases.iter().collect();
        return plan(&all, broken, "");
    }
    let mut text = format!("KTAP version 1\n1..{}\n", kernels.len() + broken.len());
    for (index, kernel) in kernels.iter().enumerate() {
        let of: Vec<&Case> = cases
            .iter()
            .filter(|case| case.kernel == **kernel)
            .collect();
        text.push_str(&plan(&of, &[], "  "));
        let worst = of
            .iter()
            .map(|case| case.verdict)
            .max()
            .unwrap_or(Outcome::Skip);
        text.push_str(&line(worst, index + 1, kernel, ""));
    }
    text.push_str(&not_run(broken, kernels.len()));
    text
}

fn not_run(broken: &[String], before: usize) -> String {
    let line = |(index, why): (usize, &String)| {
        let number = before + index + 1;
        format!("not ok {number} run the tests # ERROR {}\n", printable(why))
    };
    broken.iter().enumerate().map(line).collect()
}

fn plan(cases: &[&Case], broken: &[String], indent: &str) -> String {
    let count = cases.len() + broken.len();
    let mut text = format!("{indent}KTAP version 1\n{indent}1..{count}\n");
    for (index, case) in cases.iter().enumerate() {
        if case.is_bad() {
            for diagnostic in case.message.lines() {
                text.push_str(&format!("{indent}# {}\n", printable(diagnostic)));
            }
        }
        for headline in &case.failed_before {
            let headline = printable(headline);
            text.push_str(&format!(
                "{indent}# an earlier attempt failed: {headline}\n"
            ));
        }
        let result = line(case.verdict, index + 1, &case.name, &case.message);
        text.push_str(&format!("{indent}{result}"));
    }
    text.push_str(&not_run(broken, cases.len()));
    text
}

fn line(verdict: Outcome, number: usize, name: &str, message: &str) -> String {
    let name = printable(name).replace('#', "_");
    let reason = printable(message.lines().next().unwrap_or_default());
    match verdict {
        Outcome::Pass => format!("ok {number} {name}\n"),
        Outcome::Skip => format!("ok {number} {name} # SKIP {reason}\n"),
        Outcome::Fail => format!("not ok {number} {name}\n"),
        // Neither of KTAP's words fits exactly; ERROR is its word for a test that could not be judged.
        Outcome::Inconclusive => format!("not ok {number} {name} # ERROR inconclusive\n"),
    }
}

fn printable(text: &str) -> String {
    anstream::adapter::strip_str(text)
        .to_string()
        .chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::RunDir;

    fn case(name: &str, kernel: &str, verdict: Outcome, message: &str) -> Case {
        Case {
            name: name.to_owned(),
            test: name.to_owned(),
            binary: String::new(),
            failed_before: Vec::new(),
            kernel: kernel.to_owned(),
            verdict,
            message: message.to_owned(),
            seconds: 1.0,
            artifacts: Vec::new(),
            sidecar: None,
            dir: RunDir::open("/t".into()),
        }
    }

    fn finished(cases: &[Case]) -> Finished {
        Finished {
            cases: cases.to_vec(),
            ..Finished::new("r")
        }
    }

    #[test]
    fn a_run_that_could_not_be_is_not_ok() {
        let run = Finished {
            broken: vec!["the tests could not be built".into()],
            ..finished(&[])
        };
        assert_eq!(
            render(&run),
            "KTAP version 1\n1..1\nnot ok 1 run the tests # ERROR the tests could not be built\n"
        );
    }

    #[test]
    fn one_kernel_is_a_flat_plan() {
        let cases = [
            case("a", "k", Outcome::Pass, ""),
            case("b", "k", Outcome::Fail, "\u{1b}[0;32mone\u{1b}[0m\ntwo"),
            case("c", "k", Outcome::Skip, "no SMT"),
        ];
        let expected =
            "KTAP version 1\n1..3\nok 1 a\n# one\n# two\nnot ok 2 b\nok 3 c # SKIP no SMT\n";
        assert_eq!(render(&finished(&cases)), expected);
    }

    #[test]
    fn kernels_are_subtests() {
        let cases = [
            case("a", "k1", Outcome::Pass, ""),
            case("a", "k2", Outcome::Inconclusive, "x"),
        ];
        let text = render(&finished(&cases));
        assert!(
            text.starts_with("KTAP version 1\n1..2\n  KTAP version 1\n  1..1\n  ok 1 a\nok 1 k1\n"),
            "{text}"
        );
        assert!(
            text.ends_with("  not ok 1 a # ERROR inconclusive\nnot ok 2 k2 # ERROR inconclusive\n"),
            "{text}"
        );
    }
}
