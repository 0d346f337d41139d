"""Verdicts, further verdicts on the same jobs, and messages that are no verdicts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table("verdicts", *_columns(), sa.PrimaryKeyConstraint("job_id"))
    op.create_table("further_verdicts", *_columns(), sa.PrimaryKeyConstraint("job_id", "digest"))
    op.create_table(
        "unreadable",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("arrived_at", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("verdicts_part", "verdicts", ["part_id", "decided_at"])
    op.create_index("verdicts_time", "verdicts", ["decided_at"])
    for column in ("line", "category", "decision"):
        op.create_index(f"verdicts_{column}", "verdicts", [column, "decided_at"])
    op.create_index("verdicts_score", "verdicts", ["category", "score"])


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("line", sa.String(63), nullable=False),
        sa.Column("category", sa.String(63), nullable=False),
        sa.Column("part_id", sa.String(128), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("score", sa.Double),
        sa.Column("review_threshold", sa.Double),
        sa.Column("fail_threshold", sa.Double),
        sa.Column("backbone", sa.Text),
        sa.Column("memory_bank", sa.Text),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger),
        sa.Column("captured_at", sa.BigInteger),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("decided_at", sa.BigInteger, nullable=False),
        sa.Column("archived_at", sa.BigInteger, nullable=False),
        sa.Column("replay", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    ]
