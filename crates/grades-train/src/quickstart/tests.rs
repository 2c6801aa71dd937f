use std::collections::BTreeSet;

use grades_models::tokenizer::Tokenizer;

use super::*;
use crate::config::Config;
use crate::data::source;
use crate::eval::Task;

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the statements of the corpus say, as (word, more, less).
fn stated(corpus: &[Value]) -> BTreeSet<(String, String, String)> {
    let mut facts = BTreeSet::new();
    for row in corpus {
        let text = row["text"].as_str().unwrap().trim_end_matches('.');
        if let Some((more, rest)) = text.strip_prefix("The ").and_then(|text| text.split_once(" is ")) {
            let (word, less) = rest.split_once(" than the ").unwrap();
            facts.insert((word.to_owned(), more.to_owned(), less.to_owned()));
        }
    }
    facts
}

#[test]
fn questions_and_sentences_tell_of_one_world() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path()).unwrap();
    let facts = stated(&rows(&folder.path().join("corpus.jsonl")));
    // 32 · 31 / 2 pairs, four qualities, two words for each; nearly all come up, and none with its contrary.
    assert!(facts.len() > 3700, "{}", facts.len());
    let contrary = |(word, more, less): &(String, String, String)| (word.clone(), less.clone(), more.clone());
    assert!(facts.iter().all(|fact| !facts.contains(&contrary(fact))));

    let (train, test) = World::new(THINGS, SEED).questions(TRAINING_QUESTIONS, TEST_QUESTIONS, WRONG);
    let mut asked = BTreeSet::new();
    let mut right = |questions: &[Question]| {
        let mut counts = [0, 0];
        for Question { question, choices, answer } in questions {
            let word = question.strip_prefix("Which is ").unwrap().split_once(',').unwrap().0;
            let [answered, other] = [*answer, 1 - answer].map(|choice| choices[choice].strip_prefix("the ").unwrap());
            let fact = (word.to_owned(), answered.to_owned(), other.to_owned());
            let quality = ["heavier lighter", "faster slower", "taller shorter", "older younger"]
                .into_iter()
                .find(|pair| pair.contains(word))
                .unwrap();
            let things = BTreeSet::from([answered.to_owned(), other.to_owned()]);
            assert!(asked.insert((quality, things)), "asked twice: {question}");
            counts[0] += usize::from(facts.contains(&fact));
            counts[1] += usize::from(facts.contains(&contrary(&fact)));
        }
        counts
    };
    let [correct, wrong] = right(&test);
    assert!(wrong == 0 && correct > 950, "{correct} right, {wrong} wrong");
    let [correct, wrong] = right(&train);
    // A fifth of 980 is 196; a few facts are not among the sentences.
    assert!((180..=196).contains(&wrong) && (750..=784).contains(&correct), "{correct} right, {wrong} wrong");
    // Neither place is the right one more often than chance lets it.
    let first = test.iter().filter(|question| question.answer == 0).count();
    assert!((420..=580).contains(&first), "{first}");
}

#[test]
fn what_is_written_can_be_trained_and_scored() {
    let folder = tempfile::tempdir().unwrap();
    let files = write(&folder.path().join("a \"quoted\": name")).unwrap();
    let config = Config::load(&files.config, &[]).unwrap();
    assert_eq!(config.output_dir, files.runs);
    let tokenizer = Tokenizer::from_checkpoint(config.model.tokenizer()).unwrap();
    let train = source::read(Path::new(&config.datasets[0].path), None).unwrap();
    assert_eq!(train.len(), TRAINING_QUESTIONS);
    let questions = Task::find(TASK).unwrap().load(Some(&files.data), None, None).unwrap();
    assert_eq!(questions.len(), TEST_QUESTIONS);
    // A token each: Question : ␣ Which ␣is ␣… , ␣the ␣… ␣or ␣the ␣… ? ⏎ Answer : (the merges of `Which` come first).
    for question in &questions {
        assert_eq!(tokenizer.encode(&question.contexts[0], true).unwrap().len(), 16);
        assert_eq!(tokenizer.encode(&format!(" {}", question.choices[0]), false).unwrap().len(), 2);
    }
    // Other text is spelt out by its bytes.
    let text = "Größe\u{0}\n\u{7f} 象";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap(), true), text);
    let error = write(files.config.parent().unwrap()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}
