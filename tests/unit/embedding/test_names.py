from __future__ import annotations

import pytest

from services.common.errors import ServiceError
from services.embedding.names import INDEXES, MODELS, Name, child_name, parse_name


def test_names_are_read_and_written() -> None:
    name = parse_name("projects/p1/models/resnet-50", MODELS)
    assert name == Name(project="p1", collection="models", id="resnet-50")
    assert (str(name), name.parent) == ("projects/p1/models/resnet-50", "projects/p1")
    assert str(child_name("projects/a", INDEXES, "i", id_field="index_id")) == "projects/a/indexes/i"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models/m",
        "projects/p/models/",
        "projects/p/models/M",
        "projects/p/models/-m",
        "projects/p/models/m-",
        "projects/p/models/1",
        "projects/p/models/m/x",
        "projects/p/models/m\n",
        "projects/p/indexes/m",
        "projects/../models/m",
        "projects/p/models/" + "m" * 64,
    ],
)
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(ServiceError, match=r"model: .*projects/\{project\}/models/\{model\}") as caught:
        parse_name(text, MODELS, field="model")
    assert caught.value.reason == "ARGUMENT_INVALID"
    assert caught.value.metadata == {"field": "model"}


@pytest.mark.parametrize("model_id", ["", "A", "a_b", "a/b", "ü", "x" * 64])
def test_malformed_ids_are_refused(model_id: str) -> None:
    with pytest.raises(ServiceError, match="model_id: "):
        child_name("projects/p", MODELS, model_id, id_field="model_id")


@pytest.mark.parametrize("parent", ["", "p", "projects/", "projects/P", "projects/p/"])
def test_malformed_parents_are_refused(parent: str) -> None:
    with pytest.raises(ServiceError, match="parent: "):
        child_name(parent, MODELS, "m", id_field="model_id")
