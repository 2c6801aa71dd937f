//! Whole pages of made-up runs.

use std::fs;
use std::path::Path;

use super::*;

const METRICS: &str = concat!(
    r#"{"step":1,"loss":3.5,"learning_rate":0.01,"gradient_norm":null,"tokens":10,"seconds":1.0,"step_seconds":1.0,"#,
    r#""monitor_seconds":0.1,"frozen_units":0,"flops":{"forward":30,"input_gradient":30,"weight_gradient":30},"#,
    r#""optimizer_bytes":64,"kept_bytes":32,"resident_bytes":null}"#,
    "\n",
    r#"{"step":2,"loss":3.25,"learning_rate":0.005,"gradient_norm":1.0,"tokens":20,"seconds":2.0,"step_seconds":0.75,"#,
    r#""monitor_seconds":0.1,"frozen_units":1,"flops":{"forward":30,"input_gradient":30,"weight_gradient":30},"#,
    r#""optimizer_bytes":32,"kept_bytes":16,"resident_bytes":4096,"val_loss":3.125}"#,
    "\n",
);

fn write_run(folder: &Path, metrics: &str) {
    fs::create_dir_all(folder).unwrap();
    let files = [
        ("metrics.jsonl", metrics),
        ("signals.jsonl", "{\"step\":2,\"signals\":{\"language.0.q\":0.75,\"language.0.up\":null}}\n"),
        ("events.jsonl", "{\"event\":\"freeze\",\"step\":2,\"unit\":\"language.0.q\",\"signal\":0.75}\n"),
        (
            "units.json",
            r#"{"method":"grades","signal":"gradient_change","norm":"l1","freezes":"below","units":[
                {"unit":"language.0.q","threshold":0.8},{"unit":"language.0.up","threshold":0.5}]}"#,
        ),
        ("environment.json", r#"{"units":2,"planned_steps":2,"processor":"<CPU>","threads":2}"#),
        ("config.yaml", "model: <script>alert(1)</script>\n"),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

fn figure<'a>(figures: &'a [Figure], name: &str) -> &'a Figure {
    figures.iter().find(|figure| figure.name == name).unwrap()
}

#[test]
fn numbers_of_a_run_stand_behind_their_figures() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), METRICS);
    let figures = figures(&read(&[folder.path()]).unwrap());
    let csv = |name: &str| figure(&figures, name).table.csv();
    assert_eq!(csv("loss"), "step,training,validation\n1,3.5,\n2,3.25,3.125\n");
    assert_eq!(csv("learning-rate"), "step,learning rate\n1,0.01\n2,0.005\n");
    assert_eq!(csv("frozen-share"), "step,share that is frozen\n1,0\n2,0.5\n");
    assert_eq!(csv("frozen-share-by-kind"), "step,attention,mlp\n1,0,0\n2,1,0\n");
    assert_eq!(csv("mean-signal-by-kind"), "step,attention,mlp\n2,0.75,\n");
    assert_eq!(csv("memory"), "step,process,optimizer,measuring\n1,,64,32\n2,4096,32,16\n");
    assert_eq!(csv("signals-language-00"), "step,q,up\n2,0.75,\n");
    assert_eq!(csv("freeze-map"), "layer,q,up\n0,2,\n");
    let by_share = csv("step-time-by-frozen-share");
    assert!(by_share.ends_with(",0,1,0.75\n"), "{by_share}");
    let svg = &figure(&figures, "signals-language-00").svg();
    assert!(svg.contains("τ of q = 0.8") && svg.contains("τ of up = 0.5"), "{svg}");
}

#[test]
fn losses_of_an_average_lie_beside_those_of_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["kept", "plain"].map(|name| folder.path().join(name));
    write_run(&paths[0], &METRICS.replace("\"val_loss\":3.125", "\"val_loss\":3.125,\"average_val_loss\":3.0"));
    write_run(&paths[1], METRICS);
    let runs = read(&paths).unwrap();
    let csv = |runs: &[Run], name: &str| figure(&figures(runs), name).table.csv();
    assert_eq!(
        csv(&runs[..1], "loss"),
        "step,training,validation,validation of the average\n1,3.5,,\n2,3.25,3.125,3\n"
    );
    // Two steps of 90 operations each.
    assert_eq!(
        csv(&runs, "validation-by-arithmetic"),
        "run,step,executed,validation,average\nkept,2,180,3.125,3\nplain,2,180,3.125,\n"
    );
    let svg = figure(&figures(&runs), "validation-by-arithmetic").svg();
    assert!(svg.contains("kept average") && !svg.contains("plain average"), "{svg}");
    assert!(!figure(&figures(&runs[1..]), "validation-by-arithmetic").svg().contains("average"));
}

