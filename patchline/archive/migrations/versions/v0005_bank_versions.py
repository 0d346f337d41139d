"""The version of the bank of each verdict, as `patchline banks list` shows it.

Earlier rows get none: filling millions of them would take longer than a start may take. Their documents have it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    for table in ("verdicts", "further_verdicts"):
        op.add_column(table, sa.Column("bank_version", sa.String(64)))
