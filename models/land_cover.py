"""Base class of land-cover networks, which classify every image separately."""

from typing import ClassVar

from torch import Tensor, nn

from models.backbones import Backbone
from models.resampling import resize
from models.siamese import Network, pad_to_multiple
from utils.structures import Logits


class LandCoverNetwork(Network):
    """Predicts land-cover classes of every date separately, without change.

    Subclasses implement `classify`, the decoder of the backbone's maps.

    Args:
        backbone: processes all dates as one batch.
        num_classes: K > 0.
        with_change: must be False.
    """

    smallest_batch = 2
    align_corners: ClassVar[bool] = False  # in the last upsampling

    def __init__(self, backbone: Backbone, num_classes: int, with_change: bool = False):
        super().__init__()
        check_classes_only(type(self), num_classes, with_change)
        self.backbone = backbone

    @classmethod
    def tasks(cls, **options: object) -> tuple[str, ...]:  # noqa: D102
        return ("land_cover",)

    def classify(self, maps: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Logits (N, K, h, w) of the backbone's maps, and those of an auxiliary head or None."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Logits:
        """Images (B, T, C, H, W), normalised -> logits at full resolution, in float32.

        `aux_semantic` is given only in training, by networks with an auxiliary head.
        """
        height, width = images.shape[-2:]
        folded = pad_to_multiple(images.flatten(0, 1), self.backbone.size_multiple)
        semantic, aux = self.classify(self.backbone(folded))

        def upsample(logits: Tensor) -> Tensor:  # (B * T, K, h, w) -> (B, T, K, H, W)
            full = resize(logits.float(), folded.shape[-2:], self.align_corners)
            return full[..., :height, :width].unflatten(0, images.shape[:2])

        return Logits(upsample(semantic), aux_semantic=None if aux is None else upsample(aux))


def check_classes_only(kind: type[nn.Module], num_classes: int, with_change: bool) -> None:
    """Raises ValueError unless a semantic head and no change head is requested."""
    if not num_classes or with_change:
        raise ValueError(
            f"{kind.__name__} has a semantic head only, got num_classes={num_classes} and "
            f"with_change={with_change}; pass num_classes > 0 and with_change=False"
        )
