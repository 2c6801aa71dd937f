use std::fs;
use std::io::Write;

use super::*;

fn bounds(slice: &str, rows: usize) -> (usize, usize) {
    parse_split(&format!("train{slice}")).unwrap()[0].bounds(rows)
}

#[test]
fn slices_agree_with_datasets() {
    // The values are those of datasets' ReadInstruction.from_spec(..).to_absolute.
    assert_eq!(bounds("", 7), (0, 7));
    assert_eq!(bounds("[:1000]", 16_113), (0, 1000));
    assert_eq!(bounds("[:1_000]", 16_113), (0, 1000));
    assert_eq!(bounds("[:1000]", 7), (0, 7));
    assert_eq!(bounds("[-3:]", 7), (4, 7));
    assert_eq!(bounds("[:-3]", 7), (0, 4));
    assert_eq!(bounds("[-100:]", 7), (0, 7));
    assert_eq!(bounds("[10%:20%]", 999), (100, 200));
    assert_eq!(bounds("[:50%]", 5), (0, 2), "2.5 rounds to even");
    assert_eq!(bounds("[:50%]", 7), (0, 4), "3.5 rounds to even");
    assert_eq!(bounds("[-10%:]", 39), (35, 39));
    assert_eq!(bounds("[10:20%]", 50), (5, 10), "one percent sign counts for both");
}

