//! How the model's answers to the same prompts changed while it trained, as HTML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::page::escape;
use crate::record::Generated;

/// The answers under a heading of plain text, prompt by prompt; nothing where there are none.
#[must_use]
pub fn html(heading: &str, generated: &[Generated]) -> String {
    let mut prompts: BTreeMap<usize, Vec<&Generated>> = BTreeMap::new();
    for line in generated {
        prompts.entry(line.prompt_index).or_default().push(line);
    }
    let mut html = String::new();
    if prompts.is_empty() {
        return html;
    }
    let _ = writeln!(
        html,
        "<h2>{}</h2>\n<p>What the model wrote, with its likeliest tokens, behind prompts of the validation data.</p>",
        escape(heading)
    );
    for (index, answers) in prompts {
        let Some(first) = answers.first() else { continue };
        let _ = writeln!(
            html,
            "<section class=\"sample\"><h3>Prompt {}</h3>\n<pre>{}<mark>[{}]</mark></pre>",
            index + 1,
            escape(&first.prompt),
            escape(&first.reference)
        );
        html.push_str(
            "<div class=\"scroll\"><table><thead><tr><th>Step</th><th class=\"w\">Answer</th></tr></thead><tbody>\n",
        );
        for Generated { step, answer, .. } in answers {
            let _ = writeln!(html, "<tr><td>{step}</td><td class=\"w\">{}</td></tr>", escape(answer));
        }
        html.push_str("</tbody></table></div></section>\n");
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_by_prompt_and_nothing_becomes_markup() {
        let line = |step, prompt_index, answer: &str| Generated {
            step,
            prompt_index,
            prompt: format!("<b>{prompt_index}?"),
            answer: answer.to_owned(),
            reference: "a <i>box".to_owned(),
        };
        let html = html("Answers", &[line(4, 0, "<u>no"), line(4, 1, "one"), line(8, 0, "yes"), line(8, 1, "two")]);
        assert_eq!(html.matches("<section").count(), 2);
        assert!(html.contains("&lt;b&gt;0?<mark>[a &lt;i&gt;box]</mark>"), "{html}");
        let places =
            ["<td>4</td><td class=\"w\">&lt;u&gt;no", "<td>8</td><td class=\"w\">yes", "Prompt 2", "one", "two"];
        let places = places.map(|text| html.find(text).unwrap());
        assert!(places.is_sorted(), "{html}");
        assert_eq!(super::html("Answers", &[]), "");
    }
}
