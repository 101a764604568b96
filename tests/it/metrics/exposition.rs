//! Prometheus' text format 0.0.4, read strictly: what a careless reader would let pass fails here.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

/// All samples of one scrape.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) samples: Vec<Sample>,
    /// Types by metric name.
    pub(crate) types: BTreeMap<String, String>,
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    let first = characters.next();
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[track_caller]
fn number(text: &str) -> f64 {
    text.parse()
        .unwrap_or_else(|_| panic!("no number: {text:?}"))
}

/// `name="value",…` with the escapes that the format knows.
#[track_caller]
fn labels(text: &str) -> Labels {
    let mut found = Labels::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(name), "label {name:?}");
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in after.char_indices() {
            match (escaped, c) {
                (true, '\\' | '"') => value.push(c),
                (true, 'n') => value.push('\n'),
                (true, _) => panic!("escape \\{c} in {text:?}"),
                (false, '"') => {
                    end = Some(at + 1);
                    break;
                }
                (false, '\\') => {}
                (false, _) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        let old = found.insert(name.to_owned(), value);
        assert!(old.is_none(), "label {name} twice in {text:?}");
        rest = &after[end.unwrap_or_else(|| panic!("no end of the value: {text:?}"))..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').unwrap();
        }
    }
    found
}

#[track_caller]
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap())),
        None => (series, Labels::new()),
    };
    assert!(is_name(name), "{line:?}");
    Sample {
        name: name.to_owned(),
        labels,
        value: number(value),
    }
}

/// The metric that a sample is of.
fn metric_of<'a>(sample: &'a str, kind: &str) -> &'a str {
    let suffixes: &[&str] = if kind == "histogram" {
        &["_bucket", "_sum", "_count"]
    } else {
        &[""]
    };
    suffixes
        .iter()
        .find_map(|suffix| sample.strip_suffix(suffix))
        .unwrap_or_default()
}

impl Scrape {
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let (mut samples, mut types, mut helps) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        let mut current = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(help.len() > 20 && help.ends_with('.'), "{line:?}");
                assert!(helps.insert(name.to_owned()), "{name} is explained twice");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(
                    ["counter", "gauge", "histogram"].contains(&kind),
                    "{line:?}"
                );
                assert!(helps.contains(name), "{name} is not explained");
                let old = types.insert(name.to_owned(), kind.to_owned());
                assert!(old.is_none(), "{name} has two types");
                name.clone_into(&mut current);
                continue;
            }
            let sample = sample(line);
            let kind = types.get(&current).map_or("none", String::as_str);
            assert_eq!(
                metric_of(&sample.name, kind),
                current,
                "{line:?} is of another metric"
            );
            samples.push(sample);
        }
        assert_eq!(
            helps,
            types.keys().cloned().collect(),
            "explained and not there"
        );
        let scrape = Self { samples, types };
        scrape.check();
        scrape
    }

    /// Names and units, no series twice, counters that count, histograms that add up.
    #[track_caller]
    fn check(&self) {
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            assert!(
                seen.insert((&sample.name, &sample.labels)),
                "{sample:?} twice"
            );
        }
        for (name, kind) in &self.types {
            assert!(
                name.starts_with("vectorkeep_") || name.starts_with("process_"),
                "{name}"
            );
            assert!(
                !name.contains("_ms") && !name.contains("milli"),
                "{name}: base units"
            );
            assert_eq!(
                name.ends_with("_total"),
                kind == "counter",
                "{name} is a {kind}"
            );
            match kind.as_str() {
                "counter" => self.of(name).for_each(|sample| {
                    assert!(
                        sample.value >= 0.0 && sample.value.fract() == 0.0,
                        "{sample:?}"
                    );
                }),
                "histogram" => self.check_histogram(name),
                _ => {}
            }
        }
    }

    #[track_caller]
    fn check_histogram(&self, name: &str) {
        let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in self.of(&format!("{name}_bucket")) {
            let mut labels = sample.labels.clone();
            let bound = number(&labels.remove("le").unwrap());
            buckets
                .entry(labels)
                .or_default()
                .push((bound, sample.value));
        }
        assert!(!buckets.is_empty(), "{name} has no buckets");
        for part in ["sum", "count"] {
            let part = format!("{name}_{part}");
            let found = self.of(&part);
            let found: BTreeSet<_> = found.map(|sample| sample.labels.clone()).collect();
            assert_eq!(found, buckets.keys().cloned().collect(), "{part}");
        }
        for (labels, buckets) in buckets {
            assert!(buckets.len() > 5, "{name}: {buckets:?}");
            for pair in buckets.windows(2) {
                let rises = pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
                assert!(rises, "{name} {labels:?} is not cumulative: {buckets:?}");
            }
            let (bound, all) = *buckets.last().unwrap();
            assert!(bound.is_infinite(), "{name} {labels:?} has no +Inf");
            let value = |part: &str| {
                let part = format!("{name}_{part}");
                let mut found = self.of(&part);
                found.find(|sample| sample.labels == labels).unwrap().value
            };
            assert_eq!(all, value("count"), "{name} {labels:?}");
            assert!(
                value("sum") >= 0.0 && (all > 0.0 || value("sum") == 0.0),
                "{name}"
            );
        }
    }

    /// The samples of one name.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
    }

    /// Sum of the samples that have these labels; 0 without any.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            labels
                .iter()
                .all(|(name, value)| sample.labels.get(*name).is_some_and(|found| found == value))
        };
        self.of(name).filter(has).map(|sample| sample.value).sum()
    }

    /// The one sample of a name that has no labels.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> f64 {
        let found: Vec<_> = self.of(name).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0].value
    }

    /// Every name with its labels.
    pub(crate) fn series(&self) -> BTreeSet<(String, Labels)> {
        let samples = self.samples.iter();
        samples
            .map(|sample| (sample.name.clone(), sample.labels.clone()))
            .collect()
    }
}
