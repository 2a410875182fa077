"""Lets a call through when the policy permits what its request asks for; looks at nothing that is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc

from services.common.access.identity import CALLER
from services.common.access.policy import AccessPolicy, is_under
from services.common.access.rules import NamedResource, NamedUri, Rule, Use, project_of
from services.common.errors import ServiceError
from services.common.guard import GuardInterceptor
from services.common.handlers import Context, Guard, is_open
from services.common.storage.uris import printable
from services.common.watched_files import WatchedFiles


class Authorization(GuardInterceptor):
    """Refuses with ACCESS_DENIED what is not granted to the caller, and with URI_NOT_ALLOWED foreign places.

    Args:
        policy: Who may do what.
        rules: What each method needs, by its full name `/package.Service/Method`; a method that is not there is denied.
        domain: Of ErrorInfo.
    """

    def __init__(self, *, policy: WatchedFiles[AccessPolicy], rules: Mapping[str, Rule], domain: str) -> None:
        super().__init__(domain=domain)
        self._policy = policy
        self._rules = rules

    def guard(self, details: grpc.HandlerCallDetails, *, streams: bool) -> Guard | None:  # noqa: ARG002  the form of GuardInterceptor
        if is_open(details.method):
            return None
        rule = self._rules.get(details.method)
        if rule is None:
            raise ServiceError("ACCESS_DENIED", "nobody is permitted to call this method")

        @contextmanager
        def permitted(request: object, _context: Context) -> Iterator[None]:
            check(self._policy.current(), rule, request, caller=CALLER.get() or "")
            yield

        return permitted


def check(policy: AccessPolicy, rule: Rule, request: object, *, caller: str) -> None:
    """Refuse a request.

    Raises:
        ServiceError: ARGUMENT_INVALID when a name says no project, ACCESS_DENIED, URI_NOT_ALLOWED.
    """
    if rule.verb is None and not policy.knows(caller):
        raise ServiceError("ACCESS_DENIED", f"nothing is granted to {caller}", identity=caller)
    home = ""
    for resource in rule.resources(request):
        project = project_of(resource)
        home = home or project
        if not policy.permits(caller, resource.verb, project):
            raise _denied(caller, resource, project)
    for uri in rule.uris(request):
        allowed = policy.prefixes(home, uri.use)
        if not is_under(uri.uri, allowed):
            raise _elsewhere(uri, home, allowed)


def _denied(caller: str, resource: NamedResource, project: str) -> ServiceError:
    return ServiceError(
        "ACCESS_DENIED",
        f"{resource.field}: {resource.verb} in project {project} is not granted to {caller}; ask the operators of this "
        "server for it",
        field=resource.field,
        identity=caller,
        verb=str(resource.verb),
        project=project,
    )


def _elsewhere(uri: NamedUri, project: str, allowed: tuple[str, ...]) -> ServiceError:
    what = "read" if uri.use is Use.INPUT else "write"
    places = f"only below {', '.join(allowed)}" if allowed else "nothing"
    return ServiceError(
        "URI_NOT_ALLOWED",
        f"{uri.field}: {printable(uri.uri)} is not allowed: project {project} may {what} {places}",
        field=uri.field,
        uri=printable(uri.uri),
        project=project,
    )
