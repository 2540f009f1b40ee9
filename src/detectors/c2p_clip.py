"""C2P-CLIP (Tan et al., "C2P-CLIP: Injecting Category Common Prompt in CLIP to Enhance Generalization in
Deepfake Detection", AAAI 2025), for prediction.

CLIP's image tower was tuned with LoRA towards captions that name the category, and the update merged into
its weights: what is published is UnivFD with a tower of its own and features that are normalised before the
linear layer. The training code is not published.
Files are those of chuangchuangtan/C2P-CLIP-DeepfakeDetection; the release is a zip archive around one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import clip, freezing, stages
from ..backbones.weights import Published, check_loaded, expect_weights
from ..images.geometry import InputSpec
from ..images.normalize import CLIP, Normalize

LARGE = "openai/clip-vit-large-patch14"


class C2PCLIP(freezing.KeepsFrozen):
    """A linear layer on the normalised features of the published tower, 303,966,977 parameters on ViT-L/14.

    backbone: a CLIP on the hub, or a directory with one, of the published file's architecture:
        `openai/clip-vit-large-patch14`. Only its config is read: the file holds tower and layer.

    Images are scaled to the side that the tower takes (224) along their shorter side, bilinearly, and cropped
    in the centre.
    """

    published = (
        # Older versions of transformers stored the numbers of the positions.
        Published("model.vision_model.", drop=("model.vision_model.embeddings.position_ids",)),
    )

    def __init__(self, *, backbone: str = LARGE) -> None:
        super().__init__()
        self.model = clip.create_vision(backbone, pretrained=False)
        config: Any = self.model.config
        side = config.image_size
        self.input_spec = InputSpec(size=(side, side), resize="shortest", crop=(side, side), strict=True)
        self.normalize = Normalize(*CLIP)
        freezing.freeze(self.model)
        self.model.fc = nn.Linear(config.projection_dim, 1)
        expect_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] -> logits float32 [B].

        Raises CheckpointError as long as no weights were loaded: there is no other way to get any.
        """
        check_loaded(self)
        parts = stages.ClipStages(self.model)
        features = stages.below(parts, self.normalize(images), len(parts.blocks) + 2)
        fc: Any = self.model.fc
        logits: Tensor = fc(F.normalize(features, dim=-1)).float()
        return logits.squeeze(1)
