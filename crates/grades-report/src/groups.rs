//! Runs that are one method with several seeds: one colour, and a mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::run::Run;
use crate::series::{Look, Series, Weight};

pub(super) type Points = Vec<(f64, Option<f64>)>;
/// A line of a run.
pub(super) type Line<'a> = &'a dyn Fn(&Run) -> Points;

/// Runs that differ by their seeds alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What readers call them.
    pub name: String,
    /// Their colour, the same in every figure of a page.
    pub hue: usize,
    /// Their places among the runs.
    pub runs: Vec<usize>,
}

/// The runs of a page with their groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast<'a> {
    pub(super) runs: &'a [Run],
    pub(super) groups: &'a [Group],
    /// The place of the first run among those whose clocks the page has.
    pub(super) first: usize,
}

/// Groups the runs whose configs differ in nothing but seed and directory.
pub(super) fn by_seed(runs: &[Run]) -> Vec<Group> {
    let mut groups: Vec<(Option<String>, BTreeSet<&str>, Vec<usize>)> = Vec::new();
    for (place, run) in runs.iter().enumerate() {
        let is_own = |line: &&str| line.starts_with("seed:") || line.starts_with("output_dir:");
        let seed = run.config.lines().find(|line| line.starts_with("seed:"));
        let rest: String = run.config.lines().filter(|line| !is_own(line)).collect::<Vec<_>>().join("\n");
        let same = seed.and_then(|seed| {
            groups.iter_mut().find(|(of, seeds, _)| of.as_ref() == Some(&rest) && !seeds.contains(seed))
        });
        match same {
            Some((_, seeds, places)) => {
                seeds.extend(seed);
                places.push(place);
            }
            None => groups.push((seed.map(|_| rest), seed.into_iter().collect(), vec![place])),
        }
    }
    let group = |(hue, (_, _, places)): (usize, (_, _, Vec<usize>))| {
        let names: Vec<&str> = places.iter().map(|place| runs[*place].name.as_str()).collect();
        Group { name: common_name(&names), hue, runs: places }
    };
    groups.into_iter().enumerate().map(group).collect()
}

/// What names have in common, at their beginning or end, else the first and how many more there are.
fn common_name(names: &[&str]) -> String {
    let [first, others @ ..] = names else { return String::new() };
    if others.is_empty() {
        return (*first).to_owned();
    }
    let shared = |of: &dyn Fn(&str) -> Vec<char>| {
        let own = of(first);
        let alike = |other: &&str| of(other).iter().zip(&own).take_while(|(a, b)| a == b).count();
        own[..others.iter().map(alike).min().unwrap_or(0)].to_vec()
    };
    let start: String = shared(&|name| name.chars().collect()).into_iter().collect();
    let end: String = shared(&|name| name.chars().rev().collect()).into_iter().rev().collect();
    let is_joint = |c: char| !c.is_alphanumeric();
    let start = start.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(is_joint);
    let start = start.strip_suffix("seed").unwrap_or(start).trim_end_matches(is_joint);
    let end = end.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(is_joint);
    let longest = if start.chars().count() >= end.chars().count() { start } else { end };
    match longest {
        "" => format!("{first} and {} more", others.len()),
        name => name.to_owned(),
    }
}

