from __future__ import annotations

import pytest

from services.common.access.policy import AccessPolicy, is_under, parse_policy
from services.common.access.rules import Use, Verb

POLICY = """
version: 1
projects:
  cars:
    inputs: ["s3://data/cars/", "s3://models/"]
    outputs: ["s3://results/cars/"]
  faces:
    inputs: ["file:///srv/faces/"]
  empty: {}
grants:
  - identities: ["spiffe://example.org/ns/ml/*", "token:nightly"]
    projects: [cars]
    verbs: [read, write]
  - identities: ["subject:CN=alice,OU=ml"]
    projects: ["*"]
    verbs: [admin, embed, search]
  - identities: ["token:ci-*"]
    projects: [faces, cars]
    verbs: [read]
"""


@pytest.fixture
def policy() -> AccessPolicy:
    return parse_policy(POLICY.encode())


@pytest.mark.parametrize(
    ("identity", "verb", "project", "expected"),
    [
        ("token:nightly", Verb.WRITE, "cars", True),
        ("token:nightly", Verb.READ, "cars", True),
        ("token:nightly", Verb.ADMIN, "cars", False),
        ("token:nightly", Verb.READ, "faces", False),
        ("token:nightly", Verb.READ, "boats", False),
        ("token:nightly2", Verb.READ, "cars", False),
        ("nightly", Verb.READ, "cars", False),
        ("", Verb.READ, "cars", False),
        ("spiffe://example.org/ns/ml/sa/trainer", Verb.WRITE, "cars", True),
        ("spiffe://example.org/ns/mlops/sa/trainer", Verb.WRITE, "cars", False),
        ("spiffe://example.org/ns/ml", Verb.WRITE, "cars", False),
        ("spiffe://example.net/ns/ml/sa/trainer", Verb.WRITE, "cars", False),
        ("subject:CN=alice,OU=ml", Verb.ADMIN, "empty", True),
        ("subject:CN=alice,OU=ml", Verb.ADMIN, "boats", False),
        ("subject:CN=alice,OU=ml", Verb.READ, "cars", False),
        ("subject:CN=alice", Verb.ADMIN, "cars", False),
        ("subject:CN=token:nightly", Verb.READ, "cars", False),
        ("token:ci-7", Verb.READ, "faces", True),
        ("token:ci-7", Verb.WRITE, "faces", False),
    ],
)
def test_only_what_is_granted_is_permitted(
    policy: AccessPolicy, identity: str, verb: Verb, project: str, expected: bool
) -> None:
    assert policy.permits(identity, verb, project) is expected


def test_who_is_known(policy: AccessPolicy) -> None:
    assert policy.knows("token:ci-1")
    assert not policy.knows("token:other")


def test_a_project_has_its_own_places(policy: AccessPolicy) -> None:
    assert policy.prefixes("cars", Use.INPUT) == ("s3://data/cars/", "s3://models/")
    assert policy.prefixes("cars", Use.OUTPUT) == ("s3://results/cars/",)
    assert policy.prefixes("faces", Use.OUTPUT) == ()
    assert policy.prefixes("boats", Use.INPUT) == ()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://data/cars/train.csv", True),
        ("s3://data/cars", True),
        ("s3://data/cars/", True),
        ("s3://data/cars2/train.csv", False),
        ("s3://data/", False),
        ("s3://data2/cars/train.csv", False),
        ("S3://data/cars/train.csv", False),
        ("file:///data/cars/train.csv", False),
        ("", False),
    ],
)
def test_a_place_is_under_a_prefix_by_whole_names(uri: str, expected: bool) -> None:
    assert is_under(uri, ("s3://data/cars/",)) is expected
    assert not is_under(uri, ())


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("version: 1", "version: 3", "version"),
        ("projects: [cars]", "projects: [boats]", "project boats, which `projects` does not list"),
        ("projects: [cars]", "projects: []", r"grants\[0\].projects"),
        ("projects: [cars]", "projects: ['Ca rs']", r"grants\[0\].projects\[0\].*not the id of a project"),
        ("  empty: {}", "  Empty: {}", "not the id of a project"),
        ("token:nightly", "nightly", r"grants\[0\].identities\[1\].*no identity"),
        ("token:nightly", "*", "no identity"),
        ("token:nightly", "token:n*y", "not at its end"),
        ("/ns/ml/*", "/ns/ml*", r"follows a /"),
        ("spiffe://example.org/ns/ml/*", "spiffe://*", r"follows a /"),
        ("[read, write]", "[read, fly]", r"grants\[0\].verbs\[1\]"),
        ("[read, write]", "[]", r"grants\[0\].verbs"),
        ("s3://models/", "s3://models", r"projects.cars.inputs\[1\].*must end with /"),
        ("s3://models/", "https://models/", "must start with s3:// or file:///"),
        ("outputs:", "output:", r"projects.cars.output"),
        ("  faces:", "  cars:", "'cars' is there twice"),
    ],
)
def test_a_policy_with_a_slip_is_refused_and_the_field_named(old: str, new: str, why: str) -> None:
    assert POLICY.count(old) >= 1
    with pytest.raises(ValueError, match=why):
        parse_policy(POLICY.replace(old, new, 1).encode())
