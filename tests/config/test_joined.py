"""`data=[a,b]`: what is one for all sets, what each has for itself, and what is wrong with it."""

import pytest
from tapetum.config.check import check_config
from tapetum.config.compose import compose, compose_raw, finish
from tapetum.config.joined import each, is_joined, places, replaced, with_own
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError


def composed(*overrides):
    return compose(prepare(overrides, multirun=False))


@pytest.fixture
def data(tmp_path, monkeypatch):
    for name in ("cifake", "genimage"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TAPETUM_DATA", str(tmp_path))
    return tmp_path


def test_each_set_has_its_own_places_and_the_rest_is_one(data):
    found = composed("data=[cifake,genimage]", "data.batch_size=7", "data.genimage.limit=5", "model=npr")
    node = found.config["data"]
    assert found.choices["data"] == "cifake+genimage"
    assert found.config["name"] == "npr-cifake+genimage"
    assert node["batch_size"] == 7
    assert node["root"] is None
    assert [entry["data"] for entry in node["index"]] == ["cifake", "genimage"]
    assert [entry["root"] for entry in node["index"]] == [str(data / "cifake"), str(data / "genimage")]
    assert [entry["limit"] for entry in node["index"]] == [None, 5]
    check_config(found)


def test_each_set_alone_is_what_it_would_be_without_the_other(data):
    words = ("data.batch_size=7", "model=npr", "data.cache=none", "data.num_workers=0")
    both = composed("data=[cifake,genimage]", "data.genimage.index.train_generators=[ADM]", *words).config
    alone = composed("data=genimage", "data.index.train_generators=[ADM]", *words).config
    assert is_joined(both)
    assert not is_joined(alone)
    assert {**each(both)["genimage"], "name": alone["name"]} == alone
    assert each(alone) == {"": alone}


def test_where_sets_disagree_the_general_default_holds_and_the_command_line_wins(data):
    assert composed("data=cifake").config["data"]["cache"] == "decoded"
    both = composed("data=[cifake,genimage]").config["data"]
    assert (both["cache"], both["num_workers"]) == ("none", 2)
    assert composed("data=[cifake,genimage]", "data.cache=decoded").config["data"]["cache"] == "decoded"


def test_a_limit_holds_for_every_set_and_a_sets_own_wins(data):
    sets = each(composed("data=[cifake,genimage]", "data.limit=9", "data.cifake.limit=3").config)
    assert {name: one["data"]["limit"] for name, one in sets.items()} == {"cifake": 3, "genimage": 9}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["data=[cifake,genimage]", "data.root=/x"],
            "data.root=/x belongs to one of cifake, genimage: type data.cifake.root=VALUE "
            "data.genimage.root=VALUE",
        ),
        (
            ["data=[cifake,genimage]", "data.cifake.batch_size=3"],
            "data.cifake.batch_size=3: batch_size is one for all sets: type data.batch_size=3",
        ),
        (
            ["data=[cifake,genimage]", "data.genimage.roots.tran=x"],
            "unknown key data.genimage.roots.tran: did you mean data.genimage.roots.train?",
        ),
        (
            ["data=[cifake,genimage]", "data.batchsize=3"],
            "unknown key data.batchsize: type data.batch_size=3",
        ),
        (
            ["data=[cifake]"],
            "data=[cifake] must name two data sets at least, and each once: type data=cifake",
        ),
        (
            ["data=[cifake,cifake,genimage]"],
            "data=[cifake,cifake,genimage] must name two data sets at least, and each once: type "
            "data=[NAME,NAME]",
        ),
        (["data=[hf,cifake]"], "data.hf.index.positive is missing: type data.hf.index.positive=VALUE"),
        (
            ["data=[cifake,genimage]", "data.genimage.index.train_generators=ADM"],
            "data.genimage.index.train_generators=ADM is text, it must be null or a list: type "
            "data.genimage.index.train_generators=[A,B]",
        ),
        (
            ["data=[cifake,genimage]", "data.genimage.root=/nowhere"],
            "data.genimage.root=/nowhere does not exist: type data.genimage.root=DIR, or set "
            "TAPETUM_DATA=DIR where DIR/nowhere is the data; it is published at "
            "https://github.com/GenImage-Dataset/GenImage",
        ),
        (["data=[cifake,genimage]", "data.batch_size=0"], "data.batch_size=0 must be at least 1"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_the_set(data, problems, words, problem):
    told = problems(*words)
    assert [one for one in told if one.startswith(problem)], told
    assert len(told) == 1


def test_several_sets_in_a_yaml_are_refused_since_hydra_would_merge_them():
    # What `override /data: [cifake, folder]` in an experiment composes to: no choice of data is recorded.
    merged = compose_raw(["data=[cifake,folder]"])
    with pytest.raises(ConfigError, match=r"a YAML file chooses several data sets"):
        finish(merged)


def test_keys_of_a_composed_config_are_replaced_as_on_the_command_line(data):
    both = composed("data=[cifake,genimage]").config
    changed = replaced(both, ["data.batch_size=3", "data.cifake.limit=4", "data.val_fraction=0.2"])
    assert changed["data"]["batch_size"] == 3
    assert [one["data"]["limit"] for one in each(changed).values()] == [4, None]
    assert [one["data"]["val_fraction"] for one in each(changed).values()] == [0.2, 0.2]
    with pytest.raises(ConfigError, match=r"data\.root=/x belongs to one of"):
        replaced(both, ["data.root=/x"])
    alone = composed("data=cifake").config
    assert replaced(alone, ["data.root=/x"])["data"]["root"] == "/x"
    assert [one["data"]["limit"] for one in each(with_own(both, limit=2)).values()] == [2, 2]
    assert with_own(alone, limit=2)["data"]["limit"] == 2
    assert places(both) == f"cifake: {data / 'cifake'}, genimage: {data / 'genimage'}"
