//! Texts with pictures: what is between the parts of a model, other ways through it, and adapters on all of it.

use std::path::Path;
use std::sync::Arc;

use grades::Tower;
use grades_models::model::{PassOptions, Pictures, Replaced, Rows, Vision};
use grades_models::nn::Grid;
use grades_models::parameters::{Group, Piece, Place};
use grades_models::{Decoder, Inputs, KvCache, KvCaches, LoraConfig, peft};
use grades_tensor::{Gradients, IGNORE_INDEX};

use crate::families::Texts;
use crate::fixture::{Batch, Values, assert_close, base, cpu, find, find_each, in_f64, pictures, relative_error};
use crate::steps::check_steps;

const MODELS: [&str; 3] = ["vision/nanovlm_split", "vision/qwen2_5_vl_rows", "qwen2_5_vl"];

fn of(model: &Decoder, expected: &Values) -> Arc<Pictures> {
    Arc::new(pictures(model.vision().unwrap(), expected, ""))
}

#[test]
fn pictures_become_the_rows_of_the_reference() {
    for (_, folder) in find_each(&MODELS) {
        let (model, expected) = (base(&folder, "config.json"), Values::expected(&folder));
        let rows = model.picture_rows(&of(&model, &expected)).unwrap();
        for name in ["vision.projected", "vision.merged"] {
            if let Some(reference) = expected.find(name) {
                assert_close(name, &rows.to_host(), reference);
            }
        }
    }
}

#[test]
fn tokens_lie_where_the_reference_says() {
    let Some(folder) = find("vision/qwen2_5_vl_rows") else { return };
    let (model, expected) = (base(&folder, "config.json"), Values::expected(&folder));
    let places = Batch::new(&model, &expected).inputs.layout.places.clone().unwrap();
    let count = places.len();
    // Those of the text, of time, of height and of width.
    let reference = &expected.get("packed.position_ids")[count..];
    for (token, place) in places.iter().enumerate() {
        assert_eq!(place.map(f64::from), [0, 1, 2].map(|axis| reference[axis * count + token]), "token {token}");
    }
    assert!(places.iter().any(|[time, height, width]| time != height && height != width));
}

/// The samples of nanoVLM in another order, each with its own pictures, lose what the batch loses.
#[test]
fn samples_keep_their_pictures_and_do_not_see_one_another() {
    let Some(folder) = find("vision/nanovlm_split") else { return };
    let (model, expected) = (base(&folder, "config.json"), Values::expected(&folder));
    let (vision, token) = (model.vision().unwrap(), model.vision().and_then(Vision::token).unwrap());
    let tiles = of(&model, &expected);
    let per_tile = vision.rows_of(tiles.grids()[0]);
    let sample = |index: usize| {
        let numbers = |what: &str| expected.get(&format!("sample.{index}.{what}")).to_vec();
        (numbers("input_ids"), numbers("targets"))
    };
    let mut firsts = vec![0];
    for index in 0..4 {
        let of_sample = sample(index).0.iter().filter(|id| **id == f64::from(token)).count() / per_tile;
        firsts.push(firsts[index] + of_sample);
    }
    assert_eq!(firsts[4], tiles.grids().len());
    let (mut ids, mut targets, mut segments, mut order) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for index in [2, 1, 3, 0] {
        let (of_ids, of_targets) = sample(index);
        segments.push(ids.len()..ids.len() + of_ids.len());
        ids.extend(of_ids.iter().map(|&id| id as u32));
        targets.extend(of_targets.iter().map(|&target| target as i64));
        order.extend(firsts[index]..firsts[index + 1]);
    }
    let all = expected.get("tiles");
    let size = all.len() / order.len();
    let turned = order.iter().flat_map(|&tile| &all[tile * size..][..size]).copied().collect();
    let shape = expected_shape(&expected);
    let pictures = Arc::new(pictures(vision, &Values::of("tiles", &shape, turned), ""));
    let inputs = model.read(ids, &segments, Some(pictures)).unwrap();
    let labels = targets.iter().filter(|target| **target != IGNORE_INDEX).count();
    let pass = model.pass(&inputs, Arc::new(targets), 1.0 / labels as f32, PassOptions::default());
    assert_close("loss", &pass.loss().to_host(), expected.get("packed.isolated.loss"));
    assert_close("loss of the batch", &pass.loss().to_host(), expected.get("loss.1"));
}

