import pytest
import torch
import torchvision
from tapetum.backbones.resnet import init_kaiming, stage


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("layer1", {"in_channels": 64, "width": 64, "blocks": 3}),
        ("layer2", {"in_channels": 256, "width": 128, "blocks": 4, "stride": 2}),
        ("layer4", {"in_channels": 1024, "width": 512, "blocks": 3, "stride": 2}),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_stages_equal_torchvision_with_the_same_weights(name, arguments, training):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.resnet50(weights=None), name).train(training)
    ours = stage(**arguments).train(training)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, arguments["in_channels"], 9, 12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


def test_initialisation_has_the_spread_of_he_over_fan_out():
    trunk = stage(256, width=128, blocks=2, stride=2)
    torch.nn.init.constant_(trunk[0].bn1.weight, 3.0)
    init_kaiming(trunk)
    kernel = trunk[0].conv2.weight
    assert kernel.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert kernel.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert torch.equal(trunk[0].bn1.weight, torch.ones(128))
