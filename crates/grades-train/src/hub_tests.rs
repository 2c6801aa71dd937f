use super::*;
use crate::data::{DataError, Record, Source};

#[path = "../tests/suite/fake_hub.rs"]
mod fake_hub;

use fake_hub::{Answer, FakeHub};

const ID: &str = "owner/metals";
const PARQUET: &str = "refs%2Fconvert%2Fparquet";
const SET: Source<'static> = Source { path: ID, name: None, revision: None };

/// Rows that `fixtures/make_parquet.py` wrote.
const ROWS: &[u8] = include_bytes!("../../../fixtures/parquet/datasets.parquet");

/// A Hub with a set as the Hub converts them, whose split `train` has two files, and a cache.
fn metals() -> (FakeHub, tempfile::TempDir) {
    let files = ["default/test/0000.parquet", "default/train/0001.parquet", "default/train/0000.parquet"];
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|name| (*name, ROWS)).chain([(".gitattributes", &b""[..])]).collect();
    (FakeHub::new(ID, PARQUET, &files), tempfile::tempdir().unwrap())
}

fn hub(server: &FakeHub, cache: &tempfile::TempDir) -> Hub {
    Hub::new(&server.endpoint, cache.path().to_owned(), None, false)
}

fn offline(server: &FakeHub, cache: &tempfile::TempDir) -> Hub {
    Hub::new(&server.endpoint, cache.path().to_owned(), None, true)
}

/// The message of a refusal, which is one sentence with `parts`.
#[track_caller]
fn refused(result: Result<Vec<Record>, DataError>, parts: &[&str]) {
    let error = result.unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
}

/// The path under which a file of the set is fetched.
fn file(name: &str) -> String {
    format!("/datasets/{ID}/resolve/{}/{name}", FakeHub::COMMIT)
}

/// All files below a folder.
fn all_files(folder: &Path) -> Vec<String> {
    files::walk(folder).unwrap()
}

#[test]
fn a_set_is_fetched_once() {
    let (server, cache) = metals();
    let rows = SET.read(Some("train[4:7]"), &hub(&server, &cache)).unwrap();
    let notes: Vec<_> = rows.iter().map(|row| row.optional_text("note").unwrap()).collect();
    assert_eq!(notes, [Some("goldgoldgoldgold"), Some(""), None]);
    assert!(rows[1].place.to_string().ends_with("default/train/0001.parquet, row 1"), "{}", rows[1].place);
    let asked = server.requests();
    let listing = format!("/api/datasets/{ID}/revision/{PARQUET}");
    assert_eq!(asked, [listing, file("default/train/0000.parquet"), file("default/train/0001.parquet")]);

    // Another split needs its file alone; what is there needs nothing, with and without network.
    assert_eq!(SET.read(Some("test"), &hub(&server, &cache)).unwrap().len(), 5);
    assert_eq!(server.requests(), [file("default/test/0000.parquet")]);
    assert_eq!(SET.read(None, &hub(&server, &cache)).unwrap().len(), 10);
    assert_eq!(SET.read(None, &offline(&server, &cache)).unwrap().len(), 10);
    assert_eq!(server.requests(), Vec::<String>::new());

    // The layout that other programs know, and nothing half-written in it.
    let commit = FakeHub::COMMIT;
    let folder = cache.path().join("datasets--owner--metals");
    assert_eq!(fs::read_to_string(folder.join("refs/refs/convert/parquet")).unwrap(), commit);
    let stored = all_files(&folder.join("snapshots").join(commit));
    assert_eq!(stored, ["default/test/0000.parquet", "default/train/0000.parquet", "default/train/0001.parquet"]);
}

#[test]
fn without_network_only_the_cache_counts() {
    let (server, cache) = metals();
    refused(SET.read(None, &offline(&server, &cache)), &[ID, "HF_HUB_OFFLINE", cache.path().to_str().unwrap()]);
    SET.read(Some("test"), &hub(&server, &cache)).unwrap();
    server.requests();
    refused(SET.read(None, &offline(&server, &cache)), &["default/train/0000.parquet", "HF_HUB_OFFLINE"]);
    assert_eq!(server.requests(), Vec::<String>::new());

    // A cache that another program filled has no list of files.
    fs::remove_dir_all(cache.path().join("datasets--owner--metals/files")).unwrap();
    assert_eq!(SET.read(Some("test"), &offline(&server, &cache)).unwrap().len(), 5);
}

