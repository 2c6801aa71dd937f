"""Writes examples/comparisons.jsonl: questions that ask which of two things is heavier, faster, hotter or larger.

    python3 examples/make_data.py > examples/comparisons.jsonl
"""

import itertools
import json
import random

# Each list is in rising order.
ORDERS = {
    "heavier": ["a feather", "a coin", "an apple", "a brick", "a bicycle", "a piano", "a truck", "a ship"],
    "faster": ["a snail", "a tortoise", "a jogger", "a horse", "a train", "a jet plane", "a rocket"],
    "hotter": ["an ice cube", "cold milk", "a warm bath", "boiling soup", "a candle flame", "molten iron", "the sun"],
    "larger": ["a grain of sand", "a pea", "a football", "a car", "a house", "a stadium", "a mountain", "the moon"],
}

rows = []
for quality, things in ORDERS.items():
    for low, high in itertools.combinations(things, 2):
        for first, second in ((low, high), (high, low)):
            prompt = f"Question: Which is {quality}, {first} or {second}?\nAnswer:"
            rows.append({"prompt": prompt, "completion": f"{high[0].upper()}{high[1:]} is {quality} than {low}."})
random.Random(0).shuffle(rows)
for row in rows:
    print(json.dumps(row))
