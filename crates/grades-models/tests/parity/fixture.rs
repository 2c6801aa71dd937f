//! The fixtures: those of the repository, or those of the folder that `GRADES_FIXTURES` names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grades_models::config::HfConfig;
use grades_models::model::PassOptions;
use grades_models::model::{Pictures, Vision, Weight};
use grades_models::nn::Grid;
use grades_models::parameters::Parameter;
use grades_models::source::{LoadOptions, Source};
use grades_models::{Decoder, Error, Inputs, LoraConfig, registry};
use grades_tensor::{DeviceRef, Gradients, IGNORE_INDEX, device};
use serde_json::Value;

/// Relative tolerance of the f32 path, in norm.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// The variable that names other fixtures than the repository's.
const OTHERS: &str = "GRADES_FIXTURES";

pub(crate) fn cpu() -> DeviceRef {
    device("cpu").unwrap()
}

pub(crate) fn fixtures() -> PathBuf {
    std::env::var_os(OTHERS).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures"), PathBuf::from)
}

/// A file or folder of the fixtures. That other fixtures lack it is told, and no mistake; the repository has it.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let (folder, others) = (fixtures().join(name), std::env::var_os(OTHERS).is_some());
    assert!(others || folder.exists(), "the repository lacks the fixture {}", folder.display());
    if !folder.exists() {
        println!("skipped: there is no {}", folder.display());
        return None;
    }
    Some(folder)
}

