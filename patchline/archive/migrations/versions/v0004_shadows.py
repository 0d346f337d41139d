"""What shadow banks say of parts, beside their verdicts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "shadows",
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("shadow_version", sa.String(64), nullable=False),
        sa.Column("line", sa.String(63), nullable=False),
        sa.Column("category", sa.String(63), nullable=False),
        sa.Column("part_id", sa.String(128), nullable=False),
        sa.Column("bank_version", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("shadow_decision", sa.String(16), nullable=False),
        sa.Column("shadow_score", sa.Double, nullable=False),
        sa.Column("judged_at", sa.BigInteger, nullable=False),
        sa.Column("archived_at", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "shadow_version"),
    )
    op.create_index("shadows_version", "shadows", ["category", "shadow_version", "judged_at"])
