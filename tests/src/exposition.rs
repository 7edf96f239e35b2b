//! Prometheus' text format, read as strictly as it is written down:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::collections::{BTreeMap, BTreeSet};

/// What was exposed: a value for each series, which is a name with its labels.
#[derive(Debug)]
pub struct Exposition(BTreeMap<(String, Labels), f64>);

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

impl Exposition {
    /// Reads a text.
    ///
    /// # Panics
    /// When Prometheus would refuse it: unknown syntax, a series twice, samples without a type or away from it, a histogram
    /// that does not add up.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line does not end");
        let mut types: BTreeMap<String, String> = BTreeMap::new();
        let mut series = BTreeMap::new();
        let mut family = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (keyword, name) = (words.next().unwrap(), words.next().expect("a name"));
                assert_name(name);
                match keyword {
                    "HELP" => {}
                    "TYPE" => {
                        let kind = words.next().expect("a type").to_owned();
                        assert!(
                            ["counter", "gauge", "histogram"].contains(&kind.as_str()),
                            "{line}"
                        );
                        assert!(types.insert(name.to_owned(), kind).is_none(), "twice: {line}");
                        name.clone_into(&mut family);
                    }
                    _ => panic!("neither help nor type: {line}"),
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let kind = types.get(&family).unwrap_or_else(|| panic!("no type: {line}"));
            let suffix = name.strip_prefix(&family);
            let suffix = suffix.unwrap_or_else(|| panic!("not of the family {family}: {line}"));
            let expected: &[&str] = match kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(expected.contains(&suffix), "not of a {kind}: {line}");
            assert!(kind != "counter" || value >= 0.0, "{line}");
            assert!(series.insert((name, labels), value).is_none(), "twice: {line}");
        }
        let exposition = Self(series);
        for (name, _) in types.iter().filter(|(_, kind)| *kind == "histogram") {
            exposition.check_histogram(name);
        }
        exposition
    }

    /// Buckets grow, and the last one holds all.
    fn check_histogram(&self, name: &str) {
        let without_bound = |labels: &Labels| {
            let mut labels = labels.clone();
            labels.remove("le");
            labels
        };
        let bucket = format!("{name}_bucket");
        let of_bucket = || self.0.iter().filter(|((other, _), _)| *other == bucket);
        let all: BTreeSet<Labels> = of_bucket()
            .map(|((_, labels), _)| without_bound(labels))
            .collect();
        for labels in all {
            let mut buckets: Vec<(f64, f64)> = of_bucket()
                .filter(|((_, other), _)| without_bound(other) == labels)
                .map(|((_, other), count)| (number(&other["le"]), *count))
                .collect();
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(
                buckets.is_sorted_by(|one, other| one.1 <= other.1),
                "{name}: {buckets:?}"
            );
            let (bound, count) = *buckets.last().unwrap();
            assert!(bound.is_infinite(), "{name}: {buckets:?}");
            assert_eq!(
                Some(&count),
                self.0.get(&(format!("{name}_count"), labels.clone()))
            );
            assert!(self.0.contains_key(&(format!("{name}_sum"), labels)));
        }
    }

    /// The sum over all series of this name that have these labels, and perhaps others; `None` when there is none.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |all: &Labels| {
            labels
                .iter()
                .all(|(label, value)| all.get(*label).is_some_and(|is| is == value))
        };
        let series = self
            .0
            .iter()
            .filter(|((other, all), _)| other == name && has(all));
        series.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    /// The same for what must be there.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels)
            .unwrap_or_else(|| panic!("no {name} with {labels:?}"))
    }
}

fn assert_name(name: &str) {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    let is_name = name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit());
    assert!(is_name, "{name:?} is not a name");
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        text => text
            .parse()
            .unwrap_or_else(|_| panic!("{text:?} is not a number")),
    }
}

/// `name{label="value",...} number`
fn sample(line: &str) -> (String, Labels, f64) {
    let (head, value) = line
        .rsplit_once(' ')
        .unwrap_or_else(|| panic!("no value: {line}"));
    let value = number(value);
    let Some((name, rest)) = head.split_once('{') else {
        assert_name(head);
        return (head.to_owned(), Labels::new(), value);
    };
    assert_name(name);
    let mut rest = rest
        .strip_suffix('}')
        .unwrap_or_else(|| panic!("labels do not end: {line}"));
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (label, after) = rest
            .split_once("=\"")
            .unwrap_or_else(|| panic!("no label: {line}"));
        assert_name(label);
        let mut text = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters
                .next()
                .unwrap_or_else(|| panic!("a label does not end: {line}"))
            {
                (at, '"') => break at,
                (_, '\\') => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, quoted @ ('"' | '\\'))) => text.push(quoted),
                    other => panic!("{other:?} is quoted: {line}"),
                },
                (_, other) => text.push(other),
            }
        };
        assert!(
            labels.insert(label.to_owned(), text).is_none(),
            "a label twice: {line}"
        );
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_owned(), labels, value)
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn what_prometheus_refuses_is_refused() {
        let good = "# HELP a_total text\n# TYPE a_total counter\na_total{x=\"1\",y=\"\\\"}\"} 2\na_total{x=\"2\"} 3\n";
        let parsed = Exposition::parse(good);
        assert_eq!(parsed.get("a_total", &[]), Some(5.0));
        assert_eq!(parsed.get("a_total", &[("y", "\"}")]), Some(2.0));
        assert_eq!(parsed.get("a_total", &[("y", "2")]), None);
        let histogram = |inf: u8| {
            format!(
                "# TYPE h histogram\nh_bucket{{le=\"1\"}} 1\nh_bucket{{le=\"+Inf\"}} {inf}\nh_sum 3.5\nh_count 2\n"
            )
        };
        assert_eq!(Exposition::parse(&histogram(2)).get("h_count", &[]), Some(2.0));
        for bad in [
            "a_total 1\n".to_owned(),
            "# TYPE a_total counter\na_total 1".to_owned(),
            "# TYPE a_total counter\nb_total 1\n".to_owned(),
            "# TYPE a_total counter\na_total 1\na_total 1\n".to_owned(),
            "# TYPE a_total counter\na_total{x=1} 1\n".to_owned(),
            "# TYPE a_total counter\na_total{x=\"1} 1\n".to_owned(),
            "# TYPE a_total counter\na_total one\n".to_owned(),
            "# TYPE a_total counter\n# TYPE a_total counter\n".to_owned(),
            "# TYPE a-total counter\n".to_owned(),
            histogram(3),
        ] {
            assert!(catch_unwind(|| Exposition::parse(&bad)).is_err(), "{bad}");
        }
    }
}
