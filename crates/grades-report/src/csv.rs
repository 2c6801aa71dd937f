//! Comma-separated values as RFC 4180 has them, but with plain line feeds.

/// The text of some lines of fields, quoted where they need it.
#[must_use]
pub fn text<L: AsRef<[F]>, F: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> String {
    let mut text = String::new();
    for line in lines {
        for (index, field) in line.as_ref().iter().enumerate() {
            let field = field.as_ref();
            if index > 0 {
                text.push(',');
            }
            if field.contains([',', '"', '\n', '\r']) {
                text.extend(["\"", &field.replace('"', "\"\""), "\""]);
            } else {
                text.push_str(field);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let lines = [vec!["a", "b,c"], vec!["say \"so\"", ""], vec!["two\nlines", "é"]];
        assert_eq!(super::text(lines), "a,\"b,c\"\n\"say \"\"so\"\"\",\n\"two\nlines\",é\n");
    }
}
