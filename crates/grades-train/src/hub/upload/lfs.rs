//! Large files: to the store that the Hub names, whole or in parts, each content once.

use std::collections::BTreeMap;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::files::LocalFile;
use super::requests::{Payload, Requests};
use super::{ASKED_AT_ONCE, UploadError};

/// What the Hub says of a large file.
#[derive(Deserialize)]
struct Object {
    oid: String,
    /// What is to be done; nothing where the store has it.
    actions: Option<Actions>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: Map<String, Value>,
}

#[derive(Deserialize)]
struct Problem {
    message: String,
}

/// Sends those of `files` that the store has not; how many bytes that were.
pub(super) fn send(
    requests: &Requests<'_>,
    files: &[(&LocalFile, String)],
    revision: &str,
) -> Result<u64, UploadError> {
    // Of files with the same contents one.
    let contents: BTreeMap<&str, &LocalFile> = files.iter().map(|(file, oid)| (oid.as_str(), *file)).collect();
    let contents: Vec<(&str, &LocalFile)> = contents.into_iter().collect();
    let mut to_do = Vec::new();
    for asked in contents.chunks(ASKED_AT_ONCE) {
        for object in ask(requests, asked, revision)? {
            let file = asked.iter().find(|(oid, _)| *oid == object.oid).map(|(_, file)| *file);
            let file = file.ok_or_else(|| requests.unclear("it speaks of a file that it was not asked about"))?;
            if let Some(problem) = object.error {
                return Err(UploadError::Store { file: file.name.clone(), problem: problem.message });
            }
            if let Some(Actions { upload: Some(upload), verify }) = object.actions {
                to_do.push((file, object.oid, upload, verify));
            }
        }
    }
    let total = to_do.iter().map(|(file, ..)| file.size).sum();
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    for (file, oid, upload, verify) in to_do {
        bar.set_message(file.name.clone());
        put(requests, (file, &oid), &upload, &bar)?;
        if let Some(verify) = verify {
            let body = json!({ "oid": oid, "size": file.size });
            requests.post(&requests.at_endpoint(&verify.href), &body)?;
        }
    }
    bar.finish_and_clear();
    Ok(total)
}

fn ask(requests: &Requests<'_>, contents: &[(&str, &LocalFile)], revision: &str) -> Result<Vec<Object>, UploadError> {
    #[derive(Deserialize)]
    struct Answer {
        objects: Vec<Object>,
    }

    let objects: Vec<Value> = contents.iter().map(|(oid, file)| json!({ "oid": oid, "size": file.size })).collect();
    let wanted = json!({
        "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256",
        "ref": { "name": revision },
    });
    let url = format!("{}.git/info/lfs/objects/batch", requests.page);
    let answer = requests.send("POST", &url, &Payload::Lfs(wanted.to_string()))?;
    requests.read::<Answer>(answer).map(|answer| answer.objects)
}

/// Sends one file, in parts of `chunk_size` where the Hub says so.
fn put(
    requests: &Requests<'_>,
    (file, oid): (&LocalFile, &str),
    action: &Action,
    bar: &ProgressBar,
) -> Result<(), UploadError> {
    let part = |from: u64, length: u64| Payload::Part { path: &file.path, from, length, bar };
    let Some(size) = action.header.get("chunk_size") else {
        let headers: Vec<(&str, &str)> =
            action.header.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect();
        return requests.store("PUT", &action.href, &headers, &part(0, file.size)).map(drop);
    };
    let size = size.as_u64().or_else(|| size.as_str()?.parse().ok()).filter(|size| *size > 0);
    let size = size.ok_or_else(|| requests.unclear("it gives no size for the parts of a file"))?;
    let mut urls: Vec<(u64, &str)> =
        action.header.iter().filter_map(|(key, url)| Some((key.parse().ok()?, url.as_str()?))).collect();
    urls.sort_unstable();
    if urls.len() as u64 != file.size.div_ceil(size) {
        return Err(requests.unclear("it gives another number of places than a file has parts"));
    }
    let mut parts = Vec::new();
    for (index, (number, url)) in urls.into_iter().enumerate() {
        let from = index as u64 * size;
        let answer = requests.store("PUT", url, &[], &part(from, size.min(file.size - from)))?;
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).filter(|tag| !tag.is_empty());
        let tag = tag.ok_or_else(|| requests.unclear("a part that was sent has no tag"))?;
        parts.push(json!({ "partNumber": number, "etag": tag }));
    }
    let done = json!({ "oid": oid, "parts": parts }).to_string();
    requests.store("POST", &requests.at_endpoint(&action.href), &[], &Payload::Lfs(done)).map(drop)
}