fn expected_shape(expected: &Values) -> Vec<usize> {
    grades_models::source::Source::shape(expected, "tiles").unwrap()
}

/// Loss, and gradients by slot.
fn run(model: &Decoder, batch: &Batch, options: PassOptions) -> (f32, Vec<Option<Vec<f32>>>) {
    let (loss, mut gradients) = batch.pass(model, options);
    let slots = model.parameters().slots();
    (loss, (0..slots).map(|slot| gradients.take(slot).map(|gradient| gradient.to_host().into_owned())).collect())
}

fn of_pictures(piece: &Piece) -> bool {
    piece.place.group() != Group::Language
}

fn below(piece: &Piece, layer: usize) -> bool {
    piece.place.height().is_some_and(|(tower, height)| tower == Tower::Vision && height <= layer)
}

/// Whether a piece trains.
type Trains = fn(&Piece) -> bool;

/// What trains.
const PATTERNS: [(&str, Trains); 6] = [
    ("all", |_| true),
    ("all but what makes rows of pictures", |piece| !of_pictures(piece)),
    ("that alone", of_pictures),
    ("the projector alone", |piece| piece.place == Place::Projector),
    ("all but the tower's first layer and what is below", |piece| !below(piece, 1)),
    ("the last layers of both", |piece| piece.place.height().is_none_or(|(_, height)| height == 2)),
];

#[test]
fn other_ways_through_give_the_same_gradients_to_the_bit() {
    for (name, folder) in find_each(&MODELS) {
        let expected = Values::expected(&folder);
        let mut model = base(&folder, "config.json");
        for (pattern, trains) in PATTERNS {
            let what = format!("{name}, {pattern}");
            model.parameters_mut().set_trainable(|piece| Some(trains(piece)));
            let mut batch = Batch::new(&model, &expected);
            let found = run(&model, &batch, PassOptions::default());
            let trained = model.parameters().pieces().map(|(_, piece)| piece.is_trainable());
            assert!(trained.eq(found.1.iter().map(Option::is_some)), "{what}");
            let again = run(&model, &batch, PassOptions { checkpointing: true, ..PassOptions::default() });
            assert!(again == found, "{what}: with checkpointing");
            // From what the frozen layers of the tower gave before.
            let all = of(&model, &expected);
            let layers = model.frozen_vision_layers();
            let frozen = model.vision_prefix(&all, layers).filter(|_| layers > 0);
            if let Some(prefix) = frozen {
                let above = model.vision().unwrap().pictures_above(prefix, all.grids().to_vec()).unwrap();
                let rows = batch.inputs.replaced.as_ref().unwrap().rows.clone();
                batch.inputs.replaced = Some(Replaced { rows, by: Rows::Of(Arc::new(above)) });
                for checkpointing in [false, true] {
                    let above = run(&model, &batch, PassOptions { checkpointing, ..PassOptions::default() });
                    assert!(above == found, "{what}: above frozen layers");
                }
            }
            // From the rows themselves.
            if !model.parameters().pieces().any(|(_, piece)| piece.is_trainable() && of_pictures(piece)) {
                let rows = batch.inputs.replaced.as_ref().unwrap().rows.clone();
                let known = Rows::Known(model.picture_rows(&all).unwrap());
                batch.inputs.replaced = Some(Replaced { rows, by: known });
                for checkpointing in [false, true] {
                    let known = run(&model, &batch, PassOptions { checkpointing, ..PassOptions::default() });
                    assert!(known == found, "{what}: rows that are known");
                }
            }
        }
    }
}

/// A text by itself costs no tower, and is the same beside samples with pictures.
#[test]
fn texts_go_without_a_tower() {
    for (name, folder) in find_each(&MODELS[..2]) {
        let (mut model, expected) = (base(&folder, "config.json"), Values::expected(&folder));
        model.parameters_mut().train();
        let batch = Batch::new(&model, &expected);
        // The third row has no picture.
        let segment = batch.inputs.layout.segments[2].query.clone();
        let ids = batch.inputs.ids[segment.clone()].to_vec();
        let targets = batch.targets[segment.clone()].to_vec();
        let inputs = model.read(ids.clone(), std::slice::from_ref(&(0..ids.len())), None).unwrap();
        assert!(inputs.replaced.is_none() && inputs.layout.places.is_none());
        let width = model.sizes().vocab_size;
        let of_batch = &batch.logits(&model)[segment.start * width..segment.end * width];
        assert_close(name, &model.logits(&inputs).to_host(), &in_f64(of_batch));
        let pass = model.pass(&inputs, Arc::new(targets), 1.0, PassOptions::default());
        let mut gradients = Gradients::new(model.parameters().slots());
        pass.backward(&mut gradients);
        for (_, piece) in model.parameters().pieces() {
            assert_eq!(gradients.get(piece.slot()).is_none(), of_pictures(piece), "{:?}", piece.place);
        }
    }
}

