"""Exit codes of the `eif` command (docs/cli.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.client.errors import EifRpcError

OK = 0
FAILED = 1
"""The job failed, the input is wrong, or the server refuses or is at fault."""
USAGE = 2
UNREACHABLE = 3
"""No server answers, or what it needs does not."""
NOT_FOUND = 4
CANCELLED = 5
NOT_NOW = 6
"""Not in this state: the job has not ended, the queue is full, the time to wait is over."""
GATE_CLOSED = 7
"""`eif gate`: the policy says FAIL; with --strict, also WARN."""
INTERRUPTED = 130
PIPE_CLOSED = 141

TEXT = """\
Exit codes:
  0    done
  1    the job failed, the input is wrong, or the server refuses
  2    the command line is wrong
  3    no server answers, or what it needs does not
  4    no such job, model, index, query, table or object
  5    the job was cancelled
  6    not now: the job has not ended, a queue is full, the wait is over
  7    eif gate: the audit breaks the policy
  130  interrupted with Ctrl-C
  141  the reader of a pipe went away"""


def exit_code_of(error: EifRpcError) -> int:
    """The exit code for what a call ended with."""
    from services.client import errors

    if error.reason == "WAIT_TIMEOUT":
        return NOT_NOW
    table: tuple[tuple[tuple[type[EifRpcError], ...], int], ...] = (
        ((errors.JobCancelled, errors.Cancelled), CANCELLED),
        ((errors.JobFailed, errors.BuildFailed), FAILED),
        ((errors.Unavailable, errors.DeadlineExceeded), UNREACHABLE),
        ((errors.NotFound,), NOT_FOUND),
        ((errors.FailedPrecondition, errors.ResourceExhausted, errors.Aborted), NOT_NOW),
    )
    return next((code for classes, code in table if isinstance(error, classes)), FAILED)