#[test]
fn a_page_is_complete_in_itself_and_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("a<b>");
    write_run(&run, METRICS);
    let html = html(&read(&[&run]).unwrap(), None);
    assert!(html.contains("<h1>a&lt;b&gt;</h1>") && html.contains("&lt;script&gt;alert(1)"));
    for forbidden in ["a<b>", "<CPU>", "src=", "href=", "@import", "innerHTML", "eval(", "fetch(", "import("] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    // The script, and values for it, in which nothing can end their element.
    let scripts: Vec<&str> =
        html.split("<script").skip(1).map(|rest| rest.split("</script>").next().unwrap()).collect();
    assert_eq!(scripts.iter().filter(|script| script.starts_with(">\n\"use strict\"")).count(), 1);
    for values in scripts.iter().filter_map(|script| script.strip_prefix(" type=\"application/json\" class=\"")) {
        let values = values.split_once("\">").unwrap().1;
        assert!(!values.contains('<') && serde_json::from_str::<serde_json::Value>(values).is_ok(), "{values}");
    }
    assert!(
        html.matches("<script").count() > 5 && html.matches("<script").count() == html.matches("</script>").count()
    );
    // Only the name of the SVG standard is an address.
    assert_eq!(html.matches("http://").count(), html.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    assert!(!html.contains("https://"));
    let drawings = html.matches("<svg xmlns").count();
    assert!(drawings > 8 && drawings == html.matches("<summary>Numbers</summary>").count());
    for tag in ["div", "figure", "details", "table", "svg", "button"] {
        assert_eq!(html.matches(&format!("<{tag}")).count(), html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn runs_of_no_step_and_of_one_have_pages() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["none", "one"].map(|name| folder.path().join(name));
    write_run(&paths[0], "");
    write_run(&paths[1], METRICS.lines().next().unwrap());
    fs::create_dir(folder.path().join("bare")).unwrap();
    fs::write(folder.path().join("bare/metrics.jsonl"), "").unwrap();
    for page in [html(&read(&paths).unwrap(), None), html(&read(&[folder.path().join("bare")]).unwrap(), Some(5))] {
        let shown = page.split("<script>").next().unwrap();
        assert!(!shown.contains("NaN") && !shown.contains("inf"), "{shown}");
    }
    // A line without its end counts when it is whole.
    assert_eq!(read(&paths).unwrap()[1].steps.len(), 1);
}

#[test]
fn several_runs_lie_over_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a/run", "b/run", "other"].map(|name| folder.path().join(name));
    paths.iter().for_each(|path| write_run(path, METRICS));
    let runs = read(&paths).unwrap();
    assert_eq!(runs[2].name, "other");
    assert!(runs[0].name.ends_with("a/run") && runs[1].name.ends_with("b/run"));
    let figures = figures(&runs);
    assert_eq!(figure(&figures, "frozen-share").table.columns().len(), 4);
    let names: std::collections::BTreeSet<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(names.len(), figures.len());
    assert_eq!(html(&runs, None).matches("class=\"picker\"").count(), 3);
}

#[test]
fn figures_are_written_into_new_folders_only() {
    let folder = tempfile::tempdir().unwrap();
    write_run(&folder.path().join("run"), METRICS);
    let figures = figures(&read(&[folder.path().join("run")]).unwrap());
    let (drawings, tables) = (folder.path().join("svg"), folder.path().join("csv"));
    write_svg(&drawings, &figures).unwrap();
    write_csv(&tables, &figures).unwrap();
    assert!(fs::read_to_string(drawings.join("loss.svg")).unwrap().starts_with("<?xml"));
    assert_eq!(fs::read_dir(&tables).unwrap().count(), figures.len());
    assert!(matches!(write_csv(&drawings, &figures), Err(ReportError::Occupied { .. })));
    assert!(!drawings.join("loss.csv").exists());
}

#[test]
fn towers_are_drawn_apart_where_there_are_several() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), METRICS);
    let names = |figures: &[Figure]| -> Vec<String> {
        figures.iter().map(|figure| figure.name.clone()).filter(|name| name.ends_with("by-tower")).collect()
    };
    assert!(names(&figures(&read(&[folder.path()]).unwrap())).is_empty());
    for (name, text) in [
        (
            "units.json",
            r#"{"signal":"weight_change","freezes":"below","units":[{"unit":"vision.0.qkv","threshold":0.3},
                {"unit":"vision.0.fc1","threshold":0.3},{"unit":"language.0.q","threshold":6.0},{"unit":"language.0.up","threshold":5.0}]}"#,
        ),
        (
            "signals.jsonl",
            "{\"step\":1,\"signals\":{\"vision.0.qkv\":1.0,\"vision.0.fc1\":2.0,\"language.0.q\":4.0,\"language.0.up\":8.0}}\n\
             {\"step\":2,\"signals\":{\"vision.0.qkv\":0.25,\"vision.0.fc1\":0.5,\"language.0.up\":8.0}}\n",
        ),
        (
            "events.jsonl",
            "{\"event\":\"freeze\",\"step\":1,\"unit\":\"language.0.q\",\"signal\":4.0}\n\
             {\"event\":\"freeze\",\"step\":2,\"unit\":\"vision.0.qkv\",\"signal\":0.25}\n",
        ),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let figures = figures(&read(&[folder.path()]).unwrap());
    assert_eq!(names(&figures), ["frozen-share-by-tower", "mean-signal-by-tower"]);
    let csv = |name: &str| figure(&figures, name).table.csv();
    let vision_first = csv("mean-signal-by-tower").starts_with("step,vision");
    let [shares, means] = match vision_first {
        true => ["step,vision,language\n1,0,0.5\n2,0.5,0.5\n", "step,vision,language\n1,1.5,6\n2,0.375,8\n"],
        false => ["step,language,vision\n1,0.5,0\n2,0.5,0.5\n", "step,language,vision\n1,6,1.5\n2,8,0.375\n"],
    };
    assert_eq!((csv("frozen-share-by-tower"), csv("mean-signal-by-tower")), (shares.to_owned(), means.to_owned()));
    // Where the matrices of a tower have one threshold in common, it is drawn.
    let svg = &figure(&figures, "mean-signal-by-tower").svg();
    assert!(svg.contains("τ of vision = 0.3") && !svg.contains("τ of language"), "{svg}");
}

