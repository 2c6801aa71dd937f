//! Rows with pictures, in every layout in which people keep them.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::conversation::Conversation;
use super::super::sample::Sample;
use super::super::{DatasetSpec, source};
use super::*;

fn own() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision")
}

fn vision() -> PathBuf {
    std::env::var_os("GRADES_FIXTURES").map_or_else(own, |other| Path::new(&other).join("vision"))
}

fn spec(path: &Path, kind: &str, image_folder: Option<PathBuf>) -> DatasetSpec {
    DatasetSpec { path: path.to_string_lossy().into_owned(), kind: kind.to_owned(), image_folder, ..Default::default() }
}

fn conversations(spec: &DatasetSpec) -> Result<Vec<Conversation>, String> {
    let format = spec.format()?;
    let rows = source::read(Path::new(&spec.path), None).map_err(|error| error.to_string())?;
    let sample = |record: &Record| {
        let sample = format.sample(record).map_err(|error| error.to_string())?;
        format.unread(record).map_err(|error| error.to_string())?;
        match sample {
            Sample::Conversation(conversation) => Ok(conversation),
            other => Err(format!("{other:?}")),
        }
    };
    rows.iter().map(sample).collect()
}

/// What a conversation says and shows.
fn said(conversation: &Conversation) -> (Value, Vec<Vec<u8>>) {
    let pictures = conversation.pictures.iter().map(|picture| picture.bytes().unwrap().to_vec()).collect();
    (conversation.messages.iter().map(|message| Value::Object(message.fields().clone())).collect(), pictures)
}

#[test]
fn the_same_rows_come_out_of_every_layout() {
    let folder = vision().join("formats");
    let images = || Some(vision().join("images"));
    let shown = |question: &str, answer: &str, file: &str| {
        let user = json!([{"type": "image"}, {"type": "text", "text": question}]);
        let messages = json!([{"role": "user", "content": user}, {"role": "assistant", "content": answer}]);
        (messages, vec![fs::read(vision().join("images").join(file)).unwrap()])
    };
    let plain =
        json!([{"role": "user", "content": "which letter comes after b?"}, {"role": "assistant", "content": "c"}]);
    let wide = if folder.join("../images/wide.jpg").exists() { "wide.jpg" } else { "wide.png" };
    let wanted = [
        shown("what is in the picture?", "a red circle", wide),
        shown("what color is the shape?", "green", "jpeg_420.jpg"),
        (plain, vec![]),
    ];
    for (file, kind, images, rows) in [
        ("llava.json", "llava", images(), 3),
        ("llava.json", "sharegpt", images(), 3),
        ("cauldron.parquet", "cauldron", None, 3),
        ("messages.parquet", "messages", None, 3),
        ("messages.jsonl", "messages", images(), 3),
        ("swift.jsonl", "messages", images(), 3),
        ("columns.parquet", "vqa", None, 2),
        ("webdataset-000000.tar", "vqa", None, 2),
    ] {
        let found = conversations(&spec(&folder.join(file), kind, images)).unwrap();
        let found: Vec<_> = found.iter().map(said).collect();
        assert_eq!(found, wanted[..rows], "{file} as {kind}");
    }
}

/// A row of `kind` in a folder with one picture, `a.png`, and another beside the folder.
fn row(kind: &str, row: Value) -> Result<Conversation, String> {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("set");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.png"), "picture").unwrap();
    fs::write(place.path().join("secret.png"), "secret").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(place.path().join("secret.png"), folder.join("link.png")).unwrap();
    let file = folder.join("rows.jsonl");
    fs::write(&file, format!("{row}\n")).unwrap();
    let mut read = conversations(&spec(&file, kind, None))?.remove(0);
    for picture in &mut read.pictures {
        *picture = Picture::Bytes(picture.bytes().unwrap());
    }
    Ok(read)
}