#[test]
fn misspelt_splits_are_refused() {
    for split in
        ["", "train[5]", "train[:5", "train[a:b]", "train[:101%]", "train[1:2:3]", "[:5]", "train[:5]+", "tr/ain"]
    {
        let error = parse_split(split).unwrap_err().to_string();
        assert!(error.contains(&format!("`{split}`")) && error.contains("train[:1000]"), "{error}");
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn texts(rows: &[Record], column: &str) -> Vec<String> {
    rows.iter().map(|row| row.text(column).unwrap().to_owned()).collect()
}

#[test]
fn the_three_formats_hold_the_same_rows() {
    let folder = folder(&[
        ("a.jsonl", "\u{feff}{\"q\": \"one\", \"n\": 1}\r\n\n{\"q\": \"two, \\\"2\\\"\", \"n\": 2}\n"),
        ("b.json", r#"[{"q": "one", "n": 1}, {"q": "two, \"2\"", "n": 2}]"#),
        ("c.json", r#"{"version": 1, "data": [{"q": "one", "n": 1}, {"q": "two, \"2\"", "n": 2}]}"#),
        ("d.csv", "q,n\none,1\n\"two, \"\"2\"\"\",2\n"),
    ]);
    for (name, places) in [
        ("a.jsonl", [":1", ":3"]),
        ("b.json", [", row 1", ", row 2"]),
        ("c.json", [", row 1", ", row 2"]),
        ("d.csv", [":2", ":3"]),
    ] {
        let rows = read(&folder.path().join(name), None).unwrap();
        assert_eq!(texts(&rows, "q"), ["one", "two, \"2\""], "{name}");
        assert_eq!(rows.iter().map(|row| row.integer("n").unwrap()).collect::<Vec<_>>(), [1, 2], "{name}");
        for (row, place) in rows.iter().zip(places) {
            assert!(row.place.to_string().ends_with(&format!("{name}{place}")), "{}", row.place);
        }
    }
}

#[test]
fn a_folder_is_read_by_split_and_a_file_by_slice() {
    let folder = folder(&[
        ("train.jsonl", "{\"q\": \"a\"}\n{\"q\": \"b\"}\n{\"q\": \"c\"}\n"),
        ("validation.csv", "q\nx\ny\n"),
        ("train_sample.jsonl", "{\"q\": \"s\"}\n"),
    ]);
    let read_split = |split| read(folder.path(), split).map(|rows| texts(&rows, "q"));
    assert_eq!(read_split(None).unwrap(), ["a", "b", "c"]);
    assert_eq!(read_split(Some("validation")).unwrap(), ["x", "y"]);
    assert_eq!(read_split(Some("train[:1] + validation[-1:]+train[1:2]")).unwrap(), ["a", "y", "b"]);
    let error = read_split(Some("test")).unwrap_err().to_string();
    assert!(error.contains("`test`") && error.contains("train.jsonl, train_sample.jsonl, validation.csv"), "{error}");
    let error = read_split(Some("train[5:]")).unwrap_err().to_string();
    assert!(error.contains("train[5:]") && error.contains("3 rows"), "{error}");
    let rows = read(&folder.path().join("train.jsonl"), Some("whatever[1:]")).unwrap();
    assert_eq!(texts(&rows, "q"), ["b", "c"]);
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_files_are_read_as_what_is_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 0).unwrap();
    let (lines, table) = ("\u{feff}{\"q\": \"a\"}\r\n\n{\"q\": \"é\"}", "\u{feff}q\na\né\n");
    for (name, bytes, place) in [
        ("a.jsonl.gz", gzip(lines), "a.jsonl.gz:3"),
        ("train.jsonl.zst", zstd(lines), "train.jsonl.zst:3"),
        ("c.json.gz", gzip(r#"[{"q": "a"}, {"q": "é"}]"#), "c.json.gz, row 2"),
        ("d.csv.ZST", zstd(table), "d.csv.ZST:3"),
        ("e.csv", table.as_bytes().to_vec(), "e.csv:3"),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
        let rows = read(&folder.path().join(name), None).unwrap();
        assert_eq!(texts(&rows, "q"), ["a", "é"], "{name}");
        assert!(rows[1].place.to_string().ends_with(place), "{}", rows[1].place);
    }
    // A folder's, by split.
    assert_eq!(texts(&read(folder.path(), Some("train[1:]")).unwrap(), "q"), ["é"]);
    let whole = gzip(lines);
    for (name, bytes, wanted) in [
        ("cut.jsonl.gz", whole[..whole.len() - 4].to_vec(), "cut off"),
        ("cut.csv.gz", whole[..20].to_vec(), "cut off"),
        ("plain.json.gz", br#"[{"q": "not compressed"}]"#.to_vec(), "is not valid gzip"),
        ("latin.csv.zst", zstd::encode_all(&b"q\na\n\xe9\n"[..], 0).unwrap(), "latin.csv.zst:3: the text is not UTF-8"),
        ("rows.parquet.gz", gzip("PAR1"), "not read"),
        ("rows.gz", gzip(lines), "not read"),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
        let error = read(&folder.path().join(name), None).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(wanted), "{name}: {error}");
    }
}

#[test]
fn two_files_of_one_split_are_refused() {
    let folder = folder(&[("train.jsonl", "{}"), ("train.csv", "q\na\n")]);
    let error = read(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("train.jsonl") && error.contains("train.csv"), "{error}");
}

#[test]
fn bad_files_are_named_with_the_line() {
    let folder = folder(&[
        ("bad.jsonl", "{\"q\": \"a\"}\n{\"q\": \n"),
        ("list.jsonl", "[1, 2]\n"),
        ("lines.json", "{\"q\": 1}\n{\"q\": 2}\n"),
        ("object.json", "{\"rows\": []}"),
        ("scalar.json", "[1]"),
        ("empty.jsonl", "\n\n"),
        ("ragged.csv", "q,n\na,1,2\n"),
        ("rows.parquet", "PAR1"),
        ("rows.txt", "a"),
    ]);
    fs::write(folder.path().join("latin.jsonl"), b"{\"q\": \"a\"}\n{\"q\": \"\xe9\"}\n").unwrap();
    for (name, wanted) in [
        ("bad.jsonl", "bad.jsonl:2"),
        ("list.jsonl", "list.jsonl:1"),
        ("lines.json", ".jsonl"),
        ("object.json", "`data`"),
        ("scalar.json", "scalar.json, row 1"),
        ("empty.jsonl", "no rows"),
        ("ragged.csv", "ragged.csv"),
        ("rows.parquet", "not valid parquet"),
        ("rows.txt", "not read"),
        ("latin.jsonl", "latin.jsonl:2"),
        ("gone.jsonl", "gone.jsonl"),
    ] {
        // A line that is no row is told to who asks for its columns.
        let read = read(&folder.path().join(name), None);
        let read = read.and_then(|rows| rows.iter().try_for_each(|row| row.optional("q").map(drop)));
        let error = read.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(wanted), "{name}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = read(Path::new("some-group/some-set"), None).unwrap_err().to_string();
    assert!(error.contains("Hugging Face Hub"), "{error}");
}

#[test]
fn columns_are_checked_and_named() {
    let folder = folder(&[(
        "a.jsonl",
        r#"{"q": "one", "n": 3.5, "choices": {"text": ["x", "y"], "label": ["A", 2]}, "flag": "True", "none": null}"#,
    )]);
    let rows = read(&folder.path().join("a.jsonl"), None).unwrap();
    let row = &rows[0];
    assert_eq!(row.texts("choices.text").unwrap(), ["x", "y"]);
    assert!(row.boolean("flag").unwrap());
    assert_eq!(row.optional_text("none").unwrap(), None);
    assert_eq!(row.optional_text("gone").unwrap(), None);
    let missing = row.text("goal").unwrap_err().to_string();
    assert!(
        missing.contains("a.jsonl:1") && missing.contains("`goal`") && missing.contains("q, n, choices, flag, none"),
        "{missing}"
    );
    for (error, wanted) in [
        (row.text("n").unwrap_err(), "text"),
        (row.integer("n").unwrap_err(), "whole number"),
        (row.texts("choices.label").unwrap_err(), "list of texts"),
        (row.texts("choices.gone").unwrap_err(), "`choices.gone`"),
        (row.boolean("q").unwrap_err(), "true or false"),
        (row.objects("choices").unwrap_err(), "list of objects"),
        (row.optional_text("n").unwrap_err(), "text"),
    ] {
        let error = error.to_string();
        assert!(error.contains("a.jsonl:1") && error.contains(wanted), "{error}");
    }
}