/// The values that stand beside the charts of a page, with the HTML of their figures.
fn charts(html: &str) -> Vec<(serde_json::Value, &str)> {
    let figures = html.split("<figure").skip(1).map(|rest| rest.split("</figure>").next().unwrap());
    let values = |figure: &str| {
        let values = figure.split("class=\"values\">").nth(1)?.split("</script>").next()?;
        Some(serde_json::from_str(values).unwrap())
    };
    figures.filter_map(|figure| Some((values(figure)?, figure))).collect()
}

#[test]
fn a_run_has_one_colour_and_every_entry_of_a_legend_is_a_button() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a\"<i>", "b", "c"].map(|name| folder.path().join(name));
    paths.iter().for_each(|path| write_run(path, METRICS));
    for (seed, path) in paths.iter().enumerate() {
        let rate = usize::from(seed == 2);
        fs::write(path.join("config.yaml"), format!("rate: {rate}\nseed: {seed}\noutput_dir: {seed}\n")).unwrap();
    }
    let html = html(&read(&paths).unwrap(), None);
    let charts = charts(&html);
    let shared: Vec<_> = charts.iter().filter(|(_, figure)| !figure.contains("signals-")).collect();
    assert!(shared.len() > 6, "{}", shared.len());
    for (values, figure) in &shared {
        for series in values["series"].as_array().unwrap() {
            // The first two differ by their seeds alone, and so have one colour, with their mean thick.
            let runs = series["runs"].as_array().unwrap();
            let expected = u64::from(runs.contains(&2.into()));
            assert_eq!(series["hue"], expected, "{series}");
            let by_share = values["x"] == "share that is frozen";
            let weight = match runs.len() {
                2 => "mean",
                _ if expected == 1 || by_share => "plain",
                _ => "seed",
            };
            assert_eq!(series["weight"], weight, "{series}");
        }
        let entries = values["entries"].as_array().unwrap().len();
        let buttons = "<button type=\"button\" disabled aria-pressed=\"true\" data-e=\"";
        assert!(entries > 1 && figure.matches(buttons).count() == entries, "{figure}");
        assert_eq!(figure.matches("<button").count(), entries, "{figure}");
    }
    assert!(!html.contains("<i>"));
}

