"""What to type against a symptom: overrides that a run's config takes, scaled from its own values.

Every function returns overrides to type together, and an empty tuple where the config has nothing to turn, or
where it is so already. They are written as the command line takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.groups import option_names
from ..config.values import select

Overrides = tuple[str, ...]
Config = Mapping[str, Any]

RATE_UP, RATE_DOWN = 3.0, 0.3
MOST_RATE = {"adaptive": 0.01, "other": 0.5}
DROPOUT_STEP, MOST_DROPOUT = 0.2, 0.5
DECAY_FACTOR, FIRST_DECAY = 10.0, 1e-4
MOST_DECAY = {"decoupled": 0.1, "other": 0.01}
LEAST_BATCH = 16
SMOOTHING = 0.05
CLIP = 1.0
MOST_VALIDATION = 0.3
SYNTHETIC_IMAGES = 1200

# The next larger network of the same family, under the names that timm gives them.
LARGER = {
    **{f"efficientnet_b{number}": f"efficientnet_b{number + 1}" for number in range(4)},
    "resnet18": "resnet34",
    "resnet34": "resnet50",
    "resnet50": "resnet101",
    "convnext_tiny": "convnext_small",
    "convnext_small": "convnext_base",
    "mobilenetv3_small_100": "mobilenetv3_large_100",
    "vit_tiny_patch16_224": "vit_small_patch16_224",
    "vit_small_patch16_224": "vit_base_patch16_224",
}
_TIMM = "tapetum.detectors.timm_backbone.TimmBackbone"
_TIMM_EMBEDDER = "tapetum.embedders.timm_backbone.TimmEmbedder"
_SMALL = "tapetum.detectors.small_resnet.SmallResNet"
_AUGMENT = "tapetum.images.augment.Augment"
_LOSSES = ("tapetum.modules.losses.BinaryCrossEntropy", "tapetum.modules.losses.CrossEntropy")
_FLIP = "augment.after_crop=[{_target_:torchvision.transforms.v2.RandomHorizontalFlip,p:0.5}]"
# A search before the run would decide these again, whatever is typed.
_FOUND_BY = {
    "optimizer.lr": "lightning.pytorch.callbacks.LearningRateFinder",
    "data.batch_size": "lightning.pytorch.callbacks.BatchSizeFinder",
}


def learning_rate(config: Config, factor: float) -> Overrides:
    """The rate, and the backbone's own where it has one, times `factor`; never to above MOST_RATE."""
    rate = number(config, "optimizer.lr")
    most = MOST_RATE["adaptive" if "Adam" in str(select(config, "optimizer._target_")) else "other"]
    if rate is None or not rate > 0 or (factor > 1 and rate * factor > most):
        return ()
    own = number(config, "model.backbone_lr")
    backbone = () if own is None else (f"model.backbone_lr={min(own * factor, most):.2g}",)
    return (*_decided(config, "optimizer.lr", f"{min(rate * factor, most):.2g}"), *backbone)


def rate_search(config: Config) -> Overrides:
    """A search for the learning rate before the run, beside the callbacks that the run has."""
    shipped = set(option_names("callbacks")) - {"default", "none"}
    present = [name for name in config["callbacks"] if name not in ("checkpoint", "early_stopping")]
    devices = select(config, "trainer.devices")
    if _finder(config, "optimizer.lr") or not set(present) <= shipped or devices not in (1, "auto", None):
        return ()
    return (f"callbacks=[{','.join([*present, 'lr_finder'])}]" if present else "callbacks=lr_finder",)


def longer(config: Config) -> Overrides:
    """Twice the epochs, where epochs are what ends the run."""
    epochs, steps = number(config, "trainer.max_epochs"), number(config, "trainer.max_steps")
    if (
        epochs is None
        or epochs < 1
        or (steps is not None and steps > 0)
        or select(config, "trainer.max_time")
    ):
        return ()
    return (f"trainer.max_epochs={2 * int(epochs)}",)


