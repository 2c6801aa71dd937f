//! Every page that a quickstart leaves, on a wide screen and on a phone, light and dark.

use std::path::Path;
use std::process::Command;

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
    let made = Command::new(env!("CARGO_BIN_EXE_grades"))
        .args(["quickstart", "--seeds", "1", "--out", "q"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = |name: &str| folder.path().join("q").join(name);
    // The comparison of one seed has tables alone.
    check(&browser, &page("report.html"), 10);
    check(&browser, &page("runs/full-grades-seed0/report.html"), 8);
    check(&browser, &page("runs/compare.html"), 0);
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
