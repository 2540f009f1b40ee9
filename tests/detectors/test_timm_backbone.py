import pytest
import timm
import torch
from tapetum.detectors.timm_backbone import TimmBackbone
from tapetum.errors import ConfigError
from tapetum.images.geometry import InputSpec


def _images(count=4, channels=3, side=64):
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8)


def _trainable(network):
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def test_the_head_of_document_001_on_efficientnet_b0_has_its_parameters():
    with torch.device("meta"):
        frozen = TimmBackbone(name="efficientnet_b0", pretrained=False, freeze=True)
        whole = TimmBackbone(name="efficientnet_b0", pretrained=False)
        plain = timm.create_model("efficientnet_b0", num_classes=0)
    assert _trainable(frozen) == 657_409
    assert _trainable(whole) == 657_409 + sum(parameter.numel() for parameter in plain.parameters())
    layers = [type(layer).__name__ for layer in frozen.classifier]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert frozen.classifier[3].p == 0.3


def test_geometry_is_that_of_the_weights_and_scales_with_the_size():
    with torch.device("meta"):
        assert TimmBackbone(name="efficientnet_b0", pretrained=False).input_spec == InputSpec(
            size=(256, 256), resize="shortest", crop=(224, 224), interpolation="bicubic"
        )
        assert TimmBackbone(name="efficientnet_b0", pretrained=False, size=112).input_spec == InputSpec(
            size=(128, 128), resize="shortest", crop=(112, 112), interpolation="bicubic"
        )


def test_geometry_equals_timm_for_its_own_evaluation_transform():
    name = "convnext_atto"
    with torch.device("meta"):
        spec = TimmBackbone(name=name, pretrained=False).input_spec
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    resize, crop = timm.data.create_transform(**data).transforms[:2]
    assert resize.size == spec.size[0]
    assert resize.interpolation.value == spec.interpolation
    assert tuple(crop.size) == spec.crop


def test_logits_are_the_head_on_the_features_of_the_normalised_image():
    network = TimmBackbone(name="test_vit", pretrained=False, size=64).eval()
    images = _images()
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5)  # timm's ViT statistics
    with torch.no_grad():
        features = network.backbone((images / 255 - mean) / std)
        expected = network.classifier(features).squeeze(1)
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-5)
    assert network(images).dtype == torch.float32


def test_a_frozen_backbone_keeps_its_statistics_and_autograd_starts_at_the_head():
    network = TimmBackbone(name="test_efficientnet", pretrained=False, freeze=True).train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        network(_images()).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())
    assert max(len(shape) for shape in saved) == 2  # no feature map was kept for the backward pass
    assert network.classifier[0].weight.grad is not None


def test_a_backbone_that_trains_gets_gradients_and_new_statistics():
    network = TimmBackbone(name="test_efficientnet", pretrained=False).train()
    before = network.backbone.bn1.running_mean.clone()
    network(_images()).sum().backward()
    assert not torch.equal(network.backbone.bn1.running_mean, before)
    assert all(parameter.grad is not None for parameter in network.backbone_parameters())


def test_backbone_parameters_are_all_but_the_head():
    network = TimmBackbone(name="test_resnet", pretrained=False)
    backbone = set(map(id, network.backbone_parameters()))
    rest = {name for name, parameter in network.named_parameters() if id(parameter) not in backbone}
    assert rest == {f"classifier.{name}" for name, _ in network.classifier.named_parameters()}


@pytest.mark.parametrize(("freeze", "given"), [(True, True), (True, False), (False, True), (False, False)])
def test_only_a_frozen_backbone_with_weights_of_its_own_is_stored_elsewhere(freeze, given, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    pretrained = str(tmp_path / "weights.pth") if given else False
    network = TimmBackbone(name="test_resnet", pretrained=pretrained, freeze=freeze)
    expected = {name for name in network.state_dict() if name.startswith("backbone.")}
    assert network.stored_elsewhere() == (expected if freeze and given else set())


def test_what_is_stored_and_what_is_elsewhere_rebuild_the_network(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    arguments = {"name": "test_resnet", "pretrained": str(tmp_path / "weights.pth"), "freeze": True}
    one, other = TimmBackbone(**arguments).eval(), TimmBackbone(**arguments).eval()
    stored = {k: v for k, v in one.state_dict().items() if k not in one.stored_elsewhere()}
    other.load_state_dict(stored, strict=False)
    images = _images()
    assert torch.equal(one(images), other(images))


def test_one_channel_and_several_classes():
    network = TimmBackbone(name="test_resnet", pretrained=False, channels=1, classes=5).eval()
    assert network.input_spec.channels == 1
    assert network(_images(channels=1)).shape == (4, 5)


def test_a_number_of_classes_without_meaning_is_refused():
    with pytest.raises(ConfigError, match="classes=0"):
        TimmBackbone(name="test_resnet", pretrained=False, classes=0)
