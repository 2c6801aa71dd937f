"""Writes rendered.json: what transformers 5.24 makes of chat templates, for the tests beside it.

    python make_rendered.py

With other people's templates, which stay outside of the repository, and conversations drawn for them:

    python make_rendered.py --templates FOLDER --count 300 --out FILE
    GRADES_RENDERED=FILE cargo test --release -p grades-models template::tests::templates_of_others -- --nocapture
"""

import argparse
import json
import random
from pathlib import Path

from transformers.utils.chat_template_utils import _normalize_chat_messages, render_jinja_template

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
# Writes thoughts only behind the last question, as reasoning models do, and several tools' answers as one turn.
T['thinking']="""{%- set ns = namespace(asked=messages | length - 1, open=true) %}
{%- for message in messages[::-1] %}
    {%- if ns.open and message.role == 'user' and message.content is string and not message.content.startswith('{got}') %}
        {%- set ns.asked = messages | length - 1 - loop.index0 %}
        {%- set ns.open = false %}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ '[system]tools:' }}{% for tool in tools %}{{ '\\n' ~ tool | tojson }}{% endfor %}{{ '[end]\\n' }}{% endif %}
{%- for message in messages %}
    {%- set said = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '{/t}' in said %}
            {%- set thought = said.split('{/t}')[0].rstrip('\\n').split('{t}')[-1].lstrip('\\n') %}
            {%- set said = said.split('{/t}')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '[assistant]' }}
        {%- if loop.index0 > ns.asked and (loop.last or thought) %}{{ '{t}' + thought.strip('\\n') + '{/t}' }}{% endif %}
        {{- said }}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{% set call = call.function %}{% endif %}
            {{- '{call}' ~ call.name ~ ':' ~ (call.arguments if call.arguments is string else call.arguments | tojson) }}
        {%- endfor %}
        {{- '[end]\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '[user]' }}{% endif %}
        {{- '{got}' ~ said }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '[end]\\n' }}{% endif %}
    {%- else %}
        {{- '[' ~ message.role ~ ']' ~ said ~ '[end]\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant]' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '{t}{/t}' }}{% endif %}
{%- endif %}"""
# Tools and the system's message go before the last question; calls lose their brace and get an id.
T['last_question']="""{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set said = messages[1:] %}
{%- else %}
    {%- set said = messages %}
{%- endif %}
{%- set questions = said | selectattr("role", "equalto", "user") | list %}
{%- for message in said | rejectattr("role", "equalto", "tool") | selectattr("tool_calls", "undefined") %}
    {%- if message.role not in ["user", "assistant", "system"] %}{{ raise_exception("no such role: " ~ message.role) }}{% endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in said %}
    {%- if message.role == "user" %}
        {%- if tools is not none and message == questions[-1] %}
            {{- "[TOOLS]" }}
            {%- for tool in tools %}
                {%- for key, value in tool.function.items() if key != "return" %}
                    {{- "'" + key + "'=" + (value if value is string else value | tojson) + ("" if loop.last else ";") }}
                {%- endfor %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system is defined %}{{ "[Q]" + system + "\\n\\n" + message.content + "[/Q]" }}
        {%- else %}{{ "[Q]" + message.content + "[/Q]" }}{% endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {%- for call in message.tool_calls %}
            {%- set out = call.function | tojson %}
            {{- "[CALL]" ~ out[:-1] ~ ', "id": "' ~ (call.id or "")[-3:] ~ '"}' }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == "assistant" %}
        {{- " " + message.content | trim + eos_token }}
    {%- else %}
        {{- "[GOT]" ~ message.content | string ~ "[/GOT]" }}
    {%- endif %}
{%- endfor %}"""
# Contents in parts, another name for the assistant, the system's message before the first question; the header is within the tags.
T['parts']="""{{ bos_token }}
{%- set first = '' %}
{%- set rest = messages %}
{%- if messages[0].role == 'system' %}
    {%- set first = (messages[0].content if messages[0].content is string else messages[0].content[0].text) + '\\n\\n' %}
    {%- set rest = messages[1:] %}
{%- endif %}
{%- for message in rest %}
    {%- set name = 'model' if message['role'] == 'assistant' else message['role'] %}
    {%- set body %}
        {%- if message.content is string %}
            {{- message.content | trim }}
        {%- elif message.content is sequence and message.content is not mapping %}
            {%- for part in message.content %}
                {%- if part.type == 'image' %}{{ '<picture>' }}{% elif part.type == 'text' %}{{ part['text'] | trim }}{% endif %}
            {%- endfor %}
        {%- elif message.content is none %}
            {{- '-' }}
        {%- else %}
            {{- raise_exception('no such content') }}
        {%- endif %}
    {%- endset %}
    {%- if name == 'model' -%}
        {% generation -%}
        {{ '<' ~ name ~ '>\\n' ~ body ~ '</>\\n' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<' + name + '>\\n' + (first if loop.first else '') + body + '</>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<model>\\n' }}{% endif %}"""
