import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from tapetum.backbones.timm_tower import create, pretrained_config, width
from tapetum.errors import CheckpointError, ConfigError

# One small model of each kind of head: pooled, a layer after pooling, a norm after pooling, transformers.
NAMES = [
    "test_efficientnet",
    "mobilenetv3_small_050",
    "test_convnext",
    "test_vit",
    "test_resnet",
    "levit_128s",
]


@pytest.mark.parametrize("name", NAMES)
def test_width_is_the_length_of_what_the_tower_returns(name):
    with torch.device("meta"):
        tower = create(name, pretrained=False).eval()
        features = tower(torch.empty(2, *pretrained_config(name)["input_size"]))
    assert features.shape == (2, width(tower))


@pytest.mark.parametrize("name", NAMES)
def test_a_published_file_with_its_classifier_loads_strictly(name, tmp_path):
    published = timm.create_model(name).eval()
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    tower = create(name, pretrained=str(tmp_path / "weights.pth")).eval()
    images = torch.randn(1, *pretrained_config(name)["input_size"])
    with torch.no_grad():
        expected = published.forward_head(published.forward_features(images), pre_logits=True)
        torch.testing.assert_close(tower(images), expected)


def test_a_directory_as_the_hub_lays_it_out_loads(tmp_path):
    published = timm.create_model("test_resnet")
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    tower = create("test_resnet", pretrained=str(tmp_path))
    assert torch.equal(tower.conv1[0].weight, published.conv1[0].weight)


def test_rgb_weights_fold_into_a_one_channel_tower_that_sees_grey_alike(tmp_path):
    published = timm.create_model("test_resnet", num_classes=0).eval()
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    tower = create("test_resnet", pretrained=str(tmp_path / "weights.pth"), in_chans=1).eval()
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(tower(grey), published(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"does not fit EfficientNet"):
        create("test_efficientnet", pretrained=str(tmp_path / "weights.pth"))


def test_paths_without_weights_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        create("test_resnet", pretrained=str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        create("test_resnet", pretrained=str(tmp_path))


def test_hub_weights_without_a_network_give_the_commands_to_type(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        create("test_resnet.r160_in1k", pretrained=True)
    message = str(caught.value)
    assert "hf download timm/test_resnet.r160_in1k" in message
    assert "model.net.pretrained=/path/to/file_or_dir" in message
    assert "model.net.pretrained=false" in message


def test_a_model_without_published_weights_says_so():
    configs = ((name, timm.get_pretrained_cfg(name)) for name in timm.list_models())
    name = next(name for name, config in configs if not config.hf_hub_id and not config.url)
    with pytest.raises(
        CheckpointError, match=rf"timm has no pretrained weights for {name}: .*pretrained=false"
    ):
        create(name, pretrained=True)


@pytest.mark.parametrize("pretrained", [False, True, "/no/such/file"])
def test_on_the_meta_device_no_weight_is_looked_for(pretrained):
    with torch.device("meta"):
        tower = create("test_efficientnet", pretrained=pretrained)
    tensors = [*tower.parameters(), *tower.buffers()]
    assert tensors
    assert all(tensor.is_meta for tensor in tensors)


def test_a_transformer_is_built_for_the_asked_size():
    tower = create("test_vit", pretrained=False, image_size=96).eval()
    with torch.no_grad():
        assert tower(torch.zeros(1, 3, 96, 96)).shape == (1, width(tower))


def test_an_unknown_name_gives_near_names():
    with pytest.raises(
        ConfigError, match=r"model\.net\.name=efficentnet_b0: did you mean efficientnet_b0 or"
    ):
        create("efficentnet_b0", pretrained=False)


def test_an_unknown_tag_gives_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown weights 'nope' .*: timm has .*ra_in1k"):
        create("efficientnet_b0.nope", pretrained=False)


def test_a_hub_path_in_place_of_a_name_is_an_unknown_name():
    with pytest.raises(ConfigError, match="unknown timm model"):
        create("hf-hub:someone/some_model", pretrained=False)
