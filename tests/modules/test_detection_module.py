"""What DetectionModule does without a Trainer."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tapetum.errors import ConfigError, DataError
from tapetum.modules.detection import DetectionModule, binary_logit, gathered
from tapetum.modules.losses import BinaryCrossEntropy, CrossEntropy

from modules.training import detector, network


def batch(labels, generators=None, count=None):
    labels = torch.tensor(labels)
    return {
        "images": torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8),
        "index": torch.arange(len(labels)),
        "labels": labels,
        "generators": torch.full_like(labels, -1) if generators is None else torch.tensor(generators),
    }


def test_a_k_way_head_calls_generated_what_its_generators_sum_to():
    outputs = torch.tensor([[1.0, 0.5, 0.2], [-2.0, 3.0, 1.0], [4.0, -1.0, 0.0]])
    generated = F.softmax(outputs, dim=1)[:, 1:].sum(dim=1)
    torch.testing.assert_close(torch.sigmoid(binary_logit(outputs)), generated)
    two = torch.tensor([[0.5, 2.0], [1.0, -3.0]])
    torch.testing.assert_close(binary_logit(two), two[:, 1] - two[:, 0])


@pytest.mark.parametrize("shape", [(4, 1), (4, 2, 2), ()])
def test_outputs_of_another_shape_are_refused(shape):
    with pytest.raises(ConfigError, match=r"a detector returns logits \[B\], or \[B, k\] with k > 1"):
        binary_logit(torch.zeros(shape))


def test_an_attributing_head_learns_real_as_0_and_generators_from_1():
    module = detector(network(classes=4), loss=CrossEntropy())
    seen = batch([0, 1, 1, 1], [2, 0, 2, 1])  # real images may carry the subset they were published with
    outputs = torch.randn(4, 4)
    expected = F.cross_entropy(outputs, torch.tensor([0, 1, 3, 2]))
    assert float(module.compute_loss(seen, outputs)) == pytest.approx(float(expected))


def test_a_two_way_head_does_not_need_generators():
    module = detector(network(classes=2), loss=CrossEntropy())
    seen, outputs = batch([0, 1, 1]), torch.randn(3, 2)
    expected = F.cross_entropy(outputs, seen["labels"])
    assert float(module.compute_loss(seen, outputs)) == pytest.approx(float(expected))


def test_an_attributing_head_refuses_generated_images_of_nobody_and_too_many_generators():
    module = detector(network(classes=3), loss=CrossEntropy())
    with pytest.raises(DataError, match=r"a network with 3 outputs names generators, but .* in rows \[1\]"):
        module.compute_loss(batch([0, 1, 1], [0, -1, 1]), torch.randn(3, 3))
    module = detector(network(classes=3), loss=CrossEntropy())
    with pytest.raises(
        ConfigError, match="generators 0 to 2 at least, but the network's 3 outputs are real and 2"
    ):
        module.compute_loss(batch([0, 1, 1], [0, 2, 1]), torch.randn(3, 3))


def test_a_list_of_losses_is_their_weighted_sum_and_a_function_is_a_loss():
    def brier(logits, labels):
        return (torch.sigmoid(logits) - labels).square().mean()

    seen, outputs = batch([0, 1, 1]), torch.tensor([0.3, -1.0, 2.0])
    both = detector(loss=[{"loss": BinaryCrossEntropy(), "weight": 0.5}, {"loss": brier}])
    expected = 0.5 * BinaryCrossEntropy()(outputs, seen["labels"]) + brier(outputs, seen["labels"])
    assert float(both.compute_loss(seen, outputs)) == pytest.approx(float(expected))
    assert float(detector(loss=brier).compute_loss(seen, outputs)) == pytest.approx(
        float(brier(outputs, seen["labels"]))
    )


def test_balanced_losses_get_the_counts_of_the_training_split():
    module = detector(loss=[{"loss": BinaryCrossEntropy("balanced")}], class_counts=[30, 10])
    assert module.loss.terms[0].weights.tolist() == pytest.approx([2 / 3, 2.0])


def test_images_of_different_sizes_have_the_logits_they_have_alone():
    module = detector().eval()
    images = [torch.randint(0, 256, (3, side, 32), dtype=torch.uint8) for side in (32, 40)]
    alone = torch.cat([module(image[None]) for image in images])
    torch.testing.assert_close(module(images), alone)


def test_channels_last_changes_the_memory_and_not_the_logits():
    net = network().eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = net(images)
    module = detector(copy.deepcopy(net), channels_last=True).eval()
    weight = next(p for p in module.net.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-5)


def test_a_detector_without_an_optimizer_can_only_predict():
    with pytest.raises(ConfigError, match="built without an optimizer and can only predict"):
        detector(optimizer=None).configure_optimizers()


def test_norms_and_biases_do_not_decay_and_the_backbone_learns_at_its_own_rate():
    module = detector(optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5), backbone_lr=0.01)
    groups = {group["name"]: group for group in module.configure_optimizers().param_groups}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "head": (0.1, 0.5),
        "head_no_decay": (0.1, 0.0),
        "backbone": (0.01, 0.5),
        "backbone_no_decay": (0.01, 0.0),
    }
    for name, group in groups.items():
        assert all((parameter.ndim <= 1) == name.endswith("no_decay") for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups.values()) == len(list(module.net.parameters()))


def test_what_ranks_saw_is_gathered_without_what_they_repeated_or_left_out():
    def seen(rows):
        return {"index": torch.tensor(rows, dtype=torch.int64), "logits": torch.tensor(rows) / 10.0}

    ranks = [
        seen([0, 3, 6]),
        seen([1, 4]),
        seen([2, 5, 5]),
        seen([]),
    ]  # rank 1 left one out, rank 2 repeated one
    longest = 3

    def all_gather(value: torch.Tensor) -> torch.Tensor:
        """What a collective does with equal shapes, which is all that it can do."""
        assert value.ndim == 0 or len(value) == longest
        if value.ndim == 0:
            return torch.tensor([len(rank["index"]) for rank in ranks])
        name = "index" if value.dtype == torch.int64 else "logits"
        return torch.stack([F.pad(rank[name], (0, longest - len(rank[name])), value=-1) for rank in ranks])

    for rank in ranks:
        together = gathered(rank, all_gather)
        assert together["index"].tolist() == [0, 1, 2, 3, 4, 5, 6]
        torch.testing.assert_close(together["logits"], torch.arange(7) / 10)


def test_frozen_pretrained_weights_stay_out_of_the_checkpoint_and_come_back(tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "backbone.safetensors"
    save_file({k: v.contiguous() for k, v in network().backbone.state_dict().items()}, file)

    def build() -> DetectionModule:
        torch.manual_seed(1)
        net = type(network())(
            name="test_resnet.r160_in1k", pretrained=str(file), freeze=True, hidden=8, size=32
        )
        return detector(net)

    module = build()
    whole = {name: value.clone() for name, value in module.state_dict().items()}
    checkpoint = {"state_dict": dict(module.state_dict()), "current_model_state": dict(module.state_dict())}
    module._trainer = None
    module.on_save_checkpoint(checkpoint)
    for name in ("state_dict", "current_model_state"):
        assert checkpoint[name]
        assert all(key.startswith(("net.classifier", "loss")) for key in checkpoint[name])
    other = build()
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"], strict=True)
    assert all(torch.equal(value, whole[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    "loss",
    [
        torch.nn.CrossEntropyLoss(),
        F.cross_entropy,
        partial(F.cross_entropy, label_smoothing=0.1),
        [{"loss": BinaryCrossEntropy()}, {"loss": torch.nn.CrossEntropyLoss(), "weight": 0.1}],
    ],
)
def test_a_cross_entropy_over_classes_is_refused_for_one_logit_an_image(loss):
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss takes logits \[B, k\], .*model.net.classes=2"):
        detector(loss=loss).compute_loss(batch([0, 1, 1]), torch.randn(3))
    two, outputs = batch([0, 1, 1]), torch.randn(3, 2)
    alone = torch.nn.CrossEntropyLoss()
    found = detector(network(classes=2), loss=alone).compute_loss(two, outputs)
    torch.testing.assert_close(found, F.cross_entropy(outputs, two["labels"]))


def test_what_will_train_later_is_in_the_optimizer_from_the_start_and_left_alone():
    net = network(freeze=True)
    module = detector(net, optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5))
    names = ["backbone.layer4.0.conv1.weight", "backbone.layer4.0.bn1.bias"]
    module.train_later(names, 0.25)
    optimizer = module.configure_optimizers()
    groups = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert groups == {
        "head": (0.1, 0.5),
        "head_no_decay": (0.1, 0.0),
        "unfrozen": (0.025, 0.5),
        "unfrozen_no_decay": (0.025, 0.0),
    }
    before = {name: value.clone() for name, value in net.named_parameters()}
    module.compute_loss(batch([0, 1]), module(batch([0, 1])["images"])).backward()
    optimizer.step()
    moved = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("classifier.")}