/// A Hub that nobody can reach, and a cache.
fn unreachable(cache: &tempfile::TempDir) -> Hub {
    Hub::new("http://127.0.0.1:1", cache.path().to_owned(), None, false)
}

/// What another program has left of a model in a cache.
fn left_by_another_program(cache: &tempfile::TempDir, files: &[(&str, &str)]) -> PathBuf {
    let folder = cache.path().join("models--owner--tiny");
    let snapshot = folder.join("snapshots").join(FakeHub::COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), FakeHub::COMMIT).unwrap();
    files.iter().for_each(|(name, text)| fs::write(snapshot.join(name), text).unwrap());
    snapshot
}

#[test]
fn a_whole_cache_serves_when_the_hub_cannot_be_reached() {
    let (server, cache) = metals();
    SET.read(Some("test"), &hub(&server, &cache)).unwrap();
    fs::remove_dir_all(cache.path().join("datasets--owner--metals/files")).unwrap();
    assert_eq!(SET.read(Some("test"), &unreachable(&cache)).unwrap().len(), 5);
    refused(SET.read(Some("train"), &unreachable(&cache)), &["`train`"]);
    refused(Source { path: "owner/other", ..SET }.read(None, &unreachable(&cache)), &["check the connection"]);
    // A Hub that is there decides.
    server.answer(&format!("/api/datasets/{ID}/revision/{PARQUET}"), Answer::refusal("503 Service Unavailable", ""));
    assert_eq!(SET.read(Some("test"), &hub(&server, &cache)).unwrap().len(), 5);
    for path in [format!("/api/datasets/{ID}/revision/{PARQUET}"), format!("/api/datasets/{ID}/revision/main")] {
        server.answer(&path, Answer::refusal("401 Unauthorized", "GatedRepo"));
    }
    refused(SET.read(Some("test"), &hub(&server, &cache)), &["access"]);

    let id = Path::new("owner/tiny");
    let told = |hub: &Hub| hub.model(id).unwrap_err().to_string();
    let folder = left_by_another_program(&cache, &[("config.json", "{}"), ("tokenizer.json", "{}")]);
    assert!(told(&unreachable(&cache)).contains("check the connection"));
    assert!(told(&Hub { offline: true, ..unreachable(&cache) }).contains("the weights of owner/tiny"));
    fs::write(
        folder.join("model.safetensors.index.json"),
        r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#,
    )
    .unwrap();
    fs::write(folder.join("model-1.safetensors"), "").unwrap();
    assert!(told(&unreachable(&cache)).contains("check the connection"));
    fs::write(folder.join("model-2.safetensors"), "").unwrap();
    assert_eq!(unreachable(&cache).model(id).unwrap(), folder);
}

#[test]
fn a_revision_is_read_as_it_was_uploaded() {
    let cache = tempfile::tempdir().unwrap();
    let rows = b"{\"a\": \"x\"}\n";
    // No revision as parquet: that of private sets.
    let server = FakeHub::new(ID, "main", &[("data/train.jsonl", rows), ("README.md", b"")]);
    let main = Source { revision: Some("main"), ..SET };
    for (set, requests) in [(SET, 3), (main, 0), (SET, 1), (Source { revision: Some(FakeHub::COMMIT), ..SET }, 0)] {
        assert_eq!(set.read(None, &hub(&server, &cache)).unwrap()[0].text("a").unwrap(), "x");
        // Whether there is a revision as parquet by now, what there is of `main`, and the file.
        assert_eq!(server.requests().len(), requests);
    }
    assert_eq!(SET.read(None, &offline(&server, &cache)).unwrap().len(), 1);
    refused(Source { revision: Some("v9"), ..SET }.read(None, &hub(&server, &cache)), &[ID, "`v9`"]);
    refused(Source { revision: Some("../up"), ..SET }.read(None, &hub(&server, &cache)), &[ID, "`../up`"]);
}

#[test]
fn another_revision_in_the_cache_does_not_stand_for_the_set() {
    let (server, cache) = metals();
    let other = r#"{"sha": "abc", "siblings": [{"rfilename": "metals.py"}]}"#;
    server.answer(&format!("/api/datasets/{ID}/revision/main"), Answer::ok(other));
    refused(Source { revision: Some("main"), ..SET }.read(None, &hub(&server, &cache)), &["`train`", "metals.py"]);
    assert_eq!(SET.read(None, &hub(&server, &cache)).unwrap().len(), 10);
}

