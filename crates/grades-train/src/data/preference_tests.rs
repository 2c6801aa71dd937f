use std::fs;

use serde_json::json;

use super::super::bad_rows::OnBadRow;
use super::super::format::tests::Characters;
use super::super::samples::ExcessLength;
use super::*;

const OPTIONS: TokenOptions = TokenOptions {
    sequence_len: 1000,
    train_on_inputs: false,
    excess_length: ExcessLength::Raise,
    max_samples: None,
    on_bad_row: OnBadRow::Stop,
    train_on_last_turn_only: false,
};

fn read(kind: &str, rows: &[Value], options: TokenOptions, unpaired: bool) -> Result<Preferences, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let spec = DatasetSpec { path: path.to_string_lossy().into_owned(), kind: kind.to_owned(), ..Default::default() };
    load(&[spec], &Characters, options, unpaired)
}

/// A sample as text, with what is learnt in brackets, `^` for the beginning and `$` for the end.
fn marked(sample: &Tokenized) -> String {
    let mut text = String::new();
    let mut learnt = false;
    for (&id, &label) in sample.ids.iter().zip(&sample.labels) {
        if (label != IGNORE_INDEX) != learnt {
            text.push(if learnt { ']' } else { '[' });
            learnt = !learnt;
        }
        text.push(match id {
            1 => '^',
            2 => '$',
            letter => char::from_u32(letter).unwrap(),
        });
    }
    if learnt { text + "]" } else { text }
}

fn pairs(rows: &[Value]) -> Vec<[String; 2]> {
    let found = read("preference", rows, OPTIONS, false).unwrap();
    let pair = |row: &Preference| match row {
        Preference::Pair(pair) => [marked(&pair[0]), marked(&pair[1])],
        Preference::Judged(..) => panic!("no pair"),
    };
    found.rows.iter().map(pair).collect()
}

#[test]
fn a_pair_is_read_from_each_of_the_layouts_that_sets_have() {
    let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
    let (asked, good, bad) = (turn("user", "Who?"), turn("assistant", "I"), turn("assistant", "It"));
    let text = ["^Who? [I$]", "^Who? [It$]"].map(str::to_owned);
    let said = ["<user>Who?<end>\n<assistant>[I<end>]", "<user>Who?<end>\n<assistant>[It<end>]"].map(str::to_owned);
    let rows = [
        // Texts, and texts that begin alike.
        (json!({ "prompt": "Who? ", "chosen": "I", "rejected": "It" }), text.clone()),
        (json!({ "chosen": "Who? me", "rejected": "Who? you" }), ["^Who?[ me$]".into(), "^Who?[ you$]".into()]),
        // Messages, whole conversations, and both.
        (json!({ "prompt": [asked], "chosen": [good], "rejected": [bad] }), said.clone()),
        (json!({ "prompt": [asked], "chosen": good, "rejected": bad }), said.clone()),
        (json!({ "chosen": [asked, good], "rejected": [asked, bad] }), said.clone()),
        (json!({ "prompt": "Who?", "chosen": [asked, good], "rejected": [asked, bad], "score": 3 }), said.clone()),
        (json!({ "prompt": "Who?", "chosen": [good], "rejected": [bad] }), said),
    ];
    for (row, expected) in rows {
        assert_eq!(pairs(std::slice::from_ref(&row)), [expected], "{row}");
    }
    // What the assistant says in the prompt is not learnt, and the system's message stands before all.
    let row = json!({ "prompt": [asked, good, turn("user", "Sure?")], "chosen": [turn("assistant", "Yes")],
                      "rejected": [turn("assistant", "No")], "system": "Be" });
    let before = "<system>Be<end>\n<user>Who?<end>\n<assistant>I<end>\n<user>Sure?<end>\n<assistant>";
    assert_eq!(pairs(&[row]), [["[Yes<end>]", "[No<end>]"].map(|answer| format!("{before}{answer}"))]);
}

