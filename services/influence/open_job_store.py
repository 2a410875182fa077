"""The table of jobs that the settings name."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr

from services.common.errors import ServiceError
from services.influence.postgres import postgres_engine
from services.influence.sql_job_store import SqlJobStore
from services.influence.sqlite import sqlite_engine

DATABASE = "jobs.sqlite"
SETTING = "EIF_INFLUENCE_DATABASE_URL"


def open_job_store(database_url: SecretStr | None, state_dir: Path) -> SqlJobStore:
    """The store at a URL, or without one in the state folder; its tables are made or brought up to date.

    Raises:
        ServiceError: ARGUMENT_INVALID when the URL cannot be used; JOB_TABLE_UNAVAILABLE, RESOURCE_PROBLEM when the
            database cannot be reached or takes no more.
    """
    if database_url is None:
        return SqlJobStore(sqlite_engine(state_dir / DATABASE))
    try:
        return SqlJobStore(postgres_engine(database_url.get_secret_value()))
    except ServiceError as error:
        what = f"the job table of {SETTING} cannot be used: {error.message}"
        raise ServiceError(error.reason, what) from error
    except (sa.exc.ArgumentError, ValueError):  # the text of these errors has the URL, and so the password
        raise ServiceError("ARGUMENT_INVALID", f"{SETTING} is no URL of a PostgreSQL database") from None
    except sa.exc.DBAPIError as error:
        why = str(error.orig).strip().partition("\n")[0]
        raise ServiceError("ARGUMENT_INVALID", f"the tables of {SETTING} cannot be made: {why}") from error
