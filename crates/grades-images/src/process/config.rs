//! Processors from their files: `preprocessor_config.json` (transformers 4), or `processor_config.json` (transformers 5),
//! which has the same under `image_processor`.

use serde_json::{Map, Value};

use super::{Processor, Rule, Values};
use crate::{Alpha, Backend, Filter};

/// What is wrong with a processor's file. Whoever knows the file's name puts it before the sentence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// A file without images.
    #[error("it describes no image processor: it has neither `image_processor_type` nor `image_processor`")]
    NoImages,
    /// A processor that is not known.
    #[error("its image processor `{0}` is not supported; there are {KINDS}")]
    UnknownProcessor(String),
    /// A key that is not known, and may change what is computed.
    #[error("its key `{0}` is not known and may change the pixels; remove it if it does not")]
    UnknownKey(String),
    /// A value that is not supported.
    #[error("its `{key}` is {value}, where {wanted} is expected")]
    Value {
        /// The key.
        key: String,
        /// What it is.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
}

const KINDS: &str = "Qwen2VLImageProcessor, SiglipImageProcessor and BitImageProcessor";

/// Keys that say nothing about the pixels.
const HARMLESS: [&str; 14] = [
    "_valid_processor_keys",
    "auto_map",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "transformers_version",
];

/// The longest side of a resized picture that a file may ask for, in pixels.
const LONGEST: usize = 1 << 14;

const CLIP: ([f64; 3], [f64; 3]) = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]);
const HALF: ([f64; 3], [f64; 3]) = ([0.5; 3], [0.5; 3]);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Qwen,
    Siglip,
    Bit,
}

impl Processor {
    /// The processor that a file describes, with the backend that is asked for, or else the one that users get today:
    /// torchvision, unless the file names one of Pillow's processors.
    pub fn from_config(file: &Value, backend: Option<Backend>) -> Result<Self, ConfigError> {
        let file = file.as_object().ok_or(ConfigError::NotAnObject)?;
        let file = match file.get("image_processor") {
            Some(Value::Object(nested)) => nested,
            _ => file,
        };
        let name = ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| file.get(*key)?.as_str());
        let name = name.ok_or(ConfigError::NoImages)?;
        let (kind, implied) = kind(name)?;
        let mut fields = Fields { left: file.clone() };
        let processor = fields.processor(kind, backend.unwrap_or(implied))?;
        fields.nothing_left()?;
        Ok(processor)
    }
}

fn kind(name: &str) -> Result<(Kind, Backend), ConfigError> {
    let (stem, backend) = match name.strip_suffix("Pil") {
        Some(stem) => (stem, Backend::Pillow),
        None => (name.strip_suffix("Fast").unwrap_or(name), Backend::Torchvision),
    };
    let kind = match stem {
        "Qwen2VLImageProcessor" | "Qwen2_5_VLImageProcessor" => Kind::Qwen,
        "SiglipImageProcessor" => Kind::Siglip,
        "BitImageProcessor" => Kind::Bit,
        _ => return Err(ConfigError::UnknownProcessor(name.into())),
    };
    Ok((kind, backend))
}

/// The keys of a file that nobody has asked for yet.
struct Fields {
    left: Map<String, Value>,
}

impl Fields {
    fn processor(&mut self, kind: Kind, backend: Backend) -> Result<Processor, ConfigError> {
        let (mean, std) = if kind == Kind::Siglip { HALF } else { CLIP };
        let (mean, std) = (self.channels("image_mean", mean)?, self.channels("image_std", std)?);
        let factor = self.number("rescale_factor", 1.0 / 255.0)?;
        let rescale = self.flag("do_rescale", true)?.then_some(factor);
        let normalise = self.flag("do_normalize", true)?.then_some((mean, std));
        let filter = match self.whole("resample", 3, 0..=5)? {
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            other => return Err(wrong("resample", &other.into(), "2 (bilinear) or 3 (bicubic)")),
        };
        if self.flag("do_pad", false)? {
            return Err(wrong("do_pad", &true.into(), "false"));
        }
        let crops = self.flag("do_center_crop", kind == Kind::Bit)?;
        let crop = self.height_and_width("crop_size", 224)?.unwrap_or((224, 224));
        let rule = match kind {
            Kind::Qwen => self.patches(crops)?,
            _ => self.resize(kind, crops.then_some(crop))?,
        };
        let values = Values::new(rescale, normalise, backend);
        Ok(Processor { rule, filter, backend, alpha: Alpha::OnWhite, values })
    }

