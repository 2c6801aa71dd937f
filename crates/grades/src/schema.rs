//! What options accept that are read by rules of their own, as JSON Schemas by hand.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::preset::Preset;
use crate::threshold::Tau;
use crate::unit::UnitId;

impl JsonSchema for Tau {
    fn schema_name() -> Cow<'static, str> {
        "Tau".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let presets = Preset::ALL.iter().map(Preset::name);
        let words: Vec<&str> = ["auto"].into_iter().chain(presets).collect();
        json_schema!({
            "anyOf": [
                { "description": "One for all matrices.", "type": "number" },
                // Some readers of YAML take 1e-3 for text.
                { "description": "The same.", "type": "string", "pattern": "^[0-9.]+[eE][+-]?[0-9]+$" },
                { "description": "None to choose, or one that the paper published.", "enum": words },
                {
                    "description": "By default, tower, kind, role or pattern of names.", "type": "object",
                    "additionalProperties": { "type": "number" },
                },
            ],
        })
    }
}

impl JsonSchema for UnitId {
    fn schema_name() -> Cow<'static, str> {
        "UnitId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A matrix, such as language.0.q.", "type": "string" })
    }
}