fn messages(content: Value, images: Value) -> Result<Conversation, String> {
    let messages = json!([{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]);
    let mut all = json!({ "messages": messages });
    if !images.is_null() {
        all["images"] = images;
    }
    row("messages", all)
}

#[test]
fn pictures_come_by_path_by_url_and_as_bytes() {
    let encoded = STANDARD.encode("picture");
    let wanted = (
        json!([{"role": "user", "content": [{"type": "text", "text": "see "}, {"type": "image"}]},
               {"role": "assistant", "content": "yes"}]),
        vec![b"picture".to_vec()],
    );
    for source in [
        json!({"type": "image", "image": "a.png"}),
        json!({"type": "image", "path": "./a.png", "text": null}),
        json!({"type": "image", "url": format!("data:image/png;base64,{encoded}")}),
        json!({"type": "image", "base64": encoded}),
        json!({"type": "image", "image": {"bytes": encoded, "path": null}}),
        json!({"type": "image", "bytes": encoded}),
        json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{encoded}")}}),
        json!({"type": "image_url", "image_url": "file://a.png"}),
    ] {
        let content = json!([{"type": "text", "text": "see"}, {"type": "text", "text": " "}, source]);
        let found = messages(content, Value::Null).unwrap();
        assert_eq!(said(&found), wanted, "{source}");
    }
    for image in [json!("a.png"), json!(["a.png"]), json!([{"bytes": encoded}])] {
        assert_eq!(said(&messages("see \n<image>".into(), image).unwrap()), wanted);
    }
}

#[test]
fn what_cannot_be_shown_is_told_with_the_row() {
    let place = |source: Value| json!([{"type": "text", "text": "see"}, source]);
    let missing = "places for pictures (`<image>`";
    for (content, images, parts) in [
        ("<image> and <image>".into(), json!(["a.png"]), &["2 places", "1 picture", "agree"][..]),
        ("none".into(), json!(["a.png"]), &["0 ", missing, "1 picture"]),
        ("<image>".into(), json!([]), &["1 place for a picture", "0 pictures"]),
        (place(json!({"type": "image"})), Value::Null, &["1 place", "0 pictures"]),
        ("<image>".into(), json!(["b.png"]), &["b.png", "not in the folder", "image_folder"]),
        ("<image>".into(), json!(["../secret.png"]), &["../secret.png", "outside", "image_folder"]),
        ("<image>".into(), json!(["/etc/hostname"]), &["outside"]),
        ("<image>".into(), json!(["."]), &["no file"]),
        ("<image>".into(), json!(["https://x.org/a.png"]), &["https://x.org/a.png", "fetched"]),
        ("<image>".into(), json!(["data:image/png,abc"]), &["base64"]),
        ("<image>".into(), json!(["data:image/png;base64,a"]), &["base64"]),
        ("<image>".into(), json!([7]), &["7", "a path"]),
        ("<image>".into(), json!([{"bytes": 3}]), &["base64"]),
        ("<image>".into(), json!([{"path": null}]), &["neither bytes nor a path"]),
        (place(json!({"type": "image", "image": "a.png", "max_pixels": 9})), Value::Null, &["max_pixels"]),
        (place(json!({"type": "video", "video": "a.mp4"})), Value::Null, &["video"]),
    ] {
        let error = messages(content.clone(), images.clone()).unwrap_err();
        let named = error.contains("rows.jsonl:1: ") && parts.iter().all(|part| error.contains(part));
        assert!(named, "{content} {images}: {error}");
    }
    #[cfg(unix)]
    assert!(messages("<image>".into(), json!(["link.png"])).unwrap_err().contains("outside"));
    let both = json!({"image": "a.png", "images": ["a.png"], "question": "q", "answer": "a"});
    assert!(row("vqa", both).unwrap_err().contains("both `images` and `image`"));
    let beside = json!({"messages": [{"role": "user", "content": "q", "image": "a.png"}, {"role": "assistant", "content": "a"}]});
    assert!(row("messages", beside).unwrap_err().contains("`image` beside its content"));
}

/// Without a column for pictures the marker is text like any other.
#[test]
fn a_marker_without_pictures_is_text() {
    let found = messages("what is <image> in HTML?\n".into(), Value::Null).unwrap();
    assert_eq!(found.messages[0].content(), "what is <image> in HTML?\n");
    let found = messages("what?".into(), json!([])).unwrap();
    assert_eq!((found.messages[0].content(), found.pictures.len()), ("what?", 0));
}

#[test]
fn turns_that_are_rated_badly_are_left_out() {
    let turns = json!([{"user": "a?", "assistant": "b"}, {"user": "<image>c?", "assistant": "d"}]);
    let rated = |ratings: Value| {
        row(
            "cauldron",
            json!({"images": ["a.png"], "texts": turns, "relevance_ratings": ratings, "formatting_ratings": [5, 5]}),
        )
    };
    let users = |found: Conversation| {
        let user = |message: &grades_models::template::Message| message.fields()["content"].clone();
        found.messages.iter().filter(|message| message.role() == "user").map(user).collect::<Vec<_>>()
    };
    let second = json!([{"type": "image"}, {"type": "text", "text": "c?"}]);
    assert_eq!(users(rated(json!([1, null])).unwrap()), [json!("a?"), second.clone()]);
    assert_eq!(users(rated(json!([0, 2])).unwrap()), [second]);
    assert_eq!(rated(json!([0, 0])).unwrap_err(), "LeftOut");
    // the marker's turn is gone, so the picture goes before the first that is left
    let first = json!([{"type": "image"}, {"type": "text", "text": "a?"}]);
    assert_eq!(users(rated(json!([1, 0])).unwrap()), [first]);
}

/// No byte of a tar file ends the program, and what is cut is told.
#[test]
fn damaged_tar_files_are_refused_or_read() {
    let whole = fs::read(own().join("formats/webdataset-000000.tar")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.tar");
    for place in (0..whole.len()).step_by(37) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&file, &bytes).unwrap();
        let _ = conversations(&spec(&file, "vqa", None));
    }
    fs::write(&file, &whole[..700]).unwrap();
    let error = conversations(&spec(&file, "vqa", None)).unwrap_err();
    assert!(error.contains("damaged.tar") && error.contains("no whole tar file"), "{error}");
    fs::write(&file, "no tar").unwrap();
    assert!(conversations(&spec(&file, "vqa", None)).is_err());
}
