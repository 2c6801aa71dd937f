//! Samples of training as HTML: what has a loss set apart, pictures beside it.

use std::fmt::Write as _;

use crate::page::escape;
use crate::record::{Piece, ShownSample};

/// Samples under a heading of plain text, one below the other, numbered from 1; nothing where there are none.
#[must_use]
pub fn html(heading: &str, samples: &[ShownSample]) -> String {
    let mut html = String::new();
    if samples.is_empty() {
        return html;
    }
    let heading = escape(heading);
    let _ = writeln!(html, "<h2>{heading}</h2>\n<p>What has a loss is marked and stands in brackets.</p>");
    for (number, sample) in (1..).zip(samples) {
        let ShownSample { tokens, learnt, pieces, pictures } = sample;
        let _ = writeln!(html, "<section class=\"sample\"><h3>Sample {number}: {tokens} tokens, {learnt} learnt</h3>");
        // What stands in a page is base64 alone.
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c));
        for (number, png) in (1..).zip(pictures).filter(|(_, png)| !png.is_empty() && plain(png)) {
            let _ = write!(html, "<img alt=\"picture {number}\" src=\"data:image/png;base64,{png}\">");
        }
        html.push_str("<pre>");
        for piece in pieces {
            let _ = match piece {
                Piece::Read(text) => write!(html, "{}", escape(text)),
                Piece::Learnt(text) => write!(html, "<mark>[{}]</mark>", escape(text)),
                Piece::Picture { number, tokens } => {
                    write!(html, "<span>⟨picture {}: {tokens} tokens⟩</span>", number + 1)
                }
            };
        }
        html.push_str("</pre></section>\n");
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_is_marked_and_nothing_becomes_markup() {
        let sample = ShownSample {
            tokens: 9,
            learnt: 2,
            pieces: vec![
                Piece::Picture { number: 0, tokens: 4 },
                Piece::Read("<b>what?".into()),
                Piece::Learnt("a <i>box".into()),
            ],
            pictures: vec!["aGk=".into(), "\"><script>".into()],
        };
        let html = html("Samples", &[sample]);
        assert!(html.contains("9 tokens, 2 learnt") && html.contains("picture 1: 4 tokens"), "{html}");
        assert!(html.contains("&lt;b&gt;what?<mark>[a &lt;i&gt;box]</mark>"), "{html}");
        assert!(html.contains("data:image/png;base64,aGk=") && !html.contains("script"), "{html}");
    }
}
