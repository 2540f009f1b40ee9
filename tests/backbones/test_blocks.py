import pytest
import timm
import torch
from tapetum.backbones.blocks import blocks
from tapetum.errors import ConfigError
from torch import nn

# From the papers: blocks a stage, and the stem in front of them.
COUNTS = {
    "efficientnet_b0": 1 + 1 + 2 + 2 + 3 + 3 + 4 + 1,
    "resnet50": 1 + 3 + 4 + 6 + 3,
    "vit_tiny_patch16_224": 1 + 12,
    "convnext_atto": 1 + 2 + 2 + 6 + 2,
    "swin_tiny_patch4_window7_224": 1 + 2 + 2 + 6 + 2,
    "densenet121": 1 + 6 + 12 + 24 + 16,  # a transition counts with the layer before it
}


def tower(name):
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


@pytest.mark.parametrize("name", COUNTS)
def test_blocks_are_those_of_the_paper_and_hold_every_parameter_once(name):
    model = tower(name)
    found = blocks(model)
    assert len(found) == COUNTS[name]
    assert sorted(one for names in found for one in names) == sorted(n for n, _ in model.named_parameters())


def test_the_last_block_holds_what_stands_behind_it_and_the_first_is_the_stem():
    vit = blocks(tower("vit_tiny_patch16_224"))
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(vit[0])
    assert {"blocks.11.mlp.fc2.weight", "norm.weight"} <= set(vit[-1])
    convnext = blocks(tower("convnext_atto"))
    assert {"stages.3.blocks.1.mlp.fc2.weight", "head.norm.weight"} <= set(convnext[-1])


def test_the_blocks_of_a_sequential_are_its_children_with_parameters():
    found = blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2, bias=False))))
    assert found == [["0.weight", "0.bias"], ["2.0.weight"]]


def test_a_module_that_names_no_blocks_is_refused():
    with pytest.raises(ConfigError, match=r"TransformerEncoderLayer does not say what its blocks are"):
        blocks(nn.TransformerEncoderLayer(4, 2))
