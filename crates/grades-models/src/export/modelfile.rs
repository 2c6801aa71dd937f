//! The `Modelfile` from which `ollama create` makes a model. Ollama reads the chat template from the GGUF file.

use std::collections::BTreeSet;

use serde_json::Value;

use super::metadata::ids;
use crate::tokenizer::Tokenizer;

pub(super) const NAME: &str = "Modelfile";

/// The text for a file beside it; what ends a text or a turn ends what is generated.
pub(super) fn text(file: &str, config: &Value, tokenizer: &Tokenizer) -> String {
    let ends = ids(config, "eos_token_id").into_iter().filter_map(|id| tokenizer.token(id));
    let ends: BTreeSet<String> = ends.chain(tokenizer.special_tokens().eos.clone()).collect();
    let stops = ends.iter().filter(|end| !end.contains(['"', '\n']));
    let stops: String = stops.map(|end| format!("PARAMETER stop \"{end}\"\n")).collect();
    format!("FROM ./{file}\n{stops}")
}
