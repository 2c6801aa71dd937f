"""Norms measured in PyTorch against those of the method's own crate."""

from __future__ import annotations

import pytest
import torch

from gradestop import _core, measure


@pytest.mark.parametrize("norm", ["l1", "frobenius", "spectral", "inf", "one"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 4), (64, 129), (301, 997)])
def test_norms_equal_the_crates(norm, shape):
    generator = torch.Generator().manual_seed(0)
    now, before = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    crate = lambda t: _core.Policy.norm(norm, *shape, t.contiguous().numpy().tobytes())  # noqa: E731
    (found,) = measure.norms([now], norm)
    (change,) = measure.changes([measure.Pair(now, before, 0.5)], norm)
    # The crate's spectral norm is a power iteration.
    close = 1e-3 if norm == "spectral" else 2e-6
    assert measure.finish(found.item(), norm) == pytest.approx(crate(now), rel=close)
    assert measure.finish(change.item(), norm) == pytest.approx(crate(now - 0.5 * before), rel=close)


def test_convolutions_are_matrices_of_their_outputs():
    weight = torch.randn(4, 3, 2, 2)
    (found,) = measure.norms([weight], "inf")
    assert found.item() == pytest.approx(weight.reshape(4, -1).abs().sum(1).max().item())


def test_half_precision_is_summed_in_f32():
    ones = torch.ones(1000, 1000, dtype=torch.bfloat16)
    assert measure.finish(measure.norms([ones], "l1")[0].item(), "l1") == 1e6
    assert measure.finish(measure.norms([ones], "frobenius")[0].item(), "frobenius") == pytest.approx(1e3, rel=1e-6)


def test_changes_from_squares_and_products_are_those_of_differences():
    generator = torch.Generator().manual_seed(2)
    for shape in ((1, 1), (7, 13), (129, 65)):
        before = torch.randn(shape, generator=generator)
        for now in (torch.randn(shape, generator=generator), before + 0.5 * torch.randn(shape, generator=generator), 1.001 * before, before.clone()):
            for scale in (1.0, 2.5):
                now_square, before_square = measure.squares([now])[0], (scale * before).double().square().sum().item()
                told = measure.changes([measure.Pair(now, before / scale, scale**2, (now_square, before_square))], "frobenius")[0].item()
                exact = (now.double() - scale * before.double()).square().sum().item()
                assert told == pytest.approx(exact, rel=1e-5, abs=1e-9), (shape, scale)