#[test]
fn what_is_not_there_is_told_with_what_there_is() {
    let (server, cache) = metals();
    let hub = hub(&server, &cache);
    refused(SET.read(Some("dev"), &hub), &[ID, "`dev`", "default/train", "default/test"]);
    refused(Source { name: Some("alloys"), ..SET }.read(None, &hub), &[ID, "`alloys`", "default"]);
    server.requests();
    refused(
        Source { path: "owner/metal", ..SET }.read(None, &hub),
        &["owner/metal", "no such file or folder", "HF_TOKEN"],
    );
    assert!(!cache.path().join("datasets--owner--metal").exists());
    // Paths that only mean files are not asked for.
    server.requests();
    for path in ["./owner/metal", "/owner/metal", "owner/metal.jsonl", "metal", "a/b/c", "../metal", "owner/"] {
        refused(Source { path, ..SET }.read(None, &hub), &[path, "there is no such file or folder"]);
    }
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = metals();
    let hub = hub(&server, &cache);
    let listing = format!("/api/datasets/{ID}/revision/{PARQUET}");
    let page = format!("{}/datasets/{ID}", server.endpoint);
    for (status, code, parts) in [
        ("401 Unauthorized", "RepoNotFound", ["HF_TOKEN", "private"]),
        ("401 Unauthorized", "GatedRepo", ["HF_TOKEN", "access"]),
        ("403 Forbidden", "GatedRepo", ["HF_TOKEN", "access"]),
        ("500 Internal Server Error", "", ["500", "later"]),
        ("429 Too Many Requests", "", ["429", "later"]),
    ] {
        server.answer(&listing, Answer::refusal(status, code));
        server.answer(&format!("/api/datasets/{ID}/revision/main"), Answer::refusal(status, code));
        let place = if code.is_empty() { format!("{}{listing}", server.endpoint) } else { page.clone() };
        refused(SET.read(None, &hub), &[&parts[..], &[place.as_str()]].concat());
    }
    server.answer(&listing, Answer::ok("<html>"));
    refused(SET.read(None, &hub), &[&listing, "does not describe"]);
    let nobody = Hub::new("http://127.0.0.1:1/", cache.path().to_owned(), None, false);
    refused(SET.read(None, &nobody), &["http://127.0.0.1:1/api/datasets/owner/metals", "check the connection"]);
    assert_eq!(all_files(cache.path()), Vec::<String>::new());
}

#[test]
fn what_breaks_off_leaves_nothing_and_is_fetched_again() {
    let (server, cache) = metals();
    let path = file("default/test/0000.parquet");
    server.answer(&path, Answer { missing: 1, ..Answer::ok(ROWS) });
    refused(SET.read(Some("test"), &hub(&server, &cache)), &[&path, "check the connection"]);
    let snapshots = cache.path().join("datasets--owner--metals/snapshots");
    assert_eq!(all_files(&snapshots), Vec::<String>::new());
    server.answer(&path, Answer::ok(ROWS));
    assert_eq!(SET.read(Some("test"), &hub(&server, &cache)).unwrap().len(), 5);
    server.answer(&path, Answer::ok("PAR1"));
    fs::remove_file(snapshots.join(FakeHub::COMMIT).join("default/test/0000.parquet")).unwrap();
    refused(SET.read(Some("test"), &hub(&server, &cache)), &["default/test/0000.parquet", "not valid parquet"]);
}