# What Python prints, and its methods.
T['python']="""{%- macro described(value, depth=0) %}
    {%- if value is mapping %}
        {%- for key, item in value | dictsort %}{{ '\\n' ~ ' ' * depth ~ key ~ ':' ~ described(item, depth + 1) }}{% endfor %}
    {%- elif value is string %}{{ value | replace('\\n', '|') }}
    {%- elif value is iterable %}{% for item in value %}{{ described(item, depth) ~ ',' }}{% endfor %}
    {%- else %}{{ value }}{% endif %}
{%- endmacro %}
{%- set facts = dict(tenth=0.1, whole=2.0, small=0.00001, large=1e20, many=123456789012345680.0, no=none, yes=true) %}
{{ facts }} {{ facts | tojson }}
{{ [1, 'it\\'s', "a 'b' \\"c\\"", 'é\\n', [none, false], {'k': -1.5}] }} {{ 3 | string ~ none | string ~ facts.no | string }}
{% for message in messages %}
{% set said = message.content if message.content is string else '' %}
{{ loop.index0 }}/{{ loop.length }} {{ loop.first }} {{ loop.previtem.role if loop.previtem is defined else '-' }} {{ loop.cycle('a', 'b') }}
{{ said.rsplit('e', 1) | length }} {{ said.partition(' ')[2] }} {{ said.rpartition('\\n')[0] }} {{ said.removeprefix('pl') }} {{ said.removesuffix(' ') }}
{{ said.find('e') }} {{ said.count('e') }} {{ said.splitlines() | length }} {{ said.split() | join('_') }} {{ said.endswith('?') }} {{ said[:3] }} {{ said[-4:] }}
{{ said is sequence }} {{ said | length }} {{ said | upper }} {{ said.title() }} {{ said.strip('? ').capitalize() }} {{ message.get('name', 'nobody') }} {{ 'name' in message }}
{{ message.keys() | list }} {{ message.items() | list | length }} {{ described(message) }}
{% endfor %}
{{ messages | map(attribute='role') | unique | list }} {{ messages | groupby('role') | map('first') | list }} {{ range(3) | list }} {{ (messages | first).role }}
{{ messages | selectattr('role', 'in', ['user']) | map(attribute='content') | list }} {{ tools | tojson(indent=4) }} {{ {'é': [1, 2]} | tojson(ensure_ascii=true) }} {{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}
{{ missing is defined }}{{ missing }} {{ missing | default('d') }} {{ '' | default('e', true) }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ strftime_now('%%') }} {{ strftime_now is defined }}
{{ 'a' if messages | length > 2 }} {{ "%s is %d" | format('x', 3) }} {{ ('a', 'b') | join }} {{ [3, 1, 2] | sort | first }} {{ 'ab' * 2 }} {{ 'b' in 'abc' }} {{ not none }}"""
# Thoughts and answers apart, within and outside of the tags; an answer that is only a call.
T['channels']="""{%- set last = messages | length - 1 -%}
{%- set ns = namespace(turns=0) -%}
{% for message in messages -%}
    {% if message.role == 'assistant' -%}
        <start>assistant
        {%- generation %}
            {%- set ns.turns = ns.turns + 1 %}
            {%- if message.reasoning_content and loop.index0 == last %}<think>{{ message.reasoning_content }}{% endif %}
            {%- for call in message.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}
            {%- if message.content %}<final>{{ message.content }}{% endif -%}
            <return>
        {%- endgeneration -%}
    {%- else -%}
        <start>{{ message.role }}<message>{{ message.content }}<end>
    {%- endif -%}
{% endfor -%}
{% if add_generation_prompt %}<start>assistant{% endif %}{{ ns.turns }} {{ tools is iterable }} {{ missing is iterable }}"""
W = dict(type="function", function=dict(name="weather", description="How it is", parameters=dict(
    type="object", properties=dict(city=dict(type="string", enum=["Oslo", "Rome"])), required=["city"])))
