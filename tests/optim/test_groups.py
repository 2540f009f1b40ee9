import pytest
import timm
import torch
from tapetum.errors import ConfigError, TrainingError
from tapetum.optim.groups import backbone_parameters, parameter_groups
from torch import nn


class TwoPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm([4, 5, 5]))
        self.tokens = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def backbone_parameters(self):
        return self.backbone.parameters()


def _names(module, groups):
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {group["name"]: [names[id(parameter)] for parameter in group["params"]] for group in groups}


def test_weights_decay_and_norms_biases_scalars_and_embeddings_do_not():
    network = TwoPart()
    groups = parameter_groups(
        network, lr=1e-3, weight_decay=0.1, backbone=backbone_parameters(network), backbone_lr=1e-5
    )
    assert _names(network, groups) == {
        "head": ["head.weight"],
        "head_no_decay": ["scale", "tokens.weight", "head.bias"],
        "backbone": ["backbone.0.weight"],
        "backbone_no_decay": [
            "backbone.0.bias",
            "backbone.1.weight",
            "backbone.1.bias",
            "backbone.2.weight",  # a LayerNorm over three dimensions
            "backbone.2.bias",
        ],
    }
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1e-3, 0.1),
        (1e-3, 0.0),
        (1e-5, 0.1),
        (1e-5, 0.0),
    ]


def test_position_and_class_tokens_of_a_timm_transformer_do_not_decay():
    network = nn.ModuleDict({"backbone": timm.create_model("test_vit", num_classes=0)})
    groups = _names(network, parameter_groups(network, lr=1e-3, weight_decay=0.1))
    assert {"backbone.pos_embed", "backbone.cls_token"} <= set(groups["head_no_decay"])
    assert "backbone.blocks.0.attn.qkv.weight" in groups["head"]


def test_each_trainable_parameter_is_in_exactly_one_group_and_frozen_ones_in_none():
    network = TwoPart()
    network.backbone.requires_grad_(False)
    network.tied = network.head
    groups = parameter_groups(network, lr=1e-3, weight_decay=0.1, backbone=backbone_parameters(network))
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


def test_the_backbone_of_a_network_inside_a_module_is_found():
    network = TwoPart()
    wrapped = nn.ModuleDict({"net": network, "loss": nn.Linear(2, 2)})
    assert list(map(id, backbone_parameters(wrapped))) == list(map(id, network.backbone.parameters()))


def test_nothing_to_train_is_an_error_that_says_what_to_set():
    with pytest.raises(TrainingError, match=r"none of the 6 parameters of Linear.*model\.net\.freeze=false"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), lr=1e-3, weight_decay=0.0)


def test_a_backbone_rate_without_a_backbone_that_trains_is_an_error():
    network = TwoPart()
    network.backbone.requires_grad_(False)
    with pytest.raises(ConfigError, match="backbone_lr=1e-05 has no effect"):
        parameter_groups(
            network, lr=1e-3, weight_decay=0.0, backbone=backbone_parameters(network), backbone_lr=1e-5
        )


def test_frozen_parameters_that_train_later_have_groups_and_a_rate_of_their_own():
    network = TwoPart()
    network.backbone.requires_grad_(False)
    later = [network.backbone[0].weight, network.backbone[1].bias]
    groups = parameter_groups(
        network, lr=1e-2, weight_decay=0.1, backbone=network.backbone_parameters(), later=later,
        later_lr_ratio=0.5,
    )  # fmt: skip
    assert _names(network, groups) == {
        "head": ["head.weight"],
        "head_no_decay": ["scale", "tokens.weight", "head.bias"],
        "unfrozen": ["backbone.0.weight"],
        "unfrozen_no_decay": ["backbone.1.bias"],
    }
    assert [group["lr"] for group in groups] == [1e-2, 1e-2, 5e-3, 5e-3]
