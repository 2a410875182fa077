"""Any order of claims, renewals, ends of leases, takeovers, late writes and cancels, against a small model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.influence import job as jobs
from services.influence.job import Job, JobError, JobState, TransitionRefused
from services.influence.job_store import StaleJob
from services.influence.job_tables import LEASES, DatabaseSeconds
from services.influence.lease import Claim, Lease, LeaseLost
from services.influence.sql_job_store import SqlJobStore
from services.influence.sqlite import sqlite_engine
from tests.jobs import T1, make_job, make_output

OWNERS = st.sampled_from(["a", "b", "c"])
ENDS = st.sampled_from(["succeed", "fail", "again"])
LEASE_S = 3600.0


@dataclass
class Model:
    """What must be true of one job.

    Attributes:
        state: Of the stored job.
        holder: The newest lease, if it was not given back.
        is_over: Whether its time has ended.
        epoch: The highest that was given.
    """

    state: JobState = JobState.PENDING
    holder: Lease | None = None
    is_over: bool = False
    epoch: int = 0
    claims: list[Claim] = field(default_factory=list)


class LeaseMachine(RuleBasedStateMachine):
    """Two jobs, three servers; every claim that ever was keeps trying to have its say."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = sqlite_engine(Path(self.folder.name) / "jobs.sqlite")
        self.store = SqlJobStore(self.engine)
        made = [self.store.create(make_job(name, uid=name), request=None, max_pending=9) for name in ("one", "two")]
        self.names = {job.uid: job.name for job in made}
        self.models = {job.uid: Model() for job in made}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(owner=OWNERS)
    def claim(self, owner: str) -> None:
        waiting = [uid for uid, model in self.models.items() if model.state is JobState.PENDING]
        claim = self.store.claim(owner, lease_s=LEASE_S, now=T1)
        assert (claim is not None) == bool(waiting)
        if claim is not None:
            assert claim.job.uid == waiting[0]
            self._granted(claim, JobState.RUNNING)

    @rule(owner=OWNERS)
    def take_over(self, owner: str) -> None:
        left = [uid for uid, model in self.models.items() if model.state.active and self._is_left(model, owner)]
        claim = self.store.take_over(owner, lease_s=LEASE_S)
        assert (claim is not None) == bool(left)
        if claim is not None:
            model = self.models[claim.job.uid]
            assert claim.job.uid == left[0]
            assert claim.crashed == (model.holder is not None and model.holder.owner != owner)
            self._granted(claim, model.state)

    @precondition(lambda self: any(model.holder for model in self.models.values()))
    @rule(data=st.data())
    def a_lease_ends(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from([uid for uid, model in self.models.items() if model.holder]))
        self.models[uid].is_over = True
        with self.engine.begin() as connection:
            past = sa.update(LEASES).where(LEASES.c.uid == uid).values(expires=DatabaseSeconds() - 1)
            connection.execute(past)

    @precondition(lambda self: any(model.claims for model in self.models.values()))
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim = self._any_claim(data)
        model = self.models[claim.job.uid]
        lost = self.store.renew({claim.lease: None}, lease_s=LEASE_S)
        assert (claim.lease in lost) == (model.holder != claim.lease)
        if model.holder == claim.lease:
            model.is_over = False

    @precondition(lambda self: any(model.claims for model in self.models.values()))
    @rule(data=st.data(), end=ENDS)
    def any_claim_wants_to_settle(self, data: st.DataObject, end: str) -> None:
        claim = self._any_claim(data)
        model = self.models[claim.job.uid]
        stored = self.store.get(claim.job.name)
        try:
            changed = self._changed(stored, end)
        except TransitionRefused:
            assert model.holder != claim.lease or model.state is JobState.CANCELLING
            return
        if model.holder != claim.lease:
            with pytest.raises(LeaseLost):
                self.store.replace(changed, lease=claim.lease)
            assert self.store.get(claim.job.name) == stored
            return
        self.store.replace(changed, lease=claim.lease)
        model.state, model.holder = changed.state, None

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(sorted(self.models)))
        stored = self.store.get(self.names[uid])
        changed = jobs.ask_to_cancel(stored, T1)
        if changed is not stored:
            self.store.replace(changed)
            self.models[uid].state = changed.state
            with pytest.raises(StaleJob):
                self.store.replace(changed)

    @invariant()
    def what_is_stored_is_what_must_be(self) -> None:
        seen = self.store.look(self.names)
        for uid, model in self.models.items():
            assert self.store.get(self.names[uid]).state is model.state
            assert seen[uid].lease == model.holder
            assert (model.holder is not None) == model.state.active

    def _granted(self, claim: Claim, state: JobState) -> None:
        model = self.models[claim.job.uid]
        assert claim.job.state is state
        assert claim.lease.epoch == model.epoch + 1, "epochs grow by one"
        model.state, model.holder, model.is_over, model.epoch = state, claim.lease, False, claim.lease.epoch
        model.claims.append(claim)

    def _is_left(self, model: Model, owner: str) -> bool:
        return model.is_over or (model.holder is not None and model.holder.owner == owner)

    def _any_claim(self, data: st.DataObject) -> Claim:
        return data.draw(st.sampled_from([claim for model in self.models.values() for claim in model.claims]))

    def _changed(self, job: Job, end: str) -> Job:
        if end == "succeed":
            return jobs.succeed(job, make_output(job), T1)
        if end == "fail":
            return jobs.fail(job, JobError(reason="INTERNAL", message="m"), T1)
        return jobs.run_again(job, T1, crashed=False)


LeaseMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLeases = LeaseMachine.TestCase
