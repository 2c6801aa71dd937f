"""Writes examples/preferences.jsonl: questions with an answer in one plain sentence, which is preferred, and one that goes on and on.

    python3 examples/make_preferences.py > examples/preferences.jsonl
"""

import json
import random

FACTS = [
    ("What do bees make?", "Bees make honey."),
    ("Where does rain come from?", "Rain comes from clouds."),
    ("What colour is grass?", "Grass is green."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("What do cows drink?", "Cows drink water."),
    ("What is ice made of?", "Ice is frozen water."),
    ("Which season comes after winter?", "Spring comes after winter."),
    ("What do we use to cut paper?", "We cut paper with scissors."),
    ("Where do fish live?", "Fish live in water."),
    ("What gives us light by day?", "The sun gives us light by day."),
    ("How many days does a week have?", "A week has seven days."),
    ("What do plants need to grow?", "Plants need light, water and soil."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("What do birds lay?", "Birds lay eggs."),
    ("Which animal barks?", "A dog barks."),
    ("What do you wear on your feet?", "You wear shoes on your feet."),
]
ASKED = ["{}", "Please tell me: {}", "I have a question. {}", "My daughter asks: {}"]
BEGUN = ["What a great question! ", "I am so glad that you asked me this! ", "Well, there is a lot to be said about that. "]
ENDED = [
    " But that is of course only a part of the story, and I could go on about it for hours and hours.",
    " I hope that this answer was helpful! Is there anything else that you would like me to explain to you today?",
    " As you can imagine, there are very many other things that one might say here, too, and I would love to say them all.",
]

draw = random.Random(0)
rows = []
for question, answer in FACTS:
    for asked in ASKED:
        prompt = [{"role": "user", "content": asked.format(question)}]
        long = draw.choice(BEGUN) + answer + draw.choice(ENDED)
        rows.append({"prompt": prompt, "chosen": [{"role": "assistant", "content": answer}],
                     "rejected": [{"role": "assistant", "content": long}]})
draw.shuffle(rows)
for row in rows:
    print(json.dumps(row))