#[test]
fn judged_answers_are_read_and_made_of_pairs() {
    let judged = |found: Preferences| {
        let row = |row: &Preference| match row {
            Preference::Judged(sample, desirable) => (marked(sample), *desirable),
            Preference::Pair(_) => panic!("a pair"),
        };
        found.rows.iter().map(row).collect::<Vec<_>>()
    };
    let labels = [json!(true), json!(0), json!("True"), json!(1)];
    let rows = labels.map(|label| json!({ "prompt": "a", "completion": "b", "label": label }));
    let found = judged(read("unpaired_preference", &rows, OPTIONS, true).unwrap());
    assert_eq!(found, [true, false, true, true].map(|desirable| ("^a[b$]".to_owned(), desirable)));
    let pair = json!({ "prompt": "a", "chosen": "b", "rejected": "c" });
    let found = judged(read("preference", &[pair], OPTIONS, true).unwrap());
    assert_eq!(found, [("^a[b$]".to_owned(), true), ("^a[c$]".to_owned(), false)]);
}

#[test]
fn rows_that_say_nothing_have_a_sentence() {
    let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
    for (kind, row, sentence) in [
        ("preference", json!({ "prompt": "a", "chosen": "b", "rejected": "b" }), "say the same"),
        ("preference", json!({ "prompt": " ", "chosen": "b", "rejected": "c" }), "the prompt is empty"),
        ("preference", json!({ "chosen": "b", "rejected": "c" }), "the prompt is empty"),
        ("preference", json!({ "prompt": "a", "chosen": " ", "rejected": "c" }), "the answer in `chosen` is empty"),
        ("preference", json!({ "prompt": "a", "chosen": "b" }), "`rejected`"),
        ("preference", json!({ "prompt": "a", "chosen": 3, "rejected": "c" }), "a text or a list of messages"),
        (
            "preference",
            json!({ "prompt": [turn("user", "a")], "chosen": "b", "rejected": "c" }),
            "`prompt` holds messages and `chosen` text",
        ),
        (
            "preference",
            json!({ "prompt": "a", "chosen": [turn("user", "b")], "rejected": [turn("assistant", "c")] }),
            "assistant",
        ),
        ("unpaired_preference", json!({ "prompt": "a", "completion": "b", "label": 2 }), "`label`"),
        ("unpaired_preference", json!({ "completion": "b", "label": true }), "no column `prompt`"),
        // What would change an answer and is not read.
        ("preference", json!({ "prompt": "a", "chosen": "b", "rejected": "c", "images": ["x.png"] }), "`images`"),
    ] {
        let error = read(kind, std::slice::from_ref(&row), OPTIONS, false).unwrap_err().to_string();
        assert!(error.contains(sentence) && error.contains("rows.jsonl:1"), "{row}: {error}");
    }
}

#[test]
fn both_answers_of_a_pair_must_fit() {
    let rows = [
        json!({ "prompt": "ab", "chosen": "cd", "rejected": "efghijk" }),
        json!({ "prompt": "ab", "chosen": "cd", "rejected": "e" }),
        json!({ "prompt": "abcdefgh", "chosen": "i", "rejected": "jk" }),
        json!({ "prompt": "ab", "chosen": "cdefghi", "rejected": "cdefghj" }),
    ];
    let of =
        |excess_length| read("preference", &rows, TokenOptions { sequence_len: 7, excess_length, ..OPTIONS }, false);
    let error = of(ExcessLength::Raise).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:1") && error.contains("sequence_len 7"), "{error}");
    let dropped = of(ExcessLength::Drop).unwrap();
    assert_eq!((dropped.rows.len(), dropped.dropped, dropped.truncated), (1, 3, 0));
    // Of the third nothing is left of the answers, of the fourth nothing that differs.
    let cut = of(ExcessLength::Truncate).unwrap();
    assert_eq!((cut.rows.len(), cut.dropped, cut.truncated), (2, 2, 1));
    let Preference::Pair(pair) = &cut.rows[0] else { panic!("no pair") };
    assert_eq!([marked(&pair[0]), marked(&pair[1])], ["^ab[cd$]", "^ab[efgh]"]);
}

#[test]
fn mismatched_answers_stand_behind_the_others_prompt() {
    let rows = [
        json!({ "prompt": "abc", "completion": "de", "label": true }),
        json!({ "prompt": "fg", "completion": "hij", "label": false }),
    ];
    let found = read("unpaired_preference", &rows, OPTIONS, true).unwrap();
    let [Preference::Judged(one, _), Preference::Judged(other, _)] = found.rows.as_slice() else { panic!("two rows") };
    assert_eq!(marked(&mismatched(one, other, 100)), "^abc[hij$]");
    assert_eq!(marked(&mismatched(other, one, 5)), "^fg[de]");
}
