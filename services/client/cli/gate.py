"""`eif gate`: judge an audit by a policy; the exit code is the answer."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import click

from services.client.cli import exit_codes
from services.client.cli.failures import InputError
from services.client.cli.formats import Format, cell, fields_of, to_json, write_rows
from services.client.cli.options import Where, examples, influence_client, influence_options
from services.client.cli.text import printable
from services.client.gate import AuditVerdict, RuleResult, Verdict

MAX_POLICY_BYTES = 64 << 10
_SHOWN_FINDINGS = 20
_COLORS = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command(
    epilog=examples(
        "eif gate --show-policy > policy.yaml          # the default policy, to start from",
        "eif gate JOB --policy policy.yaml --baseline LAST_JOB",
        "eif gate JOB --baseline LAST_JOB --strict --junit gate.xml --markdown gate.md",
        "eif gate JOB --json - | jq -r '.rules[] | select(.verdict != \"PASS\") | .message'",
    )
)
@click.argument("job", required=False)
@click.option("--policy", type=click.Path(path_type=Path), metavar="FILE", help="YAML; the server's default without.")
@click.option("--baseline", metavar="JOB", help="The audit to compare with: rules about changes need it.")
@click.option("--strict", is_flag=True, help="WARN closes the gate too.")
@click.option("--json", "json_to", metavar="FILE", help="Write the verdict as JSON; - is standard output.")
@click.option("--junit", "junit_to", metavar="FILE", help="Write it as JUnit XML, a test case a rule; - as above.")
@click.option("--markdown", "markdown_to", metavar="FILE", help="Write it as a page for CI; - as above.")
@click.option("--show-policy", is_flag=True, help="Print the default policy, and judge nothing.")
@influence_options
def gate(
    where: Where,
    *,
    job: str | None,
    policy: Path | None,
    baseline: str | None,
    strict: bool,
    json_to: str | None,
    junit_to: str | None,
    markdown_to: str | None,
    show_policy: bool,
) -> int:
    """Judge an audit by a policy: PASS, WARN or FAIL, with reasons.

    Exit code 0 when it passes or only warns, 7 when it fails (with --strict, also when it warns). Any other code
    means that there was no verdict: no such job, no server, a policy that cannot be read.
    """
    if show_policy:
        # Data of the package: nothing of the server is imported.
        default = files("services") / "influence" / "gate" / "default_policy.yaml"
        click.echo(default.read_text(encoding="utf-8"), nl=False)
        return exit_codes.OK
    if job is None:
        raise click.UsageError("name the JOB to judge, or give --show-policy")
    outputs = {"--json": json_to, "--junit": junit_to, "--markdown": markdown_to}
    if sum(path == "-" for path in outputs.values()) > 1:
        raise click.UsageError("only one of --json, --junit and --markdown can go to standard output")
    from services.client.cli.gate_reports import junit, markdown

    text = _read_policy(policy) if policy else ""
    with influence_client(where) as client:
        verdict = client.evaluate_audit(job, baseline=baseline, policy=text)
    _write(json_to, lambda: to_json(fields_of(verdict), indent=2) + "\n")
    _write(junit_to, lambda: junit(verdict, strict=strict))
    _write(markdown_to, lambda: markdown(verdict))
    if "-" in outputs.values():
        click.echo(_summary(verdict), err=True)
    else:
        _print(verdict)
    return exit_codes.GATE_CLOSED if is_closed(verdict, strict=strict) else exit_codes.OK


def is_closed(verdict: AuditVerdict, *, strict: bool) -> bool:
    """Whether a pipeline must stop. What this version does not know is no pass."""
    return verdict.verdict not in ({Verdict.PASS} if strict else {Verdict.PASS, Verdict.WARN})


def _read_policy(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_POLICY_BYTES + 1)
    if len(data) > MAX_POLICY_BYTES:
        raise InputError(f"{path}: a policy has at most {MAX_POLICY_BYTES // 1024} KiB")
    if not data.strip():
        raise InputError(f"{path} is empty: leave --policy out for the default, or see eif gate --show-policy")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start + 1}: save it as UTF-8") from error


def _write(to: str | None, text: Callable[[], str]) -> None:
    if to == "-":
        click.echo(text(), nl=False)
    elif to is not None:
        Path(to).write_text(text(), encoding="utf-8")


def _print(verdict: AuditVerdict) -> None:
    columns = ("verdict", "rule", "value", "baseline", "limit", "message")
    write_rows(columns, map(_cells, verdict.rules), Format.TABLE)
    if verdict.new_findings:
        click.echo("\nnew findings that break a rule:")
        shown = verdict.new_findings[:_SHOWN_FINDINGS]
        write_rows(("severity", "kind", "sample_id", "summary"), map(fields_of, shown), Format.TABLE)
        if len(verdict.new_findings) > len(shown):
            click.echo("  and more: eif diff shows them all")
    click.echo(f"\n{click.style(_summary(verdict), fg=_COLORS.get(verdict.verdict), bold=True)}")


def _cells(rule: RuleResult) -> dict[str, object]:
    return {
        "verdict": "-" if rule.not_applicable and rule.verdict is Verdict.PASS else rule.verdict,
        "rule": rule.rule,
        "value": "" if rule.value is None else cell(rule.value),
        "baseline": "" if rule.baseline_value is None else cell(rule.baseline_value),
        "limit": cell(rule.limit),
        "message": rule.message,
    }


def _summary(verdict: AuditVerdict) -> str:
    broken = sum(rule.verdict is not Verdict.PASS for rule in verdict.rules)
    skipped = sum(rule.not_applicable for rule in verdict.rules)
    said = f"{verdict.verdict}: {broken} of {len(verdict.rules)} rules broken"
    return printable(said + (f", {skipped} not applicable" if skipped else ""))
