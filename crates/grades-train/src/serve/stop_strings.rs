//! Texts that end an answer, found over the borders of tokens.

/// Looks for texts in an answer that comes in pieces, and holds back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub(super) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// For texts, none of which is empty.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes a piece; what is certain to be part of the answer, and whether it has ended.
    pub(super) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held += piece;
        if let Some(end) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let begun = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or_default();
        let rest = self.held.split_off(self.held.len() - begun);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, which no stop followed.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The length of the longest end of `text` with which `stop` begins, and does not end.
fn begun(text: &str, stop: &str) -> usize {
    let lengths = (1..stop.len().min(text.len() + 1)).rev();
    lengths.into_iter().find(|&len| stop.is_char_boundary(len) && text.ends_with(&stop[..len])).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pushed(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut strings = StopStrings::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, ended) = strings.push(piece);
            shown.push(text);
            if ended {
                return (shown, true);
            }
        }
        shown.push(strings.finish());
        (shown, false)
    }

    #[test]
    fn a_beginning_is_held_until_it_is_known() {
        assert_eq!(pushed(&["###"], &["a#", "#b", "##", "#c"]).0, ["a", "##b", "", ""]);
        assert_eq!(pushed(&["\n\n"], &["a\n", "b\n", "\nc"]), (["a", "\nb", ""].map(String::from).into(), true));
        // What looked like a beginning and comes again in it.
        assert_eq!(pushed(&["aab"], &["aa", "ab", "x"]), (["", "a"].map(String::from).into(), true));
        assert_eq!(pushed(&["é!", "x"], &["aé", "?"]), (["a", "é?", ""].map(String::from).into(), false));
        assert_eq!(pushed(&[], &["a", "b"]), (["a", "b", ""].map(String::from).into(), false));
        assert_eq!(pushed(&["End"], &["The E", "n"]), (["The ", "", "En"].map(String::from).into(), false));
    }

    proptest! {
        /// However a text is cut, what is shown is what stands before the first stop.
        #[test]
        fn cuts_do_not_matter(pieces in prop::collection::vec("[ab]{0,3}", 0..12), stop in "[ab]{1,4}") {
            let text: String = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, ended) = pushed(&[&stop], &pieces);
            let expected = text.split(stop.as_str()).next().unwrap_or_default();
            prop_assert_eq!(shown.concat(), expected);
            prop_assert_eq!(ended, text.contains(&stop));
        }
    }
}
