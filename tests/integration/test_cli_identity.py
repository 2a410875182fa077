"""`eif` against a real influence service that knows its callers, as an operator sets it up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from services.client.credentials import Credentials
from services.client.errors import Unauthenticated
from services.client.influence import InfluenceClient
from tests.cli import environment, run_eif
from tests.conftest import REPO
from tests.influence_process import InfluenceProcess, influence_process
from tests.pki import Authority
from tests.secured import Secured


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path / "secured")


@pytest.fixture
def running(tmp_path: Path, secured: Secured) -> Iterator[InfluenceProcess]:
    place = {"inputs": [f"file://{tmp_path}/store/"], "outputs": [f"file://{tmp_path}/store/"]}
    secured.policy((["token:nightly", "spiffe://example.org/*"], ["p"], ["read", "write"]), p=place, other={})
    environ = secured.environ("EIF_INFLUENCE_")
    with influence_process(tmp_path, scripted=True, **environ) as running:
        yield running


def client_environ(secured: Secured, **variables: str) -> dict[str, str]:
    return {"EIF_CLIENT_CA_FILE": str(secured.authority.certificate), "EIF_PROJECT": "p", **variables}


def test_a_token_in_a_file_or_the_environment_opens_the_service(
    running: InfluenceProcess, secured: Secured, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    token = secured.token("nightly")
    file.write_text(f"{token}\n")
    target = ("--target", running.address)
    by_file = run_eif("jobs", "list", *target, "--token-file", str(file), variables=client_environ(secured))
    by_environ = run_eif("jobs", "list", *target, variables=client_environ(secured, EIF_CLIENT_TOKEN=token))
    assert (by_file.exit_code, by_file.err) == (0, "no jobs\n")
    assert by_environ.exit_code == 0
    info = run_eif("info", "--json", *target, variables=client_environ(secured, EIF_CLIENT_TOKEN=token))
    assert json.loads(info.out)["influence"]["target"] == running.address


def test_each_way_to_be_refused_is_one_line_with_what_to_do(
    running: InfluenceProcess, secured: Secured, tmp_path: Path
) -> None:
    token = secured.token("nightly")
    other = Authority(tmp_path / "other", "other")
    cases: list[tuple[dict[str, str], tuple[str, ...], int, str]] = [
        ({}, (), 1, "error: CREDENTIALS_MISSING: .*--token-file"),
        ({"EIF_CLIENT_TOKEN": "eif_wrong"}, (), 1, "error: CREDENTIALS_INVALID: "),
        ({"EIF_CLIENT_TOKEN": token, "EIF_PROJECT": "other"}, (), 1, "error: ACCESS_DENIED: .*project other"),
        ({"EIF_CLIENT_TOKEN": token, "EIF_CLIENT_CA_FILE": str(other.certificate)}, (), 1, "SERVER_NOT_TRUSTED: "),
        ({"EIF_CLIENT_CA_FILE": ""}, (), 3, "error: SERVER_UNREACHABLE: .*--ca-file"),
        ({}, ("--ca-file", str(tmp_path / "missing")), 1, "missing cannot be read"),
        ({"EIF_CLIENT_TOKEN": token}, ("--certificate-file", "x"), 1, "go together"),
        ({"EIF_CLIENT_TOKEN": token, "EIF_CLIENT_CA_FILE": "", "EIF_TARGET": "example.org:1"}, (), 1, "plain text"),
    ]
    for variables, arguments, exit_code, said in cases:
        environ = client_environ(secured, EIF_TARGET=running.address) | variables
        ended = run_eif("jobs", "list", *arguments, variables=environ)
        assert (ended.exit_code, ended.out, ended.err.count("\n")) == (exit_code, "", 1), ended
        assert re.search(said, ended.err), ended.err
        assert token not in ended.err
        assert "eif_wrong" not in ended.err


def test_a_job_from_its_submission_to_its_rows(running: InfluenceProcess, secured: Secured, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "model").mkdir()
    (store / "model" / "model.json").write_text("{}")
    (store / "train.jsonl").write_text(json.dumps([{"do": "succeed", "tables": {}}]))
    (store / "test.csv").write_text("")
    token = secured.token("nightly")
    environ = client_environ(secured, EIF_CLIENT_TOKEN=token, EIF_TARGET=running.address)
    arguments = ["--model", f"{store}/model", "--train", f"{store}/train.jsonl", "--test", f"{store}/test.csv"]
    outside = run_eif("rank", *arguments[:-1], f"file://{tmp_path}/elsewhere.csv", variables=environ)
    assert (outside.exit_code, outside.out) == (1, "")
    assert "URI_NOT_ALLOWED: influence_job.rank.test_manifest.uri" in outside.err
    created = run_eif("rank", *arguments, "--wait", variables=environ)
    assert created.out.startswith("projects/p/influenceJobs/"), created
    listed = run_eif("jobs", "list", variables=environ)
    assert created.out.strip().rpartition("/")[2] in listed.out


def test_a_certificate_is_enough_where_the_server_wants_one(tmp_path: Path, secured: Secured) -> None:
    secured.policy((["spiffe://example.org/*"], ["p"], ["read"]), p={})
    pipeline = secured.authority.client("pipeline", spiffe="spiffe://example.org/pipeline")
    stranger = Authority(tmp_path / "strangers", "strangers").client("stranger")
    environ = secured.environ("EIF_INFLUENCE_", certificates=True)
    with influence_process(tmp_path, scripted=True, **environ) as running:
        for pair, exit_code in ((pipeline, 0), (stranger, 3), (None, 3)):
            files = ("--certificate-file", str(pair.certificate), "--key-file", str(pair.key)) if pair else ()
            ended = run_eif("jobs", "list", "--target", running.address, *files, variables=client_environ(secured))
            assert ended.exit_code == exit_code, ended
            assert exit_code == 0 or "--certificate-file" in ended.err
    for line in (tmp_path / "server.log").read_text().splitlines():  # handshakes that failed too
        json.loads(line)


def test_the_verb_of_the_service_makes_a_token_that_works_without_a_restart(
    running: InfluenceProcess, secured: Secured, tmp_path: Path
) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "services.influence", "token", "nightly"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    environ = client_environ(secured, EIF_CLIENT_TOKEN=made.stdout.strip(), EIF_TARGET=running.address)
    assert run_eif("jobs", "list", variables=environ).exit_code == 1
    new = tmp_path / "new.yaml"
    new.write_text(f"version: 1\ntokens:\n{made.stderr}")
    assert yaml.safe_load(new.read_text())["tokens"][0]["name"] == "nightly"
    new.replace(secured.settings()["token_file"])
    assert run_eif("jobs", "list", variables=environ).exit_code == 0
    log = (tmp_path / "server.log").read_text()
    assert "the file of tokens was read again" in log
    assert '"identity": "token:nightly"' in log
    assert made.stdout.strip() not in log


def test_the_library_tells_who_does_not_know_whom(running: InfluenceProcess, secured: Secured) -> None:
    ca = secured.authority.certificate
    with (
        InfluenceClient(running.address, credentials=Credentials(ca_file=ca, token="wrong")) as client,
        pytest.raises(Unauthenticated) as caught,
    ):
        client.get_job("projects/p/influenceJobs/none")
    assert caught.value.reason == "CREDENTIALS_INVALID"
    token = secured.token("nightly")
    with InfluenceClient(running.address, project="p", credentials=Credentials(ca_file=ca, token=token)) as client:
        assert list(client.list_jobs()) == []
        secured.revoke("nightly")
        with pytest.raises(Unauthenticated):
            list(client.list_jobs())


def test_the_probe_reaches_a_server_with_tls_and_needs_no_token(running: InfluenceProcess, secured: Secured) -> None:
    for variables, exit_code in ((client_environ(secured), 0), ({}, 1)):
        probe = [sys.executable, "-m", "services.common.probe", running.address]
        ended = subprocess.run(probe, cwd=REPO, env=environment(**variables), capture_output=True, check=False)
        assert ended.returncode == exit_code
