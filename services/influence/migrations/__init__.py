"""Migrations of the job table, run by alembic."""
