"""The ledger of each part: announcements, acts, outcomes with confirmations, and judgements by people."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    _make_announcements_and_acts()
    _make_outcomes_and_judgements()


def _make_announcements_and_acts() -> None:
    op.create_table(
        "announcements",
        *_part(),
        sa.Column("captured_at", sa.BigInteger, nullable=False),
        sa.Column("announced_at", sa.BigInteger, nullable=False),
        sa.Column("deadline", sa.BigInteger),
        sa.Column("archived_at", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "acts",
        *_part(),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("stale", sa.Boolean, nullable=False),
        sa.Column("gate", sa.Text, nullable=False),
        sa.Column("acted_at", sa.BigInteger, nullable=False),
        *_message(),
        sa.PrimaryKeyConstraint("job_id", "digest"),
    )
    op.create_index("announcements_part", "announcements", ["part_id", "announced_at"])
    op.create_index("announcements_time", "announcements", ["announced_at"])
    op.create_index("acts_part", "acts", ["part_id", "acted_at"])
    op.create_index("acts_action", "acts", ["state", "action", "acted_at"])


def _make_outcomes_and_judgements() -> None:
    op.create_table(
        "outcomes",
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("line", sa.String(63), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("bin", sa.Text),
        sa.Column("gate", sa.Text, nullable=False),
        sa.Column("found_at", sa.BigInteger, nullable=False),
        *_message(),
        sa.PrimaryKeyConstraint("job_id", "digest"),
    )
    op.create_table(
        "judgements",
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("judgement", sa.String(16), nullable=False),
        sa.Column("kind", sa.Text),
        sa.Column("judged_by", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("judged_at", sa.BigInteger, nullable=False),
        *_message(),
        sa.PrimaryKeyConstraint("job_id", "digest"),
    )
    op.create_index("outcomes_line", "outcomes", ["line", "outcome"])


def _part() -> list[sa.Column[object]]:
    return [
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("line", sa.String(63), nullable=False),
        sa.Column("category", sa.String(63), nullable=False),
        sa.Column("part_id", sa.String(128), nullable=False),
        sa.Column("number", sa.BigInteger),
    ]


def _message() -> list[sa.Column[object]]:
    return [
        sa.Column("archived_at", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    ]
