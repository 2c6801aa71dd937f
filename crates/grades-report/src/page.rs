//! The HTML file around figures and tables: complete in itself, without network, and whole without its script.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crate::error::ReportError;

/// What marks a file as a report, which a later one may replace.
const MARK: &str = "<meta name=\"generator\" content=\"grades report\">";

/// The colours of paper, ink and series; those of series differ in lightness too, and none is the only mark of its series.
pub(super) const COLOURS: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2127;--soft:#57606a;--line:#d5dbe1;--tint:#f3f5f8;\
--s0:#0b5cad;--s1:#b8480a;--s2:#0c7350;--s3:#8b2fa0;--s4:#7d6200;--s5:#b0214f;--s6:#42566a;--s7:#00737f}\n\
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e7ebef;--soft:#a3adb8;--line:#39424c;--tint:#1e242b;\
--s0:#70b4ff;--s1:#ff9f66;--s2:#52d3a3;--s3:#dba4f3;--s4:#e2c451;--s5:#ff93b5;--s6:#afc1d1;--s7:#58d2e0}}\n";

/// How figures are drawn; shared with figures that stand alone.
pub(super) const FIGURES: &str = "\
.chart{display:block;width:100%;height:auto;font:14px system-ui,sans-serif;background:var(--paper)}\n\
.chart text{fill:var(--ink)}.chart .soft{fill:var(--soft)}.chart .grid{stroke:var(--line);stroke-width:1}\n\
.chart .axis{stroke:var(--soft);stroke-width:1}.chart .guide{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:1 3}\n\
.chart .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px}\n";

const LAYOUT: &str = "\
*{box-sizing:border-box}body{margin:0 auto;max-width:76rem;padding:1rem;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}\n\
h1{font-size:1.6rem;margin:.5rem 0;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--line);\
padding-top:1rem}h3{font-size:1rem;margin:0}p{margin:.3rem 0 .8rem;color:var(--soft);max-width:70ch}\n\
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,29rem),1fr));gap:1.5rem}\n\
figure{margin:0;min-width:0}figure p{font-size:.9rem;margin:0 0 .3rem}\n\
details{margin:.4rem 0}summary{cursor:pointer;color:var(--soft);font-size:.9rem;padding:.3rem 0}\n\
.scroll{overflow:auto;max-width:100%}details .scroll{max-height:32rem}table{border-collapse:collapse;font-size:.85rem}\n\
caption{text-align:left;color:var(--soft);padding:.2rem 0}\n\
th,td{padding:.2rem .6rem .2rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\n\
thead th{position:sticky;top:0;background:var(--paper)}td,thead th{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n\
.w.w{text-align:left}td.w{white-space:normal}tbody th{white-space:nowrap}\n\
pre{overflow:auto;background:var(--tint);padding:.8rem;font-size:.85rem;border-radius:.3rem}\n\
.picker{display:flex;flex-wrap:wrap;gap:.3rem;align-items:center}.picker>input{position:absolute;opacity:0}\n\
.picker>label{order:1;min-width:2.4rem;padding:.3rem .5rem;text-align:center;border:1px solid var(--line);border-radius:.3rem;cursor:pointer}\n\
.picker>input:checked+label{background:var(--ink);color:var(--paper);font-weight:600}\n\
.picker>input:focus-visible+label{outline:3px solid var(--s0);outline-offset:1px}\n\
.picker>.pane{display:none;order:2;width:100%;margin-top:.6rem}.pane>figure{max-width:48rem}.picker>input:checked+label+.pane{display:block}\n\
.map{max-width:48rem}\n\
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,9.5rem),1fr));gap:.6rem;margin:.8rem 0}\n\
.facts div{background:var(--tint);border-radius:.4rem;padding:.6rem .8rem}.facts dt{color:var(--soft);font-size:.85rem}\n\
.facts dd{margin:0;font-size:.85rem;color:var(--soft);overflow-wrap:anywhere}.facts b{display:block;font-size:1.25rem;font-weight:600;color:var(--ink)}\n\
button{font:inherit;color:inherit;background:none;border:0;padding:0;text-align:inherit}button:enabled{cursor:pointer}\n\
:focus-visible{outline:3px solid var(--s0);outline-offset:1px}\n\
.legend{display:flex;flex-wrap:wrap;gap:.1rem .8rem;font-size:.85rem;margin:.2rem 0}\n\
.legend button{display:inline-flex;align-items:center;gap:.35rem;padding:.15rem .2rem;overflow-wrap:anywhere}\n\
.key{width:44px;height:14px;flex:none}button[aria-pressed=false]{opacity:.55;text-decoration:line-through}\n\
.legend button:enabled:hover{background:var(--tint);border-radius:.3rem}\n\
.plot{position:relative}.live .plot>svg{touch-action:pan-y;cursor:crosshair}.chart [hidden]{display:none}\n\
.cursor{stroke:var(--soft);stroke-width:1}.dot{fill:var(--paper);stroke-width:2}.selection{fill:var(--s0);fill-opacity:.18}\n\
.over{pointer-events:none}.reset{position:absolute;top:0;right:0;font-size:.8rem;padding:.1rem .5rem;background:var(--tint);border-radius:.3rem}\n\
.tip{position:absolute;z-index:2;pointer-events:none;width:max-content;max-width:100%;padding:.35rem .6rem;font-size:.8rem;line-height:1.35;background:var(--paper);\
border:1px solid var(--line);border-radius:.3rem;box-shadow:0 2px 8px #0004}\n\
.rows>div{display:grid;grid-template-columns:auto minmax(4rem,auto) auto;gap:.5rem;align-items:center}.rows span{overflow-wrap:anywhere}\
.rows span:last-child{font-variant-numeric:tabular-nums;text-align:right}.bold{font-weight:700}\n\
@media (min-width:48rem){.tools{position:sticky;top:0;z-index:1}}.tools{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;align-items:center;padding:.35rem 0;margin-bottom:.6rem;font-size:.85rem;background:var(--paper)}\n\
.tools [role=group]{display:inline-flex;border:1px solid var(--line);border-radius:.3rem;overflow:hidden}\
.tools button{padding:.15rem .7rem;opacity:1;text-decoration:none}.tools button[aria-pressed=true]{background:var(--ink);color:var(--paper)}\n\
.tools label{display:inline-flex;align-items:center;gap:.5rem}.tools input{accent-color:var(--s0);width:9rem}.tools output{min-width:2.2rem}\n\
th button{font-weight:inherit}[aria-sort] button::after{content:\" ▴\"}[aria-sort=descending] button::after{content:\" ▾\"}\n\
.aside{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}\n\
.sample{margin:0 0 1.5rem}.sample h3{margin:0 0 .3rem}.sample img{margin:0 .5rem .3rem 0;vertical-align:top}\n\
.sample pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0}.sample mark{background:none;color:var(--s2);font-weight:700}\n\
.sample span{color:var(--soft)}\n\
@media print{.scroll,pre{overflow:visible}details .scroll{max-height:none}.tools,.tip,.reset{display:none}thead th{position:static}\
figure,.facts div,tr,.sample{break-inside:avoid}h2,h3{break-after:avoid}.facts div,pre{border:1px solid var(--line)}}\n";