def regularised(config: Config) -> Overrides:
    """More dropout and more weight decay, each up to its bound."""
    found = []
    dropout = number(config, "model.net.dropout")
    if dropout is not None and dropout < MOST_DROPOUT:
        found.append(f"model.net.dropout={min(dropout + DROPOUT_STEP, MOST_DROPOUT):.2g}")
    decay = number(config, "optimizer.weight_decay")
    if decay is not None and decay >= 0:
        decoupled = str(select(config, "optimizer._target_")).endswith(".AdamW")
        most = MOST_DECAY["decoupled" if decoupled else "other"]
        raised = min(decay * DECAY_FACTOR, most) if decay else FIRST_DECAY
        if raised >= 2 * decay:
            found.append(f"optimizer.weight_decay={raised:.2g}")
    return tuple(found)


def frozen(config: Config) -> Overrides:
    """Train the head alone, where the backbone has learnt something before and no rate of its own."""
    learnt = bool(select(config, "model.net.pretrained")) or config.get("weights") is not None
    if not learnt or select(config, "model.net.freeze") is not False or _unfreezes(config):
        return ()
    return () if select(config, "model.backbone_lr") is not None else ("model.net.freeze=true",)


def unfrozen(config: Config) -> Overrides:
    """Train the backbone, too, where it is frozen throughout."""
    if select(config, "model.net.freeze") is not True or _unfreezes(config):
        return ()
    kept = ("data.cache=none",) if select(config, "data.cache") == "features" else ()
    return ("model.net.freeze=false", *kept)


def larger(config: Config) -> Overrides:
    """The next larger network of the family; not where the weights to start from fit this one only."""
    net = config["model"]["net"]
    if config.get("weights") is not None or isinstance(net.get("pretrained"), str):
        return ()
    if net.get("_target_") == _SMALL and isinstance(net.get("width"), int):
        return (f"model.net.width={2 * net['width']}",)
    name = LARGER.get(str(net.get("name")).split(".")[0]) if net.get("_target_") == _TIMM else None
    return () if name is None else (f"model.net.name={name}",)


def pretrained(config: Config) -> Overrides:
    """ImageNet weights instead of random ones."""
    net = config["model"]["net"]
    timm = net.get("_target_") in (_TIMM, _TIMM_EMBEDDER)
    random = timm and net.get("pretrained") is False and config.get("weights") is None
    return ("model.net.pretrained=true",) if random else ()


def augmented(config: Config) -> Overrides:
    """Random changes where there are none, or blur and JPEG beside the random ones there are.

    NPR looks at the traces of resampling, which rotation, blur and JPEG would cover: it gets a flip. What
    retrieval embeds is infrared, without colour to change.
    """
    augment, net = config["augment"], config["model"]["net"]
    if augment.get("_target_") != _AUGMENT or (config["model"].get("geometry") or {}):
        return ()
    before, after = augment.get("before_crop") or [], augment.get("after_crop") or []
    if config.get("task") == "retrieval":
        return () if before or after else ("augment=thermal",)
    if not before and not after and augment.get("crop", "center") == "center":
        if net.get("_target_") == _TIMM:
            return ("augment=product_photo",)
        return ("augment=thumbnail",) if net.get("size") == 32 else (_FLIP,)
    return ("augment=wang2020",) if net.get("_target_") == _TIMM and not before else ()


