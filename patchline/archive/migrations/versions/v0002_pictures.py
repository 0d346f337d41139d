"""Pictures of parts: the bytes are in a store, by their digests."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "pictures",
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("line", sa.String(63), nullable=False),
        sa.Column("category", sa.String(63), nullable=False),
        sa.Column("hold", sa.Text),
        sa.Column("leaving", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "kind"),
    )
    op.create_index("pictures_digest", "pictures", ["digest"])
    op.create_index("pictures_age", "pictures", ["decision", "stored_at", "bytes"])
    op.create_index("pictures_leaving", "pictures", ["leaving"])
