"""The places of projects, for work that goes on after the call that asked for it."""

from __future__ import annotations

from services.common.access.policy import AccessPolicy, parse_policy
from services.common.access.rules import Use
from services.common.server_settings import ServerSettings
from services.common.storage.base import ObjectStore
from services.common.storage.confined import ConfinedStore
from services.common.watched_files import WatchedFiles

Policy = WatchedFiles[AccessPolicy]


class Places:
    """Where the objects of each project lie, as the policy says at the moment.

    Args:
        policy: Of the server. None: every project may use all that the store allows.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy

    def of(self, project: str) -> tuple[str, ...] | None:
        """Starts of the URIs that a project may read or write; None: it may use all."""
        if self._policy is None:
            return None
        policy = self._policy.current()
        return (*policy.prefixes(project, Use.INPUT), *policy.prefixes(project, Use.OUTPUT))

    def confined(self, store: ObjectStore, project: str, *others: str) -> ObjectStore:
        """The store as a project may use it, and at the folders that the work itself needs."""
        places = self.of(project)
        if places is None:
            return store
        return ConfinedStore(store, (*places, *(f"{other.rstrip('/')}/" for other in others)))


def open_policy(settings: ServerSettings) -> Policy | None:
    """The access policy of a server; None where callers are not identified. Raises ARGUMENT_INVALID."""
    if settings.access_file is None:
        return None
    return WatchedFiles([settings.access_file], lambda contents: parse_policy(contents[0]), what="the access policy")