A = lambda **more: dict(role="assistant", **more)
# The conversations.
C = [
 [dict(role='user',content='How warm is it?')],
 [dict(role='system',content='Answer in one word.'),dict(role='user',content='  Which colour has a "ripe" <tomato> & \'leaf\'?\n'),dict(role='assistant',content='red'),dict(role='user',content='und der Käse 🧀?'),dict(role='assistant',content='plan it</plan>\n\ngelb ')],
 [dict(role='user',content='skip\tthis'),dict(role='assistant',content='two\nlines\n'),dict(role='user',content='')],
 [dict(role='user',content='a'),A(content='b',reasoning_content='\nhm\n'),dict(role='user',content='c'),A(content='{t}so\n{/t}\n\nd')],
]
# And those with more than texts.
M = [
 dict(messages=[dict(role='user',content='Warm?'),A(content=None,tool_calls=[dict(id='abcdef123',type='function',function=dict(name='weather',arguments=dict(city='Oslo',days=[1,2.5],é=None)))]),dict(role='tool',name='weather',content='{"t": 3}',tool_call_id='abcdef123'),A(content='Cold.',reasoning_content='three')],tools=[W]),
 dict(messages=[dict(role='system',content='Use tools.'),dict(role='user',content='Both?'),A(content='Let me see.',tool_calls=[dict(id='a23456789',type='function',function=dict(name='weather',arguments='{"city": "Rome"}')),dict(id='b23456789',type='function',function=dict(name='weather',arguments={}))]),dict(role='tool',content='1'),dict(role='tool',content='2'),A(content='1 and 2'),dict(role='user',content='Thanks')],tools=[W],enable_thinking=False),
 dict(messages=[dict(role='user',content=[dict(type='image'),dict(type='text',text=' What? ')]),A(content=[dict(type='text',text='A box.')])]),
]
SPECIAL = dict(bos_token="<s>", eos_token="</s>")


def rendered(name, template, conversation, prompt):
    """The text, with the bytes within `{% generation %}` where there is such a tag; None if the template refuses."""
    # As `apply_chat_template` shows them to the template.
    messages, tools = _normalize_chat_messages(conversation["messages"]), conversation.get("tools")
    variables = {key: value for key, value in conversation.items() if key not in ("messages", "tools")}
    tagged = "endgeneration" in template
    try:
        texts, spans = render_jinja_template(
            [messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
            return_assistant_tokens_mask=tagged, **SPECIAL, **variables
        )
    except Exception as error:
        return dict(text=None, reason=f"{type(error).__name__}: {error}")
    bytes_before = lambda characters: len(texts[0][:characters].encode())
    spans = [[bytes_before(begin), bytes_before(end)] for begin, end in spans[0]] if tagged else None
    return dict(text=texts[0], generated=spans)


def text(draw):
    words = ["Oslo", "warm", "is", "the", "why", "né", "🧀", "3.5", "\n", "\n\n", " ", "'x'", '"y"', "<b>", "&", "a\tb", "{z}"]
    said = " ".join(draw.choices(words, k=draw.randint(1, 9)))
    return draw.choice([said, said, said + "\n", "\n " + said, said + "?"])


def drawn(draw):
    """A conversation: a system's message or none, questions, answers with thoughts, calls of tools and what they give."""
    tooled = draw.random() < 0.4
    messages = [dict(role="system", content=text(draw))] if draw.random() < 0.5 else []
    for turn in range(draw.randint(1, 4)):
        messages.append(dict(role="user", content=text(draw)))
        for step in range(draw.randint(1, 2) if tooled else 0):
            ids = ["".join(draw.choices("abc123", k=9)) for _ in range(draw.randint(1, 2))]
            value = lambda: draw.choice([1, 2.5, None, True, text(draw), [1, "b"], {"k": text(draw)}])
            arguments = lambda: {f"a{i}": value() for i in range(draw.randint(0, 2))}
            calls = [dict(id=one, type="function", function=dict(name="weather", arguments=arguments())) for one in ids]
            said = draw.choice([None, "", text(draw)])
            messages.append(A(content=said, tool_calls=calls))
            if draw.random() < 0.4:
                messages[-1]["reasoning_content"] = text(draw)
            messages += [dict(role="tool", name="weather", tool_call_id=one, content=text(draw)) for one in ids]
        answer = A(content=text(draw))
        if draw.random() < 0.3:
            answer["reasoning_content"] = text(draw)
        elif draw.random() < 0.3:
            answer["content"] = f"<think>\n{text(draw)}\n</think>\n\n{text(draw)}"
        messages.append(answer)
    if draw.random() < 0.25:
        messages.pop()
    conversation = dict(messages=messages)
    if tooled or draw.random() < 0.1:
        conversation["tools"] = [W]
    if draw.random() < 0.3:
        conversation["enable_thinking"] = draw.random() < 0.5
    return conversation


parser = argparse.ArgumentParser()
parser.add_argument("--templates", type=Path)
parser.add_argument("--count", type=int, default=300)
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "rendered.json")
options = parser.parse_args()
if options.templates:
    T = {file.stem: file.read_text() for file in sorted(options.templates.glob("*.jinja"))}
    all_of_them = [drawn(random.Random(seed)) for seed in range(options.count)]
else:
    all_of_them = [dict(messages=messages) for messages in C] + M
with open(options.out, "w") as file:
    cases = [
        dict(template=name, conversation=number, prompt=prompt, **rendered(name, template, conversation, prompt))
        for name, template in T.items()
        for number, conversation in enumerate(all_of_them)
        for prompt in (False, True)
    ]
    json.dump(dict(templates=T, conversations=all_of_them, cases=cases), file, indent=1, ensure_ascii=False)
    file.write("\n")
