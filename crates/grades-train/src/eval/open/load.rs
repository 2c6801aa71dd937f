//! Where the questions of a task are, and the pictures that they name.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::own;
use super::{OpenQuestion, OpenTask};
use crate::data::error::DataError;
use crate::data::format::DatasetSpec;
use crate::data::picture::{Picture, PictureColumns};
use crate::data::record::Record;
use crate::data::samples::tell_unread;
use crate::data::source::Source;
use crate::eval::questions::folder_of;
use crate::hub::Hub;

/// Which questions, and where.
#[derive(Clone, Debug, Default)]
pub struct Where<'a> {
    /// The folder that holds a folder for each task.
    pub data_dir: Option<&'a Path>,
    /// The folder of pictures that rows give by path; left out, that of their file.
    pub image_folder: Option<&'a Path>,
    /// The split; left out, the task's.
    pub split: Option<&'a str>,
    /// Only the first so many.
    pub limit: Option<usize>,
}

impl OpenTask {
    /// The questions that a file of one's own holds.
    ///
    /// # Errors
    /// A row is no question with an answer, or a picture is not there.
    pub fn of_rows(
        name: &str,
        rows: &[Record],
        at: &Where<'_>,
    ) -> Result<(&'static Self, Vec<OpenQuestion>), DataError> {
        let spec = DatasetSpec { image_folder: at.image_folder.map(PathBuf::from), ..DatasetSpec::default() };
        let task = &own::TASK;
        let questions = task.questions(name, rows, |row| match own::of_conversation(row, &spec) {
            Some(question) => question,
            None => (task.question)(row, beside(row, at)?),
        });
        Ok((task, questions?))
    }

    /// The questions of the task in the folder `data_dir/<task>`, as the set on the Hub lays it out or with the pictures
    /// beside the questions; without `data_dir` in `data/<task>` where there is such a folder, and else those of the Hub.
    ///
    /// # Errors
    /// The questions cannot be found or fetched, or a row does not have the task's columns.
    pub fn load(&'static self, at: &Where<'_>) -> Result<Vec<OpenQuestion>, DataError> {
        let (split, hub) = (at.split.unwrap_or(self.split), Hub::from_env());
        let folder = folder_of(self.name, at.data_dir).map(|folder| folder.display().to_string());
        let source = |name: Option<&'static str>| match (&folder, self.hub) {
            (Some(folder), _) => Ok(Source { path: folder, name, revision: None }),
            (None, Some(set)) => Ok(Source { name, ..set }),
            (None, None) => Err(DataError::NoDataDir { task: self.name.to_owned() }),
        };
        let name = self.hub.and_then(|set| set.name);
        let rows = match source(name)?.first(split, at.limit, &hub) {
            // Questions of one's own in the columns of the set lie in no configuration.
            Err(DataError::NoSuchName { .. }) if folder.is_some() => source(None)?.first(split, at.limit, &hub)?,
            rows => rows?,
        };
        let set = source(None)?.path;
        let pictures = match self.pictures.filter(|_| rows.first().is_some_and(|row| !row.has("image"))) {
            None => None,
            Some((name, column)) => Some((by_id(&source(Some(name))?.first(split, None, &hub)?, at)?, column)),
        };
        self.questions(set, &rows, |row| {
            let shown = match &pictures {
                None => beside(row, at)?,
                Some((known, column)) => {
                    let id = row.text(column)?;
                    let picture = known.get(id).cloned();
                    let picture =
                        picture.ok_or_else(|| row.error(format!("there is no picture {id}; complete the set")));
                    vec![picture?]
                }
            };
            if shown.is_empty() {
                return Err(row.error("the question has no picture; correct the row"));
            }
            (self.question)(row, shown)
        })
    }

    fn questions(
        &self,
        set: &str,
        rows: &[Record],
        question: impl Fn(&Record) -> Result<OpenQuestion, DataError>,
    ) -> Result<Vec<OpenQuestion>, DataError> {
        let mut unread = BTreeSet::new();
        let mut questions = Vec::with_capacity(rows.len());
        for row in rows {
            questions.push(question(row)?);
            let left = row.left().into_iter().map(|(name, _)| name);
            unread.extend(left.filter(|name| !self.unused.contains(name)).map(str::to_owned));
        }
        tell_unread(set, self.name, unread);
        Ok(questions)
    }
}

/// The pictures in a row.
fn beside(row: &Record, at: &Where<'_>) -> Result<Vec<Picture>, DataError> {
    let columns = PictureColumns { column: None, folder: at.image_folder.map(PathBuf::from) };
    Ok(columns.of(row).map_err(|problem| row.error(problem))?.unwrap_or_default())
}

/// Pictures by their `id`.
fn by_id(rows: &[Record], at: &Where<'_>) -> Result<HashMap<String, Picture>, DataError> {
    let mut known = HashMap::with_capacity(rows.len());
    for row in rows {
        let id = match row.optional("id")? {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Number(id)) => id.to_string(),
            _ => return Err(row.error("the picture has no `id`; correct the row")),
        };
        let picture = beside(row, at)?.pop().ok_or_else(|| row.error("there is no picture in the row; correct it"))?;
        known.insert(id, picture);
    }
    Ok(known)
}