def smaller_batch(config: Config) -> Overrides:
    """Half the batch, down to LEAST_BATCH."""
    size = number(config, "data.batch_size")
    if size is None or size < 2 * LEAST_BATCH:
        return ()
    return _decided(config, "data.batch_size", str(int(size) // 2))


def clipped(config: Config) -> Overrides:
    """Gradients clipped at norm 1, where nothing clips them."""
    return () if number(config, "trainer.gradient_clip_val") else (f"trainer.gradient_clip_val={CLIP}",)


def full_precision(config: Config) -> Overrides:
    """float32 instead of float16, whose largest number is 65,504."""
    return ("trainer.precision=32-true",) if str(select(config, "trainer.precision")).startswith("16") else ()


def balanced_loss(config: Config) -> Overrides:
    """Images of the rarer class count more; the counts are of two classes, so a head of more has none."""
    loss = config["model"].get("loss")
    two = select(config, "model.net.classes") in (None, 1, 2)
    if not isinstance(loss, Mapping) or loss.get("_target_") not in _LOSSES or not two:
        return ()
    return () if loss.get("class_weights") is not None else ("model.loss.class_weights=balanced",)


def balanced_sampler(config: Config) -> Overrides:
    """As many draws from the rarer class as from the other."""
    return ("data.sampler=class_balanced",) if select(config, "data.sampler") is None else ()


def smoothed(config: Config) -> Overrides:
    """Targets that claim less than certainty."""
    loss = config["model"].get("loss")
    if not isinstance(loss, Mapping) or loss.get("_target_") not in _LOSSES or loss.get("label_smoothing"):
        return ()
    return (f"model.loss.label_smoothing={SMOOTHING}",)


def decoded(config: Config) -> Overrides:
    """Decode every image once and keep the pixels; needs a network with one size."""
    net = config["model"]["net"]
    sized = net.get("_target_") == _TIMM or isinstance(net.get("size"), int)
    if select(config, "data.cache") != "none" or not sized or (config["model"].get("geometry") or {}):
        return ()
    return ("data.cache=decoded",)


def more_workers(config: Config, cores: int | None) -> Overrides:
    """Twice the loading processes and at least two, up to the cores there are."""
    workers = number(config, "data.num_workers")
    if workers is None:
        return ()
    wanted = max(2, 2 * int(workers))
    wanted = wanted if cores is None else min(cores, wanted)
    return (f"data.num_workers={wanted}",) if wanted > workers else ()


def more_images(config: Config, split: str) -> Overrides:
    """Without the limit that keeps images out of `split`, or a larger set where images are made."""
    limit = select(config, "data.limit")
    if limit is not None and (not isinstance(limit, Mapping) or limit.get(split) is not None):
        return ("data.limit=null",)
    made = number(config, "data.index.train")
    synthetic = select(config, "data.index._target_") == "tapetum.indexes.synthetic.index"
    if synthetic and split == "train" and made is not None and made < SYNTHETIC_IMAGES:
        return (f"data.index.train={SYNTHETIC_IMAGES}",)
    return ()


def more_validation(config: Config, have: int, want: int) -> Overrides:
    """A larger share of the training images set aside, so that `want` come out of where `have` did."""
    share = number(config, "data.val_fraction")
    if not share or have < 1:
        return ()
    wanted = min(-(-share * want / have // 0.05) * 0.05, MOST_VALIDATION)
    return (f"data.val_fraction={wanted:.2g}",) if wanted > share else ()


def patient(config: Config) -> Overrides:
    """Twice the patience, and at least 5 validations."""
    patience = number(config, "callbacks.early_stopping.patience")
    return () if patience is None else (f"callbacks.early_stopping.patience={max(5, 2 * int(patience))}",)


def number(config: Config, key: str) -> float | None:
    """A number at a dotted key, None where there is none."""
    value = select(config, key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _decided(config: Config, key: str, value: str) -> Overrides:
    """A value, and out with the search that would decide it again."""
    finder = _finder(config, key)
    return (f"{key}={value}", *((f"callbacks.{finder}=null",) if finder else ()))


def _finder(config: Config, key: str) -> str | None:
    callbacks = config["callbacks"].items()
    found = (
        name for name, node in callbacks if isinstance(node, Mapping) and node["_target_"] == _FOUND_BY[key]
    )
    return next(found, None)


def _unfreezes(config: Config) -> bool:
    return select(config, "callbacks.gradual_unfreeze") is not None