#[test]
fn a_page_holds_more_points_than_it_draws_and_every_peak() {
    let folder = tempfile::tempdir().unwrap();
    let line = |step: usize| {
        let loss = if step == 6543 { 99.5 } else { 2.0 + (step % 7) as f64 };
        format!("{{\"step\":{step},\"loss\":{loss},\"seconds\":{},\"tokens\":{step}}}\n", step / 2)
    };
    write_run(folder.path(), &(1..=20_000).map(line).collect::<String>());
    let html = html(&read(&[folder.path()]).unwrap(), None);
    let charts = charts(&html);
    let (loss, figure) = charts.iter().find(|(values, _)| values["smooth"] == true).unwrap();
    let series = &loss["series"][0];
    let (xs, ys) = (series["xs"].as_array().unwrap(), series["ys"].as_array().unwrap());
    assert!(xs.len() == ys.len() && ys.len() > 2000 && ys.len() <= 4001, "{}", ys.len());
    let peak = xs.iter().position(|x| *x == 6543).unwrap();
    assert!(ys[peak] == 99.5 && xs.last().unwrap() == 20_000);
    // The peak is drawn, and what is drawn is what fits.
    let path = figure.split("<g data-s=\"0\"><path d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!((200..=321).contains(&path.matches(['M', 'L']).count()));
    let highest = path.split(['M', 'L']).skip(1).map(|at| at.split(' ').nth(1).unwrap().parse::<f64>().unwrap());
    let top: f64 = highest.fold(f64::INFINITY, f64::min);
    assert!(top < 40.0, "{top}");
    // A run of 20,000 steps is a page of some hundred kilobytes, not of megabytes.
    assert!(html.len() < 800_000, "{}", html.len());
}

#[test]
fn a_page_that_is_watched_waits_for_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), METRICS);
    let page = html(&read(&[folder.path()]).unwrap(), Some(5));
    // The script loads it anew; without one the browser does.
    assert!(page.contains("<html lang=\"en\" data-refresh=\"5\">"));
    assert!(page.contains("<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>"));
    assert!(!html(&read(&[folder.path()]).unwrap(), None).contains("refresh=\""));
}

#[test]
fn the_page_of_a_run_begins_with_what_it_came_to() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), METRICS);
    let page = |folder: &Path| html(&read(&[folder]).unwrap(), None);
    let first = page(folder.path());
    let facts = first.split("<dl class=\"facts\">").nth(1).unwrap().split("</dl>").next().unwrap();
    for fact in [
        "<dt>Validation loss</dt><dd><b>3.1250</b> after step 2, the only one measured</dd>",
        "<dt>Training loss</dt><dd><b>3.2500</b> of the last step</dd>",
        "<dt>Frozen matrices</dt><dd><b>1 of 2</b> language.0.q at step 2</dd>",
        "<dt>Steps</dt><dd><b>2 of 2</b> it goes on, or was interrupted</dd>",
        "<dt>Time</dt><dd><b>2.00 s</b> of it 0.20 s measuring</dd>",
    ] {
        assert!(facts.contains(fact), "{fact} is not in {facts}");
    }
    // Of a run that has ended, figures of what was not are left out: here nothing froze, and nothing was measured.
    fs::write(folder.path().join("summary.json"), r#"{"val_loss": 3.125}"#).unwrap();
    for name in ["events.jsonl", "signals.jsonl"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    fs::write(folder.path().join("metrics.jsonl"), METRICS.replace("\"frozen_units\":1", "\"frozen_units\":0"))
        .unwrap();
    let second = page(folder.path());
    for (title, shown) in [("Loss", true), ("Frozen matrices", false), ("Step at which each matrix froze", false)] {
        assert_eq!(second.contains(&format!("<h3>{title}</h3>")), shown, "{title}");
    }
    assert!(first.contains("<h3>Frozen matrices</h3>") && !second.contains("nothing was recorded yet"));
}