#[test]
fn tokens_that_follow_pictures_in_a_cache_have_the_logits_of_the_whole_text() {
    for (name, folder) in find_each(&MODELS) {
        let (model, expected) = (base(&folder, "config.json"), Values::expected(&folder));
        let batch = Batch::new(&model, &expected);
        let (vision, segment) = (model.vision().unwrap(), batch.inputs.layout.segments[0].query.clone());
        let ids = &batch.inputs.ids[segment];
        let last = ids.iter().rposition(|id| Some(*id) == vision.token()).unwrap() + 1;
        let count = ids[..last].iter().filter(|id| Some(**id) == vision.token()).count();
        let all = pictures(vision, &expected, "");
        let mut rows = 0;
        let grids = all.grids().iter().take_while(|grid| {
            rows += vision.rows_of(**grid);
            rows <= count
        });
        let grids: Vec<Grid> = grids.copied().collect();
        let patches: usize = grids.iter().map(|grid| grid.patches()).sum();
        let of_row = Arc::new(first_patches(vision, &expected, patches, grids));
        let inputs = |ids: &[u32]| {
            model.read(ids.to_vec(), std::slice::from_ref(&(0..ids.len())), Some(of_row.clone())).unwrap()
        };
        let (mut cache, width) = (KvCache::default(), model.sizes().vocab_size);
        let mut found = model.logits_after(&inputs(&ids[..last]), &mut cache).to_host().into_owned();
        for end in last + 1..=ids.len() {
            let whole = model.logits(&inputs(&ids[..end - 1])).to_host().into_owned();
            let expected = in_f64(&whole[(end - 2) * width..]);
            assert_close(&format!("{name} at {}", end - 1), &found, &expected);
            found = model.next_logits(&ids[end - 1..end], &mut cache).to_host().into_owned();
        }
        assert_eq!(cache.tokens(), ids.len());
    }
}

/// A second picture that comes when there are others in the cache, as in a chat, and texts beside one another.
#[test]
fn pictures_that_come_later_or_side_by_side_have_the_logits_of_the_whole_text() {
    for (name, folder) in find_each(&MODELS) {
        let (model, expected) = (base(&folder, "config.json"), Values::expected(&folder));
        let (vision, batch) = (model.vision().unwrap(), Batch::new(&model, &expected));
        let token = vision.token().unwrap();
        let grid = pictures(vision, &expected, "").grids()[0];
        let rows = vision.rows_of(grid);
        // The first picture of the fixture, so many times.
        let of = |count: usize| {
            let (values, width) = crate::fixture::patches_of(vision, &expected);
            let patches = values[..grid.patches() * width].repeat(count);
            let patches = cpu().from_host(patches, [count * grid.patches(), width]);
            Some(Arc::new(vision.pictures(patches, vec![grid; count]).unwrap()))
        };
        let text: Vec<u32> = batch.inputs.ids.iter().copied().filter(|&id| id != token).take(9).collect();
        let shown = [&text[..3], &vec![token; rows], &text[3..5]].concat();
        let whole = |ids: &[u32], count: usize| {
            let inputs = model.read(ids.to_vec(), std::slice::from_ref(&(0..ids.len())), of(count)).unwrap();
            let logits = model.logits(&inputs).to_host().into_owned();
            in_f64(&logits[logits.len() - model.sizes().vocab_size..])
        };
        let one = |ids: &[u32]| model.read(ids.to_vec(), std::slice::from_ref(&(0..ids.len())), of(1)).unwrap();
        let mut cache = KvCache::default();
        let _ = model.logits_after(&one(&shown), &mut cache);
        let found = model.next_logits(&text[5..], &mut cache);
        assert_close(name, &found.to_host(), &whole(&[&shown[..], &text[5..]].concat(), 1));
        cache.cut(shown.len());
        let found = model.next_logits(&text[5..], &mut cache);
        assert_close(name, &found.to_host(), &whole(&[&shown[..], &text[5..]].concat(), 1));
        let found = model.logits_after(&one(&shown), &mut cache);
        assert_close(name, &found.to_host(), &whole(&[&shown[..], &text[5..], &shown].concat(), 2));

        // Beside a text without pictures, which goes on as the other does.
        let ids = [&text[..4], &shown[..]].concat();
        let inputs = model.read(ids.clone(), &[0..4, 4..ids.len()], of(1)).unwrap();
        let mut caches = KvCaches::with_room(&[6, shown.len() + 2]);
        let width = model.sizes().vocab_size;
        let alone = |ids: &[u32]| in_f64(&model.next_logits(ids, &mut KvCache::default()).to_host());
        let found = model.first_logits_of_each(&inputs, &mut caches).to_host().into_owned();
        assert_close(name, &found[..width], &alone(&text[..4]));
        assert_close(name, &found[width..], &whole(&shown, 1));
        let found = model.next_logits_of_each(&text[4..6], &[0, 1], &mut caches).to_host().into_owned();
        assert_close(name, &found[..width], &alone(&text[..5]));
        assert_close(name, &found[width..], &whole(&[&shown[..], &text[5..6]].concat(), 1));
    }
}

