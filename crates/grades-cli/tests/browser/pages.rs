//! Every page that a quickstart leaves, and that of a sweep, on a wide screen and on a phone, light and dark.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use crate::behaviour;
use crate::chromium::{Chromium, Measures};

const DESK: usize = 1200;
const PHONE: usize = 360;

#[test]
fn pages_show_their_figures_on_any_screen() {
    let folder = tempfile::tempdir().unwrap();
    let Some(browser) = Chromium::find(folder.path()) else {
        println!(
            "skipped: no Chromium is here, so the pages of reports are NOT checked; ./get-browser finds or installs one"
        );
        return;
    };
    let call = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_grades"));
        let made = program.args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    call(&["quickstart", "--seeds", "1", "--out", "q"]);
    call(&["sweep", "q/config.yaml", "--tau", "1,100", "--alpha", "0.25,0.5", "--out", "q/sweep", "max_steps=8"]);
    let page = |name: &str| folder.path().join("q").join(name);
    check(&browser, &page("report.html"), 10);
    check(&browser, &page("runs/full-grades-seed0/report.html"), 8);
    check(&browser, &page("runs/compare.html"), 4);
    // Maps of time, loss and steps; there are no questions.
    check(&browser, &page("sweep/sweep.html"), 3);
    let steps =
        |run: &str| std::fs::read_to_string(page(&format!("runs/{run}/metrics.jsonl"))).unwrap().lines().count();
    behaviour::check(&browser, &page("report.html"), steps("full-none-seed0"), true);
    behaviour::check(&browser, &page("runs/full-grades-seed0/report.html"), steps("full-grades-seed0"), false);
}

#[test]
fn faults_of_a_page_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(browser) = Chromium::find(folder.path()) else {
        println!("skipped: no Chromium is here");
        return;
    };
    let fault = |body: &str| {
        let page = folder.path().join("page.html");
        let style = "<style>:root{color-scheme:light dark}</style>";
        std::fs::write(&page, format!("<!DOCTYPE html><html><head>{style}</head><body>{body}</body></html>")).unwrap();
        let checked = catch_unwind(AssertUnwindSafe(|| check(&browser, &page, 1)));
        checked.err().map(|error| error.downcast_ref::<String>().cloned().unwrap_or_default())
    };
    let table = "<table><tr><td>a table of some words</td></tr></table>";
    let drawn = "<svg viewBox=\"0 0 200 60\"><text y=\"50\" font-size=\"50\" fill=\"gray\">drawn</text></svg>";
    assert_eq!(fault(&format!("{table}{drawn}")), None);
    for (body, says) in [
        (format!("{table}{drawn}<div style=\"width:700px\">wide</div>"), "pixels wide"),
        (format!("{table}{drawn}<svg width=\"99\" height=\"99\"></svg>"), "nothing is drawn"),
        (format!("{table}{drawn}<img width=\"9\" src=\"http://127.0.0.1:9/x.png\">"), "x.png"),
        (format!("{table}{drawn}<div style=\"position:fixed;inset:0;background:white\"></div>"), "nothing is drawn"),
        (table.to_owned(), "figures: []"),
    ] {
        let fault = fault(&body).unwrap_or_else(|| panic!("not noticed: {body}"));
        assert!(fault.contains(says), "{body}: {fault}");
    }
}

fn check(browser: &Chromium, page: &Path, least_figures: usize) {
    for (width, schemes) in [(DESK, &[false, true][..]), (PHONE, &[false])] {
        let name = format!("{} at {width} pixels", page.display());
        let measures = browser.measure(page, width);
        let Measures { window, height, figures, tables, .. } = &measures;
        assert_eq!(*window, width as f64, "{name}");
        assert!(measures.width <= *window, "{name}: it is {} pixels wide", measures.width);
        assert!(measures.errors.is_empty() && measures.requests.is_empty(), "{name}: {measures:?}");
        assert!(figures.len() >= least_figures && *tables > 0, "{name}: {measures:?}");
        let whole = [0.0, 0.0, width as f64, *height];
        let parts: Vec<_> = [whole].into_iter().chain(figures.iter().copied()).collect();
        for &dark in schemes {
            let name = format!("{name}, dark: {dark}");
            let picture = browser.picture(page, [width, *height as usize], dark, &parts);
            assert_eq!((picture.width, picture.height), (width, *height as usize), "{name}");
            let light = picture.corner.iter().sum::<u32>() / 3;
            assert!(if dark { light < 60 } else { light > 200 }, "{name}: paper of lightness {light}");
            assert_eq!(picture.parts.len(), parts.len());
            for (part, place) in picture.parts.iter().zip(&parts) {
                // At least a hundredth is ink, of several colours: the edges of letters and lines have many.
                let ink = part.pixels - part.paper;
                assert!(100 * ink > part.pixels && part.colours > 8, "{name}: nothing is drawn at {place:?}: {part:?}");
            }
        }
    }
}
