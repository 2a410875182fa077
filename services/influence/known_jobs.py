"""Jobs as the table holds them, for a server that alone changes it: they need not be read again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from services.influence.job import Job


class KnownJobs:
    """Tells a job only when the table holds the very same. Used on the event loop only.

    While a change of the table is under way nothing is told and nothing learnt, as it may have been made or not. Once
    it is over, what it has changed is forgotten; everything, when it failed, as it may have been made all the same.

    Args:
        most: That are kept; the least recently asked for go first. 0: none ever.
    """

    def __init__(self, *, most: int = 256) -> None:
        self._most = most
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changes = 0
        self._under_way = 0

    @property
    def moment(self) -> int:
        """To be taken before the table is read, for `learn`."""
        return self._changes

    def get(self, name: str) -> Job | None:
        """The job of a name; None when the table has to be asked."""
        if self._under_way or name not in self._jobs:
            return None
        self._jobs.move_to_end(name)
        return self._jobs[name]

    def learn(self, job: Job, *, moment: int) -> None:
        """Keep what was read, unless a change may have come between."""
        if self._under_way or moment != self._changes:
            return
        self._jobs[job.name] = job
        while len(self._jobs) > self._most:
            self._jobs.popitem(last=False)

    def change_begins(self) -> None:
        """The table is about to be changed."""
        self._changes += 1
        self._under_way += 1

    def change_ends(self, uids: Collection[str] | None) -> None:
        """It has been changed, or not; `uids` are of jobs that may be others now, None when it is not known which."""
        self._changes += 1  # also for those who began to read in between
        self._under_way -= 1
        if uids is None:
            self._jobs.clear()
        elif uids:
            for name in [name for name, job in self._jobs.items() if job.uid in uids]:
                del self._jobs[name]
