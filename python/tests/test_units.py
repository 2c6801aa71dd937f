"""Which matrices are found, and what they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradestop import GradES, GradESConfig, find_units

transformers = pytest.importorskip("transformers")


def names(model, **options):
    return [unit.name for unit in find_units(model, **options)]


def test_a_llama(tiny_llama):
    found = names(tiny_llama(1))
    assert found == [f"language.0.{role}" for role in ("q", "k", "v", "o", "gate", "up", "down")]


def test_fused_projections_are_ranges_of_rows():
    config = transformers.Phi3Config(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0
    )
    model = transformers.Phi3ForCausalLM(config)
    units = {unit.name: unit.parts[0] for unit in find_units(model)}
    assert list(units) == ["language.0.o", "language.0.q", "language.0.k", "language.0.v", "language.0.gate", "language.0.up", "language.0.down"]
    assert [(units[f"language.0.{r}"].start, units[f"language.0.{r}"].stop) for r in "qkv"] == [(0, 16), (16, 24), (24, 32)]
    assert (units["language.0.up"].start, units["language.0.up"].stop) == (24, 48)
    assert "language.0.qkv" in names(model, split_fused=False)


def test_gpt2_has_columns_in_place_of_rows():
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    units = {unit.name: unit.parts[0] for unit in find_units(transformers.GPT2LMHeadModel(config))}
    assert (units["language.1.k"].dim, units["language.1.k"].start, units["language.1.k"].stop) == (1, 16, 32)
    assert {"language.0.o", "language.0.fc1", "language.0.fc2"} < set(units)


def test_towers_by_the_paths_of_their_modules():
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
        ),
    )
    found = names(transformers.LlavaForConditionalGeneration(config))
    assert {"vision.0.q", "vision.0.proj", "vision.0.fc1", "language.0.q", "language.0.down"} < set(found)
    # The projector is none of a layer.
    assert len(found) == 6 + 7


def test_encoder_and_decoder_keep_their_names_apart():
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    found = names(transformers.T5ForConditionalGeneration(config))
    assert len(set(found)) == len(found) and any(name.startswith("encoder") for name in found)


def test_any_module_by_units():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match="units='all'"):
        find_units(net)
    assert len(names(net, units="all")) == 3
    assert names(net, units=["0", "2"]) == ["model.0.weight", "model.2.weight"]
    assert names(net, units={"stem": "0", "body.1.conv": "2"}) == ["model.0.stem", "body.1.conv"]
    assert len(names(net, units=lambda path: path == "4")) == 1
    net.scale = nn.Parameter(torch.ones(3))
    assert names(net, units={"scale": net.scale}) == ["model.0.scale"] and names(net, units=["scale"]) == ["model.0.scale"]
    with pytest.raises(ValueError, match="matches no module"):
        find_units(net, units=["nothing.*"])
    with pytest.raises(ValueError, match="no parameter of the model"):
        find_units(net, units={"x": nn.Parameter(torch.ones(1))})


def test_a_frozen_range_of_rows_stays_what_it_is():
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0
    )
    model = transformers.Phi3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    config = GradESConfig({"default": 0.999, "q": 1e-6, "gate": 1e-6}, signal="relative_gradient_change", alpha=0.0)
    stopper = GradES(model, optimizer, total_steps=20, config=config)
    qkv = model.model.layers[0].self_attn.qkv_proj.weight
    rows = torch.randint(1, 32, (20, 4, 8), generator=torch.Generator().manual_seed(1))
    for step, ids in enumerate(rows, 1):
        model(input_ids=ids, labels=ids).loss.backward()
        before = qkv.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        moved = [not torch.equal(qkv[a:b], before[a:b]) for a, b in ((0, 16), (16, 24), (24, 32))]
        # ρ of two different batches is above nearly nothing: q freezes as soon as there are two gradients.
        assert moved == [step == 1, True, True], step
    assert sorted(stopper.frozen) == ["language.0.gate", "language.0.q"] and qkv.requires_grad
    stopper.freezing.freeze([unit.parts[0] for unit in stopper.units if unit.name in ("language.0.k", "language.0.v")])
    stopper.freezing.settle(20, force=True)
    assert not qkv.requires_grad and qkv not in optimizer.state


def test_gains_of_ranges_are_told_apart():
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0
    )
    model = transformers.Phi3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5, eps=1e-6)
    stopper = GradES(model, optimizer, total_steps=20, epoch_steps=2)
    rows = torch.randint(1, 32, (3, 4, 8), generator=torch.Generator().manual_seed(1))
    moved = []
    for ids in rows:
        before = [unit.parts[0].of(unit.parts[0].parameter.detach()).double().clone() for unit in stopper.units]
        model(input_ids=ids, labels=ids).loss.backward()
        measured = stopper._measure(stopper.step + 1)
        if stopper.step > 0:
            for unit, change in zip(stopper.units, moved):
                (part,) = unit.parts
                expected = -(part.of(part.parameter.grad).double() * change).sum().item()
                assert measured.gains[part.parameter, part.start] == pytest.approx(expected, rel=2e-3, abs=1e-6), unit.name
        optimizer.step()
        optimizer.zero_grad()
        moved = [unit.parts[0].of(unit.parts[0].parameter.detach()).double() - old for unit, old in zip(stopper.units, before)]