impl Cast<'_> {
    /// What a series of a run is called: what it shows, where there is only this run.
    pub(super) fn named(&self, run: &Run, what: &str) -> String {
        joined(self.runs.len(), &run.name, what)
    }

    /// The group of a run.
    pub(super) fn group(&self, place: usize) -> Option<&Group> {
        self.groups.iter().find(|group| group.runs.contains(&place))
    }

    /// The colour of a run.
    pub(super) fn hue(&self, place: usize) -> usize {
        self.group(place).map_or(place, |group| group.hue)
    }

    /// Lines of every run, with the mean of each group that has several. Of one run the lines differ in colour; of several a run
    /// has one colour, and its lines differ in their dashes.
    pub(super) fn lines(&self, lines: &[(&str, Line<'_>)]) -> Vec<Series> {
        let mut all = Vec::new();
        for (number, (what, line)) in lines.iter().enumerate() {
            let of_runs: Vec<Points> = self.runs.iter().map(line).collect();
            for (place, run) in self.runs.iter().enumerate() {
                if of_runs[place].is_empty() {
                    continue;
                }
                let series = Series::line(self.named(run, what), of_runs[place].clone());
                let series = self.dressed(series, place, what, (lines.len() > 1).then_some(number));
                let is_followed = |of: &&usize| !of_runs[**of].is_empty();
                let has_others =
                    self.group(place).is_some_and(|group| group.runs.iter().filter(is_followed).count() > 1);
                all.push(Series { weight: if has_others { Weight::Seed } else { Weight::Plain }, ..series });
            }
            for group in self.groups.iter().filter(|group| group.runs.len() > 1) {
                let members: Vec<&Points> = group.runs.iter().map(|place| &of_runs[*place]).collect();
                let points = mean(&members);
                if !points.is_empty() {
                    let (name, look) =
                        (joined(self.runs.len(), &group.name, what), self.look(group.hue, lines, number));
                    let series =
                        Series { weight: Weight::Mean, runs: self.places(&group.runs), ..Series::line(name, points) };
                    all.push(series.with_look(look));
                }
            }
        }
        all
    }

    fn look(&self, hue: usize, lines: &[(&str, Line<'_>)], number: usize) -> Look {
        if lines.len() > 1 { Look { hue, dash: number } } else { Look::nth(hue) }
    }

    fn places(&self, runs: &[usize]) -> Vec<usize> {
        runs.iter().map(|place| self.first + place).collect()
    }

    /// A series of a run with what tells it from those of others; `number`: which of several of the run it is.
    pub(super) fn dressed(&self, series: Series, place: usize, what: &str, number: Option<usize>) -> Series {
        let series = Series { runs: self.places(&[place]), ..series };
        if self.runs.len() == 1 {
            return series;
        }
        let look = number.map_or(Look::nth(self.hue(place)), |dash| Look { hue: self.hue(place), dash });
        let entry = self.group(place).map(|group| joined(self.runs.len(), &group.name, what));
        Series { entry, look: Some(look), ..series }
    }
}

fn joined(runs: usize, name: &str, what: &str) -> String {
    match (runs, what) {
        (1, what) => what.to_owned(),
        (_, "") => name.to_owned(),
        (_, what) => format!("{name} {what}"),
    }
}

/// The mean where all that have any values have one: what is left after some have ended is another thing.
fn mean(members: &[&Points]) -> Points {
    let members: Vec<_> = members.iter().filter(|points| !points.is_empty()).collect();
    if members.len() < 2 {
        return Vec::new();
    }
    // Places are not negative, where the order of the bits is that of the numbers.
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (x, y) in members.iter().copied().copied().flatten() {
        at.entry(x.to_bits()).or_default().extend(y.filter(|y| y.is_finite()));
    }
    let whole = at.into_iter().filter(|(_, values)| values.len() == members.len());
    whole.map(|(x, values)| (f64::from_bits(x), Some(values.iter().sum::<f64>() / values.len() as f64))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_differ_by_their_seed_are_one_group() {
        let run = |name: &str, config: &str| Run { name: name.into(), config: config.into(), ..Run::default() };
        let runs = [
            run("a-seed0", "rate: 1\noutput_dir: runs/a\nseed: 0\n"),
            run("b", "rate: 2\noutput_dir: runs/b\nseed: 0\n"),
            run("a-seed1", "rate: 1\noutput_dir: runs/c\nseed: 1\n"),
            run("again", "rate: 1\noutput_dir: runs/d\nseed: 1\n"),
            run("bare", ""),
            run("bare too", ""),
        ];
        let groups: Vec<_> = by_seed(&runs).into_iter().map(|group| (group.name, group.hue, group.runs)).collect();
        let expected =
            [("a", vec![0, 2]), ("b", vec![1]), ("again", vec![3]), ("bare", vec![4]), ("bare too", vec![5])];
        let expected: Vec<_> = (0..).zip(expected).map(|(hue, (name, runs))| (name.to_owned(), hue, runs)).collect();
        assert_eq!(groups, expected);
        assert_eq!(common_name(&["t0-auto", "t1-auto"]), "auto");
        assert_eq!(common_name(&["full-auto-seed10", "full-auto-seed11"]), "full-auto");
        assert_eq!(common_name(&["x", "y", "z"]), "x and 2 more");
    }

    #[test]
    fn a_mean_is_of_all_or_not_at_all() {
        let line = |points: &[(f64, f64)]| points.iter().map(|(x, y)| (*x, Some(*y))).collect::<Points>();
        let (a, b) = (line(&[(1.0, 2.0), (2.0, 4.0), (3.0, 9.0)]), line(&[(1.0, 4.0), (2.0, 5.0)]));
        assert_eq!(mean(&[&a, &b, &Vec::new()]), line(&[(1.0, 3.0), (2.0, 4.5)]));
        assert!(mean(&[&a, &Vec::new()]).is_empty());
    }
}
