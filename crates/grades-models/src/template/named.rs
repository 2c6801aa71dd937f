//! Chat templates by name, for models without one: formats that many models share, each written here anew.

/// ChatML.
const CHATML: &str = r"
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
";

/// That of Llama 3, without tools.
const LLAMA3: &str = r"
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
";

/// That of Gemma, which calls the assistant `model`. It has no place for a system's message: as Gemma 3 does, that goes before the first
/// question.
const GEMMA: &str = r"
{{- bos_token }}
{%- set system = messages[0].content ~ '\n\n' if messages and messages[0].role == 'system' else '' %}
{%- for message in messages if message.role != 'system' %}
{%- set name = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + name + '\n' + (system if loop.first else '') + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
";

/// That of Phi-3.
const PHI_3: &str = r"
{%- for message in messages %}
{{- '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
";

/// The names, as in Axolotl, and their templates.
pub const NAMED: [(&str, &str); 4] = [("chatml", CHATML), ("llama3", LLAMA3), ("gemma", GEMMA), ("phi_3", PHI_3)];
