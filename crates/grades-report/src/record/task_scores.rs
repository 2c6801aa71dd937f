use std::collections::BTreeMap;

/// The scores of benchmarks by name, each with its numbers: fractions, of CIDEr up to 10.
pub type TaskScores = BTreeMap<String, BTreeMap<String, f64>>;

/// Numbers by which a benchmark is judged; each has one of them.
const JUDGED_BY: [&str; 4] = ["acc", "exact_match", "average", "coco_CIDEr"];

/// The number that a benchmark is judged by, with its name.
#[must_use]
pub fn main_score(scores: &BTreeMap<String, f64>) -> Option<(&str, f64)> {
    let judged = JUDGED_BY.iter().find_map(|name| scores.get_key_value(*name));
    judged.or_else(|| scores.first_key_value()).map(|(name, value)| (name.as_str(), *value))
}