/// The fixtures of these names that there are.
pub(crate) fn find_each<'a>(names: &'a [&str]) -> impl Iterator<Item = (&'a str, PathBuf)> {
    names.iter().filter_map(|&name| Some((name, find(name)?)))
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The tensors of a file.
pub(crate) struct Values {
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Values {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let values = |view: &safetensors::tensor::TensorView<'_>| -> Vec<f64> {
            match view.dtype() {
                safetensors::Dtype::F32 => {
                    view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
                }
                safetensors::Dtype::I32 => {
                    view.data().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()
                }
                safetensors::Dtype::I64 => {
                    view.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
                }
                other => panic!("{other:?} in {}", path.display()),
            }
        };
        let tensors = file.iter().map(|(name, view)| (name.into(), (view.shape().into(), values(&view)))).collect();
        Self { tensors }
    }

    /// What the reference computes from the model in `folder`.
    pub(crate) fn expected(folder: &Path) -> Self {
        Self::read(&folder.join("expected.safetensors"))
    }

    pub(crate) fn get(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no `{name}` in the fixture")).1
    }

    /// One tensor.
    pub(crate) fn of(name: &str, shape: &[usize], values: Vec<f64>) -> Self {
        Self { tensors: HashMap::from([(name.to_owned(), (shape.to_vec(), values))]) }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&[f64]> {
        self.tensors.get(name).map(|(_, values)| values.as_slice())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

impl Source for Values {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|(shape, _)| shape.clone())
    }

    fn load(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, Error> {
        match self.tensors.get(name) {
            Some((_, values)) => Ok(values.iter().map(|&v| v as f32).collect()),
            None => Err(Error::Input(format!("no {name}"))),
        }
    }
}

/// The model in `folder` by one of its configs, without the adapter that may lie beside it.
pub(crate) fn base(folder: &Path, config: &str) -> Decoder {
    base_with(folder, config, LoadOptions::new(cpu()))
}

pub(crate) fn base_with(folder: &Path, config: &str, options: LoadOptions) -> Decoder {
    let config = HfConfig::new(json(&folder.join(config))).unwrap();
    registry::load(&config, &Values::read(&folder.join("model.safetensors")), options).unwrap()
}

/// The adapter in `folder`, as its `adapter_config.json` describes it.
fn adapter(folder: &Path) -> LoraConfig {
    let config = json(&folder.join("adapter_config.json"));
    let targets = config["target_modules"].as_array().unwrap();
    LoraConfig {
        r: config["r"].as_u64().unwrap() as usize,
        lora_alpha: config["lora_alpha"].as_f64().unwrap(),
        use_rslora: config["use_rslora"].as_bool().unwrap(),
        use_dora: config["use_dora"].as_bool().unwrap(),
        lora_dropout: 0.0,
        target_modules: targets.iter().map(|target| target.as_str().unwrap().to_owned()).collect(),
    }
}

/// The model in `folder` by one of its configs, with the adapter that may lie beside it; all of it trains that can.
pub(crate) fn load(folder: &Path, config: &str) -> Decoder {
    let mut model = base(folder, config);
    if folder.join("adapter_config.json").exists() {
        let values = Values::read(&folder.join("adapter_model.safetensors"));
        model = model.with_adapter(adapter(folder), &values).unwrap();
    }
    model.parameters_mut().train();
    model
}

/// The name that the reference implementation has for a parameter while it trains.
pub(crate) fn reference_name(expected: &Values, name: &str) -> String {
    if expected.find(&format!("grad.{name}")).is_some() {
        return name.to_owned();
    }
    name.replace(".lora_A.", ".lora_A.default.")
        .replace(".lora_B.", ".lora_B.default.")
        .replace(".lora_magnitude_vector", ".lora_magnitude_vector.default.weight")
}

/// The pictures of a fixture, whose name begins with `prefix`: patches with their grids, or pixels.
pub(crate) fn pictures(vision: &Vision, expected: &Values, prefix: &str) -> Pictures {
    let (values, width, grids) = patched(vision, expected, prefix);
    let shape = [values.len() / width, width];
    vision.pictures(cpu().from_host(values, shape), grids).unwrap()
}

/// The patches of all pictures of a fixture, and the numbers of each.
pub(crate) fn patches_of(vision: &Vision, expected: &Values) -> (Vec<f32>, usize) {
    let (values, width, _) = patched(vision, expected, "");
    (values, width)
}

fn patched(vision: &Vision, expected: &Values, prefix: &str) -> (Vec<f32>, usize, Vec<Grid>) {
    let name = if expected.find("tiles").is_some() { "tiles" } else { &format!("{prefix}pixel_values") };
    let pixels: Vec<f32> = expected.get(name).iter().map(|&value| value as f32).collect();
    match expected.shape(name).unwrap()[..] {
        [_, width] => {
            let grids = expected.get("image_grid_thw").chunks(3).map(|of| {
                let [frames, rows, columns] = [0, 1, 2].map(|side| of[side] as usize);
                Grid { frames, rows, columns }
            });
            (pixels, width, grids.collect())
        }
        [count, channels, height, rest] => patches(&pixels, [count, channels, height, rest], vision.patch_numbers()),
        _ => panic!("{name} are neither patches nor pixels"),
    }
}

/// Square patches of so many numbers, row by row, each by channel, row and column.
fn patches(
    pixels: &[f32],
    [count, channels, height, width]: [usize; 4],
    numbers: usize,
) -> (Vec<f32>, usize, Vec<Grid>) {
    let side = (numbers / channels).isqrt();
    let grid = Grid::still(height / side, width / side);
    let mut values = Vec::with_capacity(pixels.len());
    for picture in pixels.chunks(channels * height * width) {
        for (down, across) in (0..grid.rows).flat_map(|down| (0..grid.columns).map(move |across| (down, across))) {
            for row in (0..channels).flat_map(|channel| (0..side).map(move |row| channel * height + down * side + row))
            {
                values.extend_from_slice(&picture[row * width + across * side..][..side]);
            }
        }
    }
    (values, numbers, vec![grid; count])
}

/// A batch of the fixture without its padding.
pub(crate) struct Batch {
    /// The kept cells of the padded `[rows, columns]`.
    kept: Vec<usize>,
    pub(crate) inputs: Inputs,
    pub(crate) targets: Arc<Vec<i64>>,
}

impl Batch {
    pub(crate) fn new(model: &Decoder, expected: &Values) -> Self {
        let [rows, columns] = expected.shape("input_ids").unwrap()[..] else { panic!("ids are not 2-D") };
        let (ids, mask) = (expected.get("input_ids"), expected.find("attention_mask"));
        let (mut kept, mut segments, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            let start = kept.len();
            kept.extend((row * columns..(row + 1) * columns).filter(|&cell| mask.is_none_or(|mask| mask[cell] != 0.0)));
            segments.push(start..kept.len());
            // Labels are of the token itself, targets of that which follows.
            match expected.find("targets") {
                Some(of_next) => targets.extend(kept[start..].iter().map(|&cell| of_next[cell] as i64)),
                None => {
                    let labels = expected.get("labels");
                    targets.extend(kept[start..].iter().skip(1).map(|&cell| labels[cell] as i64).chain([IGNORE_INDEX]));
                }
            }
        }
        let ids: Vec<u32> = kept.iter().map(|&cell| ids[cell] as u32).collect();
        let pictures = model.vision().map(|vision| Arc::new(pictures(vision, expected, "")));
        let token = model.vision().and_then(Vision::token);
        let inputs = match token.filter(|token| !ids.contains(token)) {
            None => model.read(ids, &segments, pictures),
            // The older fixture of nanoVLM has its pictures at this token of the language model's.
            Some(_) => {
                let rows = (0..).zip(&ids).filter(|(_, id)| **id == 90).map(|(row, _)| row).collect();
                model.read_at(ids, &segments, pictures, rows)
            }
        };
        let inputs = inputs.unwrap();
        Self { kept, inputs, targets: Arc::new(targets) }
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / self.targets.iter().filter(|&&t| t != IGNORE_INDEX).count() as f32
    }

    /// The rows of the kept cells in a result of the padded batch.
    pub(crate) fn kept_rows(&self, of_cells: &[f64], width: usize) -> Vec<f64> {
        self.kept.iter().flat_map(|&cell| &of_cells[cell * width..][..width]).copied().collect()
    }

    pub(crate) fn logits(&self, model: &Decoder) -> Vec<f32> {
        model.logits(&self.inputs).to_host().into_owned()
    }

    /// The loss, and the gradients of what trains.
    pub(crate) fn pass(&self, model: &Decoder, options: PassOptions) -> (f32, Gradients) {
        let pass = model.pass(&self.inputs, self.targets.clone(), self.scale(), options);
        let mut gradients = Gradients::new(model.parameters().slots());
        let loss = pass.loss().to_host()[0];
        pass.backward(&mut gradients);
        (loss, gradients)
    }
}

/// The gradient of a parameter: those of its pieces below one another. `None` if there is none of any piece.
pub(crate) fn gradient(parameter: &Parameter, gradients: &Gradients) -> Option<Vec<f32>> {
    let mut all = Vec::new();
    for piece in parameter.pieces() {
        let found = gradients.get(piece.slot());
        assert_eq!(found.is_some(), piece.is_trainable(), "gradient of {} {:?}", parameter.name, piece.place);
        let Some(found) = found else { continue };
        assert_eq!(found.shape(), parameter.extent(piece).1, "gradient of {} {:?}", parameter.name, piece.place);
        all.extend_from_slice(&found.to_host());
    }
    assert!(all.is_empty() || all.len() == parameter.len(), "a part of {} has no gradient", parameter.name);
    (!all.is_empty()).then_some(all)
}

pub(crate) fn in_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// ‖found − expected‖ / ‖expected‖.
pub(crate) fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).powi(2)).sum();
    let size: f64 = expected.iter().map(|e| e * e).sum();
    (difference / size.max(1e-20)).sqrt()
}

