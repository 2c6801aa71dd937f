use super::*;

#[path = "../../../tests/suite/writable_hub.rs"]
mod writable_hub;

use writable_hub::{Fault, WritableHub};

const TOKEN: &str = "hf_mayWrite";

fn upload() -> Upload {
    Upload {
        id: "owner/tiny".to_owned(),
        private: false,
        revision: None,
        path_in_repo: None,
        message: "Upload".to_owned(),
        pull_request: false,
    }
}

fn hub(server: &WritableHub) -> Hub {
    server.state().token = Some(TOKEN.to_owned());
    Hub::new(&server.endpoint, "no-cache".into(), Some(TOKEN.to_owned()), false)
}

/// A folder of 10 kB of weights, a copy of them, and small files.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let weights: Vec<u8> = (0..10_000u32).map(|index| (index * index % 251) as u8).collect();
    let files: [(&str, &[u8]); 6] = [
        ("model.safetensors", &weights),
        ("copy.safetensors", &weights),
        ("config.json", b"{}"),
        ("sub/a b.txt", b"text"),
        ("empty.bin", b""),
        ("left.tmp", b"ignored by the repository"),
    ];
    for (name, contents) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        grades_fs::write(&path, contents).unwrap();
    }
    folder
}

/// What the branch `main` has is what the folder has, but for what the repository ignores.
#[track_caller]
fn assert_there(server: &WritableHub, folder: &Path) {
    let there = server.files("main");
    let names: Vec<&str> = there.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.json", "copy.safetensors", "empty.bin", "model.safetensors", "sub/a b.txt"]);
    for (name, contents) in &there {
        assert_eq!(*contents, std::fs::read(folder.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_folder_is_uploaded_once() {
    let (server, folder) = (WritableHub::new(), folder());
    let uploaded = hub(&server).upload(folder.path(), &upload()).unwrap();
    assert_there(&server, folder.path());
    let page = format!("{}/owner/tiny", server.endpoint);
    let first = Uploaded { url: page.clone(), commit: Some(format!("{:040x}", 1)), files: 5, sent_bytes: 10_000 };
    assert_eq!(uploaded, first);
    let oid = server.state().stored.keys().next().unwrap().clone();
    let sent = [
        "POST /api/repos/create".to_owned(),
        "POST /api/models/owner/tiny/preupload/main".to_owned(),
        "POST /owner/tiny.git/info/lfs/objects/batch".to_owned(),
        format!("PUT /store/{oid}?signature=secret-of-the-store"),
        "POST /verify".to_owned(),
        "POST /api/models/owner/tiny/commit/main".to_owned(),
    ];
    assert_eq!(server.requests(), sent);

    // Again there is nothing to do, and of a change that alone.
    let again = hub(&server).upload(folder.path(), &upload()).unwrap();
    assert_eq!(again, Uploaded { url: page, commit: None, files: 0, sent_bytes: 0 });
    assert_eq!(server.requests(), sent[..2]);
    grades_fs::write(&folder.path().join("config.json"), "{\"a\": 1}").unwrap();
    let changed = hub(&server).upload(folder.path(), &upload()).unwrap();
    assert_eq!((changed.files, changed.sent_bytes), (1, 0));
    assert_eq!(server.requests(), [sent[0].clone(), sent[1].clone(), sent[5].clone()]);
    assert_there(&server, folder.path());
    assert_eq!(server.state().commits.len(), 2);
}

#[test]
fn large_files_go_in_the_parts_that_the_hub_wants() {
    let (server, folder) = (WritableHub::new(), folder());
    server.state().chunk_size = Some(4096);
    let uploaded = hub(&server).upload(folder.path(), &upload()).unwrap();
    assert_eq!(uploaded.sent_bytes, 10_000);
    assert_there(&server, folder.path());
    let state = server.state();
    let lengths: Vec<usize> = state
        .requests
        .iter()
        .filter(|(request, ..)| request.starts_with("PUT"))
        .map(|(_, length, _)| *length)
        .collect();
    assert_eq!(lengths, [4096, 4096, 1808]);
    assert_eq!(state.requests.iter().filter(|(request, ..)| request.starts_with("POST /complete/")).count(), 1);
}

/// What each fault needs: the upload succeeds, everything arrives, and one commit is made.
#[test]
fn what_is_cut_is_sent_again_and_what_has_arrived_is_not() {
    let busy = || Fault::Answer("503 Service Unavailable", "", "");
    for (faults, puts) in [
        (vec![("POST /api/repos/create", busy()), ("POST /api/repos/create", Fault::CutAnswer)], 1),
        (vec![("POST /api/models/owner/tiny/preupload", Fault::CutRequest)], 1),
        (vec![("POST /owner/tiny.git", Fault::Answer("429 Too Many Requests", "Retry-After: 0\r\n", ""))], 1),
        (vec![("PUT", Fault::CutRequest), ("PUT", busy())], 3),
        (vec![("PUT", Fault::Answer("403 Forbidden", "", "Request has expired"))], 2),
        (vec![("POST /verify", busy())], 1),
        (vec![("POST /api/models/owner/tiny/commit", busy())], 1),
        (vec![("POST /api/models/owner/tiny/commit", Fault::Answer("412 Precondition Failed", "", ""))], 1),
        // The commit was made: it is not made twice.
        (vec![("POST /api/models/owner/tiny/commit", Fault::CutAnswer)], 1),
    ] {
        let (server, folder) = (WritableHub::new(), folder());
        let told = format!("{faults:?}");
        server.state().faults = faults;
        let hub = hub(&server);
        let result = hub.upload(folder.path(), &upload());
        assert!(result.is_ok(), "{told}: {result:?}");
        assert_there(&server, folder.path());
        assert_eq!(server.state().commits.len(), 1, "{told}");
        assert!(server.state().faults.is_empty(), "{told}");
        let requests = server.requests();
        assert_eq!(requests.iter().filter(|request| request.starts_with("PUT")).count(), puts, "{told}: {requests:?}");
    }
}

#[test]
fn an_upload_that_was_given_up_goes_on_where_it_was() {
    let (server, folder) = (WritableHub::new(), folder());
    let down = || ("POST /api/models/owner/tiny/commit", Fault::Answer("500 Internal Server Error", "", ""));
    server.state().faults = (0..ATTEMPTS).map(|_| down()).collect();
    let error = hub(&server).upload(folder.path(), &upload()).unwrap_err().to_string();
    assert!(error.contains("500") && error.contains("/commit/main"), "{error}");
    server.requests();
    hub(&server).upload(folder.path(), &upload()).unwrap();
    assert!(!server.requests().iter().any(|request| request.starts_with("PUT")));
    assert_there(&server, folder.path());
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, folder) = (WritableHub::new(), folder());
    server.state().chunk_size = Some(4096);
    hub(&server).upload(folder.path(), &upload()).unwrap();
    let state = server.state();
    for (request, _, token) in &state.requests {
        let to_store = request.starts_with("PUT /store/") || request.starts_with("POST /complete/");
        assert_eq!(token.as_deref(), (!to_store).then_some("Bearer hf_mayWrite"), "{request}");
    }
    assert!(state.requests.iter().any(|(request, ..)| request.starts_with("PUT /store/")));
    drop(state);
    assert!(!format!("{:?}", hub(&server)).contains(TOKEN));

    // Not to where an answer points, and not in a message; nor what signs an address of the store.
    let other = WritableHub::new();
    let place: &'static str = format!("Location: {}/api/repos/create\r\n", other.endpoint).leak();
    server.state().faults.push(("POST /api/repos/create", Fault::Answer("307 Temporary Redirect", place, "")));
    assert!(hub(&server).upload(folder.path(), &upload()).is_err());
    assert_eq!(other.requests(), Vec::<String>::new());
    let said = "{\"error\": \"no such token: hf_mayWrite\\nsorry\"}";
    server.state().faults.push(("POST /api/repos/create", Fault::Answer("400 Bad Request", "", said)));
    let error = hub(&server).upload(folder.path(), &upload()).unwrap_err().to_string();
    assert!(error.contains("no such token: … sorry") && !error.contains(TOKEN), "{error}");
    server.state().stored.clear();
    server.state().files.clear();
    let refused = || ("PUT", Fault::Answer("400 Bad Request", "", ""));
    server.state().faults = (0..ATTEMPTS).map(|_| refused()).collect();
    let error = hub(&server).upload(folder.path(), &upload()).unwrap_err().to_string();
    assert!(error.contains("/store/") && error.contains("400") && !error.contains("secret"), "{error}");
}

#[test]
fn a_repository_that_has_moved_is_followed() {
    let (server, folder) = (WritableHub::new(), folder());
    let to = "Location: /api/models/owner/tiny/preupload/main\r\n";
    let moved = ("POST /api/models/owner/tiny/preupload", Fault::Answer("307 Temporary Redirect", to, ""));
    server.state().faults.push(moved);
    hub(&server).upload(folder.path(), &upload()).unwrap();
    assert_there(&server, folder.path());
}

#[test]
fn private_branches_and_pull_requests_are_as_asked_for() {
    let (server, folder) = (WritableHub::new(), folder());
    let wanted = Upload { private: true, revision: Some("v1/a".to_owned()), ..upload() };
    hub(&server).upload(folder.path(), &wanted).unwrap();
    assert_eq!(server.state().repositories["owner/tiny"]["visibility"], "private");
    assert_eq!(server.state().branches, ["v1%2Fa"]);
    assert_eq!(server.files("v1%2Fa").len(), 5);
    let wanted = Upload { pull_request: true, message: "Better".to_owned(), ..upload() };
    let uploaded = hub(&server).upload(folder.path(), &wanted).unwrap();
    assert!(uploaded.url.ends_with("/owner/tiny/discussions/1"), "{}", uploaded.url);
    assert_eq!(server.files("refs/pr/1").len(), 5);
    assert_eq!(server.files("main").len(), 0);
    assert_eq!(server.state().commits[1], json!({ "summary": "Better", "description": "" }));
    assert!(server.requests().iter().any(|request| request.ends_with("/preupload/main?create_pr=1")));
}

#[test]
fn refusals_are_sentences() {
    let (server, folder) = (WritableHub::new(), folder());
    let page = format!("{}/owner/tiny", server.endpoint);
    let told = |hub: &Hub, upload: &Upload| {
        let error = hub.upload(folder.path(), upload).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let with =
        |start: &'static str, status: &'static str, headers: &'static str, said: &'static str, parts: &[&str]| {
            let hub = hub(&server);
            server.state().faults.push((start, Fault::Answer(status, headers, said)));
            let error = told(&hub, &upload());
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
    let token = with;
    token("POST /api/repos/create", "401 Unauthorized", "", "", &[&page, "HF_TOKEN"]);
    let said = r#"{"error": "You don't have the rights to create a model under the namespace owner"}"#;
    with("POST /api/repos/create", "403 Forbidden", "", said, &[&page, "may not write", "namespace owner"]);
    let commit = "POST /api/models/owner/tiny/commit";
    with(commit, "404 Not Found", "X-Error-Code: RevisionNotFound\r\n", "", &[&page, "revision"]);
    with(commit, "404 Not Found", "X-Error-Code: RepoNotFound\r\n", "", &[&page, "no such model"]);
    with(commit, "409 Conflict", "X-Error-Message: in progress.\r\n", "", &["(in progress)", "call again"]);
    let said = r#"{"error": "Invalid metadata in README.md."}"#;
    with(commit, "400 Bad Request", "", said, &["400", "(Invalid metadata in README.md)"]);
    with(commit, "200 OK", "", "<html>", &[&page, "not understood"]);
    // A token that may write to this model, but make none.
    server.state().faults.push(("POST /api/repos/create", Fault::Answer("403 Forbidden", "", "")));
    hub(&server).upload(folder.path(), &upload()).unwrap();

    let no_token = Hub::new(&server.endpoint, "no-cache".into(), None, false);
    assert!(told(&no_token, &upload()).contains("HF_TOKEN"));
    let offline = Hub::new(&server.endpoint, "no-cache".into(), Some(TOKEN.to_owned()), true);
    assert!(told(&offline, &upload()).contains("HF_HUB_OFFLINE"));
    assert!(told(&hub(&server), &Upload { id: "tiny".to_owned(), ..upload() }).contains("owner/name"));
    let nobody = Hub::new("http://127.0.0.1:1", "no-cache".into(), Some(TOKEN.to_owned()), false);
    assert!(told(&nobody, &upload()).contains("connection failed"));
}

#[test]
fn a_store_that_does_not_want_a_file_names_it() {
    let (server, folder) = (WritableHub::new(), folder());
    let contents = LocalFile::sha256(&files::of(folder.path()).unwrap()[1]).unwrap();
    let said = format!(
        r#"{{"objects": [{{"oid": "{contents}", "size": 1, "error": {{"code": 422, "message": "too large"}}}}]}}"#
    );
    server.state().faults.push(("POST /owner/tiny.git", Fault::Answer("200 OK", "", said.leak())));
    let error = hub(&server).upload(folder.path(), &upload()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("too large"), "{error}");
}