    fn resize(&mut self, kind: Kind, crop: Option<(usize, usize)>) -> Result<Rule, ConfigError> {
        let edge = match self.left.get("size") {
            Some(Value::Object(size)) if size.contains_key("shortest_edge") => {
                let mut size = Fields { left: size.clone() };
                let edge = size.whole("shortest_edge", 224, 1..=LONGEST)?;
                size.nothing_left()?;
                self.left.remove("size");
                Some(edge)
            }
            Some(Value::Number(_)) if kind == Kind::Bit => Some(self.whole("size", 224, 1..=LONGEST)?),
            None | Some(Value::Null) if kind == Kind::Bit => Some(224),
            _ => None,
        };
        let fixed = self.height_and_width("size", 224)?.unwrap_or((224, 224));
        Ok(match (self.flag("do_resize", true)?, edge, crop) {
            (false, _, crop) => Rule::Unchanged { crop },
            (true, Some(edge), crop) => Rule::ShortestEdge { edge, crop },
            (true, None, Some(crop)) if crop != fixed => {
                return Err(wrong("crop_size", &vec![crop.0, crop.1].into(), "the same as `size`"));
            }
            (true, None, _) => Rule::Fixed { height: fixed.0, width: fixed.1 },
        })
    }

    fn patches(&mut self, crops: bool) -> Result<Rule, ConfigError> {
        if crops {
            return Err(wrong("do_center_crop", &true.into(), "false"));
        }
        if !self.flag("do_resize", true)? {
            return Err(wrong("do_resize", &false.into(), "true"));
        }
        let mut size = match self.left.remove("size") {
            None | Some(Value::Null) => Fields { left: Map::new() },
            Some(Value::Object(left)) => Fields { left },
            Some(other) => return Err(wrong("size", &other, "an object with shortest_edge and longest_edge")),
        };
        let pixels = 1..=usize::MAX >> 1;
        let fewest = size.whole("shortest_edge", 56 * 56, pixels.clone())?;
        let most = size.whole("longest_edge", 28 * 28 * 1280, pixels.clone())?;
        size.nothing_left()?;
        let rule = Rule::Patches {
            patch: self.whole("patch_size", 14, 1..=LONGEST)?,
            merge: self.whole("merge_size", 2, 1..=64)?,
            frames: self.whole("temporal_patch_size", 2, 1..=64)?,
            min_pixels: self.whole("min_pixels", fewest, pixels.clone())?,
            max_pixels: self.whole("max_pixels", most, pixels)?,
        };
        Ok(rule)
    }

    fn flag(&mut self, key: &str, otherwise: bool) -> Result<bool, ConfigError> {
        self.take(key, otherwise, "true or false", Value::as_bool)
    }

    fn number(&mut self, key: &str, otherwise: f64) -> Result<f64, ConfigError> {
        let number = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x != 0.0);
        self.take(key, otherwise, "a number other than zero", number)
    }

    fn whole(
        &mut self,
        key: &str,
        otherwise: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n));
        self.take(key, otherwise, "a whole number in its range", number)
    }

    /// Three numbers, or one for all channels. Of a deviation none may be zero, and of a mean it does not matter.
    fn channels(&mut self, key: &str, otherwise: [f64; 3]) -> Result<[f64; 3], ConfigError> {
        let fits = |x: &f64| x.is_finite() && (key != "image_std" || *x != 0.0);
        let channels = |value: &Value| match value {
            Value::Array(all) => {
                let all: Vec<f64> = all.iter().filter_map(Value::as_f64).filter(fits).collect();
                all.try_into().ok()
            }
            one => one.as_f64().filter(fits).map(|x| [x; 3]),
        };
        self.take(key, otherwise, "three numbers", channels)
    }

    /// `{height, width}`, or one number for both.
    fn height_and_width(&mut self, key: &str, otherwise: usize) -> Result<Option<(usize, usize)>, ConfigError> {
        match self.left.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(left)) => {
                let mut size = Fields { left };
                let sides =
                    (size.whole("height", otherwise, 1..=LONGEST)?, size.whole("width", otherwise, 1..=LONGEST)?);
                size.nothing_left()?;
                Ok(Some(sides))
            }
            Some(other) => {
                let side = other.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=LONGEST).contains(n));
                let side = side.ok_or_else(|| wrong(key, &other, "a height and a width"))?;
                Ok(Some((side, side)))
            }
        }
    }

    fn take<T>(
        &mut self,
        key: &str,
        otherwise: T,
        wanted: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, ConfigError> {
        match self.left.remove(key) {
            None | Some(Value::Null) => Ok(otherwise),
            Some(value) => read(&value).ok_or_else(|| wrong(key, &value, wanted)),
        }
    }

    fn nothing_left(&self) -> Result<(), ConfigError> {
        let unknown = |(key, value): &(&String, &Value)| !value.is_null() && !HARMLESS.contains(&key.as_str());
        match self.left.iter().find(unknown) {
            Some((key, _)) => Err(ConfigError::UnknownKey(key.clone())),
            None => Ok(()),
        }
    }
}

fn wrong(key: &str, value: &Value, wanted: &'static str) -> ConfigError {
    ConfigError::Value { key: key.into(), value: value.to_string(), wanted }
}