/// What a reader may do with the figures; see there.
const SCRIPT: [&str; 3] =
    [include_str!("script/values.js"), include_str!("script/plot.js"), include_str!("script/page.js")];

/// Text as HTML shows it, in elements and in quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters have no place in HTML or XML.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A whole page around `body`, which is HTML. With `refresh` a browser loads it again after so many seconds. A body with charts
/// or tables to sort has the script after it.
#[must_use]
pub fn page(title: &str, body: &str, refresh: Option<u64>) -> String {
    let has_script = ["class=\"values\">{", "class=\"sortable\""].iter().any(|mark| body.contains(mark));
    let script = if has_script { format!("<script>\n{}</script>\n", packed(&SCRIPT)) } else { String::new() };
    // The script waits for its reader; without one the browser does it.
    let refresh = refresh.map_or((String::new(), String::new()), |seconds| {
        let meta = format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">");
        let meta = if has_script { format!("<noscript>{meta}</noscript>\n") } else { format!("{meta}\n") };
        (format!(" data-refresh=\"{seconds}\""), meta)
    });
    let (attribute, refresh) = refresh;
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"{attribute}>\n<head>\n<meta charset=\"utf-8\">\n{MARK}\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n{refresh}<title>{}</title>\n\
         <style>\n{COLOURS}{FIGURES}{LAYOUT}</style>\n</head>\n<body>\n{body}{script}</body>\n</html>\n",
        escape(title)
    )
}

/// Parts of a script as one that leaves no names behind, without comments and indentation.
fn packed(parts: &[&str]) -> String {
    let lines = parts.iter().flat_map(|part| part.lines()).map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
    ["\"use strict\";", "(() => {"].into_iter().chain(lines).chain(["})();"]).flat_map(|line| [line, "\n"]).collect()
}

/// Whether a report may be written to `path`: there is nothing, or an older report.
///
/// # Errors
/// If there is anything else.
pub fn check_free(path: &Path) -> Result<(), ReportError> {
    let mut start = Vec::new();
    match fs::File::open(path) {
        Ok(file) => {
            let read = file.take(4096).read_to_end(&mut start);
            if read.is_ok() && String::from_utf8_lossy(&start).contains(MARK) {
                return Ok(());
            }
            Err(ReportError::NotAReport { path: path.into() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ReportError::Io { path: path.into(), source }),
    }
}

/// Writes a page in one piece. Only an older report is replaced.
///
/// # Errors
/// If something else is there, or the file cannot be written.
pub fn save(path: &Path, html: &str) -> Result<(), ReportError> {
    check_free(path)?;
    Ok(grades_fs::write(path, html)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            escape("<a href=\"x\" b='y'>&\u{1}é\n"),
            "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\u{fffd}é\n"
        );
        let html = page("</title><script>", "", Some(3));
        assert!(html.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
        assert!(html.contains("http-equiv=\"refresh\" content=\"3\""));
        assert!(!page("", "", None).contains("http-equiv"));
    }

    #[test]
    fn only_reports_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        save(&path, &page("first", "", None)).unwrap();
        save(&path, &page("second", "", None)).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("second"));
        fs::write(&path, "<p>mine</p>").unwrap();
        let message = save(&path, &page("third", "", None)).unwrap_err().to_string();
        assert!(message.contains("report.html"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "<p>mine</p>");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
