from __future__ import annotations

import inspect
from importlib import import_module

import pytest
from tapetum.config.signatures import Accepts, absence, constant, signature

REAL = [
    "lightning.pytorch.Trainer",
    "lightning.pytorch.callbacks.EMAWeightAveraging",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.loggers.CSVLogger",
    "tapetum.datamodules.detection.DetectionDataModule",
    "tapetum.detectors.npr.NPR",
    "tapetum.images.augment.Augment",
    "tapetum.images.geometry.InputSpec",
    "tapetum.indexes.folder.index",
    "tapetum.modules.detection.DetectionModule",
    "tapetum.optim.schedules.cosine",
    "timm.create_model",
    "torch.nn.BCEWithLogitsLoss",
    "torch.optim.AdamW",
    "torch.optim.SGD",
    "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "torchvision.transforms.v2.ColorJitter",
    "torchvision.transforms.v2.RandomHorizontalFlip",
    "torchvision.transforms.v2.RandomRotation",
]


@pytest.mark.parametrize("target", REAL)
def test_the_source_tells_what_inspect_tells(target):
    module, _, name = target.rpartition(".")
    real = inspect.signature(getattr(import_module(module), name)).parameters.values()
    named = [one for one in real if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    found = signature(target)
    assert found is not None
    assert [(one.name, one.default) for one in found.parameters] == [
        (one.name, one.default is not one.empty) for one in named
    ]
    assert found.accepts_kwargs == any(one.kind is one.VAR_KEYWORD for one in real)


def test_re_exports_stars_aliases_and_bases_are_followed(own_package):
    package = own_package(
        {
            "__init__.py": "from .inner import Renamed as Net\nfrom .stars import *\n",
            "inner.py": "from .base import Base as Parent\n\n"
            "class Child(Parent):\n    pass\n\nRenamed = Child\n",
            "base.py": "class Base:\n    def __init__(self, width, *, depth=2):\n        pass\n",
            "stars.py": "def made(a, b=1, **more):\n    pass\n",
        }
    )
    net, made = signature(f"{package}.Net"), signature(f"{package}.made")
    assert net is not None
    assert made is not None
    assert (net.kind, net.names, net.accepts_kwargs) == ("class", ("width", "depth"), False)
    assert [one.keyword_only for one in net.parameters] == [False, True]
    assert (made.kind, made.names, made.accepts_kwargs) == ("function", ("a", "b"), True)


def test_dataclass_fields_are_arguments_those_of_the_base_first(own_package):
    package = own_package(
        {
            "things.py": (
                "from dataclasses import dataclass, field\nfrom typing import ClassVar\n\n"
                "@dataclass\nclass Base:\n    a: int\n    kind: ClassVar[str] = 'x'\n\n"
                "@dataclass(kw_only=True)\nclass Thing(Base):\n"
                "    b: str = 'b'\n    c: list[int] = field(default_factory=list)\n    d: int = "
                "field(init=False)\n"
            )
        }
    )
    found = signature(f"{package}.things.Thing")
    assert found is not None
    assert [(one.name, one.default, one.keyword_only) for one in found.parameters] == [
        ("a", False, False),
        ("b", True, True),
        ("c", True, True),
    ]


def test_annotations_tell_plain_types_and_closed_choices(own_package):
    package = own_package(
        {
            "names.py": "from typing import Literal\nMode = Literal['min', 'max']\n",
            "f.py": (
                "from __future__ import annotations\nfrom typing import Optional, Union\nfrom .names "
                "import Mode\n"
                "def f(a: int, b: Optional[float], c: Mode | None, d: Union[str, list[int]], e: Other, "
                "g): ...\n"
            ),
        }
    )
    found = signature(f"{package}.f.f")
    assert found is not None
    assert [one.accepts for one in found.parameters] == [
        Accepts(frozenset({"int"})),
        Accepts(frozenset({"float", "None"})),
        Accepts(frozenset({"None"}), ("min", "max")),
        Accepts(frozenset({"str", "list"})),
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("tapetum.detectors.npr.NRP", "tapetum.detectors.npr has no NRP: did you mean NPR?"),
        ("tapetum.detectrs.npr.NPR", "tapetum has no file or folder detectrs: did you mean detectors?"),
        ("torch.optim.AdmW", "torch.optim has no AdmW: did you mean AdamW?"),
        ("no_such_package.X", "no package no_such_package is installed"),
        ("torch.optim.AdamW", None),
        ("transformers.NoSuchThing", None),  # lazy: its source does not tell
    ],
)
def test_what_certainly_does_not_exist_is_named_with_the_nearest(target, why):
    assert absence(target) == why


def test_a_file_is_not_a_class(own_package):
    package = own_package(
        {"nets.py": "class Net:\n    pass\n\ndef make():\n    pass\n\nclass _Hidden:\n    pass\n"}
    )
    assert (
        absence(f"{package}.nets") == f"{package}.nets is a file: name a class or function in it: Net, make"
    )


def test_nothing_is_executed(own_package):
    package = own_package(
        {"loud.py": "raise SystemExit('imported')\n\nclass Net:\n    def __init__(self, a): ...\n"}
    )
    found = signature(f"{package}.loud.Net")
    assert found is not None
    assert found.names == ("a",)


def test_what_the_source_does_not_tell_is_none(own_package):
    package = own_package(
        {"f.py": "from somewhere_else import Base\n\nclass Net(Base):\n    pass\n\nmade = object()\n"}
    )
    assert signature(f"{package}.f.Net") is None
    assert signature(f"{package}.f.made") is None
    assert signature(f"{package}.f.absent") is None


def test_a_constant_is_read_without_import(own_package):
    package = own_package({"layout.py": "COLUMNS: tuple[str, ...] = ('path', 'label')\nOTHER = make()\n"})
    assert constant(f"{package}.layout", "COLUMNS") == ("path", "label")
    assert constant(f"{package}.layout", "OTHER") is None
    assert constant(f"{package}.layout", "ABSENT") is None