#[test]
fn files_outside_the_set_are_not_touched() {
    let cache = tempfile::tempdir().unwrap();
    let server = FakeHub::new(ID, PARQUET, &[("../../../../train.jsonl", b"{\"a\": 1}\n")]);
    refused(SET.read(None, &hub(&server, &cache)), &["leaves its folder"]);
    server.answer(&format!("/api/datasets/{ID}/revision/{PARQUET}"), Answer::ok(r#"{"sha": "../x", "siblings": []}"#));
    fs::remove_dir_all(cache.path()).unwrap();
    refused(SET.read(None, &hub(&server, &cache)), &["does not describe"]);
    assert!(!cache.path().exists());
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, cache) = metals();
    let file = file("default/test/0000.parquet");
    // The same machine under another name.
    let elsewhere = server.endpoint.replace("127.0.0.1", "localhost") + "/store/1?signed=a";
    let redirect = Answer { status: "302 Found", headers: vec![format!("Location: {elsewhere}")], ..Answer::ok("") };
    server.answer(&file, redirect);
    server.answer("/store/1?signed=a", Answer::ok(ROWS));
    let hub = Hub::new(&server.endpoint, cache.path().to_owned(), Some("secret".to_owned()), false);
    assert_eq!(SET.read(Some("test"), &hub).unwrap().len(), 5);
    let asked = server.requests();
    assert!(asked[0].contains("Bearer secret") && asked[1].contains("Bearer secret"), "{asked:?}");
    assert_eq!(asked[2..], ["/store/1?signed=a"]);

    // A set that was renamed is still on the Hub.
    let renamed = "/api/datasets/owner/ores/revision/refs%2Fconvert%2Fparquet";
    let location = format!("Location: /api/datasets/{ID}/revision/{PARQUET}");
    server.answer(renamed, Answer { status: "307 Temporary Redirect", headers: vec![location], ..Answer::ok("") });
    assert_eq!(hub.data_set("owner/ores", None).unwrap().files().len(), 4);
    let asked = server.requests();
    assert!(asked.len() == 2 && asked.iter().all(|request| request.contains("Bearer secret")), "{asked:?}");
}

#[test]
fn the_environment_is_that_of_the_hubs_libraries() {
    let home = tempfile::tempdir().unwrap();
    let described = |variables: &[(&str, &str)]| {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Hub::described_by(variable, Some(home.path().to_owned()))
    };
    let hub = described(&[("HF_TOKEN", "")]);
    assert_eq!((hub.endpoint.as_str(), hub.offline, hub.token.as_deref()), ("https://huggingface.co", false, None));
    assert_eq!(hub.cache, home.path().join(".cache/huggingface/hub"));
    fs::create_dir_all(home.path().join(".cache/huggingface")).unwrap();
    fs::write(home.path().join(".cache/huggingface/token"), "stored\n").unwrap();
    assert_eq!(described(&[]).token.as_deref(), Some("stored"));
    let hub = described(&[("HF_TOKEN", "given"), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "yes")]);
    assert_eq!((hub.token.as_deref(), hub.endpoint.as_str(), hub.offline), (Some("given"), "http://mirror", true));
    for (name, models, sets) in
        [("HF_HUB_OFFLINE", true, true), ("TRANSFORMERS_OFFLINE", true, true), ("HF_DATASETS_OFFLINE", false, true)]
    {
        let hub = described(&[(name, "1")]);
        assert_eq!((hub.is_offline(Kind::Model), hub.is_offline(Kind::DataSet)), (models, sets), "{name}");
        assert!(!described(&[(name, "0")]).is_offline(Kind::DataSet));
    }
    assert_eq!(described(&[("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
    assert_eq!(described(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).cache, Path::new("/h/hub"));
    assert_eq!(described(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
}

#[test]
fn a_sentencepiece_model_is_fetched_where_there_is_no_other_tokenizer() {
    let files = ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"];
    let contents: Vec<(&str, &[u8])> = files.iter().map(|name| (*name, name.as_bytes())).collect();
    let (server, cache) = (FakeHub::with_model("owner/tiny", &contents), tempfile::tempdir().unwrap());
    let folder = hub(&server, &cache).model(Path::new("owner/tiny")).unwrap();
    assert_eq!(all_files(&folder), files);
    assert_eq!(offline(&server, &cache).model(Path::new("owner/tiny")).unwrap(), folder);
}

#[test]
fn a_model_is_fetched_without_what_it_does_not_need() {
    let names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        // For the license.
        "README.md",
    ];
    let more = ["pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "tokenizer.model"];
    let files: Vec<(&str, &[u8])> = names.iter().chain(&more).map(|name| (*name, name.as_bytes())).collect();
    let (server, cache) = (FakeHub::with_model("owner/tiny-1.5", &files), tempfile::tempdir().unwrap());
    let id = Path::new("owner/tiny-1.5");
    let folder = hub(&server, &cache).model(id).unwrap();
    assert_eq!(folder, cache.path().join("models--owner--tiny-1.5/snapshots").join(FakeHub::COMMIT));
    let mut fetched = names.to_vec();
    fetched.sort_unstable();
    assert_eq!(all_files(&folder), fetched);
    assert_eq!(fs::read_to_string(folder.join("model-00002-of-00002.safetensors")).unwrap(), names[2]);
    assert_eq!(server.requests().len(), 1 + names.len());
    assert_eq!(offline(&server, &cache).model(id).unwrap(), folder);
    assert_eq!(hub(&server, &cache).model(id).unwrap(), folder);
    assert_eq!(server.requests(), Vec::<String>::new());

    let told = |hub: &Hub, path: &str| hub.model(Path::new(path)).unwrap_err().to_string();
    let error = told(&hub(&server, &cache), "owner/other");
    assert!(error.contains("no such file or folder here, and no public model http"), "{error}");
    let (server, cache) =
        (FakeHub::with_model("owner/old", &[("pytorch_model.bin", b"")]), tempfile::tempdir().unwrap());
    assert!(told(&hub(&server, &cache), "owner/old").contains("no model.safetensors"));
    // What can only be on disk, or is there, is left as it is.
    server.requests();
    for path in ["model.gguf", "owner/model.gguf", "./owner/old", "folder", cache.path().to_str().unwrap()] {
        assert_eq!(hub(&server, &cache).model(Path::new(path)).unwrap(), Path::new(path));
    }
    assert_eq!(server.requests(), Vec::<String>::new());
}

/// The files of a repository with several quantisations.
const QUANTISED: [&str; 9] = [
    "README.md",
    "config.json",
    "mmproj-tiny-F16.gguf",
    "tiny-Q4_K_M.gguf",
    "tiny-Q4_K_S.gguf",
    "tiny-UD-Q4_K_M.gguf",
    "F16/tiny-F16-00001-of-00002.gguf",
    "F16/tiny-F16-00002-of-00002.gguf",
    "tiny.imatrix.gguf",
];

#[test]
fn a_quantisation_is_picked_by_name() {
    let files: Vec<(&str, &[u8])> = QUANTISED.iter().map(|name| (*name, name.as_bytes())).collect();
    let (server, cache) = (FakeHub::with_model("owner/tiny-GGUF", &files), tempfile::tempdir().unwrap());
    let folder = cache.path().join("models--owner--tiny-GGUF/snapshots").join(FakeHub::COMMIT);
    let model = |choice: &str| hub(&server, &cache).model(Path::new(&format!("owner/tiny-GGUF{choice}")));
    for choice in [":Q4_K_M", ":q4_k_m", ":tiny-Q4_K_M.gguf"] {
        assert_eq!(model(choice).unwrap(), folder.join("tiny-Q4_K_M.gguf"));
    }
    let hosted = hub(&server, &cache).model(Path::new("hf.co/owner/tiny-GGUF:UD-Q4_K_M")).unwrap();
    assert_eq!(hosted, folder.join("tiny-UD-Q4_K_M.gguf"));
    assert_eq!(all_files(&folder), ["tiny-Q4_K_M.gguf", "tiny-UD-Q4_K_M.gguf"]);
    assert_eq!(model(":F16").unwrap(), folder.join("F16/tiny-F16-00001-of-00002.gguf"));
    assert!(folder.join("F16/tiny-F16-00002-of-00002.gguf").is_file());

    let told = |choice: &str| model(choice).unwrap_err().to_string();
    let listed = "the GGUF files Q4_K_M, Q4_K_S, UD-Q4_K_M, F16";
    let error = told("");
    assert!(error.contains(listed) && error.ends_with("as in owner/tiny-GGUF:Q4_K_M"), "{error}");
    let error = told(":Q8_0");
    assert!(error.contains("`Q8_0`") && error.contains(listed), "{error}");
    // One that is not in the cache, without network.
    let error = offline(&server, &cache).model(Path::new("owner/tiny-GGUF:Q4_K_S")).unwrap_err().to_string();
    assert!(error.contains("tiny-Q4_K_S.gguf") && error.contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(offline(&server, &cache).model(Path::new("owner/tiny-GGUF:F16")).unwrap(), model(":F16").unwrap());
}

#[test]
fn a_single_gguf_file_needs_no_choice_and_safetensors_come_first() {
    let cache = tempfile::tempdir().unwrap();
    let server = FakeHub::with_model("owner/one", &[("one.gguf", b"GGUF"), ("config.json", b"{}")]);
    let file = hub(&server, &cache).model(Path::new("owner/one")).unwrap();
    assert_eq!((file.file_name().unwrap().to_str(), fs::read(&file).unwrap()), (Some("one.gguf"), b"GGUF".to_vec()));
    let files: [(&str, &[u8]); 3] = [("model.safetensors", b"x"), ("config.json", b"{}"), ("a-Q8_0.gguf", b"GGUF")];
    let server = FakeHub::with_model("owner/two", &files);
    let model = |name: &str| hub(&server, &cache).model(Path::new(name)).unwrap();
    assert!(model("owner/two").join("model.safetensors").is_file());
    assert!(!model("owner/two").join("a-Q8_0.gguf").exists());
    assert!(model("owner/two:Q8_0").ends_with("a-Q8_0.gguf"));
}
