"""Writes rendered.json: what transformers 5.23 makes of chat templates in five styles, for the tests beside it.

Run in this folder: python make_rendered.py
"""

import json

from transformers.utils.chat_template_utils import render_jinja_template

# The templates, by name.
T = {}
T['marked_lines']="""{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|begin|>system\\nBe brief.<|end|>\\n' }}
    {%- endif %}
    {{- '<|begin|>' + message.role + '\\n' + message.content | trim + '<|end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|begin|>assistant\\n' }}
{%- endif %}
"""
T['bracketed']="""{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}{% else %}{% set system = none %}{% set turns = messages %}{% endif %}{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and assistant must alternate') }}{% endif %}{% if message['role'] == 'user' %}{% if loop.first and system is not none %}{{ '[ASK] (' + system + ') ' + message['content'].strip() + ' [/ASK]' }}{% else %}{{ '[ASK] ' + message['content'].strip() + ' [/ASK]' }}{% endif %}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
T['headers']="""{%- macro header(role) %}
{{- '<<' ~ role | upper ~ '>>\\n\\n' }}
{%- endmacro %}
{%- set ns = namespace(count=0, last=none) %}
{{- bos_token }}
{%- if tools is not none %}tools: {{ tools | tojson }}{% endif %}
{% for message in messages if message.role != 'note' %}
  {% if message.content.startswith('skip') %}
    {% continue %}
  {% endif %}
  {% set ns.count = ns.count + 1 %}
  {% set ns.last = message.role %}
{{ header(message.role) }}{{ message.content.split('</plan>')[-1].lstrip('\\n') }}<<end>>
{% endfor %}
{% if add_generation_prompt and ns.last != 'assistant' %}
{{ header('assistant') -}}
{% endif %}
"""
T['json']="""{% for message in messages %}
{{ {'from': message['role'], 'text': message['content'], 'n': loop.index, 'last': loop.last, 'none': none} | tojson }}
{% endfor %}
{{ messages | length }} {{ messages | map(attribute='role') | join('/') }} {{ tools is none }} {{ add_generation_prompt }}
{{ messages[-1] | tojson(indent=2) }}
{% if eos_token is defined %}{{ eos_token }}{% endif %}
{% if pad_token is defined %}{{ pad_token }}{% endif %}"""
T['generation']="""{% for message in messages %}
    {% if message.role == 'assistant' %}
A: {% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}

    {% else %}
Q: {{ message.content.replace('\\t', ' ') | title }}
    {%- endif %}

{%- endfor %}
{% if add_generation_prompt %}

A: {% endif %}"""
# The conversations.
C = [
 [dict(role='user',content='How warm is it?')],
 [dict(role='system',content='Answer in one word.'),dict(role='user',content='  Which colour has a "ripe" <tomato> & \'leaf\'?\n'),dict(role='assistant',content='red'),dict(role='user',content='und der Käse 🧀?'),dict(role='assistant',content='plan it</plan>\n\ngelb ')],
 [dict(role='user',content='skip\tthis'),dict(role='assistant',content='two\nlines\n'),dict(role='user',content='')],
]
SPECIAL = dict(bos_token="<s>", eos_token="</s>")

rendered = {}
for name, template in T.items():
    for number, conversation in enumerate(C):
        for prompt in (False, True):
            texts, _ = render_jinja_template(
                [conversation], chat_template=template, add_generation_prompt=prompt, **SPECIAL
            )
            rendered[f"{name}.{number}.{int(prompt)}"] = texts[0]
with open("rendered.json", "w") as file:
    json.dump(dict(templates=T, conversations=C, rendered=rendered), file, indent=1, ensure_ascii=False)
    file.write("\n")