#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    assert_within(TOLERANCE, what, found, expected);
}

#[track_caller]
pub(crate) fn assert_within(tolerance: f64, what: &str, found: &[f32], expected: &[f64]) {
    let error = relative_error(found, expected);
    assert!(error < tolerance, "{what} differs by {error:.2e}");
}

/// How far the bf16 path may be from the reference: a tenth further than PyTorch's own autocast on the same fixture.
pub(crate) struct Bf16Bounds {
    pub(crate) logits: f64,
    /// All gradients together.
    pub(crate) gradients: f64,
    pub(crate) each_gradient: f64,
}

impl Bf16Bounds {
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let measured = json(&find(folder.join("bf16.json").to_str().unwrap())?);
        let bound = |key: &str| 1.1 * measured[key].as_f64().unwrap();
        Some(Self { logits: bound("logits"), gradients: bound("gradients"), each_gradient: bound("worst_gradient") })
    }
}

/// What a file holds of a weight: its name, its shape, whether 4 bits are for it, and its values.
pub(crate) type InFile = (String, Vec<usize>, bool, Vec<f32>);

/// What is written of a model, whose adapters are folded in as that is done.
pub(crate) fn written(model: &Decoder) -> Vec<InFile> {
    let weight = |w: &Weight<'_>| (w.name().to_owned(), w.shape().to_vec(), w.may_be_packed(), w.values().into_owned());
    model.weights().iter().map(weight).collect()
}

/// The same of what a model without adapters holds.
pub(crate) fn held(model: &Decoder) -> Vec<InFile> {
    let parameter = |p: &Parameter| (p.name.clone(), p.shape.clone(), p.may_be_packed(), p.to_host().into_owned());
    model.parameters().iter().map(parameter).collect()
}
