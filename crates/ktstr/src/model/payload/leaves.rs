//! The numbers in a JSON document, by dotted path.

use serde_json::Value;

/// How deep numbers are looked for.
pub const JSON_DEPTH: usize = 64;

/// Last part of the name that stands for all that lies deeper than [`JSON_DEPTH`]; its value is the number of objects
/// and arrays that were not looked into.
pub const TRUNCATION_MARK: &str = "__truncated_at_depth_64";

/// Whether a metric of this name says that something was not looked into.
#[must_use]
pub fn is_truncation_mark(name: &str) -> bool {
    name == TRUNCATION_MARK || name.ends_with(&format!(".{TRUNCATION_MARK}"))
}

/// Every number in `document`, in its order, named by dotted path; elements of arrays by their index.
#[must_use]
pub fn numeric_leaves(document: &Value) -> Vec<(String, f64)> {
    let mut leaves = Vec::new();
    walk(document, &mut Vec::new(), &mut leaves);
    leaves
}

fn walk(value: &Value, path: &mut Vec<String>, leaves: &mut Vec<(String, f64)>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Number(number) => {
            if let Some(number) = number.as_f64().filter(|number| number.is_finite()) {
                leaves.push((name_of(path), number));
            }
            return;
        }
        Value::Object(map) => map
            .iter()
            .map(|(key, child)| (key.clone(), child))
            .collect(),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(index, child)| (index.to_string(), child))
            .collect(),
        _ => return,
    };
    if path.len() >= JSON_DEPTH {
        path.push(TRUNCATION_MARK.to_owned());
        leaves.push((name_of(path), children.len() as f64));
        path.pop();
        return;
    }
    for (key, child) in children {
        path.push(key);
        walk(child, path, leaves);
        path.pop();
    }
}

/// A bare number has no path; it is the document's only value.
fn name_of(path: &[String]) -> String {
    if path.is_empty() {
        "value".to_owned()
    } else {
        path.join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[track_caller]
    fn check(document: Value, expected: &[(&str, f64)]) {
        let leaves = numeric_leaves(&document);
        let leaves: Vec<(&str, f64)> = leaves.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        assert_eq!(leaves, expected);
    }

    #[test]
    fn numbers_are_named_by_their_path() {
        check(
            json!({"lat": {"p50": 3, "p99": 7.5}, "jobs": [{"iops": 10}, {"iops": 20}], "name": "x", "ok": true, "no": null}),
            &[
                ("jobs.0.iops", 10.0),
                ("jobs.1.iops", 20.0),
                ("lat.p50", 3.0),
                ("lat.p99", 7.5),
            ],
        );
        check(json!(7), &[("value", 7.0)]);
        check(json!("7"), &[]);
    }

    fn nested(depth: usize) -> Value {
        (0..depth).fold(json!(1), |inner, _| json!({ "d": inner }))
    }

    #[test]
    fn depth_64_is_read_and_deeper_is_marked() {
        let deepest = numeric_leaves(&nested(JSON_DEPTH));
        assert_eq!(deepest.len(), 1);
        assert!(!is_truncation_mark(&deepest[0].0));
        assert_eq!(deepest[0].1, 1.0);
        for depth in [JSON_DEPTH + 1, JSON_DEPTH + 9] {
            let marked = numeric_leaves(&nested(depth));
            assert_eq!(marked.len(), 1, "{marked:?}");
            assert!(is_truncation_mark(&marked[0].0), "{marked:?}");
            assert_eq!(marked[0].0.split('.').count(), JSON_DEPTH + 1);
        }
        assert!(!is_truncation_mark("a.truncated"));
    }

    proptest! {
        #[test]
        fn as_many_leaves_as_numbers(list in proptest::collection::vec(-1e9f64..1e9, 0..40)) {
            let leaves = numeric_leaves(&json!({ "list": list }));
            let values: Vec<f64> = leaves.into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(values, list);
        }
    }
}
