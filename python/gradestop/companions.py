"""What trains beside the matrices and follows them: norms by layer, and embeddings."""

from __future__ import annotations

from torch import nn

from .units import Part, Unit, clean

__all__ = ["Companions"]


class Companions:
    """What trains beside the matrices: norms by layer, and embeddings."""

    def __init__(self, model: nn.Module, units: list[Unit]) -> None:
        self._of_layer: dict[tuple[str, int], str] = {}
        for unit in units:
            tower, layer, _ = unit.name.split(".", 2)
            if unit.layer_path is not None:
                self._of_layer.setdefault((tower, int(layer)), unit.layer_path)
        self._model = model
        self._of_units = {part.parameter for unit in units for part in (*unit.parts, *unit.others)}
        self._embedding = self._embeddings(model)
        towers = dict.fromkeys(tower for tower, _ in self._of_layer)
        #: Every layer, and what comes before the layers of a tower, as (tower, layer or ``None``).
        self.layers: list[tuple[str, int | None]] = [*self._of_layer, *((tower, None) for tower in towers)]

    @staticmethod
    def _embeddings(model: nn.Module) -> nn.Parameter | None:
        of = getattr(model, "get_input_embeddings", None)
        head = getattr(model, "get_output_embeddings", lambda: None)
        try:
            embedding, head = (of() if of else None), head()
        except (NotImplementedError, AttributeError):
            return None
        weight = getattr(embedding, "weight", None)
        # Tied to the head it trains on there.
        return None if weight is getattr(head, "weight", None) else weight

    def parameters(self, tower: str, layer: int | None) -> list[nn.Parameter]:
        """All parameters of a layer, or of what comes before the layers."""
        if layer is None:
            return [self._embedding] if tower == "language" and self._embedding is not None else []
        path = self._of_layer.get((tower, layer))
        named = ((clean(name), parameter) for name, parameter in self._model.named_parameters())
        return [parameter for name, parameter in named if path is not None and name.startswith(f"{path}.")]

    def of(self, kind: str, tower: str, layer: int | None) -> list[Part]:
        """The tensors of a companion."""
        parameters = self.parameters(tower, layer if kind == "norms" else None)
        return [Part(kind, p) for p in parameters if p not in self._of_units and p.requires_grad]
