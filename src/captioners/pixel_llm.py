"""Pixel LLM: a vision transformer and a causal text decoder that learn together, from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..backbones.bpe import check_vocabulary, tokenizer_of
from ..backbones.generation import Generated, Generation
from ..backbones.token_loss import TokenLoss
from ..errors import ConfigError
from ..images.geometry import InputSpec
from ..images.normalize import IMAGENET, Normalize
from .decoder import TextDecoder
from .tokens import CaptionEncoder, check_caption_length

Stem = Literal["patches", "convolutions"]


class PixelLLM(nn.Module):
    """Patches → transformer encoder (Dosovitskiy et al. 2021) → prefix of a GPT-2 (Radford et al. 2019).

    size: side of the image in pixels. patch_size: of a token; width, of image and text tokens alike.
    depth, decoder_depth: blocks of encoder and decoder. heads: of the attention in both.
    stem: `patches` maps every patch linearly, `convolutions` halves the image until a patch is one place
        (Xiao et al. 2021), which learns from fewer images.
    vocabulary: most tokens that are learnt from the training captions (`backbones.bpe`). tokenizer: the JSON
        of one that is learnt already; a run fills it in before it builds the network that it trains, and its
        checkpoints hold it. Without one there is a network for its shapes alone.
    dropout: in every block of both. gradient_checkpointing: activations of blocks are computed again on the
        way back. max_caption_length: tokens of a caption that are learnt from, EOS included.
    """

    def __init__(
        self,
        *,
        size: int = 224,
        patch_size: int = 16,
        width: int = 512,
        depth: int = 6,
        decoder_depth: int = 6,
        heads: int = 8,
        stem: Stem = "patches",
        vocabulary: int = 50_000,
        tokenizer: str | None = None,
        dropout: float = 0.1,
        gradient_checkpointing: bool = False,
        max_caption_length: int = 128,
    ) -> None:
        super().__init__()
        sizes = {"size": size, "patch_size": patch_size, "width": width, "heads": heads}
        _check({**sizes, "depth": depth, "decoder_depth": decoder_depth}, dropout)
        check_caption_length(max_caption_length)
        if tokenizer is None:
            check_vocabulary(vocabulary)
        self.input_spec = InputSpec((size, size), "squash")
        self.normalize = Normalize(*IMAGENET)
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = _stem(stem, patch_size, width)
        places = (size // patch_size) ** 2
        self.positions = nn.Parameter(torch.zeros(1, places, width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(_block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        encoder = None if tokenizer is None else CaptionEncoder(tokenizer_of(tokenizer), max_caption_length)
        self.decoder = TextDecoder(
            _gpt2(
                words=vocabulary if encoder is None else encoder.vocabulary,
                places=places + max_caption_length,
                width=width,
                depth=decoder_depth,
                heads=heads,
                dropout=dropout,
            ),
            encoder,
            gradient_checkpointing=gradient_checkpointing,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], uint8 or float in [0, 1] → float [B, (size / patch_size)**2, width]."""
        tokens = self.stem(self.normalize(images)).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        visual: Tensor = self.norm(tokens)
        return visual

    def encode_fn(self) -> CaptionEncoder | None:
        """Captions to ids, picklable and without weights; None as long as there is no tokenizer."""
        return self.decoder.encoder

    def check_generation(self, max_caption_length: int) -> None:
        """Raise ConfigError where captions of so many tokens are longer than any that are learnt from."""
        self.decoder.check_room(
            self.positions.shape[1],
            max_caption_length,
            "model.generation.max_new_tokens",
            f"model.net.max_caption_length={max_caption_length}",
        )

    def loss(self, visual: Tensor, inputs: dict[str, Tensor]) -> TokenLoss:
        """See `TextDecoder.loss`."""
        return self.decoder.loss(visual, inputs)

    def dry_step(self, images: Tensor, asked: int, answered: int) -> Tensor:
        """See `TextDecoder.dry_loss`: of a caption every token is learnt."""
        return self.decoder.dry_loss(self(images), asked + answered)

    def generate(self, visual: Tensor, generation: Generation) -> Generated:
        """See `TextDecoder.generate`."""
        return self.decoder.generate(visual, generation)


def _stem(stem: Stem, patch_size: int, width: int) -> nn.Module:
    """[B, 3, H, W] → [B, width, H / patch_size, W / patch_size]."""
    if stem == "patches":
        return nn.Conv2d(3, width, patch_size, patch_size)
    if stem != "convolutions":
        raise ConfigError(f"unknown value model.net.stem={stem}: patches, convolutions")
    halvings = patch_size.bit_length() - 1
    if 2**halvings != patch_size:
        raise ConfigError(
            f"model.net.patch_size={patch_size} is no power of two, which model.net.stem=convolutions halves "
            f"images by: type model.net.patch_size={2**halvings}, or model.net.stem=patches"
        )
    layers: list[nn.Module] = []
    channels = 3
    for number in range(halvings):
        wider = max(16, width // 2 ** (halvings - 1 - number))
        layers += [
            nn.Conv2d(channels, wider, 3, 2, 1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(inplace=True),
        ]
        channels = wider
    return nn.Sequential(*layers, nn.Conv2d(channels, width, 1))


def _block(width: int, heads: int, dropout: float) -> nn.Module:
    from timm.models.vision_transformer import Block

    block: nn.Module = Block(width, heads, qkv_bias=True, proj_drop=dropout, attn_drop=dropout)
    return block


def _gpt2(*, words: int, places: int, width: int, depth: int, heads: int, dropout: float) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config: Any = GPT2Config(
        vocab_size=words,
        n_positions=places,
        n_embd=width,
        n_layer=depth,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's own, in one step
        bos_token_id=None,
        eos_token_id=None,
    )
    model: nn.Module = GPT2LMHeadModel(config)
    return model


def _check(sizes: Mapping[str, int], dropout: float) -> None:
    problems = [f"model.net.{name}={value} must be at least 1" for name, value in sizes.items() if value < 1]
    if problems:
        raise ConfigError(problems)
    size, patch_size, width, heads = (sizes[name] for name in ("size", "patch_size", "width", "heads"))
    if size % patch_size:
        problems.append(
            f"model.net.size={size} is no multiple of model.net.patch_size={patch_size}: type "
            f"model.net.size={size // patch_size * patch_size or patch_size}"
        )
    if width % heads:
        problems.append(
            f"model.net.width={width} is no multiple of model.net.heads={heads}: type "
            f"model.net.width={max(1, round(width / heads)) * heads}"
        )
    if not 0 <= dropout < 1:
        problems.append(f"model.net.dropout={dropout} is no share: 0 to below 1")
    if problems:
        raise ConfigError(problems)
