//! What options accept that are read by rules of their own, as JSON Schemas by hand.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::averaging::Averaging;
use super::hub::HubStrategy;
use super::interruptions::Resume;
use super::learning_rate::LearningRate;
use super::lora::TargetModules;
use super::machine::Threads;
use super::model::Model;
use super::optimizer::Optimizer;
use super::report_to::{ReportTo, Tracker};
use super::save_steps::SaveSteps;
use super::save_strategy::{BestMetric, SaveStrategy};
use super::size::ByteSize;
use super::sources::Shares;
use crate::data::MixStrategy;
use crate::data::split::CountOrShare;
use crate::schedule::LrScheduler;
use crate::train::average::WeightAverage;
use crate::train::outputs::Place;

/// Schemas of types, each from a generator for what it is made of.
macro_rules! by_hand {
    ($($type:ident = |$generator:ident| $schema:expr;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )+};
}

by_hand! {
    Model = |_generator| json_schema!({
        "anyOf": [
            { "description": "A folder, a GGUF file, or a model of the Hub.", "type": "string" },
            {
                "description": "The parts of a new model.", "type": "object", "additionalProperties": false,
                "properties": { "config": { "type": "string" }, "tokenizer": { "type": "string" } },
                "required": ["config", "tokenizer"],
            },
            {
                "description": "The two GGUF files of a model that reads pictures.", "type": "object",
                "additionalProperties": false,
                "properties": { "path": { "type": "string" }, "mmproj": { "type": "string" } },
                "required": ["path", "mmproj"],
            },
        ],
    });
    LearningRate = |_generator| json_schema!({ "anyOf": [{ "type": "number", "minimum": 0 }, { "const": "auto" }] });
    TargetModules = |_generator| json_schema!({
        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
    });
    Optimizer = |_generator| json_schema!({
        "enum": [
            "adamw", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "lion", "lion_32bit",
            "lion_pytorch", "muon", "sgd",
        ],
    });
    LrScheduler = |_generator| json_schema!({
        "enum": [
            "cosine", "linear", "constant", "constant_with_warmup", "warmup_stable_decay", "cosine_with_min_lr", "polynomial",
            "inverse_sqrt",
        ],
    });
    BestMetric = |_generator| json_schema!({ "enum": ["eval_loss", "loss", "val_loss", "train_loss"] });
    // `no` and `off` are false to some readers of YAML.
    SaveStrategy = |_generator| json_schema!({ "enum": ["steps", "epoch", "best", "no", false] });
    Place = |_generator| json_schema!({ "enum": ["off", "memory", "disk", false] });
    Averaging = |generator| json_schema!({
        "anyOf": [{ "enum": ["auto", "none", false] }, generator.subschema_for::<WeightAverage>()],
    });
    ByteSize = |_generator| json_schema!({
        "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9.]+ *(B|kB|KB|MB|GB|KiB|MiB|GiB)$" },
        ],
    });
    Threads = |_generator| json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "auto" }] });
    HubStrategy = |_generator| json_schema!({ "enum": ["end", "every_save", "checkpoint", "all_checkpoints"] });
    ReportTo = |generator| {
        let tracker = generator.subschema_for::<Tracker>();
        json_schema!({ "anyOf": [{ "enum": ["none", false] }, tracker, { "type": "array", "items": tracker }] })
    };
    SaveSteps = |_generator| json_schema!({
        "anyOf": [
            { "description": "A count, or a share of all steps.", "type": "number", "exclusiveMinimum": 0 },
            { "description": "The steps.", "type": "array", "items": { "type": "integer", "minimum": 1 } },
        ],
    });
    MixStrategy = |_generator| json_schema!({
        "enum": [
            "concat", "interleave_under", "under", "first_exhausted", "interleave_over", "over", "all_exhausted",
        ],
    });
    Shares = |_generator| json_schema!({
        "anyOf": [
            { "type": "array", "items": { "type": "number" } },
            { "description": "Numbers with commas between them.", "type": "string" },
        ],
    });
    Resume = |_generator| json_schema!({ "anyOf": [{ "const": true }, { "type": "string" }] });
    CountOrShare = |_generator| json_schema!({ "type": "number", "minimum": 0 });
}
