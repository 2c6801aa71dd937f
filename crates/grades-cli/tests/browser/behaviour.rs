//! What a reader can do with the figures of a page.

use std::path::Path;

use serde::Deserialize;

use crate::chromium::Chromium;

const ACTIONS: &str = include_str!("behaviour.js");

/// What came of the actions. Distances are in units of a drawing, which is 480 wide; 1000: other parts.
#[derive(Debug, Deserialize)]
struct Found {
    entries: usize,
    untouched: f64,
    hidden: Hidden,
    moved: f64,
    redrawn: f64,
    alone: Vec<bool>,
    together: Vec<bool>,
    tip: Tip,
    known: Vec<f64>,
    left: Option<Tip>,
    end: [String; 2],
    back: String,
    escaped: Option<Tip>,
    seconds: bool,
    flops: bool,
    steps: f64,
    smoothed: [usize; 2],
    closer: Closer,
    whole: f64,
    #[serde(default)]
    up: Vec<f64>,
    #[serde(default)]
    down: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Hidden {
    pressed: Vec<bool>,
    lines: usize,
    everywhere: bool,
}

#[derive(Debug, Deserialize)]
struct Tip {
    title: String,
    rows: Vec<[String; 2]>,
}

#[derive(Debug, Deserialize)]
struct Closer {
    moved: f64,
    reset: bool,
}

/// Acts on a page whose last step is `last`.
pub(crate) fn check(browser: &Chromium, page: &Path, last: usize, has_table: bool) {
    // What the script draws anew is what the page has drawn, but for the rounding of its values to six digits.
    const SAME: f64 = 0.15;
    let name = page.display();
    let found: Found = browser.act(page, ACTIONS);
    assert!(found.entries > 1 && found.untouched == 0.0, "{name}: {found:?}");
    let others = || (1..found.entries).map(|_| false);
    let rest: Vec<bool> = [false].into_iter().chain((1..found.entries).map(|_| true)).collect();
    assert_eq!(found.hidden.pressed, rest, "{name}");
    assert!(found.hidden.lines == found.entries - 1 && found.hidden.everywhere, "{name}: {found:?}");
    assert!(found.moved > 5.0 && found.redrawn < SAME, "{name}: {} {}", found.moved, found.redrawn);
    assert_eq!(found.alone, [true].into_iter().chain(others()).collect::<Vec<_>>(), "{name}");
    assert!(found.together.iter().all(|pressed| *pressed), "{name}");
    let shown: Vec<f64> = found.tip.rows.iter().map(|[_, value]| value.parse().unwrap()).collect();
    assert!(found.tip.title.starts_with("step ") && !shown.is_empty(), "{name}: {found:?}");
    assert!(shown.windows(2).all(|pair| pair[0] >= pair[1]), "{name}: {shown:?}");
    let mut known = found.known.clone();
    known.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(known.len(), shown.len(), "{name}: {found:?}");
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.006 * a.abs();
    assert!(known.iter().zip(&shown).all(close), "{name}: {known:?} {shown:?}");
    assert!(found.left.is_none() && found.escaped.is_none(), "{name}: {found:?}");
    assert_eq!(found.end[0], format!("step {last}"), "{name}");
    assert!(found.end[1].starts_with(&found.end[0]) && found.end[1].len() > found.end[0].len(), "{name}: {found:?}");
    let back: usize = found.back.strip_prefix("step ").unwrap().parse().unwrap();
    assert!(back < last, "{name}: {found:?}");
    assert!(found.seconds && found.flops && found.steps < SAME, "{name}: {found:?}");
    assert!(found.smoothed[0] == 2 && found.smoothed[1] > 0, "{name}: {found:?}");
    assert!(found.closer.moved > 5.0 && found.closer.reset && found.whole < SAME, "{name}: {found:?}");
    assert_eq!(!found.up.is_empty(), has_table, "{name}");
    assert!(found.up.windows(2).all(|pair| pair[0] <= pair[1]), "{name}: {found:?}");
    assert_eq!(found.up.iter().rev().collect::<Vec<_>>(), found.down.iter().collect::<Vec<_>>(), "{name}");
}