/// The first pictures of a fixture.
fn first_patches(vision: &Vision, expected: &Values, patches: usize, grids: Vec<Grid>) -> Pictures {
    let (values, width) = crate::fixture::patches_of(vision, expected);
    let values = values[..patches * width].to_vec();
    vision.pictures(cpu().from_host(values, [patches, width]), grids).unwrap()
}

/// Greedy tokens of nanoVLM after the three steps of its fixture.
#[test]
fn answers_are_those_of_the_reference() {
    let Some(folder) = find("vision/nanovlm_split") else { return };
    let mut texts = Texts::load(&folder, "config.json");
    check_steps(&folder, &mut texts);
    let (model, expected) = (texts.model, Values::expected(&folder));
    let generated = crate::fixture::json(&folder.join("generated.json"));
    let ids = |key: &str| -> Vec<u32> {
        generated[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let (prompt, answer, vision) = (ids("prompt_ids"), ids("greedy_ids"), model.vision().unwrap());
    let rows = prompt.iter().filter(|id| Some(**id) == vision.token()).count();
    let grid = pictures(vision, &expected, "").grids()[0];
    let tiles = rows / vision.rows_of(grid);
    let pictures = Arc::new(first_patches(vision, &expected, tiles * grid.patches(), vec![grid; tiles]));
    let (mut cache, count) = (KvCache::default(), prompt.len());
    let inputs = model.read(prompt, std::slice::from_ref(&(0..count)), Some(pictures)).unwrap();
    let mut logits = model.logits_after(&inputs, &mut cache);
    let mut found = Vec::new();
    for _ in &answer {
        let logits_now = logits.to_host().into_owned();
        let best = (0..).zip(&logits_now).max_by(|one, other| one.1.total_cmp(other.1)).unwrap().0;
        found.push(best);
        logits = model.next_logits(&[best], &mut cache);
    }
    assert_eq!(found, answer);
}

fn adapted(folder: &Path, from: &Path) -> Decoder {
    let mut model = peft::attach(base(folder, "config.json"), from).unwrap();
    model.parameters_mut().train();
    model
}

/// Adapters on all linear layers of both towers, and on the convolution over patches.
#[test]
fn adapters_match_the_reference() {
    let (Some(folder), Some(from)) = (find("vision/qwen2_5_vl_rows"), find("vision/qwen2_5_vl_lora")) else { return };
    let model = adapted(&folder, &from);
    let batch = Batch::new(&model, &Values::expected(&folder));
    check_steps(&from, &mut Texts { model, batch });
}

#[test]
fn adapters_are_saved_under_the_names_of_peft_and_merge() {
    let (Some(folder), Some(from)) = (find("vision/qwen2_5_vl_rows"), find("vision/qwen2_5_vl_lora")) else { return };
    let (model, to) = (adapted(&folder, &from), tempfile::tempdir().unwrap());
    peft::save(&to.path().join("adapter"), &model, None).unwrap();
    let values = |folder: &Path| Values::read(&folder.join("adapter_model.safetensors"));
    let (found, theirs) = (values(&to.path().join("adapter")), values(&from));
    let mut names: Vec<&str> = theirs.names().collect();
    names.sort_unstable();
    let mut found_names: Vec<&str> = found.names().collect();
    found_names.sort_unstable();
    assert_eq!(found_names, names);
    let shape = grades_models::source::Source::shape;
    assert!(
        names.iter().all(|name| found.get(name) == theirs.get(name) && shape(&found, name) == shape(&theirs, name))
    );
    let batch = Batch::new(&model, &Values::expected(&folder));
    let (with, without) = (in_f64(&batch.logits(&model)), batch.logits(&base(&folder, "config.json")));
    assert!(relative_error(&without, &with) > 0.01);
    assert_close("logits of the merged model", &batch.logits(&model.merged()), &with);
}

#[test]
fn what_does_not_fit_is_told_in_a_sentence() {
    for (_, folder) in find_each(&MODELS[..2]) {
        let (model, expected) = (base(&folder, "config.json"), Values::expected(&folder));
        let batch = Batch::new(&model, &expected);
        let (vision, ids) = (model.vision().unwrap(), batch.inputs.ids.to_vec());
        let segments: Vec<_> = batch.inputs.layout.segments.iter().map(|segment| segment.query.clone()).collect();
        let all = of(&model, &expected);
        let refused = |result: Result<Inputs, grades_models::Error>| result.unwrap_err().to_string();
        let none = refused(model.read(ids.clone(), &segments, None));
        assert!(none.contains("0 pictures become 0 rows"), "{none}");
        let mut fewer = ids.clone();
        let place = ids.iter().position(|id| Some(*id) == vision.token()).unwrap();
        fewer[place] = 1;
        let fewer = refused(model.read(fewer, &segments, Some(all.clone())));
        assert!(fewer.contains("give each as many as it becomes"), "{fewer}");
        let patches = |rows, columns| cpu().from_host(vec![0.0; rows * columns], [rows, columns]);
        for (grid, rows, part) in [
            (Grid::still(3, 4), 12, "must be a multiple of 2"),
            (Grid::still(0, 4), 0, "no patch"),
            (Grid::still(4, 4), 15, "do not fit their grids"),
        ] {
            let error = vision.pictures(patches(rows, vision.patch_numbers()), vec![grid]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let other = vision.pictures(patches(64, vision.patch_numbers()), vec![Grid::still(8, 8)]);
        assert_eq!(other.is_err(), folder.ends_with("nanovlm_split"));
    }
    let Some(llama) = find("llama") else { return };
    let Some(folder) = find(MODELS[0]) else { return };
    let (text, pictured) = (base(&llama, "config.json"), base(&folder, "config.json"));
    let pictures = of(&pictured, &Values::expected(&folder));
    let error = text.read(vec![1, 2], std::slice::from_ref(&(0..2)), Some(pictures)).unwrap_err().to_string();
    assert!(error.contains("reads no pictures"), "{error}");
}

/// What is held is no unit, gets no adapter, and has no gradient.
#[test]
fn groups_are_held() {
    let Some(folder) = find(MODELS[1]) else { return };
    let expected = Values::expected(&folder);
    for held in [&[Group::Vision][..], &[Group::Projector], &[Group::Language], &[Group::Vision, Group::Projector]] {
        let mut model = base(&folder, "config.json");
        let of_model = |model: &Decoder| -> Vec<Group> {
            model.parameters().pieces().map(|(_, piece)| piece.place.group()).collect()
        };
        let groups = of_model(&model);
        model.hold(held);
        model.parameters_mut().train();
        let batch = Batch::new(&model, &expected);
        let (_, found) = run(&model, &batch, PassOptions::default());
        for ((_, piece), (group, gradient)) in model.parameters().pieces().zip(groups.iter().zip(&found)) {
            assert_eq!(gradient.is_none(), held.contains(group), "{:?} of {group:?}", piece.place);
            assert!(gradient.is_some() || piece.place == Place::Base);
        }
        let config = LoraConfig { r: 2, ..LoraConfig::default() };
        let adapted = model.with_adapter(config, &LoraConfig::initial(1)).unwrap();
        let pairs = adapted.parameters().pieces().filter(|(_, piece)| piece.place != Place::Base);
        let mut with_adapters: Vec<Group> = pairs.map(|(_, piece)| piece.place.group()).collect();
        with_adapters.dedup();
        assert!(!with_adapters.is_empty() && with_adapters.iter().all(|group| !held.contains(group)), "{held:?}");
    }
}
